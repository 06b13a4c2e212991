package node

import (
	"runtime"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/replication"
	"github.com/granary-dev/granary/persistence"
)

// life is one goroutine of a runner, with the machine it drives. A runner has one after the other: when a turn does not
// end, the life it hangs in is given up and the next one begins with what was not done. Until then all of it belongs to its
// goroutine; from then on, to the one that gave it up.
type life struct {
	*runner
	turn uint64 // number of the turn that runs
	lost bool   // it was given up; of its goroutine

	todo  []any // of this round, from at on not done
	at    int
	early []any // waits until the shard leads
	fx    actors.Effects
	led   bool

	// of a life behind the first one
	before *actors.Shard      // its machine was given up
	index  *persistence.Index // of its own, until the events of the group are for this machine
}

func newLife(r *runner) *life { return &life{runner: r} }

// Begin implements [actors.Watch].
func (l *life) Begin(id actors.Identity, kind, key, event string) {
	l.turn = l.slot.Begin(uint64(id), kind, key, event)
}

// End implements [actors.Watch]. The goroutine of a life that was given up ends here.
func (l *life) End() {
	if !l.slot.End(l.turn) {
		l.lost = true
		runtime.Goexit()
	}
}

// begin starts the goroutine of a life.
func (n *Node) begin(l *life) {
	n.wg.Add(1)
	go func() {
		defer func() {
			if !l.lost { // else who gave it up has said so
				n.wg.Done()
			}
		}()
		l.run()
	}()
}

// run takes what is queued, steps the machine through it, and does what it wants done.
func (l *life) run() {
	r := l.runner
	if l.before != nil {
		l.reopen()
	}
	if r.failure() != nil {
		r.settle()
	}
	var spare []any
	for {
		r.mu.Lock()
		for !r.node.stopped() && len(r.queue) == 0 {
			r.sleeping = true
			r.mu.Unlock()
			<-r.wake
			r.mu.Lock()
		}
		if r.node.stopped() {
			r.queue = append(l.early, r.queue...)
			r.mu.Unlock()
			return // close answers what is queued
		}
		inputs := r.queue
		r.queue, r.queued, r.bytes = spare[:0], 0, 0
		r.mu.Unlock()
		now := r.node.now()
		l.steps(now, inputs)
		r.step(now, r.idle(), &l.fx)
		decided := l.fx.Leading || l.fx.Unfit != nil
		if decided {
			r.elected(l.fx.Unfit, l.led || l.before != nil)
		}
		if decided && !l.led || r.failure() != nil && len(l.early) > 0 {
			l.led = true
			r.settle()
			early := l.early
			l.early = nil
			l.steps(now, early)
			r.step(now, r.idle(), &l.fx)
		}
		clear(inputs)
		spare = inputs
		r.report(l.before != nil && !l.led)
		r.do(&l.fx)
	}
}

// steps takes inputs one by one, but for those that must wait.
func (l *life) steps(now int64, inputs []any) {
	l.todo = inputs
	for i, in := range inputs {
		l.at = i
		switch {
		case l.waits(in):
			l.early = append(l.early, in)
		case l.before != nil && !l.led && l.failure() == nil:
			l.follow(now, in)
		default:
			l.step(now, in, &l.fx)
		}
	}
	l.todo, l.at = nil, 0
}

// waits tells whether an input is for a shard that leads, and this one does not yet. A send would be refused and only lose
// time by it; what clients ask must not fail because a machine is replaced.
func (l *life) waits(in any) bool {
	if l.led || l.failure() != nil {
		return false
	}
	switch in.(type) {
	case *actors.Inbound:
		return true
	case *actors.Batch, *actors.Read:
		return l.before != nil
	}
	return false
}

// reopen makes the machine that takes over from one that was given up, at the last checkpoint. The group is told, and its
// answer awaited: what is queued before it is for the old machine.
func (l *life) reopen() {
	index, err := l.node.store.OpenIndex(l.id, l.node.store.Identity().NodeID)
	if err != nil {
		l.quarantine(err)
		return
	}
	l.shard, l.index = l.before.Succeed(index, l), index
	l.node.commit.restart(l.id)
}

// follow takes an input of a machine that took over and does not lead yet.
func (l *life) follow(now int64, in any) {
	switch in := in.(type) {
	case replication.Restarted:
		l.catchUp(now, in.Delivered)
		l.index = nil
	case *quietly:
		close(in.done)
	default:
		if l.index == nil {
			l.step(now, in, &l.fx)
		}
	}
}

// entriesAtOnce is how many entries are read from the log in one go.
const entriesAtOnce = 64

// catchUp applies the entries that the machine before this one was given.
func (l *life) catchUp(now int64, last uint64) {
	applied, _ := l.index.Applied()
	for next := applied + 1; next <= last && l.failure() == nil; {
		some := &actors.Committed{}
		for ; next <= last && len(some.Entries) < entriesAtOnce; next++ {
			term, data, err := l.index.Entry(next)
			if err != nil {
				l.quarantine(err)
				return
			}
			index, normal := next, raftpb.EntryNormal
			some.Entries = append(some.Entries, &raftpb.Entry{Index: &index, Term: &term, Type: &normal, Data: data})
		}
		l.step(now, some, &l.fx)
	}
}
