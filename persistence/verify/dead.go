package verify

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
)

// openLetter is a dead letter that is open as far as the log was read.
type openLetter struct {
	index   uint64
	ordinal uint32
	time    int64
	body    uint64 // hash of its event
	met     bool   // its key was found
}

// lastRecord is the last numbered record before another one.
type lastRecord struct {
	index   uint64
	ordinal uint32
	grain   string
	seq     uint64
	of      string // seq of the dead letter that it is a second run of
	body    uint64
	again   bool // it has a sender and no cause
}

func deadName(grain string, seq uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(grain+"\x00"), seq))
}

// noteDead takes a numbered record in: as a dead letter, and as what a settlement may follow.
func (s *shard) noteDead(r *record, grain string) {
	s.endsAlone()
	of := r.retryOf()
	s.last = lastRecord{index: s.index, ordinal: r.ordinal, grain: grain, seq: r.seq, of: of, again: r.sender.kind != "" && r.cause.index == 0}
	if r.kindOf == deadLetter || of != "" {
		s.last.body = bodyHash(r.event, r.payload)
	}
	if r.kindOf == deadLetter {
		s.dead[deadName(grain, r.seq)] = &openLetter{index: s.index, ordinal: r.ordinal, time: r.time, body: s.last.body}
	}
}

// retryOf is the seq of the dead letter that a record is a second run of, if it says so.
func (r *record) retryOf() string {
	for _, h := range r.headers {
		if string(h[0]) == "granary-retry-of" {
			return string(h[1])
		}
	}
	return ""
}

// endsAlone reports that no settlement came behind the second run of an event that was sent.
func (s *shard) endsAlone() {
	if s.last.again {
		s.find(s.last.index, int(s.last.ordinal), describeGrain([]byte(s.last.grain)), "seq %d has a sender and no cause, but no settlement of a dead letter follows", s.last.seq)
	}
	s.last.again = false
}

// settle takes a settlement in: it names a dead letter that is open, and if that was run again, it is behind that run, in
// the same entry.
func (s *shard) settle(r *record, grain string) {
	name := deadName(grain, r.seq)
	d := s.dead[name]
	delete(s.dead, name)
	if d == nil {
		if !s.cut {
			s.at(r, "seq %d is settled, but is no open dead letter", r.seq)
		}
	}
	switch {
	case string(r.reason) == "dropped":
		return
	case string(r.reason) != "retried":
		s.at(r, "seq %d is settled as %s; this version knows retried and dropped", r.seq, printable(r.reason))
	case s.last.index != s.index || s.last.grain != grain:
		s.at(r, "seq %d is settled as retried, but its run is not in front of that in the same entry", r.seq)
	case s.last.of != strconv.FormatUint(r.seq, 10):
		s.at(r, "seq %d is settled as retried, but the run in front of that, seq %d, does not say that it is of it", r.seq, s.last.seq)
	case d != nil && s.last.body != d.body:
		s.at(r, "seq %d is settled as retried, but the run in front of that, seq %d, is of another event", r.seq, s.last.seq)
	}
	s.last.again = false
}

// compareDead compares a dead key with what the log gives.
func (s *shard) compareDead(k, rest []byte, c *cursor) {
	if len(rest) == 0 {
		s.deadUpTo, s.deadKept = c.number("index"), true
		if s.valueOf(k, c) && s.deadUpTo > s.applied.index {
			s.wrongKey(k, "index %d lies behind the applied index %d", s.deadUpTo, s.applied.index)
		}
		return
	}
	index, ordinal, time := c.number("index"), c.number32("ordinal"), int64(c.number("time"))
	if !s.valueOf(k, c) {
		return
	}
	if n := len(rest) - 9; n < 0 || rest[n] != 0 || bytes.Count(rest[:n], []byte{0}) != 2 {
		s.wrongKey(k, "not the form of a dead key")
		return
	}
	if !s.deadKept {
		s.wrongKey(k, "is there without the key that says up to which index there are such keys")
		return
	}
	d := s.dead[string(rest)]
	if d == nil {
		if !s.cut || index >= s.first {
			s.wrongKey(k, "the log up to the applied index %d has no such dead letter that is open", s.applied.index)
		}
		return
	}
	d.met = true
	if d.index != index || d.ordinal != ordinal || d.time != time {
		s.wrongKey(k, "index %d, record %d, time %d; the log gives index %d, record %d, time %d", index, ordinal, time, d.index, d.ordinal, d.time)
	}
}

// missingDead finds the open dead letters without a key. Where a version that writes none was the last to apply entries,
// there may be some: they are learned from the log when the shard is opened.
func (s *shard) missingDead() {
	if !s.deadKept {
		return
	}
	for _, name := range sortedKeys(s.dead) {
		if d := s.dead[name]; !d.met && d.index <= s.deadUpTo {
			s.find(d.index, int(d.ordinal), "dead "+describeDead([]byte(name)), "is missing, though the log up to the applied index %d gives it", s.applied.index)
		}
	}
}

// describeDead is the grain and seq of a dead key in words.
func describeDead(rest []byte) string {
	if len(rest) < 10 {
		return printable(rest)
	}
	return fmt.Sprintf("%s seq %d", describeGrain(rest[:len(rest)-9]), binary.BigEndian.Uint64(rest[len(rest)-8:]))
}
