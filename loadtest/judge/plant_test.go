package judge

import (
	"maps"
	"slices"

	"github.com/granary-dev/granary/loadtest/workload"
)

// plant breaks a sound history in one place, and says which grain is to be blamed; or finds no place for it.
type plant struct {
	rule  Rule
	name  string
	plant func(*trial) (key string, ok bool)
	// beyond says that porcupine cannot see it.
	beyond bool
}

var plants = []plant{
	{rule: Twice, name: "a value of the final list again", plant: (*trial).repeat},
	{rule: Nowhere, name: "a value that nobody appended", plant: (*trial).invent},
	{rule: Nowhere, name: "a value of another grain", plant: (*trial).stray},
	{rule: FailedApplied, name: "what was done is told as failed", plant: (*trial).deny},
	{rule: Early, name: "an append that begins after it was read", plant: (*trial).hurry},
	{rule: Lost, name: "from the final list", plant: (*trial).forget},
	{rule: Lost, name: "from a read", plant: (*trial).overlook},
	{rule: Forked, name: "two values of a read in another order", plant: (*trial).swapInRead},
	{rule: Forked, name: "a stale read", plant: (*trial).swapInStaleRead, beyond: true},
	{rule: Shrunk, name: "a read", plant: (*trial).shrinkRead},
	{rule: Shrunk, name: "the final list", plant: (*trial).shrinkFinal},
	{rule: Overtaken, name: "an append that begins after a later one ended", plant: (*trial).overtake},
	{rule: ProducerOrder, name: "two values of a producer everywhere", plant: (*trial).swapProducer, beyond: true},
	{rule: Sends, name: "lost", plant: (*trial).loseSend, beyond: true},
	{rule: Sends, name: "twice", plant: (*trial).doubleSend, beyond: true},
	{rule: Sends, name: "to another", plant: (*trial).misdirect, beyond: true},
	{rule: Sends, name: "of what the sender forgot", plant: (*trial).forgetSender, beyond: true},
	{rule: Sends, name: "uncounted", plant: (*trial).uncount, beyond: true},
	{rule: SendOrder, name: "two sends of a grain", plant: (*trial).swapSends, beyond: true},
	{rule: Balances, name: "a coin", plant: (*trial).steal, beyond: true},
	{rule: Replied, name: "by another", plant: (*trial).replyOfAnother, beyond: true},
	{rule: Replied, name: "to another question", plant: (*trial).replyToAnother, beyond: true},
	{rule: OneReply, name: "another one the second time", plant: (*trial).replyAnew, beyond: true},
	{rule: OneReply, name: "that of another question", plant: (*trial).replyTwice, beyond: true},
	{rule: ReplyOrder, name: "a question that begins after a later reply was shown", plant: (*trial).replyLate, beyond: true},
	{rule: Counted, name: "a question that is forgotten", plant: (*trial).forgetQuestion, beyond: true},
	{rule: Counted, name: "a question that is counted twice", plant: (*trial).countTwice, beyond: true},
	{rule: Counted, name: "a reply that is forgotten", plant: (*trial).forgetReply, beyond: true},
	{rule: Fired, name: "twice", plant: (*trial).fireTwice, beyond: true},
	{rule: Fired, name: "not at all", plant: (*trial).fireNever, beyond: true},
	{rule: Fired, name: "although it was forgotten", plant: (*trial).fireForgotten, beyond: true},
	{rule: Fired, name: "elsewhere", plant: (*trial).fireElsewhere, beyond: true},
	{rule: Fired, name: "when it was not pending", plant: (*trial).fireUnexpected, beyond: true},
	{rule: Fired, name: "pending for ever", plant: (*trial).keepPending, beyond: true},
	{rule: Punctual, name: "early", plant: (*trial).fireEarly, beyond: true},
	{rule: SeenOnce, name: "an item again", plant: (*trial).seeAgain, beyond: true},
	{rule: SeenAll, name: "an item less", plant: (*trial).seeLess, beyond: true},
	{rule: SeenOrder, name: "two items", plant: (*trial).seeSwapped, beyond: true},
	{rule: SeenOrder, name: "an item that is not there", plant: (*trial).seeStrange, beyond: true},
	{rule: Announced, name: "lost", plant: (*trial).loseAnnounced, beyond: true},
	{rule: Announced, name: "twice", plant: (*trial).announceTwice, beyond: true},
	{rule: Announced, name: "although it failed", plant: (*trial).denyAnnounced, beyond: true},
}

// spot is a place to break: one of all that are fit.
func spot[T any](w *trial, all []T) (one T, ok bool) {
	if len(all) == 0 {
		return one, false
	}
	return all[w.random.IntN(len(all))], true
}

// inList is a value of a grain's final list.
type inList struct {
	key string
	i   int
}

// inFinal are the places of all final lists whose append is fit.
func (w *trial) inFinal(fit func(c *check, f *fate) bool) []inList {
	c := newCheck(w.history, w.final)
	var all []inList
	for _, key := range slices.Sorted(maps.Keys(w.final)) {
		for i, value := range w.final[key].Values {
			if fit(c, c.fate(value)) {
				all = append(all, inList{key, i})
			}
		}
	}
	return all
}

func (w *trial) setFinal(key string, values []uint64) {
	g := w.final[key]
	g.Values = values
	w.final[key] = g
}

// inRead is a value of what an operation read.
type inRead struct {
	r *workload.Record
	i int
}

// inReads are the places of all lists read by the action whose append is fit.
func (w *trial) inReads(a workload.Action, fit func(r *workload.Record, i int, f *fate) bool) []inRead {
	c := newCheck(w.history, w.final)
	var all []inRead
	for n := range c.records {
		r := &c.records[n]
		if r.Action != a {
			continue
		}
		for i, value := range r.Values {
			if fit(r, i, c.fate(value)) {
				all = append(all, inRead{r, i})
			}
		}
	}
	return all
}

func anything(*check, *fate) bool { return true }

// tries of the append of a value.
func (w *trial) tries(value uint64) []*workload.Record {
	var all []*workload.Record
	records := w.history.Records()
	for i := range records {
		if records[i].Action == workload.Append && records[i].Value == value {
			all = append(all, &records[i])
		}
	}
	return all
}

// postpone lets an append begin late, and its answers be lost.
func (w *trial) postpone(value uint64, until int64) {
	for _, r := range w.tries(value) {
		r.Began = max(r.Began, until)
		r.Outcome = workload.Unknown
	}
}

func swapped(values []uint64, i, j int) []uint64 {
	values = slices.Clone(values)
	values[i], values[j] = values[j], values[i]
	return values
}

func (w *trial) repeat() (string, bool) {
	p, ok := spot(w, w.inFinal(anything))
	if ok {
		values := w.final[p.key].Values
		to := p.i + 1 + w.random.IntN(len(values)-p.i)
		w.setFinal(p.key, slices.Insert(slices.Clone(values), to, values[p.i]))
	}
	return p.key, ok
}

func (w *trial) invent() (string, bool) {
	p, ok := spot(w, w.inFinal(anything))
	if ok {
		w.setFinal(p.key, slices.Insert(slices.Clone(w.final[p.key].Values), p.i, 1<<63|w.random.Uint64()))
	}
	return p.key, ok
}

func (w *trial) stray() (string, bool) {
	p, _ := spot(w, w.inFinal(anything))
	q, ok := spot(w, w.inFinal(func(c *check, f *fate) bool { return c.append(f).Key != p.key }))
	if ok {
		w.setFinal(p.key, append(slices.Clone(w.final[p.key].Values), w.final[q.key].Values[q.i]))
	}
	return p.key, ok
}

func (w *trial) deny() (string, bool) {
	p, ok := spot(w, w.inFinal(anything))
	if ok {
		for _, r := range w.tries(w.final[p.key].Values[p.i]) {
			r.Outcome = workload.Failed
		}
	}
	return p.key, ok
}

func (w *trial) hurry() (string, bool) {
	p, ok := spot(w, w.inReads(workload.Read, func(*workload.Record, int, *fate) bool { return true }))
	if !ok {
		return "", false
	}
	w.postpone(p.r.Values[p.i], p.r.Ended+1)
	return p.r.Key, true
}

func (w *trial) forget() (string, bool) {
	p, ok := spot(w, w.inFinal(func(_ *check, f *fate) bool { return f.acked != 0 }))
	if ok {
		w.setFinal(p.key, slices.Delete(slices.Clone(w.final[p.key].Values), p.i, p.i+1))
	}
	return p.key, ok
}

func (w *trial) overlook() (string, bool) {
	p, ok := spot(w, w.inReads(workload.Read, func(r *workload.Record, _ int, f *fate) bool { return f.acked != 0 && f.acked < r.Began }))
	if !ok {
		return "", false
	}
	p.r.Values = p.r.Values[:p.i]
	return p.r.Key, true
}

func (w *trial) swapInRead() (string, bool)      { return w.swapIn(workload.Read) }
func (w *trial) swapInStaleRead() (string, bool) { return w.swapIn(workload.StaleRead) }

func (w *trial) swapIn(a workload.Action) (string, bool) {
	p, ok := spot(w, w.inReads(a, func(_ *workload.Record, i int, _ *fate) bool { return i > 0 }))
	if !ok {
		return "", false
	}
	p.r.Values = swapped(p.r.Values, p.i, w.random.IntN(p.i))
	return p.r.Key, true
}

func (w *trial) shrinkRead() (string, bool) {
	records := w.history.Records()
	type pair struct{ r, before *workload.Record }
	var all []pair
	for i := range records {
		for j := range i {
			r, before := &records[i], &records[j]
			if r.Action == workload.Read && r.Outcome == workload.OK && before.Action == workload.Read && before.Key == r.Key &&
				before.Ended != 0 && before.Ended < r.Began && len(before.Values) > 0 {
				all = append(all, pair{r, before})
			}
		}
	}
	p, ok := spot(w, all)
	if !ok {
		return "", false
	}
	p.r.Values = p.r.Values[:w.random.IntN(len(p.before.Values))]
	return p.r.Key, true
}

func (w *trial) shrinkFinal() (string, bool) {
	p, ok := spot(w, w.inReads(workload.Read, func(*workload.Record, int, *fate) bool { return true }))
	if !ok {
		return "", false
	}
	w.setFinal(p.r.Key, w.final[p.r.Key].Values[:p.i])
	return p.r.Key, true
}

func (w *trial) overtake() (string, bool) {
	p, ok := spot(w, w.inFinal(func(_ *check, f *fate) bool { return f.acked != 0 }))
	if !ok || p.i == 0 {
		return "", false
	}
	values := w.final[p.key].Values
	acked := newCheck(w.history, w.final).fate(values[p.i]).acked
	w.postpone(values[w.random.IntN(p.i)], acked+1)
	return p.key, true
}

// swapProducer gives two values of a producer each other's place wherever they are.
func (w *trial) swapProducer() (string, bool) {
	p, ok := spot(w, w.inFinal(func(c *check, f *fate) bool { return c.append(f).Sequence != 0 }))
	if !ok {
		return "", false
	}
	value := w.final[p.key].Values[p.i]
	producer := w.tries(value)[0].Client
	q, ok := spot(w, w.inFinal(func(c *check, f *fate) bool {
		r := c.append(f)
		return r.Sequence != 0 && r.Client == producer && r.Key == p.key && r.Value != value
	}))
	if !ok {
		return "", false
	}
	other := w.final[p.key].Values[q.i]
	exchange := func(values []uint64) []uint64 {
		values = slices.Clone(values)
		for i, v := range values {
			switch v {
			case value:
				values[i] = other
			case other:
				values[i] = value
			}
		}
		return values
	}
	w.setFinal(p.key, exchange(w.final[p.key].Values))
	records := w.history.Records()
	for i := range records {
		if records[i].Key == p.key {
			records[i].Values = exchange(records[i].Values)
		}
	}
	return p.key, true
}

// received is a place in what a grain received.
func (w *trial) received() (inList, bool) {
	var all []inList
	for _, key := range slices.Sorted(maps.Keys(w.final)) {
		for i := range w.final[key].Received {
			all = append(all, inList{key, i})
		}
	}
	return spot(w, all)
}

func (w *trial) setReceived(key string, values []uint64) {
	g := w.final[key]
	g.Received = values
	w.final[key] = g
}

func (w *trial) loseSend() (string, bool) {
	p, ok := w.received()
	if ok {
		w.setReceived(p.key, slices.Delete(slices.Clone(w.final[p.key].Received), p.i, p.i+1))
	}
	return p.key, ok
}

func (w *trial) doubleSend() (string, bool) {
	p, ok := w.received()
	if ok {
		values := w.final[p.key].Received
		w.setReceived(p.key, slices.Insert(slices.Clone(values), w.random.IntN(len(values)+1), values[p.i]))
	}
	return p.key, ok
}

func (w *trial) misdirect() (string, bool) {
	p, ok := w.received()
	if !ok {
		return "", false
	}
	to, ok := spot(w, slices.DeleteFunc(slices.Sorted(maps.Keys(w.final)), func(key string) bool { return key == p.key }))
	if ok {
		value := w.final[p.key].Received[p.i]
		w.setReceived(p.key, slices.Delete(slices.Clone(w.final[p.key].Received), p.i, p.i+1))
		w.setReceived(to, append(slices.Clone(w.final[to].Received), value))
	}
	return to, ok
}

func (w *trial) forgetSender() (string, bool) {
	p, ok := w.received()
	if ok {
		value := w.final[p.key].Received[p.i]
		from := w.tries(value)[0].Key
		w.setFinal(from, slices.DeleteFunc(slices.Clone(w.final[from].Values), func(v uint64) bool { return v == value }))
	}
	return p.key, ok
}

func (w *trial) uncount() (string, bool) {
	p, ok := w.received()
	if ok {
		g := w.final[p.key]
		g.Uncounted++
		w.final[p.key] = g
	}
	return p.key, ok
}

func (w *trial) swapSends() (string, bool) {
	type pair struct {
		key  string
		i, j int
	}
	var all []pair
	c := newCheck(w.history, w.final)
	for _, key := range c.keys {
		values := w.final[key].Received
		for j := range values {
			for i := range j {
				if c.append(c.fate(values[i])).Key == c.append(c.fate(values[j])).Key {
					all = append(all, pair{key, i, j})
				}
			}
		}
	}
	p, ok := spot(w, all)
	if ok {
		w.setReceived(p.key, swapped(w.final[p.key].Received, p.i, p.j))
	}
	return p.key, ok
}

func (w *trial) steal() (string, bool) {
	key, ok := spot(w, slices.Sorted(maps.Keys(w.final)))
	if ok {
		g := w.final[key]
		g.Balance--
		w.final[key] = g
	}
	return key, ok
}

// disturb changes something, which may be harmless.
func (w *trial) disturb() {
	records := w.history.Records()
	if len(records) == 0 || len(w.final) == 0 {
		return
	}
	r := &records[w.random.IntN(len(records))]
	key, _ := spot(w, slices.Sorted(maps.Keys(w.final)))
	switch w.random.IntN(8) {
	case 0: // another outcome
		if r.Action == workload.Append && r.Ended != 0 {
			r.Outcome = workload.Outcome(w.random.IntN(3))
		}
	case 1: // a later beginning; reads stay in the order of theirs
		if r.Action == workload.Append && r.Ended != 0 {
			r.Began += w.random.Int64N(r.Ended - r.Began)
		}
	case 2: // an earlier end
		if r.Ended != 0 {
			r.Ended -= w.random.Int64N(r.Ended - r.Began)
		}
	case 3: // a shorter read
		if r.Outcome == workload.OK && len(r.Values) > 0 {
			r.Values = r.Values[:len(r.Values)-1]
		}
	case 4: // a longer read
		if r.Action == workload.Read && r.Outcome == workload.OK {
			if final := w.final[r.Key].Values; len(r.Values) < len(final) {
				r.Values = append(slices.Clone(r.Values), final[len(r.Values)])
			}
		}
	case 5: // two values in another order
		if values := w.final[key].Values; len(values) > 1 {
			i := 1 + w.random.IntN(len(values)-1)
			w.setFinal(key, swapped(values, i-1, i))
		}
	case 6: // a value less
		if values := w.final[key].Values; len(values) > 0 {
			i := w.random.IntN(len(values))
			w.setFinal(key, slices.Delete(slices.Clone(values), i, i+1))
		}
	case 7: // the end of the list
		if values := w.final[key].Values; len(values) > 0 {
			w.setFinal(key, values[:len(values)-1])
		}
	}
}
