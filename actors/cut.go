package actors

import (
	"fmt"
	"slices"
	"strings"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// Bounds of what a step does for a cut.
const (
	// cutGrains are snapshotted at most unless the config says otherwise, and cutKeys looked at.
	cutGrains = 16
	cutKeys   = 256
	// cutPending is how many bytes may be uncommitted for more to be added: clients come first.
	cutPending = 1 << 20
)

// cut is the raising of the version of one kind in this shard (docs/adr/0010). A grain with records of an earlier version
// behind its last snapshot is snapshotted by the logic that made them: before its first turn under the present version, or
// when the cut comes to it. Turns run by the present version from the beginning. When the cut is through, a logic change
// is journaled, and the earlier versions are needed for reads of the past only.
type cut struct {
	name string
	kind *grains.Definition // nil: the catalog does not have it
	eras []persistence.Era
	// from is an index: records below it are of earlier versions, those from it on of the present one.
	from uint64
	// after is the key of the last grain that was looked at.
	after string
	// lacks has the versions that this binary does not have, with the grains that need them, once they are counted.
	lacks   map[uint32]int
	counted bool
	// through tells that all grains were looked at. The cut stays until the index knows of it, so that nobody takes a
	// grain's snapshots for as few as its records say.
	through bool
	// failed tells that a grain could not be snapshotted: the cut cannot be done.
	failed bool
}

// Lack is a version of a kind's logic that the journal of a shard needs and this binary does not have.
type Lack struct {
	Kind string
	// Version that is needed, and Have, the present one of this binary; 0 where it does not have the kind at all.
	Version, Have uint32
	// Grains that have records of the version: behind their last snapshot, or anywhere if it is above the present one.
	Grains int
}

// String says it in a line.
func (l Lack) String() string {
	n := fmt.Sprintf("%d grains need", l.Grains)
	if l.Grains == 1 {
		n = "1 grain needs"
	}
	have := fmt.Sprintf("this binary has version %d", l.Have)
	if l.Have == 0 {
		have = "this binary does not have the kind"
	}
	return fmt.Sprintf("kind %q: %s version %d of its logic, %s", l.Kind, n, l.Version, have)
}

// Unfit is why a shard does not lead here although its group elected it.
type Unfit struct {
	Shard uint64
	Lacks []Lack // at least one
}

func (u *Unfit) Error() string {
	var all []string
	for _, l := range u.Lacks {
		all = append(all, l.String())
	}
	return fmt.Sprintf("shard %d does not lead: %s", u.Shard, strings.Join(all, "; "))
}

// planCuts finds the kinds whose journal has records of other versions than the catalog's. One that the catalog does not
// have is retired: nothing of it runs here. But while it is cut, its grains have to be told apart.
func (s *Shard) planCuts() (cuts []*cut) {
	applied, _ := s.index.Applied()
	for _, name := range s.index.Kinds() {
		eras := s.index.Eras(name)
		last := eras[len(eras)-1]
		kind, known := s.cfg.Catalog.Kind(name)
		if len(eras) == 1 && (!known || last.Version == kind.Version) {
			continue
		}
		c := &cut{name: name, kind: kind, eras: eras, from: applied + 1, lacks: map[uint32]int{}}
		if known && last.Version == kind.Version {
			c.from = last.From
		}
		for _, e := range eras {
			if known {
				if _, ok := kind.At(e.Version); ok {
					continue
				}
			}
			c.lacks[e.Version] = 0
		}
		cuts = append(cuts, c)
	}
	return cuts
}

// examine counts the grains that need logic which this binary lacks, some in each step, and then leads or does not.
func (s *Shard) examine(fx *Effects) error {
	for _, c := range s.cuts {
		if len(c.lacks) == 0 || c.counted {
			continue
		}
		fx.Again = true
		return s.count(c)
	}
	s.examining = false
	if s.unfit = s.lacking(); s.unfit != nil {
		fx.Unfit, s.cuts = s.unfit, nil
		return nil
	}
	return s.begin(fx)
}

// count looks at some grains of a kind.
func (s *Shard) count(c *cut) error {
	page, err := s.index.List("", c.name, "", c.after, cutKeys)
	if err != nil {
		return fmt.Errorf("shard %d: %w", s.cfg.Shard, err)
	}
	for _, g := range page {
		c.after = g.Key
		version := c.eraOf(g.Last)
		if _, lacks := c.lacks[version]; !lacks {
			continue
		}
		tail, err := s.hasTail(c.name, g)
		if err != nil {
			return err
		}
		if tail || c.above(version) {
			c.lacks[version]++
		}
	}
	if len(page) < cutKeys {
		c.counted, c.after = true, ""
	}
	return nil
}

// eraOf is the version that ran in an entry; before the first era nobody knows of another.
func (c *cut) eraOf(index uint64) uint32 {
	version := c.eras[0].Version
	for _, e := range c.eras {
		if e.From <= index {
			version = e.Version
		}
	}
	return version
}

// above tells whether a version is one to come: its states mean nothing to this binary.
func (c *cut) above(version uint32) bool { return c.kind != nil && version > c.kind.Version }

// hasTail tells whether a grain has committed records behind its last snapshot.
func (s *Shard) hasTail(kind string, g persistence.Listed) (bool, error) {
	s.keyBuf = persistence.AppendGrain(s.keyBuf[:0], "", kind, g.Key)
	snapshot, _, err := s.index.Snapshots(s.keyBuf, g.Seq)
	if err != nil {
		return false, fmt.Errorf("shard %d: %s/%s: %w", s.cfg.Shard, kind, g.Key, err)
	}
	return g.Seq > snapshot.Seq, nil
}

// lacking sums up what was counted; nil when nothing is needed that is not there.
func (s *Shard) lacking() *Unfit {
	u := &Unfit{Shard: s.cfg.Shard}
	for _, c := range s.cuts {
		for _, e := range c.eras {
			n, lacks := c.lacks[e.Version]
			if lacks && (n > 0 || c.above(e.Version)) {
				l := Lack{Kind: c.name, Version: e.Version, Grains: n}
				if c.kind != nil {
					l.Have = c.kind.Version
				}
				u.Lacks = append(u.Lacks, l)
				delete(c.lacks, e.Version)
			}
		}
	}
	if len(u.Lacks) == 0 {
		return nil
	}
	return u
}

// cutSome goes on with the first cut that is not through.
func (s *Shard) cutSome(fx *Effects) error {
	if len(s.cuts) == 0 || !s.leading || s.pending > cutPending {
		return nil // where much is uncommitted, the next entry that lands brings an Idle with it
	}
	s.cuts = slices.DeleteFunc(s.cuts, func(c *cut) bool {
		eras := s.index.Eras(c.name)
		done := c.kind != nil && c.through && len(eras) == 1 && eras[0].Version == c.kind.Version // its logic change is committed
		if done {
			fx.Cuts = append(fx.Cuts, Cut{Kind: c.name, Version: c.kind.Version})
		}
		return done || c.kind == nil
	})
	for _, c := range s.cuts {
		if !c.through {
			fx.Again = true
			return s.cutKind(c, fx)
		}
	}
	return nil
}

// cutKind goes on with a cut.
func (s *Shard) cutKind(c *cut, fx *Effects) error {
	page, err := s.index.List("", c.name, "", c.after, cutKeys)
	if err != nil {
		return fmt.Errorf("shard %d: %w", s.cfg.Shard, err)
	}
	n := 0
	for _, g := range page {
		if n == s.cfg.CutGrains || s.pending > cutPending {
			return nil
		}
		c.after = g.Key
		if g.Last >= c.from {
			continue // its first record there came with a snapshot in front
		}
		tail, err := s.hasTail(c.name, g)
		if err != nil {
			return err
		}
		if !tail {
			continue
		}
		n++
		a, err := s.activate(c.kind, g.Key)
		if err == nil {
			s.room(fx)
			err = s.cutGrain(a)
		}
		c.failed = c.failed || err != nil // whoever asks for the grain is told
	}
	if len(page) == cutKeys {
		return nil
	}
	c.through = true
	if c.failed {
		fx.Cuts = append(fx.Cuts, Cut{Kind: c.name, Version: c.kind.Version, Failed: true})
		return nil
	}
	s.rec = entry.Record{Type: entry.LogicChange, Kind: c.name, Logic: c.kind.Version, Time: s.time}
	s.room(fx)
	s.append(&s.rec)
	return nil
}

// cutGrain snapshots a grain whose tail is of an earlier version, unless that is done.
func (s *Shard) cutGrain(a *activation) error {
	for _, c := range s.cuts {
		if c.name != a.name.Kind || a.last >= c.from || a.seq <= a.snapshot.Seq {
			continue
		}
		s.Stats.Cut++
		return s.snapshot(a)
	}
	return nil
}

// cutting tells whether grains of a kind may have snapshots that no count of records tells of.
func (s *Shard) cutting(kind string) bool {
	for _, c := range s.cuts {
		if c.name == kind {
			return true
		}
	}
	return s.index.Raised(kind)
}

// absent is what callers are told by a shard that does not lead.
func (s *Shard) absent() (Outcome, string, *Lack) {
	if s.unfit != nil {
		return LogicMissing, s.unfit.Error(), &s.unfit.Lacks[0]
	}
	return Unavailable, "the shard has no leader here", nil
}
