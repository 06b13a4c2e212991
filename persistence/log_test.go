package persistence

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/persistence/entry"
)

func raftEntry(index, term uint64, data string) *raftpb.Entry {
	typ := raftpb.EntryNormal
	return &raftpb.Entry{Index: &index, Term: &term, Type: &typ, Data: []byte(data)}
}

func openLog(t failer, s *Store) *Log {
	t.Helper()
	l, err := s.OpenLog(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestLogIsWhatWasAppended: however appends, overwrites, restarts and the shard's progress follow each other, the log
// holds the entries of a plain slice.
func TestLogIsWhatWasAppended(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		s := openStore(t, fs)
		defer func() { _ = s.Close() }()
		l := openLog(t, s)
		x, err := s.OpenIndex(1, 1)
		if err != nil {
			t.Fatal(err)
		}
		var model []*raftpb.Entry // model[i] has index i+1
		term, applied, stored := uint64(1), 0, 0
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1, 2:
				first := len(model)
				if rapid.IntRange(0, 3).Draw(t, "overwrite") == 0 {
					term++
					first = rapid.IntRange(applied, len(model)).Draw(t, "first")
				}
				var entries []*raftpb.Entry
				for i := range rapid.IntRange(1, 5).Draw(t, "entries") {
					entries = append(entries, raftEntry(uint64(first+i+1), term, ""))
				}
				model = append(model[:first:first], entries...)
				b := s.NewBatch()
				if err := l.Append(b, entries); err != nil {
					t.Fatal(err)
				}
				if err := l.SetHard(b, term, 1, uint64(applied)); err != nil {
					t.Fatal(err)
				}
				if err := b.Commit(pebble.NoSync); err != nil {
					t.Fatal(err)
				}
			case 3: // the shard takes entries in
				for n := rapid.IntRange(0, len(model)-applied).Draw(t, "apply"); n > 0; n-- {
					apply(t, x, model[applied])
					applied++
				}
				l.Applied(uint64(applied))
			case 4:
				if err := x.Checkpoint(0, 0); err != nil {
					t.Fatal(err)
				}
				stored = applied
			case 5:
				if rapid.Bool().Draw(t, "reopen the store") {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = openStore(t, fs)
				}
				l = openLog(t, s)
				if x, err = s.OpenIndex(1, 1); err != nil {
					t.Fatal(err)
				}
				applied = stored
				hard, conf, err := l.InitialState()
				if err != nil || hard.GetCommit() < uint64(applied) || len(model) > 0 && hard.GetTerm() != term || conf.GetVoters()[0] != 1 {
					t.Fatalf("%v %v %v", hard, conf, err)
				}
			}
			compareLog(t, l, model)
		}
	})
}

func compareLog(t *rapid.T, l *Log, model []*raftpb.Entry) {
	t.Helper()
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if first != 1 || last != uint64(len(model)) {
		t.Fatalf("the log has the entries %d to %d, want 1 to %d", first, last, len(model))
	}
	if term, err := l.Term(0); err != nil || term != 0 {
		t.Fatalf("term of nothing: %d %v", term, err)
	}
	if _, err := l.Term(last + 1); !errors.Is(err, raft.ErrUnavailable) {
		t.Fatalf("term behind the end: %v", err)
	}
	for i, e := range model {
		if term, err := l.Term(uint64(i + 1)); err != nil || term != e.GetTerm() {
			t.Fatalf("term of %d: %d %v, want %d", i+1, term, err, e.GetTerm())
		}
		if read, err := l.Read(uint64(i + 1)); err != nil || read.GetTerm() != e.GetTerm() {
			t.Fatalf("read %d: %v %v", i+1, read, err)
		}
	}
	if len(model) > 0 {
		got, err := l.Entries(1, last+1, 1<<30)
		if err != nil || len(got) != len(model) {
			t.Fatalf("%d entries, %v; want %d", len(got), err, len(model))
		}
		for i, e := range got {
			if e.GetIndex() != uint64(i+1) || e.GetTerm() != model[i].GetTerm() {
				t.Fatalf("entry %d: %v, want %v", i+1, e, model[i])
			}
		}
	}
	if _, err := l.Entries(1, last+2, 1<<30); !errors.Is(err, raft.ErrUnavailable) {
		t.Fatalf("entries behind the end: %v", err)
	}
	if _, err := l.Entries(0, 1, 1<<30); !errors.Is(err, raft.ErrCompacted) {
		t.Fatalf("entries before the beginning: %v", err)
	}
}

// TestEntriesAreLimited: an answer is cut where it gets too large, and holds one entry at least.
func TestEntriesAreLimited(t *testing.T) {
	s := openStore(t, vfs.NewMem())
	defer s.Close()
	l := openLog(t, s)
	for i := uint64(1); i <= 5; i++ {
		put(t, s, l, raftEntry(i, 1, ""))
	}
	for _, test := range []struct {
		max  uint64
		want int
	}{{0, 1}, {24, 1}, {48, 2}, {100, 4}, {1000, 5}} {
		if got, err := l.Entries(1, 6, test.max); err != nil || len(got) != test.want {
			t.Errorf("up to %d bytes: %d entries, %v; want %d", test.max, len(got), err, test.want)
		}
	}
}

// TestAppendRefusesGaps: an entry that does not follow is a mistake of the caller and never written.
func TestAppendRefusesGaps(t *testing.T) {
	s := openStore(t, vfs.NewMem())
	defer s.Close()
	l := openLog(t, s)
	b := s.NewBatch()
	defer b.Close()
	for _, index := range []uint64{0, 2} {
		if err := l.Append(b, []*raftpb.Entry{raftEntry(index, 1, "")}); err == nil {
			t.Errorf("entry %d was taken by an empty log", index)
		}
	}
	if !b.Empty() {
		t.Error("something was written")
	}
}

// damaged is a store with a log of n data entries, of which applied are behind a checkpoint.
func damaged(t *testing.T, n, applied int) (*Store, *vfs.MemFS) {
	fs := vfs.NewMem()
	s := openStore(t, fs)
	l := openLog(t, s)
	x, err := s.OpenIndex(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	var prev uint64
	for i := uint64(1); i <= uint64(n); i++ {
		var b entry.Builder
		b.Reset(int64(i))
		b.Append(&entry.Record{Type: entry.Input, Kind: "k", Key: []byte("a"), Seq: i, Back: i - prev, Time: int64(i), Event: "e", Payload: bytes.Repeat([]byte("p"), 100)})
		e := raftEntry(i, 1, string(b.Close(entry.Header{Lineage: 1, Term: 1, Index: i, Previous: prev})))
		prev = i
		put(t, s, l, e)
		if i <= uint64(applied) {
			apply(t, x, e)
		}
	}
	if err := x.Checkpoint(0, 0); err != nil {
		t.Fatal(err)
	}
	return s, fs
}

// TestDamagedLogIsNamed: a log that is not what was written is refused when it is opened, or when the damage is read;
// the error says where.
func TestDamagedLogIsNamed(t *testing.T) {
	flip := func(t *testing.T, s *Store, index uint64, at int) {
		v, err := s.get(logKey(nil, 1, index))
		if err != nil {
			t.Fatal(err)
		}
		v[(at+len(v))%len(v)] ^= 4
		if err := s.db.Set(logKey(nil, 1, index), v, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	drop := func(t *testing.T, s *Store, index uint64) {
		if err := s.db.Delete(logKey(nil, 1, index), pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name   string
		damage func(*testing.T, *Store)
		says   string
	}{
		{"a flipped bit behind the checkpoint", func(t *testing.T, s *Store) { flip(t, s, 8, 60) }, "shard 1 index 8"},
		{"a flipped bit in a checksum", func(t *testing.T, s *Store) { flip(t, s, 8, -1) }, "shard 1 index 8"},
		{"a flipped bit in the applied entry", func(t *testing.T, s *Store) { flip(t, s, 5, 0) }, "shard 1 index 5"},
		{"an entry is missing behind the checkpoint", func(t *testing.T, s *Store) { drop(t, s, 7) }, "index 7 is missing"},
		{"the applied entry is missing", func(t *testing.T, s *Store) { drop(t, s, 5) }, "index 5 is missing"},
		{"the tail is missing", func(t *testing.T, s *Store) { drop(t, s, 9); drop(t, s, 10) }, "the log ends at 8, but 10 entries are committed"},
		{"all behind the applied entry is missing, and that too", func(t *testing.T, s *Store) {
			for i := uint64(5); i <= 10; i++ {
				drop(t, s, i)
			}
		}, "index 5 was applied, but the log ends before it"},
		{"an entry under another key", func(t *testing.T, s *Store) {
			v, err := s.get(logKey(nil, 1, 9))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.db.Set(logKey(nil, 1, 8), v, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}, "shard 1 index 8"},
		{"the hard state is missing", func(t *testing.T, s *Store) {
			if err := s.db.Delete(key(1, keyHard), pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}, "term 1 was applied, but the hard state has 0"},
		{"the hard state is older than the log", func(t *testing.T, s *Store) {
			if err := s.db.Set(logKey(nil, 1, 11), entry.AppendFrame(nil, 1, 11, 7, 0, nil), pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}, "the log has term 7, but the hard state has 1"},
		{"a frame that is cut off", func(t *testing.T, s *Store) {
			v := entry.AppendFrame(nil, 1, 8, 1, 0, nil)
			if err := s.db.Set(logKey(nil, 1, 8), v[:3], pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}, "shard 1 index 8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := damaged(t, 10, 5)
			defer s.Close()
			b := s.NewBatch()
			if err := b.Set(key(1, keyHard), appendUvs(nil, 1, 1, 10), nil); err != nil {
				t.Fatal(err)
			}
			if err := b.Commit(pebble.NoSync); err != nil {
				t.Fatal(err)
			}
			test.damage(t, s)
			_, err := s.OpenLog(1, 1)
			if !errors.Is(err, entry.ErrCorrupt) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("a flipped bit in history", func(t *testing.T) {
		s, _ := damaged(t, 10, 5)
		defer s.Close()
		flip(t, s, 3, 60)
		l := openLog(t, s)
		if e, err := l.Read(3); !errors.Is(err, entry.ErrCorrupt) || !strings.Contains(err.Error(), "shard 1 index 3") {
			t.Errorf("%v %v", e, err)
		}
		x := ask(s)
		if _, _, err := x.Entry(3); !errors.Is(err, entry.ErrCorrupt) || !strings.Contains(err.Error(), "shard 1 index 3") {
			t.Errorf("%v", err)
		}
		seen := 0
		err := Walk(x.Directory, 5, "", "k", []byte("a"), func(uint64, []entry.Record) bool { seen++; return true })
		if !errors.Is(err, entry.ErrCorrupt) || seen != 2 {
			t.Errorf("%v after %d entries", err, seen)
		}
		if _, data, err := x.Entry(4); err != nil || len(data) == 0 {
			t.Errorf("the entry beside it: %v", err)
		}
	})
}

// TestLaterFrameIsRefused: a frame of a format to come is told from a damaged one.
func TestLaterFrameIsRefused(t *testing.T) {
	s, _ := damaged(t, 2, 1)
	defer s.Close()
	v := entry.AppendFrame(nil, 1, 2, 1, 0, nil)
	v[0] = entry.FrameFormat + 1
	sum := crc32.MakeTable(crc32.Castagnoli)
	place := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 1), 2)
	v = binary.LittleEndian.AppendUint32(v[:len(v)-4], crc32.Update(crc32.Checksum(place, sum), sum, v[:len(v)-4]))
	if err := s.db.Set(logKey(nil, 1, 2), v, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenLog(1, 1); !errors.Is(err, entry.ErrTooNew) || !strings.Contains(err.Error(), "shard 1 index 2") {
		t.Errorf("%v", err)
	}
}

// TestFlippedBitInATable: damage that Pebble finds is an error of the read that met it; the process goes on, and so does
// all that is whole.
func TestFlippedBitInATable(t *testing.T) {
	s, mem := damaged(t, 200, 200)
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := mem.List("data")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			flipInFile(t, mem, "data/"+name, 5000) // the first block has the identity of the store
		}
	}
	s, err = Open(Options{Dir: "data", FS: mem, CacheBytes: 1 << 20, Fatal: func(msg string) { t.Errorf("the store stops: %s", msg) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	x := ask(s)
	bad := 0
	for i := uint64(1); i <= 200; i++ {
		if _, data, err := x.Entry(i); err != nil {
			bad++
			if data != nil || !strings.Contains(err.Error(), fmt.Sprintf("shard 1 index %d", i)) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%d bytes, %v", len(data), err)
			}
		}
	}
	if bad == 0 || bad == 200 {
		t.Errorf("%d of 200 entries cannot be read", bad)
	}
}

// flipInFile turns a bit of the byte at an offset of a file around.
func flipInFile(t *testing.T, mem *vfs.MemFS, name string, at int64) {
	t.Helper()
	f, err := mem.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	whole[at] ^= 1
	f, err = mem.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(whole); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEveryFlippedBitIsFound: whichever bit of a stored entry is flipped, it is not served.
func TestEveryFlippedBitIsFound(t *testing.T) {
	s, _ := damaged(t, 2, 2)
	defer s.Close()
	x := ask(s)
	whole, err := s.get(logKey(nil, 1, 1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(whole) {
		v := bytes.Clone(whole)
		v[i/8] ^= 1 << (i % 8)
		if err := s.db.Set(logKey(nil, 1, 1), v, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if _, _, err := x.Entry(1); !errors.Is(err, entry.ErrCorrupt) {
			t.Fatalf("bit %d: %v", i, err)
		}
	}
}

// TestTornTail: what was not synced may be gone after a crash; what was, is there, and the log opens.
func TestTornTail(t *testing.T) {
	for percent := 0; percent <= 100; percent += 25 {
		t.Run(fmt.Sprintf("%d%% of the unsynced data survive", percent), func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			s := openStore(t, fs)
			l := openLog(t, s)
			for i := uint64(1); i <= 40; i++ {
				b := s.NewBatch()
				if err := l.Append(b, []*raftpb.Entry{raftEntry(i, 1, "")}); err != nil {
					t.Fatal(err)
				}
				if err := l.SetHard(b, 1, 1, i-1); err != nil {
					t.Fatal(err)
				}
				opts := pebble.NoSync
				if i == 20 {
					opts = pebble.Sync
				}
				if err := b.Commit(opts); err != nil {
					t.Fatal(err)
				}
			}
			crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: newRand(uint64(percent))})
			defer s.Close()
			after := openStore(t, crashed)
			defer after.Close()
			if last, _ := openLog(t, after).LastIndex(); last < 20 {
				t.Errorf("the log ends at %d; 20 entries were synced", last)
			}
		})
	}
}
