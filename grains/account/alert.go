package account

import (
	"github.com/granary-dev/granary/grains"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

// alertStream is where accounts publish transactions that look like fraud: those with a score of alertScore or more, which
// takes several reasons at once.
const (
	alertStream = "fraud.alerts"
	alertScore  = 700
)

// alert publishes the transaction that was scored last.
func alert(t *grains.Turn, s *accountv1.Account, e *accountv1.Charged) {
	t.Publish(alertStream, &accountv1.Alert{
		TransactionId: e.TransactionId, Merchant: e.Merchant, AmountCents: e.AmountCents, ChargedAtMicros: t.EventTime().UnixMicro(),
		Score: s.Score, Reasons: s.Reasons,
	})
}
