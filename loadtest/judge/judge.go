// Package judge says whether what clients saw, and what is there in the end, can be the work of a correct cluster.
//
// Here live the rules ([Rule], each with a name and a sentence) and [Check], which holds a [workload.History] and the
// [Final] lists to all of them in near-linear time; and [Linearizable], a second opinion on one grain by a checker that
// knows none of the rules. Here never lives anything of the cluster that is judged, nor the driving of a run.
//
// Invariant: a violation is proof. What the judge reports cannot happen in a cluster that keeps its guarantees, whatever
// crashed, was lost or came late; what it cannot decide, it lets pass.
package judge

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/granary-dev/granary/loadtest/workload"
)

// maxShown is how many violations of a rule are reported of a grain. The first tell enough.
const maxShown = 3

// Final is what is in the grains, by key, read after all faults were healed and all sends had time to arrive. A grain
// that is missing is taken as empty.
type Final map[string]Grain

// Grain is the final state of one probe.
type Grain struct {
	// Values appended.
	Values []uint64
	// Received values, and how many more were only counted.
	Received  []uint64
	Uncounted uint64
	// Balance of the amounts received and sent.
	Balance int64
	// Questions taken, and Replies given.
	Questions, Replies uint64
	// Reminded are the values of the reminders that fired, and RemindedUncounted how many more there were.
	Reminded          []uint64
	RemindedUncounted uint64
	// Pending reminders.
	Pending []uint64
	// Unexpected firings, of reminders that were not pending, and Early ones.
	Unexpected, Early uint64
}

// Violation is one thing that cannot be.
type Violation struct {
	// Rule that is broken.
	Rule Rule
	// Key of the grain, or empty where it concerns all.
	Key string
	// Operations of the history that show it, by number.
	Operations []int
	// Text says what was found.
	Text string
}

func (v Violation) String() string {
	text := string(v.Rule) + ": "
	if v.Key != "" {
		text += workload.Kind + "/" + v.Key + ": "
	}
	text += v.Text
	if len(v.Operations) > 0 {
		text += " ("
		for i, op := range v.Operations {
			if i > 0 {
				text += ", "
			}
			text += fmt.Sprintf("#%d", op)
		}
		text += ")"
	}
	return text
}

// Check holds a history and what was there in the end to all rules, and returns what breaks them: nothing, if the
// cluster may have been correct. Of each rule and grain it reports the first few.
func Check(h *workload.History, final Final) []Violation {
	c := newCheck(h, final)
	for _, key := range c.keys {
		c.lists(c.grains[key])
	}
	c.sends()
	c.balances()
	c.questions()
	c.reminders()
	return c.violations
}

// check is one run of [Check].
type check struct {
	records []workload.Record
	final   Final
	fates   []fate
	byValue map[uint64]int32 // to fates
	grains  map[string]*grain
	keys    []string // of all grains, sorted, so that reports do not depend on chance

	violations []Violation
	shown      map[string]int
}

// fate is what is known of one append, from all tries of it.
type fate struct {
	record int // the first try
	// began is when the first try began that may have done it; 0 if all failed.
	began int64
	// acked is when the first acknowledgement came; 0 if none did.
	acked int64
	// place in its grain's final list, from 0, or -1.
	place int32
	// arrived is how often its send was received where it was sent to.
	arrived int32
}

// grain is what the history says of one grain.
type grain struct {
	key     string
	appends []int32 // fates
	reads   []int32 // records of those that showed something, in the order of their beginning
}

func newCheck(h *workload.History, final Final) *check {
	c := &check{
		records: h.Records(), final: final,
		byValue: map[uint64]int32{}, grains: map[string]*grain{}, shown: map[string]int{},
	}
	for i := range c.records {
		r := &c.records[i]
		g := c.grain(r.Key)
		if r.To != "" {
			c.grain(r.To)
		}
		switch {
		case r.Action == workload.Append:
			c.try(g, i)
		case r.Action.Reads() && r.Outcome == workload.OK:
			g.reads = append(g.reads, int32(i))
		}
	}
	for key := range final {
		c.grain(key)
	}
	c.keys = sortedKeys(c.grains)
	return c
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func (c *check) grain(key string) *grain {
	g := c.grains[key]
	if g == nil {
		g = &grain{key: key}
		c.grains[key] = g
	}
	return g
}

// try adds one try of an append to its fate.
func (c *check) try(g *grain, i int) {
	r := &c.records[i]
	n, known := c.byValue[r.Value]
	if !known {
		n = int32(len(c.fates))
		c.byValue[r.Value] = n
		c.fates = append(c.fates, fate{record: i, place: -1})
		g.appends = append(g.appends, n)
	}
	f := &c.fates[n]
	if first := &c.records[f.record]; first.Key != r.Key || first.To != r.To || first.Amount != r.Amount {
		panic(fmt.Sprintf("judge: operations %d and %d append the same value, but are not the same", f.record, i))
	}
	if r.Outcome != workload.Failed && (f.began == 0 || r.Began < f.began) {
		f.began = r.Began
	}
	if r.Outcome == workload.OK && (f.acked == 0 || r.Ended < f.acked) {
		f.acked = r.Ended
	}
}

// fate of a value; nil if nobody appended it.
func (c *check) fate(value uint64) *fate {
	n, ok := c.byValue[value]
	if !ok {
		return nil
	}
	return &c.fates[n]
}

// append is the first try.
func (c *check) append(f *fate) *workload.Record { return &c.records[f.record] }

// report adds a violation, unless there are enough of its rule and grain.
func (c *check) report(rule Rule, key string, operations []int, format string, args ...any) {
	of := string(rule) + "\x00" + key
	if c.shown[of]++; c.shown[of] > maxShown {
		return
	}
	c.violations = append(c.violations, Violation{rule, key, operations, fmt.Sprintf(format, args...)})
}

// Summary is a line for each rule that was broken, in the order of [Rules].
func Summary(violations []Violation) string {
	counts := map[Rule]int{}
	for _, v := range violations {
		counts[v.Rule]++
	}
	var b strings.Builder
	for _, rule := range Rules() {
		if n := counts[rule]; n > 0 {
			fmt.Fprintf(&b, "%-15s %4d  %s\n", rule, n, rule.Doc())
		}
	}
	return b.String()
}
