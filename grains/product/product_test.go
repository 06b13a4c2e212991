package product

import (
	"fmt"
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

func TestProduct(t *testing.T) {
	grainstest.Check(t, grainstest.Suite{
		Kind: Kind.MustDefine(), Key: "alien", Generate: generate, Scripts: "testdata",
	})
}

const day = 24 * time.Hour

var (
	steps = grainstest.Evenly(
		0, time.Second, time.Minute, time.Hour, 5*time.Hour, day-time.Hour, day, 6*day, 8*day, 31*day, -time.Hour, -2*day, -40*day,
	)
	turns   = grainstest.Evenly("rate", "rate", "rate", "view", "interest", "interest", "together", "together", "together")
	faults  = grainstest.Evenly(append(slices.Repeat([]string{"none"}, 30), "stars", "previous", "user", "other", "fans", "time")...)
	lengths = grainstest.Evenly(0, 20, 80)
	wrong   = grainstest.Evenly("", "a\nb", "alien", strings.Repeat("x", 129))
)

// generate draws what users and other products send, as their grains do: a rating names the one of the same user that it
// replaces. One event in ten or so is bad.
func generate(rt *rapid.T) []grainstest.Event {
	at := time.Date(2015, 3, 1, 12, 0, 0, 0, time.UTC)
	rated := map[string]*grainstest.Event{}
	var events []grainstest.Event
	for range lengths.Draw(rt, "events") + rapid.IntRange(0, 20).Draw(rt, "more") {
		at = at.Add(steps.Draw(rt, "step"))
		e := grainstest.Event{At: at, From: grains.Ref{Kind: "user", Key: "1"}}
		fault := faults.Draw(rt, "fault")
		user := fmt.Sprint(rapid.IntRange(1, 12).Draw(rt, "user"))
		if fault == "user" {
			user = grainstest.Evenly("", "a\x00b", strings.Repeat("x", 513)).Draw(rt, "wrong user")
		}
		if fault == "time" {
			e.At = time.Unix(-1, 0)
		}
		other := fmt.Sprint("p", rapid.IntRange(1, 90).Draw(rt, "other"))
		if fault == "other" {
			other = wrong.Draw(rt, "wrong other")
		}
		switch turns.Draw(rt, "turn") {
		case "rate":
			m := &productv1.Rated{User: user, HalfStars: rapid.Uint32Range(1, 10).Draw(rt, "half stars")}
			if old := rated[user]; old != nil {
				if old.At.After(at) {
					continue // the user's grain says nothing of it
				}
				m.PreviousHalfStars, m.PreviousAtMicros = old.Message.(*productv1.Rated).HalfStars, old.At.UnixMicro()
			}
			switch fault {
			case "stars":
				m.HalfStars = grainstest.Evenly[uint32](0, 11).Draw(rt, "wrong stars")
			case "previous":
				m.PreviousHalfStars = 11
			case "none":
				rated[user] = &grainstest.Event{At: at, Message: m}
			case "other", "fans":
				continue
			}
			e.Message = m
		case "view":
			e.Message = &productv1.Viewed{User: user}
		case "interest":
			m := &productv1.Interested{User: user, Again: rapid.Bool().Draw(rt, "again")}
			if n := rapid.IntRange(0, maxOthers).Draw(rt, "others"); n > 0 || fault == "other" {
				m.Others = append(slices.Repeat([]string{"q"}, n), other)[:max(n, 1)]
				m.Others[len(m.Others)-1] = other
			}
			if fault == "fans" {
				m.Others = slices.Repeat([]string{"q"}, maxOthers+1)
			}
			e.Message = m
		case "together":
			m := &productv1.Together{Other: other, Fans: rapid.Uint64Range(1, 30).Draw(rt, "fans"), Answer: rapid.Bool().Draw(rt, "answer")}
			if fault == "fans" {
				m.Fans = 1 << 32
			}
			e.Message, e.From = m, grains.Ref{Kind: "product", Key: other}
		}
		events = append(events, e)
	}
	return events
}

// host runs one product's turns.
type host struct {
	def    *grains.Definition
	state  *productv1.Product
	runner grains.Runner
	seq    uint64
}

func newHost() *host { return &host{def: Kind.MustDefine(), state: &productv1.Product{}} }

func (h *host) turn(at time.Time, m proto.Message) grains.Outcome {
	h.seq++
	typ, _ := h.def.Event(string(m.ProtoReflect().Descriptor().Name()))
	return h.runner.Run(typ, grains.Input{
		Grain: grains.Ref{Kind: "product", Key: "alien"}, Seq: h.seq, EventTime: at.UnixNano(),
	}, h.state, m)
}

// TestRecount holds totals and windows to a recount, after every event.
func TestRecount(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHost()
		ratings := map[string]rating{}
		var views []time.Time
		var newest time.Time
		var fans uint64
		var changed uint64
		for i, e := range generate(rt) {
			out := h.turn(e.At, e.Message)
			if _, rejected := grains.Rejection(out.Err); rejected {
				continue
			}
			sends := 0
			switch m := e.Message.(type) {
			case *productv1.Rated:
				if _, again := ratings[m.User]; again {
					changed++
				}
				ratings[m.User] = rating{e.At, m.HalfStars}
				newest = later(newest, e.At)
			case *productv1.Viewed:
				views = append(views, e.At)
				newest = later(newest, e.At)
			case *productv1.Interested:
				sends = 1
				if !m.Again {
					fans++
					sends += len(m.Others)
				}
			case *productv1.Together:
				if !m.Answer {
					sends = 1
				}
			}
			if len(out.Effects) != sends {
				rt.Fatalf("event %d, %v: %d sends, want %d", i+1, e, len(out.Effects), sends)
			}
			want := recount(ratings, views, newest)
			want.ChangedCount, want.Fans = changed, fans
			if got := figures(h.state); !proto.Equal(got, want) {
				rt.Fatalf("event %d, %v\nfigures %v\nrecount %v", i+1, e, got, want)
			}
		}
	})
}

type rating struct {
	at        time.Time
	halfStars uint32
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func recount(ratings map[string]rating, views []time.Time, newest time.Time) *productv1.Product {
	s := &productv1.Product{ViewCount: uint64(len(views))}
	if !newest.IsZero() {
		s.LastAtMicros = newest.UnixMicro()
	}
	within := func(at time.Time, days int) bool {
		return newest.Truncate(time.Hour).Sub(at.Truncate(time.Hour)) < time.Duration(days)*day
	}
	for _, r := range ratings {
		s.Count++
		s.HalfStars += uint64(r.halfStars)
		for _, w := range []struct {
			days  int
			count *uint64
			sum   *int64
		}{{1, &s.DayCount, &s.DayHalfStars}, {7, &s.WeekCount, &s.WeekHalfStars}, {30, &s.MonthCount, &s.MonthHalfStars}} {
			if within(r.at, w.days) {
				*w.count++
				*w.sum += int64(r.halfStars)
			}
		}
	}
	if s.Count > 0 {
		s.MeanCentistars = uint32(float64(s.HalfStars)/2*100/float64(s.Count) + 1e-9)
	}
	for _, at := range views {
		for days, count := range map[int]*uint64{1: &s.DayViews, 7: &s.WeekViews, 30: &s.MonthViews} {
			if within(at, days) {
				*count++
			}
		}
	}
	return s
}

// figures are the parts of a state that a recount of ratings, views and fans can know.
func figures(s *productv1.Product) *productv1.Product {
	s = proto.CloneOf(s)
	s.Similar, s.Similarities, s.SimilarCounts, s.SimilarFans = nil, nil, nil, nil
	s.Hours, s.HourCounts, s.HourHalfStars, s.ViewHours, s.ViewHourCounts = nil, nil, nil, nil, nil
	return s
}

// TestAnswer: the best are told, best first, and none that is not similar at all.
func TestAnswer(t *testing.T) {
	h := newHost()
	now := time.Unix(1_425_000_000, 0)
	for range 40 {
		h.turn(now, &productv1.Interested{User: "u"})
	}
	for i := range 30 {
		for range 1 + i%10 {
			h.turn(now, &productv1.Together{Other: fmt.Sprint("p", i), Fans: 12, Answer: true})
		}
	}
	h.turn(now, &productv1.Together{Other: "far", Fans: 1 << 31, Answer: true})
	out := h.turn(now, &productv1.Interested{User: "7", Again: true})
	if len(out.Effects) != 1 || out.Effects[0].To.String() != "user/7" {
		t.Fatal(out)
	}
	var answer userv1.Suggested
	if err := proto.Unmarshal(out.Effects[0].Payload, &answer); err != nil {
		t.Fatal(err)
	}
	descending := func(a, b uint32) int { return int(b) - int(a) }
	if answer.Product != "alien" || len(answer.Others) != maxSuggestions || !slices.IsSortedFunc(answer.Similarities, descending) {
		t.Errorf("%v", &answer)
	}
	if slices.Contains(answer.Others, "p0") || !slices.Contains(answer.Others, "p9") || slices.Contains(answer.Others, "far") {
		t.Errorf("%v", &answer)
	}
	few := newHost()
	few.turn(now, &productv1.Together{Other: "far", Fans: 1 << 31, Answer: true})
	if out := few.turn(now, &productv1.Interested{User: "7", Again: true}); len(out.Effects) != 1 || len(out.Effects[0].Payload) != len("alien")+2 {
		t.Errorf("what is not similar was told: %v", out)
	}
}

// maxState is what a product can grow to, in bytes.
const maxState = 48 << 10

// TestBounded: whatever comes, the state stays below its limit; and it comes near, so the limit says something.
func TestBounded(t *testing.T) {
	h := newHost()
	at := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	largest := 0
	for n := range 3_000 {
		at = at.Add(time.Hour / 2)
		other := fmt.Sprintf("%0128d", n%500)
		for _, m := range []proto.Message{
			&productv1.Rated{User: "u", HalfStars: 10}, &productv1.Viewed{User: "u"},
			&productv1.Interested{User: "u", Others: slices.Repeat([]string{other}, maxOthers)},
			&productv1.Together{Other: other, Fans: 1<<32 - 1},
		} {
			if out := h.turn(at, m); out.Err != nil {
				t.Fatal(out.Err)
			}
		}
		for range 250 { // counts of two bytes and more
			h.turn(at, &productv1.Rated{User: "u", HalfStars: 10})
			h.turn(at, &productv1.Viewed{User: "u"})
		}
		largest = max(largest, h.state.SizeVT())
	}
	if largest > maxState || largest < maxState/3 {
		t.Errorf("the state grew to %d bytes; the limit is %d", largest, maxState)
	}
}

// BenchmarkTogether is one turn of a product that hears of 200 others in turn, with room for 64.
func BenchmarkTogether(b *testing.B) {
	h := newHost()
	now := time.Unix(1_425_000_000, 0)
	m := &productv1.Together{Fans: 30}
	others := make([]string, 200)
	for i := range others {
		others[i] = fmt.Sprint(i)
	}
	h.turn(now, &productv1.Interested{User: "u"})
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		m.Other = others[n*n%200]
		if out := h.turn(now, m); out.Err != nil {
			b.Fatal(out.Err)
		}
	}
}
