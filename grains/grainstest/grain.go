package grainstest

import (
	"bytes"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
)

// grain is one activation of the kind under test, without anything around it.
type grain struct {
	kind   *grains.Definition
	ref    grains.Ref
	runner *grains.Runner
	state  proto.Message
	wire   []byte // the state's
	seq    uint64
	now    time.Time
}

// newGrain is a grain that never had an event. Its clock starts with the year 2000.
func (s Suite) newGrain() *grain {
	key := s.Key
	if key == "" {
		key = "1"
	}
	return &grain{
		kind: s.Kind, ref: grains.Ref{Kind: s.Kind.Name, Key: key},
		runner: &grains.Runner{}, state: s.Kind.NewState(),
		now: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

// outcome is what came of one event.
type outcome struct {
	event   string // full name of its message
	err     error
	effects []grains.Effect
	reply   []byte
	before  []byte // the state's wire form
	after   []byte
	// meddled says that the handler changed the event it was given.
	meddled bool
}

// turn gives the grain one event. Like the runtime it hands the handler a message decoded from wire form, and it
// restores the state if the handler failed. The error is one of the test itself, not of the handler.
func (g *grain) turn(e Event) (outcome, error) {
	name := string(e.Message.ProtoReflect().Descriptor().FullName())
	event, ok := g.kind.Event(name)
	if !ok {
		return outcome{}, fmt.Errorf("the kind %q has no event %s", g.kind.Name, name)
	}
	given, err := event.Append(nil, e.Message)
	if err != nil {
		return outcome{}, err
	}
	msg, err := event.Decode(given)
	if err != nil {
		return outcome{}, err
	}

	g.seq++
	now := e.Now
	if now.IsZero() {
		now = e.At
	}
	if g.now = g.now.Add(time.Millisecond); now.After(g.now) {
		g.now = now
	}
	in := grains.Input{Grain: g.ref, Seq: g.seq, Now: g.now.UnixMicro(), Sender: e.From, Seed: 1}
	if !e.At.IsZero() {
		in.EventTime = e.At.UnixNano()
	}
	ran := g.runner.Run(event, in, g.state, msg)
	o := outcome{event: name, err: ran.Err, before: g.wire, reply: bytes.Clone(ran.Reply)}
	for _, f := range ran.Effects {
		f.Payload = bytes.Clone(f.Payload) // the runner uses it again
		o.effects = append(o.effects, f)
	}
	if kept, err := event.Append(nil, msg); err != nil || !bytes.Equal(kept, given) {
		o.meddled = true
	}

	if _, rejected := grains.Rejection(o.err); o.err != nil && !rejected {
		o.after = o.before
		return o, g.reload()
	}
	if o.after, err = g.kind.AppendState(nil, g.state); err != nil {
		return outcome{}, fmt.Errorf("the state after event %d cannot be encoded: %w", g.seq, err)
	}
	g.wire = o.after
	return o, nil
}

// reload replaces the state by the one that its wire form says.
func (g *grain) reload() (err error) {
	if g.state, err = g.kind.DecodeState(g.wire); err != nil {
		return fmt.Errorf("the state after event %d cannot be decoded: %w", g.seq, err)
	}
	again, err := g.kind.AppendState(nil, g.state)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, g.wire) {
		return fmt.Errorf("the state after event %d is encoded as %x; decoded and encoded again as %x", g.seq, g.wire, again)
	}
	return nil
}
