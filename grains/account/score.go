package account

import (
	"slices"

	"github.com/granary-dev/granary/grains/window"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

// What a reason adds to the score. They are guesses, not fitted: a score above 500 takes more than one reason.
const (
	amountPoints   = 100 // for each time that the amount holds the mean, from farAbove times to maxTimes
	largestPoints  = 100
	busyPoints     = 200
	merchantPoints = 100
	fraudPoints    = 300
	maxScore       = 1000
)

const (
	// minHistory is how many transactions of the last month it takes to call anything unusual.
	minHistory = 5
	// farAbove is how many times the mean an amount, or a day's count, must be to be told.
	farAbove = 3
	maxTimes = 5
	// minBusy is the least number of transactions in a busy day.
	minBusy = 4

	microsPerDay   = 24 * 3_600_000_000
	microsPerMonth = 30 * microsPerDay
)

// score compares a transaction with the account as it was before, its windows moved on to the transaction's hour.
func score(s *accountv1.Account, e *accountv1.Charged, at int64) {
	s.Score, s.Reasons = 0, s.Reasons[:0]
	if s.MonthCount < minHistory {
		return
	}
	because := func(r accountv1.Reason, points int64) {
		s.Reasons = append(s.Reasons, r)
		s.Score = min(maxScore, s.Score+uint32(points))
	}
	if mean := s.MonthCents / int64(s.MonthCount); e.AmountCents >= farAbove*mean && e.AmountCents > 0 {
		times := int64(maxTimes)
		if mean > 0 {
			times = min(times, e.AmountCents/mean)
		}
		because(accountv1.Reason_REASON_AMOUNT_FAR_ABOVE_MEAN, amountPoints*times)
	}
	if e.AmountCents > s.MaxCents {
		because(accountv1.Reason_REASON_LARGEST_AMOUNT_YET, largestPoints)
	}
	if busy(s, at) {
		because(accountv1.Reason_REASON_BUSY_DAY, busyPoints)
	}
	if !slices.Contains(s.MerchantHashes, hash32(e.Merchant)) {
		because(accountv1.Reason_REASON_NEW_MERCHANT, merchantPoints)
	}
	if s.FraudCount > 0 && max(at, s.LastAtMicros)-s.LastFraudAtMicros < microsPerMonth {
		because(accountv1.Reason_REASON_RECENT_FRAUD, fraudPoints)
	}
}

// busy tells whether the last day, with one more transaction at the given time, is far above a mean day of the last
// month. An account younger than a month has fewer days to share its transactions between.
func busy(s *accountv1.Account, at int64) bool {
	hour, newest := window.Hour(at), window.Hour(max(at, s.LastAtMicros))
	if newest-hour >= window.Day {
		return false // came late: the last day is not its own
	}
	days := min(30, uint64((max(at, s.LastAtMicros)-min(at, s.FirstAtMicros))/microsPerDay)+1)
	today := s.DayCount + 1
	return today >= minBusy && today*days >= farAbove*s.MonthCount
}
