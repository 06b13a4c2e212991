package actors

import (
	"fmt"
	"slices"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// activation is a grain in memory: its state as of its last record, committed or not, and where its records are. It is
// an actor; only its shard posts to it.
type activation struct {
	pid      *actor.PID
	mailbox  mailbox
	kind     *grains.Definition // nil: only the head is known (an event for a kind that is not there)
	name     grains.Ref
	keyBytes []byte
	hash     uint64 // of the name; 0: see identity
	state    proto.Message

	seq, last uint64 // of the last record, and the index of its entry
	back      uint64 // its back pointer
	ordinal   uint32
	placed    bool // ordinal is known
	time      int64
	logic     uint32 // version that made the state
	snapshot  persistence.SnapshotPointer
	since     int    // records since the snapshot
	stored    uint64 // seq of the state that is stored outside the log

	bytes      int64 // estimate
	prev, next *activation
}

// overhead is what an activation costs beside its state: the actor, the map entries, the structs.
const overhead = 2 << 10

// size sets the estimate of a state that takes n bytes encoded.
func (a *activation) size(s *Shard, n int64) { a.grow(s, overhead+3*n-a.bytes) }

func (a *activation) grow(s *Shard, n int64) {
	a.bytes += n
	s.memory += n
}

// touch makes an activation the most recently used.
func (s *Shard) touch(a *activation) {
	if a.prev != nil {
		a.prev.next, a.next.prev = a.next, a.prev
	}
	a.prev, a.next = s.lru.next.prev, s.lru.next
	a.prev.next, a.next.prev = a, a
}

// activate returns the activation of a grain, loading it if need be.
func (s *Shard) activate(kind *grains.Definition, key string) (*activation, error) {
	if a := s.grains[kind.Name][key]; a != nil {
		if a.kind == nil || a.state == nil {
			return nil, failf(LogicMissing, "grain %v cannot be loaded", a.name)
		}
		return a, nil
	}
	a, err := s.load(kind, key)
	if err != nil {
		return nil, err
	}
	s.admit(a)
	return a, nil
}

// admit puts an activation into memory.
func (s *Shard) admit(a *activation) {
	s.message.activation = a
	a.pid = s.cfg.System.Root.Spawn(s.props)
	of := s.grains[a.name.Kind]
	if of == nil {
		of = map[string]*activation{}
		s.grains[a.name.Kind] = of
	}
	of[a.name.Key] = a
	s.resident++
	s.touch(a)
	s.Stats.Activations++
}

// bare returns an activation for a dead letter: of a grain that is in memory, or one of which only the head is known.
func (s *Shard) bare(kind *grains.Definition, kindName, key string) (*activation, error) {
	name := grains.Ref{Kind: kindName, Key: key}
	if a := s.grains[kindName][key]; a != nil {
		return a, nil
	}
	if kind != nil {
		a, err := s.activate(kind, key)
		if err == nil {
			return a, nil
		}
		if s.cutting(kind.Name) {
			// a record without logic behind a tail of an earlier version would hide from the cut that the grain is not snapshotted
			return nil, err
		}
	}
	head, err := s.index.Head(persistence.AppendGrain(nil, "", kindName, key))
	if err != nil {
		return nil, fmt.Errorf("shard %d: %s/%s: %w", s.cfg.Shard, kindName, key, err)
	}
	a := &activation{name: name, keyBytes: []byte(key), seq: head.Seq, last: head.Last, time: head.Time}
	s.admit(a)
	a.size(s, 0)
	return a, nil
}

// load reads a grain that has no uncommitted records: its newest snapshot and the records behind it.
func (s *Shard) load(kind *grains.Definition, key string) (*activation, error) {
	a := &activation{kind: kind, name: grains.Ref{Kind: kind.Name, Key: key}, keyBytes: []byte(key)}
	grain := persistence.AppendGrain(make([]byte, 0, 128), "", kind.Name, key)
	head, err := s.index.Head(grain)
	if err != nil {
		return nil, failf(Corrupt, "shard %d: %v: %w", s.cfg.Shard, a.name, err)
	}
	a.seq, a.last, a.time, a.logic = head.Seq, head.Last, head.Time, kind.Version
	base, ok := s.base(kind, grain, head)
	if ok {
		a.snapshot, a.stored = base.Snapshot, base.Seq
	}
	if head.Seq-a.snapshot.Seq >= uint64(kind.SnapshotEvery) || s.cutting(kind.Name) { // with fewer records there is no newer one
		if a.snapshot, _, err = s.index.Snapshots(grain, head.Seq); err != nil {
			return nil, failf(Corrupt, "shard %d: %v: %w", s.cfg.Shard, a.name, err)
		}
	}
	if ok && base.Seq >= a.snapshot.Seq { // behind a cut the logic for what lies before the snapshot may be gone
		return a, s.foldFrom(a, base)
	}
	return a, s.fold(a)
}

// base returns the stored state of a grain if it is the shortest way to the present one. One that cannot be used is as
// good as none: the journal has everything.
func (s *Shard) base(kind *grains.Definition, grain []byte, head persistence.Head) (persistence.State, bool) {
	if head.Seq == 0 {
		return persistence.State{}, false
	}
	base, err := s.index.State(grain)
	ok := err == nil && base.Seq != 0 && base.Seq <= head.Seq && base.Logic <= kind.Version && head.Seq-base.Seq <= uint64(kind.SnapshotEvery)
	return base, ok
}

// rebuild puts the state of an activation back to its last record, after a turn that failed half-way. The open entry
// is closed first, so that every record can be read.
func (s *Shard) rebuild(a *activation, fx *Effects) error {
	s.flush(fx)
	return s.fold(a)
}

// fold sets the state of an activation from its snapshot and the records behind it, up to a.last.
func (s *Shard) fold(a *activation) error {
	f := folder{shard: s, kind: a.kind, key: a.keyBytes, fetch: s.fetch}
	base, err := f.snapshot(a.snapshot)
	if err != nil {
		return err
	}
	return s.foldFrom(a, base)
}

// foldFrom sets the state of an activation from a state and the records behind it, up to a.last.
func (s *Shard) foldFrom(a *activation, base persistence.State) error {
	a.state, a.since = nil, 0
	f := folder{shard: s, kind: a.kind, key: a.keyBytes, fetch: s.fetch}
	state, last, n, err := f.fold(base, a.last, a.seq)
	if err != nil {
		return err
	}
	a.state, a.since, a.logic = state, int(a.seq-a.snapshot.Seq), base.Logic
	if last.Logic != 0 {
		a.logic = last.Logic
	}
	if last.Seq != 0 {
		a.ordinal, a.back, a.placed = last.Ordinal, last.Back, true
	}
	a.size(s, n)
	return nil
}

// folder computes a state from the journal.
type folder struct {
	shard *Shard
	kind  *grains.Definition
	key   []byte
	fetch persistence.Fetch
}

// fail says which grain an error is about.
func (f *folder) fail(err error) error {
	return failf(outcomeOf(err), "shard %d: %s/%s: %w", f.shard.cfg.Shard, f.kind.Name, f.key, err)
}

// lacks is the failure for want of a version of the kind's logic.
func (f *folder) lacks(what string, version uint32) error {
	return &failure{
		outcome: LogicMissing,
		err:     fmt.Errorf("%s version %d of the kind's logic, this binary has %d", what, version, f.kind.Version),
		lack:    &Lack{Kind: f.kind.Name, Version: version, Have: f.kind.Version, Grains: 1},
	}
}

// snapshot reads a snapshot; the zero pointer gives the empty state.
func (f *folder) snapshot(at persistence.SnapshotPointer) (persistence.State, error) {
	base := persistence.State{Seq: at.Seq, Logic: f.kind.Version, Snapshot: at}
	if at.Seq == 0 {
		return base, nil
	}
	first, data, err := persistence.ReadSnapshot(f.fetch, at)
	if err != nil {
		return base, f.fail(err)
	}
	if first.Logic > f.kind.Version {
		return base, f.fail(f.lacks("its snapshot needs", first.Logic))
	}
	base.Data = data
	if first.Logic != 0 {
		base.Logic = first.Logic
	}
	return base, nil
}

// fold returns the state after record seq, which is in the entry at index or before it: a state and the records behind
// it. It also returns the last record folded (zero if there was none), with the last version of the logic that any of them
// names, and the encoded size, roughly.
func (f *folder) fold(from persistence.State, index, seq uint64) (state proto.Message, last entry.Record, size int64, err error) {
	fail := func(err error) (proto.Message, entry.Record, int64, error) { return nil, last, 0, f.fail(err) }
	state = f.kind.NewState()
	if from.Seq != 0 {
		if state, err = f.kind.DecodeState(from.Data); err != nil {
			return fail(err)
		}
		size = int64(len(from.Data))
	}
	if seq == from.Seq {
		// where the last record stands is asked for only when it is shown
		return state, last, size, nil
	}
	tail, err := f.tail(index, from.Seq, seq)
	if err != nil {
		return fail(err)
	}
	var logic uint32
	for i := range tail {
		if err := f.replay(state, &tail[i]); err != nil {
			return fail(fmt.Errorf("seq %d: %w", tail[i].Seq, err))
		}
		size += int64(len(tail[i].Payload))
		if tail[i].Logic != 0 {
			logic = tail[i].Logic
		}
	}
	last = tail[len(tail)-1].Record
	last.Logic = logic
	return state, last, size, nil
}

// tail returns the numbered records above from up to to, oldest first, walking back from the entry at index.
func (f *folder) tail(index, from, to uint64) ([]HistoryRecord, error) {
	var tail []HistoryRecord
	err := persistence.Walk(f.fetch, index, "", f.kind.Name, f.key, func(at uint64, records []entry.Record) bool {
		for i := len(records) - 1; i >= 0; i-- {
			r := &records[i]
			if r.Type.Numbered() && r.Seq > from && r.Seq <= to {
				tail = append(tail, HistoryRecord{at, *r})
			}
		}
		return len(tail) == 0 || tail[len(tail)-1].Seq > from+1
	})
	if err != nil {
		return nil, err
	}
	if uint64(len(tail)) != to-from {
		return nil, fmt.Errorf("%w: %d of the records %d to %d are there", entry.ErrCorrupt, len(tail), from+1, to)
	}
	slices.Reverse(tail)
	return tail, nil
}

// replay folds one record as it was folded before, with its effects muted but compared.
func (f *folder) replay(state proto.Message, r *HistoryRecord) error {
	if r.Type != entry.Input && r.Type != entry.Timer {
		return nil // a void or a dead letter changed nothing
	}
	kind, ok := f.kind.At(r.Logic)
	if !ok {
		return f.lacks("it needs", r.Logic)
	}
	e, ok := kind.Event(r.Event)
	if !ok {
		return failf(LogicMissing, "version %d of the kind's logic takes no event %q in this binary", kind.Version, r.Event)
	}
	msg, err := e.Decode(r.Payload)
	if err != nil {
		return fmt.Errorf("%w: %w", entry.ErrCorrupt, err)
	}
	s := f.shard
	out := s.replayer.Run(e, grains.Input{Grain: grains.Ref{Kind: f.kind.Name, Key: string(f.key)}, Seq: r.Seq, Now: r.Time, EventTime: r.EventTime,
		Sender: grains.Ref{Kind: r.Sender.Kind, Key: string(r.Sender.Key)}, Seed: seed(s.index.Lineage(), f.key)}, state, msg)
	if out.Err != nil {
		return failf(LogicMissing, "the logic is not the one that ran: the turn fails at replay: %w", out.Err)
	}
	again := entry.Record{Effects: s.journaled(out.Effects), Reply: out.Reply}
	if got := again.OutcomeDigest(); got != r.Digest {
		return failf(LogicMissing, "the logic is not the one that ran: the digest of its effects is %016x at replay, %016x is journaled", got, r.Digest)
	}
	return nil
}

// stop ends the actor of an activation.
func (s *Shard) stop(a *activation) {
	if a.pid != nil {
		s.cfg.System.Root.Stop(a.pid)
	}
}

// unstored is how many records lie behind the last state that is stored, in the log or beside it.
func (a *activation) unstored() uint64 {
	if a.kind == nil || a.state == nil {
		return 0
	}
	return a.seq - max(a.stored, a.snapshot.Seq)
}

// worthState tells whether the state of a grain that leaves memory is to be stored.
func (a *activation) worthState() bool {
	n := a.unstored()
	return n > 0 && int64(n)*recordBytes >= a.bytes-overhead
}

// passivate drops the least recently used activations until the memory budget holds. A grain with records that are not
// applied stays. The state of one with a long tail is stored, beside the log: a grain that was only read adds nothing to
// its journal.
func (s *Shard) passivate() {
	applied, _ := s.index.Applied()
	for a := s.lru.prev; s.memory > s.cfg.MemoryBudget && a != &s.lru; {
		older := a
		a = a.prev
		if older.last > applied {
			continue
		}
		if older.worthState() {
			s.storeState(older)
		}
		s.drop(older)
	}
}

// drop takes an activation out of memory.
func (s *Shard) drop(a *activation) {
	s.stop(a)
	a.prev.next, a.next.prev = a.next, a.prev
	delete(s.grains[a.name.Kind], a.name.Key)
	s.resident--
	s.memory -= a.bytes
	s.Stats.Passivations++
}
