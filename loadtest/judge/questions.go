package judge

import (
	"cmp"
	"slices"

	"github.com/granary-dev/granary/loadtest/workload"
)

// question is what is known of one question, from all tries of it.
type question struct {
	record int // the first try
	// began is when the first try began that may have been taken; 0 if all failed.
	began int64
	// acked is when the first reply came; 0 if none did.
	acked int64
	// answer is the try whose reply came first.
	answer int
}

// by is the probe that is to reply.
func by(r *workload.Record) string {
	if r.To != "" {
		return r.To
	}
	return r.Key
}

// bounds are how often something has happened: surely, and at most.
type bounds struct{ least, most uint64 }

func (b *bounds) add(began, acked int64) {
	if acked != 0 {
		b.least++
	}
	if began != 0 {
		b.most++
	}
}

// attempt is what is known of an event, from all tries of it.
func attempt(r *workload.Record, began, acked *int64) {
	if r.Outcome != workload.Failed && (*began == 0 || r.Began < *began) {
		*began = r.Began
	}
	if r.Outcome == workload.OK && (*acked == 0 || r.Ended < *acked) {
		*acked = r.Ended
	}
}

// questions holds the replies to their rules.
func (c *check) questions() {
	byValue := map[uint64]int{}
	var all []question
	late := map[uint64]*question{} // answers that came too late
	for i := range c.records {
		r := &c.records[i]
		if r.Action == workload.Answer {
			if late[r.Value] == nil {
				late[r.Value] = &question{record: i}
			}
			attempt(r, &late[r.Value].began, &late[r.Value].acked)
		}
		if r.Action != workload.Ask {
			continue
		}
		n, known := byValue[r.Value]
		if !known {
			n = len(all)
			byValue[r.Value] = n
			all = append(all, question{record: i})
		}
		q := &all[n]
		if r.Outcome == workload.OK {
			c.reply(q, i)
		}
		attempt(r, &q.began, &q.acked)
	}
	c.replyOrder(all)
	c.counted(all, late)
}

// reply holds one reply to the question, and to the reply that came to it before.
func (c *check) reply(q *question, i int) {
	r := &c.records[i]
	if r.Reply.Value != r.Value || r.Reply.By != by(r) || r.Reply.Count == 0 {
		c.report(Replied, r.Key, []int{i}, "%s asks %s, and has reply %d of %s to %s",
			workload.FormatValue(r.Value), by(r), r.Reply.Count, r.Reply.By, workload.FormatValue(r.Reply.Value))
	}
	switch before := &c.records[q.answer]; {
	case q.acked == 0:
		q.answer = i
	case before.Reply != r.Reply:
		c.report(OneReply, r.Key, []int{q.answer, i}, "%s has reply %d of %s, and had reply %d of %s",
			workload.FormatValue(r.Value), r.Reply.Count, r.Reply.By, before.Reply.Count, before.Reply.By)
	}
}

// replyOrder compares the replies of each probe: no two questions have the same, and they are in the order of the
// questions as far as that is known.
func (c *check) replyOrder(all []question) {
	replies := map[string][]*question{}
	for i := range all {
		if q := &all[i]; q.acked != 0 {
			from := c.records[q.answer].Reply.By
			replies[from] = append(replies[from], q)
		}
	}
	for _, key := range sortedKeys(replies) {
		of := replies[key]
		count := func(q *question) uint64 { return c.records[q.answer].Reply.Count }
		slices.SortStableFunc(of, func(a, b *question) int { return cmp.Compare(count(a), count(b)) })
		var youngest *question // that which began last
		for i, q := range of {
			if i > 0 && count(of[i-1]) == count(q) {
				c.report(OneReply, key, []int{of[i-1].answer, q.answer}, "reply %d was shown to two questions", count(q))
			}
			if youngest != nil && q.acked < youngest.began {
				c.report(ReplyOrder, key, []int{youngest.answer, q.answer}, "reply %d was shown before the question of reply %d began", count(q), count(youngest))
			}
			if youngest == nil || q.began > youngest.began {
				youngest = q
			}
		}
		if n := len(of); n > 0 && count(of[n-1]) > c.final[key].Replies {
			c.report(Counted, key, []int{of[n-1].answer}, "reply %d was shown; in the end there are %d", count(of[n-1]), c.final[key].Replies)
		}
	}
}

// counted holds what probes have counted to what they were asked.
func (c *check) counted(all []question, late map[uint64]*question) {
	questions, replies := map[string]*bounds{}, map[string]*bounds{}
	at := func(m map[string]*bounds, key string) *bounds {
		if m[key] == nil {
			m[key] = &bounds{}
		}
		return m[key]
	}
	for i := range all {
		q := &all[i]
		r := &c.records[q.record]
		at(questions, r.Key).add(q.began, q.acked)
		at(replies, by(r)).add(q.began, q.acked)
	}
	var tooLate bounds
	for _, q := range late {
		at(replies, c.records[q.record].Key).add(q.began, q.acked)
		tooLate.add(q.began, q.acked)
	}
	var asked, replied uint64
	for _, key := range c.keys {
		g := c.final[key]
		if b := at(questions, key); g.Questions < b.least || g.Questions > b.most {
			c.report(Counted, key, nil, "%d questions were taken; %d to %d were asked", g.Questions, b.least, b.most)
		}
		if b := at(replies, key); g.Replies < b.least || g.Replies > b.most {
			c.report(Counted, key, nil, "%d replies were given; %d to %d were asked for", g.Replies, b.least, b.most)
		}
		asked, replied = asked+g.Questions, replied+g.Replies
	}
	if replied < asked+tooLate.least || replied > asked+tooLate.most {
		c.report(Counted, "", nil, "%d replies were given to %d questions and %d to %d answers that were too late", replied, asked, tooLate.least, tooLate.most)
	}
}
