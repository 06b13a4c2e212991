package catalog

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains"
	productv1 "github.com/granary-dev/granary/proto/granary/product/v1"
	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
)

// world runs grains of all kinds, with sends that arrive once, in order between two grains and in any order otherwise.
type world struct {
	catalog *grains.Catalog
	states  map[grains.Ref]proto.Message
	seqs    map[grains.Ref]uint64
	runner  grains.Runner
	// roads are the sends under way between two grains, and names their names in the order in which they were opened.
	roads map[road][]delivery
	names []road
	turns int
}

type road struct{ from, to grains.Ref }

type delivery struct {
	typ     string
	payload []byte
	at      time.Time
	hops    int
}

func newWorld() *world {
	return &world{
		catalog: Builtin(), states: map[grains.Ref]proto.Message{}, seqs: map[grains.Ref]uint64{}, roads: map[road][]delivery{},
	}
}

func (w *world) turn(rt *rapid.T, from, to grains.Ref, d delivery) {
	w.turns++
	if d.hops > 3 {
		rt.Fatalf("%s gets %s, the %d. send after an event", to, d.typ, d.hops)
	}
	kind, ok := w.catalog.Kind(to.Kind)
	if !ok {
		rt.Fatalf("no kind %q", to.Kind)
	}
	event, ok := kind.Event(d.typ)
	if !ok {
		rt.Fatalf("%s does not take %s", to, d.typ)
	}
	msg, err := event.Decode(d.payload)
	if err != nil {
		rt.Fatal(err)
	}
	if w.states[to] == nil {
		w.states[to] = kind.NewState()
	}
	w.seqs[to]++
	in := grains.Input{Grain: to, Seq: w.seqs[to], Now: d.at.UnixMicro(), EventTime: d.at.UnixNano(), Sender: from}
	out := w.runner.Run(event, in, w.states[to], msg)
	if out.Err != nil {
		rt.Fatalf("%s refuses %s: %v", to, d.typ, out.Err)
	}
	for _, f := range out.Effects {
		r := road{to, f.To}
		if _, open := w.roads[r]; !open {
			w.names = append(w.names, r)
		}
		w.roads[r] = append(w.roads[r], delivery{f.Type, slices.Clone(f.Payload), d.at, d.hops + 1})
	}
}

// deliver takes one send from some road; false when none is under way.
func (w *world) deliver(rt *rapid.T) bool {
	busy := slices.DeleteFunc(slices.Clone(w.names), func(r road) bool { return len(w.roads[r]) == 0 })
	if len(busy) == 0 {
		return false
	}
	r := busy[rapid.IntRange(0, len(busy)-1).Draw(rt, "road")]
	d := w.roads[r][0]
	w.roads[r] = w.roads[r][1:]
	w.turn(rt, r.from, r.to, d)
	return true
}

// TestUsersTeachProducts: users rate and view, sends arrive in any order, and in the end each product holds the very
// ratings of its users and the very numbers of fans in common; one event costs a bounded number of turns.
func TestUsersTeachProducts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		at := time.Date(2015, 3, 1, 0, 0, 0, 0, time.UTC)
		ratings := map[[2]string]uint32{}
		recent := map[string][]string{} // of each user, the latest to be of interest last
		told := map[[2]string]bool{}
		fans := map[string]uint64{}
		both := map[[2]string]uint64{}
		events := rapid.IntRange(1, 60).Draw(rt, "events")
		for range events {
			at = at.Add(time.Minute)
			user, product := fmt.Sprint("u", rapid.IntRange(1, 5).Draw(rt, "user")), fmt.Sprint("p", rapid.IntRange(1, 12).Draw(rt, "product"))
			var msg proto.Message = &userv1.Viewed{Product: product}
			halfStars, rated := ratings[[2]string{user, product}]
			interest := !rated || halfStars >= 8
			if rapid.IntRange(0, 3).Draw(rt, "turn") > 0 {
				halfStars = rapid.Uint32Range(5, 10).Draw(rt, "half stars")
				ratings[[2]string{user, product}] = halfStars
				msg, interest = &userv1.Rated{Product: product, HalfStars: halfStars}, halfStars >= 8
			}
			if old := recent[user]; interest {
				left := slices.DeleteFunc(slices.Clone(old), func(p string) bool { return p == product })
				if !told[[2]string{user, product}] {
					told[[2]string{user, product}] = true
					fans[product]++
					for _, other := range left[max(0, len(left)-8):] {
						both[[2]string{product, other}]++
						both[[2]string{other, product}]++
					}
				}
				recent[user] = append(left, product)
			} else {
				recent[user] = slices.DeleteFunc(slices.Clone(old), func(p string) bool { return p == product })
			}
			payload, err := proto.Marshal(msg)
			if err != nil {
				rt.Fatal(err)
			}
			w.turn(rt, grains.Ref{}, grains.Ref{Kind: "user", Key: user}, delivery{string(msg.ProtoReflect().Descriptor().FullName()), payload, at, 0})
			for range rapid.IntRange(0, 12).Draw(rt, "deliveries") {
				w.deliver(rt)
			}
		}
		for w.deliver(rt) {
		}
		// The event itself, what it tells the product, 8 times there and back between products, and the answer.
		if most := events * (1 + 2 + 16 + 1); w.turns > most {
			rt.Fatalf("%d events made %d turns; at most %d are allowed", events, w.turns, most)
		}
		w.compare(rt, ratings, fans, both)
	})
}

func (w *world) compare(rt *rapid.T, ratings map[[2]string]uint32, fans map[string]uint64, both map[[2]string]uint64) {
	for _, ref := range slices.SortedFunc(maps.Keys(w.states), func(a, b grains.Ref) int { return len(a.Key) - len(b.Key) }) {
		s, ok := w.states[ref].(*productv1.Product)
		if !ok {
			continue
		}
		want := &productv1.Product{Fans: fans[ref.Key]}
		for who, halfStars := range ratings {
			if who[1] == ref.Key {
				want.Count++
				want.HalfStars += uint64(halfStars)
			}
		}
		if s.Count != want.Count || s.HalfStars != want.HalfStars || s.Fans != want.Fans {
			rt.Fatalf("%s: %v, want %v", ref, s, want)
		}
		got := map[string]uint64{}
		for i, other := range s.Similar {
			got[other] = s.SimilarCounts[i]
		}
		for pair, n := range both {
			if pair[0] == ref.Key && got[pair[1]] != n {
				rt.Fatalf("%s and %s have %d fans in common, want %d", ref, pair[1], got[pair[1]], n)
			}
		}
	}
}
