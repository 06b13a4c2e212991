// Package node wires one Granary process: the store, the Raft groups, the shards and the clock. It is the only place
// that does.
//
// Here live the goroutines (one for each shard, one commit loop, one ticker, one that watches for turns that do not end)
// and the queues between them. The machines they drive live elsewhere and know of no goroutine. Here never lives a rule
// about events, records or entries.
//
// Invariant: every goroutine has one owner, the Node, and Close waits for all of them but those that were given up: they
// hang in a handler, and end behind it without touching anything.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/replication"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/cluster/slots"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// Options of a node. The zero value of a field means its default.
type Options struct {
	// DataDir holds the store.
	DataDir string
	// FS is the file system; the operating system's by default.
	FS vfs.FS
	// Catalog of kinds.
	Catalog *grains.Catalog
	// Shards of a store that is made; 64 by default.
	Shards int
	// MemoryBudget for the activations of all shards; 256 MiB by default.
	MemoryBudget int64
	// CheckpointRecords of a shard; see actors.Config.
	CheckpointRecords int
	// ReserveBytes of disk space; see persistence.Options.
	ReserveBytes uint64
	// TurnLimit is how long the handler of an event may run before it is given up and the event dead-lettered; 10 s by
	// default.
	TurnLimit time.Duration
	// Logger; silent by default.
	Logger *slog.Logger
	// Now is the clock; time.Now by default.
	Now func() time.Time
	// Fatal is called when the store cannot go on, such as after a failed fsync. It must not return. By default it
	// panics, which ends the process.
	Fatal func(msg string)
}

// tickEvery is the beat of Raft's logical clock and of the shards.
const tickEvery = 100 * time.Millisecond

// Node is one running process of the cluster, without its gateway.
type Node struct {
	opts   Options
	store  *persistence.Store
	table  routing.Table
	shards []*runner // by shard id - 1
	commit *committer
	system *actor.ActorSystem

	// reading is held by those who read the store beside the shards.
	reading sync.RWMutex

	stopping atomic.Bool
	// toldDamage is of the goroutine that ticks
	toldDamage bool
	turns      *slots.File  // nil: a store in memory, or a system without
	leading    atomic.Int32 // shards that lead, cannot, or are in quarantine
	ready      chan struct{}
	stop       chan struct{}
	failed     chan error
	wg         sync.WaitGroup
	watching   sync.WaitGroup // the goroutine that watches the others
	ended      chan struct{}  // closed when all others have ended
	once       sync.Once
}

// Start opens the store, replays what the last run left behind, and returns when every shard leads, lacks the logic to
// lead, or is in quarantine.
func Start(ctx context.Context, o Options) (*Node, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MemoryBudget == 0 {
		o.MemoryBudget = 256 << 20
	}
	if o.TurnLimit == 0 {
		o.TurnLimit = turnLimit
	}
	if o.Fatal == nil {
		o.Fatal = func(msg string) {
			fmt.Fprintln(os.Stderr, "granary: the store failed, the node stops:", msg)
			os.Exit(1)
		}
	}
	store, err := persistence.Open(persistence.Options{Dir: o.DataDir, FS: o.FS, Shards: o.Shards, ReserveBytes: o.ReserveBytes, Logger: o.Logger, Fatal: o.Fatal})
	if err != nil {
		return nil, err
	}
	n := &Node{opts: o, store: store, table: routing.NewTable(store.Identity().Shards),
		ready: make(chan struct{}), stop: make(chan struct{}), ended: make(chan struct{}), failed: make(chan error, 1)}
	n.system = actor.NewActorSystemWithConfig(actor.Configure(
		actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }),
		actor.WithDeadLetterRequestLogging(false), actor.WithDeadLetterThrottleCount(0)))
	if err := n.open(); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	n.checkSpace()
	n.remember()
	for _, r := range n.shards {
		n.begin(r.life)
	}
	n.watching.Add(1)
	go n.watch()
	n.spawn(n.commit.run)
	n.spawn(n.tick)
	select {
	case <-n.ready:
		n.tellLacks()
		return n, nil
	case err := <-n.failed:
		_ = n.end(true) // the first error is the one that matters
		return nil, err
	case <-ctx.Done():
		_ = n.end(true) // the first error is the one that matters
		return nil, fmt.Errorf("the shards did not begin to lead: %w", ctx.Err())
	}
}

// stopped tells whether the goroutines are to end.
func (n *Node) stopped() bool {
	select {
	case <-n.stop:
		return true
	default:
		return false
	}
}

func (n *Node) spawn(fn func()) {
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		fn()
	}()
}

// open makes the machines of all shards. A shard whose log cannot be read is put in quarantine: it answers nothing but
// why, and the others go on.
func (n *Node) open() error {
	host := replication.NewHost(n.store.Identity().NodeID)
	n.commit = newCommitter(n, host)
	count := uint64(n.table.Len())
	self := n.store.Identity().NodeID
	for id := uint64(1); id <= count; id++ {
		r := newRunner(n, id)
		n.shards = append(n.shards, r)
		err := func() error {
			index, err := n.store.OpenIndex(id, self)
			if err != nil {
				return err
			}
			log, err := n.store.OpenLog(id, self)
			if err != nil {
				return err
			}
			applied, _ := index.Applied()
			if err := host.Add(id, log, applied); err != nil {
				return err
			}
			r.shard = actors.NewShard(actors.Config{Shard: id, Shards: count, Catalog: n.opts.Catalog, Index: index, System: n.system,
				Route:        func(kind string, key []byte) uint64 { return n.table.ShardOf("", kind, key) },
				MemoryBudget: n.opts.MemoryBudget / int64(count), CheckpointRecords: n.opts.CheckpointRecords,
				Watch: r.life, Condemned: &r.condemned})
			return nil
		}()
		if err != nil {
			r.quarantine(err)
		}
	}
	return host.Campaign()
}

// settled counts the shards that lead, or never will.
func (n *Node) settled() {
	if int(n.leading.Add(1)) == n.table.Len() {
		close(n.ready)
	}
}

// tellLacks logs the versions of logic for which shards do not lead: a line for each, with what all shards need together.
func (n *Node) tellLacks() {
	type lack struct {
		actors.Lack
		shards int
	}
	var all []*lack
	for _, r := range n.shards {
		r.mu.Lock()
		unfit := r.unfit
		r.mu.Unlock()
		if unfit == nil {
			continue
		}
		for _, l := range unfit.Lacks {
			i := slices.IndexFunc(all, func(o *lack) bool { return o.Kind == l.Kind && o.Version == l.Version })
			if i < 0 {
				all = append(all, &lack{l, 1})
				continue
			}
			all[i].Grains += l.Grains
			all[i].shards++
		}
	}
	for _, l := range all {
		n.opts.Logger.Error("shards do not lead: "+l.String(), "shards", l.shards, "of", len(n.shards), "next", "start a binary that has this version")
	}
}

// now is the time in Unix microseconds.
func (n *Node) now() int64 { return n.opts.Now().UnixMicro() }

// fail ends the node because a part of it cannot go on.
func (n *Node) fail(err error) {
	select {
	case n.failed <- err:
	default:
	}
}

// Failed yields an error if the node cannot go on. The owner then closes it.
func (n *Node) Failed() <-chan error { return n.failed }

func (n *Node) tick() {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for i := 0; ; i++ {
		select {
		case <-t.C:
		case <-n.stop:
			return
		}
		n.commit.tick()
		for _, r := range n.shards {
			r.post(actors.Tick{})
		}
		if i%10 == 0 {
			n.checkSpace()
			n.checkDamage()
		}
	}
}

// checkDamage tells the operator once that the store met damage.
func (n *Node) checkDamage() {
	if err := n.store.Damaged(); err != nil && !n.toldDamage {
		n.toldDamage = true
		n.opts.Logger.Error("a table of the store is damaged: new events are refused, reads of what is whole go on", "error", err,
			"next", "stop the node, run granary verify --data-dir "+n.opts.DataDir+", and bring the file back from a copy")
	}
}

func (n *Node) checkSpace() {
	was := n.store.Full()
	free, err := n.store.CheckSpace()
	switch full := n.store.Full(); {
	case err != nil:
		n.opts.Logger.Warn("free disk space cannot be read", "dir", n.opts.DataDir, "error", err)
	case full && !was:
		n.opts.Logger.Error("the disk is down to its reserve: new events are refused, reads go on", "dir", n.opts.DataDir, "free_bytes", free)
	case was && !full:
		n.opts.Logger.Info("the disk has room again", "dir", n.opts.DataDir, "free_bytes", free)
	}
}

// Table implements [routing.Router].
func (n *Node) Table() routing.Table { return n.table }

// Publish implements [routing.Router].
func (n *Node) Publish(ctx context.Context, shard uint64, b *actors.Batch, wait bool) error {
	if n.stopping.Load() {
		return routing.ErrStopping
	}
	if err := routing.Takes(n.store); err != nil {
		return err
	}
	return n.shards[shard-1].publish(ctx, b, wait)
}

// GiveUp implements [routing.Router].
func (n *Node) GiveUp(shard uint64, b *actors.Batch) { n.shards[shard-1].post(actors.GiveUp{Batch: b}) }

// Read implements [routing.Router].
func (n *Node) Read(shard uint64, r *actors.Read) error {
	return n.shards[shard-1].ask(r)
}

// Settle implements [routing.Router].
func (n *Node) Settle(shard uint64, in *actors.Settle) error {
	if n.stopping.Load() {
		return routing.ErrStopping
	}
	if err := routing.Takes(n.store); err != nil {
		return err
	}
	return n.shards[shard-1].ask(in)
}

// GiveUpRead implements [routing.Router].
func (n *Node) GiveUpRead(shard uint64, r *actors.Read) { n.shards[shard-1].giveUp(r) }

// Entries implements [routing.Router].
func (n *Node) Entries(ctx context.Context, shard uint64, after routing.Place, upto uint64, maxBytes int) ([]*entry.Reader, routing.Place, error) {
	n.reading.RLock()
	defer n.reading.RUnlock()
	if n.stopped() {
		return nil, after, routing.ErrStopping
	}
	if err := ctx.Err(); err != nil {
		return nil, after, err
	}
	return n.store.Committed(shard, after, upto, maxBytes)
}

var _ routing.Router = (*Node)(nil)

// Drain refuses new events and waits until everything taken is committed, answered and, as far as it is a send, taken in
// by its target; or until ctx is done.
func (n *Node) Drain(ctx context.Context) error {
	n.stopping.Store(true)
	for {
		quiet := true
		for _, r := range n.shards {
			quiet = quiet && r.quiet(ctx)
		}
		if quiet {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("some events were still on their way: %w", ctx.Err())
		}
	}
}

// Close stops the node at once, writes a checkpoint, answers whoever still waits that nothing is known, and closes the
// store. Call Drain before it to let what was taken come to its end.
func (n *Node) Close() error {
	n.stopping.Store(true)
	var err error
	n.once.Do(func() { err = n.end(true) })
	return err
}

// end stops the goroutines, answers whoever waits, and closes the store.
func (n *Node) end(checkpoint bool) error {
	close(n.stop)
	for _, r := range n.shards {
		r.wakeUp()
	}
	n.commit.wakeUp()
	n.wg.Wait()
	close(n.ended)
	n.watching.Wait()
	var errs []error
	for _, r := range n.shards {
		errs = append(errs, r.close(checkpoint))
	}
	n.system.Shutdown()
	n.reading.Lock() // whoever reads entries is let through; who comes later sees that the node has stopped
	defer n.reading.Unlock()
	errs = append(errs, n.forget(), n.store.Close())
	return errors.Join(errs...)
}

// Kill stops the goroutines and closes the store without a checkpoint, as a crash would. It is for tests that crash the
// file system below.
func (n *Node) Kill() {
	n.stopping.Store(true)
	n.once.Do(func() { _ = n.end(false) })
}

// Stats are counters of the whole node.
type Stats struct {
	actors.Stats
	// OpenDeadLetters that nobody retried or dropped.
	OpenDeadLetters int
	// Resident grains and their estimated bytes.
	Resident int
	Bytes    int64
	// Asking are those who wait for a deferred reply.
	Asking int
	// Abandoned are the turns that ran longer than they may.
	Abandoned uint64
	// Quarantined shards, and Unfit ones, which do not lead because this binary lacks logic that their journal needs.
	Quarantined, Unfit int
}

// Stats sums up the counters of all shards, as of their last step.
func (n *Node) Stats() Stats {
	var s Stats
	for _, r := range n.shards {
		r.mu.Lock()
		t := r.stats
		r.mu.Unlock()
		s.Add(t.Stats)
		s.OpenDeadLetters += t.OpenDeadLetters
		s.Resident += t.Resident
		s.Bytes += t.Bytes
		s.Asking += t.Asking
		s.Abandoned += t.Abandoned
		s.Quarantined += t.Quarantined
		s.Unfit += t.Unfit
	}
	return s
}

// Store of the node, for its metrics.
func (n *Node) Store() *persistence.Store { return n.store }
