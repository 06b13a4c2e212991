package persistence

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/granary-dev/granary/persistence/entry"
)

// Sizes of the filters of event ids. At ten bits an id, one new id in a hundred is looked for on disk in vain.
const (
	filterBits  = 10
	filterFirst = 4 << 10   // bytes of the first stage of a filter
	filterMost  = 512 << 10 // bytes of the last; what comes then makes the filter worse, never wrong
	filterProbe = 6         // bits set for an id, in one cache line

	filterGrowth = 8 // from stage to stage: each adds its own errors
)

// filter tells which event ids one bucket surely does not hold: a Bloom filter in blocks of a cache line, with larger and
// larger stages as ids come.
type filter struct {
	stages [][]uint64
	room   int // ids that the last stage still takes
	// unread: the bucket has keys on disk from here on that the filter does not know of.
	unread bool
	next   uint64
}

func (f *filter) add(hash uint64) {
	if n := len(f.stages); n == 0 || f.room == 0 && len(f.stages[n-1])*8 < filterMost {
		size := filterFirst
		if n > 0 {
			size = min(len(f.stages[n-1])*8*filterGrowth, filterMost)
		}
		f.stages = append(f.stages, make([]uint64, size/8))
		f.room = size * 8 / filterBits
	}
	f.room = max(0, f.room-1)
	block, h := filterBlock(f.stages[len(f.stages)-1], hash)
	for range filterProbe {
		block[h>>6&7] |= 1 << (h & 63)
		h >>= 9
	}
}

func (f *filter) has(hash uint64) bool {
	for _, stage := range f.stages {
		block, h := filterBlock(stage, hash)
		n := 0
		for n < filterProbe && block[h>>6&7]&(1<<(h&63)) != 0 {
			h >>= 9
			n++
		}
		if n == filterProbe {
			return true
		}
	}
	return false
}

// filterBlock is the cache line of an id in a stage, and the bits that say where in it.
func filterBlock(stage []uint64, hash uint64) (block *[8]uint64, bits uint64) {
	i := int(hash>>40) % (len(stage) / 8) * 8
	return (*[8]uint64)(stage[i : i+8]), hash * 0x9e3779b97f4a7c15
}

// noteID tells the filters of an id that was applied.
func (x *Index) noteID(hash uint64, time int64) {
	b := uint64(time / bucketMicros)
	f := x.filters[b]
	if f == nil {
		f = &filter{}
		x.filters[b] = f
	}
	f.add(hash)
}

// surelyNew tells that a bucket does not hold an id. Where that is not known the ids of the bucket are learned next.
func (x *Index) surelyNew(bucket, hash uint64) bool {
	f := x.filters[bucket]
	if f != nil && f.unread {
		x.learn = bucket
		return false
	}
	return f == nil || !f.has(hash)
}

// openFilters finds the buckets that have keys on disk. Nothing is read of them until an id is looked for there.
func (x *Index) openFilters() error {
	it, err := x.store.db.NewIter(&pebble.IterOptions{LowerBound: key(x.shard, keyID), UpperBound: successor(key(x.shard, keyID))})
	if err != nil {
		return err
	}
	defer it.Close()
	for it.First(); it.Valid(); {
		rest := it.Key()[len(key(x.shard, keyID)):]
		if len(rest) != 16 {
			return fmt.Errorf("id: %w", entry.ErrCorrupt)
		}
		b := binary.BigEndian.Uint64(rest)
		x.filters[b] = &filter{unread: true}
		it.SeekGE(idKey(nil, x.shard, b+1, 0))
	}
	return damage(it.Error())
}

// LearnIDs reads some of the ids on disk that were looked for in vain, and tells whether there is more to read. Until then
// each new id costs a read. What cannot be read stays unknown, and is told of where it matters.
func (x *Index) LearnIDs() (more bool) {
	b := x.learn
	f := x.filters[b]
	if f == nil || !f.unread {
		return false
	}
	it, err := x.store.db.NewIter(&pebble.IterOptions{LowerBound: idKey(nil, x.shard, b, f.next), UpperBound: idKey(nil, x.shard, b+1, 0)})
	if err != nil {
		return false
	}
	defer it.Close()
	n := 0
	for it.First(); it.Valid(); it.Next() {
		hash := binary.BigEndian.Uint64(it.Key()[len(it.Key())-8:])
		if n == learnIDs {
			f.next = hash
			return true
		}
		f.add(hash)
		n++
	}
	x.learn = 0
	f.unread = it.Error() != nil
	return false
}

// learnIDs is how many ids are read at a time.
const learnIDs = 4 << 10
