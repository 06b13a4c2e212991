package workload

import (
	"reflect"
	"strings"
	"testing"
)

// draw lets all clients ask in turn.
func draw(w *Workload, n int) []Operation {
	all := make([]Operation, n)
	for i := range all {
		all[i] = w.Next(i%w.Clients(), int64(i))
	}
	return all
}

func TestSameSeedSameOperations(t *testing.T) {
	a, b := draw(New(Options{Seed: 1}), 10_000), draw(New(Options{Seed: 1}), 10_000)
	if !reflect.DeepEqual(a, b) {
		t.Error("one seed gave two workloads")
	}
	if reflect.DeepEqual(a, draw(New(Options{Seed: 2}), 10_000)) {
		t.Error("two seeds gave one workload")
	}
}

// TestOperations holds a workload to what its package promises.
func TestOperations(t *testing.T) {
	for _, o := range []Options{{Seed: 1}, {Seed: 2, Clients: 1}, {Seed: 3, Producers: -1, Values: 20}, {Seed: 4, Clients: 30, Producers: 30}} {
		w := New(o)
		first := map[uint64]Operation{}
		perGrain, sequences := map[string]int{}, map[int]uint64{}
		contended, counts := 0, map[string]int{}
		const n = 50_000
		for _, op := range draw(w, n) {
			if op.Contended {
				contended++
			}
			if op.Action != Append {
				counts[op.Action.name()]++
				if op.Value != 0 || op.ID() != "" || op.Key == "" {
					t.Fatalf("%+v", op)
				}
				continue
			}
			before, known := first[op.Value]
			if known != op.Repeat {
				t.Fatalf("value %s: known %v, repeated %v", FormatValue(op.Value), known, op.Repeat)
			}
			if op.Repeat {
				counts["repeat"]++
				op.Repeat = false
				if op != before || op.Sequence != 0 {
					t.Fatalf("%+v repeats %+v", op, before)
				}
				continue
			}
			first[op.Value] = op
			perGrain[op.Key]++
			if op.To != "" {
				counts["transfer"]++
			} else {
				counts["append"]++
			}
			if producer := w.IsProducer(op.Client); producer != (op.Sequence != 0) || producer != (op.ID() == "") {
				t.Fatalf("client %d is a producer: %v; %+v", op.Client, producer, op)
			}
			if op.Sequence != 0 {
				if sequences[op.Client]++; op.Sequence != sequences[op.Client] {
					t.Fatalf("event %d of client %d has the number %d", sequences[op.Client], op.Client, op.Sequence)
				}
			}
		}
		for key, values := range perGrain {
			if values > w.o.Values {
				t.Errorf("%s was given %d values", key, values)
			}
		}
		if share := float64(contended) / n; share < 0.2 || share > 0.5 {
			t.Errorf("%+v: %.2f of the operations are on contended grains", o, share)
		}
		for _, name := range []string{"append", "transfer", "read", "stale read", "repeat"} {
			if counts[name] < n/20 && (name != "repeat" || o.Producers != o.Clients) && (name != "repeat" || o.Producers == -1) {
				t.Errorf("%+v: only %d of %d operations are %s", o, counts[name], n, name)
			}
		}
	}
}

// TestMore: callers do all the rest as well, producers do not; all have values of their own, and what is forgotten was set.
func TestMore(t *testing.T) {
	w := New(Options{Seed: 1, More: true})
	first, forgotten := map[uint64]Operation{}, map[uint64]bool{}
	counts := map[Action]int{}
	elsewhere, repeating := 0, 0
	const n = 20_000
	for _, op := range draw(w, n) {
		counts[op.Action]++
		if op.Action.Reads() {
			continue
		}
		before, known := first[op.Value]
		if known != op.Repeat {
			t.Fatalf("%+v: known %v", op, known)
		}
		if op.Repeat {
			if op.Repeat = false; op != before {
				t.Fatalf("%+v repeats %+v", op, before)
			}
			continue
		}
		first[op.Value] = op
		switch {
		case op.Action != Append && (w.IsProducer(op.Client) || op.ID() == "" || op.Key == ""):
			t.Fatalf("%+v", op)
		case op.Action == Ask && op.To != "":
			elsewhere++
		case op.Action == Remind && op.Every > 0:
			repeating++
		case op.Action == Remind && (op.After < 0 || op.After >= maxDelay):
			t.Fatalf("%+v", op)
		case op.Action == Forget:
			if of := first[op.Of]; of.Action != Remind || of.Key != op.Key || of.Client != op.Client || forgotten[op.Of] {
				t.Fatalf("%+v forgets %+v", op, of)
			}
			forgotten[op.Of] = true
		}
	}
	for _, a := range []Action{Append, Read, StaleRead, Ask, Announce, Remind, Forget} {
		if counts[a] < n/100 {
			t.Errorf("only %d of %d operations are %s", counts[a], n, a.name())
		}
	}
	if elsewhere < n/100 || repeating < n/400 {
		t.Errorf("%d questions are answered elsewhere, %d reminders repeat", elsewhere, repeating)
	}
	token := "probe/x#3"
	if op := w.Answer(7, token, 5); op.Action != Answer || op.Token != token || op.Event() == nil || op.Value == 0 {
		t.Errorf("%+v", op)
	}
}

func (a Action) name() string { return (&Operation{Action: a}).String() }

func TestTimeline(t *testing.T) {
	var h History
	a := h.Begin(Operation{Client: 1, Action: Append, Key: "p1", Value: 1<<clientBits | 1}, 1_000)
	b := h.Begin(Operation{Client: 2, Action: Append, Key: "p2", Value: 2<<clientBits | 1, To: "p1", Amount: 7}, 2_000)
	h.Begin(Operation{Client: 3, Action: Append, Key: "p2", Value: 3<<clientBits | 1}, 2_000)
	h.End(a, 2_001_000, OK, nil)
	r := h.Begin(Operation{Client: 1, Action: Read, Key: "p1"}, 2_001_000)
	again := h.Begin(Operation{Client: 1, Action: Append, Key: "p1", Value: 1<<clientBits | 1, Repeat: true}, 2_001_000)
	h.End(b, 3_000_000, Unknown, nil)
	h.End(r, 3_001_000, OK, []uint64{1<<clientBits | 1})
	h.End(again, 3_001_000, Failed, nil)
	h.Begin(Operation{Client: 2, Action: StaleRead, Key: "p1"}, 4_001_000)
	want := `probe/p1
            0s > #0     client 1   append 1:1
           1µs > #1     client 2   append 2:1, 7 to p1, by p2
           2ms < #0     client 1   append 1:1: ok
           2ms > #3     client 1   read
           2ms > #4     client 1   append 1:1 again
       2.999ms < #1     client 2   append 2:1, 7 to p1, by p2: unknown
           3ms < #3     client 1   read: ok, 1 value: 1:1
           3ms < #4     client 1   append 1:1 again: failed
           4ms > #5     client 2   stale read
`
	if got := h.Timeline("p1"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := (Totals{OK: 2, Failed: 1, Unknown: 3}); h.Totals() != got {
		t.Errorf("%+v", h.Totals())
	}
	if got := FormatList(make([]uint64, 9)); got != "9 values: …"+strings.Repeat(" 0:0", 8) {
		t.Error(got)
	}
}

// TestListsShareMemory: a read that shows the beginning of another costs nothing, and shows what it was given.
func TestListsShareMemory(t *testing.T) {
	var h History
	read := func(values ...uint64) []uint64 {
		i := h.Begin(Operation{Action: Read, Key: "p1"}, 0)
		h.End(i, 0, OK, values)
		if got := h.Records()[i].Values; !reflect.DeepEqual(got, values) {
			t.Fatalf("got %v, want %v", got, values)
		}
		return h.Records()[i].Values
	}
	long := read(1, 2, 3)
	if short := read(1, 2); &short[0] != &long[0] || cap(short) != 2 {
		t.Error("the beginning of a list has memory of its own")
	}
	if other := read(1, 3); &other[0] == &long[0] {
		t.Error("another list has the memory of the first")
	}
	read(1, 2, 3, 4)
}

// TestAround: of a long story the lines around an operation are shown, and where others are left out.
func TestAround(t *testing.T) {
	var h History
	for i := range uint64(10) {
		op := h.Begin(Operation{Action: Append, Key: "p1", Value: i + 1}, int64(i))
		h.End(op, int64(i), OK, nil)
	}
	want := `probe/p1
…
           3ns < #3     client 0   append 0:4: ok
           4ns > #4     client 0   append 0:5
           4ns < #4     client 0   append 0:5: ok
           5ns > #5     client 0   append 0:6
…
`
	if got := h.Around("p1", []int{4}, 1); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := h.Around("p1", []int{77}, 1); !strings.HasPrefix(got, "probe/p1\n…\n") || !strings.HasSuffix(got, "append 0:10: ok\n") {
		t.Errorf("the end is\n%s", got)
	}
}
