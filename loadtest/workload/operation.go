package workload

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
)

// Kind is the kind of all grains that a workload speaks to.
const Kind = "probe"

// Action is what an operation does.
type Action uint8

// The actions.
const (
	// Append adds a value to a grain's list, and passes it on if the operation names another grain.
	Append Action = iota + 1
	// Read shows a grain's list, with everything acknowledged before it began.
	Read
	// StaleRead shows a grain's list as it once was.
	StaleRead
	// Ask puts a question and waits for its reply, by the grain itself or, a little later, by the other that it names.
	Ask
	// Answer answers a question once more, with a token that was found out. It must have no effect but to be counted.
	Answer
	// Announce lets a grain publish a value to the stream of its kind.
	Announce
	// Remind sets a reminder, and Forget takes one back.
	Remind
	Forget
)

// Reads tells whether an action shows a list and changes nothing.
func (a Action) Reads() bool { return a == Read || a == StaleRead }

// Operation is one thing that a client does.
type Operation struct {
	// Client that does it, from 0.
	Client int
	// Action is what it does.
	Action Action
	// Contended says that the grain is one of the few that many use at once.
	Contended bool
	// Repeat says that the client did this before. All else is as it was then, the id and the event time too.
	Repeat bool
	// Key of the grain.
	Key string
	// Value that is appended, asked, announced or brought by a reminder; 0 for a read. No other operation has it, except for
	// repetitions of this one.
	Value uint64
	// To is the key of the grain that the value is passed on to, or that replies; or empty.
	To string
	// Amount that is passed on with it.
	Amount int64
	// Sequence is the number of a producer's event: 1, 2, 3 … for each producer. 0 for the others' events, which have an id.
	Sequence uint64
	// EventTime of an event, as Next was told the time.
	EventTime int64
	// After is when a reminder fires, and Every what is between its firings if it repeats.
	After, Every time.Duration
	// Of is the value of the reminder that is forgotten.
	Of uint64
	// Token of the question that is answered.
	Token string
}

// Grain is the full name of the grain.
func (o *Operation) Grain() string { return Kind + "/" + o.Key }

// ID of the event; empty for a read and for a producer's event.
func (o *Operation) ID() string {
	if o.Action.Reads() || o.Sequence != 0 {
		return ""
	}
	return FormatValue(o.Value)
}

// Event that the operation publishes; nil for a read.
func (o *Operation) Event() Event {
	switch o.Action {
	case Append:
		return &probev1.Append{Value: o.Value, To: o.To, Amount: o.Amount}
	case Ask:
		return &probev1.Question{Value: o.Value, To: o.To}
	case Answer:
		return &probev1.Passed{Value: o.Value, Token: o.Token}
	case Announce:
		return &probev1.Announce{Value: o.Value}
	case Remind:
		return &probev1.Remind{Value: o.Value, AfterMicros: o.After.Microseconds(), EveryMicros: o.Every.Microseconds()}
	case Forget:
		return &probev1.Forget{Value: o.Of}
	}
	return nil
}

// Event is a message of the probe.
type Event interface {
	proto.Message
	MarshalVT() ([]byte, error)
}

// String is the operation in a few words, without its grain.
func (o *Operation) String() string {
	var text string
	switch o.Action {
	case Append:
		text = "append " + FormatValue(o.Value)
		if o.To != "" {
			text += fmt.Sprintf(", %d to %s", o.Amount, o.To)
		}
	case Read:
		text = "read"
	case StaleRead:
		text = "stale read"
	case Ask:
		text = "ask " + FormatValue(o.Value)
		if o.To != "" {
			text += ", " + o.To + " replies"
		}
	case Answer:
		text = "answer " + o.Token + " once more with " + FormatValue(o.Value)
	case Announce:
		text = "announce " + FormatValue(o.Value)
	case Remind:
		text = fmt.Sprintf("remind %s after %v", FormatValue(o.Value), o.After)
		if o.Every > 0 {
			text = fmt.Sprintf("remind %s every %v", FormatValue(o.Value), o.Every)
		}
	case Forget:
		text = "forget " + FormatValue(o.Of)
	}
	if o.Repeat {
		text += " again"
	}
	return text
}

// FormatValue writes a value for people: "3:17" is the 17th of client 3.
func FormatValue(v uint64) string {
	return fmt.Sprintf("%d:%d", v>>clientBits, v&(1<<clientBits-1))
}
