package persistence

import (
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/persistence/entry"
)

// directory returns an entry whose payload has so many bytes.
func directory(t *testing.T, bytes int) *entry.Directory {
	t.Helper()
	var b entry.Builder
	b.Reset(1)
	b.Append(&entry.Record{Type: entry.Input, Kind: "k", Key: []byte("a"), Seq: 1, Time: 1, Payload: make([]byte, bytes)})
	d, err := entry.NewDirectory(b.Close(entry.Header{Lineage: 1, Term: 1, Index: 1}))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestOpenedIsBounded: what is kept opened stays below the limit, and it is the newest; what nobody asks for is given back.
func TestOpenedIsBounded(t *testing.T) {
	small := directory(t, 1000)
	o := opened{limit: 10 * small.Size()}
	kept := func(want ...uint64) {
		t.Helper()
		size := 0
		for _, index := range want {
			if o.entries[index] == nil {
				t.Fatalf("entry %d is not kept; kept are %v, want %v", index, o.order, want)
			}
			size += o.entries[index].Size()
		}
		if len(o.entries) != len(want) || !slices.Equal(o.order, want) || o.bytes != size {
			t.Fatalf("kept are %v with %d bytes counted, want %v with %d", o.order, o.bytes, want, size)
		}
	}
	for index := range uint64(1000) {
		o.put(index, small)
	}
	kept(990, 991, 992, 993, 994, 995, 996, 997, 998, 999)
	o.put(1000, directory(t, 5*small.Size()))
	kept(996, 997, 998, 999, 1000)
	o.put(1001, directory(t, 50*small.Size()))
	kept(1001) // larger than all the room, and still the one that is being read
	o.put(1002, small)
	kept(1002)
	o.rest()
	kept(1002) // it was used since the last time
	o.rest()
	kept()
	if o.put(1, small); o.limit == 0 || len(o.entries) != 1 {
		t.Fatalf("after a rest the limit is %d and %d entries are kept", o.limit, len(o.entries))
	}
}

// TestOpenedIsSharedByShards: the room of a node is divided among its shards.
func TestOpenedIsSharedByShards(t *testing.T) {
	for _, shards := range []int{1, 256} {
		s, err := Open(Options{Dir: "data", FS: vfs.NewMem(), Shards: shards, CacheBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		x, err := s.OpenIndex(1, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got := x.opened.limit * shards; got != 128<<20 {
			t.Errorf("%d shards may keep %d bytes opened together, want 128 MiB", shards, got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
