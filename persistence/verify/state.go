package verify

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// stored is a state key: the state of a grain after a record, outside the log.
type stored struct {
	seq, logic uint64
	snap       snapshotAt
	sum        uint64 // XXH64 of the state
	met        bool   // the log has the record
}

// loadStates reads the state keys, whose states are compared as their records come by.
func (s *shard) loadStates() error {
	s.states = map[string]*stored{}
	last, err := s.v.store.scan(s.v.ctx, prefix(s.id, keyState), prefix(s.id, keyState+1), func(k, v []byte) bool {
		name := string(k[9:])
		if !s.inPart(name) {
			return true
		}
		c := &cursor{rest: v}
		st := &stored{seq: c.number("seq"), logic: c.number("logic version")}
		st.snap = snapshotAt{seq: c.number("seq of the snapshot"), index: c.number("index of the snapshot"), ordinal: c.number32("ordinal of the snapshot"), time: int64(c.number("time of the snapshot"))}
		if c.err == nil && len(c.rest) < 8 {
			c.fail("no digest at the end")
		}
		if c.err != nil {
			s.wrongKey(k, "%v", c.err)
			return true
		}
		n := len(c.rest) - 8
		st.sum = xxhash.Sum64(c.rest[:n])
		var whole xxhash.Digest
		whole.Reset()
		_, _ = whole.Write(c.rest[:n])
		_, _ = whole.Write(binary.LittleEndian.AppendUint64(nil, st.seq))
		if got, want := whole.Sum64(), binary.LittleEndian.Uint64(c.rest[n:]); got != want {
			s.wrongKey(k, "the digest of the state is %016x, stored is %016x", got, want)
			return true
		}
		s.states[name] = st
		return true
	})
	if s.v.ctx.Err() != nil {
		return s.v.ctx.Err()
	}
	if err != nil && s.mine() {
		s.find(0, None, "behind "+describeKey(last), "the states cannot be read: %v", err)
	}
	return nil
}

// compareState compares a stored state with the fold, when the log has come to its record.
func (s *shard) compareState(name string, g *grain, r *record) {
	st := s.states[name]
	if st == nil || st.seq != g.seq {
		return
	}
	st.met = true
	if g.state == nil {
		return // what it should be is not known
	}
	state, err := g.kind.AppendState(nil, g.state)
	if err != nil {
		s.at(r, "the fold cannot be encoded: %v", err)
	} else if xxhash.Sum64(state) != st.sum {
		s.at(r, "the stored state of %s at seq %d is not the fold of its records", g.name, st.seq)
	}
}

// compareStates finds stored states whose record or snapshot the log up to the applied index does not have.
func (s *shard) compareStates() {
	for _, name := range sortedKeys(s.states) {
		st, g := s.states[name], s.grains[name]
		wrong := func(format string, args ...any) {
			s.find(0, None, "state "+describeGrain([]byte(name)), format, args...)
		}
		switch {
		case s.cut:
			// the record may be one that was removed
		case g == nil || !st.met:
			wrong("its record, seq %d, is not in the log up to the applied index %d", st.seq, s.applied.index)
		case !st.names(g.snapshots):
			wrong("it names the snapshot at seq %d, index %d, record %d, which is not there, or not below its own seq %d", st.snap.seq, st.snap.index, st.snap.ordinal, st.seq)
		}
	}
}

// names tells whether the snapshot that the state names is there, at or below its seq. It need not be the newest: a grain
// that was loaded from a stored state does not know those behind it.
func (st *stored) names(snapshots []snapshotAt) bool {
	return st.snap.seq == 0 || st.snap.seq <= st.seq && slices.ContainsFunc(snapshots, func(at snapshotAt) bool {
		return at.seq == st.snap.seq && at.index == st.snap.index && at.ordinal == st.snap.ordinal && at.time == st.snap.time
	})
}
