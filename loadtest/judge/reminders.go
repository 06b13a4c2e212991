package judge

import (
	"slices"

	"github.com/granary-dev/granary/loadtest/workload"
)

// reminder is what is known of one reminder, from all tries to set it and to take it back.
type reminder struct {
	record         int // the first try to set it
	began, acked   int64
	forget         int // the last try to forget it
	maybeForgotten bool
	forgotten      bool // surely: it was pending then
	fired          int
}

// reminders holds what fired to what was set.
func (c *check) reminders() {
	set := map[uint64]*reminder{}
	for i := range c.records {
		r := &c.records[i]
		if r.Action != workload.Remind {
			continue
		}
		if set[r.Value] == nil {
			set[r.Value] = &reminder{record: i}
		}
		attempt(r, &set[r.Value].began, &set[r.Value].acked)
	}
	for i := range c.records {
		r := &c.records[i]
		if m := set[r.Of]; r.Action == workload.Forget && m != nil && r.Outcome != workload.Failed {
			m.forget, m.maybeForgotten, m.forgotten = i, true, m.forgotten || r.Outcome == workload.OK
		}
	}
	for _, key := range c.keys {
		g := c.final[key]
		for _, value := range g.Reminded {
			m := set[value]
			if m == nil || c.records[m.record].Key != key {
				c.report(Fired, key, nil, "%s fired, and nobody set it here", workload.FormatValue(value))
				continue
			}
			m.fired++
		}
		if g.RemindedUncounted > 0 {
			c.report(Fired, key, nil, "%d more reminders fired than can be judged", g.RemindedUncounted)
		}
		if g.Unexpected > 0 {
			c.report(Fired, key, nil, "%d reminders fired that were not pending", g.Unexpected)
		}
		if g.Early > 0 {
			c.report(Punctual, key, nil, "%d reminders fired before they were due", g.Early)
		}
	}
	for _, value := range sortedKeys(set) {
		c.fired(set[value])
	}
}

// fired holds one reminder to how often it fired.
func (c *check) fired(m *reminder) {
	r := &c.records[m.record]
	name := workload.FormatValue(r.Value)
	once := r.Every == 0
	switch {
	case m.began == 0 && m.fired > 0:
		c.report(Fired, r.Key, []int{m.record}, "%s fired, and was never set", name)
	case once && m.fired > 1:
		c.report(Fired, r.Key, []int{m.record}, "%s fired %d times", name, m.fired)
	case once && m.forgotten && m.fired > 0:
		c.report(Fired, r.Key, []int{m.record, m.forget}, "%s fired, and was forgotten while it was pending", name)
	case once && m.acked != 0 && !m.maybeForgotten && m.fired == 0:
		c.report(Fired, r.Key, []int{m.record}, "%s did not fire", name)
	case m.forgotten && slices.Contains(c.final[r.Key].Pending, r.Value):
		c.report(Fired, r.Key, []int{m.record, m.forget}, "%s was forgotten, and is pending", name)
	}
}
