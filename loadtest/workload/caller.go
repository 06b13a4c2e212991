package workload

import "time"

// The mix of what callers do beside lists, in percent of their operations; a part of all that [Options.More] adds.
const (
	askShare      = 12
	announceShare = 7
	remindShare   = 7
	forgetShare   = 5
	// elsewhereShare is how many questions another probe answers, and repeatingShare how many reminders repeat.
	elsewhereShare = 65
	repeatingShare = 15
)

// maxDelay is the longest that a reminder of a workload takes.
const maxDelay = 20 * time.Second

// Reply is what a client was told of a question.
type Reply struct {
	// Value of the question.
	Value uint64
	// By is the key of the probe that replied, Count which of its replies it is, from 1.
	By    string
	Count uint64
}

// more draws an operation that is none on a list; none at all for most.
func (w *Workload) more(client int, now int64) (op Operation, ok bool) {
	c := &w.clients[client]
	draw := c.random.IntN(100)
	switch {
	case draw < askShare:
		op = w.event(client, Ask, now)
		if c.random.IntN(100) < elsewhereShare {
			op.To = w.slots[w.slot(c)].key // which may be the same
		}
	case draw < askShare+announceShare:
		op = w.event(client, Announce, now)
	case draw < askShare+announceShare+remindShare:
		op = w.event(client, Remind, now)
		if c.random.IntN(100) < repeatingShare {
			op.Every = time.Second + time.Duration(c.random.Int64N(int64(maxDelay-time.Second))).Truncate(time.Microsecond)
		} else {
			op.After = time.Duration(c.random.Int64N(int64(maxDelay))).Truncate(time.Microsecond)
		}
		c.reminders = append(c.reminders, op)
	case draw < askShare+announceShare+remindShare+forgetShare && len(c.reminders) > 0:
		i := c.random.IntN(len(c.reminders))
		op = w.Forget(&c.reminders[i], now)
		c.reminders[i] = c.reminders[len(c.reminders)-1]
		c.reminders = c.reminders[:len(c.reminders)-1]
	default:
		return Operation{}, false
	}
	c.remember(op)
	return op, true
}

// event is an operation on a grain that is no append.
func (w *Workload) event(client int, a Action, now int64) Operation {
	c := &w.clients[client]
	i := w.slot(c)
	c.values++
	return Operation{Client: client, Action: a, Key: w.slots[i].key, Contended: i < w.o.Contended, Value: w.value(client), EventTime: now}
}

// Forget takes a reminder back that some client has set.
func (w *Workload) Forget(reminder *Operation, now int64) Operation {
	client := reminder.Client
	w.clients[client].values++
	return Operation{Client: client, Action: Forget, Key: reminder.Key, Contended: reminder.Contended, Value: w.value(client), Of: reminder.Value, EventTime: now}
}

// Answer is an answer that comes too late: to a question that was answered, whose token the client has found out.
func (w *Workload) Answer(client int, token string, now int64) Operation {
	op := w.event(client, Answer, now)
	op.Token = token
	return op
}
