package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/replication"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/intake"
	"github.com/granary-dev/granary/persistence"
)

// dataDir is the data folder on a node's disk.
const dataDir = "data"

// tickEvery is how often a node moves the clocks of its machines on, as in production.
const tickEvery = 100 * time.Millisecond

// Limits of what may wait for a shard, as in production.
const maxQueued = 8192

// node is one life of one node: from its start to its crash. What production does with goroutines happens here as events
// of the world, each a little later than its cause.
type node struct {
	world  *world
	id     int
	disk   *Disk
	store  *persistence.Store
	host   *replication.Host
	loop   *replication.Loop
	table  routing.Table
	intake *intake.Intake
	system *actor.ActorSystem
	shards []*shard
	alive  bool
	led    int // shards that lead
	work   []work
	due    bool // a round of the commit loop is on its way
	conns  []*conn
	calls  []*subscribeCall
	fatal  string // what the store said when it could not go on
	broken bool   // the store panicked, and may hold its locks for ever
}

// work is what a shard asks of its group, or a tick for all.
type work struct {
	shard     uint64
	proposals []actors.Proposal
	confirm   uint64
}

// shard is the driver of one shard's machine.
type shard struct {
	node       *node
	id         uint64
	machine    *actors.Shard
	index      *persistence.Index
	log        *persistence.Log
	queue      []any
	queued     int
	due        bool
	led        bool
	overloaded bool
	early      []any
	fx         actors.Effects
	failed     error
}

// startNode opens what is on the disk and begins to lead.
func (w *world) startNode(id int, disk *Disk) (*node, error) {
	n := &node{world: w, id: id, disk: disk, alive: true}
	var err error
	n.store, err = persistence.Open(persistence.Options{Dir: dataDir, FS: disk, Shards: w.o.Shards, CacheBytes: 1 << 20, ReserveBytes: reserve,
		Fatal: n.storeFailed})
	if err != nil {
		return nil, err
	}
	n.table = routing.NewTable(n.store.Identity().Shards)
	n.intake = intake.New(w.catalog, n.table)
	n.system = actor.NewActorSystemWithConfig(actor.Configure(
		actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }),
		actor.WithDeadLetterRequestLogging(false), actor.WithDeadLetterThrottleCount(0)))
	self := n.store.Identity().NodeID
	n.host = replication.NewHost(self)
	n.loop = replication.NewLoop(n.host, n.store)
	for i := range n.table.Len() {
		s := &shard{node: n, id: uint64(i + 1)}
		n.shards = append(n.shards, s)
		index, err := n.store.OpenIndex(s.id, self)
		if err != nil {
			s.failed = err
			continue
		}
		log, err := n.store.OpenLog(s.id, self)
		if err != nil {
			s.failed = err
			continue
		}
		applied, _ := index.Applied()
		if err := n.host.Add(s.id, log, applied); err != nil {
			s.failed = err
			continue
		}
		s.index, s.log = index, log
		s.machine = actors.NewShard(actors.Config{Shard: s.id, Shards: uint64(n.table.Len()), Catalog: w.catalog, Index: index, System: n.system,
			Route:        func(kind string, key []byte) uint64 { return n.table.ShardOf("", kind, key) },
			MemoryBudget: w.budget / int64(n.table.Len()), CheckpointRecords: w.checkpoint, CutGrains: w.cutGrains, Flights: w.flights})
	}
	if err := n.host.Campaign(); err != nil {
		return nil, err
	}
	n.checkSpace()
	n.commit()
	n.after(tickEvery, n.tick)
	return n, nil
}

// storeFailed is the store's last word. It may come from a goroutine of the store, which must not go on.
func (n *node) storeFailed(what string) {
	n.fatal = what
	panic(stored(what))
}

type stored string

// after does something in this life of the node.
func (n *node) after(d time.Duration, fn func()) {
	n.world.after(d, func() {
		if n.alive {
			fn()
		}
	})
}

// clock is the node's own, in Unix microseconds.
func (n *node) clock() int64 { return n.world.clock().Add(n.world.skew).UnixMicro() }

func (n *node) tick() {
	n.work = append(n.work, work{})
	n.commit()
	for _, s := range n.shards {
		s.post(actors.Tick{})
	}
	n.checkSpace()
	if err := n.store.Damaged(); err != nil && !n.world.damaged(n, err.Error()) {
		n.world.fail("n%d tells of damage that is not there, or does not name it: %v", n.id, err)
	}
	n.after(tickEvery, n.tick)
}

func (n *node) checkSpace() {
	if _, err := n.store.CheckSpace(); err != nil {
		n.world.fail("free space: %v", err)
	}
}

// commit sees to it that a round of the commit loop comes.
func (n *node) commit() {
	if !n.due {
		n.due = true
		n.after(n.world.between(20*time.Microsecond, 300*time.Microsecond), n.round)
	}
}

// round is one round of the commit loop. What it tells leaves it at once; the next one comes after the time of a sync.
func (n *node) round() {
	n.due = false
	todo := n.work
	n.work = nil
	for _, t := range todo {
		if t.shard == 0 {
			if err := n.host.Tick(); err != nil {
				n.world.fail("tick: %v", err)
			}
		}
		for _, p := range t.proposals {
			if !n.world.healed && n.world.chance(n.world.o.Faults.Refused) {
				n.world.count("proposal refused")
				p.Index += 1 << 40 // fits nowhere, as one that Raft drops or that another entry has overtaken
			}
			if err := n.host.Propose(t.shard, p); err != nil {
				n.world.fail("propose: %v", err)
			}
		}
		if t.confirm != 0 {
			n.host.Confirm(t.shard, t.confirm)
		}
	}
	n.loop.Tell(n.tell)
	if n.host.Busy() {
		n.world.trace("n%d round", n.id)
		err := n.sync()
		if err != nil {
			n.world.stops(n, err)
			return
		}
		if n.world.dies(n) {
			return
		}
	}
	if n.host.Busy() || len(n.work) > 0 {
		n.due = true
		n.after(n.world.between(100*time.Microsecond, n.world.slowestSync()), n.round)
	}
}

// sync is a round of the loop. A store that cannot go on ends the process in production; here that is an error.
func (n *node) sync() (err error) {
	defer func() {
		if p := recover(); p != nil {
			what, ok := p.(stored)
			if !ok {
				n.broken = true
				panic(p)
			}
			err = errors.New(string(what))
		}
	}()
	return n.loop.Round(n.tell)
}

func (n *node) tell(e replication.Event) {
	switch in := e.Input.(type) {
	case *actors.Committed:
		last := in.Entries[len(in.Entries)-1]
		n.world.trace("n%d s%d committed %d of term %d, %d bytes", n.id, e.Shard, last.GetIndex(), last.GetTerm(), len(last.GetData()))
	default:
		n.world.trace("n%d s%d %T%v", n.id, e.Shard, in, in)
	}
	n.shards[e.Shard-1].post(e.Input)
}

// post queues an input of the machine.
func (s *shard) post(in any) {
	s.queue = append(s.queue, in)
	if !s.due {
		s.due = true
		s.node.after(s.node.world.between(2*time.Microsecond, 100*time.Microsecond), s.run)
	}
}

// publish queues a client's batch if there is room.
func (s *shard) publish(b *actors.Batch) error {
	if err := routing.Takes(s.node.store); err != nil {
		return err
	}
	if s.overloaded || s.queued > 0 && s.queued+len(b.Events) > maxQueued {
		return routing.ErrOverloaded
	}
	s.queued += len(b.Events)
	s.post(b)
	return nil
}

// run steps the machine through what is queued, as the goroutine of a shard does.
func (s *shard) run() {
	s.due = false
	inputs := s.queue
	s.queue, s.queued = nil, 0
	now := s.node.clock()
	for _, in := range inputs {
		if _, send := in.(*actors.Inbound); send && !s.led && s.failed == nil {
			s.early = append(s.early, in)
			continue
		}
		s.step(now, in)
	}
	s.step(now, s.idle())
	if s.fx.Unfit != nil {
		s.node.world.fail("%v", s.fx.Unfit) // binaries here have all that was ever needed
	}
	if s.fx.Leading && !s.led {
		s.led = true
		s.node.led++
		for _, in := range s.early {
			s.step(now, in)
		}
		s.early = nil
		s.step(now, s.idle())
	}
	if s.failed == nil {
		s.overloaded = s.machine.Overloaded()
	}
	s.do()
}

// idle is as in production.
func (s *shard) idle() actors.Idle { return actors.Idle{Hold: routing.Takes(s.node.store) != nil} }

func (s *shard) step(now int64, in any) {
	if s.failed == nil {
		if err := s.machine.Step(now, in, &s.fx); err != nil {
			s.failed = err
			s.machine.Abandon(&s.fx)
			s.node.world.quarantined(s, err)
		}
		return
	}
	switch in := in.(type) {
	case *actors.Batch:
		in.Refused, in.Why, in.Results = actors.Corrupt, s.failed.Error(), nil
		s.fx.Batches = append(s.fx.Batches, in)
	case *actors.Read:
		in.Failed, in.Why = actors.Corrupt, s.failed.Error()
		s.fx.Reads = append(s.fx.Reads, in)
	case *actors.Inbound:
		s.fx.Acks = append(s.fx.Acks, &actors.Ack{From: s.id, To: in.From, Lineage: in.Lineage, Refused: true})
	}
}

// do carries out effects.
func (s *shard) do() {
	n, fx := s.node, &s.fx
	if len(fx.Proposals) > 0 || fx.Confirm != 0 {
		n.world.trace("n%d s%d proposes %d, confirm %d", n.id, s.id, len(fx.Proposals), fx.Confirm)
		n.work = append(n.work, work{s.id, append([]actors.Proposal(nil), fx.Proposals...), fx.Confirm})
		n.commit()
	}
	if fx.Again {
		s.post(s.idle())
	}
	for _, in := range fx.Sends {
		n.world.carry(n, in.To, in, fmt.Sprintf("s%d to s%d %d sends", in.From, in.To, len(in.Sends)))
	}
	for _, a := range fx.Acks {
		n.world.carry(n, a.To, a, fmt.Sprintf("s%d to s%d ack %v", a.From, a.To, a.Mark))
	}
	for _, b := range fx.Batches {
		n.served(b.Refused, b.Why)
		for i := range b.Results {
			n.served(b.Results[i].Outcome, b.Results[i].Reason)
		}
		if n.alive {
			b.Done(b)
		}
	}
	for _, r := range fx.Reads {
		if n.served(r.Failed, r.Why); n.alive {
			r.Done(r)
		}
	}
	fx.Reset()
}

// served looks at an answer before it is given: one that tells of damage must name it.
func (n *node) served(o actors.Outcome, why string) {
	if o == actors.Corrupt && !n.world.damaged(n, why) {
		n.world.fail("n%d tells of damage that is not there, or does not name it: %s", n.id, why)
	}
}

// quiet tells whether all that came in is committed, answered and passed on.
func (n *node) quiet() bool {
	for _, s := range n.shards {
		if s.failed == nil && (len(s.queue) > 0 || !s.machine.Quiet()) {
			return false
		}
	}
	return len(n.work) == 0 && !n.host.Busy()
}

// bury ends what is left of a life: nothing of it may happen any more.
func (n *node) bury() {
	n.alive = false
	for _, c := range n.conns {
		c.cut()
	}
	for _, c := range n.calls {
		c.cut()
	}
	n.conns, n.calls = nil, nil
	n.system.Shutdown()
	if n.fatal == "" {
		_ = n.loop.Close()
	}
	if n.broken {
		return
	}
	// into files that no one will see again, and after a fatal error with a complaint
	defer func() { _ = recover() }()
	_ = n.store.Close()
}

// close stops a node as an operator would.
func (n *node) close() error {
	n.alive = false
	for _, s := range n.shards {
		if s.failed == nil {
			if err := s.machine.Close(); err != nil {
				return err
			}
			s.machine.Abandon(&s.fx)
		}
	}
	n.system.Shutdown()
	if err := n.loop.Close(); err != nil {
		return err
	}
	return n.store.Close()
}

var _ vfs.FS = (*Disk)(nil)
