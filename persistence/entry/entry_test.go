package entry_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/granary-dev/granary/persistence/entry"
)

// raw writes bytes by the documentation alone, so that the tests can make what the package itself never would.
type raw []byte

func (r raw) uv(vs ...uint64) raw {
	for _, v := range vs {
		r = binary.AppendUvarint(r, v)
	}
	return r
}

func (r raw) b(bs ...byte) raw { return append(r, bs...) }

func (r raw) text(ss ...string) raw {
	for _, s := range ss {
		r = append(r.uv(uint64(len(s))), s...)
	}
	return r
}

func (r raw) fixed(v uint64) raw { return binary.LittleEndian.AppendUint64(r, v) }

// sum appends the CRC over what stands in front of it, and the place in the log where there is one.
func (r raw) sum(place ...uint64) raw {
	var p []byte
	for _, v := range place {
		p = binary.BigEndian.AppendUint64(p, v)
	}
	return binary.LittleEndian.AppendUint32(r, crc32.Checksum(append(p, r...), crc32.MakeTable(crc32.Castagnoli)))
}

// head is the header of an entry: format, codec, dictionary, key and feature level, then fixed figures.
func head(format byte, first ...uint64) raw {
	return raw{format}.uv(first...).uv(7, 3, 12, 11, 1_700_000_000_000_000)
}

// entryOf wraps one record, given as bytes, into an entry with ten names.
func entryOf(record raw) raw {
	r := head(1, 0, 0, 0, 1).uv(10).text("n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9").uv(1)
	return append(r.uv(uint64(len(record))), record...).sum()
}

// readAll reads all records of an entry, each into memory of its own.
func readAll(data []byte) (h entry.Header, records []entry.Record, err error) {
	r := &entry.Reader{}
	if err := r.Reset(data); err != nil {
		return r.Header, nil, err
	}
	for {
		var rec entry.Record
		more, err := r.Next(&rec)
		if err != nil {
			return r.Header, records, err
		}
		if !more {
			return r.Header, records, nil
		}
		records = append(records, rec)
	}
}

// write encodes an entry with the given records.
func write(h entry.Header, records []entry.Record) []byte {
	var b entry.Builder
	b.Reset(h.TimeBase)
	for i := range records {
		b.Append(&records[i])
	}
	return b.Close(h)
}

// plain makes empty slices nil, all the way down, so that values can be compared.
func plain[T any](v T) T {
	var visit func(reflect.Value)
	visit = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				visit(v.Field(i))
			}
		case reflect.Slice:
			if v.Len() == 0 {
				v.SetZero()
			}
			for i := range v.Len() {
				visit(v.Index(i))
			}
		}
	}
	visit(reflect.ValueOf(&v).Elem())
	return v
}

func bytesOf(max int) *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		b := rapid.SliceOfN(rapid.Byte(), 0, max).Draw(t, "bytes")
		if len(b) == 0 {
			return nil
		}
		return b
	})
}

// drawRecord draws any record that can be written: each field is absent or has any value it may have.
func drawRecord(t *rapid.T, base int64) entry.Record {
	name := func(label string) string {
		return rapid.SampledFrom([]string{"", "a", "account", "merchant", "granary.x.v1.Y"}).Draw(t, label)
	}
	number := func(label string) uint64 {
		return rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(1, 300), rapid.Uint64()).Draw(t, label)
	}
	small := func(label string) uint32 { return rapid.OneOf(rapid.Just(uint32(0)), rapid.Uint32()).Draw(t, label) }
	blob := func(label string) []byte { return bytesOf(40).Draw(t, label) }

	rec := entry.Record{
		Type: entry.Type(rapid.IntRange(1, 10).Draw(t, "type")), Tenant: name("tenant"), Seq: number("seq"), Back: number("back"),
		Time:  base + rapid.Int64Range(0, 1<<40).Draw(t, "time"),
		Event: name("event"), EventTime: rapid.OneOf(rapid.Just(int64(0)), rapid.Int64()).Draw(t, "event time"),
		Source: name("source"), ID: blob("id"), Sequence: number("sequence"), Hops: number("hops"), Trace: blob("trace"),
		Schema: number("schema"), Logic: small("logic"), Digest: number("digest"), Payload: blob("payload"),
		Reply: blob("reply"), Expiry: int64(number("expiry")), StateAfter: blob("state after"), Reason: blob("reason"),
		Timer: number("timer"),
	}
	if rec.Kind = name("kind"); rec.Kind != "" {
		rec.Key = blob("key")
	}
	if rec.Producer = name("producer"); rec.Producer != "" {
		rec.Epoch = number("epoch")
	}
	if index := number("cause"); index != 0 {
		rec.Cause = entry.Position{Lineage: number("lineage"), Index: index, Ordinal: small("ordinal")}
	}
	if kind := name("sender"); kind != "" {
		rec.Sender = entry.Sender{Shard: number("shard"), Effect: small("effect"), Kind: kind, Key: blob("sender key")}
	}
	for range rapid.IntRange(0, 3).Draw(t, "headers") {
		rec.Headers = append(rec.Headers, entry.Attribute{Name: blob("name"), Value: blob("value")})
	}
	for range rapid.IntRange(0, 3).Draw(t, "effects") {
		e := entry.Effect{
			Type: entry.EffectType(rapid.IntRange(1, 4).Draw(t, "effect type")), Event: name("event"), Payload: blob("payload"),
			Due: int64(number("due")), Timer: number("timer"), Stream: name("stream"), Token: blob("token"),
		}
		if e.Kind = name("to"); e.Kind != "" {
			e.Key = blob("to key")
		}
		rec.Effects = append(rec.Effects, e)
	}
	if rapid.Bool().Draw(t, "snapshot") {
		s := &rec.Snapshot
		s.Chunk, s.Chunks = rapid.Uint32Min(1).Draw(t, "chunk"), small("chunks")
		s.Codec, s.Key, s.Digest = small("codec"), small("key id"), number("state digest")
		for range rapid.IntRange(0, 2).Draw(t, "reminders") {
			s.Reminders = append(s.Reminders, entry.Reminder{ID: number("id"), Due: int64(number("due")), Event: name("event"), Payload: blob("payload")})
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "extensions") {
		rec.Extensions = append(rec.Extensions, entry.Extension{ID: number("id") &^ 1, Data: blob("data")})
	}
	return rec
}

// TestRoundTrip: what is written is read again, whatever the fields hold, in one builder over many entries.
func TestRoundTrip(t *testing.T) {
	var b entry.Builder
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.Uint64Range(0, 300), rapid.Uint64())
		h := entry.Header{
			Feature: entry.FeatureLevel, Lineage: number.Draw(t, "lineage"), Term: number.Draw(t, "term"),
			Index: number.Draw(t, "index"), Previous: number.Draw(t, "previous"), TimeBase: rapid.Int64Range(0, 1<<52).Draw(t, "base"),
		}
		var want []entry.Record
		b.Reset(h.TimeBase)
		for i := range rapid.IntRange(0, 5).Draw(t, "records") {
			rec := drawRecord(t, h.TimeBase)
			rec.Ordinal = uint32(i)
			want = append(want, rec)
			if got := b.Append(&rec); got != rec.Ordinal {
				t.Fatalf("ordinal %d, want %d", got, rec.Ordinal)
			}
		}
		if b.Len() != len(want) {
			t.Fatalf("the builder counts %d records, want %d", b.Len(), len(want))
		}
		data := b.Close(h)

		shard, index, term := number.Draw(t, "shard"), number.Draw(t, "log index"), number.Draw(t, "raft term")
		raftType := byte(rapid.IntRange(0, 2).Draw(t, "raft type"))
		value := entry.AppendFrame([]byte("before"), shard, index, term, raftType, data)[len("before"):]
		if len(value) != entry.FrameSize(term, len(data)) {
			t.Fatalf("a frame of %d bytes, promised were %d", len(value), entry.FrameSize(term, len(data)))
		}
		gotTerm, gotType, gotData, err := entry.Frame(shard, index, value)
		if err != nil || gotTerm != term || gotType != raftType || !bytes.Equal(gotData, data) {
			t.Fatalf("frame: term %d type %d, %v", gotTerm, gotType, err)
		}

		gotHeader, got, err := readAll(gotData)
		if err != nil {
			t.Fatal(err)
		}
		if gotHeader != h {
			t.Fatalf("header %+v, want %+v", gotHeader, h)
		}
		if !reflect.DeepEqual(plain(got), plain(want)) {
			t.Fatalf("records differ:\n got %+v\nwant %+v", got, want)
		}
	})
}

// TestSkip: skipping and reading agree on where a record begins.
func TestSkip(t *testing.T) {
	records := []entry.Record{{Type: entry.Input, Kind: "a", Seq: 1}, {Type: entry.Void, Kind: "a", Seq: 2}, {Type: entry.Input, Kind: "b", Seq: 1}}
	data := write(entry.Header{}, records)
	for n := range records {
		r, err := entry.Open(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Skip(n); err != nil {
			t.Fatal(err)
		}
		var rec entry.Record
		if _, err := r.Next(&rec); err != nil || rec.Ordinal != uint32(n) || rec.Type != records[n].Type || rec.Kind != records[n].Kind {
			t.Errorf("record %d: %v %+v", n, err, rec)
		}
		if err := r.Skip(len(records) - n); !errors.Is(err, entry.ErrCorrupt) {
			t.Errorf("skipping over the end: %v", err)
		}
	}
}

// TestDirectory: the records of one grain are the same as when all are read, and each record is where it is said to be.
func TestDirectory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var records []entry.Record
		for range rapid.IntRange(0, 8).Draw(t, "records") {
			rec := drawRecord(t, 0)
			if rec.Kind != "" && rapid.Bool().Draw(t, "known key") {
				rec.Key = []byte{byte(rapid.IntRange(0, 1).Draw(t, "key"))}
			}
			records = append(records, rec)
		}
		data := write(entry.Header{}, records)
		_, all, err := readAll(data)
		if err != nil {
			t.Fatal(err)
		}
		tenant, kind := rapid.SampledFrom([]string{"", "a"}).Draw(t, "tenant"), rapid.SampledFrom([]string{"a", "account", "none"}).Draw(t, "kind")
		key := []byte{byte(rapid.IntRange(0, 1).Draw(t, "key"))}
		var want, got []entry.Record
		for _, rec := range all {
			if rec.Tenant == tenant && rec.Kind == kind && bytes.Equal(rec.Key, key) {
				want = append(want, rec)
			}
		}
		d, err := entry.NewDirectory(data)
		if err != nil {
			t.Fatal(err)
		}
		if got, err = d.Records(nil, tenant, kind, key); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(plain(got), plain(want)) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
		for i := range len(all) + 1 {
			r, err := d.Reader(i)
			if err != nil {
				t.Fatal(err)
			}
			var rec entry.Record
			if more, err := r.Next(&rec); err != nil || more != (i < len(all)) || more && !reflect.DeepEqual(plain([]entry.Record{rec}), plain(all[i:i+1])) {
				t.Fatalf("record %d: %v %t %+v", i, err, more, rec)
			}
		}
		if _, err := d.Reader(len(all) + 1); !errors.Is(err, entry.ErrCorrupt) {
			t.Fatalf("a record behind the end: %v", err)
		}
	})
}

// TestAbsentCostsNothing counts the bytes of small records, so that a field that begins to cost where it is absent is
// noticed.
func TestAbsentCostsNothing(t *testing.T) {
	const base = 1_700_000_000_000_000
	size := func(rec entry.Record) int {
		var b entry.Builder
		b.Reset(base)
		rec.Time += base
		b.Append(&rec)
		return b.Size()
	}
	for _, test := range []struct {
		name   string
		record entry.Record
		want   int
	}{
		{"nothing", entry.Record{Type: entry.Session}, 1 + 1 + 1}, // length, type, presence
		{"grain", entry.Record{Type: entry.Input, Kind: "account", Key: []byte("42")}, 3 + 1 + 3},
		{"grain and seq", entry.Record{Type: entry.Input, Kind: "account", Key: []byte("42"), Seq: 9}, 3 + 1 + 3 + 1},
		{"smallest event of a client", entry.Record{Type: entry.Input, Kind: "account", Key: []byte("42"), Seq: 9, Time: 5,
			Event: "granary.account.v1.Charged", Logic: 1, Payload: []byte("payload")},
			1 + 1 + 3 + // length, type, presence
				1 + 3 + 1 + 1 + 1 + 1 + 8}, // grain, seq, time, event, logic, payload
	} {
		if got := size(test.record); got != test.want {
			t.Errorf("%s: %d bytes, want %d", test.name, got, test.want)
		}
	}
}

// TestLiteralBytes holds the smallest entry and its frame against bytes that were put together by hand.
func TestLiteralBytes(t *testing.T) {
	rec := entry.Record{Type: entry.Input, Kind: "k", Key: []byte("x"), Seq: 1, Time: 200}
	data := write(entry.Header{Lineage: 5, Term: 2, Index: 300, Previous: 299, TimeBase: 100}, []entry.Record{rec})
	want := raw{
		1, 0, 0, 0, 1, // format, codec, dictionary, key, feature level
		5, 2, 0xac, 0x02, 0xab, 0x02, 100, // lineage, term, index, previous, time base
		1, 1, 'k', // one name
		1, 7, // one record of 7 bytes
		1, 0b10110, // input; grain, seq, time
		0, 1, 'x', 1, 100,
	}.sum()
	if !bytes.Equal(data, want) {
		t.Errorf("entry\n got % x\nwant % x", data, want)
	}
	frame := entry.AppendFrame(nil, 5, 300, 2, 0, data)
	if want := append(raw{1, 0, 2}, data...).sum(5, 300); !bytes.Equal(frame, want) {
		t.Errorf("frame\n got % x\nwant % x", frame, want)
	}
}

// TestRefusals: what a later version may write is refused by name, never skipped, unless it was made to be skipped.
func TestRefusals(t *testing.T) {
	const input = 1
	bit := func(i uint) uint64 { return 1 << i }
	for _, test := range []struct {
		name string
		data raw
		want string
	}{
		{"entry format", head(2, 0, 0, 0, 1).uv(0, 0).sum(), "format 2"},
		{"feature level", head(1, 0, 0, 0, 2).uv(0, 0).sum(), "feature level 2"},
		{"codec", head(1, 9, 0, 0, 1).uv(0, 0).sum(), "codec 9"},
		{"dictionary", head(1, 0, 9, 0, 1).uv(0, 0).sum(), "dictionary 9"},
		{"key id", head(1, 0, 0, 9, 1).uv(0, 0).sum(), "key 9"},
		{"record type", entryOf(raw{13, 0}), "record type 13"},
		{"record type 255", entryOf(raw{255, 0}), "record type 255"},
		{"record field", entryOf(raw{input}.uv(bit(28)).b(1)), "fields 0x10000000"},
		{"record field beyond 32", entryOf(raw{input}.uv(bit(2) | bit(63)).uv(1)), "fields 0x8000000000000000"},
		{"effect type", entryOf(raw{input}.uv(bit(20)).uv(1).b(6, 0)), "effect type 6"},
		{"effect type 0", entryOf(raw{input}.uv(bit(20)).uv(1).b(0, 0)), "effect type 0"},
		{"effect field", entryOf(raw{input}.uv(bit(20)).uv(1).b(1).uv(bit(8))), "effect type 1 with fields 0x100"},
		{"odd extension", entryOf(raw{input}.uv(bit(27)).uv(2).uv(4).text("kept").uv(7).text("needed")), "extension 7"},
	} {
		_, _, err := readAll(test.data)
		if !errors.Is(err, entry.ErrTooNew) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want it refused as too new and named %q", test.name, err, test.want)
		}
	}

	frame := raw{2, 0, 1}.sum(3, 4)
	if _, _, _, err := entry.Frame(3, 4, frame); !errors.Is(err, entry.ErrTooNew) || !strings.Contains(err.Error(), "frame format 2") {
		t.Errorf("frame format: %v", err)
	}

	_, records, err := readAll(entryOf(raw{input}.uv(bit(27)).uv(1).uv(1 << 40).text("kept")))
	if err != nil || len(records) != 1 || !reflect.DeepEqual(records[0].Extensions, []entry.Extension{{ID: 1 << 40, Data: []byte("kept")}}) {
		t.Errorf("an even extension must be kept: %v %+v", err, records)
	}
}

// TestMalformed: bytes with a right CRC that no version writes are corrupt, and cost no memory.
func TestMalformed(t *testing.T) {
	const input = 1
	bit := func(i uint) uint64 { return 1 << i }
	huge := uint64(1) << 40
	over := bytes.Repeat([]byte{0xff}, 10)
	for _, test := range []struct {
		name string
		data raw
	}{
		{"empty", raw{}.sum()},
		{"only a format", raw{1}.sum()},
		{"header ends", raw{1}.uv(0, 0, 0, 1, 7, 3).sum()},
		{"number over 64 bits", append(raw{1, 0, 0, 0, 1}, over...).b(2, 0, 0, 0, 0, 0).sum()},
		{"count of names", head(1, 0, 0, 0, 1).uv(huge).sum()},
		{"length of a name", head(1, 0, 0, 0, 1).uv(1, huge).sum()},
		{"count of records", head(1, 0, 0, 0, 1).uv(0, huge).sum()},
		{"length of a record", head(1, 0, 0, 0, 1).uv(0, 1, huge).b(1, 1).sum()},
		{"bytes behind the last record", head(1, 0, 0, 0, 1).uv(0, 0).b(0).sum()},
		{"empty record", entryOf(raw{})},
		{"record type 0", entryOf(raw{0, 0})},
		{"bytes behind the last field", entryOf(raw{input, 0, 0})},
		{"name that is not in the table", entryOf(raw{input}.uv(bit(0)).uv(10))},
		{"length of a payload", entryOf(raw{input}.uv(bit(19)).uv(huge))},
		{"digest ends", entryOf(raw{input}.uv(bit(18)).b(1, 2, 3, 4, 5, 6, 7))},
		{"count of effects", entryOf(raw{input}.uv(bit(20)).uv(huge))},
		{"effects end", entryOf(raw{input}.uv(bit(20)).uv(1).b(1))},
		{"count of headers", entryOf(raw{input}.uv(bit(15)).uv(huge))},
		{"count of extensions", entryOf(raw{input}.uv(bit(27)).uv(huge))},
		{"count of reminders", entryOf(raw{input}.uv(bit(26)).uv(1, 1, 0, 0).fixed(1).uv(huge))},
		{"ordinal over 32 bits", entryOf(raw{input}.uv(bit(11)).uv(1, 2, 1<<32))},
		{"logic over 32 bits", entryOf(raw{input}.uv(bit(17)).uv(1 << 32))},
		{"cause without an index", entryOf(raw{input}.uv(bit(11)).uv(1, 0, 2))},
		{"snapshot chunk 0", entryOf(raw{input}.uv(bit(26)).uv(0, 1, 0, 0).fixed(1).uv(0))},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := readAll(test.data)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, entry.ErrCorrupt) {
			t.Errorf("%s: %v, want corrupt", test.name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: allocated %d bytes", test.name, n)
		}
	}
}

// TestDamage: no bit of a frame can flip, no byte of its end can be missing, and it cannot stand in another place,
// without being noticed.
func TestDamage(t *testing.T) {
	const shard, index = 7, 300
	data := write(fullHeader(), fullRecords())
	value := entry.AppendFrame(nil, shard, index, 3, 0, data)

	for i := range value {
		for b := range 8 {
			bad := bytes.Clone(value)
			bad[i] ^= 1 << b
			if _, _, _, err := entry.Frame(shard, index, bad); !errors.Is(err, entry.ErrCorrupt) {
				t.Errorf("bit %d of byte %d of the frame: %v", b, i, err)
			}
		}
		if _, _, _, err := entry.Frame(shard, index, value[:i]); !errors.Is(err, entry.ErrCorrupt) {
			t.Errorf("frame cut to %d bytes: %v", i, err)
		}
	}
	for i := range data {
		for b := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << b
			if _, _, err := readAll(bad); !errors.Is(err, entry.ErrCorrupt) {
				t.Errorf("bit %d of byte %d of the entry: %v", b, i, err)
			}
		}
		if _, _, err := readAll(data[:i]); !errors.Is(err, entry.ErrCorrupt) {
			t.Errorf("entry cut to %d bytes: %v", i, err)
		}
		// cut and summed again, as by a bug in between: the fields themselves must notice
		if _, _, err := readAll(raw(bytes.Clone(data[:i])).sum()); i < len(data)-4 && err == nil {
			t.Errorf("entry cut to %d bytes with a right CRC was read", i)
		}
	}
	for _, place := range [][2]uint64{{shard, index + 1}, {shard + 1, index}, {index, shard}, {0, 0}} {
		if _, _, _, err := entry.Frame(place[0], place[1], value); !errors.Is(err, entry.ErrCorrupt) {
			t.Errorf("frame found at shard %d index %d: %v", place[0], place[1], err)
		}
	}
}

// TestOutcomeDigest: every part of the outcome counts, and parts cannot trade bytes.
func TestOutcomeDigest(t *testing.T) {
	if d := (&entry.Record{Payload: []byte("x")}).OutcomeDigest(); d != 0 {
		t.Errorf("a record without outcome has the digest %x", d)
	}
	seen := map[uint64]string{}
	note := func(name string, rec entry.Record) {
		d := rec.OutcomeDigest()
		if other, ok := seen[d]; ok || d == 0 {
			t.Errorf("%s has the digest of %q: %x", name, other, d)
		}
		seen[d] = name
	}
	full := fullRecords()[1]
	full.Effects = append(turnRecords()[0].Effects, full.Effects...)
	note("full", full)
	for i := range reflect.TypeFor[entry.Effect]().NumField() {
		rec := full
		rec.Effects = append([]entry.Effect(nil), full.Effects...)
		reflect.ValueOf(&rec.Effects[0]).Elem().Field(i).SetZero()
		note("without "+reflect.TypeFor[entry.Effect]().Field(i).Name, rec)
	}
	rec := full
	rec.Reply = nil
	note("without reply", rec)
	note("kind ab", entry.Record{Effects: []entry.Effect{{Type: entry.Send, Kind: "ab", Key: []byte("c")}}})
	note("kind a", entry.Record{Effects: []entry.Effect{{Type: entry.Send, Kind: "a", Key: []byte("bc")}}})
	note("only a reply", entry.Record{Reply: []byte("r")})
}

func TestTypeString(t *testing.T) {
	for typ := entry.Input; typ <= entry.Settlement; typ++ {
		if strings.HasPrefix(typ.String(), "record type") {
			t.Errorf("type %d has no name", byte(typ))
		}
	}
	if got := entry.Type(99).String(); got != "record type 99" {
		t.Errorf("type 99 is %q", got)
	}
}

// transaction is what a card transaction leaves in the journal: the account's record with its send to the merchant.
func transaction() entry.Record {
	return entry.Record{
		Type: entry.Input, Kind: "account", Key: []byte("customer-004711"), Seq: 217, Back: 31, Time: 1_700_000_000_000_450,
		Event: "granary.account.v1.Charged", EventTime: 1_699_999_999_123_000_000, Producer: "loadgen-3", Epoch: 2, Sequence: 88_123,
		Logic: 1, Digest: 0x1122334455667788, Payload: make([]byte, 44),
		Effects: []entry.Effect{{Type: entry.Send, Kind: "merchant", Key: []byte("terminal-08123"), Event: "granary.merchant.v1.Seen", Payload: make([]byte, 48)}},
	}
}

const perEntry = 100

func BenchmarkAppend(b *testing.B) {
	rec := transaction()
	var builder entry.Builder
	builder.Reset(1_700_000_000_000_000)
	b.ReportAllocs()
	for b.Loop() {
		if builder.Len() == perEntry {
			builder.Reset(1_700_000_000_000_000)
		}
		builder.Append(&rec)
	}
	b.ReportMetric(float64(builder.Size())/float64(builder.Len()), "B/record")
}

func BenchmarkRead(b *testing.B) {
	rec := transaction()
	var builder entry.Builder
	builder.Reset(1_700_000_000_000_000)
	for range perEntry {
		builder.Append(&rec)
	}
	data := builder.Close(entry.Header{TimeBase: 1_700_000_000_000_000})
	var r entry.Reader
	var got entry.Record
	more := false
	b.ReportAllocs()
	for b.Loop() {
		if !more {
			if err := r.Reset(data); err != nil {
				b.Fatal(err)
			}
		}
		var err error
		if more, err = r.Next(&got); err != nil {
			b.Fatal(err)
		}
	}
}
