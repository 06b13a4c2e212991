package actors_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/granary-dev/granary/actors"
)

// TestEveryMoment reads a grain of 150 records as of each of them, by seq and by time, and its history from and to
// everywhere: with all snapshots on disk, none, or some, and from a machine that just came back. The world judges.
func TestEveryMoment(t *testing.T) {
	for _, snapshots := range []int{1, 8, 1000} {
		t.Run(fmt.Sprintf("snapshots=%d", snapshots), func(t *testing.T) {
			w := newWorld(t, 1, 1<<20, snapshots)
			defer w.close()
			r := w.shards[0]
			r.lead()
			const n = 150
			for i := range n / 3 {
				words := []string{"+x", "!no", "+y fail"}
				b := &actors.Batch{}
				for j := range 3 {
					b.Events = append(b.Events, w.event("a", words[(i+j)%3], ""), w.event("b", "+z", ""))
				}
				w.publish(b)
				w.settle()
				w.now += int64(i%3) * 1000
				if i == n/6 {
					r.checkpoint(t)
				}
			}
			for _, when := range []string{"half on disk", "on disk", "behind a crash"} {
				switch when {
				case "on disk":
					r.checkpoint(t)
				case "behind a crash":
					r.crash(0)
					r.lead()
				}
				everyMoment(t, w, n)
			}
		})
	}
}

func everyMoment(t *testing.T, w *world, n uint64) {
	kind := w.kind("book")
	var reads []*actors.Read
	read := func(rd *actors.Read) {
		reads = append(reads, rd)
		w.read(rd)
	}
	for seq := uint64(1); seq <= n; seq++ {
		read(&actors.Read{Get: &actors.Get{Kind: kind, Key: "a", AtSeq: seq}})
		at := w.shards[0].model.record("book/a", seq).time
		for _, beside := range []int64{-1, 0} {
			read(&actors.Read{Get: &actors.Get{Kind: kind, Key: "a", AtTime: at + beside}})
		}
	}
	for _, from := range []uint64{0, 2, 64, 65, 129, 150, 151} {
		for _, to := range []uint64{0, 1, 64, 65, 128, 200} {
			for _, limit := range []int{1, 64, 65, 1000} {
				for _, newest := range []bool{false, true} {
					read(&actors.Read{History: &actors.History{Kind: kind, Key: "a", From: from, To: to, Limit: limit, NewestFirst: newest}})
				}
			}
		}
	}
	w.settle()
	for _, rd := range reads {
		if rd.Failed != actors.Folded {
			t.Fatalf("%+v %+v: %v %s", rd.Get, rd.History, rd.Failed, rd.Why)
		}
	}
}

// TestLargeHistoryIsCut: a page of history ends when it gets too large, and says that there is more.
func TestLargeHistoryIsCut(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	w.shards[0].lead()
	for range 10 {
		w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "!"+strings.Repeat("-", 1<<20), "")}})
		w.settle()
	}
	from, pages := uint64(1), 0
	for more := true; more; pages++ {
		h := &actors.History{Kind: w.kind("book"), Key: "a", From: from, Limit: 100}
		rd := &actors.Read{History: h}
		w.unchecked = true // the model knows no sizes
		w.read(rd)
		w.settle()
		if rd.Failed != actors.Folded || len(h.Records) == 0 || len(h.Records) > 4 {
			t.Fatalf("%v %s: %d records", rd.Failed, rd.Why, len(h.Records))
		}
		for _, rec := range h.Records {
			if rec.Seq != from {
				t.Fatalf("seq %d where %d should be", rec.Seq, from)
			}
			from++
		}
		more = h.More
	}
	if from != 11 || pages < 3 {
		t.Errorf("%d pages end before seq %d", pages, from)
	}
}

// TestListMergesWhatIsNew: pages of a listing hold what is on disk and what is not, in order, whatever lies where.
func TestListMergesWhatIsNew(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	r := w.shards[0]
	r.lead()
	for round := range 3 {
		b := &actors.Batch{}
		for i := round; i < 60; i += 1 + round {
			b.Events = append(b.Events, w.event(fmt.Sprintf("%s%02d", []string{"a", "b", "ü"}[i%3], i), "+x", ""))
		}
		w.publish(b)
		w.settle()
		if round < 2 {
			r.checkpoint(t)
		}
		var reads []*actors.Read
		for _, prefix := range []string{"", "a", "a0", "b1", "c", "ü"} {
			for _, limit := range []int{1, 7, 1000} {
				after := ""
				for page := 0; page < 100; page++ {
					l := &actors.List{Kind: "book", Prefix: prefix, After: after, Limit: limit}
					w.listed[l] = 1
					rd := &actors.Read{Stale: true, List: l}
					reads = append(reads, rd)
					w.read(rd)
					if len(l.Grains) < limit {
						break
					}
					after = l.Grains[len(l.Grains)-1].Key
				}
			}
		}
		for _, rd := range reads {
			if rd.Failed != actors.Folded {
				t.Fatal(rd.Why)
			}
		}
	}
	w.checkAnswered()
}
