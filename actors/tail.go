package actors

import (
	"slices"

	"github.com/granary-dev/granary/persistence"
)

// maxTails is how many reads may wait at a shard for what is committed next.
const maxTails = 4096

// Tail asks how far a shard's journal is committed. Like every read it takes its place in the shard's order; then it is
// answered as soon as an entry behind After is applied.
type Tail struct {
	// After is an index. 0: the answer comes at once, for a shard that leads has applied an entry.
	After uint64

	// The answer: the place behind the last entry applied.
	Place persistence.Place
}

// GiveUpRead tells a shard that nobody waits for a read any more. The read is answered as Unavailable, if it was not before.
type GiveUpRead struct{ Read *Read }

// keepTail lets a tail wait; false when too many do.
func (s *Shard) keepTail(r *Read) bool {
	if len(s.tails) >= maxTails {
		return false
	}
	s.tails = append(s.tails, r)
	r.slot = len(s.tails)
	return true
}

// answerTails answers the tails that waited for what is applied by now.
func (s *Shard) answerTails(fx *Effects) {
	place := s.index.Place()
	for i := len(s.tails); i > 0; i-- {
		if r := s.tails[i-1]; r.Tail.After < place.Index {
			s.dropTail(r)
			r.Tail.Place = place
			fx.Reads = append(fx.Reads, r)
		}
	}
}

// dropTail takes a tail out of those that wait; the last one takes its place.
func (s *Shard) dropTail(r *Read) {
	last := len(s.tails) - 1
	moved := s.tails[last]
	s.tails[r.slot-1], moved.slot = moved, r.slot
	s.tails[last] = nil
	s.tails = s.tails[:last]
	r.slot = 0
}

// loseTails tells all who wait that this replica does not lead any more.
func (s *Shard) loseTails(fx *Effects) {
	for _, r := range s.tails {
		r.slot = 0
		r.Failed, r.Why = Unavailable, "the shard lost its leader"
		fx.Reads = append(fx.Reads, r)
	}
	s.tails = nil
}

// giveUp forgets a read.
func (s *Shard) giveUpRead(r *Read, fx *Effects) {
	if r.slot > 0 {
		s.dropTail(r)
	} else if i := slices.Index(s.reads, r); i >= 0 {
		s.reads = slices.Delete(s.reads, i, i+1)
	} else {
		return // it was answered
	}
	r.Failed, r.Why = Unavailable, "it was given up"
	fx.Reads = append(fx.Reads, r)
}
