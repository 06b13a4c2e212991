package ledger

import (
	"context"
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/granary-dev/granary/loadtest/transactions"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// account is the check of one account: what was sent to it, held against its records.
type account struct {
	c    *check
	name string
	sent []row

	next   int            // of sent: the one that should come next
	index  map[uint64]int // event to index in sent; made when they come in another order
	folded []bool         // which of sent were folded
	logged []bool         // which of sent have a record
	last   int            // of sent: the last that came

	producer string // that published the last event of ours, and its number there
	sequence uint64

	charged     accountv1.Charged
	labelled    accountv1.Labelled
	foreign     uint64
	foldedCount uint64

	// The recount: what the state must say.
	count         uint64
	cents         int64
	labelledCount uint64
	passed        map[string]*passed
}

// passed is what accounts passed on to a merchant.
type passed struct {
	count uint64
	cents int64
	// causes is the sum of the hashes of the positions of the transactions: equal when they are the same, in any order.
	causes uint64
}

func (p *passed) add(position string, cents int64) {
	p.count++
	p.cents += cents
	p.causes += xxhash.Sum64String(position)
}

func newAccount(c *check, customer uint32, sent []row) *account {
	return &account{
		c: c, name: accountName(customer), sent: sent, last: -1,
		folded: make([]bool, len(sent)), logged: make([]bool, len(sent)), passed: map[string]*passed{},
	}
}

func (a *account) check(ctx context.Context) error {
	seq, broken, err := a.c.read(ctx, a.name, a.record)
	if err != nil {
		return err
	}
	return a.judge(ctx, seq, broken)
}

// judge holds the state, and what should have a record, against the records that were read.
func (a *account) judge(ctx context.Context, seq uint64, broken string) error {
	var state accountv1.Account
	if err := a.c.state(ctx, a.name, seq, broken, &state); err != nil {
		return err
	}
	if state.GetCount() != a.count || state.GetCents() != a.cents || state.GetLabelledCount() != a.labelledCount {
		a.c.find(&a.c.report.WrongStates, 1, "%s holds %d transactions of %d cents and %d labels; recounted: %d of %d and %d",
			a.name, state.GetCount(), state.GetCents(), state.GetLabelledCount(), a.count, a.cents, a.labelledCount)
	}
	a.missing()
	a.settle()
	return nil
}

// missing looks for what should have a record and has none.
func (a *account) missing() {
	for i := range a.sent {
		r := &a.sent[i]
		switch {
		case r.fate() == Folded && !a.folded[i]:
			a.c.find(&a.c.report.Missing, 1, "%s: %s was acknowledged and is not folded", a.name, describe(r))
		case r.fate() == Rejected && !a.logged[i]:
			a.c.find(&a.c.report.Missing, 1, "%s: %s was rejected and has no record", a.name, describe(r))
		}
	}
}

// settle adds what was found to the report and to what merchants should have got.
func (a *account) settle() {
	c := a.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Checked += uint64(len(a.sent))
	c.report.Folded += a.foldedCount
	c.report.Foreign += a.foreign
	for merchant, p := range a.passed {
		sum := c.merchants[merchant]
		if sum == nil {
			sum = &passed{}
			c.merchants[merchant] = sum
		}
		sum.count += p.count
		sum.cents += p.cents
		sum.causes += p.causes
	}
}

func describe(r *row) string {
	number, label := r.event()
	if label {
		return fmt.Sprintf("the label of transaction %d", number)
	}
	return fmt.Sprintf("transaction %d", number)
}

// record takes one record of the account's history.
func (a *account) record(r *granaryv1.HistoryRecord) error {
	a.charged.Reset()
	a.labelled.Reset()
	var err error
	switch r.GetType() {
	case transactions.ChargedType:
		err = a.charged.UnmarshalVT(r.GetPayloadProtobuf())
	case transactions.LabelledType:
		err = a.labelled.UnmarshalVT(r.GetPayloadProtobuf())
	}
	if err != nil {
		return err
	}
	cents := a.charged.GetAmountCents()
	if r.GetSource() == a.c.sent.source {
		i, ok := a.find(r)
		if !ok {
			a.c.find(&a.c.report.Uninvited, 1, "%s: record %d, %s %q, carries this run's source, but was not sent",
				a.name, r.GetSeq(), r.GetType(), r.GetId())
		} else {
			a.own(i, r)
			if _, label := a.sent[i].event(); !label {
				cents = a.sent[i].cents
			}
		}
	} else {
		a.foreign++
	}
	if r.GetOutcome() != granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED {
		return nil
	}
	switch r.GetType() {
	case transactions.ChargedType:
		a.count++
		a.cents += cents
		p := a.passed[a.charged.GetMerchant()]
		if p == nil {
			p = &passed{}
			a.passed[a.charged.GetMerchant()] = p
		}
		p.add(r.GetPosition(), cents)
	case transactions.LabelledType:
		a.labelledCount++
	}
	return nil
}

// find says which of the events sent the record is. As a rule it is the next.
func (a *account) find(r *granaryv1.HistoryRecord) (int, bool) {
	number, label, ok := transactions.ParseEventID(r.GetId())
	want := transactions.ChargedType
	if label {
		want = transactions.LabelledType
	}
	if !ok || r.GetType() != want {
		return 0, false
	}
	if a.next < len(a.sent) {
		if n, l := a.sent[a.next].event(); n == number && l == label {
			a.next++
			return a.next - 1, true
		}
	}
	const flag = 1 << 63
	if a.index == nil {
		a.index = make(map[uint64]int, len(a.sent))
		for i := range a.sent {
			n, l := a.sent[i].event()
			if l {
				n |= flag
			}
			a.index[n] = i
		}
	}
	if label {
		number |= flag
	}
	i, ok := a.index[number]
	if ok {
		a.next = i + 1
	}
	return i, ok
}

// own checks the record of an event of this run.
func (a *account) own(i int, r *granaryv1.HistoryRecord) {
	c, sent := a.c, &a.sent[i]
	folded := r.GetOutcome() == granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED
	switch {
	case a.logged[i]:
		c.find(&c.report.Twice, 1, "%s: record %d is %s again", a.name, r.GetSeq(), describe(sent))
	case i < a.last || r.GetProducer() == a.producer && r.GetProducerSequence() <= a.sequence:
		c.find(&c.report.OutOfOrder, 1, "%s: record %d is %s, which was sent before an event that came earlier",
			a.name, r.GetSeq(), describe(sent))
	}
	a.last = max(a.last, i)
	a.producer, a.sequence = r.GetProducer(), max(a.sequence, r.GetProducerSequence())
	if folded && !a.folded[i] {
		a.foldedCount++
	}
	a.logged[i], a.folded[i] = true, a.folded[i] || folded
	if what := a.altered(sent, folded); what != "" {
		c.find(&c.report.Altered, 1, "%s: record %d is %s, but %s", a.name, r.GetSeq(), describe(sent), what)
	}
}

// altered says in what way a record differs from what was sent and told.
func (a *account) altered(sent *row, folded bool) string {
	number, label := sent.event()
	merchant := strconv.FormatUint(uint64(sent.terminal), 10)
	switch {
	case sent.fate() == Refused:
		return "its publisher was told that nothing was journaled"
	case sent.fate() == Rejected && folded:
		return "it is folded, and its publisher was told that it was rejected"
	case !label && (a.charged.GetTransactionId() != strconv.FormatUint(number, 10) ||
		a.charged.GetMerchant() != merchant || a.charged.GetAmountCents() != sent.cents):
		return fmt.Sprintf("it says transaction %q of %d cents at merchant %q, and %d cents at %s were sent",
			a.charged.GetTransactionId(), a.charged.GetAmountCents(), a.charged.GetMerchant(), sent.cents, merchant)
	case label && (a.labelled.GetTransactionId() != strconv.FormatUint(number, 10) ||
		a.labelled.GetMerchant() != merchant || a.labelled.GetFraud() != (sent.cents == 1)):
		return fmt.Sprintf("it says fraud is %v of transaction %q at merchant %q",
			a.labelled.GetFraud(), a.labelled.GetTransactionId(), a.labelled.GetMerchant())
	}
	return ""
}
