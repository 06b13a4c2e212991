package actors_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/granary-dev/granary/actors"
)

var traced = flag.Bool("traced", false, "log all that leaves a shard in the random tests")

// TestRandom lets clients publish, repeat, reconnect and read while entries are committed late, messages are lost,
// doubled and overtaken, leaders fall, machines crash, the clock jumps, and newer binaries come with newer logic. The world judges all that leaves a shard on the
// way; in the end everything published must be there once, and everybody answered.
//
// A failure prints a -rapid.failfile to repeat it with.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.SampledFrom([]int64{1, 10 << 10, 1 << 20}).Draw(t, "budget")
		w := newWorld(t, 2, budget, rapid.SampledFrom([]int{1, 3, 8, 1000}).Draw(t, "snapshot every"),
			rapid.SampledFrom([]int{1, 10, 100}).Draw(t, "checkpoint records"), rapid.IntRange(1, 4).Draw(t, "flights"))
		defer w.close()
		w.cutGrains = rapid.SampledFrom([]int{1, 16}).Draw(t, "cut grains")
		if *traced {
			w.trace = t.Logf
		}
		c := &clients{w: w, t: t, keys: testKeys, bodies: map[string]string{}, version: 1}
		for i := range 2 {
			c.producers = append(c.producers, &testProducer{clients: c, name: fmt.Sprintf("p%d", i), epoch: 1})
		}
		for _, r := range w.shards {
			r.lead()
		}
		for range rapid.IntRange(10, 120).Draw(t, "steps") {
			c.act()
		}
		// now everything goes well again, and everybody gets an answer to everything
		w.settle()
		for _, p := range c.producers {
			for range 3 {
				p.reconnect()
				w.settle()
			}
			if len(p.waiting) > 0 {
				t.Fatalf("%s: %d events without an answer", p.name, len(p.waiting))
			}
		}
		c.repeat(len(c.open))
		w.settle()
		if len(c.open) > 0 {
			t.Fatalf("%d batches without an answer", len(c.open))
		}
		c.checkReplies()
		w.checkAnswered()
		w.checkSends()
		w.checkReminders()
		w.checkStates()
		w.checkOpen()
		c.checkOnce()
	})
}

// clients publish to a world and remember what they were told.
type clients struct {
	w         *world
	t         *rapid.T
	producers []*testProducer
	open      [][]testEvent // batches with ids that have no answer
	done      []testEvent   // with their results
	keys      []string
	bodies    map[string]string
	ids       int
	version   int // of the kind book
	asks      []*testAsk
}

// testEvent is an event as a client remembers it.
type testEvent struct {
	key, words, id string
	sequence       uint64
	result         actors.Result
}

var testKeys = []string{"a", "b", "c@2", "d@2"}

// words draws an event's words: mostly items, some sends, now and then a failure.
func (c *clients) words() string {
	item := fmt.Sprintf("+%d", c.ids)
	c.ids++
	switch rapid.IntRange(0, 23).Draw(c.t, "words") {
	case 0:
		return "!no" + item
	case 1:
		return item + " fail"
	case 2:
		return item + " panic"
	case 3, 4, 5:
		return fmt.Sprintf("%s >%s:+s%s >%s:+t%s", item, c.key(), item[1:], c.key(), item[1:])
	case 6:
		return fmt.Sprintf("%s >ghost/x:+x >deaf/y@%d:+y >%s:fail", item, len(c.w.shards), c.key())
	case 7:
		return item + " now from"
	case 9:
		return fmt.Sprintf("%s needs:%d until:%d >%s:+u%s", item, rapid.IntRange(0, c.ids).Draw(c.t, "needs"), rapid.IntRange(1, 3).Draw(c.t, "until"), c.key(), item[1:])
	case 10:
		return fmt.Sprintf("%s >%s:+v%s;needs:%d;from", item, c.key(), item[1:], rapid.IntRange(0, c.ids).Draw(c.t, "needs"))
	case 8:
		if rapid.IntRange(0, 9).Draw(c.t, "large") == 0 {
			return item + " big:150000"
		}
		return "!" + strings.Repeat("-", 20_000) // long to journal, and no longer state
	case 11, 12, 13, 14:
		return item + " " + c.remind(item)
	case 16, 17:
		return fmt.Sprintf("%s cancel:%d.%d", item, rapid.IntRange(1, 12).Draw(c.t, "seq"), rapid.IntRange(0, 2).Draw(c.t, "effect"))
	case 15:
		return fmt.Sprintf("%s in:0:+r%s cancel:%d.1", item, item[1:], rapid.IntRange(1, 12).Draw(c.t, "seq"))
	}
	return item
}

// remind draws a word that sets a reminder, whose turn may fail, be refused, send, or set another.
func (c *clients) remind(item string) string {
	what := rapid.SampledFrom([]string{"+r" + item[1:], "+r" + item[1:], "!no", "fail", "panic", fmt.Sprintf(">%s:+r%s", c.key(), item[1:]),
		"in:50:+rr" + item[1:], "cancel:2.0", "big:150000"}).Draw(c.t, "reminder")
	switch rapid.IntRange(0, 5).Draw(c.t, "when") {
	case 0:
		return "at:1000:" + what
	case 1:
		return "every:" + rapid.SampledFrom([]string{"1000", "60000"}).Draw(c.t, "every") + ":" + what
	}
	return fmt.Sprintf("in:%d:%s", rapid.SampledFrom([]int{0, 1, 60, 600, 60_000}).Draw(c.t, "after"), what)
}

func (c *clients) key() string { return rapid.SampledFrom(c.keys).Draw(c.t, "key") }

func (c *clients) shard() *replica {
	return c.w.shards[rapid.IntRange(0, len(c.w.shards)-1).Draw(c.t, "shard")]
}

func (c *clients) producer() *testProducer {
	return c.producers[rapid.IntRange(0, 1).Draw(c.t, "producer")]
}

// act draws one thing that happens.
func (c *clients) act() {
	w, t := c.w, c.t
	switch rapid.IntRange(0, 44).Draw(t, "act") {
	case 0, 1, 2, 3:
		c.publish()
	case 4:
		c.repeat(1)
	case 5:
		c.again()
	case 6, 7, 8, 9:
		c.producer().publish(rapid.SampledFrom([]string{"arrives", "arrives", "late", "lost"}).Draw(t, "fate"))
	case 10, 11:
		c.producer().reconnect()
		c.producer().arrive()
	case 12, 13, 14, 15:
		r := c.shard()
		r.commit(rapid.IntRange(0, len(r.proposed)).Draw(t, "commit"))
		r.idle()
	case 16, 17, 18:
		if len(w.net) > 0 {
			w.deliver(rapid.IntRange(0, min(3, len(w.net)-1)).Draw(t, "deliver"))
		}
	case 19:
		if len(w.net) > 0 {
			i := rapid.IntRange(0, len(w.net)-1).Draw(t, "message")
			if rapid.Bool().Draw(t, "doubled") {
				w.hand(w.net[i])
			} else {
				w.net = append(w.net[:i:i], w.net[i+1:]...)
			}
		}
	case 20:
		r := c.shard()
		if rapid.Bool().Draw(t, "dropped") {
			r.proposed = r.proposed[:rapid.IntRange(0, len(r.proposed)).Draw(t, "kept")]
		}
		r.lose()
	case 21:
		if r := c.shard(); !r.leads {
			r.elect()
		}
	case 22:
		r := c.shard()
		r.crash(rapid.IntRange(0, len(r.proposed)).Draw(t, "survive"))
	case 23:
		w.now += rapid.SampledFrom([]int64{1, 1000, 60_000, 600e6, -1, -600e6, 100_000}).Draw(t, "clock")
	case 24:
		if err := c.shard().shard.Close(); err != nil {
			t.Fatal(err)
		}
	case 25:
		c.shard().confirm()
	case 26, 39, 40, 41:
		r := c.shard()
		r.step(actors.Tick{})
		r.idle()
	case 27:
		if r := c.shard(); r.leads {
			r.take(actors.Proposal{Term: r.term, Round: r.round}) // a proposal that is refused
		}
	case 28:
		if c.version < 4 {
			c.version++
		}
		c.binary(c.version, true)
	case 29:
		c.wrongBinary()
	case 30, 31, 32, 33:
		c.ask()
	case 34, 35:
		c.askAgain()
	case 36:
		c.giveUp()
	case 37, 38:
		c.settle()
	default:
		c.read()
	}
}

func (c *clients) read() {
	t, key := c.t, c.key()
	kind := c.w.kind("book")
	rd := &actors.Read{Stale: rapid.Bool().Draw(t, "stale")}
	seq := func(name string) uint64 { return uint64(rapid.IntRange(0, 12).Draw(t, name)) }
	switch rapid.IntRange(0, 8).Draw(t, "read") {
	case 0, 1, 2:
		rd.Get = &actors.Get{Kind: kind, Key: key}
	case 3, 4:
		rd.Get = &actors.Get{Kind: kind, Key: key, AtSeq: 1 + seq("seq")}
	case 5:
		rd.Get = &actors.Get{Kind: kind, Key: key, AtTime: c.w.now}
		if records := c.w.shards[shardOf("", []byte(key))-1].model.grains["book/"+key]; len(records) > 0 {
			rd.Get.AtTime = records[rapid.IntRange(0, len(records)-1).Draw(t, "record")].time + int64(rapid.IntRange(-1, 1).Draw(t, "beside"))
		}
	case 6:
		rd.History = &actors.History{Kind: kind, Key: key, From: seq("from"), To: seq("to"), Limit: 1 + int(seq("limit")), NewestFirst: rapid.Bool().Draw(t, "newest")}
	case 7:
		rd.Reminders = &actors.Reminders{Kind: "book", Prefix: rapid.SampledFrom([]string{"", "b", "c"}).Draw(t, "prefix"), Bytes: 1 << 30,
			Key: rapid.SampledFrom([]string{"", "", "a"}).Draw(t, "only"), Limit: 1 + int(seq("limit"))}
		if rapid.Bool().Draw(t, "page") {
			rd.Reminders.AfterKey, rd.Reminders.AfterID = key, seq("after")*1024
		}
		c.w.remindersOf[rd.Reminders] = c.shard().id
	default:
		rd.List = &actors.List{Kind: "book", Prefix: rapid.SampledFrom([]string{"", "b", "c"}).Draw(t, "prefix"),
			After: rapid.SampledFrom([]string{"", "a", "d@2"}).Draw(t, "after"), Limit: 1 + int(seq("limit"))}
		c.w.listed[rd.List] = c.shard().id
	}
	c.w.read(rd)
	c.shard().idle()
}

// publish publishes some events with ids to one shard.
func (c *clients) publish() {
	key := c.key()
	var events []testEvent
	for range rapid.IntRange(1, 4).Draw(c.t, "events") {
		k := c.key()
		if shardOf("", []byte(k)) != shardOf("", []byte(key)) {
			k = key
		}
		id := fmt.Sprintf("id%d", c.ids)
		words := c.words()
		c.bodies[k+" "+id] = words
		events = append(events, testEvent{key: k, words: words, id: id})
	}
	c.send(events)
}

// repeat publishes batches again of which nobody knows what became of them.
func (c *clients) repeat(n int) {
	for range min(n, len(c.open)) {
		events := c.open[0]
		c.open = c.open[1:]
		c.send(events)
	}
}

func (c *clients) send(events []testEvent) {
	b := &actors.Batch{}
	for _, e := range events {
		b.Events = append(b.Events, c.w.event(e.key, e.words, e.id))
	}
	answered := false
	b.Done = func(b *actors.Batch) {
		answered = true
		if b.Refused != actors.Folded {
			c.open = append(c.open, events)
			return
		}
		for i := range events {
			events[i].result = b.Results[i]
			c.done = append(c.done, events[i])
		}
	}
	crashed := func() {
		if !answered {
			c.open = append(c.open, events)
		}
	}
	c.w.publish(b)
	c.w.shards[c.w.shardOfBatch(b)-1].idle()
	if !answered {
		c.w.orphans[b] = crashed
	}
}

// again publishes an event that was acknowledged, or its id with another body.
func (c *clients) again() {
	if len(c.done) == 0 {
		return
	}
	e := c.done[rapid.IntRange(0, len(c.done)-1).Draw(c.t, "again")]
	other := rapid.Bool().Draw(c.t, "other")
	words := e.words
	if other {
		words += " +other"
	}
	b := &actors.Batch{Events: []actors.Event{c.w.event(e.key, words, e.id)}}
	b.Done = func(b *actors.Batch) {
		if b.Refused != actors.Folded {
			return
		}
		r := b.Results[0]
		switch {
		case other && r.Outcome != actors.Conflict:
			c.t.Fatalf("%s %s with another body: %+v", e.key, e.id, r)
		case !other && (!r.Duplicate || r.Seq != e.result.Seq || r.Outcome != e.result.Outcome || r.Reason != e.result.Reason || r.Position != e.result.Position):
			c.t.Fatalf("%s %s again: %+v, the first time %+v", e.key, e.id, r, e.result)
		}
	}
	c.w.publish(b)
	c.w.shards[c.w.shardOfBatch(b)-1].idle()
}

// checkOnce: whatever was published and answered is in the journal once.
func (c *clients) checkOnce() {
	times := map[string]int{}
	for _, r := range c.w.shards {
		for name, records := range r.model.grains {
			for _, rec := range records {
				if rec.id != "" {
					times[name+" "+rec.id]++
				}
				if rec.sequence != 0 {
					times[fmt.Sprintf("%s %s %d", name, rec.producer, rec.sequence)]++
				}
			}
		}
	}
	check := func(name string) {
		if times[name] != 1 {
			c.t.Fatalf("%s is in the journal %d times", name, times[name])
		}
	}
	for _, e := range c.done {
		check("book/" + e.key + " " + e.id)
	}
	for _, p := range c.producers {
		for _, e := range p.acked {
			check(fmt.Sprintf("book/%s %s %d", e.key, p.name, e.sequence))
		}
	}
}

// testProducer is a client that numbers its events, keeps what it has no answer for, and repeats it under the next epoch
// when anything goes wrong.
type testProducer struct {
	*clients
	name     string
	epoch    uint64
	sequence uint64
	previous map[uint64]uint64 // by shard, in this epoch
	waiting  []*testEvent
	acked    []testEvent
	broken   bool
	late     []*actors.Batch
}

// publish sends a batch. If it is lost or late, the client does not notice before a later one is refused.
func (p *testProducer) publish(fate string) {
	if p.broken {
		return
	}
	key := p.key()
	var events []*testEvent
	for range rapid.IntRange(1, 4).Draw(p.t, "events") {
		p.sequence++
		e := &testEvent{key: key, words: p.words(), sequence: p.sequence}
		events = append(events, e)
		p.waiting = append(p.waiting, e)
	}
	p.hand(events, fate)
}

// hand sends events of one shard under the newest epoch.
func (p *testProducer) hand(events []*testEvent, fate string) {
	if p.previous == nil {
		p.previous = map[uint64]uint64{}
	}
	shard, epoch := shardOf("", []byte(events[0].key)), p.epoch
	b := &actors.Batch{Link: &actors.Link{Producer: p.name, Epoch: epoch, Previous: p.previous[shard]}}
	for _, e := range events {
		v := p.w.event(e.key, e.words, "")
		v.Sequence = e.sequence
		b.Events = append(b.Events, v)
	}
	p.previous[shard] = events[len(events)-1].sequence
	b.Done = func(b *actors.Batch) { p.answer(b, events, epoch) }
	switch fate {
	case "arrives":
		p.w.publish(b)
		p.w.shards[shard-1].idle()
	case "late":
		p.late = append(p.late, b)
	}
}

// arrive lets the oldest batch that is late arrive, whatever came before it.
func (p *testProducer) arrive() {
	if len(p.late) > 0 {
		b := p.late[0]
		p.late = p.late[1:]
		p.w.publish(b)
		p.w.shards[p.w.shardOfBatch(b)-1].idle()
	}
}

func (p *testProducer) answer(b *actors.Batch, events []*testEvent, epoch uint64) {
	if b.Refused != actors.Folded {
		p.broken = p.broken || epoch == p.epoch
		return
	}
	for i, e := range events {
		r := b.Results[i]
		if r.Outcome > actors.DeadLettered {
			p.t.Fatalf("%s %d: %+v", p.name, e.sequence, r)
		}
		if first := e.result; first.Seq != 0 && r.Seq != 0 && (first.Seq != r.Seq || first.Outcome != r.Outcome || first.Reason != r.Reason) {
			p.t.Fatalf("%s %d: %+v, an earlier answer was %+v", p.name, e.sequence, r, first)
		}
		e.result = r
		for j, other := range p.waiting {
			if other == e {
				p.waiting = append(p.waiting[:j:j], p.waiting[j+1:]...)
				p.acked = append(p.acked, *e)
				break
			}
		}
	}
}

// reconnect begins the next epoch and repeats all that has no answer, in order, in batches of its own making.
func (p *testProducer) reconnect() {
	p.epoch++
	p.broken, p.previous = false, nil
	for _, shard := range []uint64{1, 2} {
		var events []*testEvent
		size := rapid.IntRange(1, 6).Draw(p.t, "size")
		for _, e := range append([]*testEvent(nil), p.waiting...) {
			if shardOf("", []byte(e.key)) != shard {
				continue
			}
			if events = append(events, e); len(events) == size {
				p.hand(events, "arrives")
				events = nil
			}
		}
		if len(events) > 0 {
			p.hand(events, "arrives")
		}
	}
}
