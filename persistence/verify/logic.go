package verify

import (
	"fmt"
	"slices"
	"strings"
)

// era is a part of the log in which the turns of a kind ran by one version of its logic.
type era struct{ version, from uint64 }

// versions is what the log says of the versions of a kind.
type versions struct {
	eras []era
	cut  uint64 // index of the last logic change; 0: none
	met  bool   // its key was found
}

func (s *shard) versionsOf(kind string) *versions {
	v := s.versions[kind]
	if v == nil {
		v = &versions{}
		s.versions[kind] = v
	}
	return v
}

// ran takes the version that a record names.
func (s *shard) ran(r *record) {
	v := s.versionsOf(r.kind)
	if n := len(v.eras); n == 0 || v.eras[n-1].version != r.logic {
		v.eras = append(v.eras, era{r.logic, s.index})
	}
}

// raise takes a logic change: no grain may have records of a lower version behind its last snapshot.
func (s *shard) raise(r *record) {
	if r.kind == "" || len(r.key) != 0 || r.seq != 0 || r.logic == 0 {
		if s.mine() {
			s.at(r, "a logic change that does not name just a kind and a version")
		}
		return
	}
	for _, name := range sortedKeys(s.grains) {
		if g := s.grains[name]; g.ref.Kind == r.kind && g.ranBy != 0 && g.ranBy < r.logic {
			s.at(r, "the logic of kind %s changes to version %d, but %s has records of version %d that no snapshot covers", r.kind, r.logic, g.name, g.ranBy)
		}
	}
	v := s.versionsOf(r.kind)
	if n := len(v.eras); s.mine() && n > 0 && v.eras[n-1].version > r.logic {
		s.at(r, "the logic of kind %s changes to version %d behind records of version %d", r.kind, r.logic, v.eras[n-1].version)
	}
	v.cut = s.index
	v.eras = slices.DeleteFunc(v.eras, func(e era) bool { return e.version < r.logic })
	if len(v.eras) == 0 {
		v.eras = []era{{r.logic, s.index}}
	}
}

// compareLogic compares a logic key with what the log gives.
func (s *shard) compareLogic(k, rest []byte, c *cursor) {
	s.logicKeys++
	got := versions{cut: c.number("index of the logic change")}
	c.times("eras", func() { got.eras = append(got.eras, era{c.number("version"), c.number("index")}) })
	if !s.valueOf(k, c) {
		return
	}
	want := s.versions[string(rest)]
	if want == nil {
		if !s.cut {
			s.wrongKey(k, "the log up to the applied index %d has no turn of this kind", s.applied.index)
		}
		return
	}
	want.met = true
	if !s.cut && (got.cut != want.cut || !slices.Equal(got.eras, want.eras)) {
		s.wrongKey(k, "says %v; the log up to the applied index %d gives %v", got, s.applied.index, *want)
	}
}

func (v versions) String() string {
	var eras []string
	for _, e := range v.eras {
		eras = append(eras, fmt.Sprintf("version %d from index %d", e.version, e.from))
	}
	return fmt.Sprintf("%s, last change at index %d", strings.Join(eras, ", "), v.cut)
}
