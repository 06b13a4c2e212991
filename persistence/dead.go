package persistence

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/granary-dev/granary/persistence/entry"
)

// DeadLetter is where an open dead letter is: one that was neither retried nor dropped.
type DeadLetter struct {
	// Kind and Key of the grain, Seq of the record.
	Kind, Key string
	Seq       uint64
	// Index and Ordinal of the record, Time its journal time in Unix microseconds.
	Index   uint64
	Ordinal uint32
	Time    int64
}

// deadLetter is what changed about a dead letter since the last checkpoint.
type deadLetter struct {
	index   uint64
	ordinal uint32
	time    int64
	settled bool
}

// deadName is what a dead key has behind its type.
func deadName(dst []byte, tenant, kind string, key []byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(AppendGrain(dst, tenant, kind, key), 0), seq)
}

// OpenDeadLetters is the number of dead letters of the shard that nobody retried or dropped.
func (x *Index) OpenDeadLetters() int { return x.deadOpen }

// died notes a dead letter.
func (x *Index) died(index uint64, r *entry.Record) {
	name := deadName(nil, r.Tenant, r.Kind, r.Key, r.Seq)
	x.dead[string(name)] = deadLetter{index: index, ordinal: r.Ordinal, time: r.Time}
	x.deadOpen++
}

// settled notes that a dead letter is open no more.
func (x *Index) settled(r *entry.Record) error {
	name := deadName(nil, r.Tenant, r.Kind, r.Key, r.Seq)
	_, open, err := x.openLetter(name)
	if err != nil || !open {
		return err // one whose entry could not be read when the log was; nothing is lost with it
	}
	x.dead[string(name)] = deadLetter{settled: true}
	x.deadOpen--
	return nil
}

func (x *Index) openLetter(name []byte) (d deadLetter, open bool, err error) {
	if d, ok := x.dead[string(name)]; ok {
		return d, !d.settled, nil
	}
	v, err := x.store.get(append(key(x.shard, keyDead), name...))
	if err != nil || v == nil {
		return d, false, err
	}
	d, err = decodeDead(v)
	return d, err == nil, err
}

func decodeDead(v []byte) (d deadLetter, err error) {
	f := values{buf: v}
	d.index, d.ordinal, d.time = f.uv(), uint32(f.uv()), int64(f.uv())
	if f.bad || len(f.buf) != 0 {
		return d, fmt.Errorf("dead: %w", entry.ErrCorrupt)
	}
	return d, nil
}

// DeadLetter finds an open dead letter of a grain.
func (x *Index) DeadLetter(kind, key string, seq uint64) (DeadLetter, bool, error) {
	d, open, err := x.openLetter(deadName(nil, "", kind, []byte(key), seq))
	return DeadLetter{kind, key, seq, d.index, d.ordinal, d.time}, open, err
}

// DeadLetters returns up to limit open dead letters in the order of kinds, keys and seqs: those of a kind, or of all kinds
// if it is empty, whose keys begin with prefix, behind one of them (only Kind, Key and Seq of it count; none: from the
// first). It reads keys only.
func (x *Index) DeadLetters(kind, prefix string, after DeadLetter, limit int) ([]DeadLetter, error) {
	lower := []byte{0} // no tenant
	if kind != "" {
		lower = AppendGrain(nil, "", kind, prefix)
	}
	upper := successor(lower)
	if from := deadName(nil, "", after.Kind, []byte(after.Key), after.Seq); after.Kind != "" && bytes.Compare(from, lower) >= 0 {
		lower = append(from, 0)
	}
	base := key(x.shard, keyDead)
	it, err := x.store.db.NewIter(&pebble.IterOptions{LowerBound: append(slices.Clip(base), lower...), UpperBound: append(slices.Clip(base), upper...)})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	type found struct {
		name string
		deadLetter
	}
	var all []found
	for it.First(); it.Valid() && len(all) < limit; it.Next() {
		name := it.Key()[len(base):]
		if _, newer := x.dead[string(name)]; newer {
			continue
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, damage(err)
		}
		d, err := decodeDead(v)
		if err != nil {
			return nil, err
		}
		all = append(all, found{string(name), d})
	}
	if err := damage(it.Error()); err != nil {
		return nil, err
	}
	for name, d := range x.dead {
		if !d.settled && name >= string(lower) && name < string(upper) {
			all = append(all, found{name, d})
		}
	}
	slices.SortFunc(all, func(a, b found) int { return strings.Compare(a.name, b.name) })
	var out []DeadLetter
	for _, f := range all[:min(limit, len(all))] {
		d := DeadLetter{Index: f.index, Ordinal: f.ordinal, Time: f.time}
		grain, seq, ok := cutDeadName(f.name)
		_, rest, ok2 := strings.Cut(grain, "\x00")
		if d.Kind, d.Key, _ = strings.Cut(rest, "\x00"); !ok || !ok2 {
			return nil, fmt.Errorf("dead: %w", entry.ErrCorrupt)
		}
		d.Seq = seq
		out = append(out, d)
	}
	return out, nil
}

func cutDeadName(name string) (grain string, seq uint64, ok bool) {
	n := len(name) - 9
	if n < 0 || name[n] != 0 {
		return "", 0, false
	}
	return name[:n], binary.BigEndian.Uint64([]byte(name[n+1:])), true
}

// writeDead adds what changed about dead letters to a checkpoint.
func (x *Index) writeDead(b *pebble.Batch) {
	var k, v []byte
	for name, d := range x.dead {
		k = append(appendPrefix(k[:0], x.shard, keyDead), name...)
		var err error
		if d.settled {
			err = b.Delete(k, nil)
		} else {
			v = appendUvs(v[:0], d.index, uint64(d.ordinal), uint64(d.time))
			err = b.Set(k, v, nil)
		}
		if err != nil {
			panic(err) // a batch in memory cannot fail
		}
	}
	if err := b.Set(key(x.shard, keyDead), appendUvs(v[:0], x.at.index), nil); err != nil {
		panic(err)
	}
}

// openDead counts the dead keys. Where they are not those of the applied index, a version that knows none was here: then
// the log says which dead letters are open.
func (x *Index) openDead() error {
	x.dead = map[string]deadLetter{}
	v, err := x.store.get(key(x.shard, keyDead))
	if err != nil {
		return err
	}
	upTo := uint64(0)
	if v != nil {
		f := values{buf: v}
		if upTo = f.uv(); f.bad {
			return entry.ErrCorrupt
		}
	}
	if upTo != x.at.index {
		return x.reread(func(index uint64, rec *entry.Record) error {
			switch rec.Type {
			case entry.DeadLetter:
				x.died(index, rec)
			case entry.Settlement:
				return x.settled(rec)
			}
			return nil
		})
	}
	return x.scan(append(key(x.shard, keyDead), 0), func(_, _ []byte) error {
		x.deadOpen++
		return nil
	})
}
