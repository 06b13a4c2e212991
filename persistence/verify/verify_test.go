package verify

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

// fill puts into the records of all shards what follows from their order. It comes before anything is spoiled.
func (w *world) fill() *world {
	for _, s := range w.shards {
		s.fill()
	}
	return w
}

func none(t *testing.T, r *Report) {
	t.Helper()
	for _, f := range r.Findings {
		t.Errorf("found in a store that is as it should be: %v", f)
	}
}

// TestSound: nothing is found in stores that are as they should be, and everything is counted.
func TestSound(t *testing.T) {
	w := rich(t).fill()
	var stages []string
	r := w.check(func(o *Options) {
		o.Progress = func(p Progress) {
			if len(stages) == 0 || stages[len(stages)-1] != p.Stage {
				stages = append(stages, p.Stage)
			}
		}
	})
	none(t, r)
	if want := "files levels"; !strings.HasPrefix(strings.Join(stages, " "), want) {
		t.Errorf("stages %q, want them to begin with %q", stages, want)
	}
	var entries, records, turns, sends uint64
	grains := map[string]bool{}
	for _, s := range w.shards {
		entries += uint64(len(s.entries))
		for _, e := range s.entries {
			for _, rec := range e.records {
				records++
				if rec.kindOf == input {
					turns++
				}
				sends += uint64(len(rec.effects))
				if rec.kind != "" {
					grains[rec.kind+string(rec.key)] = true
				}
			}
		}
	}
	var counted uint64
	for _, n := range r.Records {
		counted += n
	}
	if r.Entries != entries || counted != records || r.Turns != turns || r.SendsMatched != sends || r.Grains != uint64(len(grains)) ||
		r.Snapshots != 4 || r.SendsPending != 0 || r.Void != 0 || r.Empty != 8 || r.Shards != 4 || r.NodeID != 7 || len(r.Unrun) != 0 || r.Keys == 0 {
		t.Errorf("%+v\nwant %d entries, %d records, %d turns, %d sends, %d grains", r, entries, records, turns, sends, len(grains))
	}
	if r.Records["void"] != 2 || r.Records["snapshot"] != 6 || r.Records["session"] != 8 || r.Records["expiry"] != 4 {
		t.Errorf("records %v", r.Records)
	}

	t.Run("states stored before a snapshot at the same seq", func(t *testing.T) {
		w.t = t
		if _, _, snap := w.find(func(_ *testShard, _ *testEntry, r *record) bool { return r.kindOf == snapshot && string(r.key) == "c1" }); snap.seq != w.kept[0].seq {
			t.Fatal("no snapshot at the seq of the state")
		}
		none(t, w.check(nil))
		w.stateKeyWith("c1", func(f []uint64) { f[2], f[3], f[4], f[5] = 0, 0, 0, 0 })
		none(t, w.check(nil))
		w.after = nil
	})
	t.Run("in parts", func(t *testing.T) {
		w.t = t
		parts := w.check(func(o *Options) { o.MaxGrains = 2 })
		none(t, parts)
		parts.Seconds, r.Seconds = 0, 0
		if got, want := fmt.Sprintf("%+v", parts), fmt.Sprintf("%+v", r); got != want {
			t.Errorf("read in parts:\n got %s\nwant %s", got, want)
		}
	})
	t.Run("derived keys behind", func(t *testing.T) {
		for lag := range 6 {
			w.t = t
			for _, s := range w.shards {
				s.lag = lag
			}
			none(t, w.check(nil))
		}
	})
	t.Run("never applied", func(t *testing.T) {
		w.t = t
		for _, s := range w.shards {
			s.lag = len(s.entries)
		}
		none(t, w.check(nil))
	})
	t.Run("one shard", func(t *testing.T) {
		w := newWorld(t, 1)
		for i := range 10 {
			w.charge(fmt.Sprint(i), "m", 1)
		}
		w.flush()
		w.deliver()
		none(t, w.fill().check(nil))
	})
	t.Run("empty", func(t *testing.T) {
		w := newWorld(t, 4)
		for _, s := range w.shards {
			s.entries = nil
		}
		none(t, w.check(nil))
	})
}

// TestOutstanding: sends beyond what the target has are pending, many or few, and no finding.
func TestOutstanding(t *testing.T) {
	for _, many := range []int{1, 50, 3 * keepNewest} {
		w := newWorld(t, 2)
		for i := range 20 {
			w.charge("c", "m", int64(i))
		}
		w.flush()
		w.deliver()
		for i := range many {
			w.charge("c", "m", int64(i))
		}
		w.flush()
		r := w.fill().check(nil)
		none(t, r)
		if r.SendsMatched != 20 || r.SendsPending != uint64(many) {
			t.Errorf("%d matched, %d pending; want 20 and %d", r.SendsMatched, r.SendsPending, many)
		}
		// the outbox must not say that they were taken in
		s := w.shardOf("counter", "c")
		s.cursor = uint64(len(s.entries))
		if r := w.check(nil); !strings.Contains(fmt.Sprint(r.Findings), "though the outbox says") {
			t.Errorf("%d pending below the outbox cursor: %v", many, r.Findings)
		}
	}
}

// TestVoid: an entry whose fence does not match has no effect, and is counted.
func TestVoid(t *testing.T) {
	w := newWorld(t, 2)
	w.charge("c", "", 1)
	w.flush()
	first := proto.Clone(w.states["counter/c"])
	w.charge("c", "", 2)
	w.flush()
	s := w.shardOf("counter", "c")
	s.entries[2].raftTerm++ // executed in the term before
	s.entries = append(s.entries, &testEntry{index: 4, raftTerm: 2, empty: true})
	w.seqs["counter/c"]-- // the void one took no seq
	w.states["counter/c"] = first
	w.charge("c", "", 3)
	w.flush()
	w.snapshot("counter", "c", 1)
	w.flush()
	void := s.entries[2].records
	s.entries[2].records = nil // its records are nobody's entry before
	w.fill()
	s.entries[2].records = void
	r := w.check(nil)
	none(t, r)
	if r.Void != 1 || r.Turns != 2 {
		t.Errorf("%d void, %d turns; want 1 and 2", r.Void, r.Turns)
	}
}

// TestIDWindow: an id may come again when its window is over; keys of buckets that are over may be there or not, but
// must be right.
func TestIDWindow(t *testing.T) {
	const hour = 3600 * 1_000_000
	w := newWorld(t, 2)
	for i := range 60 {
		w.charge("c", "", int64(i), withID("s", fmt.Sprint(i%16)))
		w.flush()
		w.now += 2 * hour
	}
	w.fill()
	r := w.check(nil)
	none(t, r)
	bucketEnd := func(k string) int64 {
		return int64(binary.BigEndian.Uint64([]byte(k[9:]))+1) * bucketMicros
	}
	last := w.shardOf("counter", "c").entries
	lastTime := last[len(last)-1].records[0].time
	w.after = append(w.after, func(keys map[string][]byte) {
		for k := range keys {
			if k[8] == keyID && bucketEnd(k) <= lastTime-24*hour {
				delete(keys, k)
			}
		}
	})
	none(t, w.check(nil))
	w.after = append(w.after, func(keys map[string][]byte) {
		for k := range keys {
			if k[8] == keyID && bucketEnd(k) <= lastTime-16*hour {
				delete(keys, k)
			}
		}
	})
	if r := w.check(nil); r.OK() || !strings.Contains(fmt.Sprint(r.Findings), "is missing, though the log") {
		t.Errorf("ids were dropped too early: %v", r.Findings)
	}
	// one that is over, with a wrong body
	w.after = []func(map[string][]byte){func(keys map[string][]byte) {
		for _, k := range sortedKeys(keys) {
			if k[8] == keyID {
				keys[k][len(keys[k])-1]++
				return
			}
		}
	}}
	if r := w.check(nil); r.Total != 1 || !strings.Contains(r.Findings[0].String(), "the log gives index 2, record 0") {
		t.Errorf("an old id is wrong: %v", r.Findings)
	}
}

// TestRemovedHistory: below the floor the log may be gone. What rests on it cannot be checked and is no finding; what
// comes after a snapshot is checked again.
func TestRemovedHistory(t *testing.T) {
	w := rich(t).fill()
	w.after = append(w.after, func(keys map[string][]byte) {
		for id := range w.shards {
			const floor = 8
			for i := uint64(1); i <= floor; i++ {
				delete(keys, bkey(id, 1, big(i)))
			}
			k := bkey(id, 3)
			keys[k] = numbers(keys[k], 6, func(f []uint64) { f[2] = floor })
		}
	})
	r := w.check(nil)
	none(t, r)
	if r.Unrun["earlier records were removed and no snapshot came yet"] == 0 || r.Snapshots == 0 || r.Turns == 0 {
		t.Errorf("%+v", r)
	}
	_, _, rec := w.counterAt(12)
	rec.seq++
	if r := w.check(nil); !strings.Contains(fmt.Sprint(r.Findings), "counter/c1: seq 13 follows 11") {
		t.Errorf("%v", r.Findings)
	}
}

// TestOtherLogic: turns of other logic, or of unknown kinds, are counted, not run and not found fault with.
func TestOtherLogic(t *testing.T) {
	w := newWorld(t, 2)
	old := []*record{w.charge("c", "", 1), w.charge("c", "", 2), w.charge("c", "", 3)}
	w.snapshot("counter", "c", 1)
	w.charge("c", "", 4)
	w.handle(&record{kind: "stranger", key: []byte("x"), event: "some.Event", payload: []byte{1}})
	w.flush()
	w.fill()
	for _, r := range old {
		r.logic = 2
	}
	r := w.check(nil)
	none(t, r)
	if r.Turns != 1 || r.Unrun["kind counter ran with logic version 2, the catalog has 1"] != 3 || r.Unrun["kind stranger is not in the catalog"] != 1 || r.UnrunGrains != 2 {
		t.Errorf("%d turns, unrun %v in %d grains", r.Turns, r.Unrun, r.UnrunGrains)
	}
}

// TestVersions: each turn is run again by the version that ran, and a raise of the version has its snapshots and its mark.
func TestVersions(t *testing.T) {
	first := grains.Logic[*accountv1.Account]{Version: 1, Handlers: grains.Handlers[*accountv1.Account]{grains.On(counted)}}
	two := func(r *record) { r.logic = 2 }
	logicKey := func(kind string) string { return bkey(1, 0x11, []byte(kind)) }
	// fresh is a raise in which "cut" got a snapshot before its first turn by version 2, and "idle" got one because all
	// did; beside it there is a kind that has had one version only
	fresh := func() (w *world, change *record) {
		w = newWorld(t, 1)
		w.catalog = raisedCatalog(t, first)
		w.handle(&record{kind: "tally", key: []byte("m"), event: "granary.merchant.v1.Seen"})
		w.charge("cut", "", 1)
		w.charge("idle", "", 1)
		w.charge("cut", "", 2)
		w.flush()
		w.snapshot("counter", "cut", 1)
		w.charge("cut", "", 3, two)
		w.flush()
		w.snapshot("counter", "idle", 2)
		change = &record{kindOf: logicChange, kind: "counter", logic: 2, time: w.now}
		w.shards[1].open = append(w.shards[1].open, change)
		w.charge("cut", "", 4, two)
		w.charge("new", "", 5, two)
		w.flush()
		return w.fill(), change
	}
	w, _ := fresh()
	r := w.check(nil)
	none(t, r)
	if r.Turns != 7 || r.Snapshots != 2 || len(r.Unrun) != 0 || r.Records["logic change"] != 1 {
		t.Errorf("%+v", r)
	}
	r = w.check(func(o *Options) { o.Catalog = raisedCatalog(t) })
	none(t, r)
	if r.Turns != 4 || r.Unrun["kind counter ran with logic version 1, the catalog has 2"] != 3 || r.UnrunGrains != 2 {
		t.Errorf("without version 1: %+v", r)
	}
	for want, spoil := range map[string]func(w *world, change *record){
		"the snapshot at seq 4 is not the fold before it": func(w *world, _ *record) {
			w.states["counter/cut"].(*accountv1.Account).Count-- // as version 1 would count
			w.snapshot("counter", "cut", 1)
			w.flush()
			w.fill()
		},
		"version 2 of the logic runs behind records of version 1 that no snapshot covers": func(w *world, _ *record) {
			e := w.shards[1].entries[2]
			e.records = e.records[1:]
		},
		"counter/idle has records of version 1 that no snapshot covers": func(w *world, _ *record) {
			e := w.shards[1].entries[3]
			e.records = e.records[2:]
		},
		"changes to version 1 behind records of version 2": func(_ *world, change *record) { change.logic = 1 },
		"a logic change that does not name just a kind":    func(_ *world, change *record) { change.logic = 0 },
		"says version 2 from index 9": func(w *world, _ *record) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[logicKey("counter")] = uvs(nil, 4, 1, 2, 9) })
		},
		"logic counter: is missing": func(w *world, _ *record) {
			w.after = append(w.after, func(keys map[string][]byte) { delete(keys, logicKey("counter")) })
		},
		"has no turn of this kind": func(w *world, _ *record) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[logicKey("stranger")] = uvs(nil, 0, 1, 1, 2) })
		},
	} {
		w, change := fresh()
		spoil(w, change)
		if r := w.check(nil); !strings.Contains(fmt.Sprint(r.Findings), want) {
			t.Errorf("%q is not found: %v", want, r.Findings)
		}
	}
	// a folder that was last written before there were such keys has none, and is whole
	w, _ = fresh()
	w.after = append(w.after, func(keys map[string][]byte) {
		for _, kind := range []string{"counter", "tally"} {
			if _, ok := keys[logicKey(kind)]; !ok {
				t.Errorf("no key to leave out for %s", kind)
			}
			delete(keys, logicKey(kind))
		}
	})
	none(t, w.check(nil))
}

// find returns the first record of a shard's log that fits.
func (w *world) find(fits func(s *testShard, e *testEntry, r *record) bool) (*testShard, *testEntry, *record) {
	for id := uint64(1); id <= w.n; id++ {
		for _, e := range w.shards[id].entries {
			for _, r := range e.records {
				if fits(w.shards[id], e, r) {
					return w.shards[id], e, r
				}
			}
		}
	}
	w.t.Fatal("no record fits")
	return nil, nil, nil
}

// counterAt finds the record of counter c1 with a seq.
func (w *world) counterAt(seq uint64) (*testShard, *testEntry, *record) {
	return w.find(func(_ *testShard, _ *testEntry, r *record) bool {
		return r.kind == "counter" && string(r.key) == "c1" && r.seq == seq && r.kindOf == input
	})
}

// arrived finds an input that was sent, with sends of the same source before and behind it at its target.
func (w *world) arrived() (*testShard, *testEntry, *record) {
	count := map[[2]uint64]int{}
	return w.find(func(s *testShard, _ *testEntry, r *record) bool {
		if r.sender.kind == "" {
			return false
		}
		count[[2]uint64{s.id, r.cause.lineage}]++
		return count[[2]uint64{s.id, r.cause.lineage}] == 3
	})
}

// change replaces a value in the finished store; key is by prefix and the first that has it.
func (w *world) change(shard uint64, kind byte, fn func(k string, v []byte) []byte) {
	w.after = append(w.after, func(keys map[string][]byte) {
		for _, k := range sortedKeys(keys) {
			if strings.HasPrefix(k, bkey(shard, kind)) {
				if v := fn(k, bytes.Clone(keys[k])); v != nil {
					keys[k] = v
				} else {
					delete(keys, k)
				}
				return
			}
		}
		w.t.Errorf("no key of type %d in shard %d", kind, shard)
	})
}

// numbers changes the uv fields of a value; what stands behind them stays.
func numbers(v []byte, count int, fn func([]uint64)) []byte {
	f := make([]uint64, count)
	rest := v
	for i := range f {
		var n int
		f[i], n = binary.Uvarint(rest)
		rest = rest[n:]
	}
	rest = bytes.Clone(rest)
	fn(f)
	return append(uvs(nil, f...), rest...)
}

// with finds a shard of which a key of a type is there.
func (w *world) with(kind byte) uint64 {
	keys := w.keys()
	for id := uint64(1); id <= w.n; id++ {
		for k := range keys {
			if strings.HasPrefix(k, bkey(id, kind)) {
				return id
			}
		}
	}
	w.t.Fatalf("no shard has keys of type %d", kind)
	return 0
}

func set(v []byte) func(string, []byte) []byte {
	return func(string, []byte) []byte { return v }
}

func edit(count int, fn func([]uint64)) func(string, []byte) []byte {
	return func(_ string, v []byte) []byte { return numbers(v, count, fn) }
}

// TestDefects plants one defect at a time and looks for the finding that names it.
func TestDefects(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(w *world)
		want  string
	}{
		// --- the log ---
		{"entry missing", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { delete(keys, bkey(2, 1, big(4))) })
		}, "shard 2, index 5: the log has no entry 4"},
		{"log begins late", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { delete(keys, bkey(2, 1, big(1))) })
		}, "shard 2, index 2: the log begins here, but its floor is 0"},
		{"log ends before the applied index", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) {
				delete(keys, bkey(2, 1, big(uint64(len(w.shards[2].entries)))))
			})
		}, "was applied, but the log ends at"},
		{"frame CRC", func(w *world) { w.shards[3].entries[2].spoilFrameCRC = true }, "shard 3, index 3: CRC of the frame is"},
		{"entry CRC", func(w *world) { w.shards[3].entries[2].spoilEntryCRC = true }, "shard 3, index 3: CRC of the entry is"},
		{"frame under another key", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) {
				a, b := bkey(2, 1, big(3)), bkey(2, 1, big(4))
				keys[a], keys[b] = keys[b], keys[a]
			})
		}, "shard 2, index 3: CRC of the frame is"},
		{"frame of another shard", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(2, 1, big(1))] = keys[bkey(1, 1, big(1))] })
		}, "shard 2, index 1: CRC of the frame is"},
		{"empty log value", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(2, 1, big(3))] = []byte{} })
		}, "shard 2, index 3: 0 bytes are too few"},
		{"log key of another form", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(2, 1, []byte{0, 1})] = []byte{} })
		}, "not the form of a log key"},
		{"term falls", func(w *world) {
			s := w.shards[2]
			last := s.entries[len(s.entries)-1]
			last.raftTerm, last.term = 1, 1
		}, "Raft's term falls from 2 to 1"},
		{"frame format", func(w *world) { w.shards[3].entries[2].frameFormat = 1 }, "shard 3, index 3: frame format 2: written by a later version"},
		{"Raft type", func(w *world) { w.shards[3].entries[2].raftType = 3 }, "shard 3, index 3: Raft entry type 3: written by a later version"},
		{"entry format", func(w *world) { w.shards[3].entries[2].format = 2 }, "shard 3, index 3: entry format 2: written by a later version"},
		{"feature level", func(w *world) { w.shards[3].entries[2].feature = 2 }, "shard 3, index 3: feature level 2: written by a later version"},
		{"record type", func(w *world) { w.shards[3].entries[2].recordTypeToCome = true }, "shard 3, index 3: record 0: record type 13: written by a later version"},
		{"record field", func(w *world) { w.shards[3].entries[2].unknownRecordBits = true }, "fields 0x40000000: written by a later version"},
		{"odd extension", func(w *world) { w.shards[3].entries[2].oddExtension = true }, "extension 7: written by a later version"},
		{"bytes behind the records", func(w *world) { w.shards[3].entries[2].extra = []byte{0} }, "shard 3, index 3: 1 bytes behind the last record"},
		{"record of no use yet", func(w *world) {
			_, _, r := w.counterAt(3)
			r.kindOf = tombstone
		}, "counter/c1: a tombstone record: nothing writes these yet"},
		{"time runs back", func(w *world) {
			_, e, r := w.find(func(_ *testShard, e *testEntry, r *record) bool { return r.ordinal == 1 && e.index > 3 })
			e.base -= 1000
			r.time -= 1000
		}, "journal time runs back from"},

		// --- grains ---
		{"seq leaps", func(w *world) { _, _, r := w.counterAt(3); r.seq = 4 }, "counter/c1: seq 4 follows 2"},
		{"seq twice", func(w *world) { _, _, r := w.counterAt(3); r.seq = 2 }, "counter/c1: seq 2 follows 2"},
		{"first seq", func(w *world) { _, _, r := w.counterAt(1); r.seq = 2 }, "counter/c1: seq 2 follows 0"},
		{"back", func(w *world) { _, _, r := w.counterAt(4); r.back++ }, "counter/c1: back is"},
		{"back in the first entry", func(w *world) { _, _, r := w.counterAt(1); r.back = 1 }, "counter/c1: back is 1, the grain's entry before is 0 behind"},
		{"grain in another shard", func(w *world) {
			_, _, r := w.find(func(_ *testShard, _ *testEntry, r *record) bool { return r.kind == "counter" })
			for i := 0; ; i++ {
				key := fmt.Sprint("stray", i)
				if own := ownerOf("counter", key, 4); own == 4 {
					if s, _, _ := w.find(func(_ *testShard, _ *testEntry, x *record) bool { return x == r }); s.id != 4 {
						r.key = []byte(key)
						return
					}
					w.t.Fatal("the first counter is in the last shard")
				}
			}
		}, "this grain belongs to shard 4"},
		{"record without a grain", func(w *world) { _, _, r := w.counterAt(3); r.kind, r.key = "", nil }, "a record without a grain"},
		{"id twice", func(w *world) {
			_, _, r := w.find(func(_ *testShard, _ *testEntry, r *record) bool { return r.source == "pos" && string(r.id) == "b" })
			r.id = []byte("a")
		}, "id a of source pos is that of index"},

		// --- producers ---
		{"sequence twice", func(w *world) {
			n := map[uint64]int{}
			_, _, r := w.find(func(s *testShard, _ *testEntry, r *record) bool {
				if r.sequence != 0 {
					n[s.id]++
				}
				return n[s.id] == 5
			})
			r.sequence -= 3
		}, "of producer gen follows"},
		{"epoch falls", func(w *world) {
			_, _, r := w.find(func(_ *testShard, _ *testEntry, r *record) bool { return r.epoch == 2 && r.sequence > 50 })
			r.epoch = 1
		}, "epoch of producer gen falls from 2 to 1"},
		{"session epoch falls", func(w *world) {
			s := w.shards[1]
			w.now++
			s.open = append(s.open, &record{kindOf: session, producer: "fresh", epoch: 3, time: w.now})
			w.flush()
		}, "epoch of producer fresh falls from 4 to 3"},
		{"expiry of nobody", func(w *world) {
			_, _, r := w.find(func(_ *testShard, _ *testEntry, r *record) bool { return r.kindOf == expiry })
			r.producer = "ghost"
		}, "producer ghost expires, but nothing is known of it"},
		{"session without a producer", func(w *world) {
			_, _, r := w.find(func(_ *testShard, _ *testEntry, r *record) bool { return r.kindOf == session })
			r.producer = ""
		}, "a session without a producer"},

		// --- turns ---
		{"digest", func(w *world) { _, _, r := w.counterAt(3); r.digest++ }, "counter/c1: digest of the outcome is"},
		{"effect is not the turn's", func(w *world) {
			_, _, r := w.counterAt(3)
			r.effects[0].payload = append(r.effects[0].payload, 0x18, 0x01)
			r.digest = digestOf(r)
		}, "counter/c1: effect 0, to tally/"},
		{"effect left out", func(w *world) {
			_, _, r := w.counterAt(3)
			r.effects = nil
			r.digest = 0
		}, "0 effects are journaled, the turn run again has 1"},
		{"turn fails", func(w *world) {
			_, _, r := w.counterAt(3)
			r.payload, _ = proto.Marshal(&accountv1.Charged{AmountCents: -1})
		}, "counter/c1: journaled as folded, but the turn fails when it is run again: amount must be positive"},
		{"payload broken", func(w *world) { _, _, r := w.counterAt(3); r.payload = []byte{0xff} }, "counter/c1: the payload cannot be decoded"},
		{"event unknown", func(w *world) { _, _, r := w.counterAt(3); r.event = "x.Y" }, "kind counter has no event x.Y"},
		{"event by its short name", func(w *world) { _, _, r := w.counterAt(3); r.event = "Charged" }, "kind counter has no event Charged"},

		// --- snapshots ---
		{"snapshot is not the fold", func(w *world) {
			r := w.snapshotOf("c1")
			r.payload[1]++
			r.snap.digest = xxhash.Sum64(r.payload)
		}, "is not the fold before it"},
		{"snapshot of later", func(w *world) {
			_, _, r := w.counterAt(1)
			r.payload, _ = proto.Marshal(&accountv1.Charged{AmountCents: 1000, Merchant: "m1", TransactionId: "x"})
		}, "is not the fold before it"},
		{"snapshot digest", func(w *world) { w.snapshotOf("c1").snap.digest++ }, "its bytes give"},
		{"snapshot seq", func(w *world) { w.snapshotOf("c1").seq-- }, "counter/c1: a snapshot at seq"},
		{"snapshot chunk missing", func(w *world) {
			r := w.snapshotOf("c2")
			r.snap.chunk = 2
		}, "counter/c2: chunk 2 of 3 does not follow the chunk before it"},
		{"snapshot chunks", func(w *world) {
			r := w.snapshotOf("c2")
			r.snap.chunks = 4
		}, "counter/c2: chunk 2 of 3 does not follow the chunk before it"},
		{"snapshot codec", func(w *world) { w.snapshotOf("c1").snap.codec = 5 }, "a snapshot with codec 5"},

		// --- sends ---
		{"taken in twice", func(w *world) {
			s, _, r := w.arrived()
			again := *r
			w.now++
			again.seq, again.time = w.seqs["tally/"+string(r.key)]+1, w.now
			s.open = append(s.open, &again)
			w.flush()
		}, "was taken in behind"},
		{"never taken in", func(w *world) {
			_, e, r := w.arrived()
			e.records = without(e.records, r)
		}, "was never taken in by shard"},
		{"payload changed on the way", func(w *world) {
			_, _, r := w.arrived()
			r.payload = append(r.payload, 0x18, 0x05)
		}, "there it is with another payload, sender or trace"},
		{"type changed on the way", func(w *world) { _, _, r := w.arrived(); r.event = "x.Y" }, "there it is a x.Y"},
		{"target changed on the way", func(w *world) {
			s, _, r := w.arrived()
			for i := 0; ; i++ {
				key := fmt.Sprint("other", i)
				if ownerOf("tally", key, 4) == s.id {
					r.key = []byte(key)
					return
				}
			}
		}, "there it is to tally/other"},
		{"hops", func(w *world) { _, _, r := w.arrived(); r.hops = 3 }, "there it is after 3 hops"},
		{"event time on the way", func(w *world) { _, _, r := w.arrived(); r.eventTime++ }, "there it is of event time"},
		{"trace on the way", func(w *world) { _, _, r := w.arrived(); r.trace = []byte("x") }, "there it is with another payload, sender or trace"},
		{"lineage of the cause", func(w *world) { _, _, r := w.arrived(); r.cause.lineage = 99 }, "there it is from lineage 99"},
		{"nobody sent it", func(w *world) {
			s, _, r := w.arrived()
			stray := *r
			w.now++
			stray.seq, stray.time = w.seqs["tally/"+string(r.key)]+1, w.now
			stray.cause.index = 1000
			s.open = append(s.open, &stray)
			w.flush()
		}, "which sent no such event"},
		{"shard of the sender", func(w *world) { _, _, r := w.arrived(); r.sender.shard = 9 }, "in shard 9, which belongs to shard"},

		// --- derived keys ---
		{"head seq", func(w *world) { w.change(w.with(4), 4, edit(3, func(f []uint64) { f[0]++ })) }, "the log up to the applied index"},
		{"head index", func(w *world) { w.change(w.with(4), 4, edit(3, func(f []uint64) { f[1]-- })) }, "the log up to the applied index"},
		{"head time", func(w *world) { w.change(w.with(4), 4, edit(3, func(f []uint64) { f[2]++ })) }, "the log up to the applied index"},
		{"head missing", func(w *world) { w.change(w.with(4), 4, set(nil)) }, "is missing, though the log"},
		{"head of nobody", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) {
				keys[bkey(1, 4, []byte("\x00counter\x00nobody"))] = uvs(nil, 1, 2, 3)
			})
		}, "shard 1, head counter/nobody: the log up to the applied index"},
		{"head too long", func(w *world) {
			w.change(w.with(4), 4, func(_ string, v []byte) []byte { return append(v, 0) })
		}, "1 bytes behind the last field"},
		{"head newer than applied", func(w *world) { w.shards[w.with(4)].lag = 0; w.newer() }, "the log up to the applied index"},
		{"snap place", func(w *world) { w.change(w.with(5), 5, edit(3, func(f []uint64) { f[0]++ })) }, "the log gives index"},
		{"snap missing", func(w *world) { w.change(w.with(5), 5, set(nil)) }, "is missing, though the log"},
		{"snap of nobody", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) {
				keys[bkey(1, 5, []byte("\x00counter\x00nobody\x00"), big(3))] = uvs(nil, 1, 2, 3)
			})
		}, "shard 1, snap counter/nobody seq 3: the log up to the applied index"},
		{"inbox", func(w *world) { w.change(w.with(6), 6, edit(3, func(f []uint64) { f[0]-- })) }, "gives effect"},
		{"inbox missing", func(w *world) { w.change(w.with(6), 6, set(nil)) }, "is missing, though the log"},
		{"inbox of nobody", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(1, 6, big(77))] = uvs(nil, 1, 0, 0) })
		}, "shard 1, inbox 77: nothing was taken in from there"},
		{"outbox ahead", func(w *world) { w.shards[2].cursor = 9999 }, "shard 2, outbox: index 9999 lies behind the applied index"},
		{"producer watermark", func(w *world) { w.producer(func(f []uint64) { f[1]++ }) }, "producer gen: epoch 2, watermark"},
		{"producer epoch", func(w *world) { w.producer(func(f []uint64) { f[0]++ }) }, "producer gen: epoch 3"},
		{"producer time", func(w *world) { w.producer(func(f []uint64) { f[2]++ }) }, "producer gen: epoch 2"},
		{"producer entries", func(w *world) { w.producer(func(f []uint64) { f[4]++ }) }, "producer gen: the newest entries are"},
		{"producer missing", func(w *world) { w.change(w.with(8), 8, set(nil)) }, "is missing, though the log"},
		{"producer expired", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(1, 8, []byte("old"))] = uvs(nil, 1, 0, 5, 0) })
		}, "shard 1, producer old: the log up to the applied index"},
		{"id body", func(w *world) {
			w.change(w.with(9), 9, func(_ string, v []byte) []byte { v[len(v)-1]++; return v })
		}, "the log gives index"},
		{"id place", func(w *world) { w.change(w.with(9), 9, edit(3, func(f []uint64) { f[1]++ })) }, "the log gives index"},
		{"id time", func(w *world) { w.change(w.with(9), 9, edit(3, func(f []uint64) { f[2]++ })) }, "the log gives index"},
		{"id bucket", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) {
				for _, k := range sortedKeys(keys) {
					if k[8] == 9 {
						keys[k[:16]+string(k[16]+1)+k[17:]] = keys[k]
						delete(keys, k)
						return
					}
				}
			})
		}, "belongs to bucket"},
		{"id missing", func(w *world) { w.change(w.with(9), 9, set(nil)) }, "is missing, though the log"},
		{"id of nobody", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(1, 9, big(1), big(2))] = append(uvs(nil, 2, 0, 5), big(9)...) })
		}, "record 0 of index 2 is not the event with this id"},
		{"state is not the fold", func(w *world) { w.kept[1].state[1]++ }, "the stored state of counter/c3 at seq"},
		{"state of another seq", func(w *world) { w.kept[1].seq-- }, "the stored state of counter/c3 at seq"},
		{"state digest", func(w *world) {
			w.change(w.with(0x0b), 0x0b, func(_ string, v []byte) []byte { v[len(v)-1]++; return v })
		}, "the digest of the state is"},
		{"state bytes", func(w *world) {
			w.change(w.with(0x0b), 0x0b, func(_ string, v []byte) []byte { v[len(v)-9]++; return v })
		}, "the digest of the state is"},
		{"state too short", func(w *world) { w.change(w.with(0x0b), 0x0b, set([]byte{1, 1, 0, 0, 0, 0, 1, 2})) }, "no digest at the end"},
		{"state of nobody", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) {
				keys[bkey(1, 0x0b, []byte("\x00counter\x00nobody"))] = keys[bkey(ownerOf("counter", "c1", 4), 0x0b, []byte("\x00counter\x00c1"))]
			})
		}, "shard 1, state counter/nobody: its record"},
		{"state not applied", func(w *world) { w.stateKeyWith("c3", func(f []uint64) { f[0] = 1000 }) }, "state counter/c3: its record, seq 1000, is not in the log"},
		{"snapshot of a state", func(w *world) { w.stateKeyWith("c2", func(f []uint64) { f[3]-- }) }, "state counter/c2: it names the snapshot at seq"},
		{"later snapshot of a state", func(w *world) {
			_, e, r := w.find(func(_ *testShard, _ *testEntry, r *record) bool {
				return r.kindOf == snapshot && string(r.key) == "c1" && r.seq > 10
			})
			w.stateKeyWith("c1", func(f []uint64) { f[2], f[3], f[4], f[5] = r.seq, e.index, uint64(r.ordinal), uint64(r.time) })
		}, "state counter/c1: it names the snapshot at seq 12"},
		{"applied digest", func(w *world) {
			w.change(2, 3, func(_ string, v []byte) []byte { v[len(v)-3]++; return v })
		}, "shard 2, applied: digest is"},
		{"applied term", func(w *world) { w.change(2, 3, edit(6, func(f []uint64) { f[1]-- })) }, "shard 2, applied: term is 1"},
		{"applied lineage", func(w *world) { w.change(2, 3, edit(6, func(f []uint64) { f[3]++ })) }, "applied: the lineage is 3, that of the first data entry is 2"},
		{"applied last data", func(w *world) { w.change(2, 3, edit(6, func(f []uint64) { f[4]-- })) }, "shard 2, applied: last data entry is"},
		{"applied last time", func(w *world) { w.change(2, 3, edit(6, func(f []uint64) { f[5]++ })) }, "shard 2, applied: last journal time is"},
		{"applied behind what is there", func(w *world) { w.change(2, 3, edit(6, func(f []uint64) { f[0]-- })) }, "the log up to"},
		{"applied missing", func(w *world) { w.change(2, 3, set(nil)) }, "the log up to the applied index 0 has no record"},
		{"applied without voters", func(w *world) {
			w.change(2, 3, func(_ string, v []byte) []byte { return v[:len(v)-2] })
		}, "shard 2, applied: the configuration has no voters"},
		{"applied cut off", func(w *world) {
			w.change(2, 3, func(_ string, v []byte) []byte { return v[:3] })
		}, "shard 2, applied: "},
		{"floor above applied", func(w *world) { w.change(2, 3, edit(6, func(f []uint64) { f[2] = 10000 })) }, "the floor 10000 is above"},
		{"commit behind the end", func(w *world) { w.shards[2].hard = [3]uint64{2, 1, 10000} }, "shard 2, hard: index 10000 was committed, but the log ends at"},
		{"hard term", func(w *world) { w.shards[2].hard = [3]uint64{1, 1, 3} }, "shard 2, hard: the term is 1, but the log has an entry of term 2"},
		{"hard missing", func(w *world) { w.change(2, 2, set(nil)) }, "shard 2, hard: is missing"},
		{"hard too long", func(w *world) {
			w.change(2, 2, func(_ string, v []byte) []byte { return append(v, 1) })
		}, "shard 2, hard: 1 bytes behind the last field"},

		// --- keys that should not be ---
		{"timer key of no form", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(2, 0x0a, []byte("x"))] = []byte{1} })
		}, "shard 2, timer x: not the form of a timer key"},
		{"unknown key", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(2, 0x44)] = []byte{1} })
		}, "shard 2, key of type 0x44: no such key"},
		{"key type 0", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(2, 0)] = []byte{1} })
		}, "shard 2, key of type 0x00: no such key"},
		{"key of the node", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(0, 1)] = []byte{1} })
		}, "the node's own keys have no such key"},
		{"shard that is not there", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(5, 2)] = []byte{1} })
		}, "shard 5 hard: a key of a shard that is not there: the store has 4"},
		{"key of no form", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys["zzz"] = []byte{1} })
		}, "key 7a7a7a: a key of a shard that is not there"},
		{"short key inside", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[string(big(2))] = []byte{1} })
		}, "key 0000000000000002"},

		// --- the node ---
		{"node missing", func(w *world) { w.change(0, 0x7f, set(nil)) }, "shard 0 node: is missing"},
		{"node format", func(w *world) { w.change(0, 0x7f, set([]byte(`{"format":2,"shards":4}`))) }, "format 2: written by a later version"},
		{"node shards", func(w *world) { w.change(0, 0x7f, set([]byte(`{"format":1,"shards":3}`))) }, "3 shards: must be a power of two"},
		{"node not readable", func(w *world) { w.change(0, 0x7f, set([]byte(`{`))) }, "shard 0 node: not readable"},
		{"node of another processor", func(w *world) {
			w.change(0, 0x7f, set([]byte(`{"format":1,"goarch":"other","shards":4,"node_id":1}`)))
		}, "written on other"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := rich(t).fill()
			test.spoil(w)
			r := w.check(nil)
			for _, f := range r.Findings {
				if strings.Contains(f.String(), test.want) {
					t.Logf("of %d: %v", r.Total, f)
					return
				}
			}
			t.Errorf("want a finding with %q, got %d:", test.want, r.Total)
			for _, f := range r.Findings[:min(len(r.Findings), 10)] {
				t.Log(f)
			}
		})
	}
}

func (w *world) snapshotOf(key string) *record {
	_, _, r := w.find(func(_ *testShard, _ *testEntry, r *record) bool { return r.kindOf == snapshot && string(r.key) == key })
	r.payload = bytes.Clone(r.payload)
	return r
}

// producer edits the value of the producer gen, up to its first entry.
func (w *world) producer(fn func([]uint64)) {
	w.after = append(w.after, func(keys map[string][]byte) {
		for _, k := range sortedKeys(keys) {
			if k[8] == 8 && k[9:] == "gen" {
				keys[k] = numbers(keys[k], 6, fn)
				return
			}
		}
		w.t.Error("no shard knows the producer")
	})
}

// stateKeyWith edits the state key of a counter, and makes its digest fit.
func (w *world) stateKeyWith(key string, fn func([]uint64)) {
	w.after = append(w.after, func(keys map[string][]byte) {
		k := bkey(ownerOf("counter", key, w.n), 0x0b, []byte("\x00counter\x00"+key))
		i := slices.IndexFunc(w.kept, func(k keptState) bool { return k.key == key })
		v := numbers(keys[k], 6, fn)
		seq, _ := binary.Uvarint(v)
		digest := xxhash.Sum64(binary.LittleEndian.AppendUint64(bytes.Clone(w.kept[i].state), seq))
		keys[k] = binary.LittleEndian.AppendUint64(v[:len(v)-8], digest)
	})
}

// newer lets the applied state of the first shard with heads lag behind its other keys.
func (w *world) newer() {
	id := w.with(4)
	current := map[string][]byte{}
	w.shards[id].derive(current)
	w.shards[id].lag = 3
	w.after = append(w.after, func(keys map[string][]byte) {
		for k, v := range current {
			if k[8] == 4 {
				keys[k] = v
			}
		}
	})
}

func without(records []*record, r *record) []*record {
	var out []*record
	for _, x := range records {
		if x != r {
			out = append(out, x)
		}
	}
	return out
}

// TestFindingsAreBounded: a store with more wrong than anyone reads is still told in a few lines, with the count.
func TestFindingsAreBounded(t *testing.T) {
	w := rich(t).fill()
	for _, s := range w.shards {
		for _, e := range s.entries {
			for _, r := range e.records {
				r.digest++
			}
		}
	}
	r := w.check(func(o *Options) { o.MaxFindings = 5 })
	if len(r.Findings) != 5 || r.Total < 100 || r.OK() {
		t.Errorf("%d findings kept, %d in all", len(r.Findings), r.Total)
	}
}

// TestRefusedFolders: what is not a data folder at rest is refused in one line.
func TestRefusedFolders(t *testing.T) {
	run := func(dir string, fs vfs.FS) string {
		t.Helper()
		r, err := Run(t.Context(), Options{Dir: dir, FS: fs})
		if err == nil || r != nil {
			t.Fatalf("%s was read: %+v", dir, r)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("not one line: %q", err)
		}
		return err.Error()
	}
	dir := t.TempDir()
	if got := run(dir+"/none", nil); !strings.Contains(got, "cannot be read") {
		t.Error(got)
	}
	if got := run(dir, nil); !strings.Contains(got, "is not a data folder of Granary") {
		t.Error(got)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("a folder that is none was written to: %v %v", names, err)
	}
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(dir+"/file", nil); !strings.Contains(got, "is not a folder") {
		t.Error(got)
	}

	inUse := dir + "/in-use"
	db, err := pebble.Open(inUse, &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	if got := run(inUse, nil); !strings.Contains(got, "is in use by another process") {
		t.Error(got)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// an empty store is no data folder either, but that is a finding: it may have been one
	r, err := Run(t.Context(), Options{Dir: inUse})
	if err != nil || len(r.Findings) != 1 || !strings.Contains(r.Findings[0].String(), "shard 0 node: is missing") {
		t.Errorf("%v %+v", err, r)
	}
}

func TestCanceled(t *testing.T) {
	w := rich(t).fill()
	fs := write(t, w.keys(), 1, nil, nil)
	for calls := range 12 {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Run(ctx, Options{Dir: testDir, FS: fs, Catalog: w.catalog, Progress: func(Progress) {
			if calls--; calls < 0 {
				cancel()
			}
		}})
		if calls < 0 && err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		cancel()
	}
}

// TestIndependent: a second reader that shares code with the writer would share its mistakes. The package chunk reads what
// Pebble wrote; nothing of ours writes it.
func TestIndependent(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/granary-dev/granary/"
	for _, path := range strings.Fields(string(out)) {
		if p, ok := strings.CutPrefix(path, module); ok && p != "persistence/verify" && p != "persistence/chunk" && p != "grains" {
			t.Errorf("depends on %s", p)
		}
	}
}

// BenchmarkRun verifies a store in which each event is one turn that sends to another: two turns an event.
func BenchmarkRun(b *testing.B) {
	const events = 20_000
	w := newWorld(b, 4)
	for i := range events {
		w.charge(fmt.Sprint("c", i%3000), fmt.Sprint("m", i%500), int64(i), withID("", fmt.Sprint(i)))
		if i%100 == 99 {
			w.flush()
		}
	}
	w.deliver()
	fs := write(b, w.fill().keys(), 50, nil, func(db *pebble.DB) {
		if err := db.Flush(); err != nil {
			b.Fatal(err)
		}
	})
	b.ReportAllocs()
	for b.Loop() {
		r, err := Run(b.Context(), Options{Dir: testDir, FS: fs, Catalog: w.catalog})
		if err != nil || !r.OK() || r.SendsMatched != events {
			b.Fatal(err, r)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/events, "ns/event")
}
