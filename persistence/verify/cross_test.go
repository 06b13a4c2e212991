package verify

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/granary-dev/granary/persistence/entry"
)

// These tests, and only they, know both readers: what package entry writes must be read here as it was meant, and what
// is made here by the documentation must be read there.

// seen is a record as this package read it, in the words of package entry.
func seen(r *record) entry.Record {
	out := entry.Record{
		Type: entry.Type(r.kindOf), Ordinal: r.ordinal, Tenant: r.tenant, Kind: r.kind, Key: r.key, Seq: r.seq, Back: r.back, Time: r.time,
		Event: r.event, EventTime: r.eventTime, Source: r.source, ID: r.id, Producer: r.producer, Epoch: r.epoch, Sequence: r.sequence,
		Cause:  entry.Position{Lineage: r.cause.lineage, Index: r.cause.index, Ordinal: r.cause.ordinal},
		Sender: entry.Sender{Shard: r.sender.shard, Effect: r.sender.effect, Kind: r.sender.kind, Key: r.sender.key},
		Hops:   r.hops, Trace: r.trace, Schema: r.schema, Logic: uint32(r.logic), Digest: r.digest, Payload: r.payload, Reply: r.reply,
		Expiry: r.expiry, StateAfter: r.after, Reason: r.reason, Timer: r.timer,
		Snapshot: entry.SnapshotMeta{Chunk: r.snap.chunk, Chunks: r.snap.chunks, Codec: r.snap.codec, Key: r.snap.key, Digest: r.snap.digest},
	}
	for _, h := range r.headers {
		out.Headers = append(out.Headers, entry.Attribute{Name: h[0], Value: h[1]})
	}
	for _, e := range r.effects {
		out.Effects = append(out.Effects, entry.Effect{Type: entry.EffectType(e.kindOf), Kind: e.kind, Key: e.key, Event: e.event,
			Payload: e.payload, Due: int64(e.due), Timer: e.timer, Stream: e.stream, Token: e.token, Every: int64(e.every)})
	}
	for _, m := range r.snap.reminders {
		out.Snapshot.Reminders = append(out.Snapshot.Reminders, entry.Reminder{ID: m.timer, Due: int64(m.due), Event: m.event, Payload: m.payload})
	}
	for i, id := range r.extensions {
		out.Extensions = append(out.Extensions, entry.Extension{ID: id, Data: r.extensionPayload[i]})
	}
	return out
}

// clean copies a record so that it owns its bytes and has nil for what is empty.
func clean(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			clean(v.Field(i))
		}
	case reflect.Slice:
		if v.Len() == 0 {
			v.SetZero()
			return
		}
		own := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(own, v)
		v.Set(own)
		for i := range v.Len() {
			clean(v.Index(i))
		}
	}
}

// readHere reads a frame with this package.
func readHere(shard, index uint64, value []byte) (f frame, h header, records []entry.Record, digests []uint64, err error) {
	if f, err = readFrame(shard, index, value); err != nil {
		return
	}
	err = readEntry(f.data, func(x header) bool { h = x; return true }, func(r *record) bool {
		rec := seen(r)
		clean(reflect.ValueOf(&rec).Elem())
		records, digests = append(records, rec), append(digests, r.outcome())
		return true
	})
	return
}

// readThere reads a frame with package entry.
func readThere(shard, index uint64, value []byte) (h entry.Header, records []entry.Record, err error) {
	_, _, data, err := entry.Frame(shard, index, value)
	if err != nil {
		return h, nil, err
	}
	r, err := entry.Open(data)
	if err != nil {
		return h, nil, err
	}
	for {
		var rec entry.Record
		more, err := r.Next(&rec)
		if err != nil || !more {
			return r.Header, records, err
		}
		clean(reflect.ValueOf(&rec).Elem())
		records = append(records, rec)
	}
}

// draw fills a record with anything that can be written.
func draw(t *rapid.T, base int64) entry.Record {
	var rec entry.Record
	var fill func(v reflect.Value, path string)
	fill = func(v reflect.Value, path string) {
		if rapid.IntRange(0, 2).Draw(t, path+"?") == 0 {
			return
		}
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		case reflect.Slice:
			if v.Type().Elem().Kind() == reflect.Uint8 {
				v.SetBytes(rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, path))
				return
			}
			v.Set(reflect.MakeSlice(v.Type(), rapid.IntRange(1, 3).Draw(t, path), 3))
			for i := range v.Len() {
				fill(v.Index(i), path+"[]")
			}
		case reflect.String:
			v.SetString(rapid.SampledFrom([]string{"a", "account", "x.Y"}).Draw(t, path))
		case reflect.Int64:
			v.SetInt(rapid.Int64Range(0, math.MaxInt64).Draw(t, path))
		case reflect.Uint32:
			v.SetUint(uint64(rapid.Uint32().Draw(t, path)))
		case reflect.Uint64:
			v.SetUint(rapid.Uint64().Draw(t, path))
		}
	}
	fill(reflect.ValueOf(&rec).Elem(), "record")
	rec.Type = entry.Type(rapid.IntRange(1, 10).Draw(t, "type"))
	rec.Time = base + rapid.Int64Range(0, 1<<50).Draw(t, "time")
	rec.Ordinal = 0
	for i := range rec.Effects {
		e := &rec.Effects[i]
		if e.Type = entry.EffectType(rapid.IntRange(1, 4).Draw(t, "effect")); e.Kind == "" {
			e.Key = nil
		}
	}
	for i := range rec.Extensions {
		rec.Extensions[i].ID &^= 1
	}
	// parts of a field whose deciding part is zero are not written
	if rec.Kind == "" {
		rec.Key = nil
	}
	if rec.Producer == "" {
		rec.Epoch = 0
	}
	if rec.Cause.Index == 0 {
		rec.Cause = entry.Position{}
	}
	if rec.Sender.Kind == "" {
		rec.Sender = entry.Sender{}
	}
	if rec.Snapshot.Chunk == 0 {
		rec.Snapshot = entry.SnapshotMeta{}
	}
	clean(reflect.ValueOf(&rec).Elem())
	return rec
}

// TestReadersAgree: what package entry writes is read here as it was meant, digest included.
func TestReadersAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Int64Range(0, 1<<52).Draw(t, "base")
		h := entry.Header{Feature: 1, Lineage: rapid.Uint64().Draw(t, "lineage"), Term: rapid.Uint64().Draw(t, "term"),
			Index: rapid.Uint64().Draw(t, "index"), Previous: rapid.Uint64().Draw(t, "previous"), TimeBase: base}
		var b entry.Builder
		b.Reset(base)
		var want []entry.Record
		for i := range rapid.IntRange(0, 4).Draw(t, "records") {
			rec := draw(t, base)
			b.Append(&rec)
			rec.Ordinal = uint32(i)
			want = append(want, rec)
		}
		shard, index, term := rapid.Uint64().Draw(t, "shard"), rapid.Uint64().Draw(t, "place"), rapid.Uint64().Draw(t, "raft term")
		value := entry.AppendFrame(nil, shard, index, term, byte(rapid.IntRange(0, 2).Draw(t, "raft type")), b.Close(h))
		f, got, records, digests, err := readHere(shard, index, value)
		if err != nil {
			t.Fatal(err)
		}
		if f.term != term || got.lineage != h.Lineage || got.term != h.Term || got.index != h.Index || got.previous != h.Previous || got.base != base || got.feature != 1 {
			t.Fatalf("header %+v, want %+v", got, h)
		}
		if !reflect.DeepEqual(records, want) {
			t.Fatalf("records\n got %+v\nwant %+v", records, want)
		}
		for i := range want {
			if digests[i] != want[i].OutcomeDigest() {
				t.Fatalf("digest of record %d is %x there, %x here", i, want[i].OutcomeDigest(), digests[i])
			}
		}
	})
}

// TestReadersAgreeOnDocumentedBytes: what the tests of this package write by the documentation, package entry reads.
func TestReadersAgreeOnDocumentedBytes(t *testing.T) {
	w := rich(t).fill()
	for id, s := range w.shards {
		for _, e := range s.entries {
			if e.empty {
				continue
			}
			h, records, err := readThere(id, e.index, e.frame(id))
			if err != nil {
				t.Fatal(err)
			}
			if h.Lineage != id || h.Index != e.index || len(records) != len(e.records) {
				t.Fatalf("%+v with %d records, want %d", h, len(records), len(e.records))
			}
			for i, r := range e.records {
				want := seen(r)
				clean(reflect.ValueOf(&want).Elem())
				if !reflect.DeepEqual(records[i], want) {
					t.Fatalf("record\n got %+v\nwant %+v", records[i], want)
				}
				if records[i].Digest != records[i].OutcomeDigest() {
					t.Fatalf("digest %x, there %x", records[i].Digest, records[i].OutcomeDigest())
				}
			}
		}
	}
}

// TestReadersAgreeOnRefusals: bytes that one of the readers refuses, the other does not take either. The bytes are right
// ones with something in them changed, and all checksums made to fit.
func TestReadersAgreeOnRefusals(t *testing.T) {
	var b entry.Builder
	rapid.Check(t, func(t *rapid.T) {
		b.Reset(100)
		rec := draw(t, 100)
		b.Append(&rec)
		data := b.Close(entry.Header{Index: 3, TimeBase: 100})
		body := data[:len(data)-4]
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			body[rapid.IntRange(0, len(body)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		}
		value := entry.AppendFrame(nil, 1, 3, 1, 0, withCRC(body))
		_, _, here, _, errHere := readHere(1, 3, value)
		_, there, errThere := readThere(1, 3, value)
		if (errHere == nil) != (errThere == nil) {
			t.Fatalf("here: %v\nthere: %v", errHere, errThere)
		}
		if errHere == nil && !reflect.DeepEqual(here, there) {
			t.Fatalf("records\n here %+v\nthere %+v", here, there)
		}
	})
}

// TestGoldenFiles: the released forms are read here too.
func TestGoldenFiles(t *testing.T) {
	files, err := filepath.Glob("../entry/testdata/golden/*.golden")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v %v", files, err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var shard, index, term uint64
		var kind byte
		if _, err := fmt.Sscanf(string(text), "frame  shard %d, index %d, term %d, type %d\n", &shard, &index, &term, &kind); err != nil {
			t.Fatal(err)
		}
		described, dump, _ := strings.Cut(string(text), "\nbytes\n")
		value, err := hex.DecodeString(strings.ReplaceAll(dump, "\n", ""))
		if err != nil {
			t.Fatal(err)
		}
		f, _, records, _, err := readHere(shard, index, value)
		if f.term != term || f.kind != kind {
			t.Errorf("%s: frame %+v", path, f)
		}
		if strings.Contains(described, "refused by this version") {
			if err == nil || !strings.Contains(err.Error(), "written by a later version") {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		_, there, err := readThere(shard, index, value)
		if err != nil || !reflect.DeepEqual(records, there) {
			t.Errorf("%s: %v\n here %+v\nthere %+v", path, err, records, there)
		}
		if n := strings.Count(described, "\nrecord "); n != len(records) {
			t.Errorf("%s describes %d records, read were %d", path, n, len(records))
		}
	}
}

// FuzzReaders reads any bytes as a frame, with checksums that fit, with both readers.
func FuzzReaders(f *testing.F) {
	for _, e := range rich(f).fill().shards[1].entries {
		if data := e.data(); !e.empty && e.index < 15 {
			f.Add(data[:len(data)-4])
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		value := entry.AppendFrame(nil, 1, 3, 1, 0, withCRC(bytes.Clone(body)))
		_, _, here, _, errHere := readHere(1, 3, value)
		_, there, errThere := readThere(1, 3, value)
		if (errHere == nil) != (errThere == nil) {
			t.Fatalf("here: %v\nthere: %v", errHere, errThere)
		}
		if errHere == nil && !reflect.DeepEqual(here, there) {
			t.Fatalf("records\n here %+v\nthere %+v", here, there)
		}
	})
}
