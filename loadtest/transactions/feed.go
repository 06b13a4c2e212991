package transactions

import (
	"errors"
	"io"
	"time"
)

// LabelDelay is how long after a transaction the handbook takes its label to be known.
const LabelDelay = 7 * 24 * time.Hour

// Plain tells the transactions of the source and never a label.
func Plain(source Source) Feed { return plain{source} }

type plain struct{ source Source }

func (p plain) Next() (Happening, error) {
	t, err := p.source.Next()
	return Happening{Transaction: t, At: t.Time}, err
}

// Labels says which labels [Labelled] tells, and when.
type Labels struct {
	// Delay between a transaction and its label. 0 means [LabelDelay].
	Delay time.Duration
	// Genuine also labels what was no fraud, which doubles the number of events. Default: only frauds are labelled, as
	// by customers who complain.
	Genuine bool
}

// Labelled tells the transactions of the source and, later, their labels, all in the order of their times. When the
// source has ended it tells the labels still to come. It remembers the transactions of one delay.
func Labelled(source Source, labels Labels) Feed {
	if labels.Delay == 0 {
		labels.Delay = LabelDelay
	}
	return &labelled{source: source, labels: labels}
}

type labelled struct {
	source Source
	labels Labels
	// pending are the transactions to label, in the order of their times; the first of them at head.
	pending []Transaction
	head    int
	// next is the transaction read ahead, if there is one.
	next  *Transaction
	ended bool
}

func (l *labelled) Next() (Happening, error) {
	if l.next == nil && !l.ended {
		t, err := l.source.Next()
		switch {
		case errors.Is(err, io.EOF):
			l.ended = true
		case err != nil:
			return Happening{}, err
		default:
			l.next = &t
		}
	}
	if l.head < len(l.pending) {
		t := l.pending[l.head]
		if due := t.Time.Add(l.labels.Delay); l.next == nil || !due.After(l.next.Time) {
			l.drop()
			return Happening{Transaction: t, Label: true, At: due}, nil
		}
	}
	if l.next == nil {
		return Happening{}, io.EOF
	}
	t := *l.next
	l.next = nil
	if t.Fraud || l.labels.Genuine {
		l.pending = append(l.pending, t)
	}
	return Happening{Transaction: t, At: t.Time}, nil
}

// drop forgets the oldest pending transaction, and moves the rest to the front once half of the slice is free.
func (l *labelled) drop() {
	l.head++
	if 2*l.head >= len(l.pending) {
		l.pending = l.pending[:copy(l.pending, l.pending[l.head:])]
		l.head = 0
	}
}

// Ahead reads up to n transactions now, so that making them does not take the processor from what is measured later, and
// goes on reading the source behind them.
func Ahead(source Source, n int) Source {
	a := &ahead{source: source, ready: make([]Transaction, 0, n)}
	for len(a.ready) < n && a.err == nil {
		t, err := source.Next()
		if err != nil {
			a.err = err
			break
		}
		a.ready = append(a.ready, t)
	}
	return a
}

type ahead struct {
	source Source
	ready  []Transaction
	at     int
	err    error // of the source, behind what is ready
}

func (a *ahead) Next() (Transaction, error) {
	if a.at < len(a.ready) {
		a.at++
		return a.ready[a.at-1], nil
	}
	a.ready = nil
	if a.err != nil {
		return Transaction{}, a.err
	}
	return a.source.Next()
}
