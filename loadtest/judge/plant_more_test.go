package judge

import (
	"maps"
	"slices"

	"github.com/granary-dev/granary/loadtest/workload"
)

// some are the numbers of the operations that are fit.
func (w *trial) some(fit func(r *workload.Record) bool) (all []int) {
	records := w.history.Records()
	for i := range records {
		if fit(&records[i]) {
			all = append(all, i)
		}
	}
	return all
}

// one of the operations that are fit.
func (w *trial) one(fit func(r *workload.Record) bool) (*workload.Record, bool) {
	i, ok := spot(w, w.some(fit))
	if !ok {
		return nil, false
	}
	return &w.history.Records()[i], true
}

func replied(r *workload.Record) bool { return r.Action == workload.Ask && r.Outcome == workload.OK }

// of changes the final state of a grain.
func (w *trial) of(key string, change func(g *Grain)) (string, bool) {
	g := w.final[key]
	change(&g)
	w.final[key] = g
	return key, true
}

func (w *trial) replyOfAnother() (string, bool) {
	r, ok := w.one(replied)
	if !ok {
		return "", false
	}
	r.Reply.By += "x"
	return r.Key, true
}

func (w *trial) replyToAnother() (string, bool) {
	r, ok := w.one(replied)
	if !ok {
		return "", false
	}
	r.Reply.Value++
	return r.Key, true
}

// replyAnew finds a question that was answered twice.
func (w *trial) replyAnew() (string, bool) {
	r, ok := w.one(func(r *workload.Record) bool {
		return replied(r) && len(w.some(func(o *workload.Record) bool { return replied(o) && o.Value == r.Value })) > 1
	})
	if !ok {
		return "", false
	}
	r.Reply.Count++
	return r.Key, true
}

// replyTwice gives all answers to a question the reply to another.
func (w *trial) replyTwice() (string, bool) {
	a, ok := w.one(replied)
	if !ok {
		return "", false
	}
	b, ok := w.one(func(r *workload.Record) bool { return replied(r) && r.Value != a.Value && r.Reply.By == a.Reply.By })
	if !ok {
		return "", false
	}
	count := a.Reply.Count
	for _, i := range w.some(func(r *workload.Record) bool { return replied(r) && r.Value == b.Value }) {
		w.history.Records()[i].Reply.Count = count
	}
	return a.Reply.By, true
}

func (w *trial) replyLate() (string, bool) {
	late, ok := w.one(replied)
	if !ok {
		return "", false
	}
	early, ok := w.one(func(r *workload.Record) bool {
		return replied(r) && r.Reply.By == late.Reply.By && r.Reply.Count < late.Reply.Count
	})
	if !ok {
		return "", false
	}
	ends := int64(0)
	for _, i := range w.some(func(r *workload.Record) bool { return replied(r) && r.Value == late.Value }) {
		if end := w.history.Records()[i].Ended; ends == 0 || end < ends {
			ends = end
		}
	}
	for _, i := range w.some(func(r *workload.Record) bool { return r.Action == workload.Ask && r.Value == early.Value }) {
		w.history.Records()[i].Began = max(w.history.Records()[i].Began, ends+1)
	}
	return late.Reply.By, true
}

func (w *trial) forgetQuestion() (string, bool) {
	r, ok := w.one(replied)
	if !ok {
		return "", false
	}
	values := map[uint64]bool{}
	for _, i := range w.some(func(o *workload.Record) bool { return replied(o) && o.Key == r.Key }) {
		values[w.history.Records()[i].Value] = true
	}
	return w.of(r.Key, func(g *Grain) { g.Questions = uint64(len(values)) - 1 })
}

func (w *trial) countTwice() (string, bool) {
	r, ok := w.one(replied)
	if !ok {
		return "", false
	}
	values := map[uint64]bool{}
	for _, i := range w.some(func(o *workload.Record) bool {
		return o.Action == workload.Ask && o.Outcome != workload.Failed && o.Key == r.Key
	}) {
		values[w.history.Records()[i].Value] = true
	}
	return w.of(r.Key, func(g *Grain) { g.Questions = uint64(len(values)) + 1 })
}

func (w *trial) forgetReply() (string, bool) {
	r, ok := w.one(replied)
	if !ok {
		return "", false
	}
	return w.of(r.Reply.By, func(g *Grain) { g.Replies = r.Reply.Count - 1 })
}

// fired are reminders in final states that are fit.
func (w *trial) fired(fit func(r *workload.Record) bool) (inList, bool) {
	var all []inList
	for _, key := range slices.Sorted(maps.Keys(w.final)) {
		for i, value := range w.final[key].Reminded {
			if len(w.some(func(r *workload.Record) bool { return r.Action == workload.Remind && r.Value == value && fit(r) })) > 0 {
				all = append(all, inList{key, i})
			}
		}
	}
	return spot(w, all)
}

func once(r *workload.Record) bool { return r.Every == 0 }

func (w *trial) fireTwice() (string, bool) {
	p, ok := w.fired(once)
	if !ok {
		return "", false
	}
	return w.of(p.key, func(g *Grain) { g.Reminded = append(slices.Clone(g.Reminded), g.Reminded[p.i]) })
}

// maybeForgotten tells whether somebody may have taken a reminder back.
func (w *trial) maybeForgotten(value uint64) bool {
	return len(w.some(func(r *workload.Record) bool {
		return r.Action == workload.Forget && r.Of == value && r.Outcome != workload.Failed
	})) > 0
}

func (w *trial) fireNever() (string, bool) {
	p, ok := w.fired(func(r *workload.Record) bool {
		return once(r) && r.Outcome == workload.OK && !w.maybeForgotten(r.Value)
	})
	if !ok {
		return "", false
	}
	return w.of(p.key, func(g *Grain) { g.Reminded = slices.Delete(slices.Clone(g.Reminded), p.i, p.i+1) })
}

// forgotten is a reminder that was taken back while it was pending, as its setter has heard.
func (w *trial) forgotten(fit func(r *workload.Record) bool) (*workload.Record, bool) {
	f, ok := w.one(func(f *workload.Record) bool {
		return f.Action == workload.Forget && f.Outcome == workload.OK &&
			len(w.some(func(r *workload.Record) bool { return r.Action == workload.Remind && r.Value == f.Of && fit(r) })) > 0
	})
	return f, ok
}

func (w *trial) fireForgotten() (string, bool) {
	f, ok := w.forgotten(once)
	if !ok {
		return "", false
	}
	return w.of(f.Key, func(g *Grain) { g.Reminded = append(slices.Clone(g.Reminded), f.Of) })
}

func (w *trial) keepPending() (string, bool) {
	f, ok := w.forgotten(func(*workload.Record) bool { return true })
	if !ok {
		return "", false
	}
	return w.of(f.Key, func(g *Grain) { g.Pending = append(slices.Clone(g.Pending), f.Of) })
}

func (w *trial) fireElsewhere() (string, bool) {
	p, ok := w.fired(once)
	if !ok {
		return "", false
	}
	value := w.final[p.key].Reminded[p.i]
	to, ok := spot(w, slices.DeleteFunc(slices.Sorted(maps.Keys(w.final)), func(key string) bool { return key == p.key }))
	if !ok {
		return "", false
	}
	return w.of(to, func(g *Grain) { g.Reminded = append(slices.Clone(g.Reminded), value) })
}

func (w *trial) fireUnexpected() (string, bool) {
	p, ok := w.fired(func(*workload.Record) bool { return true })
	if !ok {
		return "", false
	}
	return w.of(p.key, func(g *Grain) { g.Unexpected++ })
}

func (w *trial) fireEarly() (string, bool) {
	p, ok := w.fired(func(*workload.Record) bool { return true })
	if !ok {
		return "", false
	}
	return w.of(p.key, func(g *Grain) { g.Early++ })
}

// seen is an item that a subscriber saw. Violations of feeds name no grain.
func (w *trial) seen() (f *Feed, i int, ok bool) {
	type place struct{ f, i int }
	var all []place
	for n := range w.feeds {
		for i := range w.feeds[n].Seen {
			all = append(all, place{n, i})
		}
	}
	p, ok := spot(w, all)
	if !ok {
		return nil, 0, false
	}
	return &w.feeds[p.f], p.i, true
}

func (w *trial) seeAgain() (string, bool) {
	f, i, ok := w.seen()
	if ok {
		f.Seen = slices.Insert(f.Seen, i+1+w.random.IntN(len(f.Seen)-i), f.Seen[i])
	}
	return "", ok
}

func (w *trial) seeLess() (string, bool) {
	f, i, ok := w.seen()
	if ok {
		f.Seen = slices.Delete(f.Seen, i, i+1)
	}
	return "", ok
}

func (w *trial) seeSwapped() (string, bool) {
	f, i, ok := w.seen()
	if !ok || i == 0 {
		return "", false
	}
	j := w.random.IntN(i)
	f.Seen[i], f.Seen[j] = f.Seen[j], f.Seen[i]
	return "", true
}

func (w *trial) seeStrange() (string, bool) {
	f, i, ok := w.seen()
	if ok {
		item := f.Seen[i]
		item.At += "x"
		f.Seen = slices.Insert(f.Seen, i, item)
	}
	return "", ok
}

// announcing is an item of a journal whose announcement is fit.
func (w *trial) announcing(fit func(r *workload.Record) bool) (f *Feed, i int, r *workload.Record, ok bool) {
	f, i, ok = w.seen()
	if !ok {
		return nil, 0, nil, false
	}
	r, ok = w.one(func(r *workload.Record) bool {
		return r.Action == workload.Announce && r.Value == f.Journal[i].Value && fit(r)
	})
	return f, i, r, ok
}

func (w *trial) loseAnnounced() (string, bool) {
	f, i, r, ok := w.announcing(func(r *workload.Record) bool { return r.Outcome == workload.OK })
	if !ok {
		return "", false
	}
	f.Journal = slices.Delete(f.Journal, i, i+1)
	return r.Key, true
}

func (w *trial) announceTwice() (string, bool) {
	f, i, r, ok := w.announcing(func(*workload.Record) bool { return true })
	if !ok {
		return "", false
	}
	item := f.Journal[i]
	item.At += "x"
	f.Journal = slices.Insert(f.Journal, i, item)
	return r.Key, true
}

func (w *trial) denyAnnounced() (string, bool) {
	_, _, r, ok := w.announcing(func(*workload.Record) bool { return true })
	if !ok {
		return "", false
	}
	for _, i := range w.some(func(o *workload.Record) bool { return o.Action == workload.Announce && o.Value == r.Value }) {
		w.history.Records()[i].Outcome = workload.Failed
	}
	return r.Key, true
}
