// Package workload is what the clients of a test run do, and the record of what they saw.
//
// Here live the operations ([Workload.Next]: appends to the lists of probes, transfers between them, reads, retries on
// purpose; and, with [Options.More], questions, announcements and reminders), drawn from a seed, and the [History] of them: when each began and ended, how, and what a read showed. Here
// never live a connection, a clock or a goroutine: whoever drives a run (a simulation, a torture, a load) sends the
// operations and gives the times. Whether what they saw was right is for package judge to say.
//
// Invariant: the same options and the same calls give the same operations; and a value belongs to one operation only, so
// that whoever finds a value in a list knows whose it is.
package workload

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

// The mix, in percent of the operations. What is left over are transfers.
const (
	appendShare = 40
	readShare   = 25
	staleShare  = 8
	repeatShare = 8
	// contendedShare is how many operations go to a contended grain, and how many transfers aim at one.
	contendedShare = 35
	// formerShare is how many reads look at a grain that is no longer written to, if there is one.
	formerShare = 10
)

const (
	maxAmount = 1000
	// memory is how many of its appends a client remembers, to repeat one of them.
	memory = 64
	// clientBits is where in a value the client's number begins.
	clientBits = 40
)

// Options of a workload. The zero value of a field means its default.
type Options struct {
	// Seed of all choices.
	Seed uint64
	// Clients is their number. Default 8.
	Clients int
	// Producers says how many of the clients, the first ones, are producers. Default half of them; negative: none.
	Producers int
	// Grains that the uncontended operations are spread over at a time. Default 64.
	Grains int
	// Contended is how many grains share about a third of all operations. Default 4.
	Contended int
	// Values is how many values a grain is given before another takes its place. Default 200.
	Values int
	// Prefix of all keys, for a cluster that sees several runs.
	Prefix string
	// More lets callers ask, announce, and set and forget reminders as well.
	More bool
}

// Workload draws operations. Not safe for concurrent use.
type Workload struct {
	o       Options
	clients []client
	slots   []slot // the contended ones first
}

// client is one source of operations. Each has random numbers of its own, so that what one asks for does not depend on
// how fast the others are.
type client struct {
	random *rand.Rand
	values uint64      // handed out so far
	recent []Operation // some of its last events
	// reminders that were not forgotten; whether they were set, and have fired, is not known here
	reminders []Operation
}

// slot is a place for one grain at a time.
type slot struct {
	name       string
	generation int
	key        string // of the grain that is written to now
	former     string // key before it, if any
	values     int    // given to it
}

// New makes a workload.
func New(o Options) *Workload {
	o.Clients = orDefault(o.Clients, 8)
	o.Producers = max(0, min(o.Clients, orDefault(o.Producers, o.Clients/2)))
	o.Grains = orDefault(o.Grains, 64)
	o.Contended = orDefault(o.Contended, 4)
	o.Values = orDefault(o.Values, 200)
	w := &Workload{o: o, clients: make([]client, o.Clients), slots: make([]slot, 0, o.Contended+o.Grains)}
	for i := range w.clients {
		w.clients[i].random = rand.New(rand.NewPCG(o.Seed, uint64(i)))
	}
	for i := range o.Contended {
		w.slots = append(w.slots, newSlot(fmt.Sprintf("%shot-%d", o.Prefix, i)))
	}
	for i := range o.Grains {
		w.slots = append(w.slots, newSlot(fmt.Sprintf("%scold-%d", o.Prefix, i)))
	}
	return w
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

func newSlot(name string) slot { return slot{name: name, key: name + ".0"} }

// Clients is the number of clients.
func (w *Workload) Clients() int { return w.o.Clients }

// IsProducer says whether the client sends its events as a numbered stream, and not one by one with ids.
func (w *Workload) IsProducer(client int) bool { return client < w.o.Producers }

// Next is what the client does now. A producer must send its events in the order in which it got them.
func (w *Workload) Next(client int, now int64) Operation {
	c := &w.clients[client]
	if w.o.More && !w.IsProducer(client) {
		if op, ok := w.more(client, now); ok {
			return op
		}
	}
	draw := c.random.IntN(100)
	switch {
	case draw < readShare:
		return w.read(client, Read)
	case draw < readShare+staleShare:
		return w.read(client, StaleRead)
	case draw < readShare+staleShare+repeatShare && len(c.recent) > 0 && !w.IsProducer(client):
		// A producer repeats itself by reconnecting, which is the driver's to decide.
		op := c.recent[c.random.IntN(len(c.recent))]
		op.Repeat = true
		return op
	}
	op := w.append(client, now)
	if draw >= readShare+staleShare+repeatShare+appendShare {
		op.To, op.Amount = w.slots[w.slot(c)].key, c.random.Int64N(maxAmount+1)
	}
	c.remember(op)
	return op
}

// remember keeps an event, to be repeated.
func (c *client) remember(op Operation) {
	if len(c.recent) < memory {
		c.recent = append(c.recent, op)
	} else {
		c.recent[c.values%memory] = op
	}
}

// value is the last one that was handed out to a client.
func (w *Workload) value(client int) uint64 {
	return uint64(client)<<clientBits | w.clients[client].values
}

// slot draws where an operation goes.
func (w *Workload) slot(c *client) int {
	if c.random.IntN(100) < contendedShare {
		return c.random.IntN(w.o.Contended)
	}
	return w.o.Contended + c.random.IntN(w.o.Grains)
}

func (w *Workload) read(client int, a Action) Operation {
	c := &w.clients[client]
	i := w.slot(c)
	op := Operation{Client: client, Action: a, Key: w.slots[i].key, Contended: i < w.o.Contended}
	if former := w.slots[i].former; former != "" && c.random.IntN(100) < formerShare {
		op.Key = former
	}
	return op
}

func (w *Workload) append(client int, now int64) Operation {
	c := &w.clients[client]
	i := w.slot(c)
	s := &w.slots[i]
	if s.values == w.o.Values {
		s.generation++
		s.values, s.former, s.key = 0, s.key, s.name+"."+strconv.Itoa(s.generation)
	}
	s.values++
	c.values++
	op := Operation{
		Client: client, Action: Append, Key: s.key, Contended: i < w.o.Contended,
		Value: w.value(client), EventTime: now,
	}
	if w.IsProducer(client) {
		op.Sequence = c.values
	}
	return op
}
