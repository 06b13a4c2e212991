package session_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	"github.com/granary-dev/granary/gateway/session"
	"github.com/granary-dev/granary/grains"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

const shards = 4

var (
	start = time.Unix(1_800_000_000, 0)
	table = routing.NewTable(shards)
	kinds = func() *grains.Catalog {
		kind := grains.Kind[*accountv1.Account]{Name: "box", Version: 1, Handlers: grains.Handlers[*accountv1.Account]{
			grains.On(func(*grains.Turn, *accountv1.Account, *emptypb.Empty) error { return nil }),
		}}
		c, err := grains.NewCatalog(kind.MustDefine())
		if err != nil {
			panic(err)
		}
		return c
	}()
	taker = intake.New(kinds, table)
	// keys are grains by their shard.
	keys = func() map[uint64]string {
		out := map[uint64]string{}
		for i := 0; len(out) < shards; i++ {
			if s := table.Shard("", "box", fmt.Sprint(i)); out[s] == "" {
				out[s] = fmt.Sprint("box/", i)
			}
		}
		return out
	}()
)

// group is a batch of events: a number is one for that shard, 0 one that the gateway refuses.
func group(firstSequence uint64, to ...uint64) (*intake.Group, *answer.Refusal) {
	req := &intake.Request{FirstSequence: firstSequence}
	for i, shard := range to {
		req.Events = append(req.Events, &granaryv1.Event{Grain: keys[shard], Type: "Empty", Id: fmt.Sprint(i), Payload: &granaryv1.Event_Protobuf{}})
	}
	g := intake.NewGroup()
	if r := taker.Take(req, start, g); r != nil {
		g.Release()
		return nil, r
	}
	return g, nil
}

// reason is the word in a status's ErrorInfo.
func reason(s *spb.Status) string {
	for _, d := range s.GetDetails() {
		info := &errdetails.ErrorInfo{}
		if d.UnmarshalTo(info) == nil {
			return info.Reason
		}
	}
	return ""
}

// script runs one session by hand.
type script struct {
	machine *session.Session
	now     time.Time
	fx      session.Effects
	parts   map[string]*intake.Part // by "batch/shard"
}

// TestScripts: what the machine does, step by step. See testdata/scripts for the commands by example.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := &script{now: start, parts: map[string]*intake.Part{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(t, d)
		})
	})
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.now = s.now.Add(time.Millisecond)
	switch d.Cmd {
	case "session":
		window, cost := 4, 1000
		d.MaybeScanArgs(t, "window", &window)
		d.MaybeScanArgs(t, "cost", &cost)
		s.machine = session.New(session.Config{Shards: shards, Window: window, MaxCost: cost, Done: func(*intake.Part) {}})
		return ""
	case "request":
		return s.request(t, d)
	case "done":
		p := s.take(d.CmdArgs[0].Key)
		s.answer(t, d, p)
		s.machine.Step(s.now, session.Done{Part: p}, &s.fx)
	case "refused":
		var why string
		d.ScanArgs(t, "reason", &why)
		s.machine.Step(s.now, &session.Refused{Part: s.take(d.CmdArgs[0].Key), Reason: &answer.Refusal{Code: codes.Unavailable, Reason: why, Message: "as told"}}, &s.fx)
	case "end":
		s.machine.Step(s.now, session.End{}, &s.fx)
	case "stop":
		s.machine.Step(s.now, session.Stop{Reason: answer.Stopping()}, &s.fx)
	case "write":
		s.machine.Step(s.now, session.Writable{}, &s.fx)
		return s.written() + s.state()
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
	return s.state()
}

func (s *script) request(t *testing.T, d *datadriven.TestData) string {
	var r session.Request
	var producer string
	var epoch uint64
	d.MaybeScanArgs(t, "batch", &r.Batch)
	d.MaybeScanArgs(t, "sequence", &r.FirstSequence)
	if d.MaybeScanArgs(t, "producer", &producer); d.HasArg("producer") {
		d.MaybeScanArgs(t, "epoch", &epoch)
		r.Producer = &granaryv1.Producer{Id: producer, Epoch: epoch}
	}
	if d.HasArg("events") {
		var to []uint64
		arg, _ := d.Arg("events")
		for _, v := range arg.Vals {
			var shard uint64
			if _, err := fmt.Sscan(v, &shard); err != nil {
				t.Fatal(err)
			}
			to = append(to, shard)
		}
		r.Group, r.Refusal = group(r.FirstSequence, to...)
		r.Cost = 100
	}
	s.machine.Step(s.now, &r, &s.fx)
	var out strings.Builder
	for _, p := range s.fx.Route {
		fmt.Fprintf(&out, "route %d/%d events %v", p.Group.Number, p.Shard, p.Index)
		if l := p.Batch.Link; l != nil {
			fmt.Fprintf(&out, " of %s epoch %d behind %d", l.Producer, l.Epoch, l.Previous)
		}
		out.WriteByte('\n')
		s.parts[fmt.Sprintf("%d/%d", p.Group.Number, p.Shard)] = p
	}
	return out.String() + s.state()
}

func (s *script) take(name string) *intake.Part {
	p := s.parts[name]
	delete(s.parts, name)
	return p
}

// answer plays the shard.
func (s *script) answer(t *testing.T, d *datadriven.TestData, p *intake.Part) {
	b := &p.Batch
	outcomes := map[string]actors.Outcome{"gap": actors.Gap, "fenced": actors.Fenced, "unavailable": actors.Unavailable, "rejected": actors.Rejected, "conflict": actors.Conflict}
	for _, a := range d.CmdArgs[1:] {
		if a.Key == "watermark" || a.Key == "epoch" {
			var n uint64
			d.ScanArgs(t, a.Key, &n)
			b.Watermark, b.Epoch = n, n
		} else if o := outcomes[a.Key]; o >= actors.Fenced {
			b.Refused, b.Why = o, "as told"
		}
	}
	if b.Refused != actors.Folded {
		b.Results = nil
		return
	}
	for i := range b.Events {
		r := actors.Result{Seq: uint64(i + 1), Deduplicated: true}
		for _, a := range d.CmdArgs[1:] {
			if a.Key == "duplicate" {
				r.Duplicate = true
			} else if i == 0 {
				r.Outcome, r.Reason = outcomes[a.Key], "as told"
			}
		}
		b.Results = append(b.Results, r)
	}
}

func (s *script) written() string {
	var out strings.Builder
	if r := s.fx.Response; r != nil {
		fmt.Fprintf(&out, "response floor %d\n", r.Floor)
		for i, b := range r.Batches {
			fmt.Fprintf(&out, "  batch %d: %d events, %d duplicates, after %v\n", b.Batch, b.Events, b.Duplicates, s.fx.Waited[i])
			for _, x := range b.Exceptions {
				fmt.Fprintf(&out, "    %d: %v %s\n", x.Index, codes.Code(x.Result.Status.Code), reason(x.Result.Status))
			}
		}
	}
	if s.fx.Closed {
		out.WriteString("closed: ")
		if r := s.fx.Status; r != nil {
			fmt.Fprintf(&out, "%v %s %q %v\n", r.Code, r.Reason, r.Message, r.Metadata)
		} else {
			out.WriteString("OK\n")
		}
	}
	return out.String()
}

func (s *script) state() string {
	var words []string
	if s.fx.Released > 0 {
		words = append(words, fmt.Sprintf("released %d", s.fx.Released))
	}
	for word, is := range map[string]bool{"halted": s.machine.Halted(), "due": s.machine.Due(), "no room": !s.machine.Room()} {
		if is {
			words = append(words, word)
		}
	}
	slices.Sort(words)
	return strings.Join(append(words, fmt.Sprintf("%d parts out", s.machine.Parts())), ", ") + "\n"
}

// TestAnyOrder drives a session with random batches, random answers in random order and random moments to write, and
// holds it to its invariants.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		actions := map[string]func(*rapid.T){
			"request": m.request, "done": m.done, "write": m.write, "end": m.end, "stop": m.stop, "": m.check,
		}
		t.Repeat(actions)
		m.finish(t)
	})
}

// model remembers what went in and what came out.
type model struct {
	machine   *session.Session
	fx        session.Effects
	producer  bool
	window    int
	next      uint64
	sequence  uint64
	sent      map[uint64]*batchModel // by number
	out       []*intake.Part         // with the shards, in the order in which they were handed out
	chain     [shards + 1]uint64     // sequence of the last event handed to a shard
	floor     uint64
	answered  map[uint64]bool
	cost      int
	broken    bool // a shard refused a part of a producer
	stopping  bool
	ended     bool
	malformed bool
	closed    bool
}

type batchModel struct {
	size       int
	pending    int
	void       bool
	exceptions map[uint32]bool
	duplicates uint32
}

func newModel(t *rapid.T) *model {
	m := &model{
		producer: rapid.Bool().Draw(t, "producer"), window: rapid.IntRange(1, 8).Draw(t, "window"),
		sent: map[uint64]*batchModel{}, answered: map[uint64]bool{},
	}
	m.machine = session.New(session.Config{Shards: shards, Window: m.window, MaxCost: rapid.IntRange(1, 1000).Draw(t, "cost"), Done: func(*intake.Part) {}})
	m.next = rapid.Uint64Range(1, 1<<40).Draw(t, "first batch")
	m.floor = m.next - 1
	if m.producer {
		m.machine.Step(start, &session.Request{Producer: &granaryv1.Producer{Id: "p", Epoch: 1}}, &m.fx)
	}
	return m
}

func (m *model) request(t *rapid.T) {
	if !m.machine.Room() {
		return
	}
	to := rapid.SliceOfN(rapid.Uint64Range(0, shards), 1, 12).Draw(t, "events")
	r := &session.Request{Batch: m.next, Cost: 10}
	if m.producer {
		m.sequence += rapid.Uint64Range(1, 3).Draw(t, "gap in sequences")
		r.FirstSequence = m.sequence
		m.sequence += uint64(len(to)) - 1
	}
	if rapid.IntRange(0, 30).Draw(t, "wrong number") == 0 && len(m.sent) > 0 {
		r.Batch += 2
		m.malformed = true
	}
	r.Group, _ = group(r.FirstSequence, to...)
	m.machine.Step(start, r, &m.fx)
	m.cost += r.Cost - m.fx.Released
	if m.malformed {
		if len(m.fx.Route) != 0 {
			t.Fatal("a malformed batch is handed out")
		}
		return
	}
	b := &batchModel{size: len(to), exceptions: map[uint32]bool{}}
	for i, shard := range to {
		if shard == 0 {
			b.exceptions[uint32(i)] = true
		}
	}
	m.sent[m.next] = b
	m.next++
	m.routed(t, r, b, to)
}

// routed checks what is handed out: every good event once, at its shard, in order, with the right link.
func (m *model) routed(t *rapid.T, r *session.Request, b *batchModel, to []uint64) {
	seen := map[int32]bool{}
	for _, p := range m.fx.Route {
		b.pending++
		last := int32(-1)
		for n, i := range p.Index {
			if to[i] != p.Shard || i <= last || seen[i] {
				t.Fatalf("event %d is for shard %d, and is handed to %d behind %d", i, to[i], p.Shard, last)
			}
			last, seen[i] = i, true
			if m.producer && p.Batch.Events[n].Sequence != r.FirstSequence+uint64(i) {
				t.Fatalf("event %d has sequence %d", i, p.Batch.Events[n].Sequence)
			}
		}
		if (p.Batch.Link != nil) != m.producer {
			t.Fatalf("link %v", p.Batch.Link)
		}
		if m.producer {
			if p.Batch.Link.Previous != m.chain[p.Shard] {
				t.Fatalf("the link to shard %d names %d, and %d was the last there", p.Shard, p.Batch.Link.Previous, m.chain[p.Shard])
			}
			m.chain[p.Shard] = p.Batch.Events[len(p.Batch.Events)-1].Sequence
		}
		m.out = append(m.out, p)
	}
	if len(seen)+len(b.exceptions) != b.size {
		t.Fatalf("%d of %d events are handed out, %d are wrong", len(seen), b.size, len(b.exceptions))
	}
}

// done lets a shard answer any part that is with one; in order for each shard, as shards do.
func (m *model) done(t *rapid.T) {
	if len(m.out) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.out)-1).Draw(t, "part")
	i = slices.IndexFunc(m.out, func(p *intake.Part) bool { return p.Shard == m.out[i].Shard })
	p := m.out[i]
	m.out = slices.Delete(m.out, i, i+1)
	b := m.sent[p.Group.Number]
	b.pending--
	refuse := rapid.IntRange(0, 15).Draw(t, "refuse") == 0
	switch {
	case refuse && m.producer:
		b.void, m.broken = true, true
		p.Batch.Refused, p.Batch.Results = actors.Gap, nil
	case refuse:
		p.Batch.Refused, p.Batch.Results = actors.Unavailable, nil
		for _, i := range p.Index {
			b.exceptions[uint32(i)] = true
		}
	default:
		for _, i := range p.Index {
			r := actors.Result{Duplicate: rapid.Bool().Draw(t, "duplicate")}
			if r.Duplicate {
				b.duplicates++
			}
			if rapid.IntRange(0, 10).Draw(t, "reject") == 0 {
				r.Outcome = actors.Rejected
				b.exceptions[uint32(i)] = true
			}
			p.Batch.Results = append(p.Batch.Results, r)
		}
	}
	if refuse && rapid.Bool().Draw(t, "by the router") {
		m.machine.Step(start, &session.Refused{Part: p, Reason: &answer.Refusal{Code: codes.Unavailable, Reason: "TOLD"}}, &m.fx)
	} else {
		m.machine.Step(start, session.Done{Part: p}, &m.fx)
	}
}

func (m *model) write(t *rapid.T) {
	if m.closed {
		return
	}
	due := m.machine.Due()
	m.machine.Step(start, session.Writable{}, &m.fx)
	m.cost -= m.fx.Released
	if due != (m.fx.Response != nil || m.fx.Closed) {
		t.Fatalf("due %v, wrote %v, closed %v", due, m.fx.Response, m.fx.Closed)
	}
	if r := m.fx.Response; r != nil {
		m.response(t, r)
	}
	if m.fx.Closed {
		m.closed = true
		m.checkClosed(t)
	}
}

func (m *model) response(t *rapid.T, r *granaryv1.PublishStreamResponse) {
	for _, res := range r.Batches {
		b := m.sent[res.Batch]
		switch {
		case b == nil:
			t.Fatalf("batch %d was never sent", res.Batch)
		case m.answered[res.Batch]:
			t.Fatalf("batch %d is answered twice", res.Batch)
		case b.pending > 0:
			t.Fatalf("batch %d is answered while %d parts are out", res.Batch, b.pending)
		case b.void:
			t.Fatalf("batch %d has no outcome and is answered", res.Batch)
		case int(res.Events) != b.size || res.Duplicates != b.duplicates:
			t.Fatalf("batch %d of %d events and %d duplicates: %v", res.Batch, b.size, b.duplicates, res)
		}
		m.answered[res.Batch] = true
		last := -1
		for _, x := range res.Exceptions {
			if int(x.Index) <= last || !b.exceptions[x.Index] || x.Result.Status.GetCode() == 0 {
				t.Fatalf("batch %d: exception %v behind %d, want %v", res.Batch, x, last, b.exceptions)
			}
			last = int(x.Index)
		}
		if len(res.Exceptions) != len(b.exceptions) {
			t.Fatalf("batch %d: %d exceptions of %d", res.Batch, len(res.Exceptions), len(b.exceptions))
		}
	}
	floor := m.floor
	for m.answered[floor+1] {
		floor++
	}
	if r.Floor != floor && len(m.sent) > 0 {
		t.Fatalf("floor %d, want %d", r.Floor, floor)
	}
	m.floor = floor
}

func (m *model) checkClosed(t *rapid.T) {
	for number, b := range m.sent {
		if m.answered[number] == b.void || b.pending > 0 {
			t.Fatalf("closed, and batch %d is answered: %v, void: %v, parts out: %d", number, m.answered[number], b.void, b.pending)
		}
	}
	status := m.fx.Status
	switch {
	case m.broken || m.malformed:
		if status == nil {
			t.Fatal("closed with OK")
		}
	case m.ended && !m.stopping:
		if status != nil {
			t.Fatalf("closed with %v", status)
		}
	case !m.stopping && !m.ended:
		t.Fatal("closed for no reason")
	}
}

func (m *model) end(t *rapid.T) {
	if m.ended || rapid.IntRange(0, 10).Draw(t, "really") != 0 {
		return
	}
	m.ended = true
	m.machine.Step(start, session.End{}, &m.fx)
}

func (m *model) stop(t *rapid.T) {
	if m.ended || rapid.IntRange(0, 10).Draw(t, "really") != 0 {
		return
	}
	m.stopping = true
	m.machine.Step(start, session.Stop{Reason: answer.Stopping()}, &m.fx)
}

// check is what holds after every step.
func (m *model) check(t *rapid.T) {
	if m.machine.Parts() != len(m.out) {
		t.Fatalf("%d parts are out, the machine thinks %d", len(m.out), m.machine.Parts())
	}
	if m.machine.Halted() != m.broken {
		t.Fatalf("halted %v, broken %v", m.machine.Halted(), m.broken)
	}
	over := m.broken || m.stopping || m.ended || m.malformed
	if room := m.machine.Room(); room && (over || m.next-m.floor > uint64(m.window)) {
		t.Fatalf("room for batch %d above floor %d with a window of %d", m.next, m.floor, m.window)
	}
	unanswered := 0
	for number, b := range m.sent {
		if !m.answered[number] && !b.void {
			unanswered++
		}
	}
	if unanswered > m.window {
		t.Fatalf("%d batches are unanswered with a window of %d", unanswered, m.window)
	}
	if !over && unanswered == 0 && !m.machine.Room() {
		t.Fatal("everything is answered, and there is no room")
	}
}

// finish lets everything that is out come back, and sees that all is said then.
func (m *model) finish(t *rapid.T) {
	if !m.ended {
		m.ended = true
		m.machine.Step(start, session.End{}, &m.fx)
	}
	for len(m.out) > 0 {
		m.done(t)
	}
	for i := 0; !m.closed; i++ {
		if i > len(m.sent)+1 {
			t.Fatalf("not closed; answered %v of %v", slices.Sorted(maps.Keys(m.answered)), slices.Sorted(maps.Keys(m.sent)))
		}
		m.write(t)
	}
	void := 0
	for _, b := range m.sent {
		if b.void {
			void++
		}
	}
	if m.cost != 10*void {
		t.Fatalf("cost %d was not given back, for %d batches without outcome", m.cost, void)
	}
}

// TestResponsesAreBounded: many exceptions make several responses, each within what clients take.
func TestResponsesAreBounded(t *testing.T) {
	s := session.New(session.Config{Shards: shards, Window: 256, MaxCost: 1 << 30, Done: func(*intake.Part) {}})
	var fx session.Effects
	for i := range uint64(50) {
		g, _ := group(0, make([]uint64, 1000)...)
		s.Step(start, &session.Request{Batch: i + 1, Group: g, Cost: 1}, &fx)
	}
	responses := 0
	for s.Due() {
		s.Step(start, session.Writable{}, &fx)
		if size := fx.Response.SizeVT(); size > 2<<20 {
			t.Errorf("a response of %d bytes", size)
		}
		responses++
	}
	if responses < 2 || fx.Response.Floor != 50 {
		t.Errorf("%d responses up to %d", responses, fx.Response.Floor)
	}
}
