package actors

import (
	"fmt"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// Bounds of the firing of reminders.
const (
	// fireReminders at most in one step.
	fireReminders = 256
	// firePending is how many bytes may be uncommitted for more to fire while others that fired are not committed: so a
	// great many that are due at once do not keep clients waiting, and busy clients do not keep reminders from firing.
	firePending = 1 << 20
	// maxStuck reminders may be held back because their grains cannot be loaded.
	maxStuck = 4 << 10
)

// reminders is what a leading shard knows of the firing of reminders beside the index, which has the committed ones. A
// firing and its consumption are one record, so what was not committed fires again under the next leader, and nothing
// else does.
type reminders struct {
	// claimed are the reminders, by name, that an uncommitted record fires or cancels, with the index of its entry.
	claimed map[string]uint64
	// flying is the number of uncommitted firings.
	flying int
	// stuck are those whose grain cannot be loaded. They are tried again by the next leader.
	stuck map[string]bool
	// due: some may be, and are looked for at the next Idle, behind the last one that was met.
	due    bool
	behind *persistence.Timer
}

// claim is a reminder that a record in an entry fires or cancels.
type claim struct {
	name  string
	fires bool
}

// clock is the time that reminders go by: the journal's, which a turn would have now.
func (s *Shard) clock(now int64) int64 { return max(now, s.time) }

// tickReminders looks whether any may be due. Where none is, it costs nothing.
func (s *Shard) tickReminders(now int64) {
	if s.leading && s.index.NextDue() <= s.clock(now) {
		s.reminders.due, s.reminders.behind = true, nil
	}
}

// fireSome fires some of the reminders that are due, in their order. Only committed ones do, and none that a turn before
// has fired or canceled.
func (s *Shard) fireSome(now int64, fx *Effects) error {
	r := &s.reminders
	if !r.due || !s.leading {
		return nil
	}
	if s.fullOfReminders() {
		return nil // the next entry that lands brings an Idle with it, and so does the next tick
	}
	page, err := s.index.Due(s.clock(now), r.behind, fireReminders)
	if err != nil {
		return fmt.Errorf("reminders: %w", err)
	}
	for i := range page {
		t := &page[i]
		if _, claimed := r.claimed[t.Name()]; !claimed && !r.stuck[t.Name()] {
			if s.fullOfReminders() {
				return nil
			}
			if err := s.fire(now, t, fx); err != nil {
				return err
			}
		}
		r.behind = t
	}
	r.due = len(page) == fireReminders
	fx.Again = fx.Again || r.due
	return nil
}

// fullOfReminders tells whether no more should fire for now.
func (s *Shard) fullOfReminders() bool {
	return s.Overloaded() || s.pending > firePending && s.reminders.flying > 0
}

// fire runs the turn of a reminder that is due. What cannot be handled is journaled as a dead letter, and consumes the
// reminder too. A grain that cannot be loaded keeps its reminder: that is not the event's fault.
func (s *Shard) fire(now int64, t *persistence.Timer, fx *Effects) error {
	kindName, key := persistence.CutGrain(t.Grain)
	event, payload, err := s.index.TimerEvent(t)
	if err != nil {
		return s.holdBack(t, err, fx)
	}
	s.rec = entry.Record{Event: event, Payload: payload, Timer: t.ID, Time: s.advance(now, 0)}
	why := ""
	kind, known := s.cfg.Catalog.Kind(kindName)
	if !known {
		why = fmt.Sprintf("there is no kind %q", kindName)
	}
	if known {
		e, takes := kind.Event(event)
		if !takes {
			why = fmt.Sprintf("kind %q takes no event %q", kindName, event)
		} else if msg, err := e.Decode(payload); err != nil {
			why = err.Error()
		} else {
			a, err := s.activate(kind, key)
			if err != nil {
				return s.holdBack(t, err, fx)
			}
			if _, err := s.turn(a, e, msg, grains.Ref{}, fx); err != nil {
				return fmt.Errorf("shard %d: %s/%s: reminder %d: %w", s.cfg.Shard, kindName, key, t.ID, err)
			}
		}
	}
	if why != "" {
		if err := s.deadLetter(&Sent{Kind: kindName, Key: []byte(key)}, kind, why, fx); err != nil {
			return s.holdBack(t, err, fx)
		}
	}
	s.Stats.Reminders++
	s.claim(t.Name(), true)
	return nil
}

// holdBack leaves a reminder pending until somebody else leads.
func (s *Shard) holdBack(t *persistence.Timer, why error, fx *Effects) error {
	if len(s.reminders.stuck) >= maxStuck {
		return fmt.Errorf("more than %d reminders cannot fire: %w", maxStuck, why)
	}
	if s.reminders.stuck == nil {
		s.reminders.stuck = map[string]bool{}
	}
	s.reminders.stuck[t.Name()] = true
	kind, key := persistence.CutGrain(t.Grain)
	fx.HeldBack = append(fx.HeldBack, HeldBack{Kind: kind, Key: key, Reminder: t.ID, Due: t.Due, Why: why})
	return nil
}

// claim notes that the record just appended fires or cancels a reminder.
func (s *Shard) claim(name string, fires bool) {
	r := &s.reminders
	if r.claimed == nil {
		r.claimed = map[string]uint64{}
	}
	r.claimed[name] = s.next
	s.open.claims = append(s.open.claims, claim{name, fires})
	if fires {
		r.flying++
	}
}

// claimCanceled notes what the record just appended for a grain cancels.
func (s *Shard) claimCanceled(rec *entry.Record) {
	for i := range rec.Effects {
		if e := &rec.Effects[i]; e.Type == entry.Cancel {
			t := persistence.Timer{Grain: string(persistence.AppendGrain(nil, rec.Tenant, rec.Kind, rec.Key)), ID: e.Timer}
			s.claim(t.Name(), false)
		}
	}
}

// release gives up the claims of an entry that is committed: from here on the index knows.
func (s *Shard) release(f *flight) {
	for _, c := range f.claims {
		if s.reminders.claimed[c.name] == f.index {
			delete(s.reminders.claimed, c.name)
		}
		if c.fires {
			s.reminders.flying--
		}
	}
}

// listReminders reads the pending reminders of grains, each with its event.
func (s *Shard) listReminders(l *Reminders) error {
	page, err := s.index.Timers(persistence.TimerRange{Kind: l.Kind, Prefix: l.Prefix, Key: l.Key, AfterKey: l.AfterKey, AfterID: l.AfterID}, l.Limit+1)
	if err != nil {
		return failf(Corrupt, "shard %d: %w", s.cfg.Shard, err)
	}
	size := 0
	for i := range page {
		if i == l.Limit || i > 0 && size > l.Bytes {
			l.More = true
			return nil
		}
		t := &page[i]
		_, key := persistence.CutGrain(t.Grain)
		p := PendingReminder{Key: key, ID: t.ID, Due: t.Due, Every: t.Every}
		if p.Event, p.Payload, err = s.index.TimerEvent(t); err != nil {
			return failf(Corrupt, "%w", err)
		}
		size += len(p.Payload)
		l.Pending = append(l.Pending, p)
	}
	return nil
}
