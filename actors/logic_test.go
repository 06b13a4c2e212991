package actors_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/grains"
)

// books is a catalog with one kind of books, whose logic is another one.
func books(t *testing.T, version uint32, handle func(*grains.Turn, *wrapperspb.StringValue, *wrapperspb.StringValue) error) *grains.Catalog {
	t.Helper()
	c, err := grains.NewCatalog(grains.Kind[*wrapperspb.StringValue]{Name: "book", Version: version, SnapshotEvery: 4,
		Handlers: grains.Handlers[*wrapperspb.StringValue]{grains.On(handle)}}.MustDefine())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestOtherLogicIsNotServed: a grain whose records were made by other logic than what this binary has for their version is
// not loaded: neither read, nor changed.
func TestOtherLogicIsNotServed(t *testing.T) {
	for _, test := range []struct {
		name    string
		catalog *grains.Catalog
		why     string
	}{
		{"other sends", books(t, 1, func(turn *grains.Turn, s, e *wrapperspb.StringValue) error {
			turn.Send("book/b", e)
			return nil
		}), "digest of its effects"},
		{"fails", books(t, 1, func(*grains.Turn, *wrapperspb.StringValue, *wrapperspb.StringValue) error {
			return errors.New("now I cannot")
		}), "now I cannot"},
		{"panics", books(t, 1, func(*grains.Turn, *wrapperspb.StringValue, *wrapperspb.StringValue) error { panic("at replay") }), "at replay"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 1, 1<<20, 4)
			defer w.close()
			r := w.shards[0]
			r.lead()
			w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "+1 >b:+x", "id1")}})
			w.settle()
			w.catalog = test.catalog
			r.crash(0)
			r.lead()
			b := &actors.Batch{Events: []actors.Event{w.event("a", "+2", "id2")}}
			w.publish(b)
			rd := &actors.Read{Get: &actors.Get{Kind: w.kind("book"), Key: "a"}}
			w.read(rd)
			past := &actors.Read{Get: &actors.Get{Kind: w.kind("book"), Key: "a", AtSeq: 1}}
			w.read(past)
			w.settle()
			if b.Refused != actors.Folded || b.Results[0].Outcome != actors.LogicMissing || !strings.Contains(b.Results[0].Reason, test.why) {
				t.Errorf("publish: %v %s %+v", b.Refused, b.Why, b.Results)
			}
			for _, rd := range []*actors.Read{rd, past} {
				if rd.Failed != actors.LogicMissing || !strings.Contains(rd.Why, test.why) || rd.Lack != nil {
					t.Errorf("get: %v %s, lacks %v", rd.Failed, rd.Why, rd.Lack)
				}
			}
			if n := r.model.seq("book/a"); n != 1 {
				t.Errorf("the grain has %d records", n)
			}
			// what needs no state is served: its records, and what an event's outcome was
			again := &actors.Batch{Events: []actors.Event{w.event("a", "+1 >b:+x", "id1")}}
			w.publish(again)
			h := &actors.Read{History: &actors.History{Kind: w.kind("book"), Key: "a", Limit: 10}}
			w.read(h)
			w.settle()
			if !again.Results[0].Duplicate || again.Results[0].Seq != 1 || len(h.History.Records) != 1 {
				t.Errorf("%+v, %d records", again.Results[0], len(h.History.Records))
			}
		})
	}
}

// TestSnapshotOfOlderLogicIsTaken: where all is snapshotted, a newer version goes on without the logic of the older one.
// One below the journal's does not lead, whatever it has.
func TestSnapshotOfOlderLogicIsTaken(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 4)
	defer w.close()
	r := w.shards[0]
	r.lead()
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "+1", ""), w.event("a", "+2", ""), w.event("a", "+3", ""), w.event("a", "+4", "")}})
	w.settle()
	w.catalog = bookCatalog(4, 2)
	r.crash(0)
	r.lead()
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "+5", ""), w.event("a", "+6", ""), w.event("a", "+7", ""), w.event("a", "+8", "")}})
	w.settle()
	w.checkStates()
	past := &actors.Read{Get: &actors.Get{Kind: w.kind("book"), Key: "a", AtSeq: 2}}
	w.read(past)
	w.settle()
	if past.Failed != actors.LogicMissing || past.Lack == nil || *past.Lack != (actors.Lack{Kind: "book", Version: 1, Have: 2, Grains: 1}) {
		t.Errorf("the past: %v %s, lacks %v", past.Failed, past.Why, past.Lack)
	}
	w.catalog = bookCatalog(4, 1)
	r.crash(0)
	r.lead()
	rd := &actors.Read{Get: &actors.Get{Kind: w.kind("book"), Key: "a"}}
	w.read(rd)
	b := &actors.Batch{Events: []actors.Event{w.event("a", "+9", "")}}
	w.publish(b)
	w.settle()
	if rd.Failed != actors.LogicMissing || !strings.Contains(rd.Why, "1 grain needs version 2 of its logic, this binary has version 1") {
		t.Errorf("%v %s", rd.Failed, rd.Why)
	}
	for _, lack := range []*actors.Lack{rd.Lack, b.Lack} {
		if lack == nil || *lack != (actors.Lack{Kind: "book", Version: 2, Have: 1, Grains: 1}) {
			t.Errorf("lacks %v", lack)
		}
	}
}

// TestSendToOtherLogicIsKept: a binary that lacks the logic a grain needs must not journal its sends away as dead
// letters: with the right binary they take effect.
func TestSendToOtherLogicIsKept(t *testing.T) {
	w := newWorld(t, 2, 1<<20, 1000)
	defer w.close()
	for _, r := range w.shards {
		r.lead()
	}
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a@2", "+1", "")}})
	w.settle()
	right := w.catalog
	target := w.shards[1]
	w.catalog = bookCatalog(1000, 2)
	target.crash(0)
	target.lead()
	w.catalog = right
	w.publish(&actors.Batch{Events: []actors.Event{w.event("b", ">a@2:+2", "")}})
	for range 20 {
		w.settleSome()
	}
	if target.unfit == nil || target.model.seq("book/a@2") != 1 || w.shards[0].shard.Quiet() {
		t.Fatalf("the target goes on: %v, %d records", target.unfit, target.model.seq("book/a@2"))
	}
	target.crash(0)
	w.settle()
	w.checkSends()
	w.checkStates()
	if n := target.model.seq("book/a@2"); n != 2 {
		t.Errorf("the target has %d records", n)
	}
}

// TestRetiredKind: a kind that the catalog has no more is nobody's concern, unless it is in the middle of a cut: then its
// shard waits for a binary that can tell its grains apart.
func TestRetiredKind(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	w.cutGrains = 1
	r := w.shards[0]
	r.lead()
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "+1", ""), w.event("b", "+1", ""), w.event("c", "+1", "")}})
	w.settle()
	none, err := grains.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	retire := func() {
		t.Helper()
		w.catalog = none
		r.crash(len(r.proposed))
		r.lead()
	}
	if retire(); !r.shard.Leading() {
		t.Fatalf("%v", r.unfit)
	}
	w.catalog = bookCatalog(1000, 2, 1)
	r.crash(0)
	r.elect()
	r.commit(len(r.proposed))
	w.publish(&actors.Batch{Events: []actors.Event{w.event("c", "+2", "")}})
	r.idle() // cuts a
	if retire(); r.unfit == nil || !strings.Contains(r.unfit.Error(), `kind "book": 1 grain needs version 1 of its logic, this binary does not have the kind; kind "book": 1 grain needs version 2`) {
		t.Fatalf("%v", r.unfit)
	}
	w.catalog = bookCatalog(1000, 2, 1)
	r.crash(0)
	w.settle()
	w.checkStates()
	if retire(); !r.shard.Leading() {
		t.Fatalf("behind the cut: %v", r.unfit)
	}
}
