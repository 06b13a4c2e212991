package merchant

import (
	"slices"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/window"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
)

// What the merchant's view adds to an account's score, and where a transaction is refused. They are guesses, not fitted.
const (
	// riskyFrom is the risk from which it is told; it counts twice.
	riskyFrom = 100
	// farAbove is how many times the merchant's mean an amount must be to be told, if the mean is one of at least
	// minHistory transactions.
	farAbove      = 5
	minHistory    = 5
	unusualPoints = 150
	maxScore      = 1000
	refusedFrom   = 600
)

// vet answers whoever asked an account to authorize a transaction.
func vet(t *grains.Turn, s *merchantv1.Merchant, e *merchantv1.Vet) error {
	if err := checkTransaction(e.TransactionId, e.Account, t.EventTime().UnixMicro()); err != nil {
		return err
	}
	if err := window.CheckCents(e.AmountCents, 0); err != nil {
		return grains.Rejectf("amount_cents: %v", err)
	}
	if _, _, err := grains.ParseToken(e.Token); err != nil {
		return grains.Rejectf("token: %v", err)
	}

	d := &accountv1.Decision{AccountScore: e.AccountScore, MerchantRisk: s.Risk, Score: min(maxScore, e.AccountScore), Reasons: slices.Clone(e.AccountReasons)}
	if s.Risk >= riskyFrom {
		d.Score = min(maxScore, d.Score+2*s.Risk)
		d.Reasons = append(d.Reasons, accountv1.Reason_REASON_RISKY_MERCHANT)
	}
	if s.MonthCount >= minHistory && e.AmountCents >= farAbove*(s.MonthCents/int64(s.MonthCount)) && e.AmountCents > 0 {
		d.Score = min(maxScore, d.Score+unusualPoints)
		d.Reasons = append(d.Reasons, accountv1.Reason_REASON_UNUSUAL_FOR_MERCHANT)
	}
	d.Approved = d.Score < refusedFrom
	s.VettedCount++
	if !d.Approved {
		s.RefusedCount++
	}
	t.Answer(e.Token, d)
	return nil
}
