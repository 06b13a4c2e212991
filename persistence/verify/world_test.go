package verify

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
)

// A world is what a node would have journaled: a few shards with the entries that a run of events gives. Tests spoil
// something in it, write it into a store, and see whether that is found. Nothing here uses the code that is checked or
// the code that writes real folders: bytes are made by the documentation.
type world struct {
	t       testing.TB
	catalog *grains.Catalog
	n       uint64
	shards  map[uint64]*testShard
	now     int64
	states  map[string]proto.Message
	seqs    map[string]uint64
	outbox  []*outgoing
	kept    []keptState
	// after runs on the keys of the finished store.
	after []func(keys map[string][]byte)
}

type testShard struct {
	id      uint64
	entries []*testEntry // by index, from 1
	open    []*record
	// lag is how many entries the derived keys are behind the end of the log.
	lag    int
	cursor uint64
	hard   [3]uint64
}

type testEntry struct {
	index, raftTerm   uint64
	raftType          byte
	format, feature   uint64
	lineage, term     uint64
	previous          uint64
	base              int64
	records           []*record
	empty             bool
	spoilEntryCRC     bool
	spoilFrameCRC     bool
	frameFormat       byte
	extra             []byte // behind the last record
	oddExtension      bool
	recordTypeToCome  bool
	unknownRecordBits bool
}

// keptState is a state as it was after a record.
type keptState struct {
	kind, key string
	seq       uint64
	state     []byte
}

// keep makes a state key of what a grain is now.
func (w *world) keep(kind, key string) {
	d, _ := w.catalog.Kind(kind)
	state, err := d.AppendState(nil, w.states[kind+"/"+key])
	if err != nil {
		w.t.Fatal(err)
	}
	w.kept = append(w.kept, keptState{kind, key, w.seqs[kind+"/"+key], state})
}

// stateKey adds the key of a kept state, unless its record is not applied.
func (w *world) stateKey(keys map[string][]byte, k keptState) {
	s := w.shardOf(k.kind, k.key)
	var seq uint64
	v := uvs(nil, k.seq, 1, 0, 0, 0, 0)
	for _, e := range s.entries[:len(s.entries)-s.lag] {
		for _, r := range e.records {
			if r.kind != k.kind || string(r.key) != k.key || r.seq > k.seq {
				continue
			}
			seq = r.seq
			if r.kindOf == snapshot && r.snap.chunk == 1 {
				v = uvs(nil, k.seq, 1, r.seq, e.index, uint64(r.ordinal), uint64(r.time))
			}
		}
	}
	if seq == k.seq {
		digest := xxhash.Sum64(binary.LittleEndian.AppendUint64(bytes.Clone(k.state), k.seq))
		keys[bkey(s.id, 0x0b, []byte("\x00"+k.kind+"\x00"+k.key))] = binary.LittleEndian.AppendUint64(append(v, k.state...), digest)
	}
}

// outgoing is a send that its target has not taken in.
type outgoing struct {
	from   *testShard
	source *record
	index  uint64
	effect int
}

// counter counts what its events say and passes each on to a tally.
func counted(t *grains.Turn, s *accountv1.Account, e *accountv1.Charged) error {
	if e.AmountCents < 0 {
		return grains.Reject("amount must be positive")
	}
	s.Count++
	s.Cents += e.AmountCents
	s.LastAtMicros = t.Now().UnixMicro()
	s.FirstAtMicros = t.EventTime().UnixMicro()
	s.Score = t.Rand().Uint32()
	s.RecentIds = append(s.RecentIds, e.TransactionId)
	verb, rest, _ := strings.Cut(e.Merchant, ":")
	n, _ := strconv.Atoi(rest)
	switch d := time.Duration(n) * time.Microsecond; {
	case verb == "after":
		t.After(d, &accountv1.Charged{TransactionId: "once", AmountCents: 1})
	case verb == "every":
		t.Every(d, &accountv1.Charged{TransactionId: "again", AmountCents: 2})
	case verb == "cancel":
		t.Cancel(uint64(n))
	case e.Merchant != "":
		t.Send("tally/"+e.Merchant, &merchantv1.Seen{TransactionId: e.TransactionId, Account: t.Key(), AmountCents: e.AmountCents})
	}
	return nil
}

func tallied(t *grains.Turn, s *merchantv1.Merchant, e *merchantv1.Seen) error {
	s.LastAtMicros = t.EventTime().UnixMicro()
	s.Count++
	s.Cents += e.AmountCents
	return nil
}

func testCatalog(t testing.TB) *grains.Catalog {
	c, err := grains.NewCatalog(
		grains.Kind[*accountv1.Account]{Name: "counter", Version: 1, Handlers: grains.Handlers[*accountv1.Account]{grains.On(counted), grains.On(authorized)}}.MustDefine(),
		grains.Kind[*merchantv1.Merchant]{Name: "tally", Version: 1, Handlers: grains.Handlers[*merchantv1.Merchant]{grains.On(tallied), grains.On(vetted)}}.MustDefine(),
	)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// raisedCatalog has version 2 of the counter, which counts each event for two, beside version 1, and the tally.
func raisedCatalog(t testing.TB, keeps ...grains.Logic[*accountv1.Account]) *grains.Catalog {
	c, err := grains.NewCatalog(
		grains.Kind[*accountv1.Account]{Name: "counter", Version: 2, Earlier: keeps, Handlers: grains.Handlers[*accountv1.Account]{
			grains.On(func(t *grains.Turn, s *accountv1.Account, e *accountv1.Charged) error {
				s.Count++
				return counted(t, s, e)
			})}}.MustDefine(),
		grains.Kind[*merchantv1.Merchant]{Name: "tally", Version: 1, Handlers: grains.Handlers[*merchantv1.Merchant]{grains.On(tallied)}}.MustDefine(),
	)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newWorld(t testing.TB, shards uint64) *world {
	w := &world{t: t, catalog: testCatalog(t), n: shards, shards: map[uint64]*testShard{}, now: 1_700_000_000_000_000,
		states: map[string]proto.Message{}, seqs: map[string]uint64{}}
	for id := uint64(1); id <= shards; id++ {
		s := &testShard{id: id}
		s.entries = append(s.entries, &testEntry{index: 1, raftTerm: 1, empty: true})
		w.shards[id] = s
	}
	return w
}

func ownerOf(kind, key string, n uint64) uint64 {
	h := xxhash.Sum64String("\x00" + kind + "\x00" + key)
	part := ^uint64(0)/n + 1 // exact for a power of two above 1
	if n == 1 {
		return 1
	}
	return h/part + 1
}

func (w *world) shardOf(kind, key string) *testShard { return w.shards[ownerOf(kind, key, w.n)] }

// handle runs the turn of a record and adds the record to its shard's open entry.
func (w *world) handle(r *record) {
	w.now += 7
	s := w.shardOf(r.kind, string(r.key))
	name := r.kind + "/" + string(r.key)
	w.seqs[name]++
	r.kindOf, r.seq, r.time, r.logic = input, w.seqs[name], w.now, max(r.logic, 1)
	kind, ok := w.catalog.Kind(r.kind)
	if ok {
		kind, ok = kind.At(uint32(r.logic))
	}
	if !ok {
		s.open = append(s.open, r)
		return
	}
	if w.states[name] == nil {
		w.states[name] = kind.NewState()
	}
	event, _ := kind.Event(r.event)
	msg, err := event.Decode(r.payload)
	if err != nil {
		w.t.Fatal(err)
	}
	in := grains.Input{Grain: grains.Ref{Kind: r.kind, Key: string(r.key)}, Seq: r.seq, Now: r.time, EventTime: r.eventTime,
		Sender: grains.Ref{Kind: r.sender.kind, Key: string(r.sender.key)}, Seed: xxhash.Sum64(r.key) ^ s.id*0x9e3779b97f4a7c15}
	var runner grains.Runner
	out := runner.Run(event, in, w.states[name], msg)
	if reason, no := grains.Rejection(out.Err); no {
		r.kindOf, r.reason = void, []byte(reason)
	} else if out.Err != nil {
		w.t.Fatal(out.Err)
	}
	if r.timer != 0 && r.kindOf == input {
		r.kindOf = timer
	}
	for _, e := range out.Effects {
		r.effects = append(r.effects, effect{kindOf: byte(e.Kind) + 1, kind: e.To.Kind, key: []byte(e.To.Key), event: e.Type, payload: bytes.Clone(e.Payload),
			due: uint64(e.Due), timer: e.Timer, every: uint64(e.Every), token: []byte(e.Token)})
	}
	r.digest = digestOf(r)
	s.open = append(s.open, r)
}

// digestOf is the documented digest of the outcome, written down a second time.
func digestOf(r *record) uint64 {
	if len(r.effects) == 0 && len(r.reply) == 0 {
		return 0
	}
	var b []byte
	for _, e := range r.effects {
		b = uvs(b, uint64(e.kindOf))
		b = str(b, e.kind, string(e.key), e.event, string(e.payload))
		b = uvs(b, e.due, e.timer)
		b = str(b, e.stream, string(e.token))
		if e.every != 0 {
			b = uvs(b, e.every)
		}
	}
	return xxhash.Sum64(str(b, string(r.reply)))
}

// charge is an event of a client.
func (w *world) charge(key, merchant string, cents int64, change ...func(*record)) *record {
	payload, err := proto.Marshal(&accountv1.Charged{TransactionId: fmt.Sprint("t", w.now), Merchant: merchant, AmountCents: cents})
	if err != nil {
		w.t.Fatal(err)
	}
	r := &record{kind: "counter", key: []byte(key), event: "granary.account.v1.Charged", payload: payload}
	for _, c := range change {
		c(r)
	}
	w.handle(r)
	return r
}

func withID(source, id string) func(*record) {
	return func(r *record) { r.source, r.id = source, []byte(id) }
}

func byProducer(id string, epoch, sequence uint64) func(*record) {
	return func(r *record) { r.producer, r.epoch, r.sequence = id, epoch, sequence }
}

// flush closes the open entry of every shard.
func (w *world) flush() {
	for id := uint64(1); id <= w.n; id++ {
		s := w.shards[id]
		if len(s.open) == 0 {
			continue
		}
		index := uint64(len(s.entries)) + 1
		e := &testEntry{index: index, raftTerm: s.entries[index-2].raftTerm, format: 1, feature: 1, lineage: id, previous: s.lastData(len(s.entries)),
			base: s.open[0].time, records: s.open}
		e.term = e.raftTerm
		for i, r := range s.open {
			r.ordinal = uint32(i)
			for n := range r.effects {
				if r.effects[n].kindOf != 1 {
					continue
				}
				w.outbox = append(w.outbox, &outgoing{s, r, index, n})
			}
		}
		s.entries, s.open = append(s.entries, e), nil
	}
}

func (s *testShard) lastData(upTo int) uint64 {
	for i := upTo - 1; i >= 0; i-- {
		if e := s.entries[i]; !e.empty && !e.isVoid() {
			return e.index
		}
	}
	return 0
}

// isVoid tells it of an entry whose execution term a test changed.
func (e *testEntry) isVoid() bool { return e.term != e.raftTerm }

// deliver hands the outstanding sends to their targets, in the order of their sources, and flushes.
func (w *world) deliver() {
	for len(w.outbox) > 0 {
		out := w.outbox
		w.outbox = nil
		slices.SortStableFunc(out, func(a, b *outgoing) int {
			return cmp.Or(cmp.Compare(a.from.id, b.from.id), cmp.Compare(a.index, b.index), cmp.Compare(a.source.ordinal, b.source.ordinal), cmp.Compare(a.effect, b.effect))
		})
		for _, o := range out {
			w.arrive(o)
		}
		w.flush()
	}
}

func (w *world) arrive(o *outgoing) *record {
	e := o.source.effects[o.effect]
	at := o.source.eventTime
	if at == 0 {
		at = 1000 * o.source.time
	}
	r := &record{kind: e.kind, key: e.key, event: e.event, payload: e.payload, hops: o.source.hops + 1, trace: o.source.trace, eventTime: at,
		cause:  cause{lineage: o.from.id, index: o.index, ordinal: o.source.ordinal},
		sender: sender{shard: o.from.id, effect: uint32(o.effect), kind: o.source.kind, key: o.source.key}}
	if len(e.token) > 0 {
		w.answer(r, string(e.token))
		return r
	}
	w.handle(r)
	return r
}

// snapshot adds the state of a grain in chunks.
func (w *world) snapshot(kind, key string, chunks int) []*record {
	w.now++
	name := kind + "/" + key
	d, _ := w.catalog.Kind(kind)
	state, err := d.AppendState(nil, w.states[name])
	if err != nil {
		w.t.Fatal(err)
	}
	var out []*record
	s := w.shardOf(kind, key)
	for i := range chunks {
		part := state[len(state)*i/chunks : len(state)*(i+1)/chunks]
		r := &record{kindOf: snapshot, kind: kind, key: []byte(key), seq: w.seqs[name], time: w.now, logic: 1, payload: part,
			snap: snapshotPart{chunk: uint32(i + 1), chunks: uint32(chunks), digest: xxhash.Sum64(state)}}
		out = append(out, r)
		s.open = append(s.open, r)
	}
	return out
}

func (w *world) newTerm() {
	for _, s := range w.shards {
		s.entries = append(s.entries, &testEntry{index: uint64(len(s.entries)) + 1, raftTerm: s.entries[len(s.entries)-1].raftTerm + 1, empty: true})
	}
}

// rich makes a world that has something of everything.
func rich(t testing.TB) *world {
	w := newWorld(t, 4)
	for i := range 40 {
		w.charge(fmt.Sprint("c", i%7), fmt.Sprint("m", i%5), int64(i), func(r *record) {
			if i%4 == 0 {
				r.eventTime, r.trace = int64(i)*1e9+1, []byte{1, byte(i)}
			}
		})
		if i%3 == 0 {
			w.flush()
		}
	}
	w.charge("c1", "", -1) // refused
	w.charge("c1", "m1", 5, withID("pos", "a"))
	w.charge("c2", "m1", 5, withID("pos", "a"))
	w.charge("c1", "m1", 5, withID("pos", "b"))
	w.charge("c1", "", -5, withID("", "b"))
	w.flush()
	w.deliver()
	w.newTerm()
	w.keep("counter", "c1") // of a void record, and there is a snapshot at the same seq
	w.keep("counter", "c3")
	w.keep("tally", "m2")
	w.snapshot("counter", "c1", 1)
	w.snapshot("counter", "c2", 3)
	w.snapshot("tally", "m1", 1)
	for seq := range uint64(70) {
		w.charge(fmt.Sprint("p", seq%3), "m2", 1, byProducer("gen", 1+seq/40, seq+1))
		w.flush()
	}
	w.deliver()
	w.charge("c2", "", 1)
	w.keep("counter", "c2") // behind a snapshot
	for _, id := range []uint64{1, 2, 3, 4} {
		s := w.shards[id]
		w.now++
		s.open = append(s.open, &record{kindOf: session, producer: "fresh", epoch: 4, time: w.now}, &record{kindOf: session, producer: "old", epoch: 1, time: w.now})
	}
	w.charge("c1", "m3", 11)
	w.charge("c1", "m3", 12)
	w.snapshot("counter", "c1", 1)
	w.flush()
	for _, id := range []uint64{1, 2, 3, 4} {
		w.now++
		w.shards[id].open = append(w.shards[id].open, &record{kindOf: expiry, producer: "old", time: w.now})
	}
	w.charge("c9", "m1", 3, withID("pos", "last"))
	w.flush()
	w.deliver()
	return w
}

// --- bytes, by the documentation ---

func uvs(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func str(b []byte, ss ...string) []byte {
	for _, s := range ss {
		b = append(uvs(b, uint64(len(s))), s...)
	}
	return b
}

type nameTable struct{ names []string }

func (n *nameTable) of(s string) uint64 {
	i := slices.Index(n.names, s)
	if i < 0 {
		n.names = append(n.names, s)
		i = len(n.names) - 1
	}
	return uint64(i)
}

func (n *nameTable) record(r *record, base int64) []byte {
	var there uint64
	var b []byte
	field := func(bit int, is bool, add func()) {
		if is {
			there |= 1 << bit
			add()
		}
	}
	name := func(s string) { b = uvs(b, n.of(s)) }
	field(0, r.tenant != "", func() { name(r.tenant) })
	field(1, r.kind != "", func() { name(r.kind); b = str(b, string(r.key)) })
	field(2, r.seq != 0, func() { b = uvs(b, r.seq) })
	field(3, r.back != 0, func() { b = uvs(b, r.back) })
	field(4, r.time != base, func() { b = uvs(b, uint64(r.time-base)) })
	field(5, r.event != "", func() { name(r.event) })
	field(6, r.eventTime != 0, func() { b = binary.AppendVarint(b, r.eventTime) })
	field(7, r.source != "", func() { name(r.source) })
	field(8, len(r.id) > 0, func() { b = str(b, string(r.id)) })
	field(9, r.producer != "", func() { name(r.producer); b = uvs(b, r.epoch) })
	field(10, r.sequence != 0, func() { b = uvs(b, r.sequence) })
	field(11, r.cause.index != 0, func() { b = uvs(b, r.cause.lineage, r.cause.index, uint64(r.cause.ordinal)) })
	field(12, r.sender.kind != "", func() {
		b = uvs(b, r.sender.shard, uint64(r.sender.effect))
		name(r.sender.kind)
		b = str(b, string(r.sender.key))
	})
	field(13, r.hops != 0, func() { b = uvs(b, r.hops) })
	field(14, len(r.trace) > 0, func() { b = str(b, string(r.trace)) })
	field(15, len(r.headers) > 0, func() {
		b = uvs(b, uint64(len(r.headers)))
		for _, h := range r.headers {
			b = str(b, string(h[0]), string(h[1]))
		}
	})
	field(17, r.logic != 0, func() { b = uvs(b, r.logic) })
	field(18, r.digest != 0, func() { b = binary.LittleEndian.AppendUint64(b, r.digest) })
	field(19, len(r.payload) > 0, func() { b = str(b, string(r.payload)) })
	field(20, len(r.effects) > 0, func() {
		b = uvs(b, uint64(len(r.effects)))
		for _, e := range r.effects {
			switch e.kindOf {
			case 2:
				b = uvs(append(b, 2), 0b10011110, n.of(e.event))
				b = uvs(str(b, string(e.payload)), e.due, e.timer, e.every)
				continue
			case 3:
				b = uvs(append(b, 3), 0b10000, e.timer)
				continue
			case 5:
				b = uvs(append(b, 5), 0)
				continue
			}
			if b = append(b, e.kindOf); len(e.token) > 0 {
				b = uvs(b, 0b1000111, n.of(e.kind))
			} else {
				b = uvs(b, 0b111, n.of(e.kind))
			}
			b = str(b, string(e.key))
			name(e.event)
			if b = str(b, string(e.payload)); len(e.token) > 0 {
				b = str(b, string(e.token))
			}
		}
	})
	field(24, len(r.reason) > 0, func() { b = str(b, string(r.reason)) })
	field(25, r.timer != 0, func() { b = uvs(b, r.timer) })
	field(26, r.snap.chunk != 0, func() {
		b = uvs(b, uint64(r.snap.chunk), uint64(r.snap.chunks), uint64(r.snap.codec), uint64(r.snap.key))
		b = uvs(binary.LittleEndian.AppendUint64(b, r.snap.digest), 0)
	})
	return append(uvs([]byte{r.kindOf}, there), b...)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func withCRC(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func (e *testEntry) data() []byte {
	if e.empty {
		return nil
	}
	var n nameTable
	var records [][]byte
	for _, r := range e.records {
		records = append(records, n.record(r, e.base))
	}
	switch {
	case e.recordTypeToCome:
		records[0][0] = 13
	case e.oddExtension:
		records[0] = append(uvs([]byte{1}, 1<<27, 1, 7), str(nil, "x")...)
	case e.unknownRecordBits:
		records[0] = uvs([]byte{1}, 1<<30)
	}
	b := uvs([]byte{byte(e.format)}, 0, 0, 0, e.feature, e.lineage, e.term, e.index, e.previous, uint64(e.base), uint64(len(n.names)))
	b = uvs(str(b, n.names...), uint64(len(records)))
	for _, r := range records {
		b = str(b, string(r))
	}
	b = withCRC(append(b, e.extra...))
	if e.spoilEntryCRC {
		b[len(b)-1] ^= 0x10
	}
	return b
}

func (e *testEntry) frame(shard uint64) []byte {
	place := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, shard), e.index)
	b := append(uvs([]byte{1 + e.frameFormat, e.raftType}, e.raftTerm), e.data()...)
	sum := crc32.Checksum(append(place, b...), castagnoli)
	if e.spoilFrameCRC {
		sum ^= 1
	}
	return binary.LittleEndian.AppendUint32(b, sum)
}

func bkey(shard uint64, kind byte, rest ...[]byte) string {
	return string(binary.BigEndian.AppendUint64(nil, shard)) + string(kind) + string(bytes.Join(rest, nil))
}

func big(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// fill puts the distances back into the records.
func (s *testShard) fill() {
	type at struct{ entry, before uint64 }
	last := map[string]*at{}
	for _, e := range s.entries {
		for _, r := range e.records {
			if r.kindOf == session || r.kindOf == expiry || r.kindOf == logicChange || r.kindOf == answer {
				continue
			}
			name := r.kind + "/" + string(r.key)
			a := last[name]
			if a == nil {
				a = &at{}
				last[name] = a
			}
			before := a.entry
			if before == e.index {
				before = a.before
			}
			if r.back = 0; before != 0 {
				r.back = e.index - before
			}
			if r.kindOf != snapshot && a.entry != e.index {
				a.before, a.entry = a.entry, e.index
			}
		}
	}
}

// derive gives the keys beside the log, from the entries that were applied.
func (s *testShard) derive(keys map[string][]byte) {
	type head struct {
		seq, index uint64
		time       int64
	}
	type prod struct {
		epoch, mark uint64
		time        int64
		runs        [][2]uint64
	}
	heads, prods := map[string]*head{}, map[string]*prod{}
	eras, cuts := map[string][][2]uint64{}, map[string]uint64{}
	var digest, lastData uint64
	var lastTime int64
	timers := map[string][]uint64{} // due, every, index, ordinal, effect by grain and id
	upTo := len(s.entries) - s.lag
	for _, e := range s.entries[:upTo] {
		if e.empty || e.isVoid() {
			continue
		}
		data := e.data()
		digest = xxhash.Sum64(append(binary.LittleEndian.AppendUint64(nil, digest), data[len(data)-4:]...))
		lastData = e.index
		for _, r := range e.records {
			lastTime = r.time
			grain := r.tenant + "\x00" + r.kind + "\x00" + string(r.key)
			switch r.kindOf {
			case session:
				if prods[r.producer] == nil {
					prods[r.producer] = &prod{}
				}
				prods[r.producer].epoch, prods[r.producer].time = r.epoch, r.time
				continue
			case expiry:
				delete(prods, r.producer)
				continue
			case settlement:
				continue // see deadKeys
			case logicChange:
				var kept [][2]uint64
				for _, e := range eras[r.kind] {
					if e[0] >= r.logic {
						kept = append(kept, e)
					}
				}
				if len(kept) == 0 {
					kept = [][2]uint64{{r.logic, e.index}}
				}
				eras[r.kind], cuts[r.kind] = kept, e.index
				continue
			case answer:
				keys[bkey(s.id, 6, big(r.cause.lineage))] = uvs(nil, r.cause.index, uint64(r.cause.ordinal), uint64(r.sender.effect))
				if len(r.reason) == 0 {
					keys[bkey(s.id, 0x12, big(uint64(r.time/(6*3600*1e6))), []byte(grain), []byte{0}, big(r.seq))] = uvs(nil, e.index, uint64(r.ordinal))
				}
				continue
			}
			if n := len(eras[r.kind]); r.kindOf != snapshot && r.logic != 0 && (n == 0 || eras[r.kind][n-1][0] != r.logic) {
				eras[r.kind] = append(eras[r.kind], [2]uint64{r.logic, e.index})
			}
			h := heads[grain]
			if h == nil {
				h = &head{}
				heads[grain] = h
			}
			if r.kindOf == snapshot {
				if r.snap.chunk == 1 {
					keys[bkey(s.id, 5, []byte(grain), []byte{0}, big(r.seq))] = uvs(nil, e.index, uint64(r.ordinal), uint64(r.time))
				}
				continue
			}
			h.seq, h.index, h.time = r.seq, e.index, r.time
			name := func(id uint64) string { return grain + "\x00" + string(big(id)) }
			if p := timers[name(r.timer)]; p != nil {
				if p[1] == 0 {
					delete(timers, name(r.timer))
				} else {
					for p[0] <= uint64(r.time) {
						p[0] += p[1]
					}
				}
			}
			for n, x := range r.effects {
				switch x.kindOf {
				case 2:
					timers[name(x.timer)] = []uint64{x.due, x.every, e.index, uint64(r.ordinal), uint64(n)}
				case 3:
					delete(timers, name(x.timer))
				}
			}
			switch {
			case r.sequence != 0:
				p := prods[r.producer]
				if p == nil {
					p = &prod{}
					prods[r.producer] = p
				}
				p.epoch, p.mark, p.time = r.epoch, r.sequence, r.time
				if n := len(p.runs); n > 0 && p.runs[n-1][1] == e.index {
					p.runs[n-1][0] = r.sequence
				} else {
					p.runs = append(p.runs, [2]uint64{r.sequence, e.index})
				}
			case r.sender.kind != "" && r.cause.index != 0:
				keys[bkey(s.id, 6, big(r.cause.lineage))] = uvs(nil, r.cause.index, uint64(r.cause.ordinal), uint64(r.sender.effect))
			case len(r.id) > 0:
				id := xxhash.Sum64String(grain + "\x00" + r.source + "\x00" + string(r.id))
				body := xxhash.Sum64String(r.event + "\x00" + string(r.payload))
				keys[bkey(s.id, 9, big(uint64(r.time/(6*3600*1e6))), big(id))] =
					binary.LittleEndian.AppendUint64(uvs(nil, e.index, uint64(r.ordinal), uint64(r.time)), body)
			}
		}
	}
	for grain, h := range heads {
		keys[bkey(s.id, 4, []byte(grain))] = uvs(nil, h.seq, h.index, uint64(h.time))
	}
	for name, p := range timers {
		keys[bkey(s.id, 0x0a, []byte{0}, big(p[0]), []byte(name))] = nil
		keys[bkey(s.id, 0x0a, []byte{1}, []byte(name))] = uvs(nil, p...)
	}
	for kind, of := range eras {
		v := uvs(nil, cuts[kind], uint64(len(of)))
		for _, e := range of {
			v = uvs(v, e[0], e[1])
		}
		keys[bkey(s.id, 0x11, []byte(kind))] = v
	}
	for id, p := range prods {
		p.runs = p.runs[max(0, len(p.runs)-64):]
		v := uvs(nil, p.epoch, p.mark, uint64(p.time), uint64(len(p.runs)))
		for _, r := range p.runs {
			v = uvs(v, r[0], r[1])
		}
		keys[bkey(s.id, 8, []byte(id))] = v
	}
	if upTo == 0 {
		return
	}
	keys[bkey(s.id, 7)] = uvs(nil, s.cursor)
	v := uvs(nil, uint64(upTo), s.entries[upTo-1].raftTerm, 0, s.id, lastData, uint64(lastTime))
	v = append(binary.LittleEndian.AppendUint64(v, digest), 0x08, 0x01) // ConfState: voters = 1
	keys[bkey(s.id, 3)] = v
}

// keys is the whole store.
func (w *world) keys() map[string][]byte {
	keys := map[string][]byte{}
	keys[bkey(0, 0x7f)] = fmt.Appendf(nil, `{"format":1,"goarch":%q,"shards":%d,"node_id":7}`, runtime.GOARCH, w.n)
	for id, s := range w.shards {
		for _, e := range s.entries {
			keys[bkey(id, 1, big(e.index))] = e.frame(id)
		}
		if n := len(s.entries); n > 0 {
			last := s.entries[n-1]
			if s.hard == [3]uint64{} {
				s.hard = [3]uint64{last.raftTerm, 1, last.index - 1}
			}
			keys[bkey(id, 2)] = uvs(nil, s.hard[0], s.hard[1], s.hard[2])
		}
		s.derive(keys)
	}
	for _, k := range w.kept {
		w.stateKey(keys, k)
	}
	for _, f := range w.after {
		f(keys)
	}
	return keys
}

const testDir = "data"

// write writes the keys into a store on a file system in memory, in n batches.
func write(t testing.TB, keys map[string][]byte, batches int, change func(*pebble.Options), finish func(*pebble.DB)) *vfs.MemFS {
	fs := vfs.NewMem()
	p := &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}}
	if change != nil {
		change(p)
	}
	db, err := pebble.Open(testDir, p)
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(keys))
	for i := range batches {
		b := db.NewBatch()
		for _, k := range names[len(names)*i/batches : len(names)*(i+1)/batches] {
			if err := b.Set([]byte(k), keys[k], nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Commit(pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if finish != nil {
		finish(db)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// check writes a world and verifies it.
func (w *world) check(change func(*Options)) *Report {
	w.t.Helper()
	fs := write(w.t, w.keys(), 3, nil, nil)
	o := Options{Dir: testDir, FS: fs, Catalog: w.catalog}
	if change != nil {
		change(&o)
	}
	r, err := Run(w.t.Context(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}
