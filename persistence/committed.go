package persistence

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/granary-dev/granary/persistence/entry"
)

// Place is a moment of a shard's journal: behind entry Index. Data is the last data entry up to there that has effect, 0
// where there is none; the next one names it.
type Place struct{ Lineage, Index, Data uint64 }

// fits tells whether the entry behind a place was made for it. One that was not is fenced off: it has no effect and is
// shown to nobody.
func (p Place) fits(h *entry.Header, index, term uint64) bool {
	return h.Term == term && h.Index == index && h.Previous == p.Data && h.Lineage == p.Lineage
}

// EntryError tells which entry of the log could not be read.
type EntryError struct {
	Shard, Index uint64
	Err          error
}

// Error names the shard and the index.
func (e *EntryError) Error() string {
	return fmt.Sprintf("shard %d index %d: %v", e.Shard, e.Index, e.Err)
}

// Unwrap returns the cause.
func (e *EntryError) Unwrap() error { return e.Err }

// Committed reads the data entries behind a place up to index upto, which must be committed, and leaves out those that
// are fenced off. It stops early when it has read maxBytes, but not before the first entry, and returns the place behind
// the last one it looked at. An entry that is not there or cannot be read is an [EntryError]; those before it are returned
// with it. It may be called from any goroutine: entries do not change once they are committed.
func (s *Store) Committed(shard uint64, after Place, upto uint64, maxBytes int) (entries []*entry.Reader, behind Place, err error) {
	if after.Index >= upto {
		return nil, after, nil
	}
	fail := func(err error) ([]*entry.Reader, Place, error) {
		return entries, after, &EntryError{Shard: shard, Index: after.Index + 1, Err: err}
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: logKey(nil, shard, after.Index+1), UpperBound: logKey(nil, shard, upto+1)})
	if err != nil {
		return fail(damage(err))
	}
	defer it.Close()
	for ok := it.First(); ok && maxBytes > 0; ok = it.Next() {
		index := after.Index + 1
		if got := binary.BigEndian.Uint64(it.Key()[9:]); got != index {
			return fail(fmt.Errorf("%w: not in the log", entry.ErrCorrupt))
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return fail(damage(err))
		}
		maxBytes -= len(v)
		r, err := committed(after, shard, index, v)
		if err != nil {
			return fail(err)
		}
		if r != nil {
			entries = append(entries, r)
			after.Data = index
		}
		after.Index = index
	}
	if err := it.Error(); err != nil {
		return fail(damage(err))
	}
	if after.Index < upto && maxBytes > 0 {
		return fail(fmt.Errorf("%w: not in the log", entry.ErrCorrupt))
	}
	return entries, after, nil
}

// committed opens the entry behind a place; nil where it has no effect.
func committed(after Place, shard, index uint64, value []byte) (*entry.Reader, error) {
	term, typ, data, err := entry.Frame(shard, index, value)
	if err != nil {
		return nil, err
	}
	if t := raftpb.EntryType(typ); t != raftpb.EntryNormal {
		return nil, fmt.Errorf("entry type %v of Raft: %w", t, entry.ErrTooNew)
	}
	if len(data) == 0 {
		return nil, nil
	}
	r, err := entry.Open(append([]byte(nil), data...))
	if err != nil {
		return nil, err
	}
	if !after.fits(&r.Header, index, term) {
		return nil, nil
	}
	return r, nil
}
