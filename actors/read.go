package actors

import (
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// historyWindow is how many records are read at once for a page of history, and historyBytes how large a page becomes
// before it is cut.
const (
	historyWindow = 64
	historyBytes  = 2 << 20
)

// read lets a read take its place: behind all turns that ran before it.
func (s *Shard) read(r *Read, fx *Effects) {
	if !s.leading {
		r.Failed, r.Why, r.Lack = s.absent()
		fx.Reads = append(fx.Reads, r)
		return
	}
	if g := r.Get; g != nil && g.AtSeq == 0 && g.AtTime == 0 {
		if err := s.getNow(g); err != nil {
			s.failRead(r, err, fx)
			return
		}
	}
	r.wait, r.token = s.last(), 0
	if !r.Stale {
		r.token = s.token + 1 // a confirmation asked for from now on
	}
	s.reads = append(s.reads, r)
	if r.Stale {
		s.answer(fx)
	}
}

// confirm asks to confirm leadership when a read waits for it and no answer is outstanding.
func (s *Shard) confirm(fx *Effects) {
	if s.asked || len(s.reads) == 0 {
		return
	}
	for _, r := range s.reads {
		if r.token > s.token {
			s.token++
			s.asked, fx.Confirm = true, s.token
			return
		}
	}
}

// answer gives the reads their answers whose place in the order is committed and whose leadership is confirmed.
func (s *Shard) answer(fx *Effects) {
	if len(s.reads) == 0 {
		return
	}
	applied, _ := s.index.Applied()
	kept := s.reads[:0]
	for _, r := range s.reads {
		if r.wait > applied || r.token > s.confirmed {
			kept = append(kept, r)
			continue
		}
		var err error
		switch {
		case r.Tail != nil:
			if applied <= r.Tail.After {
				if s.keepTail(r) {
					continue
				}
				err = failf(Overloaded, "shard %d has %d subscriptions waiting", s.cfg.Shard, maxTails)
				break
			}
			r.Tail.Place = s.index.Place()
		case r.History != nil:
			err = s.history(r.History)
		case r.List != nil:
			err = s.list(r.List)
		case r.DeadLetters != nil:
			err = s.readLetters(r.DeadLetters)
		case r.DeadLetter != nil:
			err = s.readLetter(r.DeadLetter)
		case r.Reminders != nil:
			err = s.listReminders(r.Reminders)
		case r.Get.AtSeq != 0 || r.Get.AtTime != 0:
			err = s.getPast(r.Get)
		}
		if err != nil {
			s.failRead(r, err, fx)
			continue
		}
		if r.settle != nil {
			s.unsettled(r.settle, r.DeadLetter, fx)
			continue
		}
		fx.Reads = append(fx.Reads, r)
	}
	clear(s.reads[len(kept):])
	s.reads = kept
}

func (s *Shard) failRead(r *Read, err error, fx *Effects) {
	if r.settle != nil {
		s.failSettle(r.settle, err, fx)
		return
	}
	r.Failed, r.Why, r.Lack = outcomeOf(err), err.Error(), lackOf(err)
	fx.Reads = append(fx.Reads, r)
}

// getNow takes the state as it is behind all turns so far.
func (s *Shard) getNow(g *Get) error {
	a, err := s.activate(g.Kind, g.Key)
	if err != nil {
		return err
	}
	if !a.placed && a.seq != 0 {
		f := folder{shard: s, kind: a.kind, key: a.keyBytes, fetch: s.fetch}
		tail, err := f.tail(a.last, a.seq-1, a.seq)
		if err != nil {
			return failf(Corrupt, "shard %d: %v: %w", s.cfg.Shard, a.name, err)
		}
		a.ordinal, a.placed = tail[0].Ordinal, true
	}
	if g.State, err = g.Kind.AppendState(nil, a.state); err != nil {
		return failf(Corrupt, "%v: its state cannot be encoded: %w", a.name, err)
	}
	g.Seq, g.Time = a.seq, a.time
	if a.seq != 0 {
		g.Position = entry.Position{Lineage: s.index.Lineage(), Index: a.last, Ordinal: a.ordinal}
	}
	return nil
}

// getPast folds the journal up to a moment.
func (s *Shard) getPast(g *Get) error {
	grain := persistence.AppendGrain(nil, "", g.Kind.Name, g.Key)
	fail := func(err error) error { return failf(Corrupt, "%s/%s: %w", g.Kind.Name, g.Key, err) }
	head, err := s.index.Head(grain)
	if err != nil {
		return fail(err)
	}
	seq := g.AtSeq
	if seq > head.Seq {
		return failf(OutOfRange, "%s/%s has %d records, there is no seq %d", g.Kind.Name, g.Key, head.Seq, seq)
	}
	f := folder{shard: s, kind: g.Kind, key: []byte(g.Key), fetch: s.index.Directory}
	if seq == 0 {
		if seq, err = s.seqAt(&f, grain, head, g.AtTime); err != nil {
			return fail(err)
		}
		if seq == 0 { // before the first record
			g.State, err = g.Kind.AppendState(nil, g.Kind.NewState())
			return err
		}
	}
	below, above, err := s.index.Snapshots(grain, seq)
	if err != nil {
		return fail(err)
	}
	start := above.Index
	if start == 0 {
		start = head.Last
	}
	base, err := f.snapshot(below)
	if err != nil {
		return err
	}
	state, _, _, err := f.fold(base, start, seq)
	if err != nil {
		return err
	}
	if g.State, err = g.Kind.AppendState(nil, state); err != nil {
		return fail(err)
	}
	last, err := f.tail(start, seq-1, seq)
	if err != nil {
		return fail(err)
	}
	g.Seq, g.Time = seq, last[0].Time
	g.Position = entry.Position{Lineage: s.index.Lineage(), Index: last[0].Index, Ordinal: last[0].Ordinal}
	return nil
}

// seqAt returns the seq of the last record whose journal time is not after t; 0 when there is none.
func (s *Shard) seqAt(f *folder, grain []byte, head persistence.Head, t int64) (uint64, error) {
	if head.Seq == 0 || head.Time <= t {
		return head.Seq, nil
	}
	below, above, err := s.index.SnapshotsByTime(grain, t)
	if err != nil {
		return 0, err
	}
	start, to := above.Index, above.Seq
	if start == 0 {
		start, to = head.Last, head.Seq
	}
	tail, err := f.tail(start, below.Seq, to)
	if err != nil {
		return 0, err
	}
	seq := below.Seq
	for i := range tail {
		if tail[i].Time <= t {
			seq = tail[i].Seq
		}
	}
	return seq, nil
}

// history reads a page of a grain's records.
func (s *Shard) history(h *History) error {
	grain := persistence.AppendGrain(nil, "", h.Kind.Name, h.Key)
	fail := func(err error) error { return failf(Corrupt, "%s/%s: %w", h.Kind.Name, h.Key, err) }
	head, err := s.index.Head(grain)
	if err != nil {
		return fail(err)
	}
	h.Lineage = s.index.Lineage()
	from, to := max(h.From, 1), head.Seq
	if h.To != 0 {
		to = min(to, h.To)
	}
	f := folder{shard: s, kind: h.Kind, key: []byte(h.Key), fetch: s.index.Directory}
	size := 0
	for from <= to {
		lo, hi := from, min(to, from+historyWindow-1)
		if h.NewestFirst {
			lo, hi = max(from, to-min(to, historyWindow)+1), to
		}
		_, above, err := s.index.Snapshots(grain, hi)
		if err != nil {
			return fail(err)
		}
		start := above.Index
		if start == 0 {
			start = head.Last
		}
		window, err := f.tail(start, lo-1, hi)
		if err != nil {
			return fail(err)
		}
		for i := range window {
			r := window[i]
			if h.NewestFirst {
				r = window[len(window)-1-i]
			}
			if len(h.Records) == h.Limit || size > historyBytes {
				h.More = true
				return nil
			}
			h.Records = append(h.Records, r)
			size += len(r.Payload)
		}
		if h.NewestFirst {
			to = lo - 1
		} else {
			from = hi + 1
		}
	}
	return nil
}

// list reads the keys of a kind.
func (s *Shard) list(l *List) error {
	found, err := s.index.List("", l.Kind, l.Prefix, l.After, l.Limit)
	if err != nil {
		return failf(Corrupt, "shard %d: %w", s.cfg.Shard, err)
	}
	for _, g := range found {
		l.Grains = append(l.Grains, ListedGrain{Key: g.Key, Seq: g.Seq, Time: g.Time})
	}
	return nil
}
