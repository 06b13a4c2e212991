package actors_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/granary-dev/granary/actors"
)

// testAsk is an ask as its client remembers it: it is asked again, with the same id, until there is a reply.
type testAsk struct {
	event   testEvent
	batches []*actors.Batch // that have no answer
	settled bool            // the reply is known, or that there is none
	reply   string
	seq     uint64 // of the event, once it is known
}

// ask asks a book that replies, defers to another, or does neither.
func (c *clients) ask() {
	id := fmt.Sprintf("ask%d", c.ids)
	words := c.words()
	switch rapid.IntRange(0, 5).Draw(c.t, "reply") {
	case 0:
		words += " reply:" + id
	case 1, 2:
		words += " defer:" + c.key()
	case 3:
		words += " defer2:" + c.key()
	case 4:
		words += " defer:" + c.key() + " >" + c.key() + ":answer:book/a#1:forged"
	}
	a := &testAsk{event: testEvent{key: c.key(), words: words, id: id}}
	c.asks = append(c.asks, a)
	c.send1(a)
}

// askAgain asks what was asked before, whether or not the reply is known; or has it answered once more.
func (c *clients) askAgain() {
	if len(c.asks) == 0 {
		return
	}
	a := c.asks[rapid.IntRange(0, len(c.asks)-1).Draw(c.t, "ask again")]
	if rapid.Bool().Draw(c.t, "late answer") {
		c.answerLate(a)
		return
	}
	c.send1(a)
}

// answerLate has a book answer what is answered, if it is known to be.
func (c *clients) answerLate(a *testAsk) {
	if a.seq != 0 {
		id := fmt.Sprintf("id%d", c.ids)
		c.ids++
		c.send([]testEvent{{key: c.key(), words: fmt.Sprintf("answer:book/%s#%d:late", a.event.key, a.seq), id: id}})
	}
}

func (c *clients) send1(a *testAsk) {
	b := &actors.Batch{Ask: true, Events: []actors.Event{c.w.event(a.event.key, a.event.words, a.event.id)}}
	a.batches = append(a.batches, b)
	done := func() { a.batches = slices.DeleteFunc(a.batches, func(o *actors.Batch) bool { return o == b }) }
	b.Done = func(*actors.Batch) {
		done()
		if b.Refused != actors.Folded {
			return
		}
		r := b.Results[0]
		if r.Outcome > actors.DeadLettered {
			c.t.Fatalf("%+v: %+v", a.event, r)
		}
		a.seq = r.Seq
		reply := replyText(r.Reply)
		if r.Deferred && r.Reply == nil {
			return // given up
		}
		if a.settled && reply != a.reply {
			c.t.Fatalf("%+v: the reply is %q, it was %q", a.event, reply, a.reply)
		}
		a.settled, a.reply = true, reply
	}
	c.w.publish(b)
	c.w.orphans[b] = done
	c.w.shards[c.w.shardOfBatch(b)-1].idle()
}

// giveUp lets somebody who asks wait no more.
func (c *clients) giveUp() {
	for _, a := range c.asks {
		if len(a.batches) > 0 && rapid.Bool().Draw(c.t, "gives up") {
			b := a.batches[0]
			c.w.gaveUp = true
			c.w.shards[c.w.shardOfBatch(b)-1].step(actors.GiveUp{Batch: b})
			return
		}
	}
}

// checkReplies asks everything once more: now everybody gets the reply, the one of before where it is known. So it is when
// everything is answered again, and behind a crash.
func (c *clients) checkReplies() {
	for range 2 {
		for _, a := range c.asks {
			c.send1(a)
		}
		c.w.settle()
		for _, a := range c.asks {
			c.answerLate(a)
		}
		c.w.settle()
		for _, r := range c.w.shards {
			r.crash(0)
		}
		c.w.settle()
	}
	for _, a := range c.asks {
		if !a.settled || len(a.batches) > 0 {
			c.t.Fatalf("%+v has no reply", a.event)
		}
	}
	for _, r := range c.w.shards {
		if n := r.shard.Asking(); n != 0 {
			c.t.Fatalf("shard %d: %d wait for a reply, and nobody does", r.id, n)
		}
	}
}

// TestManyAsks: those who wait for replies are bounded, whoever is too much is told so and gets the reply with the same
// id, and none is left behind when they give up.
func TestManyAsks(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000, 1<<20)
	defer w.close()
	r := w.shards[0]
	r.lead()
	const limit = 16 << 10
	ask := func(id string) *actors.Batch {
		b := &actors.Batch{Ask: true, Events: []actors.Event{w.event("a", "defer", id)}}
		w.publish(b)
		return b
	}
	first := ask("the same")
	w.settle()
	batches := []*actors.Batch{first}
	for range limit - 1 {
		batches = append(batches, ask("the same"))
	}
	if n := r.shard.Asking(); n != limit {
		t.Fatalf("%d wait", n)
	}
	tooMany := ask("the same")
	if got := tooMany.Results[0]; got.Outcome != actors.Overloaded || got.Seq != 1 || got.Reason == "" {
		t.Fatalf("%+v", got)
	}
	w.gaveUp = true
	for _, b := range batches[1:] {
		r.step(actors.GiveUp{Batch: b})
		r.step(actors.GiveUp{Batch: b}) // twice is once
		if !w.batches[b] {
			t.Fatal("it gave up and has no answer")
		}
	}
	if n := r.shard.Asking(); n != 1 {
		t.Fatalf("%d wait", n)
	}
	w.publish(&actors.Batch{Events: []actors.Event{w.event("b", "answer:book/a#1:x", "")}})
	w.settle()
	if got := replyText(first.Results[0].Reply); got != "x-b-9" || r.shard.Asking() != 0 {
		t.Fatalf("%q, and %d wait", got, r.shard.Asking())
	}
}
