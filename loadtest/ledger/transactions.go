package ledger

import (
	"fmt"
	"strconv"

	"github.com/granary-dev/granary/loadtest/transactions"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// seenType is the type of the event by which an account passes a transaction on.
const seenType = "granary.merchant.v1.Seen"

// NoteTransaction is the note of a transaction or of its label. Its value is the amount in cents; of a label, 1 if it
// says fraud.
func NoteTransaction(h transactions.Happening) Note {
	t := h.Transaction
	n := Note{key: t.ID & (1<<numberBits - 1), value: t.Cents, owner: t.Customer, other: t.Terminal}
	if h.Label {
		n.key |= labelBit
		n.value = 0
		if t.Fraud {
			n.value = 1
		}
	}
	return n
}

// cardWorkload is transactions, told to accounts and passed on to merchants.
type cardWorkload struct{}

func (cardWorkload) words() words {
	return words{
		owner: transactions.AccountKind, partner: transactions.MerchantKind, things: "transactions", unit: "cents", passedType: seenType,
	}
}

func (cardWorkload) identify(r *granaryv1.HistoryRecord) (uint64, bool) {
	number, label, ok := transactions.ParseEventID(r.GetId())
	want := transactions.ChargedType
	if label {
		want = transactions.LabelledType
		number |= labelBit
	}
	return number, ok && r.GetType() == want
}

func (cardWorkload) describe(n *Note) string {
	number, label := n.event()
	if label {
		return fmt.Sprintf("the label of transaction %d", number)
	}
	return fmt.Sprintf("transaction %d", number)
}

func (cardWorkload) newOwner() ownerRecount           { return &account{} }
func (cardWorkload) newPartner(string) partnerRecount { return &merchant{} }

func (cardWorkload) numbers(r *Report, owners, partners int) {
	r.Accounts, r.Merchants = owners, partners
}

// account is the recount of an account.
type account struct {
	charged  accountv1.Charged
	labelled accountv1.Labelled
	held     accountv1.Account

	count         uint64
	cents         int64
	labelledCount uint64
}

func (a *account) read(r *granaryv1.HistoryRecord) error {
	a.charged.Reset()
	a.labelled.Reset()
	switch r.GetType() {
	case transactions.ChargedType:
		return a.charged.UnmarshalVT(r.GetPayloadProtobuf())
	case transactions.LabelledType:
		return a.labelled.UnmarshalVT(r.GetPayloadProtobuf())
	}
	return nil
}

func (a *account) altered(sent *Note) string {
	number, label := sent.event()
	merchant := strconv.FormatUint(uint64(sent.other), 10)
	switch {
	case !label && (a.charged.GetTransactionId() != strconv.FormatUint(number, 10) ||
		a.charged.GetMerchant() != merchant || a.charged.GetAmountCents() != sent.value):
		return fmt.Sprintf("it says transaction %q of %d cents at merchant %q, and %d cents at %s were sent",
			a.charged.GetTransactionId(), a.charged.GetAmountCents(), a.charged.GetMerchant(), sent.value, merchant)
	case label && (a.labelled.GetTransactionId() != strconv.FormatUint(number, 10) ||
		a.labelled.GetMerchant() != merchant || a.labelled.GetFraud() != (sent.value == 1)):
		return fmt.Sprintf("it says fraud is %v of transaction %q at merchant %q",
			a.labelled.GetFraud(), a.labelled.GetTransactionId(), a.labelled.GetMerchant())
	}
	return ""
}

func (a *account) fold(r *granaryv1.HistoryRecord, sent *Note) (merchant string, cents int64, ok bool) {
	switch r.GetType() {
	case transactions.ChargedType:
		cents = a.charged.GetAmountCents()
		if sent != nil {
			cents = sent.value
		}
		a.count++
		a.cents += cents
		return a.charged.GetMerchant(), cents, true
	case transactions.LabelledType:
		a.labelledCount++
	}
	return "", 0, false
}

func (a *account) settle() {}

func (a *account) state() unmarshaler { return &a.held }

func (a *account) wrong() string {
	if a.held.GetCount() == a.count && a.held.GetCents() == a.cents && a.held.GetLabelledCount() == a.labelledCount {
		return ""
	}
	return fmt.Sprintf("%d transactions of %d cents and %d labels; recounted: %d of %d and %d",
		a.held.GetCount(), a.held.GetCents(), a.held.GetLabelledCount(), a.count, a.cents, a.labelledCount)
}

// merchant is the recount of a merchant: everything, whoever it came from.
type merchant struct {
	seen  merchantv1.Seen
	held  merchantv1.Merchant
	count uint64
	cents int64
}

func (m *merchant) read(r *granaryv1.HistoryRecord) error {
	m.seen.Reset()
	return m.seen.UnmarshalVT(r.GetPayloadProtobuf())
}

func (m *merchant) fold(bool) int64 {
	m.count++
	m.cents += m.seen.GetAmountCents()
	return m.seen.GetAmountCents()
}

func (m *merchant) state() unmarshaler { return &m.held }

func (m *merchant) wrong() string {
	if m.held.GetCount() == m.count && m.held.GetCents() == m.cents {
		return ""
	}
	return fmt.Sprintf("%d transactions of %d cents; recounted: %d of %d", m.held.GetCount(), m.held.GetCents(), m.count, m.cents)
}
