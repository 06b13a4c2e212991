package verify

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
)

// shard is one reading of a shard's log, and what the log has given so far.
type shard struct {
	v      *verifier
	id, of uint64

	// A shard with more grains than fit into memory is read in several parts; grains are checked in the part their hash
	// falls into, everything else in part 0.
	part, parts uint64

	states map[string]*stored // by grain

	hard    hardState
	applied appliedState

	// Where the log is.
	first    uint64 // index of the first entry
	index    uint64 // of the last entry read
	term     uint64 // Raft's, of the last entry
	lastData uint64
	lastTime int64
	digest   uint64
	// cut says that the log does not begin at 1: what came before is not known.
	cut bool
	// broken says that the log could not be read to its end.
	broken bool

	grains    map[string]*grain
	ids       map[uint64]knownID
	idOrder   []uint64
	producers map[string]*producer
	inbox     map[uint64]*mark
	replies   replies
	versions  map[string]*versions // by kind
	pending   map[string]*pending  // reminders, by grain and id as in keys
	logicKeys int                  // met
	runner    grains.Runner

	dead map[string]*openLetter // by grain and seq, as in keys
	last lastRecord
	// deadUpTo is up to which index the log's dead letters have keys, where they have any (deadKept).
	deadUpTo uint64
	deadKept bool
}

// hardState is what a shard remembers of its votes.
type hardState struct {
	term, vote, commit uint64
	there              bool
}

// appliedState is up to where a shard's other keys are current.
type appliedState struct {
	index, term, floor, lineage, lastData uint64
	lastTime                              int64
	digest                                uint64
	there, unreadable                     bool
}

// mark is the place of a send at its source.
type mark struct {
	index           uint64
	ordinal, effect uint32
}

func (m mark) less(o mark) bool {
	switch {
	case m.index != o.index:
		return m.index < o.index
	case m.ordinal != o.ordinal:
		return m.ordinal < o.ordinal
	}
	return m.effect < o.effect
}

func (m mark) String() string {
	return fmt.Sprintf("effect %d of index %d record %d", m.effect, m.index, m.ordinal)
}

// knownID is an event id that is remembered.
type knownID struct {
	index   uint64
	ordinal uint32
	time    int64
	window  int64 // how long it is remembered, in microseconds
	body    uint64
	met     bool // its key was found
}

// producer is what the log says of a producer.
type producer struct {
	epoch, watermark uint64
	time             int64
	runs             []run // newest entries with its events, oldest first
	met              bool
}

// run says that the events of a producer up to sequence last are in the entry index.
type run struct{ last, index uint64 }

// maxRuns is how many runs a shard remembers.
const maxRuns = 64

// bucketMicros is the width of a bucket of ids.
const bucketMicros = 6 * 3600 * 1_000_000

// shard checks one shard, in as many readings as its grains need.
func (v *verifier) shard(id, of uint64) error {
	heads := uint64(0)
	count := func(_, _ []byte) bool { heads++; return true }
	last, err := v.store.scan(v.ctx, prefix(id, keyHead), prefix(id, keyHead+1), count)
	if err == nil { // reminders take memory as grains do
		last, err = v.store.scan(v.ctx, append(prefix(id, keyTimer), timersByGrain), prefix(id, keyTimer+1), count)
	}
	if v.ctx.Err() != nil {
		return v.ctx.Err()
	}
	if err != nil {
		v.find(Finding{Shard: id, Ordinal: None, Key: "behind " + describeKey(last), What: fmt.Sprintf("the heads cannot be read: %v", err)})
	}
	parts := 1 + heads/uint64(v.o.MaxGrains)
	for part := range parts {
		s := &shard{v: v, id: id, of: of, part: part, parts: parts, grains: map[string]*grain{}, ids: map[uint64]knownID{},
			producers: map[string]*producer{}, inbox: map[uint64]*mark{}, replies: newReplies(), versions: map[string]*versions{}, dead: map[string]*openLetter{},
			pending: map[string]*pending{}}
		s.applied.lineage = id
		if err := s.read(); err != nil {
			return err
		}
		v.report.Grains += uint64(len(s.grains))
	}
	return nil
}

// mine tells whether this reading checks what is not about single grains.
func (s *shard) mine() bool { return s.part == 0 }

// find reports something about an entry, or about the shard where index is 0.
func (s *shard) find(index uint64, ordinal int, key, format string, args ...any) {
	s.v.find(Finding{Shard: s.id, Index: index, Ordinal: ordinal, Key: key, What: fmt.Sprintf(format, args...)})
}

// at reports something about a record.
func (s *shard) at(r *record, format string, args ...any) {
	key := ""
	if r.kind != "" {
		key = grainName(r.tenant, r.kind, r.key)
	}
	s.find(s.index, int(r.ordinal), key, format, args...)
}

func (s *shard) read() error {
	s.readHard()
	s.readApplied()
	if err := s.loadStates(); err != nil {
		return err
	}
	if s.applied.index == 0 {
		if err := s.derived(); err != nil {
			return err
		}
	}
	if err := s.log(); err != nil {
		return err
	}
	if s.broken {
		s.v.sends.incomplete(s.id)
		return nil
	}
	if !s.mine() {
		return nil
	}
	s.endsAlone()
	if s.applied.index > s.index {
		s.find(0, None, "applied", "index %d was applied, but the log ends at %d", s.applied.index, s.index)
	}
	if !s.hard.there && s.index > 0 {
		s.find(0, None, "hard", "is missing, though the log has entries")
		return nil
	}
	if s.hard.commit > s.index {
		s.find(0, None, "hard", "index %d was committed, but the log ends at %d", s.hard.commit, s.index)
	}
	if s.hard.term < s.term {
		s.find(0, None, "hard", "the term is %d, but the log has an entry of term %d", s.hard.term, s.term)
	}
	return nil
}

// log reads the log to its end, or to where it can no longer be read.
func (s *shard) log() error {
	var broke error
	_, err := s.v.store.scan(s.v.ctx, logKey(s.id, 0), prefix(s.id, keyLog+1), func(k, value []byte) bool {
		if len(k) != 17 {
			if s.mine() {
				s.wrongKey(k, "not the form of a log key")
			}
			return true
		}
		index := binary.BigEndian.Uint64(k[9:])
		if broke = s.entry(index, value); broke != nil {
			s.broken = true
			if s.mine() {
				s.find(index, None, "", "%v; the rest of this shard was not checked", broke)
			}
			return false
		}
		if index == s.applied.index {
			broke = s.derived()
		}
		if s.mine() && s.v.report.Entries%1024 == 0 {
			s.v.progress(Progress{Stage: "shard", Done: s.id - 1, Of: s.of})
		}
		return broke == nil
	})
	if s.v.ctx.Err() != nil {
		return s.v.ctx.Err()
	}
	if err == nil {
		return nil
	}
	s.broken = true
	if s.mine() {
		s.unreadable(err)
	}
	return nil
}

// unreadable says which indexes cannot be read, as far as can be found out.
func (s *shard) unreadable(err error) {
	from, to := s.index+1, uint64(0)
	for i := from + 1; i < from+256; i++ {
		if s.v.store.has(logKey(s.id, i)) {
			to = i - 1
			break
		}
	}
	where := fmt.Sprintf("the log behind index %d", from-1)
	if to == from {
		where = "this entry"
	} else if to > from {
		where = fmt.Sprintf("the entries up to %d", to)
	}
	s.find(from, None, "", "%s cannot be read: %v; the rest of this shard was not checked", where, err)
}

// entry checks the next entry. An error is about bytes that cannot be read: nothing behind it can be judged.
func (s *shard) entry(index uint64, value []byte) error {
	if s.first == 0 {
		s.first, s.index = index, index-1
		s.cut = index > 1 && index <= s.applied.floor+1
		if index > 1 && !s.cut {
			return fmt.Errorf("the log begins here, but its floor is %d", s.applied.floor)
		}
		if s.cut {
			s.v.sends.incomplete(s.id)
		}
	}
	if index != s.index+1 {
		return fmt.Errorf("the log has no entry %d", s.index+1)
	}
	f, err := readFrame(s.id, index, value)
	if err != nil {
		return err
	}
	r := s.v.report
	if s.mine() {
		r.Entries++
		if f.term < s.term {
			s.find(index, None, "", "Raft's term falls from %d to %d", s.term, f.term)
		}
	}
	s.index, s.term = index, max(s.term, f.term)
	switch {
	case f.kind != raftNormal:
		if s.mine() {
			r.Changes++
		}
		return nil
	case len(f.data) == 0:
		if s.mine() {
			r.Empty++
		}
		return nil
	}
	isVoid := false
	err = readEntry(f.data, func(h header) bool {
		if s.lastData == 0 {
			s.firstData(h)
		}
		isVoid = h.term != f.term || h.index != index || h.previous != s.lastData || h.lineage != s.applied.lineage
		return !isVoid
	}, func(rec *record) bool {
		s.record(rec)
		return true
	})
	if err != nil {
		return err
	}
	if isVoid {
		if s.mine() {
			r.Void++
		}
		return nil
	}
	s.lastData = index
	chained := append(binary.LittleEndian.AppendUint64(nil, s.digest), f.data[len(f.data)-4:]...)
	s.digest = xxhash.Sum64(chained)
	return nil
}

// firstData takes what only the first data entry can tell.
func (s *shard) firstData(h header) {
	if s.cut {
		s.lastData = h.previous // not known; believed once
	}
	if h.index == s.index && h.lineage != s.applied.lineage {
		if s.mine() {
			s.find(s.index, None, "applied", "the lineage is %d, that of the first data entry is %d", s.applied.lineage, h.lineage)
		}
		s.applied.lineage = h.lineage
	}
}

// record checks one record of an entry that is not void.
func (s *shard) record(r *record) {
	if s.mine() {
		s.v.report.Records[recordNames[r.kindOf]]++
		if r.time < s.lastTime {
			s.at(r, "journal time runs back from %d to %d µs", s.lastTime, r.time)
		}
		if got := r.outcome(); got != r.digest {
			s.at(r, "digest of the outcome is %016x, its effects and reply give %016x", r.digest, got)
		}
	}
	s.lastTime = max(s.lastTime, r.time)

	switch r.kindOf {
	case session:
		s.session(r)
		return
	case expiry:
		s.expiry(r)
		return
	case logicChange:
		s.raise(r)
		return
	case answer:
		s.answer(r)
		return
	case tombstone, compaction:
		if s.mine() {
			s.at(r, "a %s record: nothing writes these yet, and what it means cannot be checked", recordNames[r.kindOf])
		}
		if r.kind == "" || len(r.key) == 0 {
			return
		}
	}
	if r.kind == "" || len(r.key) == 0 {
		if s.mine() {
			s.at(r, "a record without a grain")
		}
		return
	}
	name := grainKey(r.tenant, r.kind, r.key)
	if s.mine() {
		if own := owner(name, s.of); own != s.id {
			s.at(r, "this grain belongs to shard %d", own)
		}
		if r.numbered() {
			s.origin(r, name)
			s.defers(r, name)
			s.noteDead(r, name)
		} else if r.kindOf == settlement {
			s.settle(r, name)
		}
		s.v.sends.sent(s, r)
	}
	if r.numbered() && r.logic != 0 {
		s.ran(r)
	}
	if s.parts > 1 && xxhash.Sum64String(name)%s.parts != s.part {
		return
	}
	g := s.grains[name]
	if g == nil {
		g = s.newGrain(r)
		s.grains[name] = g
	}
	if r.kindOf == snapshot {
		g.snapshot(s, r)
	} else if r.numbered() {
		g.numbered(s, r)
		s.reminders(r, name)
		s.compareState(name, g, r)
	}
}

// origin checks where an event came from: a producer, another grain, or a client with or without an id.
func (s *shard) origin(r *record, grain string) {
	switch {
	case r.sequence != 0:
		p := s.producer(r.producer)
		if r.producer == "" {
			s.at(r, "a sequence without a producer")
		}
		if r.sequence <= p.watermark {
			s.at(r, "sequence %d of producer %s follows %d", r.sequence, printable([]byte(r.producer)), p.watermark)
		}
		if r.epoch < p.epoch {
			s.at(r, "epoch of producer %s falls from %d to %d", printable([]byte(r.producer)), p.epoch, r.epoch)
		}
		p.epoch, p.watermark, p.time = max(p.epoch, r.epoch), r.sequence, r.time
		if n := len(p.runs); n > 0 && p.runs[n-1].index == s.index {
			p.runs[n-1].last = r.sequence
			return
		}
		if len(p.runs) == maxRuns {
			p.runs = slices.Delete(p.runs, 0, 1)
		}
		p.runs = append(p.runs, run{r.sequence, s.index})
	case r.sender.kind != "" && r.cause.index != 0:
		s.arrived(r)
	case len(r.id) > 0:
		s.eventID(r, grain)
	}
}

// arrived takes what another grain sent.
func (s *shard) arrived(r *record) {
	m := mark{r.cause.index, r.cause.ordinal, r.sender.effect}
	if last := s.inbox[r.cause.lineage]; last != nil && !last.less(m) {
		s.at(r, "%v of lineage %d was taken in behind %v", m, r.cause.lineage, *last)
	}
	s.inbox[r.cause.lineage] = &m
	s.v.sends.taken(s, r, m)
}

func (s *shard) producer(id string) *producer {
	p := s.producers[id]
	if p == nil {
		p = &producer{}
		s.producers[id] = p
	}
	return p
}

func (s *shard) session(r *record) {
	if !s.mine() {
		return
	}
	if r.producer == "" {
		s.at(r, "a session without a producer")
		return
	}
	p := s.producer(r.producer)
	if r.epoch < p.epoch {
		s.at(r, "epoch of producer %s falls from %d to %d", printable([]byte(r.producer)), p.epoch, r.epoch)
	}
	p.epoch, p.time = max(p.epoch, r.epoch), r.time
}

func (s *shard) expiry(r *record) {
	if s.mine() && s.producers[r.producer] == nil && !s.cut {
		s.at(r, "producer %s expires, but nothing is known of it", printable([]byte(r.producer)))
	}
	delete(s.producers, r.producer)
}

// window is how long the ids of a kind's events are remembered, in microseconds.
func (s *shard) window(kind string) int64 {
	if d, ok := s.v.o.Catalog.Kind(kind); ok {
		return d.IDWindow.Microseconds()
	}
	return grains.DefaultIDWindow.Microseconds()
}

func idHash(grain, source string, id []byte) uint64 {
	return xxhash.Sum64String(grain + "\x00" + source + "\x00" + string(id))
}

func bodyHash(event string, payload []byte) uint64 {
	return xxhash.Sum64String(event + "\x00" + string(payload))
}

func (s *shard) eventID(r *record, grain string) {
	hash := idHash(grain, r.source, r.id)
	k := knownID{index: s.index, ordinal: r.ordinal, time: r.time, window: s.window(r.kind), body: bodyHash(r.event, r.payload)}
	if old, ok := s.ids[hash]; ok && r.time-old.time < k.window {
		s.at(r, "id %s of source %s is that of index %d record %d, and still remembered", printable(r.id), printable([]byte(r.source)), old.index, old.ordinal)
	}
	s.ids[hash] = k
	s.idOrder = append(s.idOrder, hash)
	// What is older than any window and bucket is forgotten. A key of it that is still there is looked up in the log.
	for len(s.idOrder) > 0 {
		oldest, ok := s.ids[s.idOrder[0]]
		if ok && oldest.time+oldest.window+bucketMicros >= s.lastTime {
			break
		}
		if ok {
			delete(s.ids, s.idOrder[0])
		}
		s.idOrder = s.idOrder[1:]
	}
}

func (s *shard) readHard() {
	c, there := s.value(keyHard)
	if there {
		s.hard = hardState{c.number("term"), c.number("vote"), c.number("commit"), true}
		s.whole(c, "hard")
	}
}

func (s *shard) readApplied() {
	c, there := s.value(keyApplied)
	if !there {
		return
	}
	a := &s.applied
	a.there = true
	a.index, a.term, a.floor, a.lineage, a.lastData = c.number("index"), c.number("term"), c.number("floor"), c.number("lineage"), c.number("last data entry")
	a.lastTime, a.digest = int64(c.number("last journal time")), c.fixed("digest")
	conf := &raftpb.ConfState{}
	if c.err == nil {
		if err := proto.Unmarshal(c.rest, conf); err != nil {
			c.fail("the configuration is not readable: %v", err)
		} else if len(conf.GetVoters()) == 0 {
			c.fail("the configuration has no voters")
		}
	}
	c.rest = nil
	a.unreadable = c.err != nil
	s.whole(c, "applied")
	if s.mine() && c.err == nil && a.floor > a.index {
		s.find(0, None, "applied", "the floor %d is above the applied index %d", a.floor, a.index)
	}
}

// value reads a key of the shard that has no rest.
func (s *shard) value(kind byte) (*cursor, bool) {
	k := prefix(s.id, kind)
	v, closer, err := s.v.store.db.Get(k)
	if err != nil {
		return nil, false // a key that cannot be read is reported where all keys are
	}
	defer closer.Close()
	return &cursor{rest: slices.Clone(v)}, true
}

// whole reports a value that is not of its form.
func (s *shard) whole(c *cursor, key string) {
	if c.err == nil && len(c.rest) != 0 {
		c.fail("%d bytes behind the last field", len(c.rest))
	}
	if c.err != nil && s.mine() {
		s.find(0, None, key, "%v", c.err)
	}
}
