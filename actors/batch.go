package actors

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// searched is among how many of a grain's records the first result of an old duplicate is looked for.
const searched = 4096

// producer is what the shard knows of a producer, with what is not committed yet.
type producer struct {
	*persistence.Producer
	// link is the sequence of the last event received in this epoch. Behind a reconnect it runs behind the watermark
	// while the client repeats what it has no answer for. A new leader takes the watermark: that refuses some batches it
	// could take, and takes none that it must refuse.
	link uint64
}

// duplicate is an event of a batch whose result is that of an earlier one.
type duplicate struct {
	event   int
	index   uint64
	ordinal uint32 // where byOrdinal
	found   bool   // the place is known by ordinal, else the sequence is looked for in the entry
}

// batch takes the events of a client in.
func (s *Shard) batch(now int64, b *Batch, fx *Effects) {
	b.duplicates = b.duplicates[:0]
	b.Refused, b.Lack, b.wait = Folded, nil, 0
	if !s.leading {
		o, why, lack := s.absent()
		b.Lack = lack
		s.refuse(b, o, why, fx)
		return
	}
	if cap(b.Results) < len(b.Events) {
		b.Results = make([]Result, len(b.Events))
	}
	b.Results = b.Results[:len(b.Events)]
	clear(b.Results)
	var p *producer
	if b.Link != nil {
		var err error
		if p, err = s.producer(b.Link.Producer); err != nil {
			s.refuse(b, Corrupt, err.Error(), fx)
			return
		}
		if !s.accept(now, p, b, fx) {
			return
		}
	}
	for i := range b.Events {
		err := s.event(now, p, b, i, fx)
		if err != nil && p != nil {
			// what the shard holds of a producer has no gaps. The events before this one stay; their results are known to
			// nobody until they come again
			s.refuse(b, outcomeOf(err), err.Error(), fx)
			return
		}
		if err != nil {
			b.Results[i] = Result{Outcome: outcomeOf(err), Reason: err.Error()}
		}
	}
	if p != nil {
		p.link = b.Events[len(b.Events)-1].Sequence
	}
	s.await(b, fx)
}

// await lets a batch wait for the entries that its results rest on.
func (s *Shard) await(b *Batch, fx *Effects) {
	if f := s.flightAt(b.wait); f != nil {
		f.batches = append(f.batches, b)
		return
	}
	s.finish(b, fx)
}

// outcomeOf is what callers are told of an error.
func outcomeOf(err error) Outcome {
	var f *failure
	if errors.As(err, &f) {
		return f.outcome
	}
	return Corrupt
}

// lackOf is the version for want of which an error is, nil if it is for something else.
func lackOf(err error) *Lack {
	for f := (*failure)(nil); errors.As(err, &f); err = f.err {
		if f.lack != nil {
			return f.lack
		}
	}
	return nil
}

// producer returns the speculative state of a producer; one that is not known has epoch 0.
func (s *Shard) producer(id string) (*producer, error) {
	if p := s.producers[id]; p != nil {
		return p, nil
	}
	known, err := s.index.Producer(id)
	if err != nil {
		return nil, fmt.Errorf("shard %d: producer %q: %w", s.cfg.Shard, id, err)
	}
	if known == nil {
		known = &persistence.Producer{}
	}
	p := &producer{Producer: known, link: known.Watermark}
	s.producers[id] = p
	return p, nil
}

// accept decides whether a producer's batch follows what the shard has, and opens a newer epoch.
func (s *Shard) accept(now int64, p *producer, b *Batch, fx *Effects) bool {
	l := b.Link
	b.Watermark, b.Epoch = p.Watermark, p.Epoch
	switch {
	case l.Epoch < p.Epoch:
		s.refuse(b, Fenced, fmt.Sprintf("producer %q has a newer epoch %d", l.Producer, p.Epoch), fx)
		return false
	case l.Epoch == p.Epoch && l.Previous == p.link && l.Previous != 0:
		return true
	case l.Epoch == p.Epoch || l.Previous != 0:
		s.refuse(b, Gap, fmt.Sprintf("the batch follows sequence %d of producer %q in epoch %d, the shard has up to %d", l.Previous, l.Producer, l.Epoch, p.link), fx)
		return false
	}
	// the first batch of a newer epoch: from now on an older stream of this producer is refused, also behind a crash
	p.Epoch, p.link, p.Time = l.Epoch, 0, s.advance(now, 0)
	s.rec = entry.Record{Type: entry.Session, Producer: l.Producer, Epoch: l.Epoch, Time: p.Time}
	s.room(fx)
	s.append(&s.rec)
	b.wait = s.next
	return true
}

// event takes one event of a batch in: as a duplicate, or as a turn.
func (s *Shard) event(now int64, p *producer, b *Batch, i int, fx *Effects) error {
	e, r := &b.Events[i], &b.Results[i]
	r.Deduplicated = true
	var hash uint64
	switch {
	case p != nil:
		if e.Sequence <= p.Watermark {
			s.Stats.Duplicates++
			r.Duplicate = true
			index := p.Find(e.Sequence)
			b.wait = max(b.wait, index)
			if index == 0 && len(p.Recent) > 0 {
				b.wait = max(b.wait, p.Recent[0].Index) // it is in this entry or in one before
			}
			b.duplicates = append(b.duplicates, duplicate{event: i, index: index})
			return nil
		}
	case e.ID != "":
		s.keyBuf = persistence.AppendGrain(s.keyBuf[:0], "", e.Kind.Name, e.Key)
		hash = persistence.IDHash(s.keyBuf, e.Source, e.ID)
		known, ok, err := s.known(now, hash, e.Kind.IDWindow.Microseconds())
		if err != nil {
			return err
		}
		if ok {
			s.Stats.Duplicates++
			b.wait = max(b.wait, known.Index)
			if known.Body != persistence.BodyHash(e.Type.Name, e.Payload) {
				*r = Result{Outcome: Conflict, Deduplicated: true, Reason: fmt.Sprintf("id %q was published before with another body", e.ID)}
				return nil
			}
			r.Duplicate = true
			b.duplicates = append(b.duplicates, duplicate{event: i, index: known.Index, ordinal: known.Ordinal, found: true})
			return nil
		}
	default:
		r.Deduplicated = false
	}
	a, err := s.activate(e.Kind, e.Key)
	if err != nil {
		return err
	}
	rec := &s.rec
	*rec = entry.Record{} // cleared in place: a record is half a kilobyte, and copying one costs as much as encoding it
	rec.Event, rec.EventTime, rec.Source, rec.Trace, rec.Headers, rec.Payload = e.Type.Name, e.Time, e.Source, e.Trace, e.Headers, e.Payload
	s.keyBuf = append(s.keyBuf[:0], e.ID...)
	rec.ID = s.keyBuf
	rec.Time = s.advance(now, 0)
	if p != nil {
		rec.Producer, rec.Epoch, rec.Sequence = b.Link.Producer, b.Link.Epoch, e.Sequence
	}
	ordinal, err := s.turn(a, e.Type, e.Message, grains.Ref{}, fx)
	if err != nil {
		return err
	}
	index := s.next
	b.wait = index
	r.Seq, r.Position = rec.Seq, entry.Position{Lineage: s.index.Lineage(), Index: index, Ordinal: ordinal}
	switch rec.Type {
	case entry.Void:
		r.Outcome, r.Reason = Rejected, string(rec.Reason)
	case entry.DeadLetter:
		r.Outcome, r.Reason = DeadLettered, string(rec.Reason)
	}
	switch {
	case p != nil:
		p.Note(b.Link.Epoch, e.Sequence, index, rec.Time)
	case hash != 0:
		s.ids[hash] = persistence.Known{Index: index, Ordinal: ordinal, Time: rec.Time, Body: persistence.BodyHash(e.Type.Name, e.Payload)}
		s.open.ids = append(s.open.ids, hash)
	}
	return nil
}

// known looks for an event id among what is not committed and what is.
func (s *Shard) known(now int64, hash uint64, window int64) (persistence.Known, bool, error) {
	if k, ok := s.ids[hash]; ok {
		return k, true, nil
	}
	now = max(now, s.time)
	k, ok, err := s.index.ID(hash, now-window, now)
	if err != nil {
		err = failf(Corrupt, "shard %d: %w", s.cfg.Shard, err)
	}
	return k, ok, err
}

// finish answers a batch: everything it rests on is committed.
func (s *Shard) finish(b *Batch, fx *Effects) {
	var directory *entry.Directory
	var at uint64
	for _, d := range b.duplicates {
		var err error
		if d.index == 0 {
			var all bool
			if d.index, all, err = s.search(&b.Events[d.event], b.Link.Producer); err == nil && d.index == 0 {
				if all {
					b.Results[d.event] = neverHere(b.Events[d.event].Sequence)
				}
				continue // else too old to be known in detail: it was journaled, that is all
			}
		}
		if err == nil && at != d.index {
			directory, err = s.index.Directory(d.index)
			at = d.index
		}
		r := &b.Results[d.event]
		if err == nil {
			err = first(r, &b.Events[d.event], b.Link, d, directory)
		}
		if err != nil {
			*r = Result{Outcome: Corrupt, Duplicate: true, Deduplicated: true, Reason: fmt.Sprintf("its first result cannot be read: %v", err)}
			at = 0
			continue
		}
		r.Position.Lineage = s.index.Lineage()
	}
	fx.Batches = append(fx.Batches, b)
}

// search finds the entry of a producer's event among the newest records of its grain, for one that is older than what is
// remembered of the producer; 0 when it is not there. all tells that there are no older records.
func (s *Shard) search(e *Event, producer string) (found uint64, all bool, err error) {
	head, err := s.index.Head(persistence.AppendGrain(s.keyBuf[:0], "", e.Kind.Name, e.Key))
	if err != nil || head.Seq == 0 {
		return 0, true, err
	}
	n := 0
	err = persistence.Walk(s.index.Directory, head.Last, "", e.Kind.Name, []byte(e.Key), func(index uint64, records []entry.Record) bool {
		for i := range records {
			if r := &records[i]; r.Producer == producer && r.Sequence == e.Sequence {
				found = index
			}
		}
		n += len(records)
		return found == 0 && n < searched
	})
	return found, n < searched, err
}

// neverHere is the result of an event below the watermark that is no repetition.
func neverHere(sequence uint64) Result {
	return Result{Outcome: Conflict, Deduplicated: true, Reason: fmt.Sprintf("sequence %d is not above the producer's watermark, and was not published to this shard before", sequence)}
}

// first fills in the result that a duplicate had the first time.
func first(r *Result, e *Event, l *Link, d duplicate, directory *entry.Directory) error {
	reader, err := directory.Reader(int(d.ordinal)) // the first record where it is not known
	if err != nil {
		return fmt.Errorf("index %d: %w", d.index, err)
	}
	for {
		var rec entry.Record
		more, err := reader.Next(&rec)
		if err != nil {
			return fmt.Errorf("index %d: %w", d.index, err)
		}
		if !more {
			*r = neverHere(e.Sequence)
			return nil
		}
		if !d.found && (rec.Producer != l.Producer || rec.Sequence != e.Sequence) {
			continue
		}
		if rec.Event != e.Type.Name || string(rec.Key) != e.Key || !bytes.Equal(rec.Payload, e.Payload) {
			*r = Result{Outcome: Conflict, Deduplicated: true, Reason: fmt.Sprintf("it was published before, to %s/%s, with another body", rec.Kind, rec.Key)}
			return nil
		}
		r.Seq, r.Position = rec.Seq, entry.Position{Index: d.index, Ordinal: rec.Ordinal}
		switch rec.Type {
		case entry.Void:
			r.Outcome = Rejected
		case entry.DeadLetter:
			r.Outcome = DeadLettered
		}
		r.Reason = string(rec.Reason)
		return nil
	}
}
