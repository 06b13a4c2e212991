package node

import (
	"sync"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/replication"
)

// committer is the one commit loop of a node: all shards' entries go into one batch with one sync.
type committer struct {
	node *Node
	host *replication.Host

	mu       sync.Mutex
	queue    []work
	sleeping bool
	wake     chan struct{}
}

// work is what one shard asks of its group, or a tick of the clock for all (shard 0).
type work struct {
	shard     uint64
	proposals []actors.Proposal
	confirm   uint64
	restart   bool // the shard has a new machine
}

func newCommitter(n *Node, h *replication.Host) *committer {
	return &committer{node: n, host: h, wake: make(chan struct{}, 1)}
}

func (c *committer) post(w work) {
	c.mu.Lock()
	c.queue = append(c.queue, w)
	wake := c.sleeping
	c.sleeping = false
	c.mu.Unlock()
	if wake {
		c.wake <- struct{}{}
	}
}

func (c *committer) propose(shard uint64, proposals []actors.Proposal, confirm uint64) {
	c.post(work{shard: shard, proposals: append([]actors.Proposal(nil), proposals...), confirm: confirm})
}

// restart tells the group of a shard that its machine is a new one; replication.Restarted is the answer.
func (c *committer) restart(shard uint64) { c.post(work{shard: shard, restart: true}) }

func (c *committer) tick() { c.post(work{}) }

func (c *committer) wakeUp() {
	c.mu.Lock()
	wake := c.sleeping
	c.sleeping = false
	c.mu.Unlock()
	if wake {
		c.wake <- struct{}{}
	}
}

// run is the loop: take what the shards ask for, write it, sync, tell the shards.
func (c *committer) run() {
	loop := replication.NewLoop(c.host, c.node.store)
	defer func() { _ = loop.Close() }()
	var spare []work
	for {
		// the groups have something to do from the start: their elections
		for c.host.Busy() {
			if err := loop.Round(c.deliver); err != nil {
				c.node.opts.Logger.Error("the commit loop failed, the node stops", "error", err)
				c.node.fail(err)
				return
			}
		}
		c.mu.Lock()
		for len(c.queue) == 0 {
			select {
			case <-c.node.stop:
				c.mu.Unlock()
				return
			default:
			}
			c.sleeping = true
			c.mu.Unlock()
			<-c.wake
			c.mu.Lock()
		}
		todo := c.queue
		c.queue = spare[:0]
		c.mu.Unlock()
		for _, w := range todo {
			if w.shard == 0 {
				if err := c.host.Tick(); err != nil {
					c.node.fail(err)
					return
				}
			}
			for _, p := range w.proposals {
				if err := c.host.Propose(w.shard, p); err != nil {
					c.node.fail(err)
					return
				}
			}
			if w.confirm != 0 {
				c.host.Confirm(w.shard, w.confirm)
			}
			if w.restart {
				if err := c.host.Restart(w.shard); err != nil {
					c.node.fail(err)
					return
				}
			}
		}
		clear(todo)
		spare = todo
		loop.Tell(c.deliver)
	}
}

// deliver hands a shard what happened.
func (c *committer) deliver(e replication.Event) { c.node.shards[e.Shard-1].post(e.Input) }
