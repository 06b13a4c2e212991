package judge

import (
	"fmt"

	"github.com/granary-dev/granary/loadtest/workload"
)

// Feed is what one subscriber saw of one shard.
type Feed struct {
	// Subscriber and Shard, for people.
	Subscriber string
	Shard      uint64
	// Journal has what was to be seen from where the subscriber began, and Seen what it saw.
	Journal, Seen []Item
	// Announced says that the items are the values that probes announced, not the records of the kind.
	Announced bool
}

// Item is something that a subscriber sees.
type Item struct {
	// At is where in the journal it is; no two items of a shard have the same.
	At string
	// What it is.
	What string
	// Value that was announced; 0 for a record.
	Value uint64
}

// CheckFeeds holds what subscribers saw to the journal, and the journal to what was announced. The feeds of a stream must
// be those of all shards, from the beginning.
func CheckFeeds(h *workload.History, feeds []Feed) []Violation {
	c := &check{records: h.Records(), shown: map[string]int{}}
	streams := map[string]map[uint64]int{}
	for i := range feeds {
		f := &feeds[i]
		c.feed(f)
		if !f.Announced {
			continue
		}
		if streams[f.Subscriber] == nil {
			streams[f.Subscriber] = map[uint64]int{}
		}
		for _, item := range f.Journal {
			streams[f.Subscriber][item.Value]++
		}
	}
	for _, name := range sortedKeys(streams) {
		c.announced(streams[name])
	}
	return c.violations
}

// feed holds one feed to the journal.
func (c *check) feed(f *Feed) {
	name := fmt.Sprintf("%s, shard %d", f.Subscriber, f.Shard)
	at := make(map[string]int, len(f.Journal))
	for i, item := range f.Journal {
		at[item.At] = i
	}
	seen := make([]bool, len(f.Journal))
	last := -1
	for i, item := range f.Seen {
		n, known := at[item.At]
		switch {
		case !known || f.Journal[n] != item:
			c.report(SeenOrder, "", nil, "%s: item %d is %s at %s, which is not in the journal", name, i+1, item.What, item.At)
			continue
		case seen[n]:
			c.report(SeenOnce, "", nil, "%s: item %d, %s at %s, was seen before", name, i+1, item.What, item.At)
			continue
		case n < last:
			c.report(SeenOrder, "", nil, "%s: item %d, %s at %s, comes behind what it is before in the journal", name, i+1, item.What, item.At)
		}
		seen[n] = true
		last = max(last, n)
	}
	for n, ok := range seen {
		if !ok {
			c.report(SeenAll, "", nil, "%s: %s at %s, item %d of %d of the journal, was not seen", name, f.Journal[n].What, f.Journal[n].At, n+1, len(f.Journal))
		}
	}
}

// announced counts the announcements in a stream.
func (c *check) announced(stream map[uint64]int) {
	type attempts struct {
		record       int
		began, acked int64
	}
	all := map[uint64]*attempts{}
	for i := range c.records {
		r := &c.records[i]
		if r.Action != workload.Announce {
			continue
		}
		if all[r.Value] == nil {
			all[r.Value] = &attempts{record: i}
		}
		attempt(r, &all[r.Value].began, &all[r.Value].acked)
	}
	for _, value := range sortedKeys(stream) {
		a, n := all[value], stream[value]
		switch name := workload.FormatValue(value); {
		case a == nil:
			c.report(Announced, "", nil, "%s is in the stream, and nobody announced it", name)
		case a.began == 0:
			c.report(Announced, c.records[a.record].Key, []int{a.record}, "%s is in the stream, and its announcement failed", name)
		case n > 1:
			c.report(Announced, c.records[a.record].Key, []int{a.record}, "%s is in the stream %d times", name, n)
		}
	}
	for _, value := range sortedKeys(all) {
		if a := all[value]; a.acked != 0 && stream[value] == 0 {
			c.report(Announced, c.records[a.record].Key, []int{a.record}, "%s was acknowledged and is not in the stream", workload.FormatValue(value))
		}
	}
}
