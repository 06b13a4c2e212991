package merchant

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/grainstest"
	"github.com/granary-dev/granary/grains/window"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
)

func TestMerchant(t *testing.T) {
	grainstest.Check(t, grainstest.Suite{
		Kind: Kind.MustDefine(), Key: "m1", Generate: generate, Scripts: "testdata",
	})
}

var (
	steps = grainstest.Evenly(
		0, time.Second, time.Minute, time.Hour-time.Second, time.Hour, 5*time.Hour, 12*time.Hour, day-time.Hour, day, 2*day,
	)
	jumps = grainstest.Evenly(
		6*day, 7*day-time.Hour, 7*day, 20*day, 30*day-time.Hour, 30*day, 37*day, 38*day+time.Hour, 70*day,
	)
	moves   = grainstest.Evenly("on", "on", "on", "on", "on", "on", "on", "on", "far", "back", "far back")
	turns   = grainstest.Evenly("charge", "charge", "charge", "flag", "flag", "withdraw")
	faults  = grainstest.Evenly(append(slices.Repeat([]string{"none"}, 36), "negative", "huge", "account", "id", "early flag")...)
	lengths = grainstest.Evenly(0, 20, 80)
)

const day = 24 * time.Hour

// generate draws transactions and flags around a clock that mostly goes on, sometimes far, and sometimes back. A fraud is
// withdrawn only if it was told before, as an account does. One event in ten or so is bad.
func generate(rt *rapid.T) []grainstest.Event {
	at := time.Date(2018, 4, 1, 0, 0, 0, 0, time.UTC)
	from := grains.Ref{Kind: "account", Key: "4711"}
	var events []grainstest.Event
	var charges, frauds []*merchantv1.Flagged // what can be flagged, and withdrawn
	for range lengths.Draw(rt, "events") + rapid.IntRange(0, 20).Draw(rt, "more") {
		switch moves.Draw(rt, "move") {
		case "on":
			at = at.Add(steps.Draw(rt, "step"))
		case "far":
			at = at.Add(jumps.Draw(rt, "jump"))
		case "back":
			at = at.Add(-steps.Draw(rt, "step"))
		case "far back":
			at = at.Add(-jumps.Draw(rt, "jump"))
		}
		var flag *merchantv1.Flagged
		switch turn := turns.Draw(rt, "turn"); {
		case turn == "flag" && len(charges) > 0:
			i := grainstest.Evenly(0, len(charges)/2, len(charges)-1).Draw(rt, "which")
			flag = charges[i]
			charges = slices.Delete(charges, i, i+1)
			frauds = append(frauds, proto.CloneOf(flag))
		case turn == "withdraw" && len(frauds) > 0:
			i := grainstest.Evenly(0, len(frauds)/2, len(frauds)-1).Draw(rt, "which")
			flag = frauds[i]
			frauds = slices.Delete(frauds, i, i+1)
			flag.Withdrawn = true
		}
		if flag != nil {
			days := grainstest.Evenly[time.Duration](0, 1, 7, 8, 40).Draw(rt, "days")
			events = append(events, grainstest.Event{Message: flag, At: time.UnixMicro(flag.ChargedAtMicros).Add(days * day), From: from})
			continue
		}
		if rapid.IntRange(0, 5).Draw(rt, "vet") == 0 {
			v := &merchantv1.Vet{TransactionId: "t", Account: "1", AmountCents: rapid.Int64Range(-1, 100_000).Draw(rt, "cents"),
				Token: grainstest.Evenly("account/1#2", "account/1#2", "account/1#02", "").Draw(rt, "token"), AccountScore: rapid.Uint32Range(0, 1200).Draw(rt, "score")}
			events = append(events, grainstest.Event{Message: v, At: at, From: from})
		}
		e := &merchantv1.Seen{
			TransactionId: rapid.StringMatching(`[a-z0-9]{1,8}`).Draw(rt, "id"),
			Account:       rapid.StringMatching(`[0-9]{1,4}`).Draw(rt, "account"),
			AmountCents:   rapid.OneOf(rapid.Int64Range(0, 50_000), rapid.Int64Range(0, window.MaxCents)).Draw(rt, "cents"),
		}
		switch faults.Draw(rt, "fault") {
		case "negative":
			e.AmountCents = -e.AmountCents - 1
		case "huge":
			e.AmountCents += window.MaxCents + 1
		case "account":
			e.Account = rapid.SampledFrom([]string{"", "a\x00b", strings.Repeat("x", 513)}).Draw(rt, "account")
		case "id":
			e.TransactionId = rapid.SampledFrom([]string{"", "a\nb", strings.Repeat("x", 129)}).Draw(rt, "id")
		case "early flag":
			events = append(events, grainstest.Event{
				Message: &merchantv1.Flagged{TransactionId: "1", Account: "2", ChargedAtMicros: at.UnixMicro()}, At: at.Add(-time.Second),
			})
			continue
		default:
			charges = append(charges, &merchantv1.Flagged{
				TransactionId: e.TransactionId, Account: e.Account, ChargedAtMicros: at.UnixMicro(),
			})
		}
		events = append(events, grainstest.Event{Message: e, At: at, From: from})
	}
	return events
}

// TestRecount holds every figure to a recount of the events that were taken.
func TestRecount(t *testing.T) {
	def := Kind.MustDefine()
	rapid.Check(t, func(rt *rapid.T) {
		s := def.NewState().(*merchantv1.Merchant)
		var runner grains.Runner
		var all []transaction
		for i, e := range generate(rt) {
			typ, _ := def.Event(string(e.Message.ProtoReflect().Descriptor().Name()))
			out := runner.Run(typ, grains.Input{
				Grain: grains.Ref{Kind: "merchant", Key: "1"}, Seq: uint64(i + 1), EventTime: e.At.UnixNano(),
			}, s, e.Message)
			if out.Err != nil {
				continue
			}
			switch m := e.Message.(type) {
			case *merchantv1.Seen:
				all = append(all, transaction{at: e.At.UnixMicro(), seen: 1, cents: m.AmountCents})
			case *merchantv1.Flagged:
				fraud := 1
				if m.Withdrawn {
					fraud = -1
				}
				all = append(all, transaction{at: m.ChargedAtMicros, frauds: fraud})
			}
			if want := recount(all); !proto.Equal(figures(s), want) {
				rt.Fatalf("event %d\nfigures %v\nrecount %v", i+1, figures(s), want)
			}
		}
		if len(s.Hours) > window.Month+window.Week+24 || len(s.FraudHours) > window.Month+window.Week+24 || len(s.RecentIds) > maxRecent {
			rt.Fatalf("out of bounds: %v", s)
		}
	})
}

// transaction is what one event adds to a recount.
type transaction struct {
	at           int64
	seen, frauds int
	cents        int64
}

// figures are the parts of a state that a recount can know.
func figures(s *merchantv1.Merchant) *merchantv1.Merchant {
	return &merchantv1.Merchant{
		Count: s.Count, Cents: s.Cents, LastAtMicros: s.LastAtMicros, FraudCount: s.FraudCount, Risk: s.Risk,
		DayCount: s.DayCount, DayCents: s.DayCents, WeekCount: s.WeekCount, WeekCents: s.WeekCents,
		MonthCount: s.MonthCount, MonthCents: s.MonthCents,
		SettledDayCount: s.SettledDayCount, SettledWeekCount: s.SettledWeekCount, SettledMonthCount: s.SettledMonthCount,
		SettledDayFrauds: s.SettledDayFrauds, SettledWeekFrauds: s.SettledWeekFrauds, SettledMonthFrauds: s.SettledMonthFrauds,
	}
}

func recount(all []transaction) *merchantv1.Merchant {
	s := &merchantv1.Merchant{}
	for _, e := range all {
		s.LastAtMicros = max(s.LastAtMicros, e.at)
	}
	newest := time.UnixMicro(s.LastAtMicros).UTC().Truncate(time.Hour)
	for _, e := range all {
		s.Count += uint64(e.seen)
		s.Cents += e.cents
		s.FraudCount += uint64(e.frauds)
		days := newest.Sub(time.UnixMicro(e.at).UTC().Truncate(time.Hour)).Hours() / 24
		for _, w := range []struct {
			first, last   float64
			count, frauds *uint64
			cents         *int64
		}{
			{0, 1, &s.DayCount, nil, &s.DayCents},
			{0, 7, &s.WeekCount, nil, &s.WeekCents},
			{0, 30, &s.MonthCount, nil, &s.MonthCents},
			{7, 8, &s.SettledDayCount, &s.SettledDayFrauds, nil},
			{7, 14, &s.SettledWeekCount, &s.SettledWeekFrauds, nil},
			{7, 37, &s.SettledMonthCount, &s.SettledMonthFrauds, nil},
		} {
			if days < w.first || days >= w.last {
				continue
			}
			*w.count += uint64(e.seen)
			if w.cents != nil {
				*w.cents += e.cents
			}
			if w.frauds != nil {
				*w.frauds += uint64(e.frauds)
			}
		}
	}
	share := 1000 * float64(s.SettledMonthFrauds) / float64(s.SettledMonthCount+10)
	s.Risk = uint32(math.Floor(min(1000, share)))
	return s
}

// BenchmarkSeen is one turn, without encoding or decoding, of a merchant with a transaction a day, and of one with one a
// minute.
func BenchmarkSeen(b *testing.B) {
	for _, bench := range []struct {
		name string
		gap  time.Duration
	}{{"once a day", 24 * time.Hour}, {"each minute", time.Minute}} {
		b.Run(bench.name, func(b *testing.B) {
			def := Kind.MustDefine()
			typ, _ := def.Event("Seen")
			var s *merchantv1.Merchant
			var runner grains.Runner
			e := &merchantv1.Seen{TransactionId: "tx-1", Account: "4711", AmountCents: 1234}
			end := time.Unix(0, 0)
			b.ReportAllocs()
			for b.Loop() {
				if end = end.Add(bench.gap); s == nil || end.Year() > 2200 {
					s, end = &merchantv1.Merchant{}, time.Unix(1_522_540_800, 0)
				}
				in := grains.Input{Grain: grains.Ref{Kind: "merchant", Key: "1"}, EventTime: end.UnixNano()}
				if out := runner.Run(typ, in, s, e); out.Err != nil {
					b.Fatal(out.Err)
				}
			}
		})
	}
}
