package grains

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"google.golang.org/protobuf/proto"
)

// MaxEffects is how many effects one turn may have. More is an error of the handler, and dead-letters the event.
const MaxEffects = 1024

// Turn is what a handler sees of the world while it handles one event. It is valid during the call only.
type Turn struct {
	in      Input
	effects []Effect
	arena   []byte
	random  *rand.Rand
	sent    map[reflect.Type]*messageType // of messages sent before
}

// Input is what the runtime gives a turn. All of it is journaled, so that a replay gives the same.
type Input struct {
	// Grain that handles the event.
	Grain Ref
	// Seq is the grain's number of this record: 1, 2, 3 ….
	Seq uint64
	// Now is the journal time in Unix microseconds.
	Now int64
	// EventTime is the publisher's time of the event in Unix nanoseconds; 0 if it gave none.
	EventTime int64
	// Sender is the grain that sent the event; zero for a client's.
	Sender Ref
	// Seed for [Turn.Rand].
	Seed uint64
}

// Effect is one thing a turn does beside changing its state: for now, a send.
type Effect struct {
	// To is the grain that gets the event.
	To Ref
	// Type is the full name of the event's message.
	Type string
	// Payload is the event in deterministic wire form. Valid until the next run of the turn's [Runner].
	Payload []byte
}

// Grain is the grain that handles the event.
func (t *Turn) Grain() Ref { return t.in.Grain }

// Key is the grain's key.
func (t *Turn) Key() string { return t.in.Grain.Key }

// Seq is the grain's own number of this event: 1, 2, 3 ….
func (t *Turn) Seq() uint64 { return t.in.Seq }

// Now is the journal time: it never runs backwards within a shard, and it is the same at every replay.
func (t *Turn) Now() time.Time { return time.UnixMicro(t.in.Now).UTC() }

// EventTime is when the event happened, by its publisher's clock, or [Turn.Now] if the publisher did not say. For an
// event sent by a grain it is the event time of the turn that sent it.
func (t *Turn) EventTime() time.Time {
	if t.in.EventTime == 0 {
		return t.Now()
	}
	return time.Unix(0, t.in.EventTime).UTC()
}

// Sender is the grain that sent this event, or false for an event that a client published.
func (t *Turn) Sender() (Ref, bool) { return t.in.Sender, t.in.Sender != Ref{} }

// Rand is a source of random numbers that gives the same numbers at every replay of this turn.
func (t *Turn) Rand() *rand.Rand {
	if t.random == nil {
		t.random = rand.New(rand.NewPCG(t.in.Seed, t.in.Seq))
	}
	return t.random
}

// Send sends msg to the grain "kind/key". It is delivered exactly once, after this turn is committed, in the order of
// the sends from this grain to that one. A target that is not well-formed is an error of the handler: it panics, and
// the event is dead-lettered.
func (t *Turn) Send(to string, msg proto.Message) {
	ref, err := ParseRef(to)
	if err != nil {
		panic(fmt.Sprintf("Send: %v", err))
	}
	if len(t.effects) >= MaxEffects {
		panic(fmt.Sprintf("Send: a turn may have at most %d effects", MaxEffects))
	}
	m := t.typeOf(msg)
	at := len(t.arena)
	if t.arena, err = m.Append(t.arena, msg); err != nil {
		panic(fmt.Sprintf("Send: %v", err))
	}
	t.effects = append(t.effects, Effect{To: ref, Type: m.Name, Payload: t.arena[at:len(t.arena):len(t.arena)]})
}

// typeOf describes the type of a message. Messages whose Go type says nothing about them, such as dynamic ones, are
// described anew each time.
func (t *Turn) typeOf(msg proto.Message) *messageType {
	typ := reflect.TypeOf(msg)
	if m := t.sent[typ]; m != nil {
		return m
	}
	m := newMessageType(msg.ProtoReflect().Type())
	if m.elem != nil {
		if t.sent == nil {
			t.sent = map[reflect.Type]*messageType{}
		}
		t.sent[typ] = &m
	}
	return &m
}

// Outcome is what came of a turn.
type Outcome struct {
	// Effects in order; none unless Err is nil. Valid until the next run of the runner.
	Effects []Effect
	// Err is nil (folded), a [Reject] (refused, state untouched), or any other error or panic (the state may be half
	// changed and must be thrown away).
	Err error
}

// Runner runs turns one after the other and reuses what it can between them. Not safe for concurrent use.
type Runner struct{ turn Turn }

// Panicked is the error of a turn whose handler panicked.
type Panicked struct {
	// Value that the handler panicked with.
	Value any
}

func (p *Panicked) Error() string { return fmt.Sprintf("the handler panicked: %v", p.Value) }

// Run lets the handler of e fold event into state. A panic of the handler is returned as [*Panicked].
func (r *Runner) Run(e *EventType, in Input, state, event proto.Message) (out Outcome) {
	t := &r.turn
	t.in, t.random = in, nil
	clear(t.effects)
	t.effects, t.arena = t.effects[:0], t.arena[:0]
	defer func() {
		if p := recover(); p != nil {
			out = Outcome{Err: &Panicked{p}}
		}
	}()
	if err := e.handle(t, state, event); err != nil {
		return Outcome{Err: err}
	}
	return Outcome{Effects: t.effects}
}
