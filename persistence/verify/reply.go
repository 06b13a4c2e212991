package verify

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// replies are the events of a shard that left their reply to a later turn, and the answers to them. Both are forgotten when
// no id can be remembered that long.
type replies struct {
	deferred map[string]int64 // by grain and seq: journal time of the event
	answers  map[string]answerAt
	order    []string // of both, by time
}

// answerAt is the answer that counts.
type answerAt struct {
	index   uint64
	ordinal uint32
	time    int64
	met     bool // its key was found
}

func newReplies() replies {
	return replies{deferred: map[string]int64{}, answers: map[string]answerAt{}}
}

// askedKey is how the key of a reply ends.
func askedKey(grain string, seq uint64) string {
	return grain + "\x00" + string(binary.BigEndian.AppendUint64(nil, seq))
}

// longestWindow is how long any id is remembered, and so any reply: in microseconds.
func (s *shard) longestWindow() (longest int64) {
	for _, k := range s.v.o.Catalog.Kinds() {
		longest = max(longest, k.IDWindow.Microseconds())
	}
	return longest
}

// defers takes an event whose turn left its reply to a later one.
func (s *shard) defers(r *record, grain string) {
	for i := range r.effects {
		if r.effects[i].kindOf == deferred {
			k := askedKey(grain, r.seq)
			s.replies.deferred[k] = r.time
			s.replies.order = append(s.replies.order, k)
			s.forgetReplies()
			return
		}
	}
}

// forgetReplies drops what is older than any window and bucket.
func (s *shard) forgetReplies() {
	x := &s.replies
	horizon := s.lastTime - s.longestWindow() - bucketMicros
	for len(x.order) > 0 {
		k := x.order[0]
		if t, ok := x.deferred[k]; ok && t >= horizon {
			return
		}
		if a, ok := x.answers[k]; ok && a.time >= horizon {
			return
		}
		delete(x.deferred, k)
		delete(x.answers, k)
		x.order = x.order[1:]
	}
}

// answer checks a reply that a later turn gave. The first one to an event that deferred counts and has no reason; all others
// have one.
func (s *shard) answer(r *record) {
	if !s.mine() {
		return
	}
	if r.kind == "" || len(r.key) == 0 || r.event == "" {
		s.at(r, "an answer without a grain or a type")
		return
	}
	grain := grainKey(r.tenant, r.kind, r.key)
	if own := owner(grain, s.of); own != s.id {
		s.at(r, "this grain belongs to shard %d", own)
	}
	if r.sender.kind == "" {
		s.at(r, "an answer that nobody sent")
	} else {
		s.arrived(r)
	}
	if r.back != 0 || r.logic != 0 || len(r.effects)+len(r.reply) > 0 {
		s.at(r, "an answer that looks like a turn")
	}
	x, k := &s.replies, askedKey(grain, r.seq)
	asked, deferred := x.deferred[k]
	first, before := x.answers[k]
	switch {
	case len(r.reason) > 0:
		if deferred && !before && r.time-asked < s.window(r.kind) && !tooEarly(r) {
			s.at(r, "an answer without effect (%s), though seq %d deferred its reply and was not answered before", printable(r.reason), r.seq)
		}
	case before:
		s.at(r, "seq %d is answered again; index %d record %d was the answer", r.seq, first.index, first.ordinal)
	case !deferred && !s.cut:
		s.at(r, "an answer to seq %d, which did not defer its reply, or so long ago that nobody can ask for it", r.seq)
	default:
		if !deferred {
			x.order = append(x.order, k)
		}
		x.answers[k] = answerAt{index: s.index, ordinal: r.ordinal, time: r.time}
	}
}

// tooEarly tells whether an answer has no effect because its event was in the log but not committed when it came. Only a
// token that was guessed comes so early.
func tooEarly(r *record) bool {
	var have uint64
	n, err := fmt.Sscanf(string(r.reason), "the grain has %d records", &have)
	return n == 1 && err == nil && have < r.seq
}

// tokenOf is the reply token that an answer was sent with.
func tokenOf(r *record) []byte {
	if r.kindOf != answer {
		return nil
	}
	return strconv.AppendUint([]byte(r.kind+"/"+string(r.key)+"#"), r.seq, 10)
}

func (s *shard) compareReply(k, rest []byte, c *cursor) {
	index, ordinal := c.number("index"), c.number32("ordinal")
	if !s.valueOf(k, c) {
		return
	}
	if len(rest) < 8+9 || rest[len(rest)-9] != 0 {
		s.wrongKey(k, "not the form of a reply key")
		return
	}
	if s.cut && index < s.first {
		return
	}
	bucket, asked := binary.BigEndian.Uint64(rest), string(rest[8:])
	want, known := s.replies.answers[asked]
	if !known || want.index != index || want.ordinal != ordinal {
		var found bool
		if want, found = s.answerAt(index, ordinal, asked); !found || known {
			s.wrongKey(k, "record %d of index %d is not the answer that counts", ordinal, index)
			return
		}
	} else {
		want.met = true
		s.replies.answers[asked] = want
	}
	if b := uint64(want.time) / bucketMicros; bucket != b {
		s.wrongKey(k, "is in bucket %d, the answer's time %d belongs to bucket %d", bucket, want.time, b)
	}
}

// answerAt looks an answer up in the log.
func (s *shard) answerAt(index uint64, ordinal uint32, asked string) (a answerAt, found bool) {
	if index > s.applied.index {
		return a, false
	}
	v, closer, err := s.v.store.db.Get(logKey(s.id, index))
	if err != nil {
		return a, false
	}
	defer closer.Close()
	f, err := readFrame(s.id, index, v)
	if err != nil {
		return a, false
	}
	_ = readEntry(f.data, func(header) bool { return true }, func(r *record) bool {
		if r.ordinal < ordinal {
			return true
		}
		found = r.ordinal == ordinal && r.kindOf == answer && len(r.reason) == 0 && askedKey(grainKey(r.tenant, r.kind, r.key), r.seq) == asked
		a = answerAt{index: index, ordinal: ordinal, time: r.time}
		return false
	})
	return a, found
}

// missingReplies finds the answers that have no key though their bucket cannot be gone.
func (s *shard) missingReplies(gone func(what, name string)) {
	for _, k := range sortedKeys(s.replies.answers) {
		a := s.replies.answers[k]
		if end := (a.time/bucketMicros + 1) * bucketMicros; !a.met && end > s.lastTime-s.longestWindow() {
			grain, seq := []byte(k[:len(k)-9]), binary.BigEndian.Uint64([]byte(k[len(k)-8:]))
			gone("reply", fmt.Sprintf("%s seq %d", describeGrain(grain), seq))
		}
	}
}
