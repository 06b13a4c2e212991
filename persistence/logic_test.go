package persistence

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/granary-dev/granary/persistence/entry"
)

// TestErasOfSeveralKinds: each kind has eras of its own, in whatever order their records come. What is damaged in a log that
// they are learned from is passed over.
func TestErasOfSeveralKinds(t *testing.T) {
	s := openStore(t, vfs.NewMem())
	defer s.Close()
	l := openLog(t, s)
	x := ask(s)
	type step struct {
		kind    string
		version uint32
		change  bool
	}
	seqs := map[string]uint64{}
	for i, step := range []step{
		{"a", 1, false}, {"b", 2, false}, {"a", 1, false}, {"b", 3, false}, {"b", 3, false}, {"a", 1, false}, {"b", 3, true}, {"a", 2, false}, {"a", 4, true}, {"c", 1, false},
	} {
		index, typ, term := uint64(i+1), raftpb.EntryNormal, uint64(1)
		var b entry.Builder
		b.Reset(0)
		r := entry.Record{Type: entry.LogicChange, Kind: step.kind, Logic: step.version}
		if !step.change {
			seqs[step.kind]++
			r.Type, r.Key, r.Seq = entry.Input, []byte("x"), seqs[step.kind]
		}
		b.Append(&r)
		e := &raftpb.Entry{Index: &index, Term: &term, Type: &typ, Data: b.Close(entry.Header{Lineage: 1, Term: 1, Index: index, Previous: index - 1})}
		put(t, s, l, e)
		apply(t, x, e)
	}
	check := func(x *Index, want string) {
		t.Helper()
		var got string
		for _, k := range x.Kinds() {
			got += fmt.Sprintf("%s%v%t ", k, x.Eras(k), x.Raised(k))
		}
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	want := "a[{4 9}]true b[{3 4}]true c[{1 10}]false "
	check(x, want)
	if err := x.Checkpoint(0, 0); err != nil {
		t.Fatal(err)
	}
	check(ask(s), want)
	for _, k := range []string{"a", "b", "c"} {
		if err := s.db.Delete(append(key(1, keyLogic), k...), nil); err != nil {
			t.Fatal(err)
		}
	}
	check(ask(s), want)
	v, err := s.get(logKey(nil, 1, 4))
	if err != nil {
		t.Fatal(err)
	}
	v[len(v)/2] ^= 1
	if err := s.db.Set(logKey(nil, 1, 4), v, nil); err != nil {
		t.Fatal(err)
	}
	check(ask(s), "a[{4 9}]true b[{3 5}]true c[{1 10}]false ")
}
