package persistence

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/persistence/entry"
)

// TestDeadLetters: whatever is applied, written and opened again, the open dead letters are those of the log; also where a
// version that knows no dead keys wrote the folder, in whole or since a checkpoint.
func TestDeadLetters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := openStore(t, vfs.NewMem())
		defer s.Close()
		l := openLog(t, s)
		x := ask(s)
		type letter struct {
			name      string
			kind, key string
			seq       uint64
			settled   bool
		}
		var letters []*letter
		seqs := map[string]uint64{}
		var index, previous, checkpointed uint64
		var since []*raftpb.Entry // the last checkpoint
		write := func() {
			if err := x.Checkpoint(0, 0); err != nil {
				t.Fatal(err)
			}
			since, checkpointed = nil, index
		}
		step := func() {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			default:
				index++
				at, typ, term := index, raftpb.EntryNormal, uint64(1)
				var b entry.Builder
				b.Reset(0)
				for range rapid.IntRange(1, 4).Draw(t, "records") {
					i := rapid.IntRange(0, 2*len(letters)).Draw(t, "letter")
					if i < len(letters) && !letters[i].settled {
						d := letters[i]
						d.settled = true
						b.Append(&entry.Record{Type: entry.Settlement, Kind: d.kind, Key: []byte(d.key), Seq: d.seq, Reason: []byte("dropped")})
						continue
					}
					kind, key := rapid.SampledFrom([]string{"a", "ab", "b"}).Draw(t, "kind"), rapid.SampledFrom([]string{"x", "xy", "y"}).Draw(t, "key")
					seqs[kind+key]++
					d := &letter{fmt.Sprintf("%s/%s#%d", kind, key, seqs[kind+key]), kind, key, seqs[kind+key], false}
					letters = append(letters, d)
					b.Append(&entry.Record{Type: entry.DeadLetter, Kind: kind, Key: []byte(key), Seq: d.seq, Time: int64(index)})
				}
				e := &raftpb.Entry{Index: &at, Term: &term, Type: &typ, Data: b.Close(entry.Header{Lineage: 1, Term: 1, Index: index, Previous: previous})}
				previous = index
				put(t, s, l, e)
				apply(t, x, e)
				since = append(since, e)
			case 7:
				write()
			case 8: // opened again, as after a crash
				x = ask(s)
				for _, e := range since {
					apply(t, x, e)
				}
			case 9: // an earlier version was here: it wrote a checkpoint, but nothing of dead letters
				if checkpointed == 0 {
					return
				}
				if rapid.Bool().Draw(t, "all") {
					k := key(1, keyDead)
					if err := s.db.DeleteRange(k, successor(k), nil); err != nil {
						t.Fatal(err)
					}
					writeEarlier(t, s, x, k)
					since, checkpointed = nil, index
				} else if slices.ContainsFunc(letters, func(d *letter) bool { return d.settled }) {
					return // it would have stopped at the settlement
				} else {
					writeEarlier(t, s, x, key(1, keyDead))
					since, checkpointed = nil, index
				}
				x = ask(s)
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			step()
			var open []*letter
			for _, d := range letters {
				if _, is, err := x.DeadLetter(d.kind, d.key, d.seq); err != nil || is == d.settled {
					t.Fatalf("%s: open=%t, %v", d.name, is, err)
				}
				if !d.settled {
					open = append(open, d)
				}
			}
			slices.SortFunc(open, func(a, b *letter) int {
				return slices.Compare([]string{a.kind, a.key, fmt.Sprintf("%08d", a.seq)}, []string{b.kind, b.key, fmt.Sprintf("%08d", b.seq)})
			})
			if n := x.OpenDeadLetters(); n != len(open) {
				t.Fatalf("%d are open, counted are %d", len(open), n)
			}
			kind, prefix := rapid.SampledFrom([]string{"", "a", "ab", "c"}).Draw(t, "kind"), ""
			if kind != "" {
				prefix = rapid.SampledFrom([]string{"", "x", "xy"}).Draw(t, "prefix")
			}
			var want, got []string
			for _, d := range open {
				if (kind == "" || d.kind == kind) && strings.HasPrefix(d.key, prefix) {
					want = append(want, d.name)
				}
			}
			for after := (DeadLetter{}); ; {
				page, err := x.DeadLetters(kind, prefix, after, 2)
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range page {
					got = append(got, fmt.Sprintf("%s/%s#%d", d.Kind, d.Key, d.Seq))
				}
				if len(page) < 2 {
					break
				}
				after = page[1]
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%q/%q lists %v, want %v", kind, prefix, got, want)
			}
		}
	})
}

// writeEarlier writes a checkpoint as a version that knows no dead keys does: what is under k stays as it is.
func writeEarlier(t *rapid.T, s *Store, x *Index, k []byte) {
	var kept [][2][]byte
	keep := func(k, v []byte) { kept = append(kept, [2][]byte{slices.Clone(k), slices.Clone(v)}) }
	scan := func(fn func(k, v []byte)) {
		if err := x.scan(k, func(rest, v []byte) error {
			fn(append(slices.Clone(k), rest...), v)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	scan(keep)
	if err := x.Checkpoint(0, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.db.DeleteRange(k, successor(k), nil); err != nil {
		t.Fatal(err)
	}
	for _, kv := range kept {
		if err := s.db.Set(kv[0], kv[1], nil); err != nil {
			t.Fatal(err)
		}
	}
}
