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
	kind    *Definition
	effects []Effect
	arena   []byte
	reply   []byte
	settled bool // it replied, or left that for later
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

// EffectType says what an effect does.
type EffectType uint8

// Types of effects.
const (
	// Send is an event for another grain or, with a token, the reply to an event.
	Send EffectType = iota
	// Remind sets a reminder of the grain, Cancel takes one back.
	Remind
	Cancel
	// Publish puts a message into a stream.
	Publish
	// Defer leaves the reply to a later turn.
	Defer
)

// Effect is one thing a turn does beside changing its state. Which fields are set depends on the type.
type Effect struct {
	Kind EffectType
	// To is the grain that gets the event, or whose event is answered.
	To Ref
	// Type is the full name of the message.
	Type string
	// Payload is the message in deterministic wire form. Valid until the next run of the turn's [Runner].
	Payload []byte
	// Timer is the id of the reminder, Due when it fires first and Every the time between firings if it repeats, in
	// Unix microseconds and microseconds of journal time.
	Timer      uint64
	Due, Every int64
	// Stream that is published to.
	Stream string
	// Token of the event that is answered.
	Token string
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
	t.effect("Send", msg).To = ref
}

// effect adds an effect with a message, or with none.
func (t *Turn) effect(caller string, msg proto.Message) *Effect {
	if len(t.effects) >= MaxEffects {
		panic(fmt.Sprintf("%s: a turn may have at most %d effects", caller, MaxEffects))
	}
	t.effects = append(t.effects, Effect{})
	e := &t.effects[len(t.effects)-1]
	if msg == nil {
		return e
	}
	m := t.typeOf(msg)
	at := len(t.arena)
	var err error
	if t.arena, err = m.Append(t.arena, msg); err != nil {
		panic(fmt.Sprintf("%s: %v", caller, err))
	}
	e.Type, e.Payload = m.Name, t.arena[at:len(t.arena):len(t.arena)]
	return e
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
	// Reply to the event's publisher, an encoded google.protobuf.Any; nil if the turn did not reply. Valid as Effects are.
	Reply []byte
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
	t.in, t.kind, t.random = in, e.kind, nil
	t.reply, t.settled = nil, false
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
	return Outcome{Effects: t.effects, Reply: t.reply}
}
