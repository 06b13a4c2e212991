package actors

import (
	"errors"
	"math/bits"

	"github.com/cespare/xxhash/v2"

	"github.com/granary-dev/granary/grains"
)

// Identity tells the events of a shard apart by grain, type and payload; two that are the same in all three have one.
type Identity uint64

// identity is that of the event in s.rec, for a grain. The grain's part is kept: this stands before every turn.
func (s *Shard) identity(a *activation, e *grains.EventType) Identity {
	if a.hash == 0 {
		a.hash = bits.RotateLeft64(xxhash.Sum64String(a.name.Kind), 17) ^ xxhash.Sum64String(a.name.Key)
	}
	h := bits.RotateLeft64(a.hash, 17) ^ xxhash.Sum64String(e.Name)
	return Identity((bits.RotateLeft64(h, 17) ^ xxhash.Sum64(s.rec.Payload)) * 0x9e3779b97f4a7c15)
}

// Watch is told when a handler begins to run and when it has returned. End does not return if nobody waits for the turn
// any more: then whoever watches has ended its goroutine.
type Watch interface {
	Begin(id Identity, kind, key, event string)
	End()
}

// Condemned are events whose turns are not to run again, because they did not end or ended the process. Each is
// dead-lettered unrun the next time it comes; behind that an event that is its like runs as any other. They outlive the
// machine that meets them, and belong to whoever drives it.
type Condemned struct {
	of map[Identity]*sentence
}

// sentence is why an event is condemned, and the index of the entry in which it is dead-lettered; 0 until it comes.
type sentence struct {
	reason string
	index  uint64
}

// Add condemns an event.
func (c *Condemned) Add(id Identity, reason string) {
	if c.of == nil {
		c.of = map[Identity]*sentence{}
	}
	c.of[id] = &sentence{reason: reason}
}

// take returns why an event must not run, and notes that it is dead-lettered in the entry at index.
func (c *Condemned) take(id Identity, index uint64) (reason string, is bool) {
	s := c.of[id]
	if s == nil || s.index != 0 {
		return "", false
	}
	s.index = index
	return s.reason, true
}

// landed appends the events that are dead-lettered in an entry that is committed.
func (c *Condemned) landed(index uint64, to []Identity) []Identity {
	if c == nil || len(c.of) == 0 {
		return to
	}
	for id, s := range c.of {
		if s.index == index {
			to = append(to, id)
			delete(c.of, id)
		}
	}
	return to
}

// lost takes back what was not committed.
func (c *Condemned) lost() {
	if c == nil {
		return
	}
	for _, s := range c.of {
		s.index = 0
	}
}

// unrunError is why a turn was not run.
type unrunError struct{ reason string }

func (e *unrunError) Error() string { return e.reason }

// unrun tells whether a turn failed before it changed anything.
func unrun(err error) bool {
	var e *unrunError
	return errors.As(err, &e)
}

// beginTurn notes that the event in s.rec is about to run, or says why it must not.
func (s *Shard) beginTurn(a *activation, e *grains.EventType) error {
	if s.cfg.Watch == nil {
		return nil
	}
	id := s.identity(a, e)
	if len(s.cfg.Condemned.of) > 0 {
		if reason, is := s.cfg.Condemned.take(id, s.next); is {
			return &unrunError{reason}
		}
	}
	s.cfg.Watch.Begin(id, a.name.Kind, a.name.Key, e.Name)
	return nil
}
