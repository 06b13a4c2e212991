package account

import (
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/window"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
)

// TestAuthorizeIsWhatChargedWouldBe: the score that the merchant is told is the one that the transaction then gets.
func TestAuthorizeIsWhatChargedWouldBe(t *testing.T) {
	def := Kind.MustDefine()
	ask, _ := def.Event("Authorize")
	charge, _ := def.Event("Charged")
	rapid.Check(t, func(rt *rapid.T) {
		s := def.NewState().(*accountv1.Account)
		var runner grains.Runner
		seq := uint64(0)
		run := func(typ *grains.EventType, at time.Time, m proto.Message) grains.Outcome {
			seq++
			return runner.Run(typ, grains.Input{Grain: grains.Ref{Kind: "account", Key: "1"}, Seq: seq, EventTime: at.UnixNano()}, s, m)
		}
		for _, e := range generate(rt) {
			c, ok := e.Message.(*accountv1.Charged)
			if !ok {
				continue
			}
			before := proto.CloneOf(s)
			out := run(ask, e.At, &accountv1.Authorize{TransactionId: c.TransactionId, Merchant: c.Merchant, AmountCents: c.AmountCents})
			var told merchantv1.Vet
			if out.Err == nil {
				if len(out.Effects) != 2 || out.Effects[0].Kind != grains.Defer || proto.Unmarshal(out.Effects[1].Payload, &told) != nil {
					rt.Fatalf("%+v", out.Effects)
				}
				before.AuthorizeCount++
			}
			if !proto.Equal(s, before) {
				rt.Fatalf("state %v, before %v", s, before)
			}
			after := run(charge, e.At, c)
			if (out.Err == nil) != (after.Err == nil) || out.Err == nil && (told.AccountScore != s.Score || len(told.AccountReasons) != len(s.Reasons)) {
				rt.Fatalf("told %v %v, charged %v %v", &told, out.Err, s, after.Err)
			}
		}
	})
}

// TestProfile holds the answer to a recount over the windows up to the moment of the question.
func TestProfile(t *testing.T) {
	def := Kind.MustDefine()
	typ, _ := def.Event("Charged")
	q, _ := def.Query("Profile")
	rapid.Check(t, func(rt *rapid.T) {
		s := def.NewState().(*accountv1.Account)
		var runner grains.Runner
		var all []taken
		for i, e := range generate(rt) {
			if c, ok := e.Message.(*accountv1.Charged); ok {
				if out := runner.Run(typ, grains.Input{Seq: uint64(i + 1), EventTime: e.At.UnixNano()}, s, c); out.Err == nil {
					all = append(all, takenOf(c, e.At))
				}
			}
		}
		now := time.UnixMicro(s.LastAtMicros).Add(time.Duration(rapid.IntRange(-100, 24*40).Draw(rt, "hours")) * time.Hour)
		reply, err := q.Ask(&grains.View{Now: now}, s, &accountv1.Profile{Merchant: "nobody"})
		if err != nil {
			rt.Fatal(err)
		}
		got := reply.(*accountv1.ProfileReply)
		newest := max(window.Hour(s.LastAtMicros), window.Hour(max(0, now.UnixMicro())))
		var count uint64
		var cents int64
		var mean, squares float64
		for _, c := range all {
			mean += float64(c.AmountCents) / float64(len(all))
			if h := window.Hour(c.at); int64(h) > int64(newest)-window.Week && h <= newest {
				count++
				cents += c.AmountCents
			}
		}
		for _, c := range all {
			d := float64(c.AmountCents) - mean
			squares += d * d / float64(len(all))
		}
		if got.Count != uint64(len(all)) || got.Week.Count != count || got.Week.Cents != cents || got.MerchantKnown ||
			math.Abs(math.Sqrt(squares)-float64(got.DeviationCents)) > 1+1e-6*math.Sqrt(squares) {
			rt.Fatalf("%v; want %d, last week %d of %d, deviation %f", got, len(all), count, cents, math.Sqrt(squares))
		}
	})
}
