package gateway_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/entry"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
)

// boxes is a kind with events of every shape: flat, with floats, without limit in depth, without fields.
var boxes = grains.Kind[*accountv1.Account]{
	Earlier: []grains.Logic[*accountv1.Account]{{Version: 2, Handlers: grains.Handlers[*accountv1.Account]{
		grains.On(func(*grains.Turn, *accountv1.Account, *accountv1.Labelled) error { return nil }),
	}}},
	Name: "box", Version: 3, Doc: "a box for tests",
	Handlers: grains.Handlers[*accountv1.Account]{
		grains.On(func(t *grains.Turn, s *accountv1.Account, e *accountv1.Charged) error {
			if e.AmountCents < 0 {
				return grains.Reject("amount_cents must not be negative")
			}
			if e.TransactionId == "panic" {
				panic("as asked")
			}
			s.Count++
			s.Cents += e.AmountCents
			if e.Merchant != "" {
				t.Send("shelf/"+e.Merchant, &merchantv1.Seen{TransactionId: e.TransactionId})
			}
			return nil
		}),
		grains.On(func(_ *grains.Turn, s *accountv1.Account, _ *wrapperspb.DoubleValue) error { s.Count++; return nil }),
		grains.On(func(_ *grains.Turn, s *accountv1.Account, _ *structpb.Struct) error { s.Count++; return nil }),
		grains.On(func(_ *grains.Turn, s *accountv1.Account, _ *descriptorpb.DescriptorProto) error {
			s.Count++
			return nil
		}),
		grains.On(func(_ *grains.Turn, s *accountv1.Account, _ *emptypb.Empty) error { s.Count++; return nil }),
	},
}

var shelves = grains.Kind[*merchantv1.Merchant]{
	Name: "shelf", Version: 1, Doc: "what boxes send to",
	Handlers: grains.Handlers[*merchantv1.Merchant]{
		grains.On(func(_ *grains.Turn, s *merchantv1.Merchant, _ *merchantv1.Seen) error { s.Count++; return nil }),
	},
}

func testCatalog() *grains.Catalog {
	c, err := grains.NewCatalog(boxes.MustDefine(), shelves.MustDefine())
	if err != nil {
		panic(err)
	}
	return c
}

// memory is a router whose shards live in memory: no journal, no commit, but the rules for ids and producers.
type memory struct {
	table routing.Table

	mu        sync.Mutex
	runner    grains.Runner
	grains    map[string]*memoryGrain
	reminders []actors.PendingReminder // of boxes
	producers map[memoryProducer]*memoryLink
	index     uint64
	held      []func() // answers that wait, while hold
	hold      bool
	err       func(shard uint64) error            // of Publish
	refuse    func(shard uint64, b *actors.Batch) // may set Refused
	failed    func(r *actors.Read)                // may set Failed
	full      chan struct{}                       // while not nil, Publish with wait waits for it
	asks      []*actors.Batch                     // that wait for a reply
	order     map[uint64][]uint64                 // sequences by shard, as taken
	settled   map[string]*actors.DeadLetter       // by grain#seq
}

type memoryGrain struct {
	key     string
	kind    *grains.Definition
	state   proto.Message
	ids     map[string]actors.Result
	bodies  map[string]string
	records []actors.HistoryRecord
}

type memoryProducer struct {
	shard uint64
	id    string
}

type memoryLink struct{ epoch, link, watermark uint64 }

const memoryLineage = 7

func newMemory(shards int) *memory {
	return &memory{
		table: routing.NewTable(shards), grains: map[string]*memoryGrain{}, producers: map[memoryProducer]*memoryLink{},
		order: map[uint64][]uint64{}, settled: map[string]*actors.DeadLetter{},
	}
}

func (m *memory) Table() routing.Table { return m.table }

func (m *memory) Publish(ctx context.Context, shard uint64, b *actors.Batch, wait bool) error {
	m.mu.Lock()
	full := m.full
	m.mu.Unlock()
	if full != nil {
		if !wait {
			return routing.ErrOverloaded
		}
		select {
		case <-full:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		if err := m.err(shard); err != nil {
			return err
		}
	}
	if m.hold { // looked at late: whoever changes an event that is on its way is found out
		m.held = append(m.held, func() { m.take(shard, b); b.Done(b) })
		return nil
	}
	m.take(shard, b)
	if b.Ask && b.Refused == actors.Folded && b.Results[0].Deferred && b.Results[0].Reply == nil {
		m.asks = append(m.asks, b)
		return nil
	}
	b.Done(b)
	return nil
}

func (m *memory) take(shard uint64, b *actors.Batch) {
	b.Refused, b.Results = actors.Folded, b.Results[:0]
	if m.refuse != nil {
		if m.refuse(shard, b); b.Refused != actors.Folded {
			b.Results = nil
			return
		}
	}
	var link *memoryLink
	if l := b.Link; l != nil {
		at := memoryProducer{shard, l.Producer}
		if link = m.producers[at]; link == nil {
			link = &memoryLink{}
			m.producers[at] = link
		}
		b.Watermark, b.Epoch = link.watermark, link.epoch
		switch {
		case l.Epoch < link.epoch:
			b.Refused, b.Why, b.Results = actors.Fenced, "fenced", nil
			return
		case l.Epoch > link.epoch && l.Previous == 0:
			link.epoch = l.Epoch
		case l.Epoch != link.epoch || l.Previous == 0 || l.Previous != link.link:
			b.Refused, b.Why, b.Results = actors.Gap, "gap", nil
			return
		}
	}
	for i := range b.Events {
		e := &b.Events[i]
		if link != nil {
			link.link = e.Sequence
			m.order[shard] = append(m.order[shard], e.Sequence)
			if e.Sequence <= link.watermark {
				b.Results = append(b.Results, actors.Result{Duplicate: true, Deduplicated: true})
				continue
			}
			link.watermark = e.Sequence
		}
		b.Results = append(b.Results, m.event(e, link != nil))
	}
}

func (m *memory) event(e *actors.Event, sequenced bool) actors.Result {
	g := m.grain(e.Kind, e.Key)
	id := e.Source + "\x00" + e.ID
	if e.ID != "" && !sequenced {
		if r, ok := g.ids[id]; ok {
			if g.bodies[id] != e.Type.Name+string(e.Payload) {
				return actors.Result{Outcome: actors.Conflict, Deduplicated: true, Reason: "another body"}
			}
			r.Duplicate = true
			return r
		}
	}
	m.index++
	seq := uint64(len(g.records)) + 1
	rec := entry.Record{
		Type: entry.Input, Seq: seq, Kind: e.Kind.Name, Key: []byte(e.Key), Time: memoryTime(seq), Event: e.Type.Name, EventTime: e.Time,
		Source: e.Source, ID: []byte(e.ID), Sequence: e.Sequence, Logic: e.Kind.Version, Headers: slices.Clone(e.Headers),
		Payload: slices.Clone(e.Payload),
	}
	r := actors.Result{Seq: seq, Position: entry.Position{Lineage: memoryLineage, Index: m.index}, Deduplicated: sequenced || e.ID != ""}
	out := m.runner.Run(e.Type, grains.Input{Grain: grains.Ref{Kind: e.Kind.Name, Key: e.Key}, Seq: seq, Now: rec.Time, EventTime: e.Time}, g.state, e.Message)
	if out.Err != nil {
		rec.Type, r.Outcome, r.Reason = entry.DeadLetter, actors.DeadLettered, out.Err.Error()
		if reason, ok := grains.Rejection(out.Err); ok {
			rec.Type, r.Outcome, r.Reason = entry.Void, actors.Rejected, reason
		}
		rec.Reason = []byte(r.Reason)
	}
	if r.Reply = slices.Clone(out.Reply); len(out.Effects) > 0 {
		r.Deferred = out.Effects[0].Kind == grains.Defer
	}
	for _, fx := range out.Effects {
		rec.Effects = append(rec.Effects, entry.Effect{Type: entry.Send, Kind: fx.To.Kind, Key: []byte(fx.To.Key), Event: fx.Type, Payload: slices.Clone(fx.Payload)})
	}
	g.records = append(g.records, actors.HistoryRecord{Index: m.index, Record: rec})
	if e.ID != "" {
		g.ids[id], g.bodies[id] = r, e.Type.Name+string(e.Payload)
	}
	return r
}

// memoryTime is the journal time of a record: one a second.
func memoryTime(seq uint64) int64 { return 1_800_000_000_000_000 + int64(seq)*1_000_000 }

func (m *memory) grain(kind *grains.Definition, key string) *memoryGrain {
	name := kind.Name + "/" + key
	g := m.grains[name]
	if g == nil {
		g = &memoryGrain{key: strings.Clone(key), kind: kind, state: kind.NewState(), ids: map[string]actors.Result{}, bodies: map[string]string{}}
		m.grains[name] = g
	}
	return g
}

func (m *memory) Read(shard uint64, r *actors.Read) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		m.failed(r)
	}
	if r.Failed == actors.Folded {
		m.answer(shard, r)
	}
	if m.hold {
		m.held = append(m.held, func() { r.Done(r) })
		return nil
	}
	r.Done(r)
	return nil
}

// GiveUpRead does nothing: no read waits here.
func (m *memory) GiveUpRead(uint64, *actors.Read) {}

// Entries has none: what is subscribed to here has an end at once. The journals of subscription tests have them.
func (m *memory) Entries(_ context.Context, _ uint64, after routing.Place, _ uint64, _ int) ([]*entry.Reader, routing.Place, error) {
	return nil, after, nil
}

func (m *memory) answer(shard uint64, r *actors.Read) {
	switch {
	case r.Get != nil:
		m.get(r)
	case r.History != nil:
		m.history(r.History)
	case r.DeadLetters != nil:
		m.deadLetters(shard, r.DeadLetters)
	case r.DeadLetter != nil:
		r.Failed, r.Why = m.deadLetter(r.DeadLetter)
	case r.Reminders != nil:
		m.listReminders(shard, r.Reminders)
	case r.List != nil:
		for name, g := range m.grains {
			if !strings.HasPrefix(name, r.List.Kind+"/"+r.List.Prefix) || m.table.Shard("", r.List.Kind, g.key) != shard || g.key <= r.List.After || len(g.records) == 0 {
				continue
			}
			last := g.records[len(g.records)-1]
			r.List.Grains = append(r.List.Grains, actors.ListedGrain{Key: g.key, Seq: last.Seq, Time: last.Time})
		}
		slices.SortFunc(r.List.Grains, func(a, b actors.ListedGrain) int { return strings.Compare(a.Key, b.Key) })
		r.List.Grains = r.List.Grains[:min(r.List.Limit, len(r.List.Grains))]
	}
}

// get folds anew, which shows that records hold all there is.
func (m *memory) get(r *actors.Read) {
	g, q := m.grain(r.Get.Kind, r.Get.Key), r.Get
	state := q.Kind.NewState()
	if q.AtSeq > uint64(len(g.records)) {
		r.Failed, r.Why = actors.OutOfRange, fmt.Sprintf("there are %d records", len(g.records))
		return
	}
	for _, rec := range g.records {
		if q.AtSeq != 0 && rec.Seq > q.AtSeq || q.AtTime != 0 && rec.Time > q.AtTime {
			break
		}
		if rec.Type == entry.Input {
			t, _ := q.Kind.Event(rec.Event)
			msg, err := t.Decode(rec.Payload)
			if err != nil {
				panic(err)
			}
			m.runner.Run(t, grains.Input{Seq: rec.Seq, Now: rec.Time}, state, msg)
		}
		q.Seq, q.Time, q.Position = rec.Seq, rec.Time, entry.Position{Lineage: memoryLineage, Index: rec.Index, Ordinal: rec.Ordinal}
	}
	var err error
	if q.State, err = q.Kind.AppendState(nil, state); err != nil {
		panic(err)
	}
}

func (m *memory) history(h *actors.History) {
	h.Lineage = memoryLineage
	records := slices.Clone(m.grain(h.Kind, h.Key).records)
	if h.NewestFirst {
		slices.Reverse(records)
	}
	for _, rec := range records {
		if rec.Seq < h.From || h.To != 0 && rec.Seq > h.To {
			continue
		}
		if len(h.Records) == h.Limit {
			h.More = true
			return
		}
		h.Records = append(h.Records, rec)
	}
}

// release answers what was held, and holds no more.
func (m *memory) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, answer := range m.held {
		answer()
	}
	m.held, m.hold = nil, false
}

func (m *memory) set(change func(*memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *memory) waiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.held)
}
