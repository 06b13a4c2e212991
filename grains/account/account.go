// Package account is the kind "account": one card, what it usually does, and how unusual its latest transaction was.
//
// Here lives what is known from the account's own transactions and labels: totals, windows, recent history, a first plain
// score with its reasons. Here never lives what takes knowledge of other accounts: a transaction is told to its merchant's
// grain, and so is a fraud, and the merchant draws its own conclusions. Integers only, so that no compiler and no machine
// can round differently.
//
// Invariant: count, cents and the windows equal a recount of the transactions that were not rejected (package window says
// which of them a window holds), whatever the order of their arrival; and the state has an upper size, whatever comes.
package account

import (
	"math/bits"
	"slices"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/window"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
)

// What bounds the state. All but the limit of an id are part of what [accountv1.Account] promises.
const (
	maxIDBytes   = 128
	maxRecent    = 16
	maxMerchants = 64
	maxLabels    = 32
)

// Kind is the declaration of the kind.
var Kind = grains.Kind[*accountv1.Account]{
	Name:    "account",
	Version: 2,
	Doc:     "a card: what it usually pays, where and how often, and how unusual its latest transaction was",
	Handlers: grains.Handlers[*accountv1.Account]{
		grains.On(charged), grains.On(labelled), grains.On(authorize),
		grains.Query(profile),
	},
	Streams: []string{alertStream},
	Earlier: []grains.Logic[*accountv1.Account]{
		{Version: 1, Handlers: grains.Handlers[*accountv1.Account]{grains.On(chargedV1), grains.On(labelled), grains.On(authorize)}},
	},
}

// charged is chargedV1, and publishes an alert when the score is high.
func charged(t *grains.Turn, s *accountv1.Account, e *accountv1.Charged) error {
	if err := chargedV1(t, s, e); err != nil {
		return err
	}
	if s.Score >= alertScore {
		alert(t, s, e)
	}
	return nil
}

// chargedV1 folds a transaction, scores it against what came before, and tells its merchant.
func chargedV1(t *grains.Turn, s *accountv1.Account, e *accountv1.Charged) error {
	at := t.EventTime().UnixMicro()
	if err := checkTransaction(e.TransactionId, e.Merchant, at); err != nil {
		return err
	}
	if err := window.CheckCents(e.AmountCents, s.Cents); err != nil {
		return grains.Rejectf("amount_cents: %v", err)
	}

	hour, seen := window.Hour(at), window.Hour(s.LastAtMicros)
	newest := max(hour, seen)
	w := charges(s)
	w.Advance(seen, newest)
	score(s, e, at)
	w.Add(newest, hour, e.AmountCents)
	total(s, e.AmountCents, at)
	if i, ok := window.Place(s.RecentAtMicros, at, maxRecent); ok {
		s.RecentIds = window.Put(s.RecentIds, i, e.TransactionId, maxRecent)
		s.RecentAtMicros = window.Put(s.RecentAtMicros, i, at, maxRecent)
		s.RecentMerchants = window.Put(s.RecentMerchants, i, e.Merchant, maxRecent)
		s.RecentCents = window.Put(s.RecentCents, i, e.AmountCents, maxRecent)
	}
	s.MerchantHashes = remember(s.MerchantHashes, hash32(e.Merchant))

	t.Send("merchant/"+e.Merchant, &merchantv1.Seen{
		TransactionId: e.TransactionId, Account: t.Key(), AmountCents: e.AmountCents,
	})
	return nil
}

// labelled counts a verdict once, and tells the merchant of a fraud, or that it was none after all. A correction undoes
// what its first label did only if it names the same merchant and time.
func labelled(t *grains.Turn, s *accountv1.Account, e *accountv1.Labelled) error {
	if err := checkTransaction(e.TransactionId, e.Merchant, e.ChargedAtMicros); err != nil {
		return err
	}
	if e.ChargedAtMicros > t.EventTime().UnixMicro() {
		return grains.Reject("charged_at_micros is after the label itself")
	}

	id := hash64(e.TransactionId)
	i := slices.Index(s.LabelHashes, id)
	switch {
	case i >= 0 && s.LabelFrauds[i] == e.Fraud:
		return nil
	case i >= 0:
		s.LabelFrauds[i] = e.Fraud
	default:
		s.LabelHashes = window.Put(s.LabelHashes, len(s.LabelHashes), id, maxLabels)
		s.LabelFrauds = window.Put(s.LabelFrauds, len(s.LabelFrauds), e.Fraud, maxLabels)
		s.LabelledCount++
		if !e.Fraud {
			return nil
		}
	}
	if e.Fraud {
		s.FraudCount++
		s.LastFraudAtMicros = max(s.LastFraudAtMicros, e.ChargedAtMicros)
	} else if s.FraudCount--; s.FraudCount == 0 {
		s.LastFraudAtMicros = 0 // with others left, the time of the newest of them is not known any more
	}
	t.Send("merchant/"+e.Merchant, &merchantv1.Flagged{
		TransactionId: e.TransactionId, Account: t.Key(), ChargedAtMicros: e.ChargedAtMicros, Withdrawn: !e.Fraud,
	})
	return nil
}

// checkTransaction checks what a transaction and its label have in common.
func checkTransaction(id, merchant string, atMicros int64) error {
	switch {
	case id == "":
		return grains.Reject("transaction_id is empty")
	case len(id) > maxIDBytes:
		return grains.Rejectf("transaction_id has %d bytes; at most %d are taken", len(id), maxIDBytes)
	case merchant == "":
		return grains.Reject("merchant is empty")
	case atMicros < 0:
		return grains.Reject("the transaction took place before 1970")
	}
	if err := grains.CheckKey(id); err != nil {
		return grains.Rejectf("transaction_id: %v", err)
	}
	if err := grains.CheckKey(merchant); err != nil {
		return grains.Rejectf("merchant: %v", err)
	}
	return nil
}

// charges is the account's row of hours, and the windows over it.
func charges(s *accountv1.Account) window.Series {
	return window.Series{
		Hours: &s.Hours, Counts: &s.HourCounts, Cents: &s.HourCents,
		Spans: [window.MaxSpans]window.Span{
			{Length: window.Day, Count: &s.DayCount, Cents: &s.DayCents},
			{Length: window.Week, Count: &s.WeekCount, Cents: &s.WeekCents},
			{Length: window.Month, Count: &s.MonthCount, Cents: &s.MonthCents},
		},
	}
}

// total folds a transaction into what is kept for ever.
func total(s *accountv1.Account, cents, at int64) {
	if s.Count == 0 {
		s.MinCents, s.MaxCents, s.FirstAtMicros = cents, cents, at
	}
	s.Count++
	s.Cents += cents
	s.MinCents, s.MaxCents = min(s.MinCents, cents), max(s.MaxCents, cents)
	s.FirstAtMicros, s.LastAtMicros = min(s.FirstAtMicros, at), max(s.LastAtMicros, at)
	// Cannot overflow: each amount is at most 10^12 and their sum below 2^63, so the squares' is below 2^103.
	high, low := bits.Mul64(uint64(cents), uint64(cents))
	var carry uint64
	s.SquaresLow, carry = bits.Add64(s.SquaresLow, low, 0)
	s.SquaresHigh, _ = bits.Add64(s.SquaresHigh, high, carry)
}

// remember moves h to the front of the list, which forgets its last when it is full.
func remember(list []uint32, h uint32) []uint32 {
	i := slices.Index(list, h)
	if i < 0 {
		if len(list) < maxMerchants {
			list = append(list, 0)
		}
		i = len(list) - 1
	}
	copy(list[1:i+1], list[:i])
	list[0] = h
	return list
}

// hash32 is FNV-1a. Its values are in stored states: it may not change.
func hash32(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}

// hash64 is FNV-1a. Its values are in stored states: it may not change.
func hash64(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
