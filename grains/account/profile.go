package account

import (
	"math/big"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

// profile tells what the account usually does, up to the moment of the question.
func profile(v *grains.View, s *accountv1.Account, q *accountv1.Profile) (*accountv1.ProfileReply, error) {
	if q.Merchant != "" {
		if err := grains.CheckKey(q.Merchant); err != nil {
			return nil, grains.Rejectf("merchant: %v", err)
		}
	}
	now := proto.CloneOf(s)
	moveOn(now, max(0, v.Now.UnixMicro()))
	out := &accountv1.ProfileReply{
		Count: s.Count, DeviationCents: deviation(s), LastAtMicros: s.LastAtMicros, FraudCount: s.FraudCount,
		Day: windowOf(now.DayCount, now.DayCents), Week: windowOf(now.WeekCount, now.WeekCents), Month: windowOf(now.MonthCount, now.MonthCents),
		MerchantKnown: q.Merchant != "" && slices.Contains(s.MerchantHashes, hash32(q.Merchant)),
	}
	if s.Count > 0 {
		out.MeanCents = s.Cents / int64(s.Count)
	}
	return out, nil
}

func windowOf(count uint64, cents int64) *accountv1.Window {
	w := &accountv1.Window{Count: count, Cents: cents}
	if count > 0 {
		w.MeanCents = cents / int64(count)
	}
	return w
}

// deviation is the standard deviation of all amounts, rounded down: the root of (n·Σx² − (Σx)²) / n².
func deviation(s *accountv1.Account) int64 {
	if s.Count == 0 {
		return 0
	}
	n, sum := new(big.Int).SetUint64(s.Count), big.NewInt(s.Cents)
	squares := new(big.Int).SetUint64(s.SquaresHigh)
	squares.Lsh(squares, 64).Add(squares, new(big.Int).SetUint64(s.SquaresLow))
	v := squares.Mul(squares, n)
	v.Sub(v, sum.Mul(sum, sum))
	v.Div(v, new(big.Int).Mul(n, n))
	return v.Sqrt(v).Int64()
}
