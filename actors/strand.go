package actors

import (
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
)

// Stuck is a turn that does not end.
type Stuck struct {
	Identity Identity
	Grain    grains.Ref
	// Event is the full name of its message.
	Event string
}

// Strand gives up a machine whose goroutine is in a turn that does not end: it says which, and answers all who wait. It
// leaves alone what that turn may still touch (the activation, the event, what the handler was given). The machine may be
// asked for its successor; nothing else. The step that was under way has told nobody anything: the input it took may be
// given to the successor, its proposals must not be made.
func (s *Shard) Strand(fx *Effects) Stuck {
	a, e := s.message.activation, s.message.event
	stuck := Stuck{Identity: s.identity(a, e), Grain: a.name, Event: e.Name}
	// its actor is in the middle of a message: it is not told to stop, only forgotten
	s.cfg.System.ProcessRegistry.Remove(a.pid)
	a.pid = nil
	s.lose(fx)
	return stuck
}

// Succeed returns the machine that takes over from one that was given up: following, over an index opened at the last
// checkpoint. What this one had asked its group for and comes yet confirms nothing for the new one.
func (s *Shard) Succeed(index *persistence.Index, watch Watch) *Shard {
	cfg := s.cfg
	cfg.Index, cfg.Watch = index, watch
	n := NewShard(cfg)
	n.token, n.confirmed, n.swept, n.Stats = s.token, s.token, s.swept, s.Stats
	return n
}
