package persistence

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	"github.com/granary-dev/granary/persistence/entry"
)

// Entry returns the data of an applied entry, checked, and its Raft term. The data must not be changed.
func (x *Index) Entry(index uint64) (term uint64, data []byte, err error) {
	if r := x.recently(index); r != nil {
		return r.term, r.data, nil
	}
	v, err := x.store.get(logKey(make([]byte, 0, 17), x.shard, index))
	if err != nil {
		return 0, nil, fmt.Errorf("shard %d index %d: %w", x.shard, index, err)
	}
	if v == nil {
		return 0, nil, fmt.Errorf("shard %d index %d: %w: not in the log", x.shard, index, entry.ErrCorrupt)
	}
	term, _, data, err = entry.Frame(x.shard, index, v)
	return term, data, err
}

// recently is an entry behind the last checkpoint, or nil.
func (x *Index) recently(index uint64) *recentEntry {
	if first := x.at.index + 1 - uint64(len(x.recent)); index >= first && index <= x.at.index {
		return &x.recent[index-first]
	}
	return nil
}

// Directory returns an applied entry, checked and ready to be searched. Grains that are loaded after each other have their
// records in the same entries, so some of those that were asked for last are kept.
func (x *Index) Directory(index uint64) (*entry.Directory, error) {
	if r := x.recently(index); r != nil && r.directory != nil {
		return r.directory, nil
	}
	if d := x.opened.entries[index]; d != nil {
		x.opened.used = true
		return d, nil
	}
	_, data, err := x.Entry(index)
	if err != nil {
		return nil, err
	}
	d, err := entry.NewDirectory(data)
	if err != nil {
		return nil, fmt.Errorf("shard %d index %d: %w", x.shard, index, err)
	}
	if r := x.recently(index); r != nil {
		r.directory = d
	} else {
		x.opened.put(index, d)
	}
	return d, nil
}

// Fetch reads an entry: [Index.Directory], or more where some entries are not applied yet.
type Fetch func(index uint64) (*entry.Directory, error)

// Walk visits the records of a grain entry by entry, from the entry at index backwards along the back pointers, until
// fn returns false or the grain's first entry was visited. The records of one entry come in their order, snapshots
// included; what they point to stays valid after the call, the slice does not.
func Walk(fetch Fetch, index uint64, tenant, kind string, key []byte, fn func(index uint64, records []entry.Record) bool) error {
	var found []entry.Record
	for index != 0 {
		d, err := fetch(index)
		if err != nil {
			return err
		}
		if found, err = d.Records(found[:0], tenant, kind, key); err != nil {
			return fmt.Errorf("index %d: %w", index, err)
		}
		var back uint64
		for i := range found {
			if found[i].Type.Numbered() || back == 0 {
				back = found[i].Back
			}
		}
		if len(found) == 0 || back >= index {
			return fmt.Errorf("index %d: %w: no record of %s/%s, or a bad back pointer", index, entry.ErrCorrupt, kind, key)
		}
		if !fn(index, found) || back == 0 {
			return nil
		}
		index -= back
	}
	return nil
}

// Snapshots finds the newest snapshot of a grain at or below seq, and the oldest above it. A pointer whose Index is 0
// means that there is none.
func (x *Index) Snapshots(grain []byte, seq uint64) (below, above SnapshotPointer, err error) {
	prefix := append(append(key(x.shard, keySnap), grain...), 0)
	it, err := x.store.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: successor(prefix)})
	if err != nil {
		return below, above, err
	}
	defer it.Close()
	read := func() (p SnapshotPointer, err error) {
		rest := it.Key()[len(prefix):]
		v, err := it.ValueAndErr()
		if err != nil {
			return p, damage(err)
		}
		f := values{buf: v}
		p = SnapshotPointer{Index: f.uv(), Ordinal: uint32(f.uv()), Time: int64(f.uv())}
		if f.bad || len(rest) != 8 {
			return p, fmt.Errorf("shard %d: snap: %w", x.shard, entry.ErrCorrupt)
		}
		p.Seq = binary.BigEndian.Uint64(rest)
		return p, nil
	}
	if it.SeekLT(snapKey(x.shard, grain, seq+1)) {
		if below, err = read(); err != nil {
			return below, above, err
		}
	}
	if it.SeekGE(snapKey(x.shard, grain, seq+1)) {
		if above, err = read(); err != nil {
			return below, above, err
		}
	}
	if err := damage(it.Error()); err != nil {
		return below, above, err
	}
	for _, p := range x.snapshots[string(grain)] {
		if p.Seq <= seq && p.Seq >= below.Seq {
			below = p
		}
		if p.Seq > seq && (above.Index == 0 || p.Seq <= above.Seq) {
			above = p
		}
	}
	return below, above, nil
}

// SnapshotsByTime finds the newest snapshot of a grain whose journal time is not after t, and the oldest behind it.
func (x *Index) SnapshotsByTime(grain []byte, t int64) (below, above SnapshotPointer, err error) {
	seq := uint64(1<<64 - 2)
	for {
		p, _, err := x.Snapshots(grain, seq)
		if err != nil || p.Index == 0 || p.Time <= t {
			return p, above, err
		}
		above, seq = p, p.Seq-1
	}
}

// ReadSnapshot returns the first record of a snapshot and the whole state, checked against its digest.
func ReadSnapshot(fetch Fetch, p SnapshotPointer) (first entry.Record, state []byte, err error) {
	d, err := fetch(p.Index)
	if err != nil {
		return first, nil, err
	}
	r, err := d.Reader(int(p.Ordinal))
	if err != nil {
		return first, nil, fmt.Errorf("index %d: %w", p.Index, err)
	}
	var rec entry.Record
	for chunk := uint32(1); ; chunk++ {
		rec = entry.Record{}
		more, err := r.Next(&rec)
		if err != nil {
			return first, nil, fmt.Errorf("index %d: %w", p.Index, err)
		}
		if !more || rec.Type != entry.Snapshot || rec.Snapshot.Chunk != chunk {
			return first, nil, fmt.Errorf("index %d: %w: chunk %d of the snapshot at ordinal %d is not there", p.Index, entry.ErrCorrupt, chunk, p.Ordinal)
		}
		if rec.Snapshot.Codec != 0 || rec.Snapshot.Key != 0 {
			return first, nil, fmt.Errorf("index %d: snapshot codec %d, key %d: %w", p.Index, rec.Snapshot.Codec, rec.Snapshot.Key, entry.ErrTooNew)
		}
		if chunk == 1 {
			first, state = rec, rec.Payload
		} else {
			state = append(state[:len(state):len(state)], rec.Payload...)
		}
		if chunk >= rec.Snapshot.Chunks {
			break
		}
	}
	if got := xxhash.Sum64(state); got != first.Snapshot.Digest {
		return first, nil, fmt.Errorf("index %d: %w: digest of the snapshot at ordinal %d is %016x, stored is %016x", p.Index, entry.ErrCorrupt, p.Ordinal, got, first.Snapshot.Digest)
	}
	return first, state, nil
}

// Listed is one grain of a listing.
type Listed struct {
	Key string
	Head
}

// List returns up to limit grains of a kind in the order of their keys: those that begin with prefix and come behind
// after. It reads keys only.
func (x *Index) List(tenant, kind, prefix, after string, limit int) ([]Listed, error) {
	base := AppendGrain(nil, tenant, kind, "")
	skip := len(key(x.shard, keyHead)) + len(base)
	lower := append(append(key(x.shard, keyHead), base...), prefix...)
	upper := successor(lower)
	if from := append(append(key(x.shard, keyHead), base...), after...); after != "" && bytes.Compare(from, lower) >= 0 {
		lower = append(from, 0) // keys hold no 0x00, so this is just behind it
	}
	it, err := x.store.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []Listed
	for it.First(); it.Valid() && len(out) < limit; it.Next() {
		grain := it.Key()[skip-len(base):]
		if _, newer := x.heads[string(grain)]; newer {
			continue
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, damage(err)
		}
		h, err := decodeHead(v)
		if err != nil {
			return nil, err
		}
		out = append(out, Listed{string(it.Key()[skip:]), h})
	}
	if err := damage(it.Error()); err != nil {
		return nil, err
	}
	start, end := lower[9:], upper[9:]
	for grain, h := range x.heads {
		if g := []byte(grain); h.Seq > 0 && bytes.Compare(g, start) >= 0 && bytes.Compare(g, end) < 0 {
			out = append(out, Listed{grain[len(base):], *h})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return slices.Clip(out[:min(limit, len(out))]), nil
}
