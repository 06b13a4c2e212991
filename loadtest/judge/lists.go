package judge

import (
	"cmp"
	"math"
	"slices"

	"github.com/granary-dev/granary/loadtest/workload"
)

// finalList stands where the number of a read would be.
const finalList = -1

// list is something that was read: the final list, or by an operation.
type list struct {
	values []uint64
	record int // or finalList
}

// operations names a list in a violation.
func (l list) operations(more ...int) []int {
	if l.record == finalList {
		return more
	}
	return append([]int{l.record}, more...)
}

func (l list) String() string {
	if l.record == finalList {
		return "the final list"
	}
	return "a read"
}

// places is where each value first stands in a list.
type places map[uint64]int

// lists holds the lists of one grain to their rules. All lists are compared with the longest; those that are its
// beginning, as all should be, then need no more than their length. So the time is that of reading them once.
func (c *check) lists(g *grain) {
	final := list{c.final[g.key].Values, finalList}
	longest := final
	for _, i := range g.reads {
		if values := c.records[i].Values; len(values) > len(longest.values) {
			longest = list{values, int(i)}
		}
	}
	at := c.inspect(g, longest)
	for i, value := range final.values {
		if f := c.fate(value); f != nil && f.place < 0 && c.append(f).Key == g.key {
			f.place = int32(i)
		}
	}

	var straight []int32 // reads that show the beginning of the longest
	for _, i := range g.reads {
		if l := (list{c.records[i].Values, int(i)}); longest.begins(l) {
			straight = append(straight, i)
		} else {
			c.forked(g, l, longest)
		}
	}
	finalAt := at
	if !longest.begins(final) {
		finalAt = c.forked(g, final, longest)
	}
	c.early(g, longest, straight)
	acked := c.acked(g)
	c.lost(g, at, acked, straight)
	c.lostIn(g, final, finalAt, acked)
	c.shrunk(g, final)
}

func (l list) begins(shorter list) bool {
	n := len(shorter.values)
	return n <= len(l.values) && slices.Equal(l.values[:n], shorter.values)
}

// forked reports a list that is not the beginning of the longest. Of the first few all else is checked too.
func (c *check) forked(g *grain, l, longest list) places {
	n := 0
	for n < len(l.values) && l.values[n] == longest.values[n] {
		n++
	}
	c.report(Forked, g.key, l.operations(longest.operations()...), "%s and %s agree in %d values, then the one has %s and the other %s",
		l, longest, n, workload.FormatValue(l.values[n]), workload.FormatValue(longest.values[n]))
	if c.shown[string(Forked)+"\x00"+g.key] > maxShown && l.record != finalList {
		return nil
	}
	at := c.inspect(g, l)
	if l.record == finalList {
		return at
	}
	r := &c.records[l.record]
	for _, value := range l.values {
		if f := c.fate(value); f != nil && f.began > r.Ended {
			c.reportEarly(g, l.record, f)
		}
	}
	if r.Action == workload.Read {
		acked := c.acked(g)
		acked = acked[:countWhile(acked, func(n int32) bool { return c.fates[n].acked < r.Began })]
		c.lostIn(g, l, at, acked)
	}
	return at
}

func countWhile(all []int32, ok func(int32) bool) int {
	if n := slices.IndexFunc(all, func(i int32) bool { return !ok(i) }); n >= 0 {
		return n
	}
	return len(all)
}

// inspect holds one list to the rules that need no other, and says where its values stand.
func (c *check) inspect(g *grain, l list) places {
	at := make(places, len(l.values))
	sequences := map[int]*workload.Record{} // the last of each producer
	var youngest *fate                      // that which began last
	for i, value := range l.values {
		if first, twice := at[value]; twice {
			c.report(Twice, g.key, l.operations(), "%s has %s as its value %d and %d", l, workload.FormatValue(value), first+1, i+1)
			continue
		}
		at[value] = i
		f := c.fate(value)
		if f == nil {
			c.report(Nowhere, g.key, l.operations(), "%s has %s, which nobody appended", l, workload.FormatValue(value))
			continue
		}
		r := c.append(f)
		if r.Key != g.key {
			c.report(Nowhere, g.key, l.operations(f.record), "%s has %s, which was appended to %s", l, workload.FormatValue(value), r.Key)
			continue
		}
		if f.began == 0 {
			c.report(FailedApplied, g.key, l.operations(f.record), "%s has %s, whose append failed", l, workload.FormatValue(value))
		}
		if youngest != nil && f.acked != 0 && f.acked < youngest.began {
			c.report(Overtaken, g.key, l.operations(f.record, youngest.record), "%s has %s before %s, which was acknowledged before the other began",
				l, workload.FormatValue(c.append(youngest).Value), workload.FormatValue(value))
		}
		if youngest == nil || f.began > youngest.began {
			youngest = f
		}
		if r.Sequence == 0 {
			continue
		}
		if last := sequences[r.Client]; last != nil && last.Sequence > r.Sequence {
			c.report(ProducerOrder, g.key, l.operations(), "%s has event %d of producer %d after its event %d", l, r.Sequence, r.Client, last.Sequence)
		}
		sequences[r.Client] = r
	}
	return at
}

// early looks for reads that show what was not yet appended when they ended.
func (c *check) early(g *grain, longest list, straight []int32) {
	// youngest[n] is the append that began last among the first n+1 values.
	youngest := make([]*fate, len(longest.values))
	var last *fate
	for i, value := range longest.values {
		if f := c.fate(value); f != nil && (last == nil || f.began > last.began) {
			last = f
		}
		youngest[i] = last
	}
	for _, i := range straight {
		r := &c.records[i]
		if n := len(r.Values); n > 0 && youngest[n-1] != nil && youngest[n-1].began > r.Ended {
			c.reportEarly(g, int(i), youngest[n-1])
		}
	}
}

func (c *check) reportEarly(g *grain, read int, f *fate) {
	c.report(Early, g.key, []int{read, f.record}, "a read shows %s and ended before its append began", workload.FormatValue(c.append(f).Value))
}

// acked are the acknowledged appends in the order of their acknowledgement.
func (c *check) acked(g *grain) []int32 {
	var acked []int32
	for _, n := range g.appends {
		if c.fates[n].acked != 0 {
			acked = append(acked, n)
		}
	}
	slices.SortFunc(acked, func(a, b int32) int { return cmp.Compare(c.fates[a].acked, c.fates[b].acked) })
	return acked
}

// lost looks for reads that are too short to show what was acknowledged before they began.
func (c *check) lost(g *grain, at places, acked, straight []int32) {
	need, last := -1, (*fate)(nil) // the furthest place so far that must be shown
	next := 0
	for _, i := range straight {
		r := &c.records[i]
		if r.Action != workload.Read {
			continue
		}
		for ; next < len(acked) && c.fates[acked[next]].acked < r.Began; next++ {
			f := &c.fates[acked[next]]
			place, ok := at[c.append(f).Value]
			if !ok {
				place = math.MaxInt
			}
			if place > need {
				need, last = place, f
			}
		}
		if need >= len(r.Values) {
			c.report(Lost, g.key, []int{last.record, int(i)}, "%s was acknowledged before a read began that does not show it",
				workload.FormatValue(c.append(last).Value))
		}
	}
}

// lostIn looks for acknowledged values that are not in one list.
func (c *check) lostIn(g *grain, l list, at places, acked []int32) {
	for _, n := range acked {
		f := &c.fates[n]
		value := c.append(f).Value
		if place, ok := at[value]; !ok || place >= len(l.values) {
			c.report(Lost, g.key, append([]int{f.record}, l.operations()...), "%s was acknowledged and is not in %s", workload.FormatValue(value), l)
		}
	}
}

// shrunk looks for lists that are shorter than what was read before them.
func (c *check) shrunk(g *grain, final list) {
	ended := slices.Clone(g.reads)
	slices.SortFunc(ended, func(a, b int32) int { return cmp.Compare(c.records[a].Ended, c.records[b].Ended) })
	longest, which := 0, 0
	next := 0
	until := func(began int64) {
		for ; next < len(ended) && c.records[ended[next]].Ended < began; next++ {
			if n := len(c.records[ended[next]].Values); n > longest {
				longest, which = n, int(ended[next])
			}
		}
	}
	compare := func(l list) {
		if len(l.values) < longest {
			c.report(Shrunk, g.key, l.operations(which), "%s has %d values; one that ended before has %d", l, len(l.values), longest)
		}
	}
	for _, i := range g.reads {
		if r := &c.records[i]; r.Action == workload.Read {
			until(r.Began)
			compare(list{r.Values, int(i)})
		}
	}
	until(math.MaxInt64)
	compare(final)
}
