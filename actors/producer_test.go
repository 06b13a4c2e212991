package actors_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/persistence"
)

// link makes a batch of a producer.
func (w *world) link(epoch, previous uint64, events ...actors.Event) *actors.Batch {
	return &actors.Batch{Link: &actors.Link{Producer: "p", Epoch: epoch, Previous: previous}, Events: events}
}

func (w *world) numbered(sequence uint64, key, words string) actors.Event {
	e := w.event(key, words, "")
	e.Sequence = sequence
	return e
}

// TestDuplicateWaitsHoweverLongTheQueue: while the disk stalls, a producer fills more entries than a shard remembers of
// it, gives up and repeats all under a new epoch. The duplicates must wait for the commit all the same.
func TestDuplicateWaitsHoweverLongTheQueue(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	r := w.shards[0]
	r.lead()
	large := strings.Repeat("-", 70_000) // an entry each; refused, so that the state stays small
	n := uint64(persistence.RecentRuns + 6)
	for seq := uint64(1); seq <= n; seq++ {
		w.publish(w.link(1, seq-1, w.numbered(seq, "a", "!"+large)))
	}
	r.idle()
	if len(r.proposed) < persistence.RecentRuns {
		t.Fatalf("only %d entries are under way", len(r.proposed))
	}
	w.publish(w.link(2, 0, w.numbered(1, "a", "!"+large)))
	again := w.link(2, 1, w.numbered(2, "a", "!"+large), w.numbered(3, "a", "!"+large))
	w.publish(again)
	r.idle()
	if w.batches[again] {
		t.Fatal("events were acknowledged as duplicates of what is not committed")
	}
	w.settle()
	w.checkAnswered()
	for i, res := range again.Results {
		if !res.Duplicate {
			t.Errorf("event %d: %+v", i, res)
		}
	}
}

// TestOldDuplicateHasItsFirstResult: a client may have more batches without an answer than a shard remembers entries of
// its producer. Whatever it repeats, it is told what became of it the first time.
func TestOldDuplicateHasItsFirstResult(t *testing.T) {
	w := newWorld(t, 1, 1, 8)
	defer w.close()
	w.shards[0].lead()
	events := func(seq uint64) actors.Event {
		words := "+x"
		switch seq % 5 {
		case 2:
			words = "!no"
		case 3:
			words = "panic"
		}
		return w.numbered(seq, []string{"a", "b", "c"}[seq%3], words)
	}
	n := uint64(3 * persistence.RecentRuns)
	var first []actors.Result
	for seq := uint64(1); seq <= n; seq++ {
		b := w.link(1, seq-1, events(seq))
		w.publish(b)
		w.settle() // an entry each
		first = append(first, b.Results...)
	}
	w.shards[0].crash(0)
	w.settle()
	for seq := uint64(1); seq <= n; seq += 2 {
		b := w.link(2, seq-1, events(seq), events(seq+1))
		w.publish(b)
		w.settle()
		for i, r := range b.Results {
			want := first[seq-1+uint64(i)]
			want.Duplicate = true
			if !reflect.DeepEqual(r, want) {
				t.Fatalf("sequence %d again: %+v, want %+v", seq+uint64(i), r, want)
			}
		}
	}
	// what was never published here is not made up
	other := w.numbered(1, "c", "+x")
	b := w.link(3, 0, other, w.numbered(4, "nobody", "+x"))
	w.publish(b)
	w.settle()
	for i, r := range b.Results {
		if r.Outcome != actors.Conflict {
			t.Errorf("event %d: %+v", i, r)
		}
	}
}
