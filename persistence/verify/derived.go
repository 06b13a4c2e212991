package verify

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// derived compares all keys of the shard beside the log with what the log gives up to here, which is where the applied
// state says that they are current.
func (s *shard) derived() error {
	if s.applied.unreadable {
		return nil // said already; there is nothing to compare with
	}
	if s.mine() {
		s.comparePlace()
	}
	heads, snaps := 0, 0
	last, err := s.v.store.scan(s.v.ctx, prefix(s.id, 0), prefix(s.id+1, 0), func(k, v []byte) bool {
		if len(k) < 9 {
			if s.mine() {
				s.wrongKey(k, "not the form of a key")
			}
			return true
		}
		kind, rest, c := k[8], k[9:], &cursor{rest: v}
		if kind == keyLog || !s.mine() && kind != keyHead && kind != keySnap && kind != keyTimer {
			return true
		}
		if s.mine() {
			s.v.report.Keys++
		}
		switch kind {
		case keyHard, keyApplied:
			if len(rest) != 0 {
				s.wrongKey(k, "not the form of its type")
			}
		case keyHead:
			heads += s.compareHead(k, rest, c)
		case keySnap:
			snaps += s.compareSnap(k, rest, c)
		case keyInbox:
			s.compareInbox(k, rest, c)
		case keyOutbox:
			at := c.number("index")
			s.valueOf(k, c)
			s.v.sends.outbox(s.id, at)
			if at > s.applied.index {
				s.wrongKey(k, "index %d lies behind the applied index %d", at, s.applied.index)
			}
		case keyProducer:
			s.compareProducer(k, rest, c)
		case keyID:
			s.compareID(k, rest, c)
		case keyTimer:
			s.compareTimer(k, rest, c)
		case keyState: // see compareState
		case keyReply:
			s.compareReply(k, rest, c)
		case keyLogic:
			s.compareLogic(k, rest, c)
		case keyDead:
			s.compareDead(k, rest, c)
		default:
			s.wrongKey(k, "no such key is written by this version")
		}
		return true
	})
	if s.v.ctx.Err() != nil {
		return s.v.ctx.Err()
	}
	if err != nil {
		// what could not be read must not be called missing as well
		if s.mine() {
			s.find(0, None, "behind "+describeKey(last), "the keys cannot be read: %v", err)
		}
		return nil
	}
	s.missing(heads, snaps)
	s.compareStates()
	return nil
}

func (s *shard) wrongKey(k []byte, format string, args ...any) {
	if len(k) < 9 {
		s.v.find(Finding{Ordinal: None, Key: describeKey(k), What: fmt.Sprintf(format, args...)})
		return
	}
	s.find(0, None, describeInShard(k), format, args...)
}

// valueOf reports a value that is not of its form, and tells whether it is.
func (s *shard) valueOf(k []byte, c *cursor) bool {
	if c.err == nil && len(c.rest) != 0 {
		c.fail("%d bytes behind the last field", len(c.rest))
	}
	if c.err != nil {
		s.wrongKey(k, "%v", c.err)
	}
	return c.err == nil
}

// comparePlace compares where the applied state says the log is.
func (s *shard) comparePlace() {
	a := &s.applied
	if !a.there {
		return
	}
	differs := func(what string, got, want any) {
		s.find(0, None, "applied", "%s is %v, the log up to index %d gives %v", what, got, a.index, want)
	}
	if a.index > 0 && a.term != s.term {
		differs("term", a.term, s.term)
	}
	if a.lastData != s.lastData {
		differs("last data entry", a.lastData, s.lastData)
	}
	if a.lastTime != s.lastTime {
		differs("last journal time", a.lastTime, s.lastTime)
	}
	if a.digest != s.digest && !s.cut {
		differs("digest", fmt.Sprintf("%016x", a.digest), fmt.Sprintf("%016x", s.digest))
	}
}

// inPart tells whether this reading checks a grain.
func (s *shard) inPart(grain string) bool {
	return s.parts == 1 || xxhash.Sum64String(grain)%s.parts == s.part
}

func (s *shard) compareHead(k, rest []byte, c *cursor) (met int) {
	if !s.inPart(string(rest)) {
		return 0
	}
	seq, index, time := c.number("seq"), c.number("index"), int64(c.number("time"))
	if !s.valueOf(k, c) {
		return 0
	}
	g := s.grains[string(rest)]
	if g == nil {
		if !s.cut {
			s.wrongKey(k, "the log up to the applied index %d has no record of this grain", s.applied.index)
		}
		return 0
	}
	g.met = true
	if seq != g.seq || index != g.entry || time != g.time && g.time != 0 {
		s.wrongKey(k, "seq %d, index %d, time %d; the log up to the applied index %d gives seq %d, index %d, time %d",
			seq, index, time, s.applied.index, g.seq, g.entry, g.time)
	}
	return 1
}

func (s *shard) compareSnap(k, rest []byte, c *cursor) (met int) {
	n := len(rest) - 9
	if n < 0 || rest[n] != 0 {
		if s.mine() {
			s.wrongKey(k, "not the form of a snap key")
		}
		return 0
	}
	name := string(rest[:n])
	if !s.inPart(name) {
		return 0
	}
	seq := binary.BigEndian.Uint64(rest[n+1:])
	index, ordinal, time := c.number("index"), c.number32("ordinal"), int64(c.number("time"))
	if !s.valueOf(k, c) {
		return 0
	}
	var at *snapshotAt
	if g := s.grains[name]; g != nil {
		i, found := slices.BinarySearchFunc(g.snapshots, seq, func(p snapshotAt, seq uint64) int {
			return cmp.Compare(p.seq, seq)
		})
		if found {
			at = &g.snapshots[i]
		}
	}
	switch {
	case at == nil:
		if !s.cut {
			s.wrongKey(k, "the log up to the applied index %d has no such snapshot", s.applied.index)
		}
		return 0
	case at.index != index || at.ordinal != ordinal || at.time != time:
		s.wrongKey(k, "index %d, record %d, time %d; the log gives index %d, record %d, time %d", index, ordinal, time, at.index, at.ordinal, at.time)
	}
	at.met = true
	return 1
}

func (s *shard) compareInbox(k, rest []byte, c *cursor) {
	m := mark{c.number("index"), c.number32("ordinal"), c.number32("effect")}
	if !s.valueOf(k, c) {
		return
	}
	if len(rest) != 8 {
		s.wrongKey(k, "not the form of an inbox key")
		return
	}
	want := s.inbox[binary.BigEndian.Uint64(rest)]
	switch {
	case want == nil:
		if !s.cut {
			s.wrongKey(k, "nothing was taken in from there up to the applied index %d", s.applied.index)
		}
	case *want != m:
		s.wrongKey(k, "says %v; the log up to the applied index %d gives %v", m, s.applied.index, *want)
	}
}

func (s *shard) compareProducer(k, rest []byte, c *cursor) {
	var got producer
	got.epoch, got.watermark, got.time = c.number("epoch"), c.number("watermark"), int64(c.number("time"))
	c.times("entries", func() { got.runs = append(got.runs, run{c.number("last sequence"), c.number("index")}) })
	if !s.valueOf(k, c) {
		return
	}
	want := s.producers[string(rest)]
	if want == nil {
		if !s.cut {
			s.wrongKey(k, "the log up to the applied index %d knows no such producer", s.applied.index)
		}
		return
	}
	want.met = true
	if got.epoch != want.epoch || got.watermark != want.watermark || got.time != want.time {
		s.wrongKey(k, "epoch %d, watermark %d, time %d; the log up to the applied index %d gives epoch %d, watermark %d, time %d",
			got.epoch, got.watermark, got.time, s.applied.index, want.epoch, want.watermark, want.time)
	}
	if !s.cut && !slices.Equal(got.runs, want.runs) {
		s.wrongKey(k, "the newest entries are %v; the log up to the applied index %d gives %v (last sequence, index)", got.runs, s.applied.index, want.runs)
	}
}

func (s *shard) compareID(k, rest []byte, c *cursor) {
	index, ordinal, time, body := c.number("index"), c.number32("ordinal"), int64(c.number("time")), c.fixed("hash of the body")
	if !s.valueOf(k, c) {
		return
	}
	if len(rest) != 16 {
		s.wrongKey(k, "not the form of an id key")
		return
	}
	bucket, hash := binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:])
	if s.cut && index < s.first {
		return
	}
	want, ok := s.ids[hash]
	if !ok || want.time != time {
		// forgotten here, or given again since: then it is true if the record says so
		var found bool
		if want, found = s.idAt(index, ordinal, hash); !found {
			s.wrongKey(k, "record %d of index %d is not the event with this id", ordinal, index)
			return
		}
	} else {
		want.met = true
		s.ids[hash] = want
	}
	if want.index != index || want.ordinal != ordinal || want.time != time || want.body != body {
		s.wrongKey(k, "index %d, record %d, time %d, body %016x; the log gives index %d, record %d, time %d, body %016x",
			index, ordinal, time, body, want.index, want.ordinal, want.time, want.body)
	}
	if bucket != uint64(time)/bucketMicros {
		s.wrongKey(k, "is in bucket %d, its time %d belongs to bucket %d", bucket, time, uint64(time)/bucketMicros)
	}
}

// idAt looks a remembered id up in the log.
func (s *shard) idAt(index uint64, ordinal uint32, hash uint64) (k knownID, found bool) {
	if index > s.applied.index {
		return k, false
	}
	v, closer, err := s.v.store.db.Get(logKey(s.id, index))
	if err != nil {
		return k, false
	}
	defer closer.Close()
	f, err := readFrame(s.id, index, v)
	if err != nil {
		return k, false
	}
	_ = readEntry(f.data, func(header) bool { return true }, func(r *record) bool {
		if r.ordinal < ordinal {
			return true
		}
		found = r.ordinal == ordinal && idHash(grainKey(r.tenant, r.kind, r.key), r.source, r.id) == hash
		k = knownID{index: index, ordinal: ordinal, time: r.time, body: bodyHash(r.event, r.payload)}
		return false
	})
	return k, found
}

// missing finds what the log gives and no key has. heads and snaps are how many of them have one.
func (s *shard) missing(heads, snaps int) {
	gone := func(what, name string) {
		s.find(0, None, what+" "+name, "is missing, though the log up to the applied index %d gives it", s.applied.index)
	}
	want := 0
	for _, g := range s.grains {
		want += len(g.snapshots)
	}
	if heads != len(s.grains) || snaps != want {
		for _, name := range sortedKeys(s.grains) {
			g := s.grains[name]
			if !g.met {
				gone("head", g.name)
			}
			for _, at := range g.snapshots {
				if !at.met {
					gone("snap", fmt.Sprintf("%s seq %d", g.name, at.seq))
				}
			}
		}
	}
	s.missingTimers()
	if !s.mine() {
		return
	}
	for _, lineage := range sortedKeys(s.inbox) {
		k := binary.BigEndian.AppendUint64(prefix(s.id, keyInbox), lineage)
		if !s.v.store.has(k) {
			gone("inbox", fmt.Sprint(lineage))
		}
	}
	for _, id := range sortedKeys(s.producers) {
		if !s.producers[id].met {
			gone("producer", printable([]byte(id)))
		}
	}
	if s.logicKeys > 0 { // a folder from before there were such keys has none; every checkpoint since writes all
		for _, kind := range sortedKeys(s.versions) {
			if !s.versions[kind].met {
				gone("logic", printable([]byte(kind)))
			}
		}
	}
	s.missingDead()
	for _, hash := range sortedKeys(s.ids) {
		id := s.ids[hash]
		// a bucket may go when all that is in it is older than the window
		end := (id.time/bucketMicros + 1) * bucketMicros
		if !id.met && end > s.lastTime-id.window {
			gone("id", fmt.Sprintf("%016x of index %d record %d", hash, id.index, id.ordinal))
		}
	}
	s.missingReplies(gone)
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
