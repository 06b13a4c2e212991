package node_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/verify"
)

// trap is a kind whose handler hangs at some events until it is released, and then does harm if anybody lets it: it writes
// to its state, sends and panics.
type trap struct {
	release chan struct{}
	hanging atomic.Int32
	kind    *grains.Definition
	catalog *grains.Catalog
}

func newTrap(t testing.TB) *trap {
	p := &trap{release: make(chan struct{})}
	p.kind = grains.Kind[*wrapperspb.Int64Value]{Name: "trap", Version: 1, Handlers: grains.Handlers[*wrapperspb.Int64Value]{
		grains.On(func(u *grains.Turn, s *wrapperspb.Int64Value, e *wrapperspb.StringValue) error {
			what, to, _ := strings.Cut(e.GetValue(), " ")
			switch what {
			case "hang":
				p.hanging.Add(1)
				defer p.hanging.Add(-1)
				<-p.release
				s.Value += 1000
				u.Send("trap/harmed", wrapperspb.String("add"))
				if to == "panic" {
					panic("late")
				}
				return nil
			case "send":
				u.Send(to, wrapperspb.String("hang"))
			case "reject":
				return grains.Reject("no")
			}
			s.Value++
			return nil
		}),
	}}.MustDefine()
	var err error
	if p.catalog, err = grains.NewCatalog(p.kind); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *trap) event(key, id, what string) actors.Event {
	typ := p.kind.Events()[0]
	msg := wrapperspb.String(what)
	payload, err := typ.Append(nil, msg)
	if err != nil {
		panic(err)
	}
	e := actors.Event{Kind: p.kind, Key: key, Type: typ, Message: msg, Payload: payload, ID: id}
	if id != "" {
		e.Source = "test"
	}
	return e
}

func (p *trap) start(t testing.TB, fs vfs.FS, log *bytes.Buffer) *node.Node {
	t.Helper()
	o := node.Options{DataDir: "data", FS: fs, Catalog: p.catalog, Shards: 4, TurnLimit: 200 * time.Millisecond}
	if log != nil {
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
	}
	n, err := node.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (p *trap) value(t testing.TB, n *node.Node, key string) int64 {
	t.Helper()
	g := &actors.Get{Kind: p.kind, Key: key}
	done := make(chan struct{})
	r := &actors.Read{Get: g, Done: func(*actors.Read) { close(done) }}
	if err := n.Read(n.Table().Shard("", "trap", key), r); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("no answer to a read")
	}
	if r.Failed != actors.Folded {
		t.Fatalf("a read of %s: %v %s", key, r.Failed, r.Why)
	}
	var v wrapperspb.Int64Value
	if err := proto.Unmarshal(g.State, &v); err != nil {
		t.Fatal(err)
	}
	return v.GetValue()
}

// hangs waits until a handler hangs.
func (p *trap) hangs() {
	for p.hanging.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
}

// batch hands events of one shard in, all in one batch.
func batch(t testing.TB, n *node.Node, link *actors.Link, events ...actors.Event) *waiting {
	t.Helper()
	w := &waiting{Batch: &actors.Batch{Link: link, Events: events}, done: make(chan struct{})}
	w.Done = func(*actors.Batch) {
		if w.n.Add(1) == 1 {
			close(w.done)
		} else {
			t.Error("a batch is answered twice")
		}
	}
	e := events[0]
	if err := n.Publish(context.Background(), n.Table().Shard("", e.Kind.Name, e.Key), w.Batch, true); err != nil {
		t.Fatal(err)
	}
	return w
}

func (p *trap) keyOn(n *node.Node, shard uint64, more string) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint(more, i); n.Table().Shard("", "trap", key) == shard {
			return key
		}
	}
}

// TestHangingTurn: a turn that does not end is given up. Its event is dead-lettered at once, what stands beside it in the
// batch and in the shard is folded once, other shards do not notice, and what the handler does when it returns after all
// reaches nobody.
func TestHangingTurn(t *testing.T) {
	p := newTrap(t)
	fs := vfs.NewMem()
	var log bytes.Buffer
	n := p.start(t, fs, &log)
	a, b, c := p.keyOn(n, 1, "a"), p.keyOn(n, 1, "b"), p.keyOn(n, 2, "c")
	for range 3 {
		batch(t, n, nil, p.event(a, "", "add"), p.event(b, "", "add")).wait(t)
	}
	hang := batch(t, n, nil, p.event(a, "", "add"), p.event(a, "", "hang"), p.event(b, "", "add"), p.event(a, "", "reject"))
	p.hangs()
	behind := batch(t, n, nil, p.event(b, "x", "add"))
	if p.value(t, n, c) != 0 { // while the other shard hangs
		t.Error("a grain that never had an event has a value")
	}
	read := make(chan int64)
	go func() { read <- p.value(t, n, a) }()
	hang.wait(t)
	behind.wait(t)
	if got := <-read; got != 4 {
		t.Errorf("a read from the time of the hanging turn says %d", got)
	}
	var got []string
	for _, r := range append(hang.Results, behind.Results...) {
		got = append(got, fmt.Sprintf("%v %d %s", r.Outcome, r.Seq, r.Reason))
	}
	want := "[folded 4  dead-lettered 5 the turn ran longer than 200ms folded 4  rejected 6 no folded 5 ]"
	if fmt.Sprint(got) != want || hang.Refused != actors.Folded || behind.Refused != actors.Folded {
		t.Errorf("the results are\n%v, want\n%s", got, want)
	}
	check := func() {
		t.Helper()
		if p.value(t, n, a) != 4 || p.value(t, n, b) != 5 || p.value(t, n, "harmed") != 0 {
			t.Errorf("the values are %d, %d and %d", p.value(t, n, a), p.value(t, n, b), p.value(t, n, "harmed"))
		}
	}
	check()
	// the same event once more is another event: it runs, and is given up again; this time the handler panics late
	again := batch(t, n, nil, p.event(b, "y", "hang panic"))
	again.wait(t)
	if again.Results[0].Outcome != actors.DeadLettered {
		t.Errorf("an event with an id: %+v", again.Results[0])
	}
	retried := batch(t, n, nil, p.event(b, "y", "hang panic"))
	retried.wait(t)
	if r := retried.Results[0]; r.Outcome != actors.DeadLettered || !r.Duplicate || r.Seq != again.Results[0].Seq {
		t.Errorf("its retry: %+v", r)
	}
	if s := n.Stats(); s.Abandoned != 2 || s.Quarantined != 0 {
		t.Errorf("the counters say %+v", s)
	}
	close(p.release)
	for p.hanging.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // for the late ones to do their harm
	check()
	if err := n.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "grain=trap/"+a) || !strings.Contains(text, "event=google.protobuf.StringValue") {
		t.Errorf("the log says\n%s", text)
	}
	n = p.start(t, fs, nil)
	check()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	p.verify(t, fs)
}

func (p *trap) verify(t *testing.T, fs vfs.FS) {
	t.Helper()
	r, err := verify.Run(context.Background(), verify.Options{FS: fs, Dir: "data", Catalog: p.catalog})
	if err != nil || !r.OK() {
		t.Fatalf("verify: %v %+v", err, r)
	}
}

// TestHangingSend: the send whose turn hangs is dead-lettered at its target, and the sender's shard has nothing under way
// for it any more; with more sends behind it, from and to the same shards.
func TestHangingSend(t *testing.T) {
	p := newTrap(t)
	defer close(p.release)
	fs := vfs.NewMem()
	n := p.start(t, fs, nil)
	a, b, own := p.keyOn(n, 1, "a"), p.keyOn(n, 2, "b"), p.keyOn(n, 1, "own")
	w := batch(t, n, nil, p.event(a, "1", "send trap/"+b), p.event(a, "2", "send trap/"+own), p.event(a, "3", "add"))
	w.wait(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if s := n.Stats(); s.Abandoned != 2 || s.DeadLetters != 2 {
		t.Errorf("the counters say %+v", s)
	}
	if p.value(t, n, a) != 3 || p.value(t, n, b) != 0 || p.value(t, n, own) != 0 {
		t.Errorf("the values are %d, %d and %d", p.value(t, n, a), p.value(t, n, b), p.value(t, n, own))
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	p.verify(t, fs)
}

// TestHangingTurnOfAProducer: a producer's events keep their order and their number around one that hangs.
func TestHangingTurnOfAProducer(t *testing.T) {
	p := newTrap(t)
	defer close(p.release)
	fs := vfs.NewMem()
	n := p.start(t, fs, nil)
	a := p.keyOn(n, 1, "a")
	epoch, dead := uint64(1), 0
	const last = 200
	acked := uint64(0) // every sequence up to here has a result
	for acked < last {
		// a stream: everything unacknowledged at once, in batches of ten
		var all []*waiting
		previous := uint64(0)
		for s := acked + 1; s <= last; s += 10 {
			b := make([]actors.Event, 0, 10)
			for q := s; q < min(s+10, last+1); q++ {
				e := p.event(a, "", "add")
				if q == 77 || q == 131 {
					e = p.event(a, "", fmt.Sprint("hang ", q))
				}
				e.Sequence = q
				b = append(b, e)
			}
			all = append(all, batch(t, n, &actors.Link{Producer: "p", Epoch: epoch, Previous: previous}, b...))
			previous = b[len(b)-1].Sequence
		}
		for _, w := range all {
			w.wait(t)
			if w.Refused != actors.Folded {
				if w.Refused != actors.Unavailable && w.Refused != actors.Gap {
					t.Fatalf("refused: %v %s", w.Refused, w.Why)
				}
				break
			}
			for i, r := range w.Results {
				if r.Outcome == actors.DeadLettered {
					dead++
				}
				if r.Seq != w.Events[i].Sequence {
					t.Fatalf("sequence %d is record %d of its grain", w.Events[i].Sequence, r.Seq)
				}
				acked = w.Events[i].Sequence
			}
		}
		if epoch++; epoch > 20 {
			t.Fatal("it does not come to its end")
		}
	}
	if got := p.value(t, n, a); got != last-2 || dead != 2 {
		t.Errorf("%d events are folded, %d dead-lettered", got, dead)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	p.verify(t, fs)
}

// TestCloseWhileATurnHangs: a node that is told to stop while a turn hangs waits for the limit and no longer, answers
// everybody, and loses nothing that was acknowledged.
func TestCloseWhileATurnHangs(t *testing.T) {
	p := newTrap(t)
	defer close(p.release)
	fs := vfs.NewMem()
	n := p.start(t, fs, nil)
	a := p.keyOn(n, 1, "a")
	batch(t, n, nil, p.event(a, "1", "add")).wait(t)
	hang := batch(t, n, nil, p.event(a, "2", "hang"))
	p.hangs()
	behind := batch(t, n, nil, p.event(a, "3", "add"))
	closed := make(chan error)
	go func() { closed <- n.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("it does not close")
	}
	for _, w := range []*waiting{hang, behind} {
		if w.wait(t); w.Refused != actors.Unavailable {
			t.Errorf("an event that waited: %v %+v", w.Refused, w.Results)
		}
	}
	n = p.start(t, fs, nil)
	if got := p.value(t, n, a); got != 1 {
		t.Errorf("the value is %d", got)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	p.verify(t, fs)
}

// TestHangingTurnInAFullStep: what the interrupted step had already put into an entry, full enough to be proposed, is
// folded once; so is what stands before, between and behind several hanging events of one batch.
func TestHangingTurnInAFullStep(t *testing.T) {
	p := newTrap(t)
	defer close(p.release)
	fs := vfs.NewMem()
	n := p.start(t, fs, nil)
	a, b := p.keyOn(n, 1, "a"), p.keyOn(n, 1, "b")
	big := "add " + strings.Repeat("x", 40<<10)
	w := batch(t, n, nil, p.event(a, "", big), p.event(b, "", big), p.event(a, "", big), p.event(b, "", "hang 1"), p.event(a, "", big),
		p.event(a, "", "hang 2"), p.event(b, "", "add"))
	w.wait(t)
	var got []string
	for _, r := range w.Results {
		got = append(got, fmt.Sprint(r.Outcome, " ", r.Seq))
	}
	if want := "folded 1, folded 1, folded 2, dead-lettered 2, folded 3, dead-lettered 4, folded 3"; w.Refused != actors.Folded || strings.Join(got, ", ") != want {
		t.Errorf("%v %s: %s, want %s", w.Refused, w.Why, strings.Join(got, ", "), want)
	}
	if p.value(t, n, a) != 3 || p.value(t, n, b) != 2 {
		t.Errorf("the values are %d and %d", p.value(t, n, a), p.value(t, n, b))
	}
	if s := n.Stats(); s.Abandoned != 2 {
		t.Errorf("%d turns were given up", s.Abandoned)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	p.verify(t, fs)
}

// TestHangingTurnSpoilsItsState: a handler that hangs may have changed what the events before it left in the state. Their
// messages are part of that state, and are not used again.
func TestHangingTurnSpoilsItsState(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	kind := grains.Kind[*structpb.ListValue]{Name: "list", Version: 1, Handlers: grains.Handlers[*structpb.ListValue]{
		grains.On(func(_ *grains.Turn, s *structpb.ListValue, e *structpb.Value) error {
			if e.GetStringValue() == "hang" {
				for _, v := range s.GetValues() {
					v.Kind = &structpb.Value_StringValue{StringValue: "spoilt"}
				}
				<-release
			}
			s.Values = append(s.Values, e)
			return nil
		}),
	}}.MustDefine()
	catalog, err := grains.NewCatalog(kind)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(context.Background(), node.Options{DataDir: "data", FS: vfs.NewMem(), Catalog: catalog, Shards: 1, TurnLimit: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var events []actors.Event
	for _, text := range []string{"one", "two", "hang"} {
		msg := structpb.NewStringValue(text)
		payload, err := kind.Events()[0].Append(nil, msg)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, actors.Event{Kind: kind, Key: "a", Type: kind.Events()[0], Message: msg, Payload: payload})
	}
	batch(t, n, nil, events...).wait(t)
	g := &actors.Get{Kind: kind, Key: "a"}
	done := make(chan struct{})
	if err := n.Read(1, &actors.Read{Get: g, Done: func(*actors.Read) { close(done) }}); err != nil {
		t.Fatal(err)
	}
	<-done
	var got structpb.ListValue
	if err := proto.Unmarshal(g.State, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.GetValues()) != 2 || got.GetValues()[0].GetStringValue() != "one" || got.GetValues()[1].GetStringValue() != "two" {
		t.Errorf("the state is %v", &got)
	}
}

// TestHangingTurnBehindAFlight: what was under way when a turn hung is committed meanwhile. Those who waited for it hear that
// nothing is known, and are told when they ask again; the new machine takes it from the log, and only there.
func TestHangingTurnBehindAFlight(t *testing.T) {
	p := newTrap(t)
	defer close(p.release)
	mem := vfs.NewMem()
	fs := newSlow(mem)
	n := p.start(t, fs, nil)
	a := p.keyOn(n, 1, "a")
	batch(t, n, nil, p.event(a, "1", "add")).wait(t)
	fs.mu.Lock() // nothing more is committed
	flying := batch(t, n, nil, p.event(a, "2", "add"))
	for n.Stats().Entries < 2 {
		time.Sleep(time.Millisecond)
	}
	hang := batch(t, n, nil, p.event(a, "3", "hang"), p.event(a, "4", "add"))
	p.hangs()
	fs.mu.Unlock()
	hang.wait(t)
	if r := hang.Results; hang.Refused != actors.Folded || r[0].Outcome != actors.DeadLettered || r[0].Seq != 3 || r[1].Outcome != actors.Folded || r[1].Seq != 4 {
		t.Errorf("what hangs: %v %s %+v", hang.Refused, hang.Why, r)
	}
	if flying.wait(t); flying.Refused != actors.Unavailable {
		t.Errorf("what was under way: %v %+v", flying.Refused, flying.Results)
	}
	again := batch(t, n, nil, p.event(a, "2", "add"))
	if again.wait(t); again.Refused != actors.Folded || !again.Results[0].Duplicate || again.Results[0].Seq != 2 {
		t.Errorf("when it is asked again: %v %s %+v", again.Refused, again.Why, again.Results)
	}
	if p.value(t, n, a) != 3 || n.Stats().Quarantined != 0 {
		t.Errorf("the value is %d", p.value(t, n, a))
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	p.verify(t, mem)
}
