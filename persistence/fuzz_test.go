package persistence

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/granary-dev/granary/persistence/entry"
)

// known tells whether an error is one of the two that stored bytes may cause.
func known(err error) bool {
	return errors.Is(err, entry.ErrCorrupt) || errors.Is(err, entry.ErrTooNew)
}

// snapshotEntry is an entry with a usual record, and a state in so many chunks behind it.
func snapshotEntry(state []byte, chunks int) []byte {
	var b entry.Builder
	b.Reset(1_700_000_000_000_000)
	b.Append(&entry.Record{Type: entry.Input, Kind: "k", Key: []byte("a"), Seq: 7, Event: "e", Time: 1_700_000_000_000_000, Payload: []byte("p")})
	for i := range chunks {
		from, to := i*len(state)/chunks, (i+1)*len(state)/chunks
		b.Append(&entry.Record{Type: entry.Snapshot, Kind: "k", Key: []byte("a"), Seq: 7, Time: 1_700_000_000_000_000, Logic: 3, Payload: state[from:to],
			Snapshot: entry.SnapshotMeta{Chunk: uint32(i + 1), Chunks: uint32(chunks), Digest: xxhash.Sum64(state)}})
	}
	return b.Close(entry.Header{Lineage: 1, Term: 2})
}

// read reads the snapshot at an ordinal of an entry.
func readSnapshot(data []byte, ordinal uint32) (entry.Record, []byte, error) {
	return ReadSnapshot(func(uint64) (*entry.Directory, error) { return entry.NewDirectory(data) }, SnapshotPointer{Index: 9, Ordinal: ordinal})
}

// FuzzSnapshot reads any bytes as an entry with a right CRC in which a snapshot begins at any record: there is a state that
// fits its digest, and can be written and read again, or an error that says which of the two it is.
func FuzzSnapshot(f *testing.F) {
	for chunks := range 4 {
		data := snapshotEntry([]byte("the state of a grain"), chunks+1)
		f.Add(data[:len(data)-4], uint32(1))
		f.Add(data[:len(data)-4], uint32(2))
	}
	one := snapshotEntry(nil, 1)
	f.Add(one[:len(one)-4], uint32(1))
	f.Add(one[:len(one)-4], uint32(0))
	f.Add([]byte{}, uint32(0))
	f.Fuzz(func(t *testing.T, body []byte, ordinal uint32) {
		data := binary.LittleEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
		first, state, err := readSnapshot(data, ordinal)
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		if first.Type != entry.Snapshot || first.Snapshot.Digest != xxhash.Sum64(state) {
			t.Fatalf("a state that does not fit: %+v", first)
		}
		if _, again, err := readSnapshot(snapshotEntry(state, 3), 1); err != nil || !bytes.Equal(again, state) {
			t.Fatalf("written again: %v, %d bytes of %d", err, len(again), len(state))
		}
	})
}

// FuzzDerived reads any bytes as the value of each derived key that is decoded by a function of its own.
func FuzzDerived(f *testing.F) {
	state := appendUvs(nil, 70, 3, 64, 9, 2, 5)
	state = append(state, "state"...)
	f.Add(binary.LittleEndian.AppendUint64(state, stateDigest(70, []byte("state"))))
	f.Add(state)
	f.Add(appendUvs(nil, 7, 12, 1_700_000_000_000_000))                       // a head
	f.Add(appendUvs(nil, 3, 500, 1_700_000_000_000_000, 2, 400, 10, 500, 12)) // a producer
	f.Add(appendUvs(nil, 3, 500, 1_700_000_000_000_000, 1<<63))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		if h, err := decodeHead(value); err != nil && !known(err) {
			t.Fatal(err)
		} else if again, err2 := decodeHead(appendUvs(nil, h.Seq, h.Last, uint64(h.Time))); err == nil && (err2 != nil || again != h) {
			t.Fatalf("head %+v is %+v when written again: %v", h, again, err2)
		}
		p, err := decodeProducer(value)
		if err != nil && !known(err) {
			t.Fatal(err)
		}
		if err == nil && 2*len(p.Recent) > len(value) {
			t.Fatalf("%d runs out of %d bytes", len(p.Recent), len(value))
		}
		if err == nil {
			p.Find(p.Watermark)
		}
		if d, err := decodeDead(value); err != nil && !known(err) {
			t.Fatal(err)
		} else if again, err2 := decodeDead(appendUvs(nil, d.index, uint64(d.ordinal), uint64(d.time))); err == nil && (err2 != nil || again != d) {
			t.Fatalf("dead %+v is %+v when written again: %v", d, again, err2)
		}
		s, err := decodeState(value)
		if err != nil && !known(err) {
			t.Fatal(err)
		}
		if err == nil && binary.LittleEndian.Uint64(value[len(value)-8:]) != stateDigest(s.Seq, s.Data) {
			t.Fatalf("a state that does not fit: %+v", s)
		}
	})
}
