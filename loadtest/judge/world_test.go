package judge

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/granary-dev/granary/loadtest/workload"
)

// world is a correct cluster, as small as can be: it does each operation at one moment between its beginning and its end.
// Answers get lost, clients give up and what they asked for happens later, and sends take their time.
type world struct {
	random   *rand.Rand
	work     *workload.Workload
	history  workload.History
	grains   map[string]*Grain
	applied  map[uint64]bool
	clients  [][]*try
	given    []*try                 // up: may yet be done
	channels map[[2]string][]uint64 // sends on their way, by sender and target
	pairs    [][2]string            // with a channel
	amounts  map[uint64]int64
	clock    int64
	replies  map[uint64]workload.Reply
	set      []*reminding // and pending
	feeds    []Feed
	nth      int // item of all feeds
}

// reminding is a reminder that is pending.
type reminding struct {
	key    string
	value  uint64
	repeat bool
}

// shardsOf a world.
const shardsOf = 3

// try is an operation under way.
type try struct {
	workload.Operation
	record  int
	applied bool
	values  []uint64
	reply   workload.Reply
	refused bool // it was done, and had no effect
}

// pipeline is how many operations a client has under way.
const pipeline = 3

// play runs a world of so many steps and heals it.
func play(o workload.Options, steps int) (*workload.History, Final, []Feed) {
	o.More = true
	w := &world{
		random: rand.New(rand.NewPCG(o.Seed, 77)), work: workload.New(o),
		grains: map[string]*Grain{}, applied: map[uint64]bool{}, channels: map[[2]string][]uint64{}, amounts: map[uint64]int64{},
		replies: map[uint64]workload.Reply{},
	}
	for shard := range uint64(shardsOf) {
		w.feeds = append(w.feeds, Feed{Subscriber: "stream", Shard: shard + 1, Announced: true})
	}
	w.clients = make([][]*try, w.work.Clients())
	for range steps {
		w.clock += w.random.Int64N(1000)
		switch {
		case w.one(1000):
			w.crash()
		case len(w.given) > 0 && w.one(20):
			i := w.random.IntN(len(w.given))
			w.apply(w.given[i])
			w.given = slices.Delete(w.given, i, i+1)
		case len(w.pairs) > 0 && w.one(4):
			w.deliver(w.random.IntN(len(w.pairs)))
		case len(w.set) > 0 && w.one(60):
			w.fire(w.random.IntN(len(w.set)))
		default:
			w.act(w.random.IntN(len(w.clients)))
		}
	}
	w.crash()
	for _, t := range w.given {
		if w.one(2) {
			w.apply(t)
		}
	}
	for len(w.pairs) > 0 {
		w.deliver(0)
	}
	for i := len(w.set) - 1; i >= 0; i-- {
		w.fire(i)
	}
	for _, r := range w.set { // those that repeat
		w.grain(r.key).Pending = append(w.grain(r.key).Pending, r.value)
	}
	final := Final{}
	for key, g := range w.grains {
		final[key] = *g
	}
	for i := range w.feeds {
		w.feeds[i].Seen = slices.Clone(w.feeds[i].Journal)
	}
	return &w.history, final, w.feeds
}

// one time in n.
func (w *world) one(n int) bool { return w.random.IntN(n) == 0 }

// act lets a client begin something, or something of it go on.
func (w *world) act(client int) {
	tries := w.clients[client]
	if len(tries) == 0 || len(tries) < pipeline && w.one(2) {
		op := w.work.Next(client, w.clock)
		w.clients[client] = append(tries, &try{Operation: op, record: w.history.Begin(op, w.clock)})
		return
	}
	i := w.random.IntN(len(tries))
	if w.work.IsProducer(client) {
		i = 0 // its events are done in its order
	}
	t := tries[i]
	switch {
	case t.applied && w.one(10):
		w.end(client, i, workload.Unknown)
	case t.refused:
		w.end(client, i, workload.Failed)
	case t.applied:
		w.end(client, i, workload.OK)
	case w.one(12):
		w.end(client, i, workload.Failed)
	case w.one(12):
		w.end(client, i, workload.Unknown)
		w.giveUp(t)
	default:
		w.apply(t)
	}
}

func (w *world) end(client, i int, o workload.Outcome) {
	t := w.clients[client][i]
	if t.Action == workload.Ask {
		w.history.EndAsk(t.record, w.clock, o, t.reply)
	} else {
		w.history.End(t.record, w.clock, o, t.values)
	}
	w.clients[client] = slices.Delete(w.clients[client], i, i+1)
}

// giveUp leaves a try to chance. A producer's is done now or never, as it goes on with later ones.
func (w *world) giveUp(t *try) {
	if t.Sequence == 0 {
		w.given = append(w.given, t)
	} else if w.one(2) {
		w.apply(t)
	}
}

// crash ends all that is under way.
func (w *world) crash() {
	for client := range w.clients {
		for len(w.clients[client]) > 0 {
			t := w.clients[client][0]
			w.end(client, 0, workload.Unknown)
			if !t.applied {
				w.giveUp(t)
			}
		}
	}
}

func (w *world) grain(key string) *Grain {
	if w.grains[key] == nil {
		w.grains[key] = &Grain{}
	}
	return w.grains[key]
}

// apply does an operation.
func (w *world) apply(t *try) {
	t.applied = true
	g := w.grain(t.Key)
	if !t.Action.Reads() && t.Action != workload.Append {
		w.event(t, g)
		return
	}
	switch {
	case t.Action == workload.Read:
		t.values = slices.Clip(g.Values)
	case t.Action == workload.StaleRead:
		t.values = slices.Clip(g.Values[:w.random.IntN(len(g.Values)+1)])
	case !w.applied[t.Value]:
		w.applied[t.Value] = true
		g.Values = append(g.Values, t.Value)
		if t.To == "" {
			return
		}
		g.Balance -= t.Amount
		w.amounts[t.Value] = t.Amount
		pair := [2]string{t.Key, t.To}
		if len(w.channels[pair]) == 0 {
			w.pairs = append(w.pairs, pair)
		}
		w.channels[pair] = append(w.channels[pair], t.Value)
	}
}

// event does what is none on a list.
func (w *world) event(t *try, g *Grain) {
	again := w.applied[t.Value]
	w.applied[t.Value] = true
	switch t.Action {
	case workload.Ask:
		if !again {
			g.Questions++
			by := t.Key
			if t.To != "" {
				by = t.To
			}
			w.grain(by).Replies++
			w.replies[t.Value] = workload.Reply{Value: t.Value, By: by, Count: w.grain(by).Replies}
		}
		t.reply = w.replies[t.Value]
	case workload.Announce:
		if f := &w.feeds[len(t.Key)*31%shardsOf]; !again {
			w.nth++
			f.Journal = append(f.Journal, Item{At: fmt.Sprint(w.nth), What: t.String(), Value: t.Value})
		}
	case workload.Remind:
		if !again {
			w.set = append(w.set, &reminding{t.Key, t.Value, t.Every > 0})
		}
	case workload.Forget:
		i := slices.IndexFunc(w.set, func(r *reminding) bool { return r.value == t.Of })
		switch {
		case again:
			t.refused = w.replies[t.Value].Count == 0
		case i < 0:
			t.refused = true
		default:
			w.set = slices.Delete(w.set, i, i+1)
			w.replies[t.Value] = workload.Reply{Count: 1} // so that it is not refused when it comes again
		}
	}
}

// fire lets a reminder fire.
func (w *world) fire(i int) {
	r := w.set[i]
	w.grain(r.key).Reminded = append(w.grain(r.key).Reminded, r.value)
	if !r.repeat {
		w.set = slices.Delete(w.set, i, i+1)
	}
}

// deliver lets the oldest send of a channel arrive.
func (w *world) deliver(i int) {
	pair := w.pairs[i]
	value := w.channels[pair][0]
	g := w.grain(pair[1])
	g.Received = append(g.Received, value)
	g.Balance += w.amounts[value]
	if w.channels[pair] = w.channels[pair][1:]; len(w.channels[pair]) == 0 {
		w.pairs = slices.Delete(w.pairs, i, i+1)
	}
}
