// Package subscription is the machine of one call of StreamService.Subscribe: it decides which entries of which shard are
// read next, picks what was asked for out of them, and knows where another call can go on.
//
// Here live the cursors, the filter, the form of a position, and what makes a response full. Here never live calls,
// goroutines, clocks or the journal itself: whoever drives a [Subscription] asks the shards how far they are committed
// ([Subscription.Asks], [Subscription.Committed]), reads the entries that [Subscription.Next] names, and sends what it
// returns. So a simulation can drive it as well.
//
// Invariant: the items of one shard, over all responses, are those of its committed entries behind where the subscription
// began, in order, each once; and the position of a response stands exactly behind the items up to it. There is no
// difference between history and live: a cursor follows the committed index, from wherever it is.
package subscription

import (
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/persistence/entry"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Bounds of responses and reading ahead.
const (
	// maxItems and Config.Bytes are where a response is full. One item may be larger, and then is alone.
	maxItems = 1000
	// PageBytes is how much of a shard's journal is read at once. A page ends behind an entry.
	PageBytes = 256 << 10
	// lateReads are made at most before found items are sent, and quietBytes of journal read before a response tells the
	// position although nothing was found.
	lateReads  = 64
	quietBytes = 16 << 20
)

// Config says what a subscription reads.
type Config struct {
	// Shards of the table.
	Shards int
	// Stream, or else Kind, by name.
	Stream, Kind string
	// Prefix that the keys of the grains have.
	Prefix string
	// Types are the full names of the types of events or messages that are wanted; nil for all.
	Types map[string]bool
	// Beginning starts at the oldest entry, Position where that says; otherwise with what is committed from now on.
	Beginning bool
	Position  string
	// Bytes of a response at most; 256 KiB by default.
	Bytes int
	// UntilLive ends when all that was committed at the beginning was sent.
	UntilLive bool
	// Record makes the item of a record. It may keep what the record points to, not the record.
	Record func(lineage, index uint64, r *entry.Record) *granaryv1.HistoryRecord
	// Payload makes the forms of a message that were asked for.
	Payload func(name string, payload []byte) (*structpb.Struct, []byte)
}

// Subscription is the machine.
type Subscription struct {
	cfg     Config
	cursors []cursor // by shard id - 1
	asks    []uint64 // shards that are to be asked how far they are committed
	behind  []uint64 // shards with more to read, the next one first
	unknown int      // shards that have not told anything yet
	left    int      // shards that have not come to where they were when the subscription began
	pages   page
	record  entry.Record

	items   []*granaryv1.SubscribeItem
	size    int
	scanned int // bytes of journal since the last response
	reads   int // since the last response
	held    *found
	next    found // what held points to
	opened  bool
	live    bool
	told    bool // that it is live
	failed  *answer.Refusal
}

// cursor is where a subscription is in one shard.
type cursor struct {
	point
	goal      uint64 // what was committed when the subscription began
	committed uint64
	known     bool
}

// point is a place in a shard's journal, down to the effects of a record: what is next is effect Effect of record Ordinal
// of the entry behind the place.
type point struct {
	routing.Place
	ordinal, effect uint32
}

func (p point) midway() bool { return p.ordinal > 0 || p.effect > 0 }

// page is some entries of a shard that were read and are not all passed.
type page struct {
	shard   uint64 // 0: none
	entries []*entry.Reader
	behind  routing.Place
	err     *answer.Refusal // why it ends early
	reader  *entry.Reader   // of the entry that is being passed
	effects bool            // the record is read, and its effects are being passed
}

// found is an item that has no room in the present response, and the point behind it.
type found struct {
	item   *granaryv1.SubscribeItem
	size   int
	behind point
}

// New returns a subscription that has not begun. It fails when the position is none, or of another source.
func New(cfg Config) (*Subscription, *answer.Refusal) {
	if cfg.Bytes == 0 {
		cfg.Bytes = 256 << 10
	}
	s := &Subscription{cfg: cfg, cursors: make([]cursor, cfg.Shards), unknown: cfg.Shards, left: cfg.Shards}
	if cfg.Position != "" {
		points, refusal := parsePosition(cfg.Position, &cfg)
		if refusal != nil {
			return nil, refusal
		}
		for i := range points {
			s.cursors[i].point = points[i]
		}
	}
	for shard := range uint64(cfg.Shards) {
		s.asks = append(s.asks, shard+1)
	}
	return s, nil
}

// Asks returns the shards that are to be asked, each once, for what is committed behind an index: the answer goes to
// [Subscription.Committed]. One that cannot be had must be asked for again.
func (s *Subscription) Asks() []uint64 {
	asks := s.asks
	s.asks = nil
	return asks
}

// After is the index behind which a shard is asked.
func (s *Subscription) After(shard uint64) uint64 { return s.cursors[shard-1].committed }

// Known tells whether a shard has told anything.
func (s *Subscription) Known(shard uint64) bool { return s.cursors[shard-1].known }

// Committed takes how far a shard is committed.
func (s *Subscription) Committed(shard uint64, place routing.Place) {
	c := &s.cursors[shard-1]
	if s.failed != nil {
		return
	}
	if !c.known {
		if s.failed = s.begin(shard, c, place); s.failed != nil {
			return
		}
	}
	c.committed = max(c.committed, place.Index)
	if c.Index < c.committed {
		s.behind = append(s.behind, shard)
	} else {
		s.asks = append(s.asks, shard)
	}
}

// begin sets the cursor of a shard, of which nothing was known, and where it becomes live.
func (s *Subscription) begin(shard uint64, c *cursor, place routing.Place) *answer.Refusal {
	switch {
	case s.cfg.Position != "":
		if c.Lineage != place.Lineage {
			return badPosition("it is of another cluster")
		}
		if c.Index > place.Index || c.Index == place.Index && c.midway() {
			return beyond(shard, c.Index, place.Index)
		}
	case s.cfg.Beginning:
		c.Lineage = place.Lineage
	default:
		c.Place = place
	}
	c.known, c.goal = true, place.Index
	s.unknown--
	s.arrived(c, false)
	return nil
}

func beyond(shard, index, have uint64) *answer.Refusal {
	r := answer.InvalidCode(codes.OutOfRange, answer.PositionOutOfRange, "position",
		"it is behind entry %d of shard %d, whose journal ends with entry %d: the data was rolled back, or is another cluster's", index, shard, have)
	return r.With("shard", strconv.FormatUint(shard, 10)).With("have", strconv.FormatUint(have, 10))
}

// arrived notes that a cursor is where its shard was when the subscription began, unless it was before.
func (s *Subscription) arrived(c *cursor, before bool) {
	if !before && c.Index >= c.goal {
		s.left--
		s.live = s.left == 0
	}
}

// Action is what a subscription wants done next: one of a response to be sent, entries to be read, and the end of the
// call. If it is none, it waits for [Subscription.Committed]: let the shards be asked first that Asks tells of by then.
type Action struct {
	// Response to be sent. It must not be changed, and is not touched again.
	Response *granaryv1.SubscribeResponse
	// Read the entries of this shard behind After up to index Upto, at most a page of them, for [Subscription.Took].
	Read  uint64
	After routing.Place
	Upto  uint64
	// Ended tells that this was all, with the reason when it is not the end that was asked for.
	Ended   bool
	Refusal *answer.Refusal
}

// Next returns what is to be done.
func (s *Subscription) Next() Action {
	switch {
	case s.failed != nil && len(s.items) == 0:
		return Action{Ended: true, Refusal: s.failed}
	case s.failed != nil:
		return s.respond()
	case s.unknown > 0:
		return Action{}
	case !s.opened:
		s.opened = true
		return s.respond()
	}
	full := s.fill()
	switch {
	case full, s.failed != nil && len(s.items) > 0, s.scanned >= quietBytes, s.reads >= lateReads && len(s.items) > 0:
		return s.respond()
	case s.failed != nil:
		return Action{Ended: true, Refusal: s.failed}
	case s.cfg.UntilLive && s.live:
		if !s.told {
			return s.respond()
		}
		return Action{Ended: true}
	case len(s.behind) > 0:
		shard := s.behind[0]
		s.behind = s.behind[1:]
		c := &s.cursors[shard-1]
		upto := c.committed
		if s.cfg.UntilLive {
			upto = min(upto, c.goal)
		}
		if upto <= c.Index {
			return s.Next()
		}
		s.reads++
		return Action{Read: shard, After: c.Place, Upto: upto}
	case len(s.items) > 0, s.live && !s.told:
		return s.respond()
	}
	return Action{}
}

// respond empties what was collected into a response.
func (s *Subscription) respond() Action {
	out := &granaryv1.SubscribeResponse{Items: s.items, Position: s.position(), Live: s.live}
	s.items, s.size, s.scanned, s.reads, s.told = nil, 0, 0, 0, s.live
	return Action{Response: out}
}

// Took takes the entries that Next asked for, and the place behind them. A refusal says why there are no more.
func (s *Subscription) Took(shard uint64, entries []*entry.Reader, behind routing.Place, refusal *answer.Refusal) {
	s.pages = page{shard: shard, entries: entries, behind: behind, err: refusal}
}

// fill passes over entries until the response is full (true) or there are no more at hand.
func (s *Subscription) fill() (full bool) {
	for {
		if s.held == nil {
			if s.held = s.find(); s.held == nil {
				return false
			}
		}
		f := s.held
		if n := len(s.items); n > 0 && (n >= maxItems || s.size+f.size > s.cfg.Bytes) {
			return true
		}
		s.items = append(s.items, f.item)
		s.size += f.size
		s.cursors[s.pages.shard-1].point = f.behind
		s.held = nil
	}
}

// find returns the next item; nil when the entries at hand are passed. The cursor is moved over what has no item.
func (s *Subscription) find() *found {
	p := &s.pages
	if p.shard == 0 {
		return nil
	}
	c := &s.cursors[p.shard-1]
	for len(p.entries) > 0 {
		r := p.entries[0]
		if p.reader == nil {
			if refusal := s.enter(c, r); refusal != nil {
				s.fail(refusal)
				return nil
			}
		}
		for {
			if !p.effects {
				more, err := r.Next(&s.record)
				if err != nil {
					s.fail(Damaged(&routing.EntryError{Shard: p.shard, Index: r.Header.Index, Err: err}))
					return nil
				}
				if !more {
					break
				}
				p.effects = true
			}
			if f := s.pick(c, r); f != nil {
				return f
			}
			p.effects = false
			c.ordinal, c.effect = s.record.Ordinal+1, 0
		}
		s.pass(c, routing.Place{Lineage: c.Lineage, Index: r.Header.Index, Data: r.Header.Index})
		s.scanned += r.Size()
		p.entries[0], p.reader = nil, nil
		p.entries = p.entries[1:]
	}
	if p.err != nil {
		s.fail(p.err)
		return nil
	}
	s.pass(c, p.behind)
	if c.Index < c.committed {
		s.behind = append(s.behind, p.shard)
	} else {
		s.asks = append(s.asks, p.shard)
	}
	s.pages = page{}
	return nil
}

// fail ends the subscription, behind what was found.
func (s *Subscription) fail(refusal *answer.Refusal) {
	s.failed, s.pages = refusal, page{}
}

// enter begins to pass an entry, where the cursor stands in it.
func (s *Subscription) enter(c *cursor, r *entry.Reader) *answer.Refusal {
	s.pages.reader = r
	if r.Header.Index != c.Index+1 { // what lay between has no effect
		s.pass(c, routing.Place{Lineage: c.Lineage, Index: r.Header.Index - 1, Data: r.Header.Previous})
	}
	if int64(c.ordinal) > int64(r.Count) {
		return beyond(s.pages.shard, c.Index, c.Index)
	}
	if err := r.Skip(int(c.ordinal)); err != nil {
		return Damaged(&routing.EntryError{Shard: s.pages.shard, Index: r.Header.Index, Err: err})
	}
	return nil
}

// pass moves a cursor behind an entry.
func (s *Subscription) pass(c *cursor, to routing.Place) {
	before := c.Index >= c.goal
	c.point = point{Place: to}
	s.arrived(c, before)
}

// pick returns the next item of the record that was read; nil when it has no more.
func (s *Subscription) pick(c *cursor, r *entry.Reader) *found {
	rec := &s.record
	if !rec.Type.Numbered() || rec.Tenant != "" || s.cfg.Kind != "" && rec.Kind != s.cfg.Kind || !hasPrefix(rec.Key, s.cfg.Prefix) {
		return nil
	}
	if s.cfg.Kind != "" {
		if s.cfg.Types != nil && !s.cfg.Types[rec.Event] {
			return nil
		}
		item := &granaryv1.SubscribeItem_Record{Record: s.cfg.Record(c.Lineage, r.Header.Index, rec)}
		s.pages.effects = false
		return s.found(&granaryv1.SubscribeItem{Grain: grainName(rec), Item: item}, point{Place: c.Place, ordinal: rec.Ordinal + 1})
	}
	for i := int(c.effect); i < len(rec.Effects); i++ {
		e := &rec.Effects[i]
		if e.Type != entry.Publish || e.Stream != s.cfg.Stream || s.cfg.Types != nil && !s.cfg.Types[e.Event] {
			continue
		}
		m := &granaryv1.StreamMessage{Stream: e.Stream, Seq: rec.Seq, Effect: uint32(i), Type: e.Event,
			Position: answer.Position(entry.Position{Lineage: c.Lineage, Index: r.Header.Index, Ordinal: rec.Ordinal}),
			Time:     &timestamppb.Timestamp{Seconds: rec.Time / 1e6, Nanos: int32(rec.Time % 1e6 * 1e3)}}
		m.Payload, m.PayloadProtobuf = s.cfg.Payload(e.Event, e.Payload)
		return s.found(&granaryv1.SubscribeItem{Grain: grainName(rec), Item: &granaryv1.SubscribeItem_Message{Message: m}},
			point{Place: c.Place, ordinal: rec.Ordinal, effect: uint32(i) + 1})
	}
	return nil
}

// found is an item with the point behind it. The cursor stays before it until it is in a response.
func (s *Subscription) found(item *granaryv1.SubscribeItem, behind point) *found {
	s.next = found{item: item, size: item.SizeVT() + 4, behind: behind}
	return &s.next
}

func grainName(r *entry.Record) string {
	b := make([]byte, 0, len(r.Kind)+1+len(r.Key))
	return string(append(append(append(b, r.Kind...), '/'), r.Key...))
}

func hasPrefix(key []byte, prefix string) bool {
	return len(key) >= len(prefix) && string(key[:len(prefix)]) == prefix
}

// Damaged is the refusal of an entry that cannot be read.
func Damaged(e *routing.EntryError) *answer.Refusal {
	r := &answer.Refusal{Code: codes.DataLoss, Reason: answer.JournalCorrupt, Message: e.Error()}
	return r.With("shard", strconv.FormatUint(e.Shard, 10)).With("index", strconv.FormatUint(e.Index, 10))
}
