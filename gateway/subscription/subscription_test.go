package subscription_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/subscription"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// shards of the worlds of these tests.
const shards = 3

// world is the journals of some shards in a real store. What is committed, and what only lies in the log, is up to the
// test. It knows by itself what subscribers have to see.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	store *persistence.Store
	logs  []*persistence.Log
	index []*persistence.Index
	ahead [][]*raftpb.Entry // in the log, and not committed
	// want are the items of each shard: of the stream "s", and of the kind "a"
	messages, records [][]string
	number            int
}

func newWorld(t *testing.T, seed uint64) *world {
	store, err := persistence.Open(persistence.Options{Dir: "data", FS: vfs.NewMem(), Shards: 4, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), store: store, ahead: make([][]*raftpb.Entry, shards),
		messages: make([][]string, shards), records: make([][]string, shards)}
	for shard := range uint64(shards) {
		x, err := store.OpenIndex(shard+1, 1)
		if err != nil {
			t.Fatal(err)
		}
		l, err := store.OpenLog(shard+1, 1)
		if err != nil {
			t.Fatal(err)
		}
		w.index, w.logs = append(w.index, x), append(w.logs, l)
		w.commit(shard, w.write(shard, nil))
	}
	return w
}

// write puts an entry behind what is committed into the log, in place of what lies there.
func (w *world) write(shard uint64, data []byte) *raftpb.Entry {
	applied, _ := w.index[shard].Applied()
	index, term, typ := applied+1, uint64(5), raftpb.EntryNormal
	e := &raftpb.Entry{Index: &index, Term: &term, Type: &typ, Data: data}
	b := w.store.NewBatch()
	if err := w.logs[shard].Append(b, []*raftpb.Entry{e}); err != nil {
		w.t.Fatal(err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) commit(shard uint64, e *raftpb.Entry) (fenced bool) {
	err := w.index[shard].Apply(e, nil)
	if err != nil && !errors.Is(err, persistence.ErrFenced) {
		w.t.Fatal(err)
	}
	return err != nil
}

// data is an entry with some records, and what subscribers have to see of it.
func (w *world) data(shard uint64, h entry.Header, size int) (data []byte, messages, records []string) {
	var b entry.Builder
	b.Reset(int64(h.Index))
	for ordinal := range w.rng.IntN(4) {
		w.number++
		rec := entry.Record{Time: int64(h.Index), Key: fmt.Appendf(nil, "k%d-%d", shard, w.number), Kind: "a", Seq: 1, Event: "E",
			Payload: fmt.Appendf(nil, "%d%s", w.number, strings.Repeat(".", w.rng.IntN(size)))}
		switch w.rng.IntN(8) {
		case 0:
			rec = entry.Record{Type: entry.Session, Producer: fmt.Sprint("p", w.number), Epoch: 1, Time: rec.Time}
			b.Append(&rec)
			continue
		case 1:
			rec.Kind = "b"
		case 2:
			rec.Type = entry.Void
		case 3:
			rec.Event = "F"
		}
		if rec.Type == 0 {
			rec.Type = entry.Input
			for i := range w.rng.IntN(4) {
				e := entry.Effect{Type: entry.Publish, Stream: "s", Event: "M", Payload: fmt.Appendf(nil, "%d.%d%s", w.number, i, strings.Repeat(".", w.rng.IntN(size)))}
				switch w.rng.IntN(6) {
				case 0:
					e.Stream = "other"
				case 1:
					e = entry.Effect{Type: entry.Send, Kind: "a", Key: []byte("x"), Event: "E", Payload: e.Payload}
				default:
					messages = append(messages, fmt.Sprintf("%d/%d/%d %s", h.Index, ordinal, i, e.Payload))
				}
				rec.Effects = append(rec.Effects, e)
			}
			rec.Digest = rec.OutcomeDigest()
		}
		if rec.Kind == "a" {
			records = append(records, fmt.Sprintf("%d/%d %s", h.Index, ordinal, rec.Payload))
		}
		b.Append(&rec)
	}
	return b.Close(h), messages, records
}

// happen lets a shard's journal grow by an entry of any sort, or leaves one in the log that is not committed.
func (w *world) happen(shard uint64, size int) {
	x := w.index[shard]
	applied, _ := x.Applied()
	h := entry.Header{Lineage: x.Lineage(), Term: 5, Index: applied + 1, Previous: x.LastData()}
	fence := false
	switch w.rng.IntN(12) {
	case 0:
		w.commit(shard, w.write(shard, nil))
		return
	case 1:
		h.Term, fence = 4, true
	case 2:
		h.Previous, fence = h.Previous+1, true
	case 3: // in the log, not committed, and to be replaced
		data, _, _ := w.data(shard, h, size)
		w.write(shard, data)
		return
	}
	data, messages, records := w.data(shard, h, size)
	if fenced := w.commit(shard, w.write(shard, data)); fenced != fence {
		w.t.Fatal("fenced:", fenced)
	}
	if !fence {
		w.messages[shard] = append(w.messages[shard], messages...)
		w.records[shard] = append(w.records[shard], records...)
	}
}

// reader drives a subscription as the gateway does, one step at a time.
type reader struct {
	w        *world
	cfg      subscription.Config
	sub      *subscription.Subscription
	asked    []uint64
	got      [][]string
	position string
	opened   bool
	live     bool
	ended    bool
	refusal  *answer.Refusal
	most     int // items in a response
}

func (w *world) config() subscription.Config {
	return subscription.Config{Shards: shards,
		Record: func(lineage, index uint64, r *entry.Record) *granaryv1.HistoryRecord {
			return &granaryv1.HistoryRecord{PayloadProtobuf: fmt.Appendf(nil, "%d/%d %s", index, r.Ordinal, r.Payload)}
		},
		Payload: func(_ string, payload []byte) (*structpb.Struct, []byte) { return nil, payload },
	}
}

func (w *world) subscribe(cfg subscription.Config) *reader {
	r := &reader{w: w, cfg: cfg, got: make([][]string, shards)}
	r.begin()
	return r
}

func (r *reader) begin() {
	r.sub, r.refusal = subscription.New(r.cfg)
	if r.refusal != nil {
		r.w.t.Fatal(r.refusal)
	}
	r.asked, r.opened, r.live = nil, false, false
}

// resume begins anew where the last response stood.
func (r *reader) resume() {
	if r.position != "" {
		r.cfg.Position, r.cfg.Beginning = r.position, false
	}
	r.begin()
}

// hear answers one of the shards that were asked, if there is something to tell.
func (r *reader) hear(i int) bool {
	shard := r.asked[i]
	place := r.w.index[shard-1].Place()
	if place.Index <= r.sub.After(shard) {
		return false
	}
	r.asked = slices.Delete(r.asked, i, i+1)
	r.sub.Committed(shard, place)
	return true
}

// step does one thing and tells whether there was anything to do.
func (r *reader) step() (busy bool) {
	r.asked = append(r.asked, r.sub.Asks()...)
	if len(r.asked) > 0 && r.w.rng.IntN(2) == 0 && r.hear(r.w.rng.IntN(len(r.asked))) {
		return true
	}
	switch a := r.sub.Next(); {
	case a.Response != nil:
		r.take(a.Response)
	case a.Ended:
		r.ended, r.refusal = true, a.Refusal
	case a.Read != 0:
		r.read(a)
	default:
		r.asked = append(r.asked, r.sub.Asks()...)
		for i := range r.asked {
			if r.hear(i) {
				return true
			}
		}
		return len(r.asked) == 0
	}
	return !r.ended
}

func (r *reader) read(a subscription.Action) {
	if a.Upto > r.w.index[a.Read-1].Place().Index {
		r.w.t.Fatalf("shard %d is read up to %d, beyond what is committed", a.Read, a.Upto)
	}
	entries, behind, err := r.w.store.Committed(a.Read, a.After, a.Upto, 1+r.w.rng.IntN(2000))
	if err != nil {
		r.w.t.Fatal(err)
	}
	r.sub.Took(a.Read, entries, behind, nil)
}

func (r *reader) take(response *granaryv1.SubscribeResponse) {
	if !r.opened && len(response.Items) > 0 {
		r.w.t.Fatal("the first response has items")
	}
	if r.live && !response.Live {
		r.w.t.Fatal("live no more")
	}
	size := 0
	r.opened, r.live, r.position, r.most = true, response.Live, response.Position, max(r.most, len(response.Items))
	for _, item := range response.Items {
		size += item.SizeVT()
		var shard int
		if _, err := fmt.Sscanf(item.Grain, "a/k%d-", &shard); err != nil {
			if _, err := fmt.Sscanf(item.Grain, "b/k%d-", &shard); err != nil {
				r.w.t.Fatal(err, item.Grain)
			}
		}
		text := string(item.GetRecord().GetPayloadProtobuf())
		if m := item.GetMessage(); m != nil {
			p, err := answer.ParsePosition(m.Position)
			if err != nil {
				r.w.t.Fatal(err)
			}
			text = fmt.Sprintf("%d/%d/%d %s", p.Index, p.Ordinal, m.Effect, m.PayloadProtobuf)
		}
		r.got[shard] = append(r.got[shard], text)
	}
	if most := cmp.Or(r.cfg.Bytes, 256<<10); len(response.Items) > 1 && size > most || len(response.Items) > 1000 {
		r.w.t.Fatalf("%d items of %d bytes in a response", len(response.Items), size)
	}
}

func (r *reader) drain() {
	for r.step() {
	}
}

// check compares what was seen with what had to be.
func (r *reader) check(want [][]string, when string) {
	r.w.t.Helper()
	for shard := range want {
		if slices.Equal(r.got[shard], want[shard]) {
			continue
		}
		i := 0
		for i < len(want[shard]) && i < len(r.got[shard]) && want[shard][i] == r.got[shard][i] {
			i++
		}
		r.w.t.Fatalf("%s: shard %d: %d items, want %d; the first that differs is number %d:\n got %.200q\nwant %.200q", when, shard+1,
			len(r.got[shard]), len(want[shard]), i, r.got[shard][i:min(i+3, len(r.got[shard]))], want[shard][i:min(i+3, len(want[shard]))])
	}
}

// TestHandOver lets journals grow while they are read, in every way that seeds can think of: each item is seen once and in
// order, from the beginning and from now on, over any number of resumes, and nothing that is not committed or has no
// effect.
func TestHandOver(t *testing.T) {
	seeds := 300
	if testing.Short() {
		seeds = 30
	}
	for seed := range uint64(seeds) {
		w := newWorld(t, seed)
		cfg := w.config()
		want := &w.messages
		if cfg.Stream = "s"; seed%2 == 0 {
			cfg.Stream, cfg.Kind, want = "", "a", &w.records
		}
		size, resumes := 1+w.rng.IntN(40), w.rng.IntN(20)
		for range w.rng.IntN(200) {
			w.happen(uint64(w.rng.IntN(shards)), size)
		}
		cfg.Beginning = w.rng.IntN(3) > 0
		r := w.subscribe(cfg)
		from := make([]int, shards) // how many items of each shard are past
		if !cfg.Beginning {
			for !r.opened { // what is committed meanwhile may be on either side
				r.step()
			}
			for shard := range from {
				from[shard] = len((*want)[shard])
			}
		}
		for range 400 {
			if w.rng.IntN(3) == 0 {
				w.happen(uint64(w.rng.IntN(shards)), size)
			}
			r.step()
			if resumes > 0 && w.rng.IntN(20) == 0 {
				resumes--
				r.resume()
			}
		}
		r.drain()
		if !r.live {
			t.Fatalf("seed %d: not live when everything was read", seed)
		}
		rest := make([][]string, shards)
		for shard := range rest {
			rest[shard] = (*want)[shard][from[shard]:]
		}
		r.check(rest, fmt.Sprintf("seed %d", seed))
	}
}

// TestResumeAnywhere: a thousand resumes at responses of a few items, so in the middle of entries and of records, give
// what one reading gives.
func TestResumeAnywhere(t *testing.T) {
	w := newWorld(t, 1)
	for range 2500 {
		w.happen(uint64(w.rng.IntN(shards)), 40)
	}
	for _, kind := range []string{"", "a"} {
		cfg := w.config()
		cfg.Beginning, cfg.Kind, cfg.Bytes = true, kind, 100 // so that responses break within entries
		want := w.records
		if kind == "" {
			cfg.Stream, want = "s", w.messages
		}
		r := w.subscribe(cfg)
		resumed := 0
		for resumed < 1000 {
			seen := r.position
			for r.position == seen && r.step() {
			}
			if r.position == seen {
				break
			}
			r.resume()
			resumed++
		}
		r.drain()
		r.check(want, "kind "+kind)
		t.Logf("%d resumes", resumed)
		if resumed < 1000 {
			t.Errorf("only %d resumes", resumed)
		}
	}
}

// TestUntilLive ends behind what was committed when it began, whatever comes meanwhile.
func TestUntilLive(t *testing.T) {
	for seed := range uint64(50) {
		w := newWorld(t, seed)
		for range 50 {
			w.happen(uint64(w.rng.IntN(shards)), 10)
		}
		cfg := w.config()
		cfg.Kind, cfg.Beginning, cfg.UntilLive = "a", w.rng.IntN(4) > 0, true
		r := w.subscribe(cfg)
		for !r.opened {
			r.step()
		}
		want := make([][]string, shards)
		if cfg.Beginning {
			for shard := range want {
				want[shard] = slices.Clone(w.records[shard])
			}
		}
		for !r.ended {
			w.happen(uint64(w.rng.IntN(shards)), 10)
			r.step()
		}
		if r.refusal != nil || !r.live {
			t.Fatal(r.refusal, r.live)
		}
		r.check(want, fmt.Sprintf("seed %d", seed))
		// and another call goes on from there
		r.cfg.UntilLive, r.ended = false, false
		r.resume()
		r.drain()
		for shard := range want {
			if want[shard] = w.records[shard]; !cfg.Beginning {
				want[shard] = want[shard][len(want[shard])-len(r.got[shard]):]
			}
		}
		r.check(want, fmt.Sprintf("seed %d, resumed", seed))
	}
}

// TestFilter leaves out by prefix and type, and a filter may change from call to call.
func TestFilter(t *testing.T) {
	w := newWorld(t, 3)
	for range 100 {
		w.happen(uint64(w.rng.IntN(shards)), 10)
	}
	cfg := w.config()
	cfg.Kind, cfg.Beginning, cfg.Prefix = "a", true, "k1-"
	r := w.subscribe(cfg)
	r.drain()
	r.check([][]string{nil, w.records[1], nil}, "prefix")
	cfg.Prefix, cfg.Types = "", map[string]bool{"E": true}
	r = w.subscribe(cfg)
	r.drain()
	e := r.got
	cfg.Types = map[string]bool{"F": true}
	r = w.subscribe(cfg)
	r.drain()
	for shard := range shards {
		if len(e[shard]) == 0 || len(r.got[shard]) == 0 || len(e[shard])+len(r.got[shard]) != len(w.records[shard]) {
			t.Errorf("shard %d: %d and %d of %d", shard+1, len(e[shard]), len(r.got[shard]), len(w.records[shard]))
		}
	}
	r.cfg.Types = nil
	for range 50 {
		w.happen(uint64(w.rng.IntN(shards)), 10)
	}
	before := len(w.records[0])
	r.resume()
	r.got = make([][]string, shards)
	r.drain()
	w.happen(0, 10)
	r.drain()
	if len(r.got[0]) == 0 || !slices.Equal(r.got[0], w.records[0][len(w.records[0])-len(r.got[0]):]) || len(r.got[0]) > before {
		t.Errorf("%d items without the filter", len(r.got[0]))
	}
}

// TestPositions: what is no position, is of something else or lies beyond the journal is refused precisely.
func TestPositions(t *testing.T) {
	w := newWorld(t, 5)
	for range 60 {
		w.happen(uint64(w.rng.IntN(shards)), 10)
	}
	cfg := w.config()
	cfg.Kind, cfg.Beginning = "a", true
	r := w.subscribe(cfg)
	r.drain()
	good := r.position
	cfg.Beginning = false
	refused := func(c subscription.Config, position string) *answer.Refusal {
		c.Position = position
		sub, refusal := subscription.New(c)
		if refusal != nil {
			return refusal
		}
		for _, shard := range sub.Asks() {
			sub.Committed(shard, w.index[shard-1].Place())
		}
		return sub.Next().Refusal
	}
	if refusal := refused(cfg, good); refusal != nil {
		t.Fatal(refusal)
	}
	for i := range good {
		for _, bad := range []string{good[:i], good[:i] + "A" + good[i+1:], good[:i] + "_" + good[i:]} {
			if bad == good || bad == "" {
				continue
			}
			if refusal := refused(cfg, bad); refusal == nil || refusal.Code != codes.InvalidArgument || refusal.Reason != answer.InvalidPosition {
				t.Fatalf("%q: %v", bad, refusal)
			}
		}
	}
	if refusal := refused(cfg, strings.Repeat("A", 1<<16)); refusal == nil || refusal.Code != codes.InvalidArgument {
		t.Error(refusal)
	}
	other := cfg
	other.Kind = "b"
	if refusal := refused(other, good); refusal == nil || refusal.Code != codes.InvalidArgument || !strings.Contains(refusal.Message, "of the kind a") {
		t.Error(refusal)
	}
	other.Kind, other.Stream = "", "a"
	if refusal := refused(other, good); refusal == nil || refusal.Code != codes.InvalidArgument || !strings.Contains(refusal.Message, "of the kind a") {
		t.Error(refusal)
	}
	other = cfg
	other.Shards = 1
	if refusal := refused(other, good); refusal == nil || refusal.Code != codes.InvalidArgument || !strings.Contains(refusal.Message, "number of shards") {
		t.Error(refusal)
	}
	// a store that was rolled back
	w = newWorld(t, 6)
	have := w.index[0].Place().Index
	refusal := refused(cfg, good)
	if refusal == nil || refusal.Code != codes.OutOfRange || refusal.Reason != answer.PositionOutOfRange ||
		fmt.Sprint(refusal.Metadata) != fmt.Sprint([]string{"shard", "1", "have", fmt.Sprint(have)}) {
		t.Errorf("%v %v", refusal, refusal.Metadata)
	}
}
