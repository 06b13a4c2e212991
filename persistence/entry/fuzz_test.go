package entry_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/granary-dev/granary/persistence/entry"
)

// known tells whether an error is one of the two that bytes may cause.
func known(err error) bool {
	return errors.Is(err, entry.ErrCorrupt) || errors.Is(err, entry.ErrTooNew)
}

// FuzzFrame reads any bytes as a frame with a right CRC.
func FuzzFrame(f *testing.F) {
	f.Add(uint64(5), uint64(300), []byte{1, 0, 9})
	f.Add(uint64(5), uint64(300), []byte{1, 2, 0xff, 0xff, 3, 'd', 'a', 't', 'a'})
	f.Add(uint64(1), uint64(1), []byte{2, 0, 9})
	f.Add(uint64(0), uint64(0), []byte{})
	for _, g := range goldens() {
		b := g.encode()
		f.Add(g.shard, g.index, b[:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, shard, index uint64, body []byte) {
		if _, _, _, err := entry.Frame(shard, index, body); err != nil && !known(err) {
			t.Fatal(err)
		}
		value := raw(bytes.Clone(body)).sum(shard, index)
		term, raftType, data, err := entry.Frame(shard, index, value)
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		again := entry.AppendFrame(nil, shard, index, term, raftType, data)
		term2, raftType2, data2, err := entry.Frame(shard, index, again)
		if err != nil || term2 != term || raftType2 != raftType || !bytes.Equal(data2, data) {
			t.Fatalf("written again it reads otherwise: %v", err)
		}
	})
}

// again writes what was read and reads it once more: it must be the same.
func again(t *testing.T, h entry.Header, records []entry.Record) {
	data := write(h, records)
	h2, records2, err := readAll(data)
	h.Feature = entry.FeatureLevel
	if err != nil || h2 != h {
		t.Fatalf("written again: %v\n got %+v\nwant %+v", err, h2, h)
	}
	if !reflect.DeepEqual(plain(records2), plain(records)) {
		t.Fatalf("written again it reads otherwise:\n got %+v\nwant %+v", records2, records)
	}
	if third := write(h2, records2); !bytes.Equal(third, data) {
		t.Fatal("the third writing differs from the second")
	}
}

// FuzzEntry reads any bytes as an entry with a right CRC.
func FuzzEntry(f *testing.F) {
	for _, g := range goldens() {
		b := write(g.header, g.records)
		f.Add(b[:len(b)-4])
	}
	f.Add([]byte(head(1, 0, 0, 0, 0).uv(0, 0)))
	f.Add([]byte(head(1, 0, 0, 0, 1).uv(1).text("").uv(1).uv(4).b(1, 2, 0, 0)))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, _, err := readAll(body); err != nil && !known(err) {
			t.Fatal(err)
		}
		if d, err := entry.NewDirectory(raw(bytes.Clone(body)).sum()); err == nil {
			for i := range 256 { // whatever key the first record has, it may not be readable
				if _, err := d.Records(nil, "", "account", []byte{byte(i)}); err != nil && !known(err) {
					t.Fatal(err)
				}
			}
		}
		h, records, err := readAll(raw(bytes.Clone(body)).sum())
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		again(t, h, records)
		d, err := entry.NewDirectory(raw(bytes.Clone(body)).sum())
		if err != nil {
			t.Fatalf("what can be read has no directory: %v", err)
		}
		for _, rec := range records {
			found, err := d.Records(nil, rec.Tenant, rec.Kind, rec.Key)
			if err != nil || !slices.ContainsFunc(found, func(f entry.Record) bool { return f.Ordinal == rec.Ordinal }) {
				t.Fatalf("record %d is not found: %v", rec.Ordinal, err)
			}
		}
	})
}

// FuzzRecord reads any bytes as the one record of an entry.
func FuzzRecord(f *testing.F) {
	for _, records := range [][]entry.Record{fullRecords(), usualRecords()} {
		for _, rec := range records {
			var b entry.Builder
			b.Reset(rec.Time)
			b.Append(&rec)
			data := b.Close(entry.Header{})
			body := data[len(data)-4-b.Size() : len(data)-4] // the last thing in the entry: length and record
			_, n := binary.Uvarint(body)
			f.Add(body[n:])
		}
	}
	f.Add([]byte{1, 0})
	f.Add([]byte(raw{1}.uv(1<<20).uv(2).b(1, 0, 4, 0)))
	f.Add([]byte(raw{1}.uv(1<<9).uv(1, 5)))
	f.Fuzz(func(t *testing.T, body []byte) {
		h, records, err := readAll(entryOf(body))
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		if len(records) != 1 {
			t.Fatalf("%d records", len(records))
		}
		again(t, h, records)
	})
}
