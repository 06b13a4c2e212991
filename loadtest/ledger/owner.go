package ledger

import (
	"context"
	"strconv"

	"github.com/cespare/xxhash/v2"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// owner is the check of one grain that events were sent to: what was sent, held against its records.
type owner struct {
	c    *check
	name string
	sent []Note

	next   int            // of sent: the one that should come next
	index  map[uint64]int // event to index in sent; made when they come in another order
	folded []bool         // which of sent were folded
	logged []bool         // which of sent have a record
	last   int            // of sent: the last that came

	producer string // that published the last event of ours, and its number there
	sequence uint64

	foreign     uint64
	foldedCount uint64

	recount ownerRecount
	passed  map[string]*passed // by the key of the partner
}

// passed is what owners passed on to a partner.
type passed struct {
	count uint64
	value int64
	// causes is the sum of the hashes of the positions of the records that sent them: equal when they are the same, in
	// any order.
	causes uint64
}

func (p *passed) add(position string, value int64) {
	p.count++
	p.value += value
	p.causes += xxhash.Sum64String(position)
}

func newOwner(c *check, number uint32, sent []Note) *owner {
	return &owner{
		c: c, name: c.w.words().owner + "/" + strconv.FormatUint(uint64(number), 10), sent: sent, last: -1,
		folded: make([]bool, len(sent)), logged: make([]bool, len(sent)),
		recount: c.w.newOwner(), passed: map[string]*passed{},
	}
}

func (o *owner) check(ctx context.Context) error {
	h := &history{c: o.c, grain: o.name, do: o.record}
	if err := h.read(ctx, toTheEnd); err != nil {
		return err
	}
	if err := h.state(ctx, o.recount.state()); err != nil {
		return err
	}
	if what := o.recount.wrong(); what != "" {
		o.c.find(&o.c.report.WrongStates, 1, "%s holds %s", o.name, what)
	}
	o.missing()
	o.settle()
	return nil
}

// missing looks for what should have a record and has none.
func (o *owner) missing() {
	for i := range o.sent {
		n := &o.sent[i]
		switch {
		case n.fate() == Folded && !o.folded[i]:
			o.c.find(&o.c.report.Missing, 1, "%s: %s was acknowledged and is not folded", o.name, o.c.w.describe(n))
		case n.fate() == Rejected && !o.logged[i]:
			o.c.find(&o.c.report.Missing, 1, "%s: %s was rejected and has no record", o.name, o.c.w.describe(n))
		}
	}
}

// settle adds what was found to the report and to what partners should have got.
func (o *owner) settle() {
	c := o.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Checked += uint64(len(o.sent))
	c.report.Folded += o.foldedCount
	c.report.Foreign += o.foreign
	for partner, p := range o.passed {
		sum := c.partners[partner]
		if sum == nil {
			sum = &passed{}
			c.partners[partner] = sum
		}
		sum.count += p.count
		sum.value += p.value
		sum.causes += p.causes
	}
	o.recount.settle()
}

// record takes one record of the owner's history.
func (o *owner) record(r *granaryv1.HistoryRecord) error {
	if err := o.recount.read(r); err != nil {
		return err
	}
	var sent *Note // the event of this run that the record is of
	if r.GetSource() == o.c.sent.source {
		i, ok := o.find(r)
		if !ok {
			o.c.find(&o.c.report.Uninvited, 1, "%s: record %d, %s %q, carries this run's source, but was not sent",
				o.name, r.GetSeq(), r.GetType(), r.GetId())
		} else {
			o.own(i, r)
			sent = &o.sent[i]
		}
	} else if r.GetSender() == "" {
		o.foreign++
	}
	if r.GetOutcome() != granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED {
		return nil
	}
	if partner, value, ok := o.recount.fold(r, sent); ok {
		p := o.passed[partner]
		if p == nil {
			p = &passed{}
			o.passed[partner] = p
		}
		p.add(r.GetPosition(), value)
	}
	return nil
}

// find says which of the events sent the record is. As a rule it is the next.
func (o *owner) find(r *granaryv1.HistoryRecord) (int, bool) {
	id, ok := o.c.w.identify(r)
	if !ok {
		return 0, false
	}
	if o.next < len(o.sent) && o.sent[o.next].id() == id {
		o.next++
		return o.next - 1, true
	}
	if o.index == nil {
		o.index = make(map[uint64]int, len(o.sent))
		for i := range o.sent {
			o.index[o.sent[i].id()] = i
		}
	}
	i, ok := o.index[id]
	if ok {
		o.next = i + 1
	}
	return i, ok
}

// own checks the record of an event of this run.
func (o *owner) own(i int, r *granaryv1.HistoryRecord) {
	c, sent := o.c, &o.sent[i]
	folded := r.GetOutcome() == granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED
	switch {
	case o.logged[i]:
		c.find(&c.report.Twice, 1, "%s: record %d is %s again", o.name, r.GetSeq(), c.w.describe(sent))
	case i < o.last || r.GetProducer() == o.producer && r.GetProducerSequence() <= o.sequence:
		c.find(&c.report.OutOfOrder, 1, "%s: record %d is %s, which was sent before an event that came earlier",
			o.name, r.GetSeq(), c.w.describe(sent))
	}
	o.last = max(o.last, i)
	o.producer, o.sequence = r.GetProducer(), max(o.sequence, r.GetProducerSequence())
	if folded && !o.folded[i] {
		o.foldedCount++
	}
	o.logged[i], o.folded[i] = true, o.folded[i] || folded
	if what := o.altered(sent, folded); what != "" {
		c.find(&c.report.Altered, 1, "%s: record %d is %s, but %s", o.name, r.GetSeq(), c.w.describe(sent), what)
	}
}

// altered says in what way a record differs from what was sent and told.
func (o *owner) altered(sent *Note, folded bool) string {
	switch {
	case sent.fate() == Refused:
		return "its publisher was told that nothing was journaled"
	case sent.fate() == Rejected && folded:
		return "it is folded, and its publisher was told that it was rejected"
	}
	return o.recount.altered(sent)
}
