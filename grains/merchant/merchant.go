// Package merchant is the kind "merchant": one place that takes cards, what it takes, and how often it is defrauded.
//
// Here lives what is known from the transactions and frauds that accounts send: totals, windows, recent history and a
// plain risk. Here never lives what clients say: they publish to accounts. Integers only, so that no compiler and no
// machine can round differently.
//
// Invariant: count, cents and the windows equal a recount of the transactions seen (package window says which of them a
// window holds), whatever the order of their arrival; and the state has an upper size, whatever comes.
package merchant

import (
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/window"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
)

const (
	maxIDBytes = 128
	// maxRecent is part of what [merchantv1.Merchant] promises.
	maxRecent = 16
	// settleHours is how long labels take: what is younger is not judged yet.
	settleHours = window.Week
	// doubt is the number of genuine transactions that every merchant's risk starts from, so that one fraud at a new
	// merchant is not a risk of 1000.
	doubt   = 10
	maxRisk = 1000
)

// Kind is the declaration of the kind.
var Kind = grains.Kind[*merchantv1.Merchant]{
	Name:    "merchant",
	Version: 1,
	Doc:     "a place that takes cards: what it takes, and how many of its transactions turn out to be fraud",
	Handlers: grains.Handlers[*merchantv1.Merchant]{
		grains.On(seen), grains.On(flagged), grains.On(vet),
	},
}

// seen folds a transaction that an account passed on.
func seen(t *grains.Turn, s *merchantv1.Merchant, e *merchantv1.Seen) error {
	at := t.EventTime().UnixMicro()
	if err := checkTransaction(e.TransactionId, e.Account, at); err != nil {
		return err
	}
	if err := window.CheckCents(e.AmountCents, s.Cents); err != nil {
		return grains.Rejectf("amount_cents: %v", err)
	}

	newest := advance(s, at)
	w := charges(s)
	w.Add(newest, window.Hour(at), e.AmountCents)
	if s.Count == 0 {
		s.FirstAtMicros = at
	}
	s.Count++
	s.Cents += e.AmountCents
	s.FirstAtMicros = min(s.FirstAtMicros, at)
	if i, ok := window.Place(s.RecentAtMicros, at, maxRecent); ok {
		s.RecentIds = window.Put(s.RecentIds, i, e.TransactionId, maxRecent)
		s.RecentAtMicros = window.Put(s.RecentAtMicros, i, at, maxRecent)
		s.RecentAccounts = window.Put(s.RecentAccounts, i, e.Account, maxRecent)
		s.RecentCents = window.Put(s.RecentCents, i, e.AmountCents, maxRecent)
	}
	s.Risk = risk(s)
	return nil
}

// flagged folds a fraud, or its withdrawal, into the hour in which the transaction took place.
func flagged(t *grains.Turn, s *merchantv1.Merchant, e *merchantv1.Flagged) error {
	if err := checkTransaction(e.TransactionId, e.Account, e.ChargedAtMicros); err != nil {
		return err
	}
	if e.ChargedAtMicros > t.EventTime().UnixMicro() {
		return grains.Reject("charged_at_micros is after the flag itself")
	}
	if e.Withdrawn && s.FraudCount == 0 {
		return grains.Reject("there is no fraud to withdraw")
	}

	newest := advance(s, e.ChargedAtMicros)
	w := frauds(s)
	if e.Withdrawn {
		s.FraudCount--
		w.Remove(newest, window.Hour(e.ChargedAtMicros), 0)
	} else {
		s.FraudCount++
		w.Add(newest, window.Hour(e.ChargedAtMicros), 0)
	}
	s.Risk = risk(s)
	return nil
}

// checkTransaction checks what a transaction and its flag have in common.
func checkTransaction(id, account string, atMicros int64) error {
	switch {
	case id == "":
		return grains.Reject("transaction_id is empty")
	case len(id) > maxIDBytes:
		return grains.Rejectf("transaction_id has %d bytes; at most %d are taken", len(id), maxIDBytes)
	case account == "":
		return grains.Reject("account is empty")
	case atMicros < 0:
		return grains.Reject("the transaction took place before 1970")
	}
	if err := grains.CheckKey(id); err != nil {
		return grains.Rejectf("transaction_id: %v", err)
	}
	if err := grains.CheckKey(account); err != nil {
		return grains.Rejectf("account: %v", err)
	}
	return nil
}

// advance moves all windows on to the time of a transaction, and returns the newest hour.
func advance(s *merchantv1.Merchant, at int64) (newest uint32) {
	from := window.Hour(s.LastAtMicros)
	s.LastAtMicros = max(s.LastAtMicros, at)
	newest = window.Hour(s.LastAtMicros)
	if newest != from {
		c, f := charges(s), frauds(s)
		c.Advance(from, newest)
		f.Advance(from, newest)
	}
	return newest
}

// charges is the merchant's row of hours, and the windows over it.
func charges(s *merchantv1.Merchant) window.Series {
	return window.Series{
		Hours: &s.Hours, Counts: &s.HourCounts, Cents: &s.HourCents,
		Spans: [window.MaxSpans]window.Span{
			{Length: window.Day, Count: &s.DayCount, Cents: &s.DayCents},
			{Length: window.Week, Count: &s.WeekCount, Cents: &s.WeekCents},
			{Length: window.Month, Count: &s.MonthCount, Cents: &s.MonthCents},
			{Skip: settleHours, Length: window.Day, Count: &s.SettledDayCount},
			{Skip: settleHours, Length: window.Week, Count: &s.SettledWeekCount},
			{Skip: settleHours, Length: window.Month, Count: &s.SettledMonthCount},
		},
	}
}

// frauds is the merchant's row of hours with frauds, and the settled windows over it.
func frauds(s *merchantv1.Merchant) window.Series {
	return window.Series{
		Hours: &s.FraudHours, Counts: &s.FraudHourCounts,
		Spans: [window.MaxSpans]window.Span{
			{Skip: settleHours, Length: window.Day, Count: &s.SettledDayFrauds},
			{Skip: settleHours, Length: window.Week, Count: &s.SettledWeekFrauds},
			{Skip: settleHours, Length: window.Month, Count: &s.SettledMonthFrauds},
		},
	}
}

// risk is the share of frauds in the settled month, in permille. A fraud whose transaction was not seen, because its
// label overtook it, cannot push it above 1000.
func risk(s *merchantv1.Merchant) uint32 {
	return uint32(min(maxRisk, 1000*s.SettledMonthFrauds/(s.SettledMonthCount+doubt)))
}
