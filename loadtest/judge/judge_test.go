package judge

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/granary-dev/granary/loadtest/workload"
)

// TestMain gives the random tests a seed, so that a run can be repeated; -rapid.seed=N is another one.
func TestMain(m *testing.M) {
	flag.Parse()
	for name, value := range map[string]string{"rapid.seed": "1", "rapid.nofailfile": "true"} {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue {
			if err := flag.Set(name, value); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}

// trial is a sound history that a test may break.
type trial struct {
	history *workload.History
	final   Final
	feeds   []Feed
	random  *rand.Rand
}

func draw(rt *rapid.T) *trial {
	o := workload.Options{
		Seed: rapid.Uint64().Draw(rt, "seed"), Clients: rapid.IntRange(2, 8).Draw(rt, "clients"),
		Grains: 2, Contended: 2, Values: rapid.IntRange(5, 40).Draw(rt, "values"),
	}
	h, final, feeds := play(o, rapid.SampledFrom([]int{0, 300, 1000, 1500, 3000}).Draw(rt, "steps"))
	return &trial{h, final, feeds, rand.New(rand.NewPCG(o.Seed, 99))}
}

// check lets all judges speak.
func (w *trial) check() []Violation {
	return append(Check(w.history, w.final), CheckFeeds(w.history, w.feeds)...)
}

// TestSound: what a correct world does is not blamed, and porcupine agrees.
func TestSound(t *testing.T) {
	var acked, unknown int
	rapid.Check(t, func(rt *rapid.T) {
		w := draw(rt)
		if v := w.check(); len(v) > 0 {
			rt.Fatalf("%v\n%s", v[0], w.history.Timeline(v[0].Key))
		}
		for key := range w.final {
			if !Linearizable(w.history, w.final, key) {
				rt.Fatalf("porcupine finds no order\n%s", w.history.Timeline(key))
			}
		}
		totals := w.history.Totals()
		acked, unknown = acked+totals.OK, unknown+totals.Unknown
	})
	if acked < 17_000 || unknown < 4_000 {
		t.Errorf("%d operations acknowledged, %d unknown: these worlds are too quiet", acked, unknown)
	}
}

// TestPlanted breaks sound histories in one place and looks for the rule in the verdict.
func TestPlanted(t *testing.T) {
	for _, p := range plants {
		t.Run(string(p.rule)+"/"+p.name, func(t *testing.T) {
			planted := 0
			rapid.Check(t, func(rt *rapid.T) {
				w := draw(rt)
				key, ok := p.plant(w)
				if !ok {
					return
				}
				planted++
				found := w.check()
				if !slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == p.rule && v.Key == key }) {
					rt.Fatalf("%s is not blamed for %s, but for\n%v\n%s", key, p.rule, found, w.history.Timeline(key))
				}
				if !p.beyond && Linearizable(w.history, w.final, key) {
					rt.Fatalf("porcupine sees nothing wrong\n%s\n%s", w.history.Timeline(key), workload.FormatList(w.final[key].Values))
				}
			})
			if planted < 30 {
				t.Errorf("planted only %d times", planted)
			}
		})
	}
	for _, rule := range Rules() {
		if !slices.ContainsFunc(plants, func(p plant) bool { return p.rule == rule }) || rule.Doc() == "" {
			t.Errorf("nothing is planted for %s, or it has no sentence", rule)
		}
	}
}

// TestSecondOpinion changes whatever there is, a few times, and compares the verdicts on each grain: the rules on lists
// are broken where porcupine finds no order, and only there.
func TestSecondOpinion(t *testing.T) {
	var wrong, right int
	rapid.Check(t, func(rt *rapid.T) {
		w := draw(rt)
		records := w.history.Records()
		for i := range records {
			if records[i].Action == workload.StaleRead {
				records[i].Outcome = workload.Failed // porcupine does not look at them
			}
		}
		for range rapid.SampledFrom([]int{1, 2, 5, 20}).Draw(rt, "changes") {
			w.disturb()
		}
		blamed := map[string]Rule{}
		for _, v := range Check(w.history, w.final) {
			if slices.Index(rules, v.Rule) < slices.Index(rules, ProducerOrder) {
				blamed[v.Key] = v.Rule
			}
		}
		for key := range w.final {
			rule, bad := blamed[key]
			if bad == Linearizable(w.history, w.final, key) {
				rt.Fatalf("the judge says %q, porcupine the contrary\n%s%s", rule, w.history.Timeline(key), workload.FormatList(w.final[key].Values))
			}
			if bad {
				wrong++
			} else {
				right++
			}
		}
	})
	if wrong < 100 || right < 100 {
		t.Errorf("%d grains were wrong, %d right", wrong, right)
	}
}

// TestReports: a report is bounded, and says in words what it found.
func TestReports(t *testing.T) {
	var h workload.History
	final := Final{"p1": {Values: []uint64{7, 7, 7, 7, 7, 7, 7}, Balance: 1}}
	a := h.Begin(workload.Operation{Client: 1, Action: workload.Append, Key: "p1", Value: 8}, 0)
	h.End(a, 0, workload.OK, nil)
	var lines []string
	for _, v := range Check(&h, final) {
		lines = append(lines, v.String())
	}
	want := []string{
		"nowhere: probe/p1: the final list has 0:7, which nobody appended",
		"twice: probe/p1: the final list has 0:7 as its value 1 and 2",
		"twice: probe/p1: the final list has 0:7 as its value 1 and 3",
		"twice: probe/p1: the final list has 0:7 as its value 1 and 4",
		"lost: probe/p1: 0:8 was acknowledged and is not in the final list (#0)",
		"balances: probe/p1: the balance is 1; by what it received and sent it is 0",
		"balances: all balances together are 1",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if s := Summary(Check(&h, final)); !strings.HasPrefix(s, "twice              3  a value is in a list once at most\n") || strings.Count(s, "\n") != 4 {
		t.Error(s)
	}
}

// BenchmarkCheck judges a million operations.
func BenchmarkCheck(b *testing.B) {
	for _, o := range []workload.Options{{Seed: 1}, {Seed: 1, Clients: 64, Grains: 10_000, Values: 2000}} {
		b.Run(fmt.Sprintf("%d values a grain", max(200, o.Values)), func(b *testing.B) {
			h, final, _ := play(o, 2_800_000)
			b.ReportMetric(float64(len(h.Records())), "operations")
			b.ResetTimer()
			for b.Loop() {
				if v := Check(h, final); len(v) > 0 {
					b.Fatal(v[0])
				}
			}
			b.ReportMetric(float64(len(h.Records()))*float64(b.N)/b.Elapsed().Seconds(), "operations/s")
		})
	}
}
