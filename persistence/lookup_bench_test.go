package persistence

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/granary-dev/granary/persistence/entry"
)

// How a grain's records are found again (docs/adr/0002): by a key for each record, or by a head key and back pointers.
//
//	go test ./persistence -run '^$' -bench Lookup -benchtime 2000000x -grains 10000000 -count 5
var benchGrains = flag.Int("grains", 1_000_000, "grains of the lookup benchmarks, drawn uniformly")

const benchRecords = 200 // in one entry

// lookupStore is a shard that takes in records of random grains by one of the two ways.
type lookupStore struct {
	b     *testing.B
	store *Store
	log   *Log
	index *Index
	keys  bool
	seqs  map[uint32]uint64
	last  map[uint32]uint64
	back  map[uint32]uint64
	next  uint64
	rnd   *rand.Rand
	out   entry.Builder
	load  []byte
}

func newLookupStore(b *testing.B, keys bool) *lookupStore {
	s, err := Open(Options{Dir: b.TempDir(), Shards: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	l, err := s.OpenLog(1, 1)
	if err != nil {
		b.Fatal(err)
	}
	x, err := s.OpenIndex(1, 1)
	if err != nil {
		b.Fatal(err)
	}
	return &lookupStore{b: b, store: s, log: l, index: x, keys: keys, seqs: map[uint32]uint64{}, last: map[uint32]uint64{}, back: map[uint32]uint64{}, next: 1,
		rnd: rand.New(rand.NewPCG(1, 2)), load: make([]byte, 60)}
}

func grainName(g uint32) []byte { return fmt.Appendf(nil, "card-%010d", g) }

// entry takes in one entry of n records and writes what finds them again.
func (s *lookupStore) entry(n int) {
	s.out.Reset(int64(s.next))
	var derived *pebble.Batch
	if s.keys {
		derived = s.store.NewBatch()
	}
	for range n {
		g := uint32(s.rnd.IntN(*benchGrains))
		s.seqs[g]++
		rec := entry.Record{Type: entry.Input, Kind: "account", Key: grainName(g), Seq: s.seqs[g], Time: int64(s.next), Event: "granary.account.v1.Charged", Logic: 1, Payload: s.load}
		if s.last[g] != s.next && s.last[g] != 0 {
			s.back[g] = s.next - s.last[g]
		}
		rec.Back, s.last[g] = s.back[g], s.next
		ordinal := s.out.Append(&rec)
		if s.keys {
			k := append(key(1, 0x70), grainName(g)...)
			k = binary.BigEndian.AppendUint64(k, s.seqs[g])
			if err := derived.Set(k, appendUvs(nil, s.next, uint64(ordinal)), nil); err != nil {
				s.b.Fatal(err)
			}
		}
	}
	data := s.out.Close(entry.Header{Lineage: 1, Term: 1, Index: s.next, Previous: s.next - 1})
	term, typ, index := uint64(1), raftpb.EntryNormal, s.next
	e := &raftpb.Entry{Term: &term, Index: &index, Type: &typ, Data: data}
	batch := s.store.NewBatch()
	if err := s.log.Append(batch, []*raftpb.Entry{e}); err != nil {
		s.b.Fatal(err)
	}
	s.log.Applied(index)
	if err := batch.Commit(pebble.NoSync); err != nil { // the sync is the same for both
		s.b.Fatal(err)
	}
	if s.keys {
		if err := derived.Commit(pebble.NoSync); err != nil {
			s.b.Fatal(err)
		}
	} else {
		if err := s.index.Apply(e, nil); err != nil {
			s.b.Fatal(err)
		}
		if records, _ := s.index.Pending(); records >= 16<<10 {
			if err := s.index.Checkpoint(0, 0); err != nil {
				s.b.Fatal(err)
			}
		}
	}
	s.next++
}

func lookups(b *testing.B, fn func(b *testing.B, keys bool)) {
	b.Run("way=keys", func(b *testing.B) { fn(b, true) })
	b.Run("way=heads", func(b *testing.B) { fn(b, false) })
}

// BenchmarkLookupIngest measures a record's share of writing the log and what finds it again.
func BenchmarkLookupIngest(b *testing.B) {
	lookups(b, func(b *testing.B, keys bool) {
		s := newLookupStore(b, keys)
		b.ResetTimer()
		for done := 0; done < b.N; done += benchRecords {
			s.entry(benchRecords)
		}
		b.StopTimer()
		m := s.store.Metrics()
		b.ReportMetric(float64(m.DiskSpaceUsage())/float64(b.N), "disk-B/op")
		total := m.Total()
		b.ReportMetric(float64(total.TableBytesFlushed+total.TableBytesCompacted)/float64(b.N), "written-B/op")
	})
}

// BenchmarkLookupActivate measures finding and reading all records of a random grain in a store of 2 M records.
func BenchmarkLookupActivate(b *testing.B) {
	lookups(b, func(b *testing.B, keys bool) {
		s := newLookupStore(b, keys)
		for range 2_000_000 / benchRecords {
			s.entry(benchRecords)
		}
		var known []uint32
		for g := range s.seqs {
			if known = append(known, g); len(known) == 100_000 {
				break
			}
		}
		if !keys {
			if err := s.index.Checkpoint(0, 0); err != nil {
				b.Fatal(err)
			}
		}
		b.ResetTimer()
		records := 0
		for i := range b.N {
			name := grainName(known[i%len(known)])
			var got uint64
			if keys {
				got = s.byKeys(name)
			} else {
				h, err := s.index.Head(AppendGrain(nil, "", "account", name))
				if err != nil {
					b.Fatal(err)
				}
				if err := Walk(s.index.Directory, h.Last, "", "account", name, func(_ uint64, r []entry.Record) bool {
					got += uint64(len(r))
					return true
				}); err != nil {
					b.Fatal(err)
				}
			}
			if want := s.seqs[known[i%len(known)]]; got != want {
				b.Fatalf("%s: %d records found, %d are there", name, got, want)
			}
			records += int(got)
		}
		b.ReportMetric(float64(records)/float64(b.N), "records/op")
	})
}

func (s *lookupStore) byKeys(name []byte) (n uint64) {
	prefix := append(key(1, 0x70), name...)
	var places []uint64
	if err := s.index.scan(prefix, func(_, v []byte) error {
		f := values{buf: v}
		places = append(places, f.uv(), f.uv())
		return nil
	}); err != nil {
		s.b.Fatal(err)
	}
	for i := 0; i < len(places); i += 2 {
		_, data, err := s.index.Entry(places[i])
		if err != nil {
			s.b.Fatal(err)
		}
		r, err := entry.Open(data)
		if err != nil {
			s.b.Fatal(err)
		}
		var rec entry.Record
		if err := r.Skip(int(places[i+1])); err != nil {
			s.b.Fatal(err)
		}
		if _, err := r.Next(&rec); err != nil {
			s.b.Fatal(err)
		}
		n++
	}
	return n
}
