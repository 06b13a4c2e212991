package actors

import (
	"fmt"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// turnMessage is what an activation receives: one turn to run, and what came of it.
type turnMessage struct {
	activation *activation
	event      *grains.EventType
	in         grains.Input
	message    proto.Message
	runner     *grains.Runner
	watch      Watch

	outcome grains.Outcome
	handled bool
}

// Receive runs a turn. It recovers whatever the handler throws and returns it in the message, so that supervision never
// sees it: it would drop the message, and those who wait for its outcome would hang.
func (a *activation) Receive(ctx actor.Context) {
	if m, ok := ctx.Message().(*turnMessage); ok {
		out := m.runner.Run(m.event, m.in, a.state, m.message)
		if m.watch != nil {
			m.watch.End() // it may not return; nothing of the shard is touched before it does
		}
		m.outcome = out
		m.handled = true
	}
}

// run sends one turn through the activation's mailbox; it runs inline.
func (s *Shard) run(a *activation, e *grains.EventType, in grains.Input, msg proto.Message) grains.Outcome {
	s.message = turnMessage{activation: a, event: e, in: in, message: msg, runner: &s.runner, watch: s.cfg.Watch}
	if err := s.beginTurn(a, e); err != nil { // last: whoever watches may look at the message from here on
		return grains.Outcome{Err: err}
	}
	a.mailbox.PostUserMessage(&s.message)
	if !s.message.handled {
		return grains.Outcome{Err: fmt.Errorf("the activation of %v did not take its turn", a.name)}
	}
	return s.message.outcome
}

// turn runs the event in s.rec on an activation and appends the record. s.rec holds everything about the event and its
// origin; the turn adds the grain and the outcome. It fails, without a record, only when a failed turn cannot be undone.
func (s *Shard) turn(a *activation, e *grains.EventType, msg proto.Message, sender grains.Ref, fx *Effects) (ordinal uint32, err error) {
	rec := &s.rec
	s.Stats.Turns++
	s.room(fx)
	if len(s.cuts) > 0 {
		if err := s.cutGrain(a); err != nil {
			return 0, err
		}
	}
	a.logic = a.kind.Version
	rec.Kind, rec.Key, rec.Seq, rec.Logic = a.kind.Name, a.keyBytes, a.seq+1, a.kind.Version
	out := s.run(a, e, grains.Input{Grain: a.name, Seq: rec.Seq, Now: rec.Time, EventTime: rec.EventTime, Sender: sender,
		Seed: seed(s.index.Lineage(), a.keyBytes)}, msg)
	if reason, ok := grains.Rejection(out.Err); ok {
		rec.Type, rec.Reason = entry.Void, []byte(reason)
		s.Stats.Rejected++
	} else if out.Err != nil {
		rec.Type, rec.Reason = entry.DeadLetter, []byte(out.Err.Error())
		s.Stats.DeadLetters++
		if !unrun(out.Err) {
			if err := s.rebuild(a, fx); err != nil {
				return 0, err
			}
		}
	} else {
		if rec.Type = entry.Input; rec.Timer != 0 {
			rec.Type = entry.Timer
		}
		rec.Effects, rec.Reply = s.journaled(out.Effects), out.Reply
		rec.Digest = rec.OutcomeDigest()
	}
	ordinal = s.number(a)
	s.claimCanceled(rec)
	return ordinal, nil
}

// effectTypes are the types of effects in the journal.
var effectTypes = [...]entry.EffectType{grains.Send: entry.Send, grains.Remind: entry.Remind, grains.Cancel: entry.Cancel,
	grains.Publish: entry.Publish, grains.Defer: entry.Defer}

// journaled is the form that the effects of a turn have in its record. Valid until the next call.
func (s *Shard) journaled(effects []grains.Effect) []entry.Effect {
	s.effects, s.arena = s.effects[:0], s.arena[:0]
	for i := range effects {
		f := &effects[i]
		at := len(s.arena)
		s.arena = append(append(s.arena, f.To.Key...), f.Token...)
		key := at + len(f.To.Key)
		e := entry.Effect{Type: effectTypes[f.Kind], Kind: f.To.Kind, Key: s.arena[at:key:key], Event: f.Type, Payload: f.Payload}
		if f.Kind != grains.Send || f.Token != "" {
			e.Due, e.Timer, e.Every, e.Stream, e.Token = f.Due, f.Timer, f.Every, f.Stream, s.arena[key:]
		}
		s.effects = append(s.effects, e)
	}
	return s.effects
}

// number appends s.rec as the next record of a grain.
func (s *Shard) number(a *activation) (ordinal uint32) {
	rec := &s.rec
	rec.Back = 0
	switch a.last {
	case 0:
	case s.next:
		rec.Back = a.back
	default:
		rec.Back = s.next - a.last
	}
	ordinal = s.append(rec)
	a.seq, a.last, a.back, a.ordinal, a.placed, a.time = rec.Seq, s.next, rec.Back, ordinal, true, rec.Time
	a.since++
	a.grow(s, int64(len(rec.Payload)))
	s.touch(a)
	if a.kind != nil && a.state != nil && a.since >= a.kind.SnapshotEvery {
		if err := s.snapshot(a); err != nil {
			a.since = 0 // a state that cannot be encoded is told of at the next read; the journal has it all
		}
	}
	return ordinal
}

// snapshot appends the state of a grain to the open entry, right behind the record it follows or in a later entry.
func (s *Shard) snapshot(a *activation) error {
	state, err := a.kind.AppendState(s.stateBuf[:0], a.state)
	if err != nil {
		return err
	}
	s.stateBuf = state
	saved := s.rec
	defer func() { s.rec = saved }()
	rec := &s.rec
	chunks := max(1, (len(state)+snapshotChunk-1)/snapshotChunk)
	*rec = entry.Record{Type: entry.Snapshot, Kind: a.kind.Name, Key: a.keyBytes, Seq: a.seq, Logic: a.logic, Time: s.time,
		Snapshot: entry.SnapshotMeta{Chunks: uint32(chunks), Digest: xxhash.Sum64(state)}}
	if rec.Back = a.back; a.last != s.next {
		rec.Back = s.next - a.last
	}
	// the chunks stand side by side in one entry, so the entry may grow beyond its usual size here
	for n := range chunks {
		rec.Snapshot.Chunk = uint32(n + 1)
		rec.Payload = state[n*snapshotChunk : min((n+1)*snapshotChunk, len(state))]
		ordinal := s.append(rec)
		if n == 0 {
			a.snapshot = persistence.SnapshotPointer{Seq: a.seq, Index: s.next, Ordinal: ordinal, Time: rec.Time}
		}
	}
	a.since = 0
	s.Stats.Snapshots++
	a.size(s, int64(len(state)))
	return nil
}

// seed of the random numbers of a grain.
func seed(lineage uint64, key []byte) uint64 { return xxhash.Sum64(key) ^ lineage*0x9e3779b97f4a7c15 }

// inbound takes the sends of another shard in.
func (s *Shard) inbound(now int64, in *Inbound, fx *Effects) error {
	ack := &Ack{From: s.cfg.Shard, To: in.From, Lineage: in.Lineage}
	if !s.leading {
		ack.Refused, ack.Mark = true, s.index.Inbox(in.Lineage)
		fx.Acks = append(fx.Acks, ack)
		return nil
	}
	mark, ok := s.inbox[in.Lineage]
	if !ok {
		mark = s.index.Inbox(in.Lineage)
	}
	if mark.Less(in.Previous) {
		ack.Refused, ack.Mark = true, s.index.Inbox(in.Lineage) // what is not committed yet may still be lost
		fx.Acks = append(fx.Acks, ack)
		return nil
	}
	for i := range in.Sends {
		if m := &in.Sends[i]; mark.Less(m.Mark) {
			if err := s.sent(now, in, m, fx); err != nil {
				return err
			}
			mark = m.Mark
		}
	}
	s.inbox[in.Lineage] = mark
	ack.Mark = mark
	// what was there before may still be on its way to the disk, so even then the newest entry is waited for
	if f := s.flightAt(s.last()); f != nil {
		f.acks = append(f.acks, ack)
	} else {
		fx.Acks = append(fx.Acks, ack)
	}
	return nil
}

// sent takes one send in. It is never refused: what cannot be handled is journaled as a dead letter. It fails, and the
// shard with it, only when the target cannot be loaded.
func (s *Shard) sent(now int64, in *Inbound, m *Sent, fx *Effects) error {
	rec := &s.rec
	*rec = entry.Record{} // cleared in place, as in event
	rec.Event, rec.EventTime, rec.Payload, rec.Trace, rec.Hops = m.Event, m.EventTime, m.Payload, m.Trace, m.Hops+1
	rec.Time = s.advance(now, m.Time)
	rec.Cause = entry.Position{Lineage: in.Lineage, Index: m.Index, Ordinal: m.Ordinal}
	rec.Sender = entry.Sender{Shard: in.From, Effect: m.Effect, Kind: m.SenderKind, Key: m.SenderKey}
	if len(m.Token) > 0 {
		return s.answerTo(m, fx)
	}
	kind, ok := s.cfg.Catalog.Kind(m.Kind)
	if !ok {
		return s.deadLetter(m, nil, fmt.Sprintf("there is no kind %q", m.Kind), fx)
	}
	e, ok := kind.Event(m.Event)
	if !ok {
		return s.deadLetter(m, kind, fmt.Sprintf("kind %q takes no event %q", m.Kind, m.Event), fx)
	}
	if s.rec.Hops > maxHops {
		return s.deadLetter(m, kind, fmt.Sprintf("more than %d sends follow from one event", maxHops), fx)
	}
	msg, err := e.Decode(m.Payload)
	if err != nil {
		return s.deadLetter(m, kind, err.Error(), fx)
	}
	a := s.grains[kind.Name][string(m.Key)] // found without a copy of the key
	if a == nil || a.state == nil {
		a, err = s.activate(kind, string(m.Key))
	}
	if err != nil {
		// not the event's fault: given up here, its effect would be lost for good
		return fmt.Errorf("a send to %s/%s cannot be taken in: %w", m.Kind, m.Key, err)
	}
	if _, err = s.turn(a, e, msg, grains.Ref{Kind: m.SenderKind, Key: string(m.SenderKey)}, fx); err != nil {
		return fmt.Errorf("shard %d: %s/%s: %w", s.cfg.Shard, m.Kind, m.Key, err)
	}
	return nil
}

// deadLetter journals the event in s.rec as one that nobody could handle.
func (s *Shard) deadLetter(m *Sent, kind *grains.Definition, why string, fx *Effects) error {
	a, err := s.bare(kind, m.Kind, string(m.Key))
	if err != nil {
		return err
	}
	s.room(fx)
	if a.state != nil {
		if err := s.cutGrain(a); err != nil {
			return err
		}
		a.logic = a.kind.Version
		s.rec.Logic = a.logic // the one that does not take it
	}
	s.rec.Type, s.rec.Reason = entry.DeadLetter, []byte(why)
	s.rec.Kind, s.rec.Key, s.rec.Seq = m.Kind, m.Key, a.seq+1
	s.Stats.DeadLetters++
	s.number(a)
	return nil
}
