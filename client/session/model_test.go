package session

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"testing"
	"time"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

// The model is a server of a few shards that may refuse, delay, apply without telling, crash and forget; and streams that
// break at any place. It keeps the rule of the protocol: of an epoch a shard takes only an unbroken chain.

const modelShards = 3

type modelShard struct {
	epoch     uint64
	cursor    uint64 // last sequence of the epoch that came, duplicates too
	watermark uint64
	log       []uint64          // sequences applied, in order
	void      map[uint64]bool   // those of them that the grain rejected
	ids       map[uint64]string // what was applied
}

// modelPart is what one batch has for one shard.
type modelPart struct {
	shard     int
	first     bool
	link      uint64
	sequences []uint64
	indexes   []uint32
	events    []*granaryv1.Event
}

type modelBatch struct {
	number uint64
	result *granaryv1.BatchResult
	parts  []*modelPart // not handled yet
}

// modelStream is a stream at the server. Requests that it has not read yet survive a break or not, as does nothing else.
type modelStream struct {
	epoch    uint64
	requests []*granaryv1.PublishStreamRequest
	links    [modelShards]uint64
	pending  []*modelBatch
	answered []*granaryv1.BatchResult
	done     map[uint64]bool
	floor    uint64
	answers  []*granaryv1.PublishStreamResponse // on their way to the client
	broken   bool
}

// model is the server, the network and the publisher, with one session between them.
type model struct {
	t       *rapid.T
	now     time.Time
	session *Session
	shards  [modelShards]*modelShard
	streams []*modelStream // all that still can do something at the server
	current *modelStream   // the one that the session has open
	wake    time.Time
	lenient bool // the gateway now passes what it refused before: it was too early

	published []*granaryv1.Event // by sequence, from 1
	outcomes  map[uint64]error
	sentUpTo  uint64 // on the current stream
	stopped   error
}

// Kinds of events: fine, refused by the gateway at first, refused by the grain.
var modelTypes = []string{"fine", "fine", "fine", "fine", "early", "reject"}

func newModel(t *rapid.T) *model {
	m := &model{t: t, now: time.Unix(0, 0), outcomes: map[uint64]error{}}
	for i := range m.shards {
		m.shards[i] = &modelShard{void: map[uint64]bool{}, ids: map[uint64]string{}}
	}
	m.session = New(Config{
		Producer: "p", Epoch: 1, FirstSequence: 1,
		Window:    rapid.IntRange(1, 6).Draw(t, "window"),
		MaxEvents: rapid.IntRange(1, 4).Draw(t, "maxEvents"), MaxBytes: 1000,
		Linger:     time.Duration(rapid.IntRange(0, 2).Draw(t, "linger")) * time.Millisecond,
		MinBackoff: 2 * time.Millisecond, MaxBackoff: 20 * time.Millisecond,
		Jitter: func() float64 { return 0.5 },
	})
	return m
}

func (m *model) event() *granaryv1.Event {
	n := len(m.published) + 1
	e := &granaryv1.Event{
		Id: strconv.Itoa(n), Type: rapid.SampledFrom(modelTypes).Draw(m.t, "type"),
		Grain: strconv.Itoa(rapid.IntRange(0, modelShards-1).Draw(m.t, "shard")),
	}
	m.published = append(m.published, e)
	return e
}

func (m *model) step(in Input) {
	e := m.session.Step(m.now, in)
	if e.Close {
		m.leave()
	}
	if e.Open != 0 {
		if m.current != nil {
			m.t.Fatalf("opened epoch %d while %d was open", e.Open, m.current.epoch)
		}
		m.current = &modelStream{epoch: e.Open, done: map[uint64]bool{}}
		m.streams = append(m.streams, m.current)
		m.sentUpTo = 0
	}
	for _, r := range e.Send {
		if m.current == nil {
			m.t.Fatalf("sent without a stream")
		}
		if r.FirstSequence <= m.sentUpTo {
			m.t.Fatalf("sent sequence %d after %d on the stream of epoch %d", r.FirstSequence, m.sentUpTo, m.current.epoch)
		}
		m.sentUpTo = r.FirstSequence + uint64(len(r.Events)) - 1
		m.current.requests = append(m.current.requests, r)
	}
	if m.current != nil {
		in := len(m.current.requests) + len(m.current.pending) + len(m.current.answered)
		if in > m.session.cfg.Window {
			m.t.Fatalf("%d batches are unanswered, the window is %d", in, m.session.cfg.Window)
		}
	}
	m.wake, m.stopped = e.Wake, e.Stopped
	for _, d := range e.Done {
		m.finish(d)
	}
}

// finish checks an outcome against what the shards hold at this moment: an acknowledgement must be true when it is given.
func (m *model) finish(d Outcome) {
	told := map[int]error{}
	for i, x := range d.Exceptions {
		if i > 0 && d.Exceptions[i-1].Index >= x.Index {
			m.t.Fatalf("exceptions out of order: %v", d.Exceptions)
		}
		told[x.Index] = x.Err
	}
	for i := range d.Events {
		sequence := d.First + uint64(i)
		event := m.published[sequence-1]
		if _, twice := m.outcomes[sequence]; twice {
			m.t.Fatalf("event %d got two outcomes", sequence)
		}
		m.outcomes[sequence] = told[i]
		ref := d.Ref
		if d.Refs != nil {
			ref = d.Refs[i]
		} else {
			ref = ref.([]string)[i]
		}
		if ref != event.Id {
			m.t.Fatalf("event %s got the outcome of %v", event.Id, ref)
		}
		shard := m.shards[shardOf(event)]
		id, applied := shard.ids[sequence]
		switch {
		case applied && id != event.Id:
			m.t.Fatalf("sequence %d is event %s at the shard", sequence, id)
		case told[i] == nil && (!applied || shard.void[sequence]):
			m.t.Fatalf("event %d is called folded, but it is not", sequence)
		case told[i] != nil && event.Type == "fine":
			m.t.Fatalf("event %d was refused: %v", sequence, told[i])
		case told[i] != nil && event.Type == "reject" && !shard.void[sequence]:
			m.t.Fatalf("event %d is called rejected, but it is not journaled as that", sequence)
		}
	}
}

func shardOf(e *granaryv1.Event) int {
	n, _ := strconv.Atoi(e.Grain)
	return n
}

// leave breaks the current stream. The server may still read what is on the way.
func (m *model) leave() {
	if m.current == nil {
		return
	}
	m.current.broken = true
	m.current = nil
}

// read lets the server take the next request of a stream and hand its parts to the shards.
func (m *model) read(s *modelStream) {
	r := s.requests[0]
	s.requests = s.requests[1:]
	if first := len(s.done) == 0 && len(s.pending) == 0 && len(s.answered) == 0 && s.floor == 0; first != (r.Producer != nil) {
		m.t.Fatalf("batch %d of the stream: producer is %v", r.Batch, r.Producer)
	}
	b := &modelBatch{number: r.Batch, result: &granaryv1.BatchResult{Batch: r.Batch, Events: uint32(len(r.Events))}}
	var parts [modelShards]*modelPart
	for i, e := range r.Events {
		if e.Type == "early" && !m.lenient {
			b.refuse(uint32(i), "INVALID_ARGUMENT")
			continue
		}
		n := shardOf(e)
		if parts[n] == nil {
			parts[n] = &modelPart{shard: n, first: s.links[n] == 0, link: s.links[n]}
			b.parts = append(b.parts, parts[n])
		}
		p := parts[n]
		p.sequences = append(p.sequences, r.FirstSequence+uint64(i))
		p.indexes = append(p.indexes, uint32(i))
		p.events = append(p.events, e)
		s.links[n] = r.FirstSequence + uint64(i)
	}
	s.pending = append(s.pending, b)
	m.collect(s)
}

func (b *modelBatch) refuse(index uint32, why string) {
	b.result.Exceptions = append(b.result.Exceptions, &granaryv1.BatchException{
		Index: index, Result: &granaryv1.Result{Status: status.Convert(parseStatus(why)).Proto()},
	})
}

// handle gives a part to its shard. trouble is what goes wrong on the way: nothing (0), the shard is not reached (1), its
// answer is lost (2).
func (m *model) handle(s *modelStream, b *modelBatch, part, trouble int) {
	p := b.parts[part]
	b.parts = slices.Delete(b.parts, part, part+1)
	if trouble == 1 {
		for _, i := range p.indexes {
			b.refuse(i, rapid.SampledFrom([]string{"UNAVAILABLE", "RESOURCE_EXHAUSTED"}).Draw(m.t, "status"))
		}
		m.collect(s)
		return
	}
	shard := m.shards[p.shard]
	why := ""
	switch {
	case s.epoch < shard.epoch:
		why = "PRODUCER_FENCED"
	case s.epoch > shard.epoch && !p.first, s.epoch == shard.epoch && p.link != shard.cursor:
		why = "PRODUCER_GAP"
	}
	if why != "" {
		for _, i := range p.indexes {
			b.refuse(i, why)
		}
		m.collect(s)
		return
	}
	shard.epoch = s.epoch
	for i, sequence := range p.sequences {
		shard.cursor = sequence
		duplicate := sequence <= shard.watermark
		if !duplicate {
			shard.watermark = sequence
			shard.log = append(shard.log, sequence)
			shard.ids[sequence] = p.events[i].Id
			shard.void[sequence] = p.events[i].Type == "reject"
		}
		switch _, held := shard.ids[sequence]; {
		case trouble == 2:
			b.refuse(p.indexes[i], "UNAVAILABLE")
		case !held:
			// The gateway refused it on an earlier stream, whose answer was lost, and passes it now. Its place in the
			// order is gone: a server that called it a duplicate would lose it.
			b.refuse(p.indexes[i], "INVALID_ARGUMENT")
		case shard.void[sequence]:
			b.refuse(p.indexes[i], "REJECTED")
		case duplicate:
			b.result.Duplicates++
		}
	}
	m.collect(s)
}

// collect moves batches that are complete to the answered ones.
func (m *model) collect(s *modelStream) {
	s.pending = slices.DeleteFunc(s.pending, func(b *modelBatch) bool {
		if len(b.parts) > 0 {
			return false
		}
		slices.SortFunc(b.result.Exceptions, func(x, y *granaryv1.BatchException) int { return int(x.Index) - int(y.Index) })
		s.answered = append(s.answered, b.result)
		s.done[b.number] = true
		return true
	})
}

// answer sends the client what is answered.
func (m *model) answer(s *modelStream) {
	for s.done[s.floor+1] {
		s.floor++
	}
	s.answers = append(s.answers, &granaryv1.PublishStreamResponse{Floor: s.floor, Batches: s.answered})
	s.answered = nil
}

// work lets one stream at the server do one thing; false if it has nothing to do.
func (m *model) work(s *modelStream, healthy bool) bool {
	var able []func()
	if len(s.requests) > 0 {
		able = append(able, func() { m.read(s) })
	}
	// The parts for one shard come to it in order; those for different shards in any.
	var taken [modelShards]bool
	for _, b := range s.pending {
		for i, p := range b.parts {
			if !taken[p.shard] {
				taken[p.shard] = true
				able = append(able, func() {
					trouble := 0
					if !healthy {
						trouble = max(0, rapid.IntRange(-4, 2).Draw(m.t, "trouble"))
					}
					m.handle(s, b, i, trouble)
				})
			}
		}
	}
	if len(s.answered) > 0 && !s.broken {
		able = append(able, func() { m.answer(s) })
	}
	if len(s.answers) > 0 && !s.broken {
		able = append(able, func() {
			r := s.answers[0]
			s.answers = s.answers[1:]
			m.step(Received{Epoch: s.epoch, Response: r})
		})
	}
	if len(able) == 0 {
		return false
	}
	able[rapid.IntRange(0, len(able)-1).Draw(m.t, "work")]()
	return true
}

func (m *model) breakStream(err error) {
	if s := m.current; s != nil {
		keep := rapid.IntRange(0, len(s.requests)).Draw(m.t, "arrive")
		s.requests = s.requests[:keep]
		m.leave()
		m.step(Lost{Epoch: s.epoch, Err: err})
	}
}

// crash loses what the server has in memory: all streams, and how far the chains of the epoch had come.
func (m *model) crash() {
	m.breakStream(io.EOF)
	m.streams = nil
	for _, s := range m.shards {
		s.cursor = s.watermark
	}
}

func (m *model) tick() {
	if !m.wake.IsZero() && m.wake.After(m.now) {
		m.now = m.wake
	}
	m.step(Tick{})
}

// check looks at the logs of the shards: each event once, in order, nothing that was refused.
func (m *model) check() {
	for n, s := range m.shards {
		for i, sequence := range s.log {
			if i > 0 && s.log[i-1] >= sequence {
				m.t.Fatalf("shard %d applied %v", n, s.log)
			}
		}
	}
	for sequence, err := range m.outcomes {
		e := m.published[sequence-1]
		if _, applied := m.shards[shardOf(e)].ids[sequence]; applied && err != nil && e.Type == "early" {
			m.t.Fatalf("event %d was refused (%v) and then applied", sequence, err)
		}
	}
	if m.stopped != nil {
		m.t.Fatalf("the session stopped: %v", m.stopped)
	}
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(*rapid.T) {
				e := m.event()
				m.step(Event{Event: e, Bytes: 10, Ref: e.Id})
			},
			"batch": func(t *rapid.T) {
				var events []*granaryv1.Event
				var refs []string
				for range rapid.IntRange(1, 5).Draw(t, "events") {
					e := m.event()
					events, refs = append(events, e), append(refs, e.Id)
				}
				m.step(Batch{Events: events, Ref: refs})
			},
			"flush": func(*rapid.T) { m.step(Flush{}) },
			"tick":  func(*rapid.T) { m.tick() },
			"work": func(t *rapid.T) {
				for range rapid.IntRange(1, 8).Draw(t, "times") {
					if len(m.streams) > 0 {
						m.work(m.streams[rapid.IntRange(0, len(m.streams)-1).Draw(t, "stream")], false)
					}
				}
			},
			"late": func(t *rapid.T) {
				// What the runner had read from a stream before it was left comes late, or its end does.
				for _, s := range m.streams {
					if s.broken && len(s.answers) > 0 {
						r := s.answers[0]
						s.answers = s.answers[1:]
						m.step(Received{Epoch: s.epoch, Response: r})
						m.step(Lost{Epoch: s.epoch, Err: io.EOF})
						return
					}
				}
			},
			"break": func(*rapid.T) { m.breakStream(parseStatus("UNAVAILABLE")) },
			"crash": func(*rapid.T) { m.crash() },
			"pass":  func(*rapid.T) { m.lenient = true },
			"":      func(*rapid.T) { m.check() },
		})
		m.heal()
		for i, e := range m.published {
			if _, ok := m.outcomes[uint64(i+1)]; !ok {
				t.Fatalf("event %s never got an outcome", e.Id)
			}
		}
		m.check()
	})
}

// heal lets everything go well until nothing is left to do.
func (m *model) heal() {
	m.step(Flush{})
	for range 100_000 {
		busy := false
		for _, s := range m.streams {
			busy = m.work(s, true) || busy
		}
		if !busy {
			if len(m.outcomes) == len(m.published) {
				return
			}
			if m.wake.IsZero() {
				m.t.Fatalf("%s", m.stuck())
			}
			m.tick()
		}
	}
	m.t.Fatalf("no end: %s", m.stuck())
}

func (m *model) stuck() string {
	return fmt.Sprintf("%d of %d events have an outcome and nothing is going on", len(m.outcomes), len(m.published))
}
