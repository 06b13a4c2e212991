package workload

import (
	"fmt"

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
)

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
	// Value that is appended; 0 for a read. No other append has it, except for repetitions of this one.
	Value uint64
	// To is the key of the grain that the value is passed on to, or empty.
	To string
	// Amount that is passed on with it.
	Amount int64
	// Sequence is the number of a producer's event: 1, 2, 3 … for each producer. 0 for the others' events, which have an id.
	Sequence uint64
	// EventTime of an append, as Next was told the time.
	EventTime int64
}

// Grain is the full name of the grain.
func (o *Operation) Grain() string { return Kind + "/" + o.Key }

// ID of the event; empty for a read and for a producer's event.
func (o *Operation) ID() string {
	if o.Action != Append || o.Sequence != 0 {
		return ""
	}
	return FormatValue(o.Value)
}

// Event of an append.
func (o *Operation) Event() *probev1.Append {
	return &probev1.Append{Value: o.Value, To: o.To, Amount: o.Amount}
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
