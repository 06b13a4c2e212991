package actors

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/asynkron/protoactor-go/actor"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// Limits of a shard. They are bounds of memory and latency, not tuning knobs.
const (
	// flushBytes closes the open entry.
	flushBytes = 64 << 10
	// smallFlights entries may be under way as long as they have no more than smallBytes: where there is little to do, an
	// event waits for its own sync only, and where there is much, entries fill.
	smallFlights = 4
	smallBytes   = 4 << 10
	// maxUncommitted bytes may be proposed or open before the shard asks for no more events. It stays below what Raft
	// would refuse.
	maxUncommitted = 8 << 20
	// checkpointRecords and checkpointBytes since the last checkpoint bring the next one: they bound the replay after a
	// crash, and what is kept in memory of them.
	checkpointRecords = 4 << 10
	checkpointBytes   = 1 << 20
	// stateEvery is after how many records the state of a grain in memory is stored again at a checkpoint: what it would
	// cost to read them back after a crash.
	stateEvery = 32
	// recordBytes is what reading one record back costs, as a size of memory that a state takes: its whole entry is read. A
	// grain that leaves memory is stored when that is cheaper.
	recordBytes = 12 << 10
	// maxHops is how many sends may follow from one event.
	maxHops = 64
	// snapshotChunk is the largest part of a state in one record.
	snapshotChunk = 256 << 10
	// producerIdle is how long a producer may be silent before it is forgotten, in journal time (µs).
	producerIdle = 7 * 24 * 3600 * 1e6
	// sweepEvery is how often idle producers are looked for (µs).
	sweepEvery = 3600 * 1e6
)

// Config of a shard.
type Config struct {
	// Shard id, of Shards 1 to n.
	Shard, Shards uint64
	// Catalog of kinds.
	Catalog *grains.Catalog
	// Index is the derived state of the shard, open at its last checkpoint.
	Index *persistence.Index
	// System that the activations are actors of.
	System *actor.ActorSystem
	// Route returns the shard of a grain.
	Route func(kind string, key []byte) uint64
	// MemoryBudget for the activations of this shard, in bytes.
	MemoryBudget int64
	// CheckpointRecords after which derived keys are written; 4,096 by default.
	CheckpointRecords int
	// CutGrains that a step snapshots at most when the version of their logic was raised; 16 by default.
	CutGrains int
	// Flights are how many entries may be under way while they are small; 4 by default.
	Flights int
	// Watch is told of each turn; may be nil. Condemned are events whose turns are not to run; nil with Watch.
	Watch     Watch
	Condemned *Condemned
}

// Shard is the machine of one shard. See the package documentation.
type Shard struct {
	cfg      Config
	index    *persistence.Index
	term     uint64 // in which this replica was elected; 0: it follows
	round    uint64 // of that term
	leading  bool
	idWindow int64 // the longest of all kinds, µs

	// speculative state, from here to the outbox
	next      uint64 // index of the open entry
	prev      uint64 // index of the data entry before it
	time      int64  // journal time of the last record
	builder   entry.Builder
	open      flight
	flights   []flight // proposed and not yet committed, consecutive
	pending   int      // bytes of both
	producers map[string]*producer
	inbox     map[uint64]persistence.Mark
	ids       map[uint64]persistence.Known      // of flights and the open entry
	settling  map[letterName]bool               // dead letters settled in flights and the open entry
	grains    map[string]map[string]*activation // by kind and key
	resident  int                               // number of them
	lru       activation                        // ring; lru.prev is the least recently used
	memory    int64

	cuts      []*cut // versions that are being raised; see cut
	examining bool   // elected, but what the journal needs is still looked for
	unfit     *Unfit // elected, but not able to lead

	reminders reminders

	outbox outbox
	asks   asks
	reads  []*Read
	tails  []*Read // that wait for an entry beyond the last applied
	// reads that arrived since the last request to confirm leadership wait for the next token
	token, confirmed uint64
	asked            bool
	swept            int64
	runner           grains.Runner
	replayer         grains.Runner
	stateBuf         []byte
	arena            []byte // keys of effects
	message          turnMessage
	props            *actor.Props
	rec              entry.Record
	effects          []entry.Effect
	keyBuf           []byte
	Stats            Stats
}

// Stats are counters since the shard was made.
type Stats struct {
	Turns, Rejected, DeadLetters, Duplicates, Sends, Snapshots, Activations, Passivations, Entries, Checkpoints uint64
	// Answers are the replies to events of this shard that later turns gave.
	Answers uint64
	// Reminders that fired.
	Reminders uint64
	// Cut are the grains that were snapshotted because the version of their logic was raised.
	Cut uint64
}

// Add adds the counters of another shard.
func (s *Stats) Add(o Stats) {
	s.Turns += o.Turns
	s.Rejected += o.Rejected
	s.DeadLetters += o.DeadLetters
	s.Duplicates += o.Duplicates
	s.Sends += o.Sends
	s.Snapshots += o.Snapshots
	s.Activations += o.Activations
	s.Passivations += o.Passivations
	s.Entries += o.Entries
	s.Checkpoints += o.Checkpoints
	s.Reminders += o.Reminders
	s.Cut += o.Cut
	s.Answers += o.Answers
}

// flight is an entry with those who wait for it.
type flight struct {
	index   uint64
	data    []byte
	batches []*Batch
	acks    []*Ack
	settles []*Settle
	ids     []uint64
	answers []asked
	claims  []claim
}

// NewShard returns the machine of a shard, following.
func NewShard(cfg Config) *Shard {
	if cfg.CheckpointRecords == 0 {
		cfg.CheckpointRecords = checkpointRecords
	}
	if cfg.CutGrains == 0 {
		cfg.CutGrains = cutGrains
	}
	if cfg.Flights == 0 {
		cfg.Flights = smallFlights
	}
	s := &Shard{cfg: cfg, index: cfg.Index}
	for _, k := range cfg.Catalog.Kinds() {
		s.idWindow = max(s.idWindow, k.IDWindow.Microseconds())
	}
	s.props = actor.PropsFromProducer(func() actor.Actor { return s.message.activation },
		actor.WithMailbox(func() actor.Mailbox { return &s.message.activation.mailbox }), actor.WithDispatcher(actor.NewSynchronizedDispatcher(math.MaxInt)))
	s.forget()
	return s
}

// forget drops all speculative state.
func (s *Shard) forget() {
	for a := s.lru.next; a != nil && a != &s.lru; a = a.next {
		s.stop(a)
	}
	s.grains, s.resident = map[string]map[string]*activation{}, 0
	s.lru.next, s.lru.prev = &s.lru, &s.lru
	s.memory = 0
	s.producers = map[string]*producer{}
	s.inbox = map[uint64]persistence.Mark{}
	s.ids = map[uint64]persistence.Known{}
	s.settling = map[letterName]bool{}
	s.open, s.flights, s.pending = flight{}, nil, 0
	s.builder.Reset(0)
	s.outbox, s.reminders = outbox{}, reminders{}
	s.asks = newAsks()
	s.cuts, s.examining, s.unfit = nil, false, nil
	s.leading, s.asked = false, false
	s.cfg.Condemned.lost()
}

// Leading tells whether the shard takes events.
func (s *Shard) Leading() bool { return s.leading }

// Overloaded tells whether the shard wants no more client events for now: too much is uncommitted, or a target of its
// sends takes them in too slowly.
func (s *Shard) Overloaded() bool { return s.pending > maxUncommitted || s.outbox.slow > 0 }

// Quiet tells whether everything that came in is committed and answered.
func (s *Shard) Quiet() bool {
	return s.builder.Len() == 0 && len(s.flights) == 0 && len(s.reads) == 0 && s.outbox.quiet()
}

// Activations is the number of grains in memory, and their estimated size in bytes.
func (s *Shard) Activations() (n int, bytes int64) { return s.resident, s.memory }

// Step lets the machine take one input at a time (Unix microseconds) and appends what it wants done to fx. Inputs are
// *Batch, GiveUp, *Read, GiveUpRead, *Settle, *Inbound, *Ack, *Committed, Lead, Lost, Confirmed, Idle and Tick. An error ends
// the shard: it can neither
// lead nor follow any more.
func (s *Shard) Step(now int64, input any, fx *Effects) error {
	switch in := input.(type) {
	case *Batch:
		s.batch(now, in, fx)
	case *Inbound:
		return s.inbound(now, in, fx)
	case *Committed:
		for _, e := range in.Entries {
			if err := s.apply(now, e, fx); err != nil {
				return err
			}
		}
		s.outbox.send(fx)
		s.answer(fx)
		s.answerTails(fx)
		return s.checkpoint(false)
	case *Read:
		s.read(in, fx)
	case GiveUp:
		s.giveUp(in.Batch, fx)
	case GiveUpRead:
		s.giveUpRead(in.Read, fx)
	case *Settle:
		s.settle(now, in, fx)
	case *Ack:
		s.outbox.ack(s, in, now)
	case Idle:
		if s.examining {
			if err := s.examine(fx); err != nil {
				return err
			}
		}
		if !in.Hold {
			if err := s.cutSome(fx); err != nil {
				return err
			}
			if err := s.fireSome(now, fx); err != nil {
				return err
			}
		}
		if err := s.outbox.catchUp(s, now, fx); err != nil {
			return err
		}
		s.passivate()
		fx.Again = s.index.LearnIDs() || fx.Again
		if s.builder.Len() > 0 && s.mayFlush() {
			s.flush(fx)
		}
		s.confirm(fx)
		return s.checkpoint(false) // states of those that left memory may have filled it
	case Confirmed:
		s.asked = false
		s.confirmed = max(s.confirmed, in.Token)
		s.answer(fx)
	case Lead:
		s.lose(fx)
		s.term, s.round = in.Term, in.Round
	case Lost:
		s.lose(fx)
	case Tick:
		s.outbox.tick(now)
		s.tickReminders(now)
		return s.sweep(now, fx)
	default:
		return fmt.Errorf("shard %d: unknown input %T", s.cfg.Shard, input)
	}
	return nil
}

// lead begins to lead: an empty entry of this term is applied, and with it everything that could be committed before.
// Where this binary may lack logic that the journal needs, that is found out first.
func (s *Shard) lead(fx *Effects) error {
	s.cuts, s.unfit = s.planCuts(), nil
	for _, c := range s.cuts {
		s.examining = s.examining || len(c.lacks) > 0
	}
	if s.examining {
		fx.Again = true
		return nil
	}
	return s.begin(fx)
}

// begin takes events from here on.
func (s *Shard) begin(fx *Effects) error {
	s.leading = true
	applied, _ := s.index.Applied()
	s.next, s.prev, s.time = applied+1, s.index.LastData(), s.index.LastTime()
	s.open.index = s.next
	fx.Leading = true
	return s.outbox.begin(s, fx)
}

// lose throws away what is not committed and tells those who wait.
func (s *Shard) lose(fx *Effects) {
	s.term = 0
	for _, f := range append(s.flights, s.open) {
		for _, b := range f.batches {
			s.refuse(b, Unavailable, "the shard lost its leader before the events were committed", fx)
		}
		for _, a := range f.acks {
			a.Refused, a.Mark = true, s.index.Inbox(a.Lineage)
			fx.Acks = append(fx.Acks, a)
		}
		s.loseSettles(&f, fx)
	}
	for _, r := range s.reads {
		s.failRead(r, failf(Unavailable, "the shard lost its leader before the read could be confirmed"), fx)
	}
	s.reads = nil
	s.loseAsks(fx)
	s.loseTails(fx)
	s.forget()
}

// Abandon answers all who wait, after a step failed. The machine must not be used again.
func (s *Shard) Abandon(fx *Effects) { s.lose(fx) }

func (s *Shard) refuse(b *Batch, o Outcome, why string, fx *Effects) {
	b.Refused, b.Why, b.Results, b.duplicates = o, why, nil, nil
	fx.Batches = append(fx.Batches, b)
}

// flush closes the open entry and proposes it.
func (s *Shard) flush(fx *Effects) {
	if s.builder.Len() == 0 {
		return
	}
	data := s.builder.Close(entry.Header{Lineage: s.index.Lineage(), Term: s.term, Index: s.next, Previous: s.prev})
	s.open.data = data
	s.flights = append(s.flights, s.open)
	fx.Proposals = append(fx.Proposals, Proposal{Term: s.term, Round: s.round, Index: s.next, Data: data})
	s.pending += len(data) - s.builder.Size()
	s.prev = s.next
	s.next++
	s.open = flight{index: s.next}
	s.builder.Reset(0)
	s.Stats.Entries++
}

// mayFlush tells whether the open entry is closed now, or collects turns until an entry before it is committed.
func (s *Shard) mayFlush() bool {
	return len(s.flights) == 0 || len(s.flights) < s.cfg.Flights && s.pending-s.builder.Size() < smallBytes
}

// room closes the open entry when it is full. It comes before anything that asks for the index of the next record.
func (s *Shard) room(fx *Effects) {
	if s.builder.Size() >= flushBytes {
		s.flush(fx)
	}
}

// append adds a record to the open entry, whose index is s.next. Its time is the journal time.
func (s *Shard) append(rec *entry.Record) (ordinal uint32) {
	if s.builder.Len() == 0 {
		s.builder.Reset(rec.Time)
	}
	before := s.builder.Size()
	ordinal = s.builder.Append(rec)
	s.pending += s.builder.Size() - before
	return ordinal
}

// advance moves the journal time on: it is the leader's clock, but never runs back within a shard, nor behind the
// grain that sent the event.
func (s *Shard) advance(now, sender int64) int64 {
	s.time = max(s.time, now, sender)
	return s.time
}

// flightAt returns the flight or open entry of an index that is not applied, or nil.
func (s *Shard) flightAt(index uint64) *flight {
	if index == s.open.index && s.leading {
		return &s.open
	}
	if len(s.flights) > 0 && index >= s.flights[0].index {
		if i := index - s.flights[0].index; i < uint64(len(s.flights)) {
			return &s.flights[i]
		}
	}
	return nil
}

// last is the index of the newest entry with anything in it.
func (s *Shard) last() uint64 {
	if s.builder.Len() > 0 {
		return s.next
	}
	return s.next - 1
}

// fetch reads an entry, committed or on its way.
func (s *Shard) fetch(index uint64) (*entry.Directory, error) {
	if len(s.flights) > 0 && index >= s.flights[0].index {
		if f := s.flightAt(index); f != nil && f.data != nil {
			return entry.NewDirectory(f.data)
		}
	}
	return s.index.Directory(index)
}

// apply takes the next committed entry in.
func (s *Shard) apply(now int64, e *raftpb.Entry, fx *Effects) error {
	var visit func(*entry.Record)
	if s.leading {
		visit = func(r *entry.Record) {
			s.outbox.take(s, e.GetIndex(), r)
			s.answered(r, fx)
		}
	}
	err := s.index.Apply(e, visit)
	if errors.Is(err, persistence.ErrFenced) {
		if s.leading {
			s.startOver(fx) // of ours it can only be one that rests on others which never came to be
		}
		return nil
	}
	if err != nil {
		return err
	}
	if len(s.flights) > 0 {
		f := &s.flights[0]
		if f.index != e.GetIndex() || e.GetTerm() != s.term || !bytes.Equal(f.data, e.GetData()) {
			s.startOver(fx)
			return nil
		}
		s.land(f, fx)
		s.flights[0] = flight{}
		s.flights = s.flights[1:]
		if len(s.flights) == 0 {
			s.flights = nil
		}
	} else if s.leading {
		s.startOver(fx) // an entry that this leader did not make
		return nil
	}
	if s.term != 0 && !s.leading && e.GetTerm() == s.term && len(e.GetData()) == 0 {
		return s.lead(fx)
	}
	if s.examining {
		return s.lead(fx) // somebody else leads by now, and what was counted may be true no more
	}
	return nil
}

// startOver throws the speculation away although nobody told that leadership is lost. The proposal fits nowhere, and so
// makes the group begin a new round.
func (s *Shard) startOver(fx *Effects) {
	again := Proposal{Term: s.term, Round: s.round}
	s.lose(fx)
	fx.Proposals = append(fx.Proposals, again)
}

// land answers those who waited for an entry.
func (s *Shard) land(f *flight, fx *Effects) {
	s.pending -= len(f.data)
	fx.Unrun = s.cfg.Condemned.landed(f.index, fx.Unrun)
	for _, h := range f.ids {
		if s.ids[h].Index == f.index {
			delete(s.ids, h)
		}
	}
	for _, at := range f.answers {
		delete(s.asks.uncommitted, at) // the index knows it
	}
	s.release(f)
	for _, b := range f.batches {
		s.finish(b, fx)
	}
	fx.Acks = append(fx.Acks, f.acks...)
	s.landSettles(f, fx)
}

// OpenDeadLetters is the number of committed dead letters that nobody retried or dropped.
func (s *Shard) OpenDeadLetters() int { return s.index.OpenDeadLetters() }

// checkpoint writes the derived keys when enough was applied, or when it is forced.
func (s *Shard) checkpoint(force bool) error {
	records, bytes := s.index.Pending()
	if !force && records < s.cfg.CheckpointRecords && bytes < checkpointBytes {
		return nil
	}
	s.Stats.Checkpoints++
	s.storeStates()
	applied, _ := s.index.Applied()
	cursor := s.index.Outbox()
	if s.leading {
		cursor = s.outbox.cursor(applied)
	}
	return s.index.Checkpoint(cursor, s.index.LastTime()-s.idWindow)
}

// storeStates adds the states of busy grains to the next checkpoint: a grain that is loaded again after a crash starts
// there instead of reading its records one by one.
func (s *Shard) storeStates() {
	s.index.Changed(func(grain string, seq uint64) {
		kind, key := persistence.CutGrain(grain)
		// one whose last record is the last applied holds nothing uncommitted
		if a := s.grains[kind][key]; a != nil && a.seq == seq && a.unstored() >= stateEvery {
			s.storeState(a)
		}
	})
}

// storeState adds the state of a grain, which holds nothing uncommitted, to the next checkpoint.
func (s *Shard) storeState(a *activation) {
	state, err := a.kind.AppendState(s.stateBuf[:0], a.state)
	if err != nil {
		return // told of at the next read; the journal has it all
	}
	s.stateBuf = state
	a.stored = a.seq
	s.keyBuf = persistence.AppendGrain(s.keyBuf[:0], "", a.kind.Name, a.keyBytes)
	s.index.PutState(s.keyBuf, persistence.State{Seq: a.seq, Logic: a.logic, Snapshot: a.snapshot, Data: state})
}

// Close writes a last checkpoint, with the states of all grains in memory.
func (s *Shard) Close() error {
	applied, _ := s.index.Applied()
	for a := s.lru.prev; a != &s.lru; a = a.prev {
		if a.worthState() && a.last <= applied {
			s.storeState(a)
		}
	}
	return s.checkpoint(true)
}

// sweep journals the expiry of producers that were idle for too long.
func (s *Shard) sweep(now int64, fx *Effects) error {
	if !s.leading || now-s.swept < sweepEvery {
		return nil
	}
	s.swept = now
	ids, err := s.index.IdleProducers(now - producerIdle)
	if err != nil {
		return fmt.Errorf("shard %d: %w", s.cfg.Shard, err)
	}
	for _, id := range ids {
		if p := s.producers[id]; p != nil && p.Time >= now-producerIdle {
			continue
		}
		s.rec = entry.Record{Type: entry.Expiry, Producer: id, Time: s.advance(now, 0)}
		s.room(fx)
		s.append(&s.rec)
		s.producers[id] = &producer{Producer: &persistence.Producer{}} // the index knows it until this is committed
	}
	return nil
}
