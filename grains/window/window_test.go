package window

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains/grainstest"
)

// world is a series that owns what it points to, and the plain list of events that it must agree with.
type world struct {
	hours  []uint32
	counts []uint64
	cents  []int64
	count  [MaxSpans]uint64
	sum    [MaxSpans]int64
	newest uint32

	series Series
	events []event
}

type event struct {
	hour  uint32
	cents int64
}

type length struct{ skip, length uint32 }

func newWorld(lengths ...length) *world {
	w := &world{}
	w.series = Series{Hours: &w.hours, Counts: &w.counts, Cents: &w.cents}
	for i, l := range lengths {
		w.series.Spans[i] = Span{Skip: l.skip, Length: l.length, Count: &w.count[i], Cents: &w.sum[i]}
	}
	return w
}

func (w *world) add(hour uint32, cents int64) bool {
	newest := max(w.newest, hour)
	w.series.Advance(w.newest, newest)
	w.newest = newest
	w.events = append(w.events, event{hour, cents})
	return w.series.Add(newest, hour, cents)
}

// check recounts everything from the list of events, by the rule of the package doc and nothing else.
func (w *world) check() error {
	for i, s := range w.series.Spans {
		if s.Count == nil {
			break
		}
		var count uint64
		var cents int64
		for _, e := range w.events {
			h, end := int64(e.hour), int64(w.newest)-int64(s.Skip)
			if end-int64(s.Length) < h && h <= end {
				count++
				cents += e.cents
			}
		}
		if *s.Count != count || *s.Cents != cents {
			return fmt.Errorf("span %d (skip %d, length %d): %d events of %d cents; a recount says %d of %d",
				i, s.Skip, s.Length, *s.Count, *s.Cents, count, cents)
		}
	}
	if len(w.hours) != len(w.counts) || len(w.hours) != len(w.cents) {
		return fmt.Errorf("the slices have %d, %d and %d elements", len(w.hours), len(w.counts), len(w.cents))
	}
	if int64(len(w.hours)) > w.series.reach()+slack {
		return fmt.Errorf("%d buckets for a reach of %d hours", len(w.hours), w.series.reach())
	}
	for i := range w.hours {
		if i > 0 && w.hours[i-1] >= w.hours[i] {
			return fmt.Errorf("hours not ascending: %v", w.hours)
		}
		if w.counts[i] == 0 {
			return fmt.Errorf("empty bucket of hour %d", w.hours[i])
		}
	}
	return nil
}

// TestRecount is the invariant: whatever is added or removed, in whatever order, the spans equal a recount.
func TestRecount(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		lengths := []length{{0, Day}, {0, Week}, {0, Month}}
		if rapid.Bool().Draw(rt, "settled") {
			lengths = append(lengths, length{Week, Day}, length{Week, Week}, length{Week, Month})
		}
		if rapid.Bool().Draw(rt, "short") { // short spans, so that edges are met all the time
			for i := range lengths {
				lengths[i].skip /= 24
				lengths[i].length /= 24
			}
		}
		w := newWorld(lengths...)
		reach := int(w.series.reach())
		// The start may lie so close to 1970 that the spans would begin before it.
		hour := rapid.Uint32Range(0, 3*uint32(reach)).Draw(rt, "start")
		near := grainstest.Evenly(0, 0, 0, 1, 2, 5, reach/9, -1, -3, -reach/9)
		far := grainstest.Evenly(0, 1, 2, 5, reach/2, reach-1, reach, reach+1, reach+slack, -reach/2, 1-reach, -reach-1)
		what := grainstest.Evenly("near", "near", "near", "near", "near", "near", "far", "remove")
		for range grainstest.Evenly(1, 30, 200).Draw(rt, "events") + rapid.IntRange(0, 30).Draw(rt, "more") {
			turn := what.Draw(rt, "what")
			if turn == "remove" && len(w.events) > 0 {
				i := grainstest.Evenly(0, len(w.events)/2, len(w.events)-1).Draw(rt, "which")
				e := w.events[i]
				present := int64(e.hour) > int64(w.newest)-w.series.reach()
				if got := w.series.Remove(w.newest, e.hour, e.cents); got != present {
					rt.Fatalf("Remove of hour %d = %v", e.hour, got)
				}
				w.events = slices.Delete(w.events, i, i+1)
			} else {
				step := near
				if turn == "far" {
					step = far
				}
				hour = uint32(max(0, int(hour)+step.Draw(rt, "step")))
				newest := max(w.newest, hour)
				want := int64(hour) > int64(newest)-w.series.reach()
				if got := w.add(hour, rapid.Int64Range(0, MaxCents).Draw(rt, "cents")); got != want {
					rt.Fatalf("Add of hour %d with newest %d = %v", hour, newest, got)
				}
			}
			if err := w.check(); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

// TestEdges holds the rule to its hour: the first that counts and the last that does not.
func TestEdges(t *testing.T) {
	const newest = 10_000
	for _, tc := range []struct {
		name             string
		hour             uint32
		day, week, month uint64
	}{
		{"the newest hour", newest, 1, 1, 1},
		{"the first of the day", newest - 23, 1, 1, 1},
		{"just before the day", newest - 24, 0, 1, 1},
		{"the first of the week", newest - 167, 0, 1, 1},
		{"just before the week", newest - 168, 0, 0, 1},
		{"the first of the month", newest - 719, 0, 0, 1},
		{"just before the month", newest - 720, 0, 0, 0},
	} {
		for _, late := range []bool{false, true} {
			w := newWorld(length{0, Day}, length{0, Week}, length{0, Month})
			if late {
				w.series.Advance(0, newest)
				w.newest = newest
				w.add(tc.hour, 5)
			} else {
				w.add(tc.hour, 5)
				w.series.Advance(tc.hour, newest)
				w.newest = newest
			}
			if got := [3]uint64(w.count[:3]); got != [3]uint64{tc.day, tc.week, tc.month} {
				t.Errorf("%s, late %v: counts %v", tc.name, late, got)
			}
			if err := w.check(); err != nil {
				t.Errorf("%s, late %v: %v", tc.name, late, err)
			}
		}
	}
}

// TestCountsOnly is a series without cents.
func TestCountsOnly(t *testing.T) {
	var hours []uint32
	var counts []uint64
	var day uint64
	s := Series{Hours: &hours, Counts: &counts}
	s.Spans[0] = Span{Length: Day, Count: &day}
	s.Add(100, 100, 7)
	s.Add(100, 90, 7)
	s.Remove(100, 100, 7)
	s.Advance(100, 113)
	if day != 1 || len(hours) != 1 || hours[0] != 90 {
		t.Errorf("day %d, hours %v, counts %v", day, hours, counts)
	}
	s.Advance(113, 114)
	if day != 0 {
		t.Errorf("day %d, hours %v, counts %v", day, hours, counts)
	}
	s.Advance(114, 114+slack)
	if len(hours) != 0 {
		t.Errorf("day %d, hours %v, counts %v", day, hours, counts)
	}
}

func TestAddAheadPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an hour above the newest was taken")
		}
	}()
	w := newWorld(length{0, Day})
	w.series.Add(5, 6, 1)
}

func TestHour(t *testing.T) {
	for micros, want := range map[int64]uint32{
		0: 0, 3_599_999_999: 0, 3_600_000_000: 1,
		1_522_540_831_000_000: 422_928, // 2018-04-01 00:00:31 UTC
		math.MaxInt64 / 1000:  2_562_047,
	} {
		if got := Hour(micros); got != want {
			t.Errorf("Hour(%d) = %d, want %d", micros, got, want)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, perHour := range []int{1, 1000} {
		b.Run(fmt.Sprintf("perhour=%d", perHour), func(b *testing.B) {
			w := newWorld(length{0, Day}, length{0, Week}, length{0, Month})
			b.ReportAllocs()
			for i := range b.N {
				hour := uint32(i / perHour)
				w.series.Advance(w.newest, hour)
				w.newest = hour
				w.series.Add(hour, hour, 100)
			}
		})
	}
}

func TestCheckCents(t *testing.T) {
	for _, tc := range []struct {
		cents, total int64
		ok           bool
	}{
		{0, 0, true}, {-1, 0, false}, {MaxCents, 0, true}, {MaxCents + 1, 0, false},
		{math.MinInt64, 0, false}, {math.MaxInt64, 0, false},
		{1, math.MaxInt64 - 1, true}, {2, math.MaxInt64 - 1, false}, {0, math.MaxInt64, true},
	} {
		if err := CheckCents(tc.cents, tc.total); (err == nil) != tc.ok {
			t.Errorf("CheckCents(%d, %d) = %v", tc.cents, tc.total, err)
		}
	}
}
