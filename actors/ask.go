package actors

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// maxAsks is how many askers may wait for deferred replies in one shard. It is a bound of memory.
const maxAsks = 16 << 10

// farBehind is how many records a grain has behind an event before its answer is taken for a late one, and a snapshot is
// looked for to begin the search at.
const farBehind = 64

// GiveUp tells a shard that nobody waits for a deferred reply any more. Its batch is answered without the reply: at once if
// that is all that is missing, else when its event is committed. For a batch that is answered it does nothing; such a batch
// must not be used again.
type GiveUp struct{ Batch *Batch }

// asked is an event whose reply was deferred.
type asked struct {
	kind, key string
	seq       uint64
}

func (a asked) compare(b asked) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.key, b.key), cmp.Compare(a.seq, b.seq))
}

// asks are those who wait for deferred replies, and the replies that are on their way into the journal.
type asks struct {
	waiting map[asked][]*Batch
	count   int
	// uncommitted answers: a second one that comes before the first is committed must find it here.
	uncommitted map[asked]bool
}

func newAsks() asks { return asks{waiting: map[asked][]*Batch{}, uncommitted: map[asked]bool{}} }

// Asking is how many askers wait for deferred replies.
func (s *Shard) Asking() int { return s.asks.count }

// settled notes in a result what its turn, journaled in rec, did about the reply.
func (r *Result) settled(b *Batch, rec *entry.Record) {
	if !b.Ask {
		return
	}
	b.askedAt = rec.Time
	r.Reply = bytes.Clone(rec.Reply)
	if len(rec.Reply) == 0 {
		r.Reply = nil
	}
	r.Deferred = defers(rec)
}

func defers(rec *entry.Record) bool {
	return slices.ContainsFunc(rec.Effects, func(e entry.Effect) bool { return e.Type == entry.Defer })
}

// awaits tells whether an ask, whose event is committed, has to wait for a deferred reply. If not, its result says all.
func (s *Shard) awaits(b *Batch) bool {
	r, e := &b.Results[0], &b.Events[0]
	if r.Outcome != Folded || !r.Deferred {
		return false
	}
	if r.Duplicate { // the answer to a new event comes behind it
		reply, err := s.storedReply(e.Kind.Name, e.Key, r.Seq, b.askedAt)
		if err != nil {
			r.Outcome, r.Reason = Corrupt, fmt.Sprintf("its reply cannot be read: %v", err)
			return false
		}
		if r.Reply = reply; reply != nil {
			return false
		}
	}
	if b.gaveUp {
		return false
	}
	if s.asks.count >= maxAsks {
		r.Outcome, r.Reason = Overloaded, fmt.Sprintf("the event is journaled, but %d callers wait for deferred replies of this shard already; ask again with the same id", s.asks.count)
		return false
	}
	at := asked{e.Kind.Name, e.Key, r.Seq}
	s.asks.waiting[at] = append(s.asks.waiting[at], b)
	s.asks.count++
	b.awaiting = true
	return true
}

// storedReply is the reply to an event that deferred it, encoded as a google.protobuf.Any; nil if it has none yet. at is the
// journal time of the event.
func (s *Shard) storedReply(kind, key string, seq uint64, at int64) ([]byte, error) {
	index, ordinal, ok, err := s.index.Reply(persistence.AppendGrain(nil, "", kind, key), seq, at, s.time)
	if err != nil || !ok {
		return nil, err
	}
	d, err := s.index.Directory(index)
	if err != nil {
		return nil, err
	}
	reader, err := d.Reader(int(ordinal))
	if err != nil {
		return nil, err
	}
	var rec entry.Record
	more, err := reader.Next(&rec)
	if err != nil {
		return nil, err
	}
	if !more || rec.Type != entry.Answer || rec.Kind != kind || string(rec.Key) != key || rec.Seq != seq || len(rec.Reason) > 0 {
		return nil, fmt.Errorf("index %d record %d: %w: it is not the answer to %s/%s seq %d", index, ordinal, entry.ErrCorrupt, kind, key, seq)
	}
	return replyOf(&rec)
}

// replyOf is the reply that an answer holds, in the form that a turn's own reply has.
func replyOf(rec *entry.Record) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(&anypb.Any{TypeUrl: "type.googleapis.com/" + rec.Event, Value: rec.Payload})
}

// answerTo takes the reply to an event in, which is in s.rec but for whom it is for. It is no turn, and never refused: one
// that comes too late, or for nothing, is journaled with the reason and has no effect.
func (s *Shard) answerTo(m *Sent, fx *Effects) error {
	rec := &s.rec
	rec.Type, rec.Kind, rec.Key = entry.Answer, m.Kind, m.Key
	at := asked{kind: m.Kind, key: string(m.Key)}
	var why string
	to, seq, err := grains.ParseToken(string(m.Token))
	if err != nil || to != (grains.Ref{Kind: at.kind, Key: at.key}) {
		why = "the token names no event of this grain"
	} else {
		rec.Seq, at.seq = seq, seq
		if why, err = s.unanswerable(at); err != nil {
			return fmt.Errorf("shard %d: the reply to %s/%s seq %d cannot be taken in: %w", s.cfg.Shard, at.kind, at.key, seq, err)
		}
	}
	s.room(fx)
	rec.Reason = []byte(why)
	s.append(rec)
	if why == "" {
		s.asks.uncommitted[at] = true
		s.open.answers = append(s.open.answers, at)
		s.Stats.Answers++
	}
	return nil
}

// unanswerable tells why a reply to an event has no effect; "" when it has one. The event of a true token is committed, for
// the token left its turn by a send.
func (s *Shard) unanswerable(at asked) (why string, err error) {
	const before = "the event was answered before"
	if s.asks.uncommitted[at] {
		return before, nil
	}
	grain := persistence.AppendGrain(nil, "", at.kind, at.key)
	head, err := s.index.Head(grain)
	if err != nil {
		return "", err
	}
	if at.seq > head.Seq {
		return fmt.Sprintf("the grain has %d records", head.Seq), nil
	}
	start := head.Last
	if head.Seq-at.seq > farBehind {
		_, above, err := s.index.Snapshots(grain, at.seq)
		if err != nil {
			return "", err
		}
		if above.Index != 0 {
			start = above.Index
		}
	}
	var event *entry.Record
	err = persistence.Walk(s.index.Directory, start, "", at.kind, []byte(at.key), func(_ uint64, records []entry.Record) bool {
		for i := range records {
			if r := &records[i]; r.Type.Numbered() && r.Seq == at.seq {
				found := *r
				event = &found
			}
		}
		return event == nil
	})
	switch {
	case err != nil:
		return "", err
	case event == nil:
		return "", fmt.Errorf("%w: there is no record %d", entry.ErrCorrupt, at.seq)
	case !defers(event):
		return "the event's turn did not defer its reply", nil
	case event.Time < s.time-s.idWindow:
		return "the event is older than ids are remembered, so that nobody can ask for it", nil
	}
	if _, _, ok, err := s.index.Reply(grain, at.seq, event.Time, s.time); err != nil || ok {
		return before, err
	}
	return "", nil
}

// answered hands a committed answer to those who wait for it.
func (s *Shard) answered(rec *entry.Record, fx *Effects) {
	if rec.Type != entry.Answer || len(rec.Reason) > 0 {
		return
	}
	at := asked{rec.Kind, string(rec.Key), rec.Seq}
	for _, b := range s.asks.waiting[at] {
		r := &b.Results[0]
		var err error
		if r.Reply, err = replyOf(rec); err != nil {
			r.Outcome, r.Reason = Corrupt, fmt.Sprintf("its reply cannot be read: %v", err)
		}
		b.awaiting = false
		s.asks.count--
		fx.Batches = append(fx.Batches, b)
	}
	delete(s.asks.waiting, at)
}

// giveUp lets an asker go without the reply.
func (s *Shard) giveUp(b *Batch, fx *Effects) {
	b.gaveUp = true
	if !b.awaiting {
		return
	}
	at := asked{b.Events[0].Kind.Name, b.Events[0].Key, b.Results[0].Seq}
	left := slices.DeleteFunc(s.asks.waiting[at], func(o *Batch) bool { return o == b })
	if s.asks.waiting[at] = left; len(left) == 0 {
		delete(s.asks.waiting, at)
	}
	b.awaiting = false
	s.asks.count--
	fx.Batches = append(fx.Batches, b)
}

// loseAsks tells all who wait for a reply that it will not come from here.
func (s *Shard) loseAsks(fx *Effects) {
	order := make([]asked, 0, len(s.asks.waiting))
	for at := range s.asks.waiting {
		order = append(order, at)
	}
	slices.SortFunc(order, asked.compare)
	for _, at := range order {
		for _, b := range s.asks.waiting[at] {
			b.awaiting = false
			s.refuse(b, Unavailable, "the event is journaled, but the shard lost its leader before the reply came; ask again with the same id", fx)
		}
	}
}
