package slots

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noon = time.Unix(1_800_000_000, 0)

func open(t testing.TB, dir string, shards int, now time.Time) (*File, []Death) {
	t.Helper()
	f, died, err := Open(dir, shards, now)
	if err != nil {
		t.Fatal(err)
	}
	return f, died
}

func (f *File) die(t testing.TB) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDeathsAreCounted: a turn that had begun and not ended when the process died counts, by its identity, until it is
// forgotten or a day has passed; one that had ended does not.
func TestDeathsAreCounted(t *testing.T) {
	dir := t.TempDir()
	f, died := open(t, dir, 4, noon)
	if len(died) != 0 {
		t.Fatalf("a new file has deaths: %+v", died)
	}
	s := f.Slot(2)
	if n := s.Begin(7, "account", "42", "Charged"); n%2 != 1 || s.Turn() != n || !s.End(n) || s.End(n) || s.Turn() != 0 {
		t.Fatal("a turn does not begin and end once")
	}
	f.Slot(3).Begin(9, "account", "43", "Charged")
	f.die(t)
	f, died = open(t, dir, 4, noon.Add(time.Minute))
	if want := []Death{{9, 3, "account/43", "Charged", 1, noon.Add(time.Minute)}}; fmt.Sprint(died) != fmt.Sprint(want) {
		t.Fatalf("died %+v, want %+v", died, want)
	}
	if d := f.Deaths(2); len(d) != 0 {
		t.Errorf("after one death: %+v", d)
	}
	f.die(t)
	if f, died = open(t, dir, 4, noon.Add(time.Minute)); len(died) != 0 {
		t.Errorf("one death counts twice: %+v", died)
	}
	f.Slot(3).Begin(9, "account", "43", "Charged")
	long := strings.Repeat("k", 300)
	f.Slot(4).Begin(11, "account", long, "granary."+long+".v1.Event")
	f.die(t)
	f, _ = open(t, dir, 4, noon.Add(time.Hour))
	if d := f.Deaths(2); len(d) != 1 || d[0].Identity != 9 || d[0].Count != 2 || d[0].Shard != 3 {
		t.Errorf("after two deaths: %+v", d)
	}
	if d := f.Deaths(1); len(d) != 2 || d[1].Grain != "account/"+long[:grainText-8] || !strings.HasSuffix(d[1].Event, "k.v1.Event") || len(d[1].Event) != eventText {
		t.Errorf("text is not cut to fit: %+v", d)
	}
	f.Forget(9)
	f.die(t)
	f, _ = open(t, dir, 4, noon.Add(2*time.Hour))
	if d := f.Deaths(1); len(d) != 1 || d[0].Identity != 11 {
		t.Errorf("after one was forgotten: %+v", d)
	}
	f.die(t)
	f, _ = open(t, dir, 4, noon.Add(26*time.Hour))
	if d := f.Deaths(1); len(d) != 0 {
		t.Errorf("a day later: %+v", d)
	}
	f.die(t)
}

// TestForeignContents: whatever stands in the file, a node starts, and no event is condemned that never ran.
func TestForeignContents(t *testing.T) {
	whole := func(change func(b []byte) []byte) []byte {
		return change(append(header(4), make([]byte, (4+deaths)*size)...))
	}
	for name, contents := range map[string][]byte{
		"empty":       {},
		"text":        []byte(strings.Repeat("not ours\n", 3000)),
		"short":       header(4),
		"long":        whole(func(b []byte) []byte { return append(b, 1) }),
		"more shards": append(header(5), make([]byte, (5+deaths)*size)...),
		"all ones": whole(func(b []byte) []byte {
			for i := range b[size:] {
				b[size+i] = 0xff
			}
			return b
		}),
		"torn": whole(func(b []byte) []byte { b[size], b[size*5] = 1, 9; b[size+8], b[size*5+8] = 5, 5; return b }),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "turns"), contents, 0o644); err != nil {
			t.Fatal(err)
		}
		f, died := open(t, dir, 4, noon)
		if len(died)+len(f.Deaths(1)) != 0 {
			t.Errorf("%s: %+v %+v", name, died, f.Deaths(1))
		}
		for shard := range uint64(4) {
			s := f.Slot(shard + 1)
			if n := s.Begin(1, "a", "b", "c"); s.Turn() != n || !s.End(n) {
				t.Errorf("%s: the slot of shard %d is of no use", name, shard+1)
			}
		}
		f.die(t)
		got, err := os.ReadFile(filepath.Join(dir, "turns"))
		if err != nil || len(got) != (1+4+deaths)*size || !bytes.HasPrefix(got, header(4)) {
			t.Errorf("%s: the file has %d bytes: %v", name, len(got), err)
		}
	}
}

// TestMoreDeathsThanRoom: the oldest deaths make room.
func TestMoreDeathsThanRoom(t *testing.T) {
	dir := t.TempDir()
	for i := range uint64(deaths + 10) {
		f, _ := open(t, dir, 1, noon.Add(time.Duration(i)*time.Second))
		f.Slot(1).Begin(100+i, "a", "b", "c")
		f.die(t)
	}
	f, _ := open(t, dir, 1, noon.Add(time.Hour))
	defer f.die(t)
	all := f.Deaths(1)
	if len(all) != deaths || all[0].Identity != 110 || all[deaths-1].Identity != 100+deaths+9 {
		t.Errorf("%d are left, %d to %d", len(all), all[0].Identity, all[len(all)-1].Identity)
	}
}

// BenchmarkTurn is what the note of a turn costs.
func BenchmarkTurn(b *testing.B) {
	f, _ := open(b, b.TempDir(), 4, noon)
	defer f.die(b)
	s := f.Slot(1)
	for b.Loop() {
		s.End(s.Begin(7, "account", "card-123456", "granary.account.v1.Charged"))
	}
}
