package entry_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/granary-dev/granary/persistence/entry"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; a released one must never change")

// fullHeader has every field that this version may write non-zero; codec, dictionary and key id have a golden file of
// their own, which this version must refuse.
func fullHeader() entry.Header {
	return entry.Header{Feature: 1, Lineage: 0x0102030405060708, Term: 9, Index: 300, Previous: 298, TimeBase: 1_700_000_000_000_000}
}

// fullRecords are a small record and, behind it so that its ordinal is not zero, one that has every field.
func fullRecords() []entry.Record {
	return []entry.Record{
		{Type: entry.Input, Kind: "account", Key: []byte("42"), Seq: 1, Time: 1_700_000_000_000_000},
		{
			Type: entry.Timer, Ordinal: 1, Tenant: "acme", Kind: "account", Key: []byte("key/with/slashes"), Seq: 7, Back: 130,
			Time: 1_700_000_000_000_321, Event: "granary.account.v1.Charged", EventTime: -1_500_000_000,
			Source: "//pos/17", ID: []byte("id-1"), Producer: "producer-1", Epoch: 2, Sequence: 1000,
			Cause:  entry.Position{Lineage: 12, Index: 345, Ordinal: 6},
			Sender: entry.Sender{Shard: 3, Effect: 4, Kind: "merchant", Key: []byte("m1")},
			Hops:   5, Trace: []byte{0, 1, 2, 255},
			Headers: []entry.Attribute{{Name: []byte("region"), Value: []byte("eu")}, {Name: []byte("retry"), Value: []byte("1")}},
			Schema:  77, Logic: 3, Digest: 0xa1b2c3d4e5f60718, Payload: []byte("payload"),
			Effects: []entry.Effect{
				{Type: entry.Publish, Kind: "merchant", Key: []byte("m2"), Event: "granary.merchant.v1.Seen", Payload: []byte("seen"),
					Due: 1_700_000_000_500_000, Timer: 8, Stream: "fraud.alerts", Token: []byte("token")},
				{Type: entry.Send, Kind: "merchant", Key: []byte("m1"), Event: "granary.merchant.v1.Seen"},
				{Type: entry.Remind, Event: "granary.account.v1.CooledDown", Due: 1_700_000_000_600_000, Timer: 9},
				{Type: entry.Cancel, Timer: 7},
			},
			Reply: []byte("reply"), Expiry: 1_700_086_400_000_000, StateAfter: []byte("state after"), Reason: []byte("reason"), Timer: 10,
			Snapshot: entry.SnapshotMeta{Chunk: 1, Chunks: 2, Codec: 3, Key: 4, Digest: 0x1020304050607080, Reminders: []entry.Reminder{
				{ID: 11, Due: 1_700_000_000_700_000, Event: "granary.account.v1.CooledDown", Payload: []byte("later")},
			}},
			Extensions: []entry.Extension{{ID: 2, Data: []byte("even")}, {ID: 200, Data: []byte("and kept")}},
		},
	}
}

// usualRecords has one record of each type, as a shard writes or will write it.
func usualRecords() []entry.Record {
	const now = 1_700_000_000_000_000
	records := []entry.Record{
		{Type: entry.Input, Kind: "account", Key: []byte("42"), Seq: 8, Back: 2, Time: now, Event: "granary.account.v1.Charged",
			Source: "pos", ID: []byte("a-1"), Logic: 1, Payload: []byte{8, 1}, Digest: 0x0807060504030201,
			Effects: []entry.Effect{{Type: entry.Send, Kind: "merchant", Key: []byte("m"), Event: "granary.merchant.v1.Seen", Payload: []byte{8, 2}}}},
		{Type: entry.Void, Kind: "account", Key: []byte("42"), Seq: 9, Back: 2, Time: now + 1, Event: "granary.account.v1.Charged",
			Producer: "p", Epoch: 1, Sequence: 3, Logic: 1, Reason: []byte("amount must be positive")},
		{Type: entry.DeadLetter, Kind: "merchant", Key: []byte("m"), Seq: 1, Time: now + 1, Event: "granary.merchant.v1.Seen",
			Cause: entry.Position{Lineage: 2, Index: 9}, Sender: entry.Sender{Shard: 2, Kind: "account", Key: []byte("41")}, Hops: 1,
			Logic: 1, Payload: []byte{8, 2}, Reason: []byte("the handler panicked")},
		{Type: entry.Snapshot, Kind: "account", Key: []byte("42"), Seq: 9, Back: 2, Time: now + 1, Logic: 1, Payload: []byte{8, 1},
			Snapshot: entry.SnapshotMeta{Chunk: 1, Chunks: 1, Digest: 0x1817161514131211}},
		{Type: entry.LogicChange, Kind: "account", Time: now + 1, Logic: 2},
		{Type: entry.Tombstone, Kind: "account", Key: []byte("43"), Seq: 5, Back: 100, Time: now + 2, Logic: 2},
		{Type: entry.Timer, Kind: "account", Key: []byte("42"), Seq: 10, Back: 2, Time: now + 2, Event: "granary.account.v1.CooledDown", Logic: 2, Timer: 1},
		{Type: entry.Session, Time: now + 2, Producer: "p", Epoch: 2},
		{Type: entry.Expiry, Time: now + 3, Producer: "q"},
		{Type: entry.CompactionMark, Time: now + 3, Extensions: []entry.Extension{{ID: 4, Data: []byte{200, 1}}}},
	}
	for i := range records {
		records[i].Ordinal = uint32(i)
	}
	return records
}

// turnRecords are what turns do since they can set reminders, publish, and leave their replies for later.
func turnRecords() []entry.Record {
	const now = 1_700_000_000_000_000
	records := []entry.Record{
		{Type: entry.Input, Kind: "account", Key: []byte("42"), Seq: 8, Back: 2, Time: now, Event: "granary.account.v1.Charged", Logic: 1,
			Effects: []entry.Effect{
				{Type: entry.Remind, Kind: "account", Key: []byte("42"), Event: "granary.account.v1.CooledDown", Payload: []byte{8, 1},
					Due: now + 60_000_000, Timer: 8192, Stream: "fraud.alerts", Token: []byte("account/42#8"), Every: 60_000_000},
				{Type: entry.Publish, Event: "granary.account.v1.Alert", Payload: []byte{8, 1}, Stream: "fraud.alerts"},
				{Type: entry.Defer},
			}},
		{Type: entry.Input, Kind: "merchant", Key: []byte("m"), Seq: 1, Time: now + 1, Event: "granary.merchant.v1.Asked", Logic: 1,
			Effects: []entry.Effect{{Type: entry.Send, Kind: "account", Key: []byte("42"), Event: "granary.merchant.v1.Decision", Payload: []byte{8, 1},
				Token: []byte("account/42#8")}}, Reply: []byte{10, 1, 'x'}},
		{Type: entry.Answer, Kind: "account", Key: []byte("42"), Seq: 8, Time: now + 2, Cause: entry.Position{Lineage: 2, Index: 9},
			Sender: entry.Sender{Shard: 2, Kind: "merchant", Key: []byte("m")}, Hops: 2, Reply: []byte{10, 1, 'y'}},
		{Type: entry.Settlement, Kind: "account", Key: []byte("42"), Seq: 7, Time: now + 3, Reason: []byte("dropped")},
	}
	for i := range records {
		records[i].Ordinal = uint32(i)
	}
	return records
}

// A golden is bytes that were released once, and what they mean.
type golden struct {
	file string
	// shard, index, term and raftType of the frame around the entry.
	shard, index, term uint64
	raftType           byte
	header             entry.Header
	records            []entry.Record
	// refused is what this version says of it, or "".
	refused string
}

func goldens() []golden {
	locked := fullHeader()
	locked.Codec, locked.Dictionary, locked.Key = 1, 2, 3
	return []golden{
		{file: "full", shard: 0x1112131415161718, index: 300, term: 200, raftType: 2, header: fullHeader(), records: fullRecords()},
		{file: "usual", shard: 5, index: 300, term: 9, header: entry.Header{Feature: 1, Lineage: 5, Term: 9, Index: 300, Previous: 298,
			TimeBase: 1_700_000_000_000_000}, records: usualRecords()},
		{file: "turns", shard: 5, index: 301, term: 9, header: entry.Header{Feature: 1, Lineage: 5, Term: 9, Index: 301, Previous: 300,
			TimeBase: 1_700_000_000_000_000}, records: turnRecords()},
		{file: "locked", shard: 5, index: 300, term: 9, header: locked, refused: "codec 1, dictionary 2, key 3"},
	}
}

// encode gives the bytes of the frame.
func (g golden) encode() []byte {
	return entry.AppendFrame(nil, g.shard, g.index, g.term, g.raftType, write(g.header, g.records))
}

// text is the content of the file: the meaning to read, then the bytes.
func (g golden) text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "frame  shard %d, index %d, term %d, type %d\n", g.shard, g.index, g.term, g.raftType)
	fmt.Fprintf(&s, "header %+v\n", g.header)
	if g.refused != "" {
		fmt.Fprintf(&s, "refused by this version: %s\n", g.refused)
	}
	for _, rec := range g.records {
		fmt.Fprintf(&s, "\nrecord %d %v\n", rec.Ordinal, rec.Type)
		describe(&s, "  ", reflect.ValueOf(rec))
	}
	s.WriteString("\nbytes\n")
	for b := g.encode(); len(b) > 0; b = b[min(len(b), 32):] {
		fmt.Fprintf(&s, "%x\n", b[:min(len(b), 32)])
	}
	return s.String()
}

// describe lists the fields of a struct that are not zero.
func describe(s *strings.Builder, indent string, v reflect.Value) {
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		switch b, isBytes := f.Interface().([]byte); {
		case f.IsZero():
		case isBytes:
			fmt.Fprintf(s, "%s%s: %q\n", indent, name, b)
		case f.Kind() == reflect.String:
			fmt.Fprintf(s, "%s%s: %q\n", indent, name, f.String())
		case f.Kind() == reflect.Struct:
			fmt.Fprintf(s, "%s%s:\n", indent, name)
			describe(s, indent+"  ", f)
		case f.Kind() == reflect.Slice:
			for i := range f.Len() {
				fmt.Fprintf(s, "%s%s %d:\n", indent, name, i)
				describe(s, indent+"  ", f.Index(i))
			}
		case name == "Digest":
			fmt.Fprintf(s, "%s%s: %#x\n", indent, name, f.Interface())
		default:
			fmt.Fprintf(s, "%s%s: %v\n", indent, name, f.Interface())
		}
	}
}

// TestGolden reads every released form and writes it again. If it fails, the format has changed: data folders that
// users have would no longer be read. Give the new form a new number and a new file; do not rewrite this one.
func TestGolden(t *testing.T) {
	for _, g := range goldens() {
		t.Run(g.file, func(t *testing.T) {
			path := filepath.Join("testdata", "golden", fmt.Sprintf("v%d-%s.golden", entry.Format, g.file))
			if *rewrite {
				if err := os.WriteFile(path, []byte(g.text()), 0o644); err != nil {
					t.Fatal(err)
				}
				t.Logf("wrote %s: look at every byte of the difference", path)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, dump, ok := strings.Cut(string(text), "\nbytes\n")
			if !ok {
				t.Fatalf("%s has no bytes", path)
			}
			stored, err := hex.DecodeString(strings.ReplaceAll(dump, "\n", ""))
			if err != nil {
				t.Fatal(err)
			}

			if got := g.encode(); !bytes.Equal(got, stored) {
				t.Errorf("the same values are now written otherwise:\n got %x\nwant %x", got, stored)
			}
			if got := g.text(); got != string(text) {
				t.Errorf("the description is no longer that of the values:\n%s", got)
			}

			term, raftType, data, err := entry.Frame(g.shard, g.index, stored)
			if err != nil || term != g.term || raftType != g.raftType {
				t.Fatalf("frame: term %d, type %d, %v", term, raftType, err)
			}
			header, records, err := readAll(data)
			if header != g.header {
				t.Errorf("header\n got %+v\nwant %+v", header, g.header)
			}
			if g.refused != "" {
				if !errors.Is(err, entry.ErrTooNew) || !strings.Contains(err.Error(), g.refused) {
					t.Errorf("%v, want it refused: %s", err, g.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(plain(records), plain(g.records)) {
				t.Errorf("records\n got %+v\nwant %+v", records, g.records)
			}
		})
	}
}

// TestGoldenIsComplete: a field that is added later must be added to the golden values too.
func TestGoldenIsComplete(t *testing.T) {
	full := fullRecords()[1]
	full.Effects = turnRecords()[0].Effects
	notZero(t, "Record", reflect.ValueOf(full))
	locked := goldens()[3].header
	notZero(t, "Header", reflect.ValueOf(locked))
	if g := goldens()[0]; g.shard == 0 || g.index == 0 || g.term == 0 || g.raftType == 0 {
		t.Error("a figure of the frame is zero")
	}
	types, effects := map[entry.Type]bool{}, map[entry.EffectType]bool{}
	for _, rec := range append(usualRecords(), turnRecords()...) {
		types[rec.Type] = true
	}
	for _, e := range append(fullRecords()[1].Effects, full.Effects...) {
		effects[e.Type] = true
	}
	for typ := entry.Input; typ <= entry.Settlement; typ++ {
		if !types[typ] {
			t.Errorf("no golden record has the type %v", typ)
		}
	}
	for typ := entry.Send; typ <= entry.Defer; typ++ {
		if !effects[typ] {
			t.Errorf("no golden effect has the type %d", typ)
		}
	}
}

// notZero looks at every field, and at those of the first element of every slice.
func notZero(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	if v.IsZero() {
		t.Errorf("%s is zero in the golden values", path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			notZero(t, path+"."+v.Type().Field(i).Name, v.Field(i))
		}
	case reflect.Slice:
		if v.Len() == 0 {
			t.Errorf("%s is empty in the golden values", path)
		} else if v.Index(0).Kind() == reflect.Struct {
			notZero(t, path+"[0]", v.Index(0))
		}
	}
}
