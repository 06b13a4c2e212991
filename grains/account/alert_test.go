package account

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

// TestAlerts: a transaction is published if its score is high, as what it is, and only then.
func TestAlerts(t *testing.T) {
	def := Kind.MustDefine()
	alerts := 0
	rapid.Check(t, func(rt *rapid.T) {
		var runner grains.Runner
		s := def.NewState().(*accountv1.Account)
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for i := range 30 {
			at = at.Add(time.Hour)
			e := &accountv1.Charged{TransactionId: "t", Merchant: rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(rt, "merchant"),
				AmountCents: rapid.SampledFrom([]int64{100, 100, 100, 100, 150, 600, 9000}).Draw(rt, "cents")}
			typ, _ := def.Event("Charged")
			out := runner.Run(typ, grains.Input{Grain: grains.Ref{Kind: "account", Key: "1"}, Seq: uint64(i + 1), EventTime: at.UnixNano()}, s, e)
			if out.Err != nil {
				rt.Fatal(out.Err)
			}
			var published []grains.Effect
			for _, f := range out.Effects {
				if f.Kind == grains.Publish {
					published = append(published, f)
				}
			}
			if (s.Score >= 700) != (len(published) == 1) || len(published) > 1 {
				rt.Fatalf("score %d: %d alerts", s.Score, len(published))
			}
			if len(published) == 0 {
				continue
			}
			alerts++
			want := &accountv1.Alert{TransactionId: "t", Merchant: e.Merchant, AmountCents: e.AmountCents, ChargedAtMicros: at.UnixMicro(), Score: s.Score, Reasons: s.Reasons}
			got := &accountv1.Alert{}
			if err := proto.Unmarshal(published[0].Payload, got); err != nil || !proto.Equal(got, want) || published[0].Stream != "fraud.alerts" {
				rt.Fatalf("%v to %s, want %v", got, published[0].Stream, want)
			}
		}
	})
	if alerts == 0 {
		t.Error("no alert was drawn")
	}
}

// TestVersionOneFoldsAsItDid: the logic that journals of version 1 are replayed with publishes nothing, and otherwise does
// what the present one does.
func TestVersionOneFoldsAsItDid(t *testing.T) {
	now := Kind.MustDefine()
	one, ok := now.At(1)
	if !ok {
		t.Fatal("version 1 is gone")
	}
	rapid.Check(t, func(rt *rapid.T) {
		var a, b grains.Runner
		s, old := now.NewState(), one.NewState()
		for i, e := range generate(rt) {
			in := grains.Input{Grain: grains.Ref{Kind: "account", Key: "1"}, Seq: uint64(i + 1), EventTime: e.At.UnixNano()}
			name := string(e.Message.ProtoReflect().Descriptor().Name())
			typ, _ := now.Event(name)
			first, _ := one.Event(name)
			out := a.Run(typ, in, s, e.Message)
			before := b.Run(first, in, old, e.Message)
			if (out.Err == nil) != (before.Err == nil) || !proto.Equal(s, old) {
				rt.Fatalf("event %d: %v and %v", i, out.Err, before.Err)
			}
			for _, f := range before.Effects {
				if f.Kind == grains.Publish {
					rt.Fatalf("version 1 has an effect %v", f)
				}
			}
		}
	})
}
