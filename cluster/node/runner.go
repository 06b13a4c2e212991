package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/cluster/slots"
)

// Limits of what may wait for a shard: client events in its queue and their bytes, and reads and settlements that have no
// answer.
const (
	maxQueued      = 8192
	maxQueuedBytes = 8 << 20
	maxReads       = 16 << 10
)

// runner drives the machine of one shard on a goroutine of its own.
type runner struct {
	node  *Node
	id    uint64
	shard *actors.Shard // nil: it was given up while the node was stopping

	slot      *slots.Slot // the turn that runs
	condemned actors.Condemned
	life      *life // of the goroutine that watches

	mu         sync.Mutex
	queue      []any
	queued     int // client events in the queue
	bytes      int // of those
	reads      int // and settlements, that have no answer
	closed     bool
	sleeping   bool
	overloaded bool
	room       chan struct{} // closed when there is room again
	stats      Stats
	err        error         // why the shard is in quarantine
	unfit      *actors.Unfit // why it does not lead

	wake    chan struct{}
	settled sync.Once
}

func newRunner(n *Node, id uint64) *runner {
	r := &runner{node: n, id: id, slot: slots.NewSlot(), wake: make(chan struct{}, 1)}
	r.life = newLife(r)
	return r
}

// post queues an input. What is posted is bounded by those who post: sends by the outbox's limits, commits by what was
// proposed.
func (r *runner) post(input any) {
	r.mu.Lock()
	r.queue = append(r.queue, input)
	wake := r.sleeping
	r.sleeping = false
	r.mu.Unlock()
	if wake {
		r.wake <- struct{}{}
	}
}

// ask queues a client's read or settlement when there is room.
func (r *runner) ask(in any) error {
	r.mu.Lock()
	if r.closed || r.reads >= maxReads {
		defer r.mu.Unlock()
		if r.closed {
			return routing.ErrStopping
		}
		return routing.ErrOverloaded
	}
	r.reads++
	r.mu.Unlock()
	r.post(in)
	return nil
}

// giveUp queues that nobody waits for a read any more. It is bounded by the reads.
func (r *runner) giveUp(rd *actors.Read) {
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if !closed { // else it was answered
		r.post(actors.GiveUpRead{Read: rd})
	}
}

// publish queues a client's batch when there is room.
func (r *runner) publish(ctx context.Context, b *actors.Batch, wait bool) error {
	bytes := 0
	for i := range b.Events {
		bytes += len(b.Events[i].Payload)
	}
	for {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return routing.ErrStopping
		}
		if !r.overloaded && (r.queued == 0 || r.queued+len(b.Events) <= maxQueued && r.bytes+bytes <= maxQueuedBytes) {
			r.queue = append(r.queue, b)
			r.queued += len(b.Events)
			r.bytes += bytes
			wake := r.sleeping
			r.sleeping = false
			r.mu.Unlock()
			if wake {
				r.wake <- struct{}{}
			}
			return nil
		}
		if !wait {
			r.mu.Unlock()
			return routing.ErrOverloaded
		}
		if r.room == nil {
			r.room = make(chan struct{})
		}
		room := r.room
		r.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.node.stop:
			return routing.ErrStopping
		}
		if r.node.stopping.Load() {
			return routing.ErrStopping
		}
	}
}

// wakeUp lets the goroutine look at node.stop.
func (r *runner) wakeUp() {
	r.mu.Lock()
	wake := r.sleeping
	r.sleeping = false
	r.mu.Unlock()
	if wake {
		r.wake <- struct{}{}
	}
}

// idle tells the machine that its queue is empty, and whether it should keep from writing what can wait.
func (r *runner) idle() actors.Idle {
	return actors.Idle{Hold: r.node.stopping.Load() || routing.Takes(r.node.store) != nil}
}

// step lets the machine take one input. One that fails puts the shard in quarantine.
func (r *runner) step(now int64, in any, fx *actors.Effects) {
	if q, ok := in.(*quietly); ok {
		if r.failure() != nil || r.shard.Quiet() {
			q.quiet.Store(true)
		}
		close(q.done)
		return
	}
	if err := r.failure(); err != nil {
		refuse(in, actors.Corrupt, err.Error(), fx)
		if in, ok := in.(*actors.Inbound); ok {
			fx.Acks = append(fx.Acks, &actors.Ack{From: r.id, To: in.From, Lineage: in.Lineage, Refused: true})
		}
		return
	}
	if err := r.shard.Step(now, in, fx); err != nil {
		r.shard.Abandon(fx)
		r.quarantine(err)
		r.settle()
	}
}

// elected notes whether a shard that was elected leads. What is so from the start on, Start tells for all shards together.
func (r *runner) elected(unfit *actors.Unfit, again bool) {
	r.mu.Lock()
	r.unfit = unfit
	r.stats.Unfit = 0
	if unfit != nil {
		r.stats.Unfit = 1
	}
	r.mu.Unlock()
	if unfit != nil && again {
		r.node.opts.Logger.Error("this binary lacks logic that the journal needs", "error", unfit)
	}
}

// settle tells, once, that the shard leads or never will.
func (r *runner) settle() { r.settled.Do(r.node.settled) }

// refuse answers a client for a shard that cannot.
func refuse(in any, o actors.Outcome, why string, fx *actors.Effects) {
	switch in := in.(type) {
	case *actors.Batch:
		in.Refused, in.Why, in.Results = o, why, nil
		fx.Batches = append(fx.Batches, in)
	case *actors.Read:
		in.Failed, in.Why = o, why
		fx.Reads = append(fx.Reads, in)
	case *actors.Settle:
		in.Failed, in.Why = o, why
		fx.Settles = append(fx.Settles, in)
	}
}

// quarantine takes the shard out of service.
func (r *runner) quarantine(err error) {
	r.mu.Lock()
	r.err = err
	r.stats.Quarantined = 1
	r.mu.Unlock()
	r.node.opts.Logger.Error("shard in quarantine: it answers nothing until its journal is repaired", "shard", r.id, "error", err,
		"next", "stop the node and run: granary verify --data-dir "+r.node.opts.DataDir)
}

func (r *runner) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// report publishes counters and the shard's appetite for events, of which it has none while it is held.
func (r *runner) report(held bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.stats.Stats = r.shard.Stats
		r.stats.OpenDeadLetters = r.shard.OpenDeadLetters()
		r.stats.Resident, r.stats.Bytes = r.shard.Activations()
		r.stats.Asking = r.shard.Asking()
		r.overloaded = r.shard.Overloaded() || held
	} else {
		r.overloaded = false
	}
	if r.room != nil && !r.overloaded && r.queued < maxQueued && r.bytes < maxQueuedBytes {
		close(r.room)
		r.room = nil
	}
}

// do carries out effects.
func (r *runner) do(fx *actors.Effects) {
	if len(fx.Proposals) > 0 || fx.Confirm != 0 {
		r.node.commit.propose(r.id, fx.Proposals, fx.Confirm)
	}
	if fx.Again {
		r.post(r.idle())
	}
	for _, in := range fx.Sends {
		r.node.shards[in.To-1].post(in)
	}
	for _, a := range fx.Acks {
		r.node.shards[a.To-1].post(a)
	}
	for _, h := range fx.HeldBack {
		r.node.opts.Logger.Error("a reminder is due and cannot fire: it stays pending until the node starts again", "shard", r.id, "grain", h.Kind+"/"+h.Key,
			"reminder", h.Reminder, "due", time.UnixMicro(h.Due).UTC(), "error", h.Why, "next", "granary grain get "+h.Kind+"/"+h.Key)
	}
	for _, c := range fx.Cuts {
		if c.Failed {
			r.node.opts.Logger.Error("a grain could not be snapshotted by the logic it had: keep the earlier versions", "shard", r.id, "kind", c.Kind, "version", c.Version)
		} else {
			r.node.opts.Logger.Info("the cut is done: earlier versions are needed for reads of the past only", "shard", r.id, "kind", c.Kind, "version", c.Version)
		}
	}
	r.dealt(fx.Unrun)
	r.answer(fx)
	fx.Reset()
}

func (r *runner) answer(fx *actors.Effects) {
	if n := len(fx.Reads) + len(fx.Settles); n > 0 {
		r.mu.Lock()
		r.reads -= n
		r.mu.Unlock()
	}
	for _, b := range fx.Batches {
		b.Done(b)
	}
	for _, rd := range fx.Reads {
		rd.Done(rd)
	}
	for _, in := range fx.Settles {
		in.Done(in)
	}
}

// close writes a last checkpoint if it is asked to, and answers whoever still waits. The goroutine of the shard has ended.
func (r *runner) close(checkpoint bool) (err error) {
	var fx actors.Effects
	if r.failure() == nil && r.shard != nil {
		if checkpoint {
			err = r.shard.Close()
		}
		r.shard.Abandon(&fx)
	}
	r.mu.Lock()
	r.closed = true
	queue := r.queue
	r.queue = nil
	r.mu.Unlock()
	for _, in := range queue {
		refuse(in, actors.Unavailable, routing.ErrStopping.Error(), &fx)
	}
	r.answer(&fx)
	return err
}

// quietly asks a shard whether all is done.
type quietly struct {
	quiet atomic.Bool
	done  chan struct{}
}

func (r *runner) quiet(ctx context.Context) bool {
	q := &quietly{done: make(chan struct{})}
	r.post(q)
	select {
	case <-q.done:
		return q.quiet.Load()
	case <-ctx.Done():
		return false
	case <-r.node.stop:
		return true
	}
}
