package verify

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Families of timer keys.
const (
	timersByDue   = 0
	timersByGrain = 1
)

// pending is a reminder that the log has set and not brought to its end.
type pending struct {
	grain      string // as in keys
	id         uint64
	due, every uint64
	at         mark
	body       uint64  // hash of the event
	met        [2]bool // its keys were found, by family
}

// timerName is the end that both keys of a reminder have in common.
func timerName(grain string, id uint64) string {
	return grain + "\x00" + string(binary.BigEndian.AppendUint64(nil, id))
}

func (p *pending) name() string {
	kind, key, _ := strings.Cut(strings.TrimPrefix(p.grain, "\x00"), "\x00")
	return fmt.Sprintf("%s reminder %d", grainName("", kind, []byte(key)), p.id)
}

// reminders takes what a record does to the reminders of its grain: first it may be the firing of one, then it sets and
// cancels others.
func (s *shard) reminders(r *record, grain string) {
	switch {
	case r.timer != 0:
		s.fired(r, grain)
	case r.kindOf == timer:
		s.at(r, "a timer record without the id of a reminder")
	}
	for i := range r.effects {
		e := &r.effects[i]
		name := timerName(grain, e.timer)
		switch e.kindOf {
		case remind:
			if s.pending[name] != nil {
				s.at(r, "effect %d sets reminder %d, which is pending", i, e.timer)
			}
			if e.timer == 0 || e.due < uint64(r.time) {
				s.at(r, "effect %d sets reminder %d, due at %d, before the time of the record", i, e.timer, e.due)
			}
			s.pending[name] = &pending{grain: grain, id: e.timer, due: e.due, every: e.every, at: mark{s.index, r.ordinal, uint32(i)},
				body: bodyHash(e.event, e.payload)}
		case cancel:
			delete(s.pending, name)
		}
	}
}

// fired takes the firing of a reminder: of one that is pending, with its event, and not before its time. It is consumed
// whatever came of the turn.
func (s *shard) fired(r *record, grain string) {
	if r.kindOf == input || r.kindOf == tombstone {
		s.at(r, "reminder %d fires in a record of type %s", r.timer, recordNames[r.kindOf])
	}
	if r.sequence != 0 || r.sender.kind != "" || len(r.id) > 0 {
		s.at(r, "reminder %d fires, and the event has another origin as well", r.timer)
	}
	name := timerName(grain, r.timer)
	p := s.pending[name]
	switch {
	case p == nil:
		if !s.cut {
			s.at(r, "reminder %d fires, which is not pending", r.timer)
		}
		return
	case uint64(r.time) < p.due:
		s.at(r, "reminder %d fires %d µs early", r.timer, p.due-uint64(r.time))
	case p.body != bodyHash(r.event, r.payload):
		s.at(r, "reminder %d fires with another event than the one it was set with by %v", r.timer, p.at)
	}
	if p.every == 0 {
		delete(s.pending, name)
		return
	}
	next := p.due + p.every
	if now := uint64(r.time); next <= now {
		missed := (now - p.due) / p.every
		next = p.due + (missed+1)*p.every
	}
	p.due = next
}

// compareTimer compares one of the two keys of a reminder with what the log gives.
func (s *shard) compareTimer(k, rest []byte, c *cursor) {
	form := func() {
		if s.mine() {
			s.wrongKey(k, "not the form of a timer key")
		}
	}
	if len(rest) == 0 || rest[0] > timersByGrain {
		form()
		return
	}
	family, rest := rest[0], rest[1:]
	var due uint64
	if family == timersByDue {
		if len(rest) < 8 {
			form()
			return
		}
		due, rest = binary.BigEndian.Uint64(rest), rest[8:]
	}
	n := len(rest) - 9
	if n < 0 || rest[n] != 0 {
		form()
		return
	}
	if !s.inPart(string(rest[:n])) {
		return
	}
	var every uint64
	var at mark
	if family == timersByGrain {
		due, every, at = c.number("due"), c.number("every"), mark{c.number("index"), c.number32("ordinal"), c.number32("effect")}
	}
	if !s.valueOf(k, c) {
		return
	}
	p := s.pending[string(rest)]
	switch {
	case p == nil:
		if !s.cut {
			s.wrongKey(k, "no such reminder is pending by the log up to the applied index %d", s.applied.index)
		}
		return
	case due != p.due:
		s.wrongKey(k, "due at %d; the log up to the applied index %d gives %d", due, s.applied.index, p.due)
	case family == timersByGrain && (every != p.every || at != p.at):
		s.wrongKey(k, "every %d µs, set by %v; the log gives every %d µs, set by %v", every, at, p.every, p.at)
	}
	p.met[family] = true
}

// missingTimers finds reminders that lack a key.
func (s *shard) missingTimers() {
	for _, name := range sortedKeys(s.pending) {
		p := s.pending[name]
		for family, what := range [...]string{"timer by due time", "timer by grain"} {
			if !p.met[family] {
				s.find(0, None, what+" "+p.name(), "is missing, though the log up to the applied index %d gives it", s.applied.index)
			}
		}
	}
}
