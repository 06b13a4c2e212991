package actors

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// RetryHeader is the header of a record that is the second run of a dead letter's event: the seq of that, in decimal.
const RetryHeader = "granary-retry-of"

// Reasons of settlements.
const (
	retried = "retried"
	dropped = "dropped"
)

// Settle asks a shard to settle an open dead letter: to run its event again, or to give it up. The settlement and the run
// are one entry, so the event is run once however often that is asked for.
type Settle struct {
	// Kind and Key of the grain, Seq of the dead letter. The kind need not be one that this binary has.
	Kind, Key string
	Seq       uint64
	// Retry runs the event again; else it is dropped.
	Retry bool
	// Failed is the outcome when nothing was settled (NotFound, NotOpen, Unrunnable, Overloaded, and those of reads), Folded
	// otherwise.
	// Why says it in words, and Lack is the version of logic that is missing, for LogicMissing where that is known.
	Failed Outcome
	Why    string
	Lack   *Lack
	// Letter is the dead letter as it is, for NotOpen; else nil.
	Letter *DeadLetter
	// Result of the run, if Retry: that of the new record, which may be a dead letter again.
	Result Result
	// Done is called once, when the settlement is committed, or when there is none. It must not block.
	Done func(*Settle)
}

// DeadLetter asks for a dead letter, open or not.
type DeadLetter struct {
	// Kind and Key of the grain, Seq of the record. The kind need not be one that this binary has.
	Kind, Key string
	Seq       uint64

	// The answer. Lineage is that of the shard.
	Record  HistoryRecord
	Lineage uint64
	// Open tells that it was neither retried nor dropped; else Settled says which, or nothing where so many records came
	// after it that this was not looked up.
	Open    bool
	Settled string
	// RetriedAs is the seq of the record that its last run became, Became the type of that.
	RetriedAs uint64
	Became    entry.Type
}

// DeadLetters asks for open dead letters of one shard: for where they are, or for what some of them say.
type DeadLetters struct {
	// Kind wanted, all if it is empty; Prefix of the keys; After which one to begin (its Kind, Key and Seq); Limit of their
	// number.
	Kind, Prefix string
	After        DeadLetterAt
	Limit        int
	// Read asks for what these say, and for nothing else.
	Read []DeadLetterAt

	// The answer: Found, or Summaries of Read in the same order.
	Found     []DeadLetterAt
	Summaries []DeadLetterSummary
	// Lineage of the shard.
	Lineage uint64
}

// DeadLetterAt is where an open dead letter is.
type DeadLetterAt = persistence.DeadLetter

// DeadLetterSummary is what a dead letter says, without its payload.
type DeadLetterSummary struct {
	// Event is the full name of the event's message, Reason why its turn failed, Sender the grain that sent it as kind/key,
	// empty if none did.
	Event, Reason, Sender string
}

// letterName tells the dead letters of a shard apart.
type letterName struct {
	kind, key string
	seq       uint64
}

func (in *Settle) name() letterName { return letterName{in.Kind, in.Key, in.Seq} }

// settle takes a settlement in. What it refuses it refuses like a read: when all before it is committed, and leadership is
// confirmed. Else a settlement that is on its way, and may be lost, would be told of.
func (s *Shard) settle(now int64, in *Settle, fx *Effects) {
	in.Failed, in.Why, in.Lack, in.Letter, in.Result = Folded, "", nil, nil, Result{}
	if !s.leading {
		o, why, lack := s.absent()
		s.failSettle(in, &failure{outcome: o, err: errors.New(why), lack: lack}, fx)
		return
	}
	if in.Retry && s.pending > maxUncommitted {
		s.failSettle(in, failf(Overloaded, "too much is uncommitted"), fx)
		return
	}
	open := false
	var at persistence.DeadLetter
	if !s.settling[in.name()] {
		var err error
		if at, open, err = s.index.DeadLetter(in.Kind, in.Key, in.Seq); err != nil {
			s.failSettle(in, failf(Corrupt, "shard %d: %w", s.cfg.Shard, err), fx)
			return
		}
	}
	if !open {
		s.reads = append(s.reads, &Read{settle: in, DeadLetter: &DeadLetter{Kind: in.Kind, Key: in.Key, Seq: in.Seq}, wait: s.last(), token: s.token + 1})
		return
	}
	reason := dropped
	if in.Retry {
		reason = retried
		if err := s.retry(now, in, at, fx); err != nil {
			s.failSettle(in, err, fx)
			return
		}
	} else {
		s.room(fx)
	}
	// behind the run, in the same entry: nothing closes that in between
	s.rec = entry.Record{Type: entry.Settlement, Kind: in.Kind, Key: []byte(in.Key), Seq: in.Seq, Time: s.advance(now, 0), Reason: []byte(reason)}
	s.append(&s.rec)
	s.settling[in.name()] = true
	s.open.settles = append(s.open.settles, in)
}

// retry runs the event of a dead letter as a new record of its grain. It has neither the id nor the producer's sequence of
// the first, so that what is remembered of those stays, and no cause, so that no send is taken in a second time.
func (s *Shard) retry(now int64, in *Settle, at persistence.DeadLetter, fx *Effects) error {
	rec, err := s.letterAt(at)
	if err != nil {
		return err
	}
	kind, ok := s.cfg.Catalog.Kind(in.Kind)
	if !ok {
		return failf(Unrunnable, "this binary has no kind %q", in.Kind)
	}
	e, ok := kind.Event(rec.Event)
	if !ok {
		return failf(Unrunnable, "version %d of kind %q takes no event %q", kind.Version, in.Kind, rec.Event)
	}
	msg, err := e.Decode(rec.Payload)
	if err != nil {
		return failf(Unrunnable, "its payload cannot be decoded: %w", err)
	}
	a, err := s.activate(kind, in.Key)
	if err != nil {
		return err
	}
	headers := slices.DeleteFunc(slices.Clone(rec.Headers), func(h entry.Attribute) bool { return string(h.Name) == RetryHeader })
	headers = append(headers, entry.Attribute{Name: []byte(RetryHeader), Value: strconv.AppendUint(nil, in.Seq, 10)})
	s.rec = entry.Record{Event: rec.Event, EventTime: rec.EventTime, Source: rec.Source, Sender: rec.Sender, Hops: rec.Hops, Trace: rec.Trace,
		Headers: headers, Payload: rec.Payload, Time: s.advance(now, 0)}
	ordinal, err := s.turn(a, e, msg, grains.Ref{Kind: rec.Sender.Kind, Key: string(rec.Sender.Key)}, fx)
	if err != nil {
		return err
	}
	in.Result = Result{Seq: s.rec.Seq, Position: entry.Position{Lineage: s.index.Lineage(), Index: s.next, Ordinal: ordinal}, Reason: string(s.rec.Reason)}
	switch s.rec.Type {
	case entry.Void:
		in.Result.Outcome = Rejected
	case entry.DeadLetter:
		in.Result.Outcome = DeadLettered
	}
	return nil
}

// failSettle answers a settlement that did not come to be.
func (s *Shard) failSettle(in *Settle, err error, fx *Effects) {
	in.Failed, in.Why, in.Lack, in.Result = outcomeOf(err), err.Error(), lackOf(err), Result{}
	fx.Settles = append(fx.Settles, in)
}

// landSettles answers the settlements of an entry that is committed.
func (s *Shard) landSettles(f *flight, fx *Effects) {
	for _, in := range f.settles {
		delete(s.settling, in.name())
	}
	fx.Settles = append(fx.Settles, f.settles...)
}

// loseSettles answers those of one that may never be.
func (s *Shard) loseSettles(f *flight, fx *Effects) {
	for _, in := range f.settles {
		s.failSettle(in, failf(Unavailable, "the shard lost its leader before the settlement was committed"), fx)
	}
}

// unsettled answers a settlement whose dead letter is not open.
func (s *Shard) unsettled(in *Settle, l *DeadLetter, fx *Effects) {
	if l.Open { // by now
		s.failSettle(in, failf(Unavailable, "%s/%s #%d is a dead letter only since this was asked", l.Kind, l.Key, l.Seq), fx)
		return
	}
	in.Letter = l
	s.failSettle(in, failf(NotOpen, "%s/%s #%d is settled: it was %s", l.Kind, l.Key, l.Seq, l.how()), fx)
}

// how says in words how a dead letter was settled.
func (l *DeadLetter) how() string {
	became := map[entry.Type]string{entry.Input: "folded", entry.Void: "rejected", entry.DeadLetter: "dead-lettered again"}
	switch {
	case l.RetriedAs != 0:
		return fmt.Sprintf("retried as #%d, which was %s", l.RetriedAs, became[l.Became])
	case l.Settled != "":
		return l.Settled
	}
	return "retried or dropped, long ago"
}

// letterAt reads the record of an open dead letter.
func (s *Shard) letterAt(at persistence.DeadLetter) (rec entry.Record, err error) {
	fail := func(err error) (entry.Record, error) {
		return rec, failf(Corrupt, "shard %d: %s/%s #%d: %w", s.cfg.Shard, at.Kind, at.Key, at.Seq, err)
	}
	d, err := s.index.Directory(at.Index)
	if err != nil {
		return fail(err)
	}
	r, err := d.Reader(int(at.Ordinal))
	if err != nil {
		return fail(err)
	}
	more, err := r.Next(&rec)
	if err == nil && (!more || rec.Type != entry.DeadLetter || rec.Kind != at.Kind || string(rec.Key) != at.Key || rec.Seq != at.Seq) {
		err = fmt.Errorf("%w: it is not at index %d, record %d", entry.ErrCorrupt, at.Index, at.Ordinal)
	}
	if err != nil {
		return fail(err)
	}
	return rec, nil
}

// readLetters finds open dead letters, or reads some.
func (s *Shard) readLetters(l *DeadLetters) (err error) {
	l.Lineage = s.index.Lineage()
	if l.Read == nil {
		if l.Found, err = s.index.DeadLetters(l.Kind, l.Prefix, l.After, l.Limit); err != nil {
			return failf(Corrupt, "shard %d: %w", s.cfg.Shard, err)
		}
		return nil
	}
	for _, at := range l.Read {
		rec, err := s.letterAt(at)
		if err != nil { // the others must be seen
			l.Summaries = append(l.Summaries, DeadLetterSummary{Reason: "its record cannot be read: " + err.Error()})
			continue
		}
		sum := DeadLetterSummary{Event: rec.Event, Reason: string(rec.Reason)}
		if rec.Sender.Kind != "" {
			sum.Sender = rec.Sender.Kind + "/" + string(rec.Sender.Key)
		}
		l.Summaries = append(l.Summaries, sum)
	}
	return nil
}

// readLetter reads one dead letter, and how it was settled.
func (s *Shard) readLetter(l *DeadLetter) error {
	l.Lineage = s.index.Lineage()
	at, open, err := s.index.DeadLetter(l.Kind, l.Key, l.Seq)
	if err != nil {
		return failf(Corrupt, "shard %d: %w", s.cfg.Shard, err)
	}
	if open {
		rec, err := s.letterAt(at)
		l.Record, l.Open = HistoryRecord{at.Index, rec}, true
		return err
	}
	grain := persistence.AppendGrain(nil, "", l.Kind, l.Key)
	f := folder{shard: s, kind: &grains.Definition{Name: l.Kind}, key: []byte(l.Key), fetch: s.index.Directory}
	head, err := s.index.Head(grain)
	if err != nil {
		return f.fail(err)
	}
	if l.Seq == 0 || l.Seq > head.Seq {
		return failf(NotFound, "%s/%s has %d records, there is no #%d", l.Kind, l.Key, head.Seq, l.Seq)
	}
	_, above, err := s.index.Snapshots(grain, l.Seq)
	if err != nil {
		return f.fail(err)
	}
	start := above.Index
	if start == 0 {
		start = head.Last
	}
	tail, err := f.tail(start, l.Seq-1, l.Seq)
	if err != nil {
		return f.fail(err)
	}
	if tail[0].Type != entry.DeadLetter {
		return failf(NotFound, "%s/%s #%d is no dead letter: it is a record of type %v", l.Kind, l.Key, l.Seq, tail[0].Type)
	}
	l.Record = tail[0]
	if err := s.readSettlement(l, head); err != nil {
		return f.fail(err)
	}
	return nil
}

// readSettlement finds out how a dead letter was settled. The settlement of a retry stands behind a record of the grain, in
// its entry, and so is found from the head backwards; where there is none, the dead letter was dropped.
func (s *Shard) readSettlement(l *DeadLetter, head persistence.Head) error {
	n, all := 0, true
	err := persistence.Walk(s.index.Directory, head.Last, "", l.Kind, []byte(l.Key), func(index uint64, records []entry.Record) bool {
		var last *entry.Record
		for i := range records {
			switch r := &records[i]; {
			case r.Type.Numbered():
				last = r
			case r.Type == entry.Settlement && r.Seq == l.Seq && index >= l.Record.Index:
				l.Settled = string(r.Reason)
				if l.Settled == retried && last != nil {
					l.RetriedAs, l.Became = last.Seq, last.Type
				}
			}
		}
		n += len(records)
		all = n < searched
		return l.Settled == "" && all && index > l.Record.Index
	})
	if err == nil && l.Settled == "" && all {
		l.Settled = dropped
	}
	return err
}
