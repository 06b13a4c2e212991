package persistence

import "github.com/granary-dev/granary/persistence/entry"

// opened are entries of one shard that were read from the log: the newest of them, up to a limit.
type opened struct {
	limit   int // in bytes; the newest entry is kept also where it alone is larger
	entries map[uint64]*entry.Directory
	order   []uint64
	bytes   int
	used    bool // since the last checkpoint
}

// put keeps an entry and gives up the oldest that have no room any more.
func (o *opened) put(index uint64, d *entry.Directory) {
	if o.entries == nil {
		o.entries = map[uint64]*entry.Directory{}
	}
	o.entries[index] = d
	o.order = append(o.order, index)
	o.bytes += d.Size()
	o.used = true
	n := 0
	for ; o.bytes > o.limit && n < len(o.order)-1; n++ {
		o.bytes -= o.entries[o.order[n]].Size()
		delete(o.entries, o.order[n])
	}
	o.order = append(o.order[:0], o.order[n:]...)
}

// rest gives the memory back when nothing was read since the last call.
func (o *opened) rest() {
	if !o.used {
		*o = opened{limit: o.limit}
	}
	o.used = false
}
