package ledger

import (
	"sync"
	"sync/atomic"
)

// defaultMaxEvents is 96 MiB of notes.
const defaultMaxEvents = 4_000_000

// SentOptions bound what is remembered of a run.
type SentOptions struct {
	// MaxEvents is how many events are remembered one by one, at 24 bytes each (twice that during the check); default 4
	// million. When a run sends more, half of the owners (accounts, users) are no longer followed, then half of the rest,
	// and so on. Totals go on being counted.
	MaxEvents int
}

// Fate is what the publisher of an event was told of it.
type Fate uint8

const (
	// Unknown says nothing, so it may have been folded, once.
	Unknown Fate = iota
	// Folded says that it was acknowledged.
	Folded
	// Rejected says that its grain refused it or its turn failed, and that was journaled.
	Rejected
	// Refused says that nothing was journaled.
	Refused
)

// Sent is what a run sent and what it was told about it. Its lanes may be used at the same time.
type Sent struct {
	source string
	max    int64

	mu    sync.Mutex
	lanes []*Lane

	sent, folded, refused atomic.Uint64
	kept                  atomic.Int64 // events remembered
	level                 atomic.Uint32
}

// NewSent makes an empty record of a run whose events carry the source.
func NewSent(source string, o SentOptions) *Sent {
	if o.MaxEvents == 0 {
		o.MaxEvents = defaultMaxEvents
	}
	return &Sent{source: source, max: int64(o.MaxEvents)}
}

// Source that the events of the run carry.
func (s *Sent) Source() string { return s.source }

// Totals are the numbers of events sent, acknowledged, refused or rejected, and without an answer.
func (s *Sent) Totals() (sent, acknowledged, refused, unknown uint64) {
	sent, acknowledged, refused = s.sent.Load(), s.folded.Load(), s.refused.Load()
	return sent, acknowledged, refused, sent - acknowledged - refused
}

// Lane is one producer's part of a run. All events of an owner must be noted in one lane, in the order in which they
// are published.
type Lane struct {
	run *Sent

	mu      sync.Mutex
	batches []*Batch
	level   uint32
}

// Lane adds a producer.
func (s *Sent) Lane() *Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &Lane{run: s}
	s.lanes = append(s.lanes, l)
	return l
}

// Note is what is remembered of one event. It is small because there are millions, and only the check of its workload
// understands all of it.
type Note struct {
	// key is the event's number, with what kind of event it is and its fate in the upper bits.
	key uint64
	// value is what the event says.
	value int64
	// owner is the number of the grain that gets the event, other that of the grain that it is passed on to.
	owner, other uint32
}

const (
	numberBits = 56
	labelBit   = 1 << 63
	fateMask   = 3 << numberBits
)

func (n *Note) event() (number uint64, label bool) {
	return n.key & (1<<numberBits - 1), n.key&labelBit != 0
}

// id is what tells the event from others of its owner.
func (n *Note) id() uint64     { return n.key &^ uint64(fateMask) }
func (n *Note) fate() Fate     { return Fate(n.key & fateMask >> numberBits) }
func (n *Note) setFate(f Fate) { n.key = n.key&^uint64(fateMask) | uint64(f)<<numberBits }

// Batch is a number of events that are answered together.
type Batch struct {
	lane     *Lane
	events   int
	answered bool
	notes    []Note // all of them until they are answered, then those of the owners followed
}

// Exception is an event of a batch that was not folded.
type Exception struct {
	// Index of the event in its batch, from 0.
	Index int
	// Fate that it was told.
	Fate Fate
}

// Note remembers events that are about to be published as one batch. It keeps the slice.
func (l *Lane) Note(notes []Note) *Batch {
	b := &Batch{lane: l, events: len(notes), notes: notes}
	l.mu.Lock()
	l.batches = append(l.batches, b)
	l.mu.Unlock()
	l.run.sent.Add(uint64(b.events))
	l.run.kept.Add(int64(b.events))
	return b
}

// Answer notes what was told of the batch: all events were folded but the exceptions. It is called at most once.
func (b *Batch) Answer(exceptions []Exception) {
	l, s := b.lane, b.lane.run
	l.mu.Lock()
	defer l.mu.Unlock()
	b.answered = true
	for i := range b.notes {
		b.notes[i].setFate(Folded)
	}
	folded := b.events - len(exceptions)
	for _, e := range exceptions {
		b.notes[e.Index].setFate(e.Fate)
		if e.Fate == Rejected || e.Fate == Refused {
			s.refused.Add(1)
		}
	}
	s.folded.Add(uint64(folded))
	if s.kept.Load() > s.max {
		l.thin()
	}
	b.thin(l.level)
}

// Withdraw says that the batch was not published after all. It is not answered then.
func (b *Batch) Withdraw() {
	b.lane.mu.Lock()
	defer b.lane.mu.Unlock()
	b.lane.run.sent.Add(-uint64(b.events))
	b.lane.run.kept.Add(-int64(len(b.notes)))
	b.answered, b.events, b.notes = true, 0, nil
}

// thin makes the lane follow fewer owners. The first lane to notice that there are too many raises the level for all;
// the others come after when they are full themselves.
func (l *Lane) thin() {
	s := l.run
	if level := s.level.Load(); l.level == level {
		s.level.CompareAndSwap(level, level+1)
	}
	l.level = s.level.Load()
	kept := l.batches[:0]
	for _, b := range l.batches {
		if b.answered {
			b.thin(l.level)
		}
		if len(b.notes) > 0 {
			kept = append(kept, b)
		}
	}
	clear(l.batches[len(kept):])
	l.batches = kept
}

// thin forgets the events of owners that are not followed any more. The rest is moved to a slice of its own size.
func (b *Batch) thin(level uint32) {
	kept := 0
	for i := range b.notes {
		if followed(b.notes[i].owner, level) {
			kept++
		}
	}
	if kept == len(b.notes) {
		return
	}
	b.lane.run.kept.Add(int64(kept - len(b.notes)))
	left := make([]Note, 0, kept)
	for i := range b.notes {
		if followed(b.notes[i].owner, level) {
			left = append(left, b.notes[i])
		}
	}
	b.notes = left
}

// followed says whether an owner is among one in 2^level.
func followed(owner, level uint32) bool { return mix(uint64(owner))&(1<<level-1) == 0 }

// mix spreads numbers evenly over 64 bits (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// sampled says whether a number is in a sample of this share. It is independent of followed.
func sampled(number uint64, share float64) bool {
	return share >= 1 || float64(mix(number)>>32)/(1<<32) < share
}

// owners are the events of each owner followed and in the sample, in the order sent.
func (s *Sent) owners(share float64) map[uint32][]Note {
	s.mu.Lock()
	defer s.mu.Unlock()
	level := s.level.Load()
	counts := map[uint32]int{}
	each := func(do func(*Note)) {
		for _, l := range s.lanes {
			l.mu.Lock()
			for _, b := range l.batches {
				for i := range b.notes {
					if c := b.notes[i].owner; followed(c, level) && sampled(uint64(c), share) {
						do(&b.notes[i])
					}
				}
			}
			l.mu.Unlock()
		}
	}
	total := 0
	each(func(r *Note) { counts[r.owner]++; total++ })
	// One slice for all: many small ones that grow would cost twice as much.
	all, owners, at := make([]Note, total), make(map[uint32][]Note, len(counts)), 0
	for c, n := range counts {
		owners[c] = all[at : at : at+n]
		at += n
	}
	each(func(r *Note) { owners[r.owner] = append(owners[r.owner], *r) })
	return owners
}
