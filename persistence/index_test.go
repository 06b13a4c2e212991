package persistence

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/persistence/entry"
)

// TestMain gives the random tests a seed, so that a run can be repeated; -rapid.seed=N is another one.
func TestMain(m *testing.M) {
	flag.Parse()
	for name, value := range map[string]string{"rapid.seed": "1", "rapid.nofailfile": "true"} {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue {
			if err := flag.Set(name, value); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}

type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func openStore(t failer, fs vfs.FS) *Store {
	t.Helper()
	s, err := Open(Options{Dir: "data", FS: fs, Shards: 2, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const idWindow = 24 * 3600 * 1e6

// author writes entries as a shard would, and knows what is to be derived from them.
type author struct {
	t       failer
	time    int64
	next    uint64
	prev    uint64
	entries []*raftpb.Entry

	grains    map[string]*authored
	producers map[string]*Producer
	ids       map[string]Known // by the name of the event
	inbox     map[uint64]Mark
	timers    map[string]Timer // by name
	nextTimer uint64

	version uint32 // of the logic that runs
	eras    []Era
	raised  bool
}

// authored is a grain.
type authored struct {
	head      Head
	snapshots []SnapshotPointer
}

func newAuthor(t failer) *author {
	return &author{t: t, time: 1_700_000_000_000_000, next: 1, grains: map[string]*authored{}, producers: map[string]*Producer{}, ids: map[string]Known{}, inbox: map[uint64]Mark{}, timers: map[string]Timer{}}
}

func (a *author) append(term uint64, data []byte) *raftpb.Entry {
	index, typ := a.next, raftpb.EntryNormal
	e := &raftpb.Entry{Index: &index, Term: &term, Type: &typ, Data: data}
	a.entries = append(a.entries, e)
	a.next++
	return e
}

// write draws the next entry.
func (a *author) write(t *rapid.T) *raftpb.Entry {
	switch rapid.IntRange(0, 9).Draw(t, "entry") {
	case 0:
		return a.append(1, nil)
	case 1: // an entry that was made for another place: it has no effect
		var b entry.Builder
		b.Reset(a.time)
		b.Append(&entry.Record{Type: entry.Input, Kind: "k", Key: []byte("fenced"), Seq: 1, Time: a.time})
		h := entry.Header{Lineage: 1, Term: 1, Index: a.next, Previous: a.prev}
		switch rapid.IntRange(0, 3).Draw(t, "fence") {
		case 0:
			h.Term++
		case 1:
			h.Index++
		case 2:
			h.Previous++
		case 3:
			h.Lineage++
		}
		return a.append(1, b.Close(h))
	}
	var b entry.Builder
	b.Reset(a.time)
	for range rapid.IntRange(1, 6).Draw(t, "records") {
		a.time += rapid.SampledFrom([]int64{0, 1, 1000, 7 * 3600 * 1e6}).Draw(t, "time")
		if a.version > 1 && rapid.IntRange(0, 15).Draw(t, "logic change") == 0 {
			b.Append(&entry.Record{Type: entry.LogicChange, Kind: "k", Logic: a.version, Time: a.time})
			a.raised = true
			if last := len(a.eras) - 1; last >= 0 && a.eras[last].Version == a.version {
				a.eras = a.eras[last:]
			} else {
				a.eras = []Era{{a.version, a.next}}
			}
		}
		a.record(t, &b)
	}
	data := b.Close(entry.Header{Lineage: 1, Term: 1, Index: a.next, Previous: a.prev})
	a.prev = a.next
	return a.append(1, data)
}

func (a *author) record(t *rapid.T, b *entry.Builder) {
	name := rapid.SampledFrom([]string{"a", "ab", "b", "ü", "z z", "0\xff"}).Draw(t, "key")
	key := string(AppendGrain(nil, "", "k", name))
	g := a.grains[key]
	if g == nil {
		g = &authored{}
	}
	ordinal := uint32(b.Len())
	r := entry.Record{Kind: "k", Key: []byte(name), Time: a.time, Event: "e", Payload: []byte{byte(a.next)}}
	producer := rapid.SampledFrom([]string{"p", "q"}).Draw(t, "producer")
	p := a.producers[producer]
	what := rapid.IntRange(0, 9).Draw(t, "record")
	switch {
	case what == 0 && g.head.Seq > 0:
		chunks := rapid.IntRange(1, 3).Draw(t, "chunks")
		for n := range chunks {
			s := entry.Record{Type: entry.Snapshot, Kind: "k", Key: []byte(name), Seq: g.head.Seq, Time: a.time, Snapshot: entry.SnapshotMeta{Chunk: uint32(n + 1), Chunks: uint32(chunks)}}
			b.Append(&s)
		}
		at := SnapshotPointer{Seq: g.head.Seq, Index: a.next, Ordinal: ordinal, Time: a.time}
		if n := len(g.snapshots); n > 0 && g.snapshots[n-1].Seq == at.Seq {
			g.snapshots = g.snapshots[:n-1] // the same key
		}
		g.snapshots = append(g.snapshots, at)
		return
	case what == 1:
		if p == nil {
			p = &Producer{}
			a.producers[producer] = p
		}
		p.Epoch++
		p.Time = a.time
		b.Append(&entry.Record{Type: entry.Session, Producer: producer, Epoch: p.Epoch, Time: a.time})
		return
	case what == 2:
		delete(a.producers, producer)
		b.Append(&entry.Record{Type: entry.Expiry, Producer: producer, Time: a.time})
		return
	case what <= 4 && p != nil:
		r.Producer, r.Epoch, r.Sequence = producer, p.Epoch, p.Watermark+1
		p.Watermark, p.Time = r.Sequence, a.time
		if n := len(p.Recent); n > 0 && p.Recent[n-1].Index == a.next {
			p.Recent[n-1].Last = r.Sequence
		} else {
			p.Recent = append(p.Recent, Run{r.Sequence, a.next})
			p.Recent = p.Recent[max(0, len(p.Recent)-RecentRuns):]
		}
	case what <= 6:
		lineage := rapid.Uint64Range(1, 2).Draw(t, "lineage")
		m := a.inbox[lineage]
		m = Mark{m.Index + 1, uint32(m.Index % 3), uint32(m.Index % 5)}
		a.inbox[lineage] = m
		r.Cause, r.Sender = entry.Position{Lineage: lineage, Index: m.Index, Ordinal: m.Ordinal}, entry.Sender{Shard: lineage, Effect: m.Effect, Kind: "k", Key: []byte("s")}
	case what <= 8:
		id := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "id")
		if k, ok := a.ids[key+"\x00s\x00"+id]; ok && k.Time >= a.time-idWindow {
			break // a shard takes it for a duplicate
		}
		r.ID, r.Source = []byte(id), "s"
		a.ids[key+"\x00s\x00"+id] = Known{a.next, ordinal, a.time, BodyHash("e", r.Payload)}
	}
	r.Type = rapid.SampledFrom([]entry.Type{entry.Input, entry.Void, entry.DeadLetter}).Draw(t, "type")
	if rapid.IntRange(0, 20).Draw(t, "raise") == 0 {
		a.version++
	}
	if r.Logic = a.version; r.Logic != 0 && (len(a.eras) == 0 || a.eras[len(a.eras)-1].Version != r.Logic) {
		a.eras = append(a.eras, Era{r.Logic, a.next})
	}
	r.Seq = g.head.Seq + 1
	g.head = Head{r.Seq, a.next, a.time}
	a.grains[key] = g
	a.reminders(t, &r, key, ordinal)
	b.Append(&r)
}

// put appends entries to a log as the commit loop does.
func put(t failer, s *Store, l *Log, entries ...*raftpb.Entry) {
	t.Helper()
	b := s.NewBatch()
	err := l.Append(b, entries)
	if err == nil {
		err = l.SetHard(b, 1, 1, l.last)
	}
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func apply(t failer, x *Index, e *raftpb.Entry) {
	t.Helper()
	if err := x.Apply(e, nil); err != nil && !errors.Is(err, ErrFenced) {
		t.Fatal(err)
	}
}

// derived lists all keys of shard 1 but log and hard state, and ids that are too old to be found: when they go depends on
// when checkpoints come.
func derived(t failer, s *Store, lastTime int64) (keys []string) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: key(1, 0), UpperBound: key(2, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		typ := it.Key()[8]
		if typ == keyID {
			f := values{buf: it.Value()}
			f.uv()
			f.uv()
			if int64(f.uv()) < lastTime-idWindow {
				continue
			}
		}
		if typ != keyLog && typ != keyHard {
			keys = append(keys, fmt.Sprintf("%02x %q = %s", typ, it.Key()[9:], hex.EncodeToString(it.Value())))
		}
	}
	if err := it.Error(); err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestDerivedKeysAreThoseOfTheLog: however applies, checkpoints and restarts follow each other, what is derived is what
// one pass over the log gives, and what the author of the entries meant.
func TestDerivedKeysAreThoseOfTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		s := openStore(t, fs)
		a := newAuthor(t)
		open := func() (*Log, *Index) {
			l, err := s.OpenLog(1, 1)
			if err != nil {
				t.Fatal(err)
			}
			x, err := s.OpenIndex(1, 1)
			if err != nil {
				t.Fatal(err)
			}
			applied, _ := x.Applied()
			if last, _ := l.LastIndex(); last >= applied+1 {
				entries, err := l.Entries(applied+1, last+1, 1<<30)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					apply(t, x, e)
				}
			}
			return l, x
		}
		l, x := open()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			default:
				e := a.write(t)
				put(t, s, l, e)
				apply(t, x, e)
				l.Applied(e.GetIndex())
			case 6:
				a.compare(x)
			case 7, 8:
				if err := x.Checkpoint(0, x.LastTime()-idWindow); err != nil {
					t.Fatal(err)
				}
				a.compare(x)
			case 9:
				if rapid.IntRange(0, 3).Draw(t, "a folder from before") == 0 { // there were logic keys
					if err := s.db.DeleteRange(key(1, keyLogic), key(1, keyLogic+1), pebble.NoSync); err != nil {
						t.Fatal(err)
					}
				}
				if rapid.Bool().Draw(t, "reopen the store") {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = openStore(t, fs)
				}
				l, x = open()
				a.compare(x)
			}
		}
		if err := x.Checkpoint(0, x.LastTime()-idWindow); err != nil {
			t.Fatal(err)
		}
		got := derived(t, s, x.LastTime())
		digest := x.Digest()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}

		again := openStore(t, vfs.NewMem())
		defer again.Close()
		x, err := again.OpenIndex(1, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range a.entries {
			apply(t, x, e)
		}
		if err := x.Checkpoint(0, x.LastTime()-idWindow); err != nil {
			t.Fatal(err)
		}
		if want := derived(t, again, x.LastTime()); !slices.Equal(got, want) {
			t.Fatalf("the keys are\n%s\nthe log gives\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if digest != x.Digest() {
			t.Fatal("the digests differ")
		}
	})
}

// compare asks an index for all that its author knows.
func (a *author) compare(x *Index) {
	a.t.Helper()
	if eras := x.Eras("k"); !slices.Equal(eras, a.eras) || x.Raised("k") != (a.raised || len(a.eras) > 1) {
		a.t.Fatalf("the eras are %v, raised: %t; want %v, %t", eras, x.Raised("k"), a.eras, a.raised)
	}
	var want []Listed
	for key, g := range a.grains {
		if h, err := x.Head([]byte(key)); err != nil || h != g.head {
			a.t.Fatalf("head of %q: %+v %v, want %+v", key, h, err, g.head)
		}
		for seq := uint64(0); seq <= g.head.Seq+1; seq++ {
			var below, above SnapshotPointer
			for _, p := range g.snapshots {
				if p.Seq <= seq {
					below = p
				} else if above.Index == 0 {
					above = p
				}
			}
			if b, o, err := x.Snapshots([]byte(key), seq); err != nil || b != below || o != above {
				a.t.Fatalf("snapshots of %q around %d: %+v %+v %v, want %+v %+v", key, seq, b, o, err, below, above)
			}
		}
		for _, p := range g.snapshots {
			for _, at := range []int64{p.Time - 1, p.Time} {
				var below, above SnapshotPointer
				for _, q := range g.snapshots {
					if q.Time <= at {
						below = q
					} else if above.Index == 0 {
						above = q
					}
				}
				if b, o, err := x.SnapshotsByTime([]byte(key), at); err != nil || b != below || o != above {
					a.t.Fatalf("snapshots of %q around time %d: %+v %+v %v, want %+v %+v", key, at, b, o, err, below, above)
				}
			}
		}
		want = append(want, Listed{string(bytes.TrimPrefix([]byte(key), AppendGrain(nil, "", "k", ""))), g.head})
	}
	slices.SortFunc(want, func(a, b Listed) int { return strings.Compare(a.Key, b.Key) })
	for _, prefix := range []string{"", "a", "0\xff", "nothing"} {
		for _, after := range []string{"", "a", "zz"} {
			for _, limit := range []int{2, 100} {
				var w []Listed
				for _, l := range want {
					if strings.HasPrefix(l.Key, prefix) && (after == "" || l.Key > after) && len(w) < limit {
						w = append(w, l)
					}
				}
				if got, err := x.List("", "k", prefix, after, limit); err != nil || !slices.Equal(got, w) {
					a.t.Fatalf("list of %q behind %q: %v %v, want %v", prefix, after, got, err, w)
				}
			}
		}
	}
	for id, p := range a.producers {
		got, err := x.Producer(id)
		if err != nil || got == nil || got.Epoch != p.Epoch || got.Watermark != p.Watermark || got.Time != p.Time || !slices.Equal(got.Recent, p.Recent) {
			a.t.Fatalf("producer %q: %+v %v, want %+v", id, got, err, p)
		}
	}
	for _, id := range []string{"p", "q", "nobody"} {
		if got, err := x.Producer(id); a.producers[id] == nil && (got != nil || err != nil) {
			a.t.Fatalf("producer %q: %+v %v, want none", id, got, err)
		}
	}
	for lineage, m := range a.inbox {
		if got := x.Inbox(lineage); got != m {
			a.t.Fatalf("inbox %d: %v, want %v", lineage, got, m)
		}
	}
	now := x.LastTime()
	for name, k := range a.ids {
		parts := strings.Split(name, "\x00")
		hash := IDHash([]byte(strings.Join(parts[:3], "\x00")), parts[3], parts[4])
		got, ok, err := x.ID(hash, now-idWindow, now)
		if known := k.Time >= now-idWindow; err != nil || ok != known || known && got != k {
			a.t.Fatalf("id %q: %+v %t %v, want %+v %t", name, got, ok, err, k, known)
		}
	}
	a.compareTimers(x)
	if x.LastData() != a.prev {
		a.t.Fatalf("last data entry %d, want %d", x.LastData(), a.prev)
	}
}

// TestProducerRuns: the newest entries of a producer find its events; what is too old is said to be unknown, and nothing
// is found where it is not.
func TestProducerRuns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Producer{}
		at := map[uint64]uint64{} // sequence: index
		sequence, index := uint64(0), uint64(0)
		for range rapid.IntRange(0, 200).Draw(t, "events") {
			sequence += rapid.Uint64Range(1, 3).Draw(t, "gap") // the others went to other shards
			if index == 0 || rapid.Bool().Draw(t, "entry") {
				index += rapid.Uint64Range(1, 2).Draw(t, "index")
			}
			p.Note(1, sequence, index, 0)
			at[sequence] = index
		}
		if len(p.Recent) > RecentRuns {
			t.Fatalf("%d runs are kept", len(p.Recent))
		}
		for s, want := range at {
			got := p.Find(s)
			if got != want && got != 0 {
				t.Fatalf("sequence %d is found in entry %d, it is in %d", s, got, want)
			}
			if got == 0 && len(p.Recent) < RecentRuns {
				t.Fatalf("sequence %d is not found, although nothing was forgotten", s)
			}
			if n := len(p.Recent); got == 0 && n > 1 && want >= p.Recent[1].Index {
				t.Fatalf("sequence %d in entry %d is not found; %v is kept", s, want, p.Recent)
			}
		}
		if got := p.Find(sequence + 1); got != 0 {
			t.Fatalf("a sequence that never came is found in entry %d", got)
		}
	})
}

// TestStateIsStoredWithCare: a stored state comes back as it was, or not at all.
func TestStateIsStoredWithCare(t *testing.T) {
	s := openStore(t, vfs.NewMem())
	defer s.Close()
	x, err := s.OpenIndex(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	grain := AppendGrain(nil, "", "k", "a")
	want := State{Seq: 70, Logic: 3, Snapshot: SnapshotPointer{Seq: 64, Index: 9, Ordinal: 2, Time: 5}, Data: []byte("state")}
	x.PutState(grain, want)
	if got, err := x.State(grain); err != nil || got.Seq != 0 {
		t.Fatalf("before the checkpoint: %+v %v", got, err)
	}
	if err := x.Checkpoint(0, 0); err != nil {
		t.Fatal(err)
	}
	got, err := x.State(grain)
	if err != nil || got.Seq != want.Seq || got.Logic != want.Logic || got.Snapshot != want.Snapshot || !bytes.Equal(got.Data, want.Data) {
		t.Fatalf("%+v %v", got, err)
	}
	at := append(key(1, keyState), grain...)
	v, err := s.get(at)
	if err != nil {
		t.Fatal(err)
	}
	for i := range v {
		for bit := range 8 {
			flipped := bytes.Clone(v)
			flipped[i] ^= 1 << bit
			if err := s.db.Set(at, flipped, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
			got, err := x.State(grain)
			if err == nil && (got.Seq != want.Seq || !bytes.Equal(got.Data, want.Data)) {
				t.Errorf("bit %d of byte %d is flipped: served as %+v", bit, i, got)
			}
		}
	}
}

// TestApplyRefuses: what does not follow is never applied.
func TestApplyRefuses(t *testing.T) {
	s := openStore(t, vfs.NewMem())
	defer s.Close()
	build := func(index uint64, records ...entry.Record) *raftpb.Entry {
		var b entry.Builder
		b.Reset(0)
		for i := range records {
			b.Append(&records[i])
		}
		term, typ := uint64(1), raftpb.EntryNormal
		return &raftpb.Entry{Index: &index, Term: &term, Type: &typ, Data: b.Close(entry.Header{Lineage: 1, Term: 1, Index: index})}
	}
	input := func(seq uint64) entry.Record {
		return entry.Record{Type: entry.Input, Kind: "k", Key: []byte("a"), Seq: seq}
	}
	conf := build(1, input(1))
	conf.Type = raftpb.EntryConfChange.Enum()
	broken := build(1, input(1))
	broken.Data[3] ^= 1
	for _, test := range []struct {
		name string
		e    *raftpb.Entry
		is   error
		says string
	}{
		{"not the next", build(2, input(1)), nil, "entry 2 cannot be applied after 0"},
		{"a flipped bit", broken, entry.ErrCorrupt, "shard 1 index 1"},
		{"a gap in a grain", build(1, input(1), input(3)), entry.ErrCorrupt, "seq 3 of k/a follows 1"},
		{"a configuration", conf, entry.ErrTooNew, "index 1"},
		{"a logic change of nothing", build(1, entry.Record{Type: entry.LogicChange, Logic: 1}), entry.ErrCorrupt, "without a kind"},
		{"a record to come", build(1, entry.Record{Type: entry.Tombstone, Kind: "k", Key: []byte("a"), Seq: 1}), entry.ErrTooNew, "tombstone"},
	} {
		x, err := s.OpenIndex(1, 1)
		if err != nil {
			t.Fatal(err)
		}
		err = x.Apply(test.e, nil)
		if err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestCorruptDerivedKeysAreNamed: a derived value that cannot be read is an error, not a guess.
func TestCorruptDerivedKeysAreNamed(t *testing.T) {
	grain := AppendGrain(nil, "", "k", "a")
	for _, test := range []struct {
		name string
		key  []byte
		ask  func(*Store) error
	}{
		{"applied", key(1, keyApplied), func(s *Store) error { _, err := s.OpenIndex(1, 1); return err }},
		{"inbox", binary.BigEndian.AppendUint64(key(1, keyInbox), 1), func(s *Store) error { _, err := s.OpenIndex(1, 1); return err }},
		{"hard", key(1, keyHard), func(s *Store) error { _, err := s.OpenLog(1, 1); return err }},
		{"head", append(key(1, keyHead), grain...), func(s *Store) error { _, err := ask(s).Head(grain); return err }},
		{"list", append(key(1, keyHead), grain...), func(s *Store) error { _, err := ask(s).List("", "k", "", "", 1); return err }},
		{"snap", snapKey(1, grain, 3), func(s *Store) error { _, _, err := ask(s).Snapshots(grain, 5); return err }},
		{"producer", append(key(1, keyProducer), 'p'), func(s *Store) error { _, err := ask(s).Producer("p"); return err }},
		{"idle producers", append(key(1, keyProducer), 'p'), func(s *Store) error { _, err := ask(s).IdleProducers(1); return err }},
		{"logic", append(key(1, keyLogic), 'k'), func(s *Store) error { _, err := s.OpenIndex(1, 1); return err }},
		{"dead", key(1, keyDead), func(s *Store) error { _, err := s.OpenIndex(1, 1); return err }},
		{"dead letter", append(key(1, keyDead), deadName(nil, "", "k", []byte("a"), 3)...), func(s *Store) error { _, _, err := ask(s).DeadLetter("k", "a", 3); return err }},
		{"dead letters", append(key(1, keyDead), deadName(nil, "", "k", []byte("a"), 3)...), func(s *Store) error {
			_, err := ask(s).DeadLetters("", "", DeadLetter{}, 1)
			return err
		}},
		{"timer", timerGrainKey(nil, 1, timerName("a", 1)), func(s *Store) error { _, err := ask(s).Timers(TimerRange{Kind: "k"}, 1); return err }},
		{"timer without its twin", timerDueKey(nil, 1, 5, timerName("a", 1)), func(s *Store) error { _, err := ask(s).Due(5, nil, 1); return err }},
		{"id", idKey(nil, 1, 0, 7), func(s *Store) error { _, _, err := ask(s).ID(7, 0, 1); return err }},
	} {
		s := openStore(t, vfs.NewMem())
		if err := s.db.Set(test.key, []byte{0x80}, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if err := test.ask(s); !errors.Is(err, entry.ErrCorrupt) {
			t.Errorf("%s: %v", test.name, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func ask(s *Store) *Index {
	x, err := s.OpenIndex(1, 1)
	if err != nil {
		panic(err)
	}
	return x
}
