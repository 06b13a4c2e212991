package actors

import (
	"fmt"
	"math"

	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// Limits of what may be under way to one target shard. Beyond them the target is fed from the log again, later.
const (
	maxSends     = 4096
	maxSendBytes = 4 << 20
	// catchUpEntries are read at most in one step for a target that lags.
	catchUpEntries = 64
	// retryAfter a refusal (µs), twice as long after each further one, up to retryMost.
	retryAfter = 50_000
	retryMost  = 5_000_000
	// silence is how long what is under way may stay without an answer before it is sent again (µs).
	silence = 10_000_000
	// probe is how many sends may be under way to a target that did not take the last ones in.
	probe = 64
)

// outbox hands the sends of committed records to their target shards, in log order. It keeps no sends: what a target
// did not confirm is in the log.
type outbox struct {
	targets map[uint64]*target
	touched []*target // with an open Inbound
	taken   []taken   // what goes into those
	behind  int       // targets that lag
	slow    int       // targets that lag although they take sends in
}

// target is what the outbox knows of one target shard.
type target struct {
	sent   persistence.Mark // the last send handed over
	link   persistence.Mark // what the next Inbound names as the one before
	flying []parcel         // handed over and not confirmed
	count  int
	bytes  int
	lags   bool  // sends behind sent are to be read from the log
	away   bool  // refused or did not answer the last time
	retry  int64 // not before
	pause  int64 // between the last refusal and that
	fed    bool  // this reading of the log is for it too
	open   *Inbound
	fill   int // sends that go into it
}

// taken is a send on its way into the open Inbound of its target.
type taken struct {
	to   *target
	send Sent
}

// parcel is one Inbound under way.
type parcel struct {
	first        uint64 // index of its first send
	last         persistence.Mark
	count, bytes int
	seen         int64 // by the first tick (µs)
}

func (o *outbox) target(shard uint64, from persistence.Mark) *target {
	t := o.targets[shard]
	if t == nil {
		if o.targets == nil {
			o.targets = map[uint64]*target{}
		}
		t = &target{sent: from}
		o.targets[shard] = t
	}
	return t
}

// after is a mark behind all sends of an entry.
func after(index uint64) persistence.Mark {
	return persistence.Mark{Index: index, Ordinal: math.MaxUint32, Effect: math.MaxUint32}
}

// begin reads the log from the stored cursor: what lies behind it may have been lost on the way. Targets know what they
// took in before.
func (o *outbox) begin(s *Shard, fx *Effects) error {
	applied, _ := s.index.Applied()
	for index := s.index.Outbox() + 1; index <= applied; index++ {
		if err := o.read(s, index, false); err != nil {
			return err
		}
	}
	o.send(fx)
	return nil
}

// read takes the sends of one entry of the log; see takeFor.
func (o *outbox) read(s *Shard, index uint64, again bool) error {
	term, data, err := s.index.Entry(index)
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	if len(data) == 0 {
		return nil
	}
	r, err := entry.Open(data)
	if err != nil {
		return fmt.Errorf("outbox: shard %d index %d: %w", s.cfg.Shard, index, err)
	}
	if r.Header.Index != index || r.Header.Term != term {
		return nil // fenced off: it has no effect
	}
	for {
		var rec entry.Record
		more, err := r.Next(&rec)
		if err != nil {
			return fmt.Errorf("outbox: shard %d index %d: %w", s.cfg.Shard, index, err)
		}
		if !more {
			return nil
		}
		o.takeFor(s, index, &rec, again)
	}
}

// take notes the sends of a record that was just committed.
func (o *outbox) take(s *Shard, index uint64, rec *entry.Record) {
	if len(rec.Effects) > 0 {
		o.takeFor(s, index, rec, false)
	}
}

// takeFor notes the sends of a record: for all targets that do not lag, or again for those that are fed from the log.
func (o *outbox) takeFor(s *Shard, index uint64, rec *entry.Record, again bool) {
	for i := range rec.Effects {
		e := &rec.Effects[i]
		if e.Type != entry.Send {
			continue
		}
		to := s.cfg.Route(e.Kind, e.Key)
		m := persistence.Mark{Index: index, Ordinal: rec.Ordinal, Effect: uint32(i)}
		t := o.target(to, after(index-1))
		if !t.sent.Less(m) || again && !t.fed || !again && t.lags {
			continue
		}
		if t.full() {
			o.set(t, true, t.away)
			continue
		}
		if t.open == nil {
			t.open = &Inbound{From: s.cfg.Shard, To: to, Lineage: s.index.Lineage(), Previous: t.link}
			t.flying = append(t.flying, parcel{first: index})
			o.touched = append(o.touched, t)
		}
		at := rec.EventTime
		if at == 0 {
			at = rec.Time * 1000 // what the sending turn took for its event time
		}
		o.taken = append(o.taken, taken{t, Sent{Mark: m, Kind: e.Kind, Key: e.Key, Token: e.Token, Event: e.Event, Payload: e.Payload,
			SenderKind: rec.Kind, SenderKey: rec.Key, Time: rec.Time, EventTime: at, Hops: rec.Hops, Trace: rec.Trace}})
		t.fill++
		p := &t.flying[len(t.flying)-1]
		p.last, p.count, p.bytes = m, p.count+1, p.bytes+len(e.Payload)
		t.sent, t.link = m, m
		t.count++
		t.bytes += len(e.Payload)
		s.Stats.Sends++
	}
}

// keptTaken is how much room for sends the outbox keeps between two steps.
const keptTaken = 4096

// send hands over what was taken. Each target gets memory of its own, of the right size: a slow one must not hold what went
// to the others.
func (o *outbox) send(fx *Effects) {
	if len(o.taken) == 0 {
		return
	}
	for _, t := range o.touched {
		t.open.Sends = make([]Sent, 0, t.fill)
	}
	for i := range o.taken {
		in := o.taken[i].to.open
		in.Sends = append(in.Sends, o.taken[i].send)
	}
	for _, t := range o.touched {
		fx.Sends = append(fx.Sends, t.open)
		t.open, t.fill = nil, 0
	}
	clear(o.taken)
	clear(o.touched)
	o.taken, o.touched = o.taken[:0], o.touched[:0]
	if cap(o.taken) > keptTaken {
		o.taken = nil
	}
}

// ack takes the answer of a target.
func (o *outbox) ack(s *Shard, a *Ack, now int64) {
	t := o.targets[a.From]
	if t == nil {
		return
	}
	if a.Refused {
		// what the stored cursor covers was taken in, whatever the target knows to say
		floor := after(s.index.Outbox())
		if floor.Less(a.Mark) {
			floor = a.Mark
		}
		o.back(t, floor, now)
		return
	}
	o.set(t, t.lags, false)
	t.pause = 0
	n := 0
	for n < len(t.flying) && !a.Mark.Less(t.flying[n].last) {
		t.count -= t.flying[n].count
		t.bytes -= t.flying[n].bytes
		n++
	}
	t.flying = append(t.flying[:0], t.flying[n:]...)
}

// back lets a target be fed from the log again, from behind a send: what is under way is void for it.
func (o *outbox) back(t *target, to persistence.Mark, now int64) {
	t.flying, t.count, t.bytes = nil, 0, 0
	t.sent, t.link = to, persistence.Mark{}
	t.pause = min(max(2*t.pause, retryAfter), retryMost)
	t.retry = now + t.pause
	o.set(t, true, true)
}

// set tells how a target stands. One that does not answer holds nobody up: its sends are in the log. One that takes them
// in too slowly does.
func (o *outbox) set(t *target, lags, away bool) {
	if t.lags == lags && t.away == away {
		return
	}
	count := func(by int) {
		if t.lags {
			o.behind += by
			if !t.away {
				o.slow += by
			}
		}
	}
	count(-1)
	t.lags, t.away = lags, away
	count(+1)
}

// tick sends again what was under way for too long: it or its answer was lost.
func (o *outbox) tick(now int64) {
	for _, t := range o.targets {
		if len(t.flying) == 0 {
			continue
		}
		p := &t.flying[0]
		if p.seen == 0 || now < p.seen { // or the clock was set back
			p.seen = now
		} else if now-p.seen >= silence {
			o.back(t, after(p.first-1), now)
		}
	}
}

// due tells whether a target may be tried again. A moment further off than any pause means that the clock was set back.
func (t *target) due(now int64) bool { return now >= t.retry || t.retry-now > retryMost }

// full tells whether no more may be under way to a target, hungry whether it may be fed from the log.
func (t *target) full() bool {
	return t.count >= maxSends || t.bytes >= maxSendBytes || t.away && t.count >= probe
}

func (t *target) hungry() bool {
	return t.count <= maxSends/2 && t.bytes <= maxSendBytes/2 && (!t.away || t.count == 0)
}

// catchUp feeds the targets that lag and have room again from the log. One reading serves all of them.
func (o *outbox) catchUp(s *Shard, now int64, fx *Effects) error {
	if o.behind == 0 || !s.leading {
		return nil
	}
	applied, _ := s.index.Applied()
	index := applied + 1
	for _, t := range o.targets {
		if t.fed = t.lags && t.due(now) && t.hungry(); t.fed {
			index = min(index, max(t.sent.Index, 1))
		}
	}
	for n := 0; n < catchUpEntries && index <= applied; n++ {
		if err := o.read(s, index, true); err != nil {
			return err
		}
		hungry := false
		for _, t := range o.targets {
			// one that is full goes on from its last send; nothing behind it may be handed over before
			if t.fed && !t.full() {
				hungry = true
				if here := after(index); t.sent.Less(here) {
					t.sent = here
				}
			}
		}
		if !hungry {
			break
		}
		index++
	}
	for _, t := range o.targets {
		if t.fed && !t.full() {
			if !t.sent.Less(after(applied)) {
				o.set(t, false, t.away)
			} else {
				fx.Again = true
			}
		}
		t.fed = false
	}
	o.send(fx)
	return nil
}

// cursor is the index up to which all sends were taken in by their targets.
func (o *outbox) cursor(applied uint64) uint64 {
	c := applied
	for _, t := range o.targets {
		if len(t.flying) > 0 {
			c = min(c, t.flying[0].first-1)
		}
		if t.lags {
			c = min(c, max(t.sent.Index, 1)-1)
		}
	}
	return c
}

// quiet tells whether all sends were taken in.
func (o *outbox) quiet() bool {
	if o.behind > 0 {
		return false
	}
	for _, t := range o.targets {
		if len(t.flying) > 0 {
			return false
		}
	}
	return true
}
