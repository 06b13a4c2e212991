package persistence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/persistence/entry"
)

// RecentRuns is how many of a producer's newest entries a shard remembers, to answer a duplicate with its first result.
const RecentRuns = 64

// Head is what is known of a grain without reading its records.
type Head struct {
	// Seq of the last record; Last is the index of its entry, Time its journal time in Unix microseconds.
	Seq, Last uint64
	Time      int64
}

// SnapshotPointer is where a snapshot is.
type SnapshotPointer struct {
	// Seq of the record that the snapshot follows.
	Seq uint64
	// Index and Ordinal of its first chunk, Time its journal time in Unix microseconds.
	Index   uint64
	Ordinal uint32
	Time    int64
}

// Mark is the place of one send: the effect of a record. It orders what a target took in from a source.
type Mark struct {
	Index           uint64
	Ordinal, Effect uint32
}

// Less orders the sends of one source.
func (m Mark) Less(o Mark) bool {
	if m.Index != o.Index {
		return m.Index < o.Index
	}
	if m.Ordinal != o.Ordinal {
		return m.Ordinal < o.Ordinal
	}
	return m.Effect < o.Effect
}

// Producer is what a shard knows of a producer.
type Producer struct {
	// Epoch is the newest, Watermark the sequence of the last journaled event, Time that of the last record.
	Epoch, Watermark uint64
	Time             int64
	// Recent are the newest entries with events of the producer, oldest first.
	Recent []Run
}

// Run says that the events of a producer up to sequence Last, and behind those of the run before, are in entry Index.
type Run struct{ Last, Index uint64 }

// Note takes an event of the producer in an entry.
func (p *Producer) Note(epoch, sequence, index uint64, time int64) {
	p.Epoch, p.Watermark, p.Time = max(p.Epoch, epoch), sequence, time
	if n := len(p.Recent); n > 0 && p.Recent[n-1].Index == index {
		p.Recent[n-1].Last = sequence
		return
	}
	if len(p.Recent) >= RecentRuns {
		p.Recent = append(p.Recent[:0], p.Recent[1:]...)
	}
	p.Recent = append(p.Recent, Run{sequence, index})
}

// Find returns the index of the entry that holds an event at or below the watermark, or 0 when it is no longer known.
func (p *Producer) Find(sequence uint64) uint64 {
	i, _ := slices.BinarySearchFunc(p.Recent, sequence, func(r Run, s uint64) int {
		if r.Last < s {
			return -1
		}
		return 1
	})
	// what lies before the oldest run is not known to begin in it, except when nothing was ever dropped
	if i == len(p.Recent) || i == 0 && len(p.Recent) == RecentRuns {
		return 0
	}
	return p.Recent[i].Index
}

// Clone returns a copy that shares nothing.
func (p *Producer) Clone() *Producer {
	c := *p
	c.Recent = slices.Clone(p.Recent)
	return &c
}

// Known is a remembered event id.
type Known struct {
	Index   uint64
	Ordinal uint32
	Time    int64 // journal time of the record, Unix microseconds
	Body    uint64
}

// applied is the value of the applied key.
type applied struct {
	index, term, floor, lineage, lastData uint64
	lastTime                              int64
	digest                                uint64
	conf                                  *raftpb.ConfState
}

func (s *Store) loadApplied(shard uint64) (applied, error) {
	a := applied{lineage: shard}
	v, err := s.get(key(shard, keyApplied))
	if err != nil || v == nil {
		return a, err
	}
	f := values{buf: v}
	a.index, a.term, a.floor, a.lineage, a.lastData = f.uv(), f.uv(), f.uv(), f.uv(), f.uv()
	a.lastTime, a.digest = int64(f.uv()), f.fixed64()
	a.conf = &raftpb.ConfState{}
	if f.bad || proto.Unmarshal(f.buf, a.conf) != nil {
		return a, fmt.Errorf("shard %d: applied state: %w", shard, entry.ErrCorrupt)
	}
	return a, nil
}

// Index is what is derived from the committed entries of one shard: where grains, snapshots and ids are, and how far
// producers and sending shards have come. What changed since the last checkpoint is in memory, the rest on disk. It
// belongs to the goroutine of the shard.
type Index struct {
	store *Store
	shard uint64
	at    applied

	heads     map[string]*Head
	snapshots map[string][]SnapshotPointer
	ids       map[uint64]Known
	replies   map[string]replyAt // by the end of their keys
	filters   map[uint64]*filter // by bucket; a bucket without one is empty
	learn     uint64             // the bucket whose ids are to be learned next
	inbox     map[uint64]Mark
	inboxNew  map[uint64]bool
	producers map[string]*producerSlot
	outbox    uint64
	timers    timers
	logic     map[string]*logic     // by kind
	newest    *logic                // of the last record
	dead      map[string]deadLetter // by grain and seq, as in keys
	deadOpen  int                   // dead letters that are open
	records   int                   // applied since the last checkpoint
	bytes     int
	recent    []recentEntry // the entries behind the last checkpoint, consecutive
	opened    opened        // some of those before it

	reader   entry.Reader
	record   entry.Record
	keyBuf   []byte
	valueBuf []byte
	states   *pebble.Batch // state keys for the next checkpoint
}

// recentEntry is an entry whose bytes were checked when it was applied.
type recentEntry struct {
	term      uint64
	data      []byte
	directory *entry.Directory // once it was asked for
}

type producerSlot struct {
	*Producer // nil: expired
	changed   bool
}

// OpenIndex opens the derived state of a shard at its last checkpoint. The entries behind it must be applied next.
func (s *Store) OpenIndex(shard, voter uint64) (*Index, error) {
	a, err := s.loadApplied(shard)
	if err != nil {
		return nil, err
	}
	if a.conf == nil {
		a.conf = &raftpb.ConfState{Voters: []uint64{voter}}
	}
	x := &Index{store: s, shard: shard, at: a, heads: map[string]*Head{}, snapshots: map[string][]SnapshotPointer{},
		ids: map[uint64]Known{}, replies: map[string]replyAt{}, filters: map[uint64]*filter{}, inbox: map[uint64]Mark{}, inboxNew: map[uint64]bool{}, producers: map[string]*producerSlot{},
		timers: timers{changed: map[string]*timerSlot{}}, opened: opened{limit: s.opened / s.id.Shards}}
	if err := x.scan(key(shard, keyInbox), func(rest, v []byte) error {
		f := values{buf: v}
		m := Mark{f.uv(), uint32(f.uv()), uint32(f.uv())}
		if f.bad || len(rest) != 8 {
			return entry.ErrCorrupt
		}
		x.inbox[binary.BigEndian.Uint64(rest)] = m
		return nil
	}); err != nil {
		return nil, fmt.Errorf("shard %d: inbox: %w", shard, err)
	}
	if err := x.openFilters(); err != nil {
		return nil, fmt.Errorf("shard %d: %w", shard, err)
	}
	if err := x.openLogic(); err != nil {
		return nil, fmt.Errorf("shard %d: logic: %w", shard, err)
	}
	if err := x.openDead(); err != nil {
		return nil, fmt.Errorf("shard %d: dead: %w", shard, err)
	}
	v, err := s.get(key(shard, keyOutbox))
	if err != nil {
		return nil, fmt.Errorf("shard %d: outbox: %w", shard, err)
	}
	if v != nil {
		f := values{buf: v}
		x.outbox = f.uv()
	}
	return x, nil
}

// scan calls fn for each key that begins with prefix, with what follows the prefix. Both slices are valid in fn only.
func (x *Index) scan(prefix []byte, fn func(rest, value []byte) error) error {
	it, err := x.store.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: successor(prefix)})
	if err != nil {
		return err
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return damage(err)
		}
		if err := fn(it.Key()[len(prefix):], v); err != nil {
			return err
		}
	}
	return damage(it.Error())
}

// Applied is the index of the last entry applied, and its term.
func (x *Index) Applied() (index, term uint64) { return x.at.index, x.at.term }

// Place behind the last entry applied.
func (x *Index) Place() Place {
	return Place{Lineage: x.at.lineage, Index: x.at.index, Data: x.at.lastData}
}

// Lineage of the shard.
func (x *Index) Lineage() uint64 { return x.at.lineage }

// LastData is the index of the last data entry applied; 0 where there is none.
func (x *Index) LastData() uint64 { return x.at.lastData }

// LastTime is the journal time of the last record applied, in Unix microseconds.
func (x *Index) LastTime() int64 { return x.at.lastTime }

// Digest is chained over all data entries applied. Replicas at the same index have the same.
func (x *Index) Digest() uint64 { return x.at.digest }

// ErrFenced is the error of an entry whose place in the log is not the one it was made for. It has no effect.
var ErrFenced = errors.New("fenced: the entry was made for another place in the log")

// Apply takes the next committed entry in and calls visit for each of its records. Records alias the entry and are
// valid during the call. An entry that is fenced off is applied as a whole without effect, and ErrFenced is returned;
// any other error leaves the index unusable.
func (x *Index) Apply(e *raftpb.Entry, visit func(*entry.Record)) error {
	if e.GetIndex() != x.at.index+1 {
		return fmt.Errorf("shard %d: entry %d cannot be applied after %d", x.shard, e.GetIndex(), x.at.index)
	}
	if e.GetType() != raftpb.EntryNormal {
		return fmt.Errorf("shard %d index %d: Raft entry type %v: %w", x.shard, e.GetIndex(), e.GetType(), entry.ErrTooNew)
	}
	data := e.GetData()
	x.recent = append(x.recent, recentEntry{term: e.GetTerm(), data: data})
	if len(data) == 0 {
		x.at.index, x.at.term = e.GetIndex(), e.GetTerm()
		return nil
	}
	if err := x.reader.Reset(data); err != nil {
		return fmt.Errorf("shard %d index %d: %w", x.shard, e.GetIndex(), err)
	}
	h := &x.reader.Header
	if !x.Place().fits(h, e.GetIndex(), e.GetTerm()) {
		x.at.index, x.at.term = e.GetIndex(), e.GetTerm()
		return ErrFenced
	}
	for {
		more, err := x.reader.Next(&x.record)
		if err != nil {
			return fmt.Errorf("shard %d index %d: %w", x.shard, e.GetIndex(), err)
		}
		if !more {
			break
		}
		if err := x.apply(h, &x.record); err != nil {
			return fmt.Errorf("shard %d index %d record %d: %w", x.shard, h.Index, x.record.Ordinal, err)
		}
		if visit != nil {
			visit(&x.record)
		}
	}
	x.at.index, x.at.term, x.at.lastData = h.Index, h.Term, h.Index
	x.at.digest = ChainDigest(x.at.digest, data)
	x.bytes += len(data)
	return nil
}

// ChainDigest returns the digest behind a data entry, given the digest before it.
func ChainDigest(before uint64, data []byte) uint64 {
	var b [12]byte
	binary.LittleEndian.PutUint64(b[:], before)
	copy(b[8:], data[len(data)-4:])
	return xxhash.Sum64(b[:])
}

func (x *Index) apply(h *entry.Header, r *entry.Record) error {
	x.records++
	x.at.lastTime = max(x.at.lastTime, r.Time)
	switch r.Type {
	case entry.Input, entry.Void, entry.DeadLetter, entry.Timer:
	case entry.Snapshot:
		if r.Snapshot.Chunk != 1 {
			return nil
		}
		grain := x.grain(r)
		p := SnapshotPointer{Seq: r.Seq, Index: h.Index, Ordinal: r.Ordinal, Time: r.Time}
		x.snapshots[string(grain)] = append(x.snapshots[string(grain)], p)
		return nil
	case entry.Session:
		p, err := x.producer(r.Producer)
		if err != nil {
			return err
		}
		p.Epoch, p.Time = max(p.Epoch, r.Epoch), r.Time
		return nil
	case entry.Expiry:
		x.producers[r.Producer] = &producerSlot{changed: true}
		return nil
	case entry.LogicChange:
		return x.raised(r, h.Index)
	case entry.Answer:
		x.takenIn(r)
		x.noteReply(r, h.Index)
		return nil
	case entry.Settlement:
		return x.settled(r)
	default:
		return fmt.Errorf("%v: %w", r.Type, entry.ErrTooNew)
	}
	grain := x.grain(r)
	// a head is written without being read: for a grain that is seldom touched the read would cost more than all the rest
	if head, ok := x.heads[string(grain)]; !ok {
		x.heads[string(grain)] = &Head{r.Seq, h.Index, r.Time}
	} else if r.Seq != head.Seq+1 {
		return fmt.Errorf("%w: seq %d of %s/%s follows %d", entry.ErrCorrupt, r.Seq, r.Kind, r.Key, head.Seq)
	} else {
		*head = Head{r.Seq, h.Index, r.Time}
	}
	if r.Logic != 0 {
		x.ran(r.Kind, r.Logic, h.Index)
	}
	if r.Type == entry.DeadLetter {
		x.died(h.Index, r)
	}
	if r.Timer != 0 || len(r.Effects) > 0 {
		if err := x.noteTimers(h, r, grain); err != nil {
			return err
		}
	}
	switch {
	case r.Sequence != 0:
		p, err := x.producer(r.Producer)
		if err != nil {
			return err
		}
		p.Note(r.Epoch, r.Sequence, h.Index, r.Time)
	case r.Sender.Kind != "" && !r.Cause.IsZero(): // without a cause, it was taken in before and is run again
		x.takenIn(r)
	case len(r.ID) > 0:
		hash := IDHash(grain, r.Source, r.ID)
		x.ids[hash] = Known{h.Index, r.Ordinal, r.Time, BodyHash(r.Event, r.Payload)}
		x.noteID(hash, r.Time)
	}
	return nil
}

// takenIn moves the inbox on to what another grain sent.
func (x *Index) takenIn(r *entry.Record) {
	x.inbox[r.Cause.Lineage] = Mark{r.Cause.Index, r.Cause.Ordinal, r.Sender.Effect}
	x.inboxNew[r.Cause.Lineage] = true
}

func (x *Index) grain(r *entry.Record) []byte {
	x.keyBuf = AppendGrain(x.keyBuf[:0], r.Tenant, r.Kind, r.Key)
	return x.keyBuf
}

func (x *Index) loadHead(grain []byte) (h Head, err error) {
	v, err := x.store.get(append(key(x.shard, keyHead), grain...))
	if err != nil || v == nil {
		return h, err
	}
	return decodeHead(v)
}

func decodeHead(v []byte) (h Head, err error) {
	f := values{buf: v}
	h.Seq, h.Last, h.Time = f.uv(), f.uv(), int64(f.uv())
	if f.bad {
		return h, fmt.Errorf("head: %w", entry.ErrCorrupt)
	}
	return h, nil
}

// Head returns what is known of a grain (in the form of [AppendGrain]). A grain without records has the zero head.
func (x *Index) Head(grain []byte) (Head, error) {
	if h, ok := x.heads[string(grain)]; ok {
		return *h, nil
	}
	return x.loadHead(grain)
}

func (x *Index) producer(id string) (*Producer, error) {
	if s, ok := x.producers[id]; ok {
		if s.Producer == nil {
			s.Producer = &Producer{}
		}
		s.changed = true
		return s.Producer, nil
	}
	p, err := x.loadProducer(id)
	if err != nil {
		return nil, err
	}
	if p == nil {
		p = &Producer{}
	}
	x.producers[id] = &producerSlot{p, true}
	return p, nil
}

func (x *Index) loadProducer(id string) (*Producer, error) {
	v, err := x.store.get(append(key(x.shard, keyProducer), id...))
	if err != nil || v == nil {
		return nil, err
	}
	return decodeProducer(v)
}

func decodeProducer(v []byte) (*Producer, error) {
	f := values{buf: v}
	p := &Producer{Epoch: f.uv(), Watermark: f.uv(), Time: int64(f.uv())}
	for n := f.uv(); n > 0 && !f.bad; n-- {
		p.Recent = append(p.Recent, Run{f.uv(), f.uv()})
	}
	if f.bad {
		return nil, fmt.Errorf("producer: %w", entry.ErrCorrupt)
	}
	return p, nil
}

// Producer returns a copy of what is known of a producer, or nil.
func (x *Index) Producer(id string) (*Producer, error) {
	if s, ok := x.producers[id]; ok {
		if s.Producer == nil {
			return nil, nil
		}
		return s.Clone(), nil
	}
	return x.loadProducer(id)
}

// IdleProducers lists the producers whose last record is older than a journal time.
func (x *Index) IdleProducers(before int64) (ids []string, err error) {
	err = x.scan(key(x.shard, keyProducer), func(rest, v []byte) error {
		p, err := decodeProducer(v)
		if err != nil {
			return err
		}
		if _, newer := x.producers[string(rest)]; !newer && p.Time < before {
			ids = append(ids, string(rest))
		}
		return nil
	})
	return ids, err
}

// Inbox returns how far the sends of a source shard were taken in.
func (x *Index) Inbox(lineage uint64) Mark { return x.inbox[lineage] }

// Outbox returns the index up to which all sends were taken in by their targets, at least.
func (x *Index) Outbox() uint64 { return x.outbox }

// ID finds a remembered event id whose record is not older than a journal time.
func (x *Index) ID(hash uint64, notBefore, now int64) (Known, bool, error) {
	if k, ok := x.ids[hash]; ok {
		return k, k.Time >= notBefore, nil
	}
	for bucket := now / bucketMicros; bucket >= max(notBefore, 0)/bucketMicros; bucket-- {
		if x.surelyNew(uint64(bucket), hash) {
			continue
		}
		x.keyBuf = idKey(x.keyBuf[:0], x.shard, uint64(bucket), hash)
		v, err := x.store.get(x.keyBuf)
		if err != nil {
			return Known{}, false, err
		}
		if v == nil {
			continue
		}
		f := values{buf: v}
		k := Known{f.uv(), uint32(f.uv()), int64(f.uv()), f.fixed64()}
		if f.bad {
			return Known{}, false, fmt.Errorf("id: %w", entry.ErrCorrupt)
		}
		return k, k.Time >= notBefore, nil
	}
	return Known{}, false, nil
}

func idKey(dst []byte, shard, bucket, hash uint64) []byte {
	dst = binary.BigEndian.AppendUint64(appendPrefix(dst, shard, keyID), bucket)
	return binary.BigEndian.AppendUint64(dst, hash)
}

// Pending is how much was applied since the last checkpoint; the bytes are those of entries and states.
func (x *Index) Pending() (records, bytes int) { return x.records, x.bytes }

// Changed calls fn for each grain (in the form of [AppendGrain]) that got records since the last checkpoint.
func (x *Index) Changed(fn func(grain string, seq uint64)) {
	for g, h := range x.heads {
		fn(g, h.Seq)
	}
}

// State is the state of a grain after a record, outside the log.
type State struct {
	// Seq of the record, Logic is the version of the kind that computed the state.
	Seq   uint64
	Logic uint32
	// Snapshot is the newest at or below Seq.
	Snapshot SnapshotPointer
	// Data is the state in wire form.
	Data []byte
}

// PutState adds the state of a grain (in the form of [AppendGrain]) to the next checkpoint. It must be that of applied
// records only.
func (x *Index) PutState(grain []byte, s State) {
	if x.states == nil {
		x.states = x.store.NewBatch()
	}
	k := append(appendPrefix(x.keyBuf[:0], x.shard, keyState), grain...)
	x.keyBuf = k
	v := appendUvs(x.valueBuf[:0], s.Seq, uint64(s.Logic), s.Snapshot.Seq, s.Snapshot.Index, uint64(s.Snapshot.Ordinal), uint64(s.Snapshot.Time))
	v = append(v, s.Data...)
	x.valueBuf = binary.LittleEndian.AppendUint64(v, stateDigest(s.Seq, s.Data))
	if err := x.states.Set(k, x.valueBuf, nil); err != nil {
		panic(err) // a batch in memory cannot fail
	}
	x.bytes += len(x.valueBuf)
}

func stateDigest(seq uint64, data []byte) uint64 {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.Write(data)
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, seq))
	return h.Sum64()
}

// State returns the stored state of a grain; its Seq is 0 where there is none.
func (x *Index) State(grain []byte) (s State, err error) {
	v, err := x.store.get(append(key(x.shard, keyState), grain...))
	if err != nil || v == nil {
		return s, err
	}
	return decodeState(v)
}

func decodeState(v []byte) (s State, err error) {
	f := values{buf: v}
	s.Seq, s.Logic = f.uv(), uint32(f.uv())
	s.Snapshot = SnapshotPointer{Seq: f.uv(), Index: f.uv(), Ordinal: uint32(f.uv()), Time: int64(f.uv())}
	if f.bad || len(f.buf) < 8 {
		return State{}, fmt.Errorf("state: %w", entry.ErrCorrupt)
	}
	s.Data = f.buf[:len(f.buf)-8]
	if binary.LittleEndian.Uint64(f.buf[len(s.Data):]) != stateDigest(s.Seq, s.Data) {
		return State{}, fmt.Errorf("state: %w: its digest does not match", entry.ErrCorrupt)
	}
	return s, nil
}

// Checkpoint writes all that changed since the last one, without a sync, and forgets it from memory. outbox is the new
// value of the outbox cursor. Ids and replies in buckets that end before idsBefore (journal time) are dropped.
func (x *Index) Checkpoint(outbox uint64, idsBefore int64) error {
	b := x.states
	if b == nil {
		b = x.store.NewBatch()
	}
	x.states = nil
	defer b.Close()
	var k, v []byte
	put := func(err error) {
		if err != nil {
			panic(err) // a batch in memory cannot fail
		}
	}
	for grain, h := range x.heads {
		k = append(appendPrefix(k[:0], x.shard, keyHead), grain...)
		v = appendUvs(v[:0], h.Seq, h.Last, uint64(h.Time))
		put(b.Set(k, v, nil))
	}
	for grain, ps := range x.snapshots {
		for _, p := range ps {
			v = appendUvs(v[:0], p.Index, uint64(p.Ordinal), uint64(p.Time))
			put(b.Set(snapKey(x.shard, []byte(grain), p.Seq), v, nil))
		}
	}
	for lineage := range x.inboxNew {
		m := x.inbox[lineage]
		k = binary.BigEndian.AppendUint64(appendPrefix(k[:0], x.shard, keyInbox), lineage)
		put(b.Set(k, appendUvs(v[:0], m.Index, uint64(m.Ordinal), uint64(m.Effect)), nil))
	}
	for id, p := range x.producers {
		k = append(appendPrefix(k[:0], x.shard, keyProducer), id...)
		switch {
		case !p.changed:
		case p.Producer == nil:
			put(b.Delete(k, nil))
		default:
			v = appendUvs(v[:0], p.Epoch, p.Watermark, uint64(p.Time), uint64(len(p.Recent)))
			for _, r := range p.Recent {
				v = appendUvs(v, r.Last, r.Index)
			}
			put(b.Set(k, v, nil))
		}
	}
	for hash, id := range x.ids {
		k = idKey(k[:0], x.shard, uint64(id.Time/bucketMicros), hash)
		v = binary.LittleEndian.AppendUint64(appendUvs(v[:0], id.Index, uint64(id.Ordinal), uint64(id.Time)), id.Body)
		put(b.Set(k, v, nil))
	}
	for rest, at := range x.replies {
		put(b.Set(append(replyKey(k[:0], x.shard, uint64(at.time/bucketMicros)), rest...), appendUvs(v[:0], at.index, uint64(at.ordinal)), nil))
	}
	put(x.checkpointTimers(b))
	for kind, l := range x.logic {
		k = append(appendPrefix(k[:0], x.shard, keyLogic), kind...)
		v = l.append(v[:0])
		put(b.Set(k, v, nil))
	}
	x.writeDead(b)
	if oldest := idsBefore / bucketMicros; oldest > 0 {
		put(b.DeleteRange(idKey(nil, x.shard, 0, 0), idKey(nil, x.shard, uint64(oldest), 0), nil))
		put(b.DeleteRange(replyKey(nil, x.shard, 0), replyKey(nil, x.shard, uint64(oldest)), nil))
		maps.DeleteFunc(x.filters, func(bucket uint64, _ *filter) bool { return bucket < uint64(oldest) })
	}
	x.outbox = outbox
	put(b.Set(key(x.shard, keyOutbox), appendUvs(v[:0], outbox), nil))
	conf, err := proto.Marshal(x.at.conf)
	if err != nil {
		return err
	}
	v = appendUvs(v[:0], x.at.index, x.at.term, x.at.floor, x.at.lineage, x.at.lastData, uint64(x.at.lastTime))
	v = append(binary.LittleEndian.AppendUint64(v, x.at.digest), conf...)
	put(b.Set(key(x.shard, keyApplied), v, nil))
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("shard %d: checkpoint: %w", x.shard, err)
	}
	clear(x.heads)
	clear(x.snapshots)
	clear(x.ids)
	clear(x.replies)
	clear(x.inboxNew)
	clear(x.producers)
	clear(x.dead)
	clear(x.timers.changed)
	x.records, x.bytes = 0, 0
	clear(x.recent)
	x.recent = x.recent[:0]
	x.opened.rest()
	return nil
}

func snapKey(shard uint64, grain []byte, seq uint64) []byte {
	k := append(key(shard, keySnap), grain...)
	return binary.BigEndian.AppendUint64(append(k, 0), seq)
}
