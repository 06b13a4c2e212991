package node

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/slots"
)

const (
	// turnLimit is how long a handler may run by default.
	turnLimit = 10 * time.Second
	// looks is how often a turn is seen before it is given up. Looks are counted, not time: a process that was stopped for a
	// minute did not run a turn for a minute.
	looks = 10
	// deadly is how many deaths of the process condemn an event.
	deadly = 2
)

// watch looks for turns that do not end. To be watched costs a turn nothing but the note that it runs.
func (n *Node) watch() {
	defer n.watching.Done()
	t := time.NewTicker(max(n.opts.TurnLimit/looks, time.Millisecond))
	defer t.Stop()
	type sight struct {
		turn  uint64
		times int
	}
	seen := make([]sight, len(n.shards))
	for {
		select {
		case <-t.C:
		case <-n.ended:
			return
		}
		for i, r := range n.shards {
			turn := r.slot.Turn()
			if turn == 0 || turn != seen[i].turn {
				seen[i] = sight{turn: turn}
				continue
			}
			if seen[i].times++; seen[i].times >= looks {
				r.abandon(turn)
			}
		}
	}
}

// abandon gives up the life of a shard that hangs in a turn, unless that has just ended, and lets the next one begin.
func (r *runner) abandon(turn uint64) {
	if !r.slot.End(turn) {
		return
	}
	// from here on the goroutine touches nothing but what its handler has in hand
	l := r.life
	rest := l.rest()
	stuck := r.shard.Strand(&l.fx)
	r.condemned.Add(stuck.Identity, fmt.Sprintf("the turn ran longer than %v", r.node.opts.TurnLimit))
	r.node.opts.Logger.Error("a turn is given up: it ran longer than it may; the shard begins anew without it", "shard", r.id,
		"grain", stuck.Grain.String(), "event", stuck.Event, "limit", r.node.opts.TurnLimit,
		"next", "find what its handler waits for or loops over: it runs on in a goroutine that only the end of the process ends")
	next := newLife(r)
	next.before, next.early = r.shard, rest
	r.life = next
	r.mu.Lock()
	r.stats.Abandoned++
	r.overloaded = true // what comes now waits until the next life leads
	stopped := r.node.stopped()
	if stopped {
		r.queue = append(rest, r.queue...)
	}
	r.mu.Unlock()
	r.dealt(l.fx.Unrun)
	// what rests on committed entries is told; what the step wanted to propose or send never was
	for _, a := range l.fx.Acks {
		r.node.shards[a.To-1].post(a)
	}
	r.answer(&l.fx)
	if stopped {
		r.shard = nil
	} else {
		r.node.begin(next)
	}
	r.node.wg.Done() // for the goroutine that hangs
}

// rest is what the next life begins with: what clients and other shards ask and nobody has answered. The batch whose event
// hangs is among it, so that its publisher hears at once what becomes of it.
func (l *life) rest() (rest []any) {
	for i, in := range slices.Concat(l.early, l.todo[l.at:]) {
		switch in := in.(type) {
		case *actors.Batch:
			if err := fresh(in); err != nil {
				refuse(in, actors.Unavailable, err.Error(), &l.fx)
				continue
			}
			rest = append(rest, in)
		case *actors.Read:
			if i == len(l.early) { // it would hang again
				refuse(in, actors.Unavailable, "the read ran longer than "+l.node.opts.TurnLimit.String(), &l.fx)
				continue
			}
			rest = append(rest, in)
		case *actors.Inbound, *quietly:
			rest = append(rest, in)
		}
	}
	return rest
}

// fresh gives the events of a batch messages of their own: the first ones may be part of a state that a handler works on.
func fresh(b *actors.Batch) error {
	for i := range b.Events {
		e := &b.Events[i]
		msg, err := e.Type.Decode(e.Payload)
		if err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
		e.Message = msg
	}
	return nil
}

// remember reads what the last process was doing when it died, and keeps note of what this one does from now on.
func (n *Node) remember() {
	if n.opts.FS != nil {
		return // nothing outlives a process there
	}
	file, died, err := slots.Open(n.opts.DataDir, len(n.shards), n.opts.Now())
	if errors.Is(err, errors.ErrUnsupported) {
		return
	}
	if err != nil {
		n.opts.Logger.Warn("an event that ends the process will not be recognized: its note cannot be kept", "error", err)
		return
	}
	for _, d := range died {
		n.opts.Logger.Error("the last process died during a turn", "shard", d.Shard, "grain", d.Grain, "event", d.Event, "deaths", d.Count,
			"next", fmt.Sprintf("at %d deaths within a day the event is dead-lettered unrun", deadly))
	}
	n.turns = file
	for _, r := range n.shards {
		r.slot = file.Slot(r.id)
	}
	for _, d := range file.Deaths(deadly) {
		if d.Shard >= 1 && d.Shard <= uint64(len(n.shards)) {
			n.shards[d.Shard-1].condemned.Add(actors.Identity(d.Identity), "its turn ended the process twice")
		}
	}
}

// dealt takes events that are dead-lettered off the list of those that end the process.
func (r *runner) dealt(unrun []actors.Identity) {
	for _, id := range unrun {
		r.node.opts.Logger.Error("a condemned event is dead-lettered unrun", "shard", r.id)
		if r.node.turns != nil {
			r.node.turns.Forget(uint64(id))
		}
	}
}

// forget gives the note of running turns back. Where a turn was given up, its goroutine may still look at it.
func (n *Node) forget() error {
	if n.turns == nil || n.Stats().Abandoned > 0 {
		return nil
	}
	return n.turns.Close()
}
