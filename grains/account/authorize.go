package account

import (
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/window"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
)

// authorize asks the merchant for a decision on a transaction that may take place, and tells it what is unusual from here.
// The merchant gives the reply.
func authorize(t *grains.Turn, s *accountv1.Account, e *accountv1.Authorize) error {
	at := t.EventTime().UnixMicro()
	if err := checkTransaction(e.TransactionId, e.Merchant, at); err != nil {
		return err
	}
	if err := window.CheckCents(e.AmountCents, s.Cents); err != nil {
		return grains.Rejectf("amount_cents: %v", err)
	}

	s.AuthorizeCount++
	// what it would score is found out on a copy: it may never take place
	would := proto.CloneOf(s)
	moveOn(would, at)
	score(would, &accountv1.Charged{TransactionId: e.TransactionId, Merchant: e.Merchant, AmountCents: e.AmountCents}, at)
	t.Send("merchant/"+e.Merchant, &merchantv1.Vet{
		TransactionId: e.TransactionId, Account: t.Key(), AmountCents: e.AmountCents, Token: t.Defer(),
		AccountScore: would.Score, AccountReasons: would.Reasons,
	})
	return nil
}

// moveOn moves the windows of a copy on to a time, if that is ahead. What is kept of the account's own clock stays.
func moveOn(s *accountv1.Account, at int64) {
	seen := window.Hour(s.LastAtMicros)
	w := charges(s)
	w.Advance(seen, max(seen, window.Hour(at)))
}
