package user

import (
	"hash/fnv"
	"slices"

	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
)

// maxKnown is part of what [userv1.User] promises.
const maxKnown = 4096

// A mark is the rating in half stars, which needs four bits, and one more.
const (
	ratingMask     = 1<<4 - 1
	interestedMark = 1 << 4
)

// memory is what the user remembers of one product.
type memory struct {
	known      bool
	at         int64
	halfStars  uint32 // 0 for a product only viewed
	interested bool   // now or earlier
}

// place is where a product is in the lists of what is known, or would be.
type place struct {
	index int
	hash  uint64
	found bool
}

// recall is what is known of a product. Two products whose hashes are equal would be taken for one: among 4,096 that
// happens once in 2 × 10^12 users.
func recall(s *userv1.User, product string) (place, memory) {
	h := fnv.New64a() // its values are in stored states
	_, _ = h.Write([]byte(product))
	p := place{hash: h.Sum64()}
	p.index, p.found = slices.BinarySearch(s.KnownHashes, p.hash)
	if !p.found {
		return p, memory{}
	}
	mark := s.KnownMarks[p.index]
	return p, memory{
		known: true, at: s.KnownAtMicros[p.index], halfStars: mark & ratingMask, interested: mark&interestedMark != 0,
	}
}

// remember notes what is known of a product from now on. When there is too much, the oldest is forgotten.
func remember(s *userv1.User, p place, m memory) {
	mark := m.halfStars
	if m.interested {
		mark |= interestedMark
	}
	if p.found {
		s.KnownAtMicros[p.index], s.KnownMarks[p.index] = m.at, mark
		return
	}
	s.KnownHashes = slices.Insert(s.KnownHashes, p.index, p.hash)
	s.KnownAtMicros = slices.Insert(s.KnownAtMicros, p.index, m.at)
	s.KnownMarks = slices.Insert(s.KnownMarks, p.index, mark)
	if len(s.KnownHashes) <= maxKnown {
		return
	}
	oldest := 0
	for i, at := range s.KnownAtMicros {
		if at < s.KnownAtMicros[oldest] {
			oldest = i
		}
	}
	s.KnownHashes = slices.Delete(s.KnownHashes, oldest, oldest+1)
	s.KnownAtMicros = slices.Delete(s.KnownAtMicros, oldest, oldest+1)
	s.KnownMarks = slices.Delete(s.KnownMarks, oldest, oldest+1)
}
