package verify

import (
	"bytes"
	"fmt"
	"math"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
)

// grain is what the log says of one grain.
type grain struct {
	name string // as in findings
	seq  uint64
	// entry has the last numbered record, before the one in front of it; 0 where there is none.
	entry, before uint64
	time          int64
	snapshots     []snapshotAt
	met           bool // its head key was found

	kind *grains.Definition // nil if the catalog does not have it
	ref  grains.Ref
	// state after the last record; nil where it is not known, until the next snapshot.
	state   proto.Message
	unknown string // why
	ranBy   uint64 // version of the records behind the last snapshot; 0: there are none that changed the state
	unran   bool   // some of its turns could not be run again

	// A snapshot of which some chunks were read; they stand one behind the other.
	open     *snapshotPart
	openAt   snapshotAt
	openWant []byte // the fold when its first chunk was met; nil: not known
	chunks   []byte
}

// snapshotAt is a snapshot and where its first chunk is.
type snapshotAt struct {
	seq, index uint64
	ordinal    uint32
	time       int64
	met        bool
}

func (s *shard) newGrain(r *record) *grain {
	g := &grain{name: grainName(r.tenant, r.kind, r.key), ref: grains.Ref{Kind: r.kind, Key: string(r.key)}}
	kind, ok := s.v.o.Catalog.Kind(r.kind)
	switch {
	case !ok:
		g.unknown = fmt.Sprintf("kind %s is not in the catalog", printable([]byte(r.kind)))
	case s.cut && r.seq > 1:
		g.kind, g.unknown = kind, "earlier records were removed and no snapshot came yet"
		g.seq = r.seq - 1
		if r.kindOf == snapshot {
			g.seq = r.seq
		}
		if r.back != 0 && r.back < s.index {
			g.entry = s.index - r.back // not known; believed once
		}
	default:
		g.kind, g.state = kind, kind.NewState()
	}
	return g
}

// numbered takes a record that has a seq.
func (g *grain) numbered(s *shard, r *record) {
	if r.seq != g.seq+1 {
		s.at(r, "seq %d follows %d", r.seq, g.seq)
	}
	if g.open != nil {
		s.at(r, "the snapshot at seq %d has %d of %d chunks", g.openAt.seq, g.open.chunk, g.open.chunks)
		g.open = nil
	}
	if want := g.back(s.index); r.back != want {
		s.at(r, "back is %d, the grain's entry before is %d behind", r.back, want)
	}
	if g.entry != s.index {
		g.before, g.entry = g.entry, s.index
	}
	g.seq, g.time = r.seq, r.time
	if r.kindOf == input || r.kindOf == timer {
		g.turn(s, r)
	}
}

// back is the distance from an entry to the grain's entry before it, 0 where there is none.
func (g *grain) back(index uint64) uint64 {
	before := g.entry
	if before == index {
		before = g.before
	}
	if before == 0 {
		return 0
	}
	return index - before
}

// unrun counts a turn that cannot be run again. Nothing is known of the state behind it.
func (g *grain) unrun(s *shard, why string) {
	s.v.report.Unrun[why]++
	if !g.unran {
		g.unran = true
		s.v.report.UnrunGrains++
	}
	g.state, g.unknown = nil, why
}

// turn runs a turn again and compares what comes of it.
func (g *grain) turn(s *shard, r *record) {
	if g.ranBy != 0 && g.ranBy != r.logic {
		s.at(r, "version %d of the logic runs behind records of version %d that no snapshot covers", r.logic, g.ranBy)
	}
	g.ranBy = r.logic
	var kind *grains.Definition // as it was
	known := false
	if g.kind != nil && r.logic <= math.MaxUint32 {
		kind, known = g.kind.At(uint32(r.logic))
	}
	switch {
	case g.kind == nil:
		g.unrun(s, g.unknown)
		return
	case !known:
		g.unrun(s, fmt.Sprintf("kind %s ran with logic version %d, the catalog has %d", g.kind.Name, r.logic, g.kind.Version))
		return
	case g.state == nil:
		g.unrun(s, g.unknown)
		return
	}
	lost := func(format string, args ...any) {
		s.at(r, format, args...)
		g.state, g.unknown = nil, "an earlier turn of the grain could not be run again"
	}
	event, ok := kind.Event(r.event)
	if !ok || event.Name != r.event {
		lost("kind %s has no event %s", kind.Name, printable([]byte(r.event)))
		return
	}
	msg, err := event.Decode(r.payload)
	if err != nil {
		lost("the payload cannot be decoded: %v", err)
		return
	}
	in := grains.Input{Grain: g.ref, Seq: r.seq, Now: r.time, EventTime: r.eventTime, Seed: turnSeed(s.applied.lineage, r.key)}
	if r.sender.kind != "" {
		in.Sender = grains.Ref{Kind: r.sender.kind, Key: string(r.sender.key)}
	}
	out := s.runner.Run(event, in, g.state, msg)
	s.v.report.Turns++
	if out.Err != nil {
		lost("journaled as folded, but the turn fails when it is run again: %v", out.Err)
		return
	}
	if len(out.Effects) != len(r.effects) {
		s.at(r, "%d effects are journaled, the turn run again has %d", len(r.effects), len(out.Effects))
		return
	}
	for i, want := range out.Effects {
		if got := r.effects[i]; !got.is(&want) {
			s.at(r, "effect %d, to %s, is not that of the turn run again, to %s", i, grainName("", got.kind, got.key), want.To)
			return
		}
	}
	if !bytes.Equal(r.reply, out.Reply) {
		s.at(r, "the reply has %d bytes, that of the turn run again has %d or others", len(r.reply), len(out.Reply))
	}
}

// is tells whether an effect is that of a turn.
func (e *effect) is(want *grains.Effect) bool {
	kindOf := map[grains.EffectType]byte{grains.Send: send, grains.Remind: remind, grains.Cancel: cancel, grains.Publish: publish, grains.Defer: deferred}
	return e.kindOf == kindOf[want.Kind] && e.kind == want.To.Kind && string(e.key) == want.To.Key && e.event == want.Type &&
		bytes.Equal(e.payload, want.Payload) && e.due == uint64(want.Due) && e.timer == want.Timer && e.every == uint64(want.Every) &&
		e.stream == want.Stream && string(e.token) == want.Token
}

// turnSeed is the seed of a turn's random numbers: it is not journaled, but follows from the shard and the grain.
func turnSeed(lineage uint64, key []byte) uint64 {
	return xxhash.Sum64(key) ^ lineage*0x9e3779b97f4a7c15
}

// snapshot takes a chunk of a snapshot; the last one is compared with the fold.
func (g *grain) snapshot(s *shard, r *record) {
	part := r.snap
	if r.back != 0 && r.back != g.back(s.index) {
		s.at(r, "back is %d, the grain's entry before is %d behind", r.back, g.back(s.index))
	}
	switch {
	case part.codec != 0 || part.key != 0:
		s.at(r, "a snapshot with codec %d and key %d: written by a later version", part.codec, part.key)
		return
	case part.chunk == 1:
		if g.open != nil {
			s.at(r, "the snapshot at seq %d has %d of %d chunks", g.openAt.seq, g.open.chunk, g.open.chunks)
		}
		if r.seq != g.seq {
			s.at(r, "a snapshot at seq %d behind seq %d", r.seq, g.seq)
		}
		at := snapshotAt{seq: r.seq, index: s.index, ordinal: r.ordinal, time: r.time}
		if n := len(g.snapshots); n > 0 && g.snapshots[n-1].seq == at.seq {
			g.snapshots = g.snapshots[:n-1] // the same key
		}
		g.snapshots = append(g.snapshots, at)
		g.openAt, g.chunks, g.openWant, g.ranBy = at, nil, nil, 0
		if g.state != nil {
			var err error
			if g.openWant, err = g.kind.AppendState([]byte{}, g.state); err != nil {
				s.at(r, "the fold cannot be encoded: %v", err)
				g.openWant = nil
			}
		}
	case g.open == nil || part.chunk != g.open.chunk+1 || part.chunks != g.open.chunks || part.digest != g.open.digest || r.seq != g.openAt.seq ||
		r.ordinal != g.openAt.ordinal+part.chunk-1 || s.index != g.openAt.index:
		s.at(r, "chunk %d of %d does not follow the chunk before it", part.chunk, part.chunks)
		g.open = nil
		return
	}
	g.open = &part
	g.chunks = append(g.chunks, r.payload...)
	if part.chunk > part.chunks {
		s.at(r, "chunk %d of %d", part.chunk, part.chunks)
	}
	if part.chunk < part.chunks {
		return
	}
	g.open = nil
	if got := xxhash.Sum64(g.chunks); got != part.digest {
		s.at(r, "digest of the snapshot is %016x, its bytes give %016x", part.digest, got)
	}
	if g.kind == nil {
		return
	}
	if g.openWant != nil {
		s.v.report.Snapshots++
		if !bytes.Equal(g.openWant, g.chunks) {
			s.at(r, "the snapshot at seq %d is not the fold before it: %s", r.seq, difference(g.chunks, g.openWant))
		}
	}
	// from here on the snapshot counts, as it does for a node that loads it
	state, err := g.kind.DecodeState(g.chunks)
	if err != nil {
		s.at(r, "the snapshot cannot be decoded: %v", err)
		g.state, g.unknown = nil, "an earlier snapshot of the grain cannot be decoded"
		return
	}
	g.state = state
}

// difference says where two encodings part.
func difference(got, want []byte) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	return fmt.Sprintf("%d bytes, the fold gives %d, they part at byte %d", len(got), len(want), i)
}
