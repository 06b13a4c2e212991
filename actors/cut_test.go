package actors_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/entry"
)

// TestRandomCuts raises the version of a kind again and again, in machines that crash with a part of the cut committed, and
// lets binaries without the earlier logic try to lead in between. The world's model folds each record by the version that
// it names, and holds snapshots, states of now and of the past, and sends against that.
func TestRandomCuts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.SampledFrom([]int64{1, 1 << 20}).Draw(t, "budget")
		w := newWorld(t, 1, budget, rapid.SampledFrom([]int{3, 8, 1000}).Draw(t, "snapshot every"),
			rapid.SampledFrom([]int{1, 10, 1000}).Draw(t, "checkpoint records"))
		defer w.close()
		w.cutGrains = rapid.IntRange(1, 3).Draw(t, "cut grains")
		w.flights = rapid.IntRange(1, 4).Draw(t, "flights")
		if *traced {
			w.trace = t.Logf
		}
		c := &clients{w: w, t: t, keys: []string{"a", "b", "c", "d", "e"}, bodies: map[string]string{}, version: 1}
		r := w.shards[0]
		r.lead()
		for range rapid.IntRange(10, 60).Draw(t, "steps") {
			c.actOnVersions(r)
		}
		w.settle()
		for name := range r.model.grains {
			if t := r.model.tail(name); len(t) > 0 && strings.HasPrefix(name, "book/") && int(t[0]) < c.version {
				c.t.Fatalf("the cut to version %d does not end: %s has records of version %d behind its last snapshot", c.version, name, t[0])
			}
		}
		w.checkAnswered()
		w.checkSends()
		w.checkStates()
		c.checkPast(r)
		c.checkOnce()
	})
}

// TestDeadLetterBehindACut: a dead letter names no logic, so a record of it behind a tail of an earlier version would hide
// that tail from the cut. Where the tail cannot be snapshotted, the shard stops and keeps the send, until a binary comes
// that can.
func TestDeadLetterBehindACut(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	r := w.shards[0]
	r.lead()
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "+1 >a:+self", "")}})
	w.settle()
	wrong, err := grains.NewCatalog(grains.Kind[*wrapperspb.StringValue]{Name: "book", Version: 2, SnapshotEvery: 1000,
		Handlers: grains.Handlers[*wrapperspb.StringValue]{grains.On(bookOf(2))},
		Earlier: []grains.Logic[*wrapperspb.StringValue]{{Version: 1, Handlers: grains.Handlers[*wrapperspb.StringValue]{
			grains.On(func(*grains.Turn, *wrapperspb.StringValue, *wrapperspb.StringValue) error { return nil }),
		}}}}.MustDefine())
	if err != nil {
		t.Fatal(err)
	}
	w.catalog = wrong
	r.crash(0)
	r.lead()
	w.settle()
	if len(r.cuts) != 1 || !r.cuts[0].Failed {
		t.Fatalf("the cut with the wrong logic: %+v", r.cuts)
	}
	w.publish(&actors.Batch{Events: []actors.Event{w.event("c", "odd:a", "")}})
	w.settle()
	if n := r.model.seq("book/a"); r.failed == nil || !strings.Contains(r.failed.Error(), "book/a") || n != 2 {
		t.Fatalf("the shard stops with: %v; book/a has %d records", r.failed, n)
	}
	w.catalog = bookCatalog(1000, 2, 1)
	r.crash(0)
	w.settle()
	w.checkSends()
	w.checkStates()
	letter := r.model.record("book/a", 3)
	if letter == nil || letter.typ != entry.DeadLetter || letter.logic != 2 || r.model.covered["book/a"] != 2 || r.model.logic != 2 {
		t.Errorf("%+v behind a snapshot at %d, books have version %d", letter, r.model.covered["book/a"], r.model.logic)
	}
}

// actOnVersions draws one thing that happens.
func (c *clients) actOnVersions(r *replica) {
	t := c.t
	switch rapid.IntRange(0, 15).Draw(t, "act") {
	case 0, 1, 2, 3:
		key, b := c.key(), &actors.Batch{}
		for range rapid.SampledFrom([]int{1, 1, 1, 12}).Draw(t, "events") { // many, so that a state is stored beside the log
			words := c.words()
			if rapid.IntRange(0, 5).Draw(t, "odd") == 0 {
				words += " odd:" + c.key()
			}
			b.Events = append(b.Events, c.w.event(key, words, ""))
		}
		c.w.publish(b)
		if rapid.Bool().Draw(t, "idle") {
			r.idle()
		}
	case 4, 5, 6:
		r.commit(rapid.IntRange(0, len(r.proposed)).Draw(t, "commit"))
		r.idle()
	case 7:
		if len(c.w.net) > 0 {
			c.w.deliver(0)
		}
	case 8:
		if err := r.shard.Close(); err != nil {
			t.Fatal(err)
		}
	case 9:
		r.crash(rapid.IntRange(0, len(r.proposed)).Draw(t, "survive"))
	case 10, 11:
		if !r.leads {
			r.elect()
		}
		r.commit(len(r.proposed))
		if rapid.Bool().Draw(t, "idle") {
			r.idle()
		}
	case 12, 13:
		if c.version < 6 {
			c.version++
		}
		c.binary(c.version, true)
	case 14:
		c.wrongBinary()
	default:
		c.read()
		r.confirm()
	}
}

// readAll reads the books of a shard as they are now: all of them must be served.
func (c *clients) readAll(r *replica) {
	for _, name := range sortedKeys(r.model.grains) {
		kind, key, _ := strings.Cut(name, "/")
		if kind != "book" {
			continue
		}
		rd := &actors.Read{Stale: true, Get: &actors.Get{Kind: c.w.kind(kind), Key: key}}
		c.w.read(rd)
		r.commit(len(r.proposed))
		r.idle()
		r.commit(len(r.proposed))
		if rd.Failed != actors.Folded || rd.Get.Seq != r.model.seq(name) {
			c.t.Fatalf("%s at seq %d of %d: %v %s", name, rd.Get.Seq, r.model.seq(name), rd.Failed, rd.Why)
		}
	}
}

// checkPast reads every moment of every book; what is read is judged on the way.
func (c *clients) checkPast(r *replica) {
	for _, name := range sortedKeys(r.model.grains) {
		kind, key, _ := strings.Cut(name, "/")
		for seq := uint64(1); kind == "book" && seq <= r.model.seq(name); seq++ {
			rd := &actors.Read{Get: &actors.Get{Kind: c.w.kind(kind), Key: key, AtSeq: seq}}
			c.w.read(rd)
			c.w.settle()
			if rd.Failed != actors.Folded {
				c.t.Fatalf("%s seq %d: %v %s", name, seq, rd.Failed, rd.Why)
			}
		}
	}
}

// binary crashes all machines and starts them with another binary: it has the book in a version, and with the logic of all
// earlier ones or with none.
func (c *clients) binary(version int, keeps bool) {
	var earlier []int
	for v := 1; v < version && keeps; v++ {
		earlier = append(earlier, v)
	}
	c.w.catalog = bookCatalog(c.w.kind("book").SnapshotEvery, version, earlier...)
	for _, r := range c.w.shards {
		r.crash(rapid.IntRange(0, len(r.proposed)).Draw(c.t, "survive"))
	}
	for _, p := range c.producers {
		for _, b := range p.late { // it finds another binary at the door
			for i := range b.Events {
				b.Events[i].Kind = c.w.kind("book")
				b.Events[i].Type = b.Events[i].Kind.Events()[0]
			}
		}
	}
}

// wrongBinary lets a binary try to lead that may lack logic: an older one, or one that keeps nothing. A shard that leads
// needs none of it for what is there now; one that does not says how many grains do. Then the right binary comes back.
func (c *clients) wrongBinary() {
	version := rapid.IntRange(max(1, c.version-1), c.version).Draw(c.t, "version")
	c.binary(version, version < c.version && rapid.Bool().Draw(c.t, "keeps"))
	for _, r := range c.w.shards {
		r.lead()
		need, newer := map[uint32]int{}, int(r.model.logic) > version
		grains := 0
		for name, records := range r.model.grains {
			if !strings.HasPrefix(name, "book/") {
				continue
			}
			if len(records) > int(r.model.covered[name]) {
				grains++
			}
			for _, rec := range records {
				newer = newer || int(rec.logic) > version
			}
			if t := r.model.tail(name); len(t) > 0 && int(t[0]) < version {
				need[t[0]]++
			}
		}
		kept, _ := c.w.kind("book").At(1)
		lacks := newer || kept == nil && len(need) > 0
		if lacks != (r.unfit != nil) {
			c.t.Fatalf("shard %d: a binary with version %d, others kept: %t, leads: %t (%v); its grains need %v, there are newer ones: %t", r.id, version, kept != nil,
				r.shard.Leading(), r.unfit, need, newer)
		}
		if r.unfit == nil {
			c.readAll(r)
			continue
		}
		for _, l := range r.unfit.Lacks {
			if l.Kind != "book" || int(l.Have) != version || l.Grains < need[l.Version] || l.Version < l.Have && l.Grains > grains {
				c.t.Fatalf("shard %d: %v; its grains need %v, %d have a tail", r.id, r.unfit, need, grains)
			}
		}
	}
	c.binary(c.version, true)
}
