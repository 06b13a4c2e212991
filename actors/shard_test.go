package actors_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/granary-dev/granary/actors"
)

// TestOverloadedByWhatIsUncommitted: with 8 MiB under way the shard asks for no more, until they are committed.
func TestOverloadedByWhatIsUncommitted(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	r := w.shards[0]
	r.lead()
	n := 0
	for ; !r.shard.Overloaded(); n++ {
		if n > 20 {
			t.Fatal("20 MiB are under way")
		}
		w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "!"+strings.Repeat("-", 500_000), "")}})
		r.idle()
	}
	if n < 8 {
		t.Errorf("overloaded at %d MiB", n)
	}
	w.settle()
	if r.shard.Overloaded() {
		t.Error("still overloaded when all is committed")
	}
}

// TestCheckpointsComeByThemselves: a shard writes what it derived without being told, so that a restart replays little.
func TestCheckpointsComeByThemselves(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	r := w.shards[0]
	r.lead()
	for i := range 5 {
		b := &actors.Batch{}
		for j := range 1000 {
			b.Events = append(b.Events, w.event(fmt.Sprintf("g%d", j), "+x", fmt.Sprintf("%d-%d", i, j)))
		}
		w.publish(b)
		w.settle()
	}
	if n := r.shard.Stats.Checkpoints; n == 0 {
		t.Error("no checkpoint after 5,000 records")
	}
	r.crash(0)
	w.settle()
	b := &actors.Batch{Events: []actors.Event{w.event("g7", "+x", "0-7"), w.event("g7", "+x", "4-7")}}
	w.publish(b)
	w.settle()
	for i, seq := range []uint64{1, 5} {
		if res := b.Results[i]; !res.Duplicate || res.Seq != seq {
			t.Errorf("%+v", res)
		}
	}
}

// TestEntriesAreBounded: an open entry is closed at 64 KiB, however long the one before it takes.
func TestEntriesAreBounded(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	r := w.shards[0]
	r.lead()
	b := &actors.Batch{}
	for range 300 {
		b.Events = append(b.Events, w.event("a", "!"+strings.Repeat("-", 1000), ""))
	}
	w.publish(b)
	r.idle()
	if n := len(r.proposed); n < 5 {
		t.Errorf("%d entries are under way", n)
	}
	for _, e := range r.proposed {
		if n := len(e.GetData()); n > 64<<10+4<<10 {
			t.Errorf("an entry of %d bytes", n)
		}
	}
	w.settle()
	w.checkAnswered()
}

// TestFailedShardAnswersAll: when a shard cannot go on, whoever waits is told.
func TestFailedShardAnswersAll(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	r := w.shards[0]
	r.lead()
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "+1", "")}})
	r.idle()
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "+2", "")}})
	w.read(&actors.Read{Get: &actors.Get{Kind: w.kind("book"), Key: "a"}})
	r.step("nonsense")
	if r.failed == nil {
		t.Fatal("the shard takes anything")
	}
	w.checkAnswered()
}
