package user

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/grainstest"
	productv1 "github.com/granary-dev/granary/proto/granary/product/v1"
	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
)

func TestUser(t *testing.T) {
	grainstest.Check(t, grainstest.Suite{
		Kind: Kind.MustDefine(), Key: "ada", Generate: generate, Scripts: "testdata",
		Questions: []proto.Message{&userv1.Recommend{Limit: 3}, &userv1.Recommend{Limit: 99}},
	})
}

var (
	steps   = grainstest.Evenly(0, time.Second, time.Minute, time.Hour, -time.Second, -time.Hour, 24*time.Hour, -72*time.Hour)
	turns   = grainstest.Evenly("rate", "rate", "rate", "rate", "view", "answer", "answer")
	lengths = grainstest.Evenly(0, 20, 80)
	faults  = grainstest.Evenly(append(slices.Repeat([]string{"none"}, 30), "stars", "product", "answer", "time")...)
	wrong   = grainstest.Evenly("", "a\nb", strings.Repeat("x", 129))
)

// generate draws ratings, views and answers about thirty products, so that most come again, around a clock that goes
// back as often as not. One event in ten or so is bad.
func generate(rt *rapid.T) []grainstest.Event {
	at := time.Date(2015, 3, 1, 12, 0, 0, 0, time.UTC)
	product := func() string { return fmt.Sprint("p", rapid.IntRange(1, 30).Draw(rt, "product")) }
	var events []grainstest.Event
	for range lengths.Draw(rt, "events") + rapid.IntRange(0, 20).Draw(rt, "more") {
		at = at.Add(steps.Draw(rt, "step"))
		e := grainstest.Event{At: at}
		fault := faults.Draw(rt, "fault")
		if fault == "time" {
			e.At = time.Unix(-1, 0)
		}
		name := product()
		if fault == "product" {
			name = wrong.Draw(rt, "wrong")
		}
		switch turns.Draw(rt, "turn") {
		case "rate":
			m := &userv1.Rated{Product: name, HalfStars: uint32(grainstest.Evenly(1, 4, 7, 8, 9, 10).Draw(rt, "half stars"))}
			if fault == "stars" {
				m.HalfStars = grainstest.Evenly[uint32](0, 11).Draw(rt, "wrong stars")
			}
			e.Message = m
		case "view":
			e.Message = &userv1.Viewed{Product: name}
		case "answer":
			e.From = grains.Ref{Kind: "product", Key: "p"}
			e.Message = answer(rt, name, fault == "answer", product)
		}
		events = append(events, e)
	}
	return events
}

// answer draws what a product answers, good or bad.
func answer(rt *rapid.T, from string, bad bool, product func() string) *userv1.Suggested {
	m := &userv1.Suggested{Product: from}
	for range rapid.IntRange(0, 6).Draw(rt, "others") {
		if other := product(); !slices.Contains(m.Others, other) {
			m.Others = append(m.Others, other)
			m.Similarities = append(m.Similarities, rapid.Uint32Range(1, 1000).Draw(rt, "similarity"))
		}
	}
	if !bad {
		return m
	}
	switch grainstest.Evenly("short", "zero", "high", "name", "long", "twice").Draw(rt, "flaw") {
	case "short":
		m.Others = append(m.Others, "x")
	case "zero":
		m.Others, m.Similarities = append(m.Others, "x"), append(m.Similarities, 0)
	case "high":
		m.Others, m.Similarities = append(m.Others, "x"), append(m.Similarities, 1001)
	case "name":
		m.Others, m.Similarities = append(m.Others, wrong.Draw(rt, "wrong")), append(m.Similarities, 5)
	case "long":
		m.Others, m.Similarities = nil, slices.Repeat([]uint32{7}, 21)
		for i := range 21 {
			m.Others = append(m.Others, fmt.Sprint("q", i))
		}
	case "twice":
		m.Others, m.Similarities = append(m.Others, "x", "x"), append(m.Similarities, 1, 1)
	}
	return m
}

// host runs one user's turns.
type host struct {
	def    *grains.Definition
	state  *userv1.User
	runner grains.Runner
	seq    uint64
}

func newHost() *host { return &host{def: Kind.MustDefine(), state: &userv1.User{}} }

func (h *host) turn(e grainstest.Event) grains.Outcome {
	h.seq++
	typ, _ := h.def.Event(string(e.Message.ProtoReflect().Descriptor().Name()))
	return h.runner.Run(typ, grains.Input{
		Grain: grains.Ref{Kind: "user", Key: "ada"}, Seq: h.seq, EventTime: e.At.UnixNano(),
	}, h.state, e.Message)
}

// model is what the documentation promises, written down with maps and without any thrift.
type model struct {
	want      userv1.User
	ratings   map[string]holds // ratings that hold
	seen      map[string]bool  // all products known
	ever      map[string]bool  // interests told
	interests []interest
}

type holds struct {
	at        time.Time
	halfStars uint32
}

type interest struct {
	product   string
	at        time.Time
	suggested map[string]uint32
}

func newModel() *model {
	return &model{ratings: map[string]holds{}, seen: map[string]bool{}, ever: map[string]bool{}}
}

// take folds an event that was not rejected, and returns what must be sent.
func (m *model) take(event grainstest.Event) (sends []string) {
	send := func(to string, msg proto.Message) { sends = append(sends, sendText(to, msg)) }
	at := event.At
	if _, isAnswer := event.Message.(*userv1.Suggested); !isAnswer {
		if micros := at.UnixMicro(); len(m.seen) == 0 {
			m.want.FirstAtMicros, m.want.LastAtMicros = micros, micros
		} else {
			m.want.FirstAtMicros, m.want.LastAtMicros = min(m.want.FirstAtMicros, micros), max(m.want.LastAtMicros, micros)
		}
	}
	switch e := event.Message.(type) {
	case *userv1.Suggested:
		if i := m.interestIn(e.Product); i >= 0 {
			m.interests[i].suggested = map[string]uint32{}
			for k, other := range e.Others {
				if !m.seen[other] {
					m.interests[i].suggested[other] = e.Similarities[k]
				}
			}
		}
	case *userv1.Viewed:
		m.want.ViewCount++
		send("product/"+e.Product, &productv1.Viewed{User: "ada"})
		if old, rated := m.ratings[e.Product]; !rated || old.halfStars >= 8 {
			m.learn(e.Product)
			m.like(e.Product, at, send)
		}
	case *userv1.Rated:
		told := &productv1.Rated{User: "ada", HalfStars: e.HalfStars}
		if old, again := m.ratings[e.Product]; again {
			if old.at.After(at) {
				m.want.OutdatedCount++
				return nil
			}
			m.want.ChangedCount++
			told.PreviousHalfStars, told.PreviousAtMicros = old.halfStars, old.at.UnixMicro()
		}
		send("product/"+e.Product, told)
		m.ratings[e.Product] = holds{at, e.HalfStars}
		m.learn(e.Product)
		if e.HalfStars >= 8 {
			m.like(e.Product, at, send)
		} else if i := m.interestIn(e.Product); i >= 0 {
			m.interests = slices.Delete(m.interests, i, i+1)
		}
	}
	return sends
}

func sendText(to string, msg proto.Message) string {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%s %s %x", to, msg.ProtoReflect().Descriptor().FullName(), body)
}

func (m *model) interestIn(product string) int {
	return slices.IndexFunc(m.interests, func(x interest) bool { return x.product == product })
}

// learn makes a product known, so that nothing suggests it any more.
func (m *model) learn(product string) {
	m.seen[product] = true
	for _, x := range m.interests {
		delete(x.suggested, product)
	}
}

func (m *model) like(product string, at time.Time, send func(string, proto.Message)) {
	if i := m.interestIn(product); i >= 0 {
		if at.After(m.interests[i].at) {
			moved := m.interests[i]
			moved.at = at
			m.interests = append(slices.Delete(m.interests, i, i+1), moved)
			m.order()
		}
		return
	}
	told := &productv1.Interested{User: "ada", Again: m.ever[product]}
	if !m.ever[product] {
		m.ever[product] = true
		for _, x := range slices.Backward(m.interests) {
			if len(told.Others) < 8 {
				told.Others = append(told.Others, x.product)
			}
		}
	}
	m.interests = append(m.interests, interest{product, at, map[string]uint32{}})
	m.order()
	if !told.Again || m.interestIn(product) >= 0 {
		send("product/"+product, told)
	}
}

// order keeps the 16 latest, oldest first; of equal times the one noted first.
func (m *model) order() {
	slices.SortStableFunc(m.interests, func(a, b interest) int { return a.at.Compare(b.at) })
	m.interests = m.interests[max(0, len(m.interests)-16):]
}

// figures are what a state must say, without the hashes of what is known.
func (m *model) figures() *userv1.User {
	s := proto.CloneOf(&m.want)
	s.Count, s.InterestCount = uint64(len(m.ratings)), uint64(len(m.ever))
	for _, r := range m.ratings {
		s.HalfStars += uint64(r.halfStars)
	}
	type next struct {
		product string
		score   uint32
		best    uint32
		because string
	}
	sums := map[string]next{}
	for _, x := range m.interests {
		s.Interests = append(s.Interests, x.product)
		s.InterestAtMicros = append(s.InterestAtMicros, x.at.UnixMicro())
		for product, similarity := range x.suggested {
			n := sums[product]
			n.product = product
			n.score += similarity
			if similarity >= n.best {
				n.best, n.because = similarity, x.product
			}
			sums[product] = n
		}
	}
	all := slices.SortedFunc(maps.Values(sums), func(a, b next) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.product, b.product))
	})
	for _, n := range all[:min(10, len(all))] {
		s.Next, s.NextScores, s.NextBecause = append(s.Next, n.product), append(s.NextScores, n.score), append(s.NextBecause, n.because)
	}
	return s
}

// TestModel holds the figures, the ranking and all sends to the model, after every event.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h, m := newHost(), newModel()
		for i, e := range generate(rt) {
			out := h.turn(e)
			if _, rejected := grains.Rejection(out.Err); rejected {
				continue
			}
			want := m.take(e)
			var sent []string
			for _, f := range out.Effects {
				sent = append(sent, fmt.Sprintf("%s %s %x", f.To, f.Type, f.Payload))
			}
			if !slices.Equal(sent, want) {
				rt.Fatalf("event %d, %v, sends\n%s\nwant\n%s", i+1, e, strings.Join(sent, "\n"), strings.Join(want, "\n"))
			}
			got := proto.CloneOf(h.state)
			if len(got.KnownHashes) != len(m.seen) || !slices.IsSorted(got.KnownHashes) {
				rt.Fatalf("event %d: %d products are known, want %d", i+1, len(got.KnownHashes), len(m.seen))
			}
			got.KnownHashes, got.KnownAtMicros, got.KnownMarks = nil, nil, nil
			got.InterestSuggestions, got.Suggestions, got.SuggestionSimilarities = nil, nil, nil
			if want := m.figures(); !proto.Equal(got, want) {
				rt.Fatalf("event %d, %v\nstate %v\nmodel %v", i+1, e, got, want)
			}
		}
	})
}

// TestGenerateIsHostile: what the generator calls bad is rejected, and it comes often enough to matter.
func TestGenerateIsHostile(t *testing.T) {
	reasons := map[string]bool{}
	rapid.Check(t, func(rt *rapid.T) {
		h := newHost()
		for _, e := range generate(rt) {
			if reason, rejected := grains.Rejection(h.turn(e).Err); rejected {
				reasons[strings.Fields(reason)[0]] = true
			}
		}
	})
	for _, first := range []string{"half_stars", "product", "others", "similarities", "it", "21"} {
		if !reasons[first] {
			t.Errorf("no rejection begins with %q: %v", first, slices.Sorted(maps.Keys(reasons)))
		}
	}
}

// TestForgets: the memory has an end, and what is forgotten is what is oldest, not what was told first.
func TestForgets(t *testing.T) {
	h := newHost()
	begin := time.Date(2015, 3, 1, 0, 0, 0, 0, time.UTC)
	rate := func(n int, halfStars uint32) {
		at := begin.Add(-time.Duration(n) * time.Minute) // the first to come is the latest
		if out := h.turn(grainstest.Event{At: at, Message: &userv1.Rated{Product: fmt.Sprint(n), HalfStars: halfStars}}); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	for n := range maxKnown + 10 {
		rate(n, 2)
	}
	rate(0, 3)
	rate(maxKnown-1, 3)
	if s := h.state; s.ChangedCount != 2 || s.Count != maxKnown+10 || s.HalfStars != 2*(maxKnown+10)+2 {
		t.Errorf("%d changed, count %d, %d half stars", s.ChangedCount, s.Count, s.HalfStars)
	}
	rate(maxKnown, 3)
	if s := h.state; s.ChangedCount != 2 || s.Count != maxKnown+11 || len(s.KnownHashes) != maxKnown {
		t.Errorf("after a forgotten one: %d changed, count %d, %d known", s.ChangedCount, s.Count, len(s.KnownHashes))
	}
}

// maxState is what a user can grow to, in bytes.
const maxState = 128 << 10

// TestBounded: whatever comes, the state stays below its limit; and it comes near, so the limit says something.
func TestBounded(t *testing.T) {
	h := newHost()
	at := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	name := func(n int) string { return fmt.Sprintf("%0128d", n) }
	largest := 0
	for n := range maxKnown + 100 {
		at = at.Add(time.Second)
		h.turn(grainstest.Event{At: at, Message: &userv1.Rated{Product: name(n), HalfStars: 10}})
		m := &userv1.Suggested{Product: name(n)}
		for i := range maxSuggestions {
			m.Others, m.Similarities = append(m.Others, name(1_000_000+n%100*maxSuggestions+i)), append(m.Similarities, 1000)
		}
		if out := h.turn(grainstest.Event{At: at, Message: m}); out.Err != nil {
			t.Fatal(out.Err)
		}
		largest = max(largest, h.state.SizeVT())
	}
	if largest > maxState || largest < maxState*3/4 {
		t.Errorf("the state grew to %d bytes; the limit is %d", largest, maxState)
	}
}

// TestHashStays pins the hash: it is in stored states. The value is the one published with FNV.
func TestHashStays(t *testing.T) {
	if p, _ := recall(&userv1.User{}, "foobar"); p.hash != 0x85944171f73967e8 {
		t.Errorf("%#x", p.hash)
	}
}

// BenchmarkRated is one turn of a user who rates one product after the other, each with an answer in between.
func BenchmarkRated(b *testing.B) {
	h := newHost()
	at := time.Date(2015, 3, 1, 0, 0, 0, 0, time.UTC)
	rated, answer := &userv1.Rated{HalfStars: 9}, &userv1.Suggested{Similarities: slices.Repeat([]uint32{300}, maxSuggestions)}
	answer.Others = make([]string, maxSuggestions)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		at = at.Add(time.Minute)
		rated.Product = fmt.Sprint(n % 2000)
		answer.Product = rated.Product
		for i := range answer.Others {
			answer.Others[i] = fmt.Sprint(2000 + (n+i*7)%150)
		}
		h.turn(grainstest.Event{At: at, Message: rated})
		if out := h.turn(grainstest.Event{At: at, Message: answer}); out.Err != nil {
			b.Fatal(out.Err)
		}
	}
}
