package persistence

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/persistence/entry"
)

// Log is the Raft log of one shard: it implements [raft.Storage] over the log, hard and applied keys. It belongs to the
// goroutine that runs the shard's Raft group; only [Log.Read] may be called from anywhere.
//
// Entries that are appended but not yet handed to the shard are kept in memory as well, so that applying them reads
// nothing from disk.
type Log struct {
	store *Store
	shard uint64

	hard  *raftpb.HardState
	conf  *raftpb.ConfState
	floor uint64 // history below: Raft never sends it
	last  uint64 // index of the last entry

	recent    []*raftpb.Entry // consecutive, up to last
	floorTerm uint64
	keyBuf    []byte
}

// OpenLog opens the log of a shard. A shard that is not there begins with voter as its only voter. It reads and checks
// the entries behind the applied index.
func (s *Store) OpenLog(shard, voter uint64) (*Log, error) {
	l := &Log{store: s, shard: shard, hard: &raftpb.HardState{}}
	a, err := s.loadApplied(shard)
	if err != nil {
		return nil, err
	}
	l.conf, l.floor, l.last = a.conf, a.floor, a.index
	if l.conf == nil {
		l.conf = &raftpb.ConfState{Voters: []uint64{voter}}
	}
	if v, err := s.get(key(shard, keyHard)); err != nil {
		return nil, fmt.Errorf("shard %d: hard state: %w", shard, err)
	} else if v != nil {
		f := values{buf: v}
		term, vote, commit := f.uv(), f.uv(), f.uv()
		if f.bad {
			return nil, fmt.Errorf("shard %d: hard state: %w", shard, entry.ErrCorrupt)
		}
		l.hard = &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
	}
	// applying never waits for the commit index to be stored, so it may be ahead of it
	if l.hard.GetCommit() < a.index {
		l.hard.Commit = proto.Uint64(a.index)
	}
	if l.hard.GetTerm() < a.term {
		return nil, fmt.Errorf("shard %d: %w: term %d was applied, but the hard state has %d", shard, entry.ErrCorrupt, a.term, l.hard.GetTerm())
	}
	l.floorTerm = 0
	if err := l.load(a); err != nil {
		return nil, err
	}
	if l.hard.GetCommit() > l.last {
		return nil, fmt.Errorf("shard %d: %w: the log ends at %d, but %d entries are committed", shard, entry.ErrCorrupt, l.last, l.hard.GetCommit())
	}
	if e := l.cached(l.last); e != nil && e.GetTerm() > l.hard.GetTerm() {
		return nil, fmt.Errorf("shard %d: %w: the log has term %d, but the hard state has %d", shard, entry.ErrCorrupt, e.GetTerm(), l.hard.GetTerm())
	}
	return l, nil
}

// load reads the entries behind the applied index into memory, and the applied one, whose term Raft asks for.
func (l *Log) load(a applied) error {
	from := max(a.index, l.floor+1)
	it, err := l.store.db.NewIter(&pebble.IterOptions{
		LowerBound: logKey(nil, l.shard, from), UpperBound: key(l.shard, keyLog+1),
	})
	if err != nil {
		return err
	}
	defer it.Close()
	next := from
	for it.First(); it.Valid(); it.Next() {
		index := binary.BigEndian.Uint64(it.Key()[9:])
		if index != next {
			return fmt.Errorf("shard %d: %w: index %d is missing from the log", l.shard, entry.ErrCorrupt, next)
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("shard %d index %d: %w", l.shard, index, damage(err))
		}
		e, err := l.decode(index, append([]byte(nil), v...))
		if err != nil {
			return err
		}
		l.recent = append(l.recent, e)
		l.last = index
		next++
	}
	if err := damage(it.Error()); err != nil {
		return fmt.Errorf("shard %d: log: %w", l.shard, err)
	}
	if l.last < a.index || a.index > l.floor && len(l.recent) == 0 {
		return fmt.Errorf("shard %d: %w: index %d was applied, but the log ends before it", l.shard, entry.ErrCorrupt, a.index)
	}
	return nil
}

func (l *Log) decode(index uint64, value []byte) (*raftpb.Entry, error) {
	term, typ, data, err := entry.Frame(l.shard, index, value)
	if err != nil {
		return nil, err
	}
	t := raftpb.EntryType(typ)
	return &raftpb.Entry{Index: &index, Term: &term, Type: &t, Data: data}, nil
}

// InitialState implements [raft.Storage].
func (l *Log) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return l.hard, l.conf, nil
}

// FirstIndex implements [raft.Storage].
func (l *Log) FirstIndex() (uint64, error) { return l.floor + 1, nil }

// LastIndex implements [raft.Storage].
func (l *Log) LastIndex() (uint64, error) { return l.last, nil }

// Snapshot implements [raft.Storage]. A group with one voter never needs one.
func (l *Log) Snapshot() (*raftpb.Snapshot, error) {
	return nil, raft.ErrSnapshotTemporarilyUnavailable
}

// Term implements [raft.Storage].
func (l *Log) Term(i uint64) (uint64, error) {
	switch {
	case i == l.floor:
		return l.floorTerm, nil
	case i < l.floor:
		return 0, raft.ErrCompacted
	case i > l.last:
		return 0, raft.ErrUnavailable
	}
	if e := l.cached(i); e != nil {
		return e.GetTerm(), nil
	}
	e, err := l.Read(i)
	if err != nil {
		return 0, err
	}
	return e.GetTerm(), nil
}

// Entries implements [raft.Storage].
func (l *Log) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= l.floor {
		return nil, raft.ErrCompacted
	}
	if hi > l.last+1 {
		return nil, raft.ErrUnavailable
	}
	var out []*raftpb.Entry
	var size uint64
	for i := lo; i < hi; i++ {
		e := l.cached(i)
		if e == nil {
			var err error
			if e, err = l.Read(i); err != nil {
				return nil, err
			}
		}
		if size += uint64(len(e.GetData())) + 24; len(out) > 0 && size > maxSize {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

func (l *Log) cached(i uint64) *raftpb.Entry {
	if first := l.last + 1 - uint64(len(l.recent)); i >= first && i <= l.last {
		return l.recent[i-first]
	}
	return nil
}

// Append adds entries to a batch. An entry at an index that is taken replaces it and all behind it.
func (l *Log) Append(b *pebble.Batch, entries []*raftpb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	first := entries[0].GetIndex()
	if first > l.last+1 || first <= l.floor {
		return fmt.Errorf("shard %d: entry %d does not follow %d", l.shard, first, l.last)
	}
	if first <= l.last {
		if end := entries[len(entries)-1].GetIndex() + 1; end <= l.last {
			if err := b.DeleteRange(logKey(nil, l.shard, end), logKey(nil, l.shard, l.last+1), nil); err != nil {
				return err
			}
		}
		if cut := l.last + 1 - first; cut < uint64(len(l.recent)) {
			l.recent = l.recent[:uint64(len(l.recent))-cut]
		} else {
			l.recent = l.recent[:0]
		}
	}
	for _, e := range entries {
		l.keyBuf = logKey(l.keyBuf[:0], l.shard, e.GetIndex())
		data := e.GetData()
		op := b.SetDeferred(len(l.keyBuf), entry.FrameSize(e.GetTerm(), len(data)))
		copy(op.Key, l.keyBuf)
		if n := len(entry.AppendFrame(op.Value[:0], l.shard, e.GetIndex(), e.GetTerm(), byte(e.GetType()), data)); n != len(op.Value) {
			return fmt.Errorf("shard %d index %d: a frame of %d bytes, not %d", l.shard, e.GetIndex(), n, len(op.Value))
		}
		if err := op.Finish(); err != nil {
			return err
		}
	}
	l.recent = append(l.recent, entries...)
	l.last = entries[len(entries)-1].GetIndex()
	return nil
}

// SetHard adds a hard state to a batch.
func (l *Log) SetHard(b *pebble.Batch, term, vote, commit uint64) error {
	l.hard = &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
	return b.Set(key(l.shard, keyHard), appendUvs(nil, term, vote, commit), nil)
}

// Applied tells that the entries up to index are with the shard and need no longer be kept in memory.
func (l *Log) Applied(index uint64) {
	first := l.last + 1 - uint64(len(l.recent))
	if index < first {
		return
	}
	// the applied entry itself stays: Raft asks for its term
	n := min(index-first, uint64(len(l.recent)))
	if n == 0 {
		return
	}
	kept := copy(l.recent, l.recent[n:])
	clear(l.recent[kept:])
	l.recent = l.recent[:kept]
}

// Read reads one entry from disk.
func (l *Log) Read(index uint64) (*raftpb.Entry, error) {
	v, err := l.store.get(logKey(nil, l.shard, index))
	if err != nil {
		return nil, fmt.Errorf("shard %d index %d: %w", l.shard, index, err)
	}
	if v == nil {
		return nil, fmt.Errorf("shard %d index %d: %w: not in the log", l.shard, index, entry.ErrCorrupt)
	}
	return l.decode(index, v)
}

// get reads a key into memory of its own; nil when it is not there.
func (s *Store) get(k []byte) ([]byte, error) {
	v, closer, err := s.db.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, damage(err)
	}
	defer closer.Close()
	return append(make([]byte, 0, len(v)), v...), nil
}
