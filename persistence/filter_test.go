package persistence

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/persistence/entry"
)

func filterHash(i int) uint64 { return xxhash.Sum64String(fmt.Sprint(i)) }

// TestFilter: what was added is there, and of what was not nearly all is not, at every size up to the last stage.
func TestFilter(t *testing.T) {
	var f filter
	added := 0
	for _, n := range []int{1, 10, 3276, 3277, 100_000, 800_000} {
		for ; added < n; added++ {
			f.add(filterHash(added))
		}
		for i := range n {
			if !f.has(filterHash(i)) {
				t.Fatalf("of %d ids number %d is not there", n, i)
			}
		}
		wrong := 0
		const asked = 50_000
		for i := range asked {
			if f.has(filterHash(-1 - i)) {
				wrong++
			}
		}
		if share := float64(wrong) / asked; share > 0.06 {
			t.Errorf("with %d ids %.1f %% of the others seem to be there", n, 100*share)
		}
	}
	if n := len(f.stages); len(f.stages[n-1])*8 > filterMost {
		t.Errorf("the last stage has %d bytes", len(f.stages[n-1])*8)
	}
}

// TestLearnedIDs: after a restart the ids on disk are found, before, while and after they are learned; once they are, a
// new id costs no read.
func TestLearnedIDs(t *testing.T) {
	s := openStore(t, vfs.NewMem())
	defer func() {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	const n, at = 2*learnIDs + 100, 7 * bucketMicros
	b := s.NewBatch()
	for i := range n {
		v := appendUvs(nil, 5, uint64(i), at)
		if err := b.Set(idKey(nil, 1, 7, filterHash(i)), append(v, make([]byte, 8)...), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	x := ask(s)
	find := func(i int) bool {
		t.Helper()
		k, ok, err := x.ID(filterHash(i), at-idWindow, at)
		if err != nil {
			t.Fatal(err)
		}
		if ok && int(k.Ordinal) != i {
			t.Fatalf("id %d: %+v", i, k)
		}
		return ok
	}
	if x.LearnIDs() {
		t.Error("ids are learned that nobody asks for")
	}
	steps := 0
	for more := true; more; steps++ {
		for i := 0; i < n; i += 97 {
			if !find(i) {
				t.Fatalf("after %d steps id %d is not there", steps, i)
			}
		}
		if find(-1) {
			t.Fatal("an id that never was is there")
		}
		more = x.LearnIDs()
	}
	if steps != 3 {
		t.Errorf("learned in %d steps", steps)
	}
	for i := range n {
		if !find(i) {
			t.Fatalf("id %d is not there any more", i)
		}
	}
	read := 0
	for i := range 1000 {
		if !x.surelyNew(7, filterHash(-1-i)) {
			read++
		}
	}
	if read > 60 {
		t.Errorf("%d of 1,000 new ids are looked for on disk", read)
	}
	if !x.surelyNew(8, 1) {
		t.Error("an empty bucket is looked at")
	}
	// a bucket that is dropped takes its filter along
	if err := x.Checkpoint(0, 9*bucketMicros); err != nil {
		t.Fatal(err)
	}
	if len(x.filters) != 0 {
		t.Errorf("%d filters are left", len(x.filters))
	}
}

// TestIDsOfUnreadableBuckets: a bucket whose keys cannot be read whole is not taken for learned.
func TestIDsOfUnreadableBuckets(t *testing.T) {
	s := openStore(t, vfs.NewMem())
	if err := s.db.Set(append(key(1, keyID), 1, 2, 3), nil, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenIndex(1, 1); !errors.Is(err, entry.ErrCorrupt) {
		t.Errorf("a key that is no id: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
