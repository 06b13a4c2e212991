package persistence

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/persistence/entry"
)

// dataEntry is an entry of one record that says which entry it is.
func dataEntry(index, term uint64, h entry.Header) *raftpb.Entry {
	var b entry.Builder
	b.Reset(int64(index))
	b.Append(&entry.Record{Type: entry.Session, Producer: fmt.Sprintf("p%d", index), Epoch: 1, Time: int64(index)})
	return raftEntry(index, term, string(b.Close(h)))
}

// TestCommittedAgreesWithApply: whatever a log holds, what is read of it is what had an effect when it was applied, from
// every place on, in pages of any size, and up to any index.
func TestCommittedAgreesWithApply(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(Options{Dir: "data", FS: vfs.NewMem(), Shards: 1, CacheBytes: 1 << 20})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		x, err := s.OpenIndex(1, 1)
		if err != nil {
			rt.Fatal(err)
		}
		b := s.NewBatch()
		places := []Place{x.Place()}
		var effective []uint64
		for i := range uint64(rapid.IntRange(1, 20).Draw(rt, "entries")) {
			index, term := i+1, 1+i/4
			h := entry.Header{Lineage: 1, Term: term, Index: index, Previous: x.LastData()}
			e := raftEntry(index, term, "")
			switch rapid.SampledFrom([]string{"empty", "data", "data", "data", "term", "index", "previous", "lineage"}).Draw(rt, "entry") {
			case "empty":
			case "term":
				h.Term--
				e = dataEntry(index, term, h)
			case "index":
				h.Index++
				e = dataEntry(index, term, h)
			case "previous":
				h.Previous++
				e = dataEntry(index, term, h)
			case "lineage":
				h.Lineage++
				e = dataEntry(index, term, h)
			default:
				e = dataEntry(index, term, h)
			}
			if err := b.Set(logKey(nil, 1, index), entry.AppendFrame(nil, 1, index, term, byte(e.GetType()), e.GetData()), nil); err != nil {
				rt.Fatal(err)
			}
			switch err := x.Apply(e, nil); {
			case err == nil && len(e.GetData()) > 0:
				effective = append(effective, index)
			case err != nil && !errors.Is(err, ErrFenced):
				rt.Fatal(err)
			}
			places = append(places, x.Place())
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			rt.Fatal(err)
		}
		from := rapid.IntRange(0, len(places)-1).Draw(rt, "from")
		upto := rapid.IntRange(from, len(places)-1).Draw(rt, "upto")
		at, max := places[from], rapid.IntRange(1, 200).Draw(rt, "bytes")
		var got []uint64
		for at.Index < uint64(upto) {
			before := at
			var entries []*entry.Reader
			if entries, at, err = s.Committed(1, at, uint64(upto), max); err != nil {
				rt.Fatal(err)
			}
			if at.Index <= before.Index || at != places[at.Index] {
				rt.Fatalf("from %+v to %+v, want %+v", before, at, places[at.Index])
			}
			for _, r := range entries {
				var rec entry.Record
				if _, err := r.Next(&rec); err != nil || rec.Producer != fmt.Sprintf("p%d", r.Header.Index) {
					rt.Fatal(err, rec.Producer, r.Header)
				}
				got = append(got, r.Header.Index)
			}
		}
		var want []uint64
		for _, index := range effective {
			if index > uint64(from) && index <= uint64(upto) {
				want = append(want, index)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			rt.Fatalf("read %v, applied with effect %v", got, want)
		}
	})
}

// TestCommittedNamesDamage: what cannot be read is told with its shard and index, behind all that is before it.
func TestCommittedNamesDamage(t *testing.T) {
	for name, hurt := range map[string]func(*Store) error{
		"flipped bit": func(s *Store) error {
			v, err := s.get(logKey(nil, 1, 4))
			if err != nil {
				return err
			}
			v[20] ^= 1
			return s.db.Set(logKey(nil, 1, 4), v, nil)
		},
		"missing": func(s *Store) error { return s.db.Delete(logKey(nil, 1, 4), nil) },
		"missing at the end": func(s *Store) error {
			return s.db.DeleteRange(logKey(nil, 1, 4), logKey(nil, 1, 100), nil)
		},
		"of another place": func(s *Store) error {
			v, err := s.get(logKey(nil, 1, 3))
			if err != nil {
				return err
			}
			return s.db.Set(logKey(nil, 1, 4), v, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := damaged(t, 6, 6)
			defer s.Close()
			if err := hurt(s); err != nil {
				t.Fatal(err)
			}
			entries, at, err := s.Committed(1, Place{Lineage: 1}, 6, 1<<20)
			var where *EntryError
			if len(entries) != 3 || at != (Place{1, 3, 3}) || !errors.As(err, &where) || where.Shard != 1 || where.Index != 4 ||
				!errors.Is(err, entry.ErrCorrupt) || !strings.HasPrefix(err.Error(), "shard 1 index 4: ") {
				t.Errorf("%d entries, %+v, %v", len(entries), at, err)
			}
		})
	}
}
