package window

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains/grainstest"
)

// TestLatest compares the lists with those made by sorting all events and keeping the last.
func TestLatest(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type entry struct {
			at int64
			id int
		}
		limit := rapid.IntRange(1, 6).Draw(rt, "limit")
		var all []entry
		var times []int64
		var ids []int
		for id := range grainstest.Evenly(3, 10, 40).Draw(rt, "events") {
			at := rapid.Int64Range(0, 200).Draw(rt, "at")
			all = append(all, entry{at, id})
			if i, ok := Place(times, at, limit); ok {
				times, ids = Put(times, i, at, limit), Put(ids, i, id, limit)
			}
			sorted := slices.Clone(all)
			slices.SortStableFunc(sorted, func(a, b entry) int { return int(a.at - b.at) })
			sorted = sorted[max(0, len(sorted)-limit):]
			for i, e := range sorted {
				if len(times) != len(sorted) || len(ids) != len(sorted) || times[i] != e.at || ids[i] != e.id {
					rt.Fatalf("times %v, ids %v; want %v", times, ids, sorted)
				}
			}
		}
	})
}
