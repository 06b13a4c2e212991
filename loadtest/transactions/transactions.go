// Package transactions is the workload of card transactions: where they come from, and how they look as events.
//
// They come from the file of the Fraud Detection Handbook ([Open]) or from a generator of look-alikes that follows its
// published parameters ([Generate]). [Plain] turns either into events of accounts; [Labelled] adds, days later, what was
// fraud. The package may import proto and rows and nothing else of Granary: it does not send, wait or measure.
//
// Invariant: a transaction never carries its own label. What is fraud is told only by later events.
package transactions

import (
	"strconv"
	"time"

	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Transaction is one payment by card.
type Transaction struct {
	// ID of the transaction, unique within its source.
	ID uint64
	// Time of the payment, to the second.
	Time time.Time
	// Customer who paid; the number is the key of the account.
	Customer uint32
	// Terminal that took the card; the number is the key of the merchant.
	Terminal uint32
	// Cents paid. 0 occurs: it is a check of the card.
	Cents int64
	// Fraud is the truth about the transaction.
	Fraud bool
	// Scenario of the fraud, 1 to 3 as the handbook numbers them; 0 for genuine transactions.
	Scenario uint8
}

// Source yields transactions in the order of their times. After the last one Next returns [io.EOF].
type Source interface {
	Next() (Transaction, error)
}

// Happening is something that is told to an account: that a transaction took place, or what became known of it.
type Happening struct {
	// Transaction that it is about.
	Transaction Transaction
	// Label is true if the transaction's fraud is told, false if the transaction is.
	Label bool
	// At is when it is told: the transaction's time, or that of the label.
	At time.Time
}

// Feed yields happenings in the order of their times. After the last one Next returns [io.EOF].
type Feed interface {
	Next() (Happening, error)
}

// Names of what the events touch.
const (
	// AccountKind is the kind of the grains that get the events.
	AccountKind = "account"
	// MerchantKind is the kind of the grains that accounts pass transactions on to.
	MerchantKind = "merchant"
	// ChargedType is the type of an event that tells a transaction.
	ChargedType = "granary.account.v1.Charged"
	// LabelledType is the type of an event that tells whether a transaction was fraud.
	LabelledType = "granary.account.v1.Labelled"

	labelSuffix = "/label"
)

// Account is the grain of the customer, "account/7".
func (t Transaction) Account() string {
	return AccountKind + "/" + strconv.FormatUint(uint64(t.Customer), 10)
}

// Merchant is the grain of the terminal, "merchant/7".
func (t Transaction) Merchant() string {
	return MerchantKind + "/" + strconv.FormatUint(uint64(t.Terminal), 10)
}

// EventID is the id of the event that tells the happening: the transaction's number, or that with "/label".
func (h Happening) EventID() string {
	id := strconv.FormatUint(h.Transaction.ID, 10)
	if h.Label {
		return id + labelSuffix
	}
	return id
}

// ParseEventID reads an id back: the transaction's number, and whether the event is its label. It is false for ids that
// no [Happening] has.
func ParseEventID(id string) (transaction uint64, label, ok bool) {
	if n := len(id) - len(labelSuffix); n > 0 && id[n:] == labelSuffix {
		id, label = id[:n], true
	}
	transaction, err := strconv.ParseUint(id, 10, 64)
	canonical := err == nil && strconv.FormatUint(transaction, 10) == id
	return transaction, label, canonical
}

// envelope holds all that one event is made of, so that a batch of events is one allocation.
type envelope struct {
	event   granaryv1.Event
	time    timestamppb.Timestamp
	payload granaryv1.Event_Protobuf
}

// Events are the happenings as events of their accounts, in the same order. All carry the source.
func Events(source string, happenings []Happening) []*granaryv1.Event {
	envelopes := make([]envelope, len(happenings))
	events := make([]*granaryv1.Event, len(happenings))
	var charged accountv1.Charged
	var labelled accountv1.Labelled
	for i, h := range happenings {
		t := h.Transaction
		e := &envelopes[i]
		e.time.Seconds, e.time.Nanos = h.At.Unix(), int32(h.At.Nanosecond())
		e.event.Grain, e.event.Id, e.event.Source, e.event.Time = t.Account(), h.EventID(), source, &e.time
		e.event.Payload = &e.payload
		id, merchant := strconv.FormatUint(t.ID, 10), strconv.FormatUint(uint64(t.Terminal), 10)
		if h.Label {
			labelled.TransactionId, labelled.Merchant = id, merchant
			labelled.ChargedAtMicros, labelled.Fraud = t.Time.UnixMicro(), t.Fraud
			e.event.Type = LabelledType
			e.payload.Protobuf = encode(&labelled)
		} else {
			charged.TransactionId, charged.Merchant, charged.AmountCents = id, merchant, t.Cents
			e.event.Type = ChargedType
			e.payload.Protobuf = encode(&charged)
		}
		events[i] = &e.event
	}
	return events
}

func encode(m interface{ MarshalVT() ([]byte, error) }) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		// The generated code of a flat message has no way to fail.
		panic(err)
	}
	return b
}
