package sim

import (
	"io"
	"time"

	"github.com/granary-dev/granary/actors"
	clientsession "github.com/granary-dev/granary/client/session"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	"github.com/granary-dev/granary/gateway/session"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// carry brings a message of one shard to another: late, twice, after its successor, or not at all.
func (w *world) carry(from *node, to uint64, what any, label string) {
	f := w.o.Faults
	w.trace("n%d %s", from.id, label)
	deliver := func() {
		from.after(w.between(50*time.Microsecond, w.slowest()), func() { from.shards[to-1].post(what) })
	}
	switch {
	case w.healed:
	case w.chance(f.Drop):
		w.count("message dropped")
		return
	case w.chance(f.Duplicate):
		w.count("message twice")
		deliver()
	}
	deliver()
}

// slowest is how long a message takes at most; now and then much longer than usual, so that others overtake it.
func (w *world) slowest() time.Duration {
	if !w.healed && w.chance(w.o.Faults.Delay) {
		w.count("message late")
		return 2 * time.Second
	}
	return time.Millisecond
}

// conn is a PublishStream between a client and a node. Each direction keeps its order; when it breaks, what is under way is
// lost.
type conn struct {
	world   *world
	node    *node
	client  *producer
	epoch   uint64
	machine *session.Session
	open    bool
	toHere  time.Duration // when the last message to the node arrives, and that to the client
	toThere time.Duration
	inbox   []*granaryv1.PublishStreamRequest
	waiting []*intake.Part // for room at their shards, in order
	fx      session.Effects
}

// dial opens a stream, or tells the client that it is lost.
func (w *world) dial(p *producer, epoch uint64) *conn {
	n := w.nodes[p.id%len(w.nodes)]
	c := &conn{world: w, node: n, client: p, epoch: epoch, open: true}
	if n == nil || !n.alive || n.led < len(n.shards) {
		c.open = false
		w.after(w.between(time.Millisecond, 20*time.Millisecond), func() { p.step(clientsession.Lost{Epoch: epoch, Err: answer.Stopping()}) })
		return c
	}
	c.machine = session.New(session.Config{Shards: n.table.Len(), Window: 16, MaxCost: 1 << 20, Done: c.done})
	n.conns = append(n.conns, c)
	if !w.healed && w.chance(w.o.Faults.Cut) {
		w.after(w.between(0, 5*time.Second), func() {
			if c.open {
				w.count("stream cut")
				c.cut()
			}
		})
	}
	return c
}

// cut breaks the stream. The client hears of it a little later, the node at once.
func (c *conn) cut() {
	if !c.open {
		return
	}
	c.open = false
	c.world.trace("c%d stream of epoch %d breaks", c.client.id, c.epoch)
	c.world.after(c.world.between(time.Millisecond, 50*time.Millisecond), func() {
		c.client.step(clientsession.Lost{Epoch: c.epoch, Err: io.ErrUnexpectedEOF})
	})
}

// hangUp ends the stream from the client's side.
func (c *conn) hangUp() { c.open = false }

// send brings a request to the node.
func (c *conn) send(r *granaryv1.PublishStreamRequest) {
	at := max(c.toHere, c.world.now+c.world.between(50*time.Microsecond, 2*time.Millisecond))
	c.toHere = at
	c.world.at(at, func() {
		if c.open {
			c.inbox = append(c.inbox, r)
			c.read()
		}
	})
}

// read takes requests while the machine has room.
func (c *conn) read() {
	for c.open && len(c.inbox) > 0 && len(c.waiting) == 0 && c.machine.Room() {
		r := c.inbox[0]
		c.inbox = c.inbox[1:]
		in := session.Request{Producer: r.GetProducer(), Batch: r.GetBatch(), FirstSequence: r.GetFirstSequence(), Cost: 100 * len(r.GetEvents())}
		if len(r.GetEvents()) > 0 {
			group := intake.NewGroup()
			if refusal := c.node.intake.Take(&intake.Request{Events: r.GetEvents(), FirstSequence: r.GetFirstSequence()}, c.world.clock(), group); refusal != nil {
				group.Release()
				in.Refusal = refusal
			} else {
				in.Group = group
			}
		}
		c.step(&in)
		c.waiting = append(c.waiting, c.fx.Route...)
		c.route()
	}
	c.answer()
}

// route hands parts to their shards, in order; where a shard has no room the stream waits.
func (c *conn) route() {
	for len(c.waiting) > 0 {
		p := c.waiting[0]
		var refused *answer.Refusal
		switch {
		case c.machine.Halted():
			refused = answer.Overloaded()
		case !c.world.healed && c.world.chance(c.world.o.Faults.Lost):
			c.world.count("batch lost")
			c.waiting = c.waiting[1:]
			c.node.after(c.world.between(time.Millisecond, 100*time.Millisecond), func() {
				if c.open {
					c.step(&session.Refused{Part: p, Reason: answer.Stopping()})
					c.read()
				}
			})
			continue
		default:
			err := c.node.shards[p.Shard-1].publish(&p.Batch)
			if err == routing.ErrOverloaded { //nolint:errorlint // as the router returns it
				c.node.after(time.Millisecond, func() {
					if c.open {
						c.route()
						c.read()
					}
				})
				return
			}
			if err != nil {
				refused = answer.Routing(err)
			}
		}
		c.waiting = c.waiting[1:]
		if refused != nil {
			c.step(&session.Refused{Part: p, Reason: refused})
		}
	}
}

func (c *conn) step(in session.Input) { c.machine.Step(c.world.clock(), in, &c.fx) }

// done is called by a shard. The machine hears of it a little later.
func (c *conn) done(p *intake.Part) {
	c.node.after(c.world.between(time.Microsecond, 50*time.Microsecond), func() {
		if c.open {
			c.step(session.Done{Part: p})
			c.read()
		}
	})
}

// answer sends what is ready to the client.
func (c *conn) answer() {
	for c.open && c.machine.Due() {
		c.step(session.Writable{})
		if c.fx.Response == nil && !c.fx.Closed {
			return
		}
		response, closed, status := c.fx.Response, c.fx.Closed, c.fx.Status
		c.toThere = max(c.toThere, c.world.now+c.world.between(50*time.Microsecond, 2*time.Millisecond))
		if closed {
			c.open = false
		}
		c.world.at(c.toThere, func() {
			switch {
			case closed:
				err := io.EOF
				if status != nil {
					err = status.GRPCStatus().Err()
				}
				c.client.step(clientsession.Lost{Epoch: c.epoch, Err: err})
			case c.open: // what is under way when the stream breaks is lost
				c.client.step(clientsession.Received{Epoch: c.epoch, Response: response})
			}
		})
	}
}

// call is one event published by itself: the request and its answer may be lost, each by itself. With a wait, its reply is
// asked for, and given up after that time.
func (w *world) call(client int, e *granaryv1.Event, wait time.Duration, done func(r *actors.Result, refused *answer.Refusal)) {
	n := w.nodes[client%len(w.nodes)]
	lost := func(share float64) bool { return !w.healed && w.chance(share) }
	if lost(w.o.Faults.Cut / 2) {
		w.count("request lost")
		return
	}
	w.after(w.between(50*time.Microsecond, 2*time.Millisecond), func() {
		if n == nil || !n.alive || n.led < len(n.shards) {
			return
		}
		answered := func(r *actors.Result, refused *answer.Refusal) {
			if lost(w.o.Faults.Cut / 2) {
				w.count("answer lost")
				return
			}
			// what has left the node arrives, whatever becomes of the node
			w.after(w.between(50*time.Microsecond, 2*time.Millisecond), func() { done(r, refused) })
		}
		group := intake.NewGroup()
		if refusal := n.intake.Take(&intake.Request{Events: []*granaryv1.Event{e}}, w.clock(), group); refusal != nil {
			answered(nil, refusal)
			return
		}
		if len(group.Refused) > 0 {
			answered(nil, group.Refused[0].Answer())
			return
		}
		p := group.Parts[0]
		p.Batch.Ask = wait > 0
		waits := p.Batch.Ask
		shard := n.shards[p.Shard-1]
		group.OnDone = func(p *intake.Part) {
			waits = false
			if refusal := answer.Batch(&p.Batch); refusal != nil {
				answered(nil, refusal)
				return
			}
			r := p.Results()[0]
			if w.ambush && r.Deferred && !shard.machine.Quiet() {
				w.springs()
			}
			answered(&r, nil)
		}
		if err := shard.publish(&p.Batch); err != nil {
			answered(nil, answer.Routing(err))
			return
		}
		if wait > 0 {
			n.after(wait, func() {
				if waits {
					shard.post(actors.GiveUp{Batch: &p.Batch})
				}
			})
		}
	})
}

// springs is what an ambush does: the power fails in the next sync, so that what this read or reply must not show yet may
// never come to be.
func (w *world) springs() {
	w.ambush, w.planned = false, &plannedCrash{in: 1, seed: w.rnd.Uint64(), chance: w.rnd.Float64() / 2}
}

// ask reads a grain. The question and its answer may be lost.
func (w *world) ask(client int, get *actors.Get, stale bool, done func(*actors.Read)) {
	n := w.nodes[client%len(w.nodes)]
	if !w.healed && w.chance(w.o.Faults.Cut/2) {
		w.count("request lost")
		return
	}
	w.after(w.between(50*time.Microsecond, 2*time.Millisecond), func() {
		if n == nil || !n.alive || n.led < len(n.shards) {
			return
		}
		s := n.shards[n.table.Shard("", get.Kind.Name, get.Key)-1]
		if w.ambush && !s.machine.Quiet() {
			w.springs()
		}
		s.post(&actors.Read{Stale: stale, Get: get, Done: func(r *actors.Read) {
			w.after(w.between(50*time.Microsecond, 2*time.Millisecond), func() { done(r) })
		}})
	})
}
