package actors_test

import (
	"testing"

	"github.com/granary-dev/granary/actors"
)

// follower asks a shard for what is behind an index, and keeps the answers.
type follower struct {
	w     *world
	r     *replica
	asked int
	done  []*actors.Read
}

func (f *follower) ask(after uint64, stale bool) *actors.Read {
	rd := &actors.Read{Stale: stale, Tail: &actors.Tail{After: after}, Done: func(rd *actors.Read) { f.done = append(f.done, rd) }}
	f.w.reads[rd] = false
	f.asked++
	f.r.step(rd)
	f.r.idle()
	return rd
}

func following(t *testing.T) *follower {
	w := newWorld(t, 1, 1<<20, 1000)
	t.Cleanup(w.close)
	w.shards[0].lead()
	return &follower{w: w, r: w.shards[0]}
}

// TestTailTellsWhatIsCommitted: a first tail waits for what was before it and for the confirmation, and never tells of
// what is only proposed; the next ones wait for more.
func TestTailTellsWhatIsCommitted(t *testing.T) {
	f := following(t)
	w, r := f.w, f.r
	base := r.committed
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "+x", "")}})
	r.idle()
	first := f.ask(0, false)
	r.confirm()
	if len(f.done) != 0 {
		t.Fatalf("answered with %+v before the entry ahead of it was committed", first.Tail.Place)
	}
	r.commit(1)
	w.settle()
	if len(f.done) != 1 || first.Failed != actors.Folded || first.Tail.Place.Index != base+1 || first.Tail.Place.Data != base+1 {
		t.Fatalf("%d answers, %v %+v", len(f.done), first.Failed, first.Tail.Place)
	}
	next := f.ask(base+1, true)
	w.settle()
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "+y", "")}})
	r.idle()
	if len(f.done) != 1 {
		t.Fatalf("answered with %+v before anything was committed", next.Tail.Place)
	}
	w.settle()
	if len(f.done) != 2 || next.Failed != actors.Folded || next.Tail.Place.Index != base+2 {
		t.Fatalf("%d answers, %v %+v", len(f.done), next.Failed, next.Tail.Place)
	}
}

// TestStaleTailSeesNothingAhead: one that skips the confirmation tells of nothing uncommitted either.
func TestStaleTailSeesNothingAhead(t *testing.T) {
	f := following(t)
	base := f.r.committed
	f.w.publish(&actors.Batch{Events: []actors.Event{f.w.event("a", "+x", "")}})
	f.r.idle()
	rd := f.ask(base-1, true)
	if len(f.done) != 0 && rd.Tail.Place.Index > base {
		t.Fatalf("tells of %+v, committed is %d", rd.Tail.Place, base)
	}
	f.w.settle()
}

// TestTailsEnd: a lost leader, and whoever gives up, leave no tail behind, each answered once.
func TestTailsEnd(t *testing.T) {
	f := following(t)
	r, base := f.r, f.r.committed
	var reads []*actors.Read
	for i := range 5 {
		reads = append(reads, f.ask(base+uint64(i%2), true))
	}
	for _, i := range []int{0, 4, 2} {
		r.step(actors.GiveUpRead{Read: reads[i]})
		r.step(actors.GiveUpRead{Read: reads[i]}) // again: nothing
	}
	if len(f.done) != 3 {
		t.Fatalf("%d answers", len(f.done))
	}
	// one that has not even taken its place
	waiting := f.ask(0, false)
	r.step(actors.GiveUpRead{Read: waiting})
	if len(f.done) != 4 || waiting.Failed != actors.Unavailable {
		t.Fatalf("%d answers, %v", len(f.done), waiting.Failed)
	}
	if !r.shard.Quiet() {
		t.Error("a shard whose subscribers wait is not quiet")
	}
	r.step(actors.Lost{})
	if len(f.done) != 6 {
		t.Fatalf("%d answers", len(f.done))
	}
	for i, rd := range f.done {
		if rd.Failed != actors.Unavailable {
			t.Errorf("answer %d: %v %s", i, rd.Failed, rd.Why)
		}
	}
	if rd := f.ask(0, true); rd.Failed != actors.Unavailable {
		t.Errorf("%v", rd.Failed)
	}
	r.step(actors.GiveUpRead{Read: reads[1]}) // answered long ago
}

// TestTailsAreBounded: one too many is told so, and there is room again when one has gone.
func TestTailsAreBounded(t *testing.T) {
	f := following(t)
	base := f.r.committed
	var last *actors.Read
	for range 4096 {
		last = f.ask(base, true)
	}
	if len(f.done) != 0 {
		t.Fatalf("%d answers: %v %s", len(f.done), f.done[0].Failed, f.done[0].Why)
	}
	if rd := f.ask(base, true); len(f.done) != 1 || rd.Failed != actors.Overloaded {
		t.Fatalf("%v %s", rd.Failed, rd.Why)
	}
	f.r.step(actors.GiveUpRead{Read: last})
	if f.ask(base, true); len(f.done) != 2 {
		t.Fatalf("%d answers", len(f.done))
	}
	f.w.publish(&actors.Batch{Events: []actors.Event{f.w.event("a", "+x", "")}})
	f.w.settle()
	if len(f.done) != f.asked {
		t.Errorf("%d of %d answered", len(f.done), f.asked)
	}
}
