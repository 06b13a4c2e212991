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
