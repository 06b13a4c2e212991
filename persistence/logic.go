package persistence

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/granary-dev/granary/persistence/entry"
)

// Era is a part of a shard's journal: from an index on, the turns of a kind ran by one version of its logic.
type Era struct {
	Version uint32
	// From is the index of the first entry with a record of that version.
	From uint64
}

// logic is what is known of the versions of one kind.
type logic struct {
	kind string
	eras []Era  // in the order of their indexes; those that no grain needs any more are gone
	cut  uint64 // index of the last logic change, 0: none
}

// Kinds are the kinds of which a version of the logic is known to have run, in the order of their names.
func (x *Index) Kinds() []string { return slices.Sorted(maps.Keys(x.logic)) }

// Eras are the eras of a kind whose records may have no snapshot behind them, oldest first. A grain's tail, which is what
// lies behind its last snapshot, belongs as a whole to the era of its last record.
func (x *Index) Eras(kind string) []Era {
	if l := x.logic[kind]; l != nil {
		return slices.Clone(l.eras)
	}
	return nil
}

// Raised tells whether more than one version of a kind's logic is known to have run. Then a grain may have a snapshot
// behind any of its records.
func (x *Index) Raised(kind string) bool {
	l := x.logic[kind]
	return l != nil && (l.cut != 0 || len(l.eras) > 1)
}

// ran notes the version that ran in an entry.
func (x *Index) ran(kind string, version uint32, index uint64) {
	l := x.newest
	if l == nil || l.kind != kind {
		l = x.logicOf(kind)
		x.newest = l
	}
	if n := len(l.eras); n == 0 || l.eras[n-1].Version != version {
		l.eras = append(l.eras, Era{version, index})
	}
}

// raised notes that all tails of versions below one are behind a snapshot.
func (x *Index) raised(r *entry.Record, index uint64) error {
	if r.Kind == "" || r.Logic == 0 {
		return fmt.Errorf("%w: a logic change without a kind or a version", entry.ErrCorrupt)
	}
	l := x.logicOf(r.Kind)
	l.cut = index
	l.eras = slices.DeleteFunc(l.eras, func(e Era) bool { return e.Version < r.Logic })
	if len(l.eras) == 0 {
		l.eras = []Era{{r.Logic, index}}
	}
	return nil
}

func (x *Index) logicOf(kind string) *logic {
	l := x.logic[kind]
	if l == nil {
		l = &logic{kind: strings.Clone(kind)} // the name may be part of an entry
		x.logic[l.kind] = l
	}
	return l
}

func (l *logic) append(v []byte) []byte {
	v = appendUvs(v, l.cut, uint64(len(l.eras)))
	for _, e := range l.eras {
		v = appendUvs(v, uint64(e.Version), e.From)
	}
	return v
}

// openLogic reads the logic keys. A folder that was written before there were any has them learned from its log.
func (x *Index) openLogic() error {
	x.logic = map[string]*logic{}
	err := x.scan(key(x.shard, keyLogic), func(rest, v []byte) error {
		l := x.logicOf(string(rest))
		f := values{buf: v}
		l.cut = f.uv()
		for n := f.uv(); n > 0 && !f.bad; n-- {
			l.eras = append(l.eras, Era{uint32(f.uv()), f.uv()})
		}
		if f.bad || len(l.eras) == 0 {
			return entry.ErrCorrupt
		}
		return nil
	})
	if err != nil || len(x.logic) > 0 {
		return err
	}
	return x.learnLogic()
}

// learnLogic computes from the log up to the applied index what the logic keys should be.
func (x *Index) learnLogic() error {
	return x.reread(func(index uint64, rec *entry.Record) error {
		switch {
		case rec.Type == entry.LogicChange:
			return x.raised(rec, index)
		case rec.Type.Numbered() && rec.Logic != 0:
			x.ran(rec.Kind, rec.Logic, index)
		}
		return nil
	})
}

// reread calls fn for each record of the log up to the applied index that is not fenced off. An entry that cannot be read
// is passed over: it is told of when its records are asked for, and must not keep the rest of the shard from them.
func (x *Index) reread(fn func(index uint64, rec *entry.Record) error) error {
	var lastData uint64
	known := true // lastData is
	for index := x.at.floor + 1; index <= x.at.index; index++ {
		term, data, err := x.Entry(index)
		if err == nil && len(data) == 0 {
			continue
		}
		var r entry.Reader
		if err == nil {
			err = r.Reset(data)
		}
		if errors.Is(err, entry.ErrCorrupt) {
			known = false
			continue
		}
		if err != nil {
			return fmt.Errorf("index %d: %w", index, err)
		}
		if h := &r.Header; h.Term != term || h.Index != index || known && h.Previous != lastData || h.Lineage != x.at.lineage {
			continue // fenced off
		}
		lastData, known = index, true
		for {
			var rec entry.Record
			more, err := r.Next(&rec)
			if err != nil {
				return fmt.Errorf("index %d: %w", index, err)
			}
			if !more {
				break
			}
			if err := fn(index, &rec); err != nil {
				return err
			}
		}
	}
	return nil
}
