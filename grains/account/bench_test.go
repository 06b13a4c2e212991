package account

import (
	"fmt"
	"testing"

	"github.com/granary-dev/granary/grains"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

// BenchmarkOrdinary is the turn of an ordinary transaction, by each version of the logic: an alert must cost those nothing
// that raise none.
func BenchmarkOrdinary(b *testing.B) {
	def := Kind.MustDefine()
	for _, k := range append(def.Earlier(), def) {
		b.Run(fmt.Sprintf("version=%d", k.Version), func(b *testing.B) {
			typ, _ := k.Event("Charged")
			var runner grains.Runner
			s := k.NewState()
			e := &accountv1.Charged{TransactionId: "transaction", Merchant: "merchant", AmountCents: 1250}
			at, seq := int64(1_700_000_000_000_000_000), uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				seq++
				at += 3_600_000_000_000
				if out := runner.Run(typ, grains.Input{Grain: grains.Ref{Kind: "account", Key: "1"}, Seq: seq, EventTime: at}, s, e); out.Err != nil || len(out.Effects) != 1 {
					b.Fatal(out.Err, len(out.Effects))
				}
			}
		})
	}
}
