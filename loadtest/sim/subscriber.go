package sim

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/subscription"
	"github.com/granary-dev/granary/loadtest/judge"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// announcements is the stream that probes announce values to.
const announcements = "probe.values"

// subscriber reads a stream or a kind from the beginning on, at its own pace. When its call breaks it goes on where the
// last response that it has in hand ends.
type subscriber struct {
	world    *world
	name     string
	source   subscription.Config
	position string                  // of the last response; empty: none
	seen     map[uint64][]judge.Item // by shard
	call     *subscribeCall          // nil: between two
	closing  bool                    // it reads what is there, and ends
	done     bool
}

func (w *world) newSubscriber(source subscription.Config) *subscriber {
	s := &subscriber{world: w, name: "the subscriber of " + source.Kind + source.Stream, source: source, seen: map[uint64][]judge.Item{}}
	w.after(w.between(0, w.o.Virtual/3), s.connect)
	return s
}

// connect begins a call, or tries to later.
func (s *subscriber) connect() {
	w := s.world
	n := w.nodes[0]
	if n == nil || !n.alive || n.led < len(n.shards) {
		w.after(w.between(time.Millisecond, 200*time.Millisecond), s.connect)
		return
	}
	cfg := s.source
	cfg.Shards, cfg.Beginning, cfg.Position, cfg.UntilLive = n.table.Len(), s.position == "", s.position, s.closing
	cfg.Bytes = 100 + w.rnd.IntN(3000)>>w.rnd.IntN(4) // so small that responses end within entries
	cfg.Record = func(lineage, index uint64, r *entry.Record) *granaryv1.HistoryRecord {
		return &granaryv1.HistoryRecord{Seq: r.Seq, Type: r.Event, PayloadProtobuf: bytes.Clone(r.Payload),
			Position: answer.Position(entry.Position{Lineage: lineage, Index: index, Ordinal: r.Ordinal})}
	}
	cfg.Payload = func(_ string, payload []byte) (*structpb.Struct, []byte) { return nil, bytes.Clone(payload) }
	machine, refusal := subscription.New(cfg)
	if refusal != nil {
		w.fail("%s is refused: %v", s.name, refusal)
		return
	}
	w.trace("%s begins", s.name)
	s.call = &subscribeCall{subscriber: s, node: n, machine: machine, open: true, reads: make([]*actors.Read, n.table.Len())}
	n.calls = append(n.calls, s.call)
	if c := s.call; !w.healed && w.chance(2*w.o.Faults.Cut) {
		w.after(w.between(0, 5*time.Second), func() {
			if c.open {
				w.count("subscription cut")
				c.cut()
			}
		})
	}
	s.call.pump()
}

// close lets the subscriber read what is there, and then end.
func (s *subscriber) close() {
	s.closing = true
	if s.call != nil {
		s.call.cut()
	}
}

// receive takes a response.
func (s *subscriber) receive(n *node, r *granaryv1.SubscribeResponse) {
	s.position = r.GetPosition()
	for _, i := range r.GetItems() {
		kind, key, _ := bytes.Cut([]byte(i.GetGrain()), []byte("/"))
		var item judge.Item
		if m := i.GetMessage(); m != nil {
			item = message(m.GetPosition(), i.GetGrain(), m.GetSeq(), m.GetEffect(), m.GetType(), m.GetPayloadProtobuf())
		} else {
			h := i.GetRecord()
			item = record(h.GetPosition(), i.GetGrain(), h.GetSeq(), h.GetType(), h.GetPayloadProtobuf())
		}
		shard := n.table.ShardOf("", string(kind), key)
		s.seen[shard] = append(s.seen[shard], item)
	}
}

// message is an item of a stream, and record one of a kind.
func message(at, grain string, seq uint64, effect uint32, event string, payload []byte) judge.Item {
	item := record(at+" effect "+strconv.FormatUint(uint64(effect), 10), grain, seq, event, payload)
	announced := &probev1.Announced{}
	if announced.UnmarshalVT(payload) == nil {
		item.Value = announced.GetValue()
	}
	return item
}

func record(at, grain string, seq uint64, event string, payload []byte) judge.Item {
	return judge.Item{At: at, What: event + " of " + grain + " seq " + strconv.FormatUint(seq, 10) + ", " + strconv.FormatUint(xxhash.Sum64(payload), 16)}
}

// subscribeCall is a call of Subscribe: what production does on the goroutine of its handler, as events of the world.
type subscribeCall struct {
	subscriber *subscriber
	node       *node
	machine    *subscription.Subscription
	open       bool
	busy       bool           // the client does not read, or the machine is at work
	reads      []*actors.Read // by shard id - 1; nil: none is out
	toThere    time.Duration  // when the last response arrives
}

// cut breaks the call. What is under way to the client is lost.
func (c *subscribeCall) cut() {
	if !c.open {
		return
	}
	c.open = false
	s := c.subscriber
	s.world.trace("%s breaks", s.name)
	s.call = nil
	if c.node.alive {
		for i, r := range c.reads {
			if r != nil {
				c.node.shards[i].post(actors.GiveUpRead{Read: r})
			}
		}
	}
	pause := 50 * time.Millisecond
	if s.world.chance(0.3) && !s.world.healed {
		pause = 5 * time.Second // so that there is much to catch up with
	}
	s.world.after(s.world.between(time.Millisecond, pause), s.connect)
}

// pump does what the machine wants until it waits for a shard or for the client.
func (c *subscribeCall) pump() {
	w := c.subscriber.world
	for c.open && !c.busy {
		c.askAll()
		a := c.machine.Next()
		switch {
		case a.Response != nil:
			c.send(a.Response)
			return
		case a.Refusal != nil:
			if !w.damaged(c.node, a.Refusal.Message) {
				w.fail("%s ends: %v", c.subscriber.name, a.Refusal)
			}
			return
		case a.Ended:
			c.end()
			return
		case a.Read != 0:
			entries, behind, err := c.node.store.Committed(a.Read, a.After, a.Upto, subscription.PageBytes)
			var refusal *answer.Refusal
			if err != nil {
				refusal = &answer.Refusal{Message: err.Error()}
			}
			c.machine.Took(a.Read, entries, behind, refusal)
		default:
			c.askAll() // it may have come to the end of what is committed just now
			return
		}
	}
}

// send brings a response to the client, and goes on when that reads again.
func (c *subscribeCall) send(r *granaryv1.SubscribeResponse) {
	s, w := c.subscriber, c.subscriber.world
	c.toThere = max(c.toThere, w.now+w.between(50*time.Microsecond, 2*time.Millisecond))
	w.at(c.toThere, func() {
		if c.open {
			w.trace("%s has %d items", s.name, len(r.GetItems()))
			s.receive(c.node, r)
		}
	})
	pause := time.Millisecond
	if !w.healed && w.chance(0.01) {
		w.count("slow subscriber")
		pause = 4 * time.Second
	}
	c.busy = true
	c.node.after(w.between(20*time.Microsecond, pause), func() {
		c.busy = false
		c.pump()
	})
}

// end is the end that was asked for, which arrives behind all responses.
func (c *subscribeCall) end() {
	c.busy = true
	c.subscriber.world.at(c.toThere, func() {
		if c.open {
			c.open, c.subscriber.call, c.subscriber.done = false, nil, true
			c.subscriber.world.trace("%s ends", c.subscriber.name)
		}
	})
}

func (c *subscribeCall) askAll() {
	for _, shard := range c.machine.Asks() {
		c.ask(shard)
	}
}

// ask asks a shard how far it is committed, as the gateway does.
func (c *subscribeCall) ask(shard uint64) {
	w := c.subscriber.world
	r := &actors.Read{Stale: c.machine.Known(shard), Tail: &actors.Tail{After: c.machine.After(shard)}}
	r.Done = func(*actors.Read) {
		c.node.after(w.between(2*time.Microsecond, 100*time.Microsecond), func() {
			if !c.open {
				return
			}
			c.reads[shard-1] = nil
			switch r.Failed {
			case actors.Folded:
				c.machine.Committed(shard, r.Tail.Place)
			case actors.Unavailable:
				c.node.after(w.between(20*time.Millisecond, 100*time.Millisecond), func() {
					if c.open {
						c.ask(shard)
					}
				})
			default:
				if !w.damaged(c.node, r.Why) {
					w.fail("%s: shard %d: %v: %s", c.subscriber.name, shard, r.Failed, r.Why)
				}
				return
			}
			c.pump()
		})
	}
	c.reads[shard-1] = r
	c.node.shards[shard-1].post(r)
}

// hear lets all subscribers come to the end of what is there, and returns what they saw beside what they should have seen.
func (w *world) hear() (feeds []judge.Feed) {
	for _, s := range w.subscribers {
		s.close()
	}
	done := func() bool {
		for _, s := range w.subscribers {
			if !s.done {
				return false
			}
		}
		return w.settled()
	}
	if w.until(w.now+time.Minute, done); w.over {
		return nil
	}
	if !done() {
		w.fail("no progress: a minute after all was settled, a subscriber has not come to the end")
		return nil
	}
	for _, shard := range w.nodes[0].shards {
		of := make([]judge.Feed, len(w.subscribers))
		for i, s := range w.subscribers {
			of[i] = judge.Feed{Subscriber: s.name, Shard: shard.id, Seen: s.seen[shard.id], Announced: s.source.Stream != ""}
		}
		if err := shard.journal(w.subscribers, of); err != nil {
			w.fail("the journal of s%d: %v", shard.id, err)
			return nil
		}
		feeds = append(feeds, of...)
	}
	return feeds
}

// journal reads what subscribers should have seen from the log, entry by entry, with an eye of its own for those that have
// no effect.
func (s *shard) journal(subscribers []*subscriber, feeds []judge.Feed) error {
	applied := s.index.Place()
	at := persistence.Place{Lineage: applied.Lineage}
	for index := uint64(1); index <= applied.Index; index++ {
		e, err := s.log.Read(index)
		if err != nil {
			return err
		}
		if len(e.GetData()) == 0 {
			continue
		}
		r, err := entry.Open(e.GetData())
		if err != nil {
			return fmt.Errorf("index %d: %w", index, err)
		}
		if h := r.Header; h.Term != e.GetTerm() || h.Index != index || h.Previous != at.Data {
			continue // fenced off
		}
		at.Data = index
		for {
			var rec entry.Record
			more, err := r.Next(&rec)
			if err != nil {
				return fmt.Errorf("index %d: %w", index, err)
			}
			if !more {
				break
			}
			if !rec.Type.Numbered() {
				continue
			}
			position := answer.Position(entry.Position{Lineage: at.Lineage, Index: index, Ordinal: rec.Ordinal})
			grain := rec.Kind + "/" + string(rec.Key)
			for n, sub := range subscribers {
				items := &feeds[n].Journal
				if sub.source.Kind == rec.Kind {
					*items = append(*items, record(position, grain, rec.Seq, rec.Event, rec.Payload))
				}
				for i := range rec.Effects {
					if x := &rec.Effects[i]; x.Type == entry.Publish && x.Stream == sub.source.Stream {
						*items = append(*items, message(position, grain, rec.Seq, uint32(i), x.Event, x.Payload))
					}
				}
			}
		}
	}
	return nil
}
