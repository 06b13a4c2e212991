package intake

import (
	"strconv"
	"sync"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway/answer"
)

// Group is one client's batch between the gateway and the shards. It has one owner, who gets it from [NewGroup], lets
// [Intake.Take] fill it, hands its parts to shards, and gives it back with [Group.Release] when all parts are done or were
// never handed out.
type Group struct {
	// Parts, one for each shard concerned, in the order of the shards.
	Parts []*Part
	// Refused are the events that no shard will see, in the order of their places.
	Refused []Refused
	// Number is the owner's name for the batch.
	Number uint64
	// OnDone is called with each part that a shard is done with, on that shard's goroutine. It must not block.
	OnDone func(*Part)

	events  int // in the batch, with the refused
	sorted  []actors.Event
	index   []int32  // of sorted events in the batch; hole where there is none
	shards  []uint32 // of events in the batch
	slots   []int32  // by shard: where its next event goes
	holes   int
	results []actors.Result
	spare   []*Part
}

// hole is the index of a slot whose event was refused.
const hole = -1

// Part is what one shard gets of a batch.
type Part struct {
	// Batch for the shard.
	Batch actors.Batch
	// Shard that it is for.
	Shard uint64
	// Index are the places of its events in the client's batch.
	Index []int32
	// Group that it is part of.
	Group *Group
	// Link is room for the batch's link.
	Link actors.Link
	// Refused tells that no shard took it.
	Refused bool
}

// Results are the outcomes of the events of a part that its shard took, in the order of Index.
func (p *Part) Results() []actors.Result {
	if len(p.Batch.Results) != len(p.Index) {
		panic("intake: a shard is done with a part and has not a result for each event")
	}
	return p.Batch.Results
}

// Refused is an event that the gateway refuses.
type Refused struct {
	// Index of the event in the client's batch.
	Index int32
	// Refusal, with fields relative to the event.
	Refusal *answer.Refusal
	// Whole refusals are of a whole part, by its shard or on the way there, and name no fields.
	Whole bool
	// Deduplicated tells that the event has an id, so that trying again does no harm. Only set for Whole ones.
	Deduplicated bool
}

// Answer is the refusal with the fields as they are called in the request.
func (r Refused) Answer() *answer.Refusal {
	if r.Whole {
		return r.Refusal
	}
	return r.Refusal.In("events[" + decimal(int(r.Index)) + "].")
}

func decimal(n int) string { return strconv.Itoa(n) }

var groups = sync.Pool{New: func() any { return new(Group) }}

// NewGroup returns an empty group.
func NewGroup() *Group { return groups.Get().(*Group) }

// Release takes a group back. No shard may still have one of its parts.
func (g *Group) Release() {
	clear(g.sorted)
	clear(g.Refused)
	for _, p := range g.Parts {
		p.Batch.Events, p.Batch.Results, p.Batch.Link = nil, nil, nil
		p.Batch.Refused, p.Batch.Why, p.Batch.Lack = actors.Folded, "", nil
		p.Link, p.Refused = actors.Link{}, false
	}
	clear(g.results)
	g.spare = append(g.spare, g.Parts...)
	g.Parts, g.Refused, g.OnDone = g.Parts[:0], g.Refused[:0], nil
	g.sorted, g.results = g.sorted[:0], g.results[:0]
	g.events, g.holes, g.Number = 0, 0, 0
	groups.Put(g)
}

// Len is the number of events in the batch, refused ones included.
func (g *Group) Len() int { return g.events }

// begin makes room for a batch and gives each event a slot behind those of lower shards and earlier events: a counting
// sort. So each event is written once, where its shard will read it.
func (g *Group) begin(events, shards int, shard func(i int) uint64) {
	g.events = events
	if cap(g.sorted) < events {
		g.sorted = make([]actors.Event, events)
		g.results = make([]actors.Result, events)
		g.index = make([]int32, events)
		g.shards = make([]uint32, events)
	}
	g.sorted, g.results = g.sorted[:events], g.results[:events]
	g.index, g.shards = g.index[:events], g.shards[:events]
	if len(g.slots) < shards+1 {
		g.slots = make([]int32, shards+1)
	}
	clear(g.slots)
	for i := range events {
		s := shard(i)
		g.shards[i] = uint32(s)
		g.slots[s]++
	}
	from := int32(0)
	for s, n := range g.slots {
		g.slots[s] = from
		from += n
	}
}

// slot is where an event goes. Each event is asked for once, in order.
func (g *Group) slot(i int) (at int32, event *actors.Event) {
	at = g.slots[g.shards[i]]
	g.slots[g.shards[i]]++
	g.index[at] = int32(i)
	return at, &g.sorted[at]
}

// refuse leaves a slot empty.
func (g *Group) refuse(i int, at int32, r *answer.Refusal) {
	g.index[at] = hole
	g.holes++
	g.Refused = append(g.Refused, Refused{Index: int32(i), Refusal: r})
}

// divide makes the parts. By now each shard's next slot is the first of the shard behind it.
func (g *Group) divide() {
	from := int32(0)
	for shard, to := range g.slots {
		if n := g.close(from, to); n > 0 {
			p := g.part()
			p.Shard = uint64(shard)
			p.Index = g.index[from : from+n : from+n]
			p.Batch.Events = g.sorted[from : from+n : from+n]
			p.Batch.Results = g.results[from : from : from+n]
			g.Parts = append(g.Parts, p)
		}
		from = to
	}
}

// close moves the events of a shard together where there are holes between them, and returns their number.
func (g *Group) close(from, to int32) int32 {
	if g.holes == 0 {
		return to - from
	}
	n := from
	for at := from; at < to; at++ {
		if g.index[at] == hole {
			continue
		}
		if n != at {
			g.index[n], g.sorted[n] = g.index[at], g.sorted[at]
		}
		n++
	}
	return n - from
}

// part returns a part that was used before, or a new one. Its callback is made once in its life.
func (g *Group) part() *Part {
	if n := len(g.spare); n > 0 {
		p := g.spare[n-1]
		g.spare = g.spare[:n-1]
		return p
	}
	p := &Part{Group: g}
	p.Batch.Done = func(*actors.Batch) { p.Group.OnDone(p) }
	return p
}
