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
	kept    int // of them in parts
	decoded []actors.Event
	sorted  []actors.Event
	places  []int32  // of decoded events in the batch
	shards  []uint32 // of decoded events
	index   []int32  // of sorted events in the batch
	counts  []int32  // by shard
	results []actors.Result
	spare   []*Part
}

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
	clear(g.sorted[:g.kept])
	clear(g.Refused)
	for _, p := range g.Parts {
		p.Batch.Events, p.Batch.Results, p.Batch.Link = nil, nil, nil
		p.Batch.Refused, p.Batch.Why = actors.Folded, ""
		p.Link, p.Refused = actors.Link{}, false
	}
	clear(g.results[:g.kept])
	g.spare = append(g.spare, g.Parts...)
	g.Parts, g.Refused, g.OnDone = g.Parts[:0], g.Refused[:0], nil
	g.events, g.kept, g.Number = 0, 0, 0
	groups.Put(g)
}

// Len is the number of events in the batch, refused ones included.
func (g *Group) Len() int { return g.events }

// begin makes room for a batch.
func (g *Group) begin(events, shards int) {
	g.events = events
	if cap(g.decoded) < events {
		g.decoded = make([]actors.Event, events)
		g.sorted = make([]actors.Event, events)
		g.results = make([]actors.Result, events)
		g.places = make([]int32, events)
		g.index = make([]int32, events)
		g.shards = make([]uint32, events)
	}
	n := cap(g.decoded)
	g.decoded, g.sorted, g.results = g.decoded[:n], g.sorted[:n], g.results[:n]
	g.places, g.index, g.shards = g.places[:n], g.index[:n], g.shards[:n]
	if len(g.counts) < shards+1 {
		g.counts = make([]int32, shards+1)
	}
}

// next is where the next event that is kept goes.
func (g *Group) next() *actors.Event { return &g.decoded[g.kept] }

// keep takes the event that was written to next.
func (g *Group) keep(place int, shard uint64) {
	g.places[g.kept] = int32(place)
	g.shards[g.kept] = uint32(shard)
	g.counts[shard]++
	g.kept++
}

func (g *Group) refuse(place int, r *answer.Refusal) {
	g.decoded[g.kept] = actors.Event{}
	g.Refused = append(g.Refused, Refused{Index: int32(place), Refusal: r})
}

// sort is a counting sort by shard: it keeps the order of the events to each of them.
func (g *Group) sort() {
	from := int32(0)
	for shard, n := range g.counts {
		if n == 0 {
			continue
		}
		to := from + n
		p := g.part()
		p.Shard = uint64(shard)
		p.Index = g.index[from:to:to]
		p.Batch.Events = g.sorted[from:to:to]
		p.Batch.Results = g.results[from:from:to]
		g.Parts = append(g.Parts, p)
		g.counts[shard] = from
		from = to
	}
	for i := range g.kept {
		at := g.counts[g.shards[i]]
		g.counts[g.shards[i]]++
		g.sorted[at] = g.decoded[i]
		g.index[at] = g.places[i]
	}
	clear(g.counts)
	clear(g.decoded[:g.kept])
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
