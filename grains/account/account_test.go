package account

import (
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/grainstest"
	"github.com/granary-dev/granary/grains/window"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

func TestAccount(t *testing.T) {
	grainstest.Check(t, grainstest.Suite{
		Kind: Kind.MustDefine(), Key: "4711", Generate: generate, Scripts: "testdata",
		Questions: []proto.Message{&accountv1.Profile{Merchant: "a1"}, &accountv1.Profile{Merchant: "\x00"}},
	})
}

var (
	steps = grainstest.Evenly(
		0, time.Second, time.Minute, time.Hour-time.Second, time.Hour, 5*time.Hour, 12*time.Hour, day-time.Hour, day, 2*day,
	)
	jumps = grainstest.Evenly(
		6*day, 7*day-time.Hour, 7*day, 20*day, 30*day-time.Hour, 30*day, 31*day, 31*day+time.Hour, 70*day,
	)
	moves   = grainstest.Evenly("on", "on", "on", "on", "on", "on", "on", "on", "far", "back", "far back")
	turns   = grainstest.Evenly("charge", "charge", "charge", "label")
	faults  = grainstest.Evenly(append(slices.Repeat([]string{"none"}, 36), "negative", "huge", "merchant", "id")...)
	lengths = grainstest.Evenly(0, 20, 80)
)

const day = 24 * time.Hour

// generate draws transactions and labels around a clock that mostly goes on, sometimes far, and sometimes back. One
// transaction in ten is bad.
func generate(rt *rapid.T) []grainstest.Event {
	at := time.Date(2018, 4, 1, 0, 0, 0, 0, time.UTC)
	var events []grainstest.Event
	var charges []*accountv1.Labelled // what can be labelled
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
		if len(charges) > 0 && turns.Draw(rt, "turn") == "label" {
			l := proto.CloneOf(grainstest.Evenly(charges...).Draw(rt, "which"))
			l.Fraud = rapid.Bool().Draw(rt, "fraud")
			// Sometimes the label claims to be older than the transaction.
			days := grainstest.Evenly[time.Duration](-1, 0, 1, 7, 8, 40).Draw(rt, "days")
			events = append(events, grainstest.Event{Message: l, At: time.UnixMicro(l.ChargedAtMicros).Add(days * day)})
			continue
		}
		e := &accountv1.Charged{
			TransactionId: rapid.StringMatching(`[a-z0-9]{1,8}`).Draw(rt, "id"),
			Merchant:      rapid.StringMatching(`[a-z][0-9]`).Draw(rt, "merchant"),
			AmountCents:   rapid.OneOf(rapid.Int64Range(0, 50_000), rapid.Int64Range(0, window.MaxCents)).Draw(rt, "cents"),
		}
		switch faults.Draw(rt, "fault") {
		case "negative":
			e.AmountCents = -e.AmountCents - 1
		case "huge":
			e.AmountCents += window.MaxCents + 1
		case "merchant":
			e.Merchant = rapid.SampledFrom([]string{"", "a\x00b", strings.Repeat("x", 513)}).Draw(rt, "merchant")
		case "id":
			e.TransactionId = rapid.SampledFrom([]string{"", "a\nb", strings.Repeat("x", 129)}).Draw(rt, "id")
		default:
			charges = append(charges, &accountv1.Labelled{
				TransactionId: e.TransactionId, Merchant: e.Merchant, ChargedAtMicros: at.UnixMicro(),
			})
		}
		if rapid.IntRange(0, 5).Draw(rt, "ask first") == 0 {
			a := &accountv1.Authorize{TransactionId: e.TransactionId, Merchant: e.Merchant, AmountCents: e.AmountCents}
			events = append(events, grainstest.Event{Message: a, At: at})
		}
		events = append(events, grainstest.Event{Message: e, At: at})
	}
	return events
}

// TestRecount holds every figure that is not a guess to a recount of the transactions that were taken.
func TestRecount(t *testing.T) {
	def := Kind.MustDefine()
	rapid.Check(t, func(rt *rapid.T) {
		events := generate(rt)
		s := def.NewState().(*accountv1.Account)
		var runner grains.Runner
		var taken []taken
		sends := 0
		for i, e := range events {
			typ, _ := def.Event(string(e.Message.ProtoReflect().Descriptor().Name()))
			out := runner.Run(typ, grains.Input{
				Grain: grains.Ref{Kind: "account", Key: "1"}, Seq: uint64(i + 1), EventTime: e.At.UnixNano(),
			}, s, e.Message)
			if c, ok := e.Message.(*accountv1.Charged); ok && out.Err == nil {
				taken = append(taken, takenOf(c, e.At))
				for _, f := range out.Effects {
					if f.Type == "granary.merchant.v1.Seen" {
						sends++
					}
				}
			}
		}
		if want := recount(taken); !proto.Equal(figures(s), want) {
			rt.Fatalf("figures %v\nrecount %v", figures(s), want)
		}
		if sends != len(taken) {
			rt.Fatalf("%d transactions, %d sends", len(taken), sends)
		}
		if len(s.Hours) > window.Month+24 || len(s.RecentIds) > maxRecent || len(s.MerchantHashes) > maxMerchants ||
			len(s.LabelHashes) > maxLabels || len(s.LabelFrauds) != len(s.LabelHashes) {
			rt.Fatalf("out of bounds: %v", s)
		}
	})
}

// taken is a transaction that was not rejected.
type taken struct {
	*accountv1.Charged
	at int64
}

func takenOf(c *accountv1.Charged, at time.Time) taken { return taken{c, at.UnixMicro()} }

// figures are the parts of a state that a recount can know.
func figures(s *accountv1.Account) *accountv1.Account {
	return &accountv1.Account{
		Count: s.Count, Cents: s.Cents, MinCents: s.MinCents, MaxCents: s.MaxCents,
		SquaresHigh: s.SquaresHigh, SquaresLow: s.SquaresLow,
		FirstAtMicros: s.FirstAtMicros, LastAtMicros: s.LastAtMicros,
		DayCount: s.DayCount, DayCents: s.DayCents, WeekCount: s.WeekCount, WeekCents: s.WeekCents,
		MonthCount: s.MonthCount, MonthCents: s.MonthCents,
		RecentIds: s.RecentIds, RecentAtMicros: s.RecentAtMicros,
		RecentMerchants: s.RecentMerchants, RecentCents: s.RecentCents,
	}
}

func recount(all []taken) *accountv1.Account {
	s := &accountv1.Account{}
	squares := new(big.Int)
	for i, e := range all {
		if i == 0 {
			s.MinCents, s.MaxCents, s.FirstAtMicros, s.LastAtMicros = e.AmountCents, e.AmountCents, e.at, e.at
		}
		s.Count++
		s.Cents += e.AmountCents
		s.MinCents, s.MaxCents = min(s.MinCents, e.AmountCents), max(s.MaxCents, e.AmountCents)
		s.FirstAtMicros, s.LastAtMicros = min(s.FirstAtMicros, e.at), max(s.LastAtMicros, e.at)
		a := big.NewInt(e.AmountCents)
		squares.Add(squares, a.Mul(a, a))
	}
	s.SquaresLow = new(big.Int).And(squares, new(big.Int).SetUint64(1<<64-1)).Uint64()
	s.SquaresHigh = new(big.Int).Rsh(squares, 64).Uint64()
	newest := time.UnixMicro(s.LastAtMicros).UTC().Truncate(time.Hour)
	for _, e := range all {
		age := newest.Sub(time.UnixMicro(e.at).UTC().Truncate(time.Hour))
		if age < 24*time.Hour {
			s.DayCount++
			s.DayCents += e.AmountCents
		}
		if age < 7*24*time.Hour {
			s.WeekCount++
			s.WeekCents += e.AmountCents
		}
		if age < 30*24*time.Hour {
			s.MonthCount++
			s.MonthCents += e.AmountCents
		}
	}
	slices.SortStableFunc(all, func(a, b taken) int { return int(a.at - b.at) })
	for _, e := range all[max(0, len(all)-16):] {
		s.RecentIds = append(s.RecentIds, e.TransactionId)
		s.RecentAtMicros = append(s.RecentAtMicros, e.at)
		s.RecentMerchants = append(s.RecentMerchants, e.Merchant)
		s.RecentCents = append(s.RecentCents, e.AmountCents)
	}
	return s
}

// TestTotalIsFull is an account whose sum cannot take any more: it refuses, and stays as it is.
func TestTotalIsFull(t *testing.T) {
	def := Kind.MustDefine()
	typ, _ := def.Event("Charged")
	s := &accountv1.Account{Count: 9_223_372, Cents: 1<<63 - 10}
	before := proto.CloneOf(s)
	var runner grains.Runner
	out := runner.Run(typ, grains.Input{EventTime: 1}, s, &accountv1.Charged{TransactionId: "1", Merchant: "m", AmountCents: 10})
	if _, rejected := grains.Rejection(out.Err); !rejected || !proto.Equal(s, before) {
		t.Errorf("outcome %v, state %v", out.Err, s)
	}
	out = runner.Run(typ, grains.Input{EventTime: 1}, s, &accountv1.Charged{TransactionId: "1", Merchant: "m", AmountCents: 9})
	if out.Err != nil || s.Cents != 1<<63-1 {
		t.Errorf("outcome %v, state %v", out.Err, s)
	}
}

// TestHashesStay pins the hashes: they are in stored states. The values are those published with FNV.
func TestHashesStay(t *testing.T) {
	if h := hash32("foobar"); h != 0xbf9cf968 {
		t.Errorf("hash32 = %#x", h)
	}
	if h := hash64("foobar"); h != 0x85944171f73967e8 {
		t.Errorf("hash64 = %#x", h)
	}
}

// card is an account that pays n times, every gap, at one of 50 merchants; it repeats itself after 1024.
type card struct {
	def    *grains.Definition
	typ    *grains.EventType
	state  *accountv1.Account
	runner grains.Runner
	events []*accountv1.Charged
	now    time.Time
	gap    time.Duration
	seq    uint64
}

func newCard(gap time.Duration) *card {
	c := &card{def: Kind.MustDefine(), state: &accountv1.Account{}, gap: gap, now: time.Unix(1_522_540_800, 0)}
	c.typ, _ = c.def.Event("Charged")
	for i := range 1024 {
		c.events = append(c.events, &accountv1.Charged{
			TransactionId: "tx-" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)),
			Merchant:      string(rune('A' + i*7%50)), AmountCents: int64(500 + i*37%9000),
		})
	}
	for range 2048 {
		c.charge()
	}
	return c
}

func (c *card) charge() grains.Outcome {
	if c.now.Year() > 2200 { // int64 nanoseconds end in 2262
		c.state, c.now = &accountv1.Account{}, time.Unix(1_522_540_800, 0)
	}
	c.seq++
	c.now = c.now.Add(c.gap)
	return c.runner.Run(c.typ, grains.Input{
		Grain: grains.Ref{Kind: "account", Key: "4711"}, Seq: c.seq, EventTime: c.now.UnixNano(), Now: c.now.UnixMicro(),
	}, c.state, c.events[c.seq%1024])
}

// BenchmarkCharged is one turn, without encoding or decoding: of a card with two transactions a day, and of one with
// one a second.
func BenchmarkCharged(b *testing.B) {
	for _, bench := range []struct {
		name string
		gap  time.Duration
	}{{"twice a day", 12 * time.Hour}, {"hourly", time.Hour}, {"each second", time.Second}} {
		b.Run(bench.name, func(b *testing.B) {
			c := newCard(bench.gap)
			b.ReportAllocs()
			for b.Loop() {
				if out := c.charge(); out.Err != nil || len(out.Effects) != 1 {
					b.Fatal(out)
				}
			}
		})
	}
}

// BenchmarkAppendState is what a snapshot costs before compression, and how large it is.
func BenchmarkAppendState(b *testing.B) {
	for _, bench := range []struct {
		name string
		gap  time.Duration
	}{{"twice a day", 12 * time.Hour}, {"hourly", time.Hour}} {
		b.Run(bench.name, func(b *testing.B) {
			c := newCard(bench.gap)
			var buf []byte
			var err error
			b.ReportAllocs()
			for b.Loop() {
				if buf, err = c.def.AppendState(buf[:0], c.state); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(buf)), "bytes")
		})
	}
}

func BenchmarkDecodeState(b *testing.B) {
	c := newCard(12 * time.Hour)
	buf, err := c.def.AppendState(nil, c.state)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.def.DecodeState(buf); err != nil {
			b.Fatal(err)
		}
	}
}
