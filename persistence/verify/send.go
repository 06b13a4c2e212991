package verify

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// sends compares what each shard sent to each other with what that one took in. For a pair of shards it keeps, of either
// side, the number and the sum of the fingerprints, and the newest sends one by one: with those, what is beyond the
// target's last can be taken off again. Only where the two sums differ are the two logs read once more, send by send.
type sends struct {
	n       uint64
	pairs   map[pair]*traffic
	cursors map[uint64]uint64 // outbox cursor of each source shard
	lost    map[uint64]bool   // shards whose log could not be read to its end, or does not begin at 1
}

// pair is a source and a target shard.
type pair struct{ from, to uint64 }

// traffic is what went from one shard to another.
type traffic struct {
	sent, taken tally
	last        mark // of what was taken in
	newest      []dispatched
	dropped     mark // the last one that is no longer in newest
}

type tally struct{ count, sum uint64 }

func (t *tally) add(print uint64)  { t.count++; t.sum += print }
func (t *tally) take(print uint64) { t.count--; t.sum -= print }

// dispatched is one send.
type dispatched struct {
	mark
	print uint64
}

// keepNewest is how many sends of a pair are kept one by one.
const keepNewest = 128

// maxCloseReadings is how many pairs that differ are read send by send. It bounds the time; a folder in which more
// differ is lost anyway.
const maxCloseReadings = 64

func (x *sends) begin(n uint64) {
	*x = sends{n: n, pairs: map[pair]*traffic{}, cursors: map[uint64]uint64{}, lost: map[uint64]bool{}}
}

// incomplete says that not all that a shard sent and took in was read: then it cannot be compared.
func (x *sends) incomplete(shard uint64) { x.lost[shard] = true }

// outbox takes the outbox cursor of a shard.
func (x *sends) outbox(shard, index uint64) { x.cursors[shard] = index }

func (x *sends) of(p pair) *traffic {
	t := x.pairs[p]
	if t == nil {
		t = &traffic{}
		x.pairs[p] = t
	}
	return t
}

// eachSend calls fn for each send of a record of a source, with the shard that it goes to.
func eachSend(s *shard, r *record, shards uint64, fn func(to uint64, d dispatched)) {
	for i := range r.effects {
		e := &r.effects[i]
		if e.kindOf != send {
			continue
		}
		m := mark{s.index, r.ordinal, uint32(i)}
		print := fingerprint(s.applied.lineage, m, r.hops+1, eventTimeOf(r), [...]string{r.tenant, r.kind, e.kind, e.event},
			[...][]byte{r.key, e.key, e.payload, r.trace, e.token})
		fn(owner(grainKey(r.tenant, e.kind, e.key), shards), dispatched{m, print})
	}
}

// arrival is the fingerprint of an input that was sent: that of its send, if all is well.
func arrival(r *record, m mark) uint64 {
	return fingerprint(r.cause.lineage, m, r.hops, r.eventTime, [...]string{r.tenant, r.sender.kind, r.kind, r.event},
		[...][]byte{r.sender.key, r.key, r.payload, r.trace, tokenOf(r)})
}

// eventTimeOf is the event time that a turn hands on with its sends, in nanoseconds.
func eventTimeOf(r *record) int64 {
	if r.eventTime == 0 {
		return r.time * 1000
	}
	return r.eventTime
}

// fingerprint is a hash over all that source and target must agree on.
func fingerprint(lineage uint64, m mark, hops uint64, eventTime int64, names [4]string, values [5][]byte) uint64 {
	var h xxhash.Digest
	h.Reset()
	var n [5 * 8]byte
	b := binary.LittleEndian.AppendUint64(n[:0], lineage)
	b = binary.LittleEndian.AppendUint64(b, m.index)
	b = binary.LittleEndian.AppendUint32(b, m.ordinal)
	b = binary.LittleEndian.AppendUint32(b, m.effect)
	b = binary.LittleEndian.AppendUint64(b, hops)
	b = binary.LittleEndian.AppendUint64(b, uint64(eventTime))
	_, _ = h.Write(b)
	text := func(length int) {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(n[:0], uint64(length)))
	}
	for _, s := range names {
		text(len(s))
		_, _ = h.WriteString(s)
	}
	for _, s := range values {
		text(len(s))
		_, _ = h.Write(s)
	}
	return h.Sum64()
}

// sent takes the sends of a record of the source.
func (x *sends) sent(s *shard, r *record) {
	eachSend(s, r, x.n, func(to uint64, d dispatched) {
		t := x.of(pair{s.id, to})
		t.sent.add(d.print)
		if len(t.newest) == 2*keepNewest {
			t.dropped = t.newest[keepNewest-1].mark
			t.newest = append(t.newest[:0], t.newest[keepNewest:]...)
		}
		t.newest = append(t.newest, d)
	})
}

// taken takes an input of the target that was sent.
func (x *sends) taken(s *shard, r *record, m mark) {
	from := owner(grainKey(r.tenant, r.sender.kind, r.sender.key), x.n)
	if r.sender.shard != from {
		s.at(r, "was sent by %s in shard %d, which belongs to shard %d", grainName(r.tenant, r.sender.kind, r.sender.key), r.sender.shard, from)
	}
	t := x.of(pair{from, s.id})
	t.taken.add(arrival(r, m))
	if t.last.less(m) {
		t.last = m
	}
}

// reconcile compares both sides of every pair.
func (v *verifier) reconcile(n uint64) error {
	x := &v.sends
	pairs := slices.SortedFunc(maps.Keys(x.pairs), func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	})
	v.progress(Progress{Stage: "sends", Of: uint64(len(pairs))})
	readings := 0
	for _, p := range pairs {
		t := x.pairs[p]
		if x.lost[p.from] || x.lost[p.to] {
			continue
		}
		pending, first, known := t.outstanding()
		if known && t.sent == t.taken {
			v.report.SendsMatched += t.taken.count
			v.pending(p, pending, first)
			continue
		}
		if readings++; known && readings > maxCloseReadings {
			v.find(Finding{Shard: p.from, Ordinal: None, What: fmt.Sprintf("its sends to shard %d are not what was taken in there (%d sent, %d taken in)", p.to, t.sent.count, t.taken.count)})
			continue
		}
		if err := v.reconcileClosely(p, t.last, n); err != nil {
			return err
		}
	}
	return v.ctx.Err()
}

// outstanding takes off what is beyond the last send taken in, and returns how many that are and the first of them. It
// is not known when there are more of them than were kept.
func (t *traffic) outstanding() (n uint64, first mark, known bool) {
	if t.last.less(t.dropped) {
		return 0, first, false
	}
	for _, d := range t.newest {
		if t.last.less(d.mark) {
			if n++; n == 1 {
				first = d.mark
			}
			t.sent.take(d.print)
		}
	}
	return n, first, true
}

// pending counts sends that are outstanding, of which none may lie below the source's outbox cursor.
func (v *verifier) pending(p pair, n uint64, first mark) {
	v.report.SendsPending += n
	if cursor := v.sends.cursors[p.from]; n > 0 && first.index <= cursor {
		v.find(Finding{Shard: p.from, Index: first.index, Ordinal: int(first.ordinal), Key: fmt.Sprintf("effect %d", first.effect),
			What: fmt.Sprintf("was not taken in by shard %d, though the outbox says that all up to index %d were", p.to, cursor)})
	}
}

// reconcileClosely reads the logs of a pair again and compares send by send.
func (v *verifier) reconcileClosely(p pair, last mark, n uint64) error {
	type arrived struct {
		index   uint64
		ordinal uint32
		grain   string
		print   uint64
		r       record // without its slices
	}
	in := map[mark]arrived{}
	if err := v.records(p.to, func(s *shard, r *record) {
		if r.sender.kind == "" || r.cause.index == 0 || r.sequence != 0 || !r.numbered() && r.kindOf != answer || owner(grainKey(r.tenant, r.sender.kind, r.sender.key), n) != p.from {
			return
		}
		m := mark{r.cause.index, r.cause.ordinal, r.sender.effect}
		in[m] = arrived{s.index, r.ordinal, grainName(r.tenant, r.kind, r.key), arrival(r, m), record{event: r.event, eventTime: r.eventTime, hops: r.hops, cause: r.cause}}
	}); err != nil {
		return err
	}
	var pending uint64
	var first mark
	if err := v.records(p.from, func(s *shard, r *record) {
		eachSend(s, r, n, func(to uint64, d dispatched) {
			if to != p.to {
				return
			}
			e := &r.effects[d.effect]
			wrong := func(format string, args ...any) {
				v.find(Finding{Shard: p.from, Index: s.index, Ordinal: int(r.ordinal), Key: grainName(r.tenant, r.kind, r.key), What: fmt.Sprintf(format, args...)})
			}
			a, ok := in[d.mark]
			delete(in, d.mark)
			switch {
			case !ok && last.less(d.mark):
				if pending++; pending == 1 {
					first = d.mark
				}
			case !ok:
				wrong("effect %d, to %s, was never taken in by shard %d, though later ones were", d.effect, grainName(r.tenant, e.kind, e.key), p.to)
			case a.print != d.print:
				what := "with another payload, sender or trace"
				switch to := grainName(r.tenant, e.kind, e.key); {
				case a.grain != to:
					what = "to " + a.grain
				case a.r.event != e.event:
					what = "a " + printable([]byte(a.r.event))
				case a.r.cause.lineage != s.applied.lineage:
					what = fmt.Sprintf("from lineage %d", a.r.cause.lineage)
				case a.r.hops != r.hops+1:
					what = fmt.Sprintf("after %d hops", a.r.hops)
				case a.r.eventTime != eventTimeOf(r):
					what = fmt.Sprintf("of event time %d", a.r.eventTime)
				}
				wrong("effect %d, a %s to %s, is not what shard %d took in at index %d record %d: there it is %s",
					d.effect, printable([]byte(e.event)), grainName(r.tenant, e.kind, e.key), p.to, a.index, a.ordinal, what)
			default:
				v.report.SendsMatched++
			}
		})
	}); err != nil {
		return err
	}
	marks := slices.SortedFunc(maps.Keys(in), func(a, b mark) int {
		return cmp.Or(cmp.Compare(in[a].index, in[b].index), cmp.Compare(in[a].ordinal, in[b].ordinal))
	})
	for _, m := range marks {
		a := in[m]
		v.find(Finding{Shard: p.to, Index: a.index, Ordinal: int(a.ordinal), Key: a.grain,
			What: fmt.Sprintf("was taken in as %v of shard %d, which sent no such event", m, p.from)})
	}
	v.pending(p, pending, first)
	return nil
}

// records reads a shard's log again, without checking it, and calls fn for each record of an entry that is not void.
func (v *verifier) records(id uint64, fn func(*shard, *record)) error {
	s := &shard{v: v, id: id}
	s.applied.lineage = id
	s.part = 1 // findings were made the first time
	s.readApplied()
	_, err := v.store.scan(v.ctx, logKey(id, 0), prefix(id, keyLog+1), func(k, value []byte) bool {
		index := binary.BigEndian.Uint64(k[9:])
		s.index = index
		f, err := readFrame(id, index, value)
		if err != nil || f.kind != raftNormal || len(f.data) == 0 {
			return err == nil
		}
		return readEntry(f.data, func(h header) bool {
			if s.lastData == 0 {
				s.firstData(h)
			}
			if h.term != f.term || h.index != index || h.previous != s.lastData || h.lineage != s.applied.lineage {
				return false
			}
			s.lastData = index
			return true
		}, func(r *record) bool {
			fn(s, r)
			return true
		}) == nil
	})
	if v.ctx.Err() != nil {
		return v.ctx.Err()
	}
	if err != nil {
		v.find(Finding{Shard: id, Ordinal: None, What: fmt.Sprintf("the log cannot be read a second time: %v", err)})
	}
	return nil
}
