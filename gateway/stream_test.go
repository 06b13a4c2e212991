package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// wire is the client's end of a stream.
type wire struct {
	granaryv1.EventService_PublishStreamClient
	t       testing.TB
	floor   uint64
	batches map[uint64]*granaryv1.BatchResult
}

func (n *node) stream(t testing.TB) *wire {
	t.Helper()
	s, err := n.events.PublishStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &wire{EventService_PublishStreamClient: s, t: t, batches: map[uint64]*granaryv1.BatchResult{}}
}

func (w *wire) batch(number, first uint64, events ...*granaryv1.Event) {
	w.t.Helper()
	w.send(&granaryv1.PublishStreamRequest{Batch: number, FirstSequence: first, Events: events})
}

func (w *wire) send(r *granaryv1.PublishStreamRequest) {
	w.t.Helper()
	if err := w.Send(r); err != nil && !errors.Is(err, io.EOF) { // EOF: it was closed, Recv has the reason
		w.t.Fatal(err)
	}
}

func (w *wire) open(id string, epoch uint64) {
	w.t.Helper()
	w.send(&granaryv1.PublishStreamRequest{Producer: &granaryv1.Producer{Id: id, Epoch: epoch}})
}

// until reads answers until the floor is at a batch.
func (w *wire) until(floor uint64) {
	w.t.Helper()
	for w.floor < floor {
		if err := w.next(); err != nil {
			w.t.Fatalf("at floor %d: %v: %+v", w.floor, err, grpcFailure(err))
		}
	}
}

func (w *wire) next() error {
	w.t.Helper()
	res, err := w.Recv()
	if err != nil {
		return err
	}
	for _, b := range res.Batches {
		if w.batches[b.Batch] != nil {
			w.t.Errorf("batch %d is answered twice", b.Batch)
		}
		w.batches[b.Batch] = b
	}
	if res.Floor < w.floor {
		w.t.Errorf("the floor fell from %d to %d", w.floor, res.Floor)
	}
	for i := w.floor + 1; w.floor != 0 && i <= res.Floor; i++ {
		if w.batches[i] == nil {
			w.t.Errorf("the floor is %d, but batch %d has no answer", res.Floor, i)
		}
	}
	w.floor = res.Floor
	return nil
}

// end reads the rest and returns the status.
func (w *wire) end() failure {
	w.t.Helper()
	for {
		if err := w.next(); errors.Is(err, io.EOF) {
			return failure{}
		} else if err != nil {
			return grpcFailure(err)
		}
	}
}

func (w *wire) exceptions(batch uint64) map[uint32]failure {
	out := map[uint32]failure{}
	for _, x := range w.batches[batch].GetExceptions() {
		out[x.Index] = failureOf(x.Result.Status)
	}
	return out
}

func TestStream(t *testing.T) {
	n := start(t)
	w := n.stream(t)
	const batches, size = 500, 20
	go func() {
		for i := range batches {
			var events []*granaryv1.Event
			for j := range size {
				cents := int64(1)
				if i == 300 && j == 7 {
					cents = -1
				}
				events = append(events, charged(fmt.Sprintf("box/%d", (i+j)%50), fmt.Sprint(i, j), cents))
			}
			w.batch(uint64(100+i), 0, events...)
		}
		_ = w.CloseSend()
	}()
	if f := w.end(); f.code != codes.OK {
		t.Fatalf("%+v", f)
	}
	if w.floor != 100+batches-1 || len(w.batches) != batches {
		t.Errorf("floor %d after %d batches", w.floor, len(w.batches))
	}
	for number, b := range w.batches {
		switch x := w.exceptions(number); {
		case b.Events != size || b.Duplicates != 0:
			t.Errorf("%v", b)
		case number == 400 && len(x) == 1 && x[7].reason == "REJECTED":
		case number != 400 && len(x) == 0:
		default:
			t.Errorf("batch %d: %+v", number, x)
		}
	}
	total := 0
	n.set(func(m *memory) {
		for _, g := range m.grains {
			total += len(g.records)
		}
	})
	if total != batches*size {
		t.Errorf("%d records for %d events", total, batches*size)
	}
}

// TestStreamIsNotReadBeyondItsWindow: with no shard answering, a client can hand in what the window and the buffers on the
// way hold, and no more.
func TestStreamIsNotReadBeyondItsWindow(t *testing.T) {
	n := start(t, func(o *gateway.Options) { o.Limits.Window = 10 })
	n.set(func(m *memory) { m.hold = true })
	w := n.stream(t)
	const batches = 200
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range batches {
			w.batch(uint64(1+i), 0, event("box/1", "Charged", fmt.Sprint(i), &accountv1.Charged{TransactionId: string(make([]byte, 64<<10))}))
		}
	}()
	eventually(t, "the window is full", func() bool { return n.waiting() == 10 })
	time.Sleep(20 * time.Millisecond)
	if got := n.waiting(); got != 10 {
		t.Errorf("%d batches were read with a window of 10", got)
	}
	select {
	case <-sent:
		t.Error("the client could send 12 MiB to a server that does not read")
	default:
	}
	n.release()
	w.until(batches)
	<-sent
}

// TestStreamKeepsWhatIsOnItsWay: the stream uses its memory again, but never what a shard still looks at. The events are
// so large that gRPC uses the memory they came in again, too.
func TestStreamKeepsWhatIsOnItsWay(t *testing.T) {
	n := start(t)
	n.set(func(m *memory) { m.hold = true })
	w := n.stream(t)
	text := func(i int) string { return strings.Repeat(fmt.Sprintf("%04d", i), 1000) }
	for i := range 200 {
		w.batch(uint64(1+i), 0, event(fmt.Sprintf("box/%d", i), "Charged", fmt.Sprintf("id%d", i), &accountv1.Charged{TransactionId: text(i), AmountCents: int64(i)}))
	}
	eventually(t, "all wait", func() bool { return n.waiting() == 200 })
	n.release()
	w.until(200)
	n.set(func(m *memory) {
		for i := range 200 {
			g := m.grains[fmt.Sprintf("box/%d", i)]
			if g == nil || len(g.records) != 1 || g.state.(*accountv1.Account).Cents != int64(i) {
				t.Fatalf("grain %d: %+v", i, g)
			}
			e := &accountv1.Charged{}
			if err := proto.Unmarshal(g.records[0].Payload, e); err != nil || e.TransactionId != text(i) || string(g.records[0].ID) != fmt.Sprintf("id%d", i) {
				t.Fatalf("grain %d was journaled as %v, %v", i, &g.records[0], err)
			}
		}
	})
}

func TestMalformedEventsOfAStreamAreExceptions(t *testing.T) {
	n := start(t)
	w := n.stream(t)
	var events []*granaryv1.Event
	want := map[uint32]string{}
	for _, c := range badEvents {
		if c.events == nil || len(c.events) > 1 || c.name == "more than 4 MiB" {
			continue
		}
		if c.noJSON && !slices.Contains([]string{"INVALID_TIME", "NOT_A_NUMBER"}, c.reason) {
			continue // this client cannot encode them
		}
		want[uint32(len(events))] = c.reason
		events = append(events, c.events[0], charged("box/good", fmt.Sprint(len(events)), 1))
	}
	w.batch(1, 0, events...)
	w.until(1)
	got := w.exceptions(1)
	if len(got) != len(want) {
		t.Errorf("%d exceptions, want %d", len(got), len(want))
	}
	for i, reason := range want {
		f := got[i]
		if f.reason != reason || f.retry != 0 || f.infos != 1 {
			t.Errorf("event %d: %+v, want %s", i, f, reason)
		}
		for field := range f.violations {
			if prefix := fmt.Sprintf("events[%d].", i); len(field) <= len(prefix) || field[:len(prefix)] != prefix {
				t.Errorf("event %d: violation of %q", i, field)
			}
		}
	}
	n.set(func(m *memory) {
		if got := len(m.grains["box/good"].records); got != len(want) {
			t.Errorf("%d good events of %d", got, len(want))
		}
	})
}

func TestStreamProtocol(t *testing.T) {
	n := start(t)
	one := func() *granaryv1.Event { return charged("box/1", "", 1) }
	type message = granaryv1.PublishStreamRequest
	producer := func(id string, epoch uint64) *granaryv1.Producer { return &granaryv1.Producer{Id: id, Epoch: epoch} }
	for _, c := range []struct {
		name     string
		messages []*message
		reason   string
		answered int
	}{
		{"nothing", []*message{{}}, "EMPTY_BATCH", 0},
		{"number without events", []*message{{Batch: 1}}, "EMPTY_BATCH", 0},
		{"no number", []*message{{Events: []*granaryv1.Event{one()}}}, "INVALID_BATCH_NUMBER", 0},
		{"number twice", []*message{{Batch: 3, Events: []*granaryv1.Event{one()}}, {Batch: 3, Events: []*granaryv1.Event{one()}}}, "INVALID_BATCH_NUMBER", 1},
		{"number left out", []*message{{Batch: 3, Events: []*granaryv1.Event{one()}}, {Batch: 5, Events: []*granaryv1.Event{one()}}}, "INVALID_BATCH_NUMBER", 1},
		{"too many events", []*message{{Batch: 1, Events: slices.Repeat([]*granaryv1.Event{one()}, 1001)}}, "TOO_MANY_EVENTS", 0},
		{"too large", []*message{{Batch: 1, Events: []*granaryv1.Event{event("box/1", "Charged", "", &accountv1.Charged{TransactionId: string(make([]byte, 4<<20))})}}}, "REQUEST_TOO_LARGE", 0},
		{"sequence without producer", []*message{{Batch: 1, FirstSequence: 1, Events: []*granaryv1.Event{one()}}}, "INVALID_SEQUENCE", 0},
		{"late producer", []*message{{Batch: 1, Events: []*granaryv1.Event{one()}}, {Producer: producer("p", 1)}}, "INVALID_PRODUCER", 1},
		{"producer twice", []*message{{Producer: producer("p", 1)}, {Producer: producer("p", 2)}}, "INVALID_PRODUCER", 0},
		{"producer without id", []*message{{Producer: producer("", 1)}}, "INVALID_PRODUCER", 0},
		{"producer id too long", []*message{{Producer: producer(string(make([]byte, 129)), 1)}}, "INVALID_PRODUCER", 0},
		{"producer id with control character", []*message{{Producer: producer("p\n", 1)}}, "INVALID_PRODUCER", 0},
		{"no epoch", []*message{{Producer: producer("p", 0)}}, "INVALID_PRODUCER", 0},
		{"no sequence", []*message{{Producer: producer("q", 1)}, {Batch: 1, Events: []*granaryv1.Event{one()}}}, "INVALID_SEQUENCE", 0},
		{"sequence falls", []*message{{Producer: producer("r", 1), Batch: 1, FirstSequence: 5, Events: []*granaryv1.Event{one(), one()}},
			{Batch: 2, FirstSequence: 6, Events: []*granaryv1.Event{one()}}}, "INVALID_SEQUENCE", 1},
		{"sequence overflows", []*message{{Producer: producer("s", 1), Batch: 1, FirstSequence: 1<<64 - 1, Events: []*granaryv1.Event{one(), one()}}}, "INVALID_SEQUENCE", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := n.stream(t)
			for _, m := range c.messages {
				w.send(m)
			}
			f := w.end()
			if f.code != codes.InvalidArgument || f.reason != c.reason || f.infos != 1 || len(f.violations) != 1 {
				t.Errorf("%+v, want %s", f, c.reason)
			}
			if len(w.batches) != c.answered {
				t.Errorf("%d batches were answered before, want %d", len(w.batches), c.answered)
			}
		})
	}
}

// session is a producer's batches of one event each.
func (w *wire) sequence(number, sequence uint64) {
	w.t.Helper()
	w.batch(number, sequence, charged(fmt.Sprintf("box/%d", sequence%20), "", int64(sequence)))
}

func TestProducerResendsAfterReconnect(t *testing.T) {
	n := start(t)
	w := n.stream(t)
	w.open("p", 1)
	for i := range uint64(100) {
		w.sequence(i+1, i+1)
	}
	w.until(100)
	if err := w.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if f := w.end(); f.code != codes.OK {
		t.Fatalf("%+v", f)
	}
	// The client saw only the first 60 answers, say, and resends under the next epoch.
	w = n.stream(t)
	w.open("p", 2)
	for i := range uint64(60) {
		w.sequence(i+1, i+61)
	}
	w.until(60)
	for i := range uint64(60) {
		if want := uint32(1); i < 40 && w.batches[i+1].Duplicates != want || i >= 40 && w.batches[i+1].Duplicates != 0 {
			t.Errorf("batch %d: %v", i+1, w.batches[i+1])
		}
	}
	n.set(func(m *memory) {
		total := 0
		for _, g := range m.grains {
			total += len(g.records)
		}
		if total != 120 {
			t.Errorf("%d records of 120 events", total)
		}
	})
	// An older stream that comes late is told so, with the epoch.
	late := n.stream(t)
	late.open("p", 1)
	late.sequence(1, 500)
	f := late.end()
	if f.code != codes.FailedPrecondition || f.reason != "PRODUCER_FENCED" || f.metadata["epoch"] != "2" || f.metadata["producer"] != "p" || f.retry != 0 {
		t.Errorf("fenced: %+v", f)
	}
	if len(late.batches) != 0 {
		t.Errorf("answered: %v", late.batches)
	}
}

// TestInvalidEventLeavesNoHole: with a producer, an event that the gateway refuses uses its sequence up, is refused again
// when it is sent again, and breaks no chain.
func TestInvalidEventLeavesNoHole(t *testing.T) {
	n := start(t)
	for epoch := range uint64(3) {
		w := n.stream(t)
		w.open("p", epoch+1)
		bad := charged("box/1", "", 2)
		bad.Type = "Nothing"
		w.batch(1, 1, charged("box/1", "", 1), bad, charged("box/1", "", 3))
		w.batch(2, 4, charged("box/1", "", 4))
		w.until(2)
		if x := w.exceptions(1); len(x) != 1 || x[1].reason != "UNKNOWN_EVENT_TYPE" {
			t.Errorf("%+v", x)
		}
		if len(w.exceptions(2)) != 0 {
			t.Errorf("the event behind it: %+v", w.exceptions(2))
		}
		if err := w.CloseSend(); err != nil {
			t.Fatal(err)
		}
		w.end()
	}
	n.set(func(m *memory) {
		if got := len(m.grains["box/1"].records); got != 3 {
			t.Errorf("%d records of 3 events", got)
		}
	})
}

// TestBrokenChainClosesTheStream: when a shard does not take a part, nothing later goes there, what is known is told, and
// the stream ends with the shard's reason.
func TestBrokenChainClosesTheStream(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse func(b *actors.Batch)
		err    error
		code   codes.Code
		reason string
		meta   map[string]string
		retry  bool
	}{
		{"gap", func(b *actors.Batch) { b.Refused, b.Why, b.Watermark = actors.Gap, "gap", 17 }, nil, codes.FailedPrecondition, "PRODUCER_GAP", map[string]string{"watermark": "17", "producer": "p"}, false},
		{"fenced", func(b *actors.Batch) { b.Refused, b.Why, b.Epoch = actors.Fenced, "fenced", 9 }, nil, codes.FailedPrecondition, "PRODUCER_FENCED", map[string]string{"epoch": "9"}, false},
		{"unavailable", func(b *actors.Batch) { b.Refused, b.Why = actors.Unavailable, "no leader" }, nil, codes.Unavailable, "SHARD_UNAVAILABLE", nil, true},
		{"overloaded", func(b *actors.Batch) { b.Refused, b.Why = actors.Overloaded, "full" }, nil, codes.ResourceExhausted, "SHARD_OVERLOADED", nil, true},
		{"damaged", nil, routing.ErrDamaged, codes.Unavailable, "STORE_DAMAGED", nil, true},
		{"disk full", nil, routing.ErrDiskFull, codes.ResourceExhausted, "DISK_FULL", nil, true},
		{"stopping", nil, routing.ErrStopping, codes.Unavailable, "NODE_STOPPING", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := start(t)
			bad := n.table.Shard("", "box", "7")
			w := n.stream(t)
			w.open("p", 1)
			for i := range uint64(6) {
				w.sequence(i+1, i+1) // up to box/6
			}
			w.until(6)
			n.set(func(m *memory) {
				m.hold = true
				m.refuse = func(shard uint64, b *actors.Batch) {
					if shard == bad && c.refuse != nil {
						c.refuse(b)
					}
				}
				m.err = func(shard uint64) error {
					if shard == bad {
						return c.err
					}
					return nil
				}
			})
			for i := uint64(6); i < 60; i++ {
				w.sequence(i+1, i+1)
			}
			if c.err == nil {
				eventually(t, "some batches are on their way", func() bool { return n.waiting() > 0 })
			}
			n.release()
			f := w.end()
			if f.code != c.code || f.reason != c.reason || (f.retry > 0) != c.retry || f.infos != 1 {
				t.Errorf("%+v, want %v %s", f, c.code, c.reason)
			}
			for k, v := range c.meta {
				if f.metadata[k] != v {
					t.Errorf("metadata %v, want %s=%s", f.metadata, k, v)
				}
			}
			if w.floor != 6 || w.batches[7] != nil {
				t.Errorf("floor %d; the refused batch has the answer %v", w.floor, w.batches[7])
			}
			n.set(func(m *memory) {
				for _, seq := range m.order[bad] {
					if seq >= 7 {
						t.Errorf("the shard took %v behind the refusal", m.order[bad])
					}
				}
			})
		})
	}
}

func TestRefusedEventsWithoutProducerAreExceptions(t *testing.T) {
	n := start(t)
	bad := n.table.Shard("", "box", "7")
	n.set(func(m *memory) {
		m.refuse = func(shard uint64, b *actors.Batch) {
			if shard == bad {
				b.Refused, b.Why = actors.Unavailable, "no leader"
			}
		}
	})
	w := n.stream(t)
	w.batch(1, 0, charged("box/7", "x", 1), charged("box/8", "", 1), charged("box/7", "", 1))
	w.batch(2, 0, charged("box/8", "", 1))
	w.until(2)
	x := w.exceptions(1)
	if len(x) != 2 || x[0].reason != "SHARD_UNAVAILABLE" || x[0].retry == 0 || x[2].reason != "SHARD_UNAVAILABLE" {
		t.Errorf("%+v", x)
	}
	if r := w.batches[1].Exceptions; !r[0].Result.Deduplicated || r[1].Result.Deduplicated {
		t.Errorf("%v", r)
	}
	if len(w.exceptions(2)) != 0 {
		t.Errorf("%+v", w.exceptions(2))
	}
}

// TestFullShardHoldsTheStreamBack: no error, only patience; and a canceled stream does not wait for ever.
func TestFullShardHoldsTheStreamBack(t *testing.T) {
	n := start(t)
	full := make(chan struct{})
	n.set(func(m *memory) { m.full = full })
	w := n.stream(t)
	w.batch(1, 0, charged("box/1", "", 1))
	ctx, cancel := context.WithCancel(t.Context())
	gone, err := n.events.PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Send(&granaryv1.PublishStreamRequest{Batch: 1, Events: []*granaryv1.Event{charged("box/1", "", 1)}}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	cancel()
	if _, err := gone.Recv(); err == nil {
		t.Error("the canceled stream was answered")
	}
	n.set(func(m *memory) { m.full = nil })
	close(full)
	w.until(1)
}

// TestSlowReaderIsCut: who sends and does not read is cut, and finds out why when it reads at last. Who does so again and
// again loses the connection. The rest of the node goes on.
func TestSlowReaderIsCut(t *testing.T) {
	figures := prometheus.NewRegistry()
	n := start(t, func(o *gateway.Options) { o.Limits.SendTimeout, o.Metrics = 100*time.Millisecond, figures })
	// A client with a window of its own so small that unread answers reach the server.
	conn, err := grpc.NewClient(n.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	bad := make([]*granaryv1.Event, 1000) // answers much larger than questions
	for i := range bad {
		bad[i] = &granaryv1.Event{}
	}
	senders := make(chan struct{}, 8)
	flood := func() granaryv1.EventService_PublishStreamClient {
		s, err := granaryv1.NewEventServiceClient(conn).PublishStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for sent := uint64(1); s.Send(&granaryv1.PublishStreamRequest{Batch: sent, Events: bad}) == nil; sent++ {
			}
			senders <- struct{}{}
		}()
		return s
	}
	s := flood()
	eventually(t, "the stream is cut", func() bool { return figure(t, figures, "granary_gateway_streams_cut_total") == 1 })
	answered := 0
	for {
		res, err := s.Recv()
		if err != nil {
			if f := grpcFailure(err); f.code != codes.ResourceExhausted || f.reason != "SLOW_READER" || f.retry == 0 {
				t.Errorf("%v: %+v", err, f)
			}
			break
		}
		answered += len(res.Batches)
	}
	if answered > 20 {
		t.Errorf("%d batches were answered to one who did not read", answered)
	}
	for range 7 {
		flood()
	}
	eventually(t, "the connection is cut", func() bool { return figure(t, figures, "granary_gateway_connections_cut_total") == 1 })
	for range 8 {
		<-senders
	}
	n.publish(t, charged("box/1", "", 1))
}

// figure is the value of a counter or gauge without labels.
func figure(t testing.TB, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// TestVanishedClientIsCut: a client that is there no more, without having closed anything, is noticed by its silence.
func TestVanishedClientIsCut(t *testing.T) {
	n := start(t, func(o *gateway.Options) {
		o.Limits.PingAfter, o.Limits.PingTimeout = time.Second, 50*time.Millisecond // a second is the least that gRPC takes
	})
	proxy := newHole(t, n.addr)
	conn, err := grpc.NewClient(proxy.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	s, err := granaryv1.NewEventServiceClient(conn).PublishStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&granaryv1.PublishStreamRequest{Batch: 1, Events: []*granaryv1.Event{charged("box/1", "", 1)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	proxy.swallow()
	select {
	case <-proxy.cut:
	case <-time.After(5 * time.Second):
		t.Error("the server holds on to a client that is gone")
	}
}

// hole is a proxy that can let bytes vanish while both ends stay open.
type hole struct {
	addr   string
	client net.Conn
	server net.Conn
	gone   chan struct{}
	cut    chan struct{} // closed when the server closes its end
}

func newHole(t *testing.T, to string) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{addr: l.Addr().String(), gone: make(chan struct{}), cut: make(chan struct{})}
	done := make(chan struct{}, 2)
	ready := make(chan struct{})
	go func() {
		h.client, _ = l.Accept()
		h.server, _ = net.Dial("tcp", to)
		close(ready)
		go func() { h.pump(h.server, h.client); done <- struct{}{} }()
		h.pump(h.client, h.server)
		close(h.cut)
		done <- struct{}{}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ready
		_ = h.client.Close()
		_ = h.server.Close()
		<-done
		<-done
	})
	return h
}

func (h *hole) swallow() { close(h.gone) }

func (h *hole) pump(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-h.gone:
		default:
			_, _ = to.Write(buf[:n])
		}
	}
}

func TestStopEndsStreams(t *testing.T) {
	n := start(t)
	n.set(func(m *memory) { m.hold = true })
	w, idle := n.stream(t), n.stream(t)
	idle.open("idle", 1)
	for i := range uint64(5) {
		w.batch(i+1, 0, charged("box/1", "", 1))
	}
	eventually(t, "all are on their way", func() bool { return n.waiting() == 5 })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.halt(t, 10*time.Second)
	}()
	if f := idle.end(); f.code != codes.Unavailable || f.reason != "NODE_STOPPING" || f.retry == 0 {
		t.Errorf("idle stream: %+v", f)
	}
	_, err := n.events.Publish(t.Context(), &granaryv1.PublishRequest{Events: []*granaryv1.Event{charged("box/1", "", 1)}})
	if f := grpcFailure(err); f.code != codes.Unavailable || f.reason != "NODE_STOPPING" || f.retry == 0 {
		t.Errorf("new event: %+v", f)
	}
	if f := n.post(t, publishPath, publishBody(charged("box/1", "", 1)), nil); f.code != codes.Unavailable || f.reason != "NODE_STOPPING" {
		t.Errorf("new event by JSON: %+v", f)
	}
	late := n.stream(t)
	if f := late.end(); f.reason != "NODE_STOPPING" {
		t.Errorf("new stream: %+v", f)
	}
	select {
	case <-stopped:
		t.Fatal("stopped with events on their way")
	case <-time.After(10 * time.Millisecond):
	}
	n.release()
	if f := w.end(); f.code != codes.Unavailable || f.reason != "NODE_STOPPING" || f.retry == 0 {
		t.Errorf("%+v", f)
	}
	if w.floor != 5 {
		t.Errorf("floor %d: events on their way were not answered", w.floor)
	}
	<-stopped
}

func TestStopDoesNotWaitForEver(t *testing.T) {
	n := start(t)
	n.set(func(m *memory) { m.hold = true })
	w := n.stream(t)
	w.batch(1, 0, charged("box/1", "", 1))
	eventually(t, "it is on its way", func() bool { return n.waiting() == 1 })
	began := time.Now()
	n.halt(t, 50*time.Millisecond)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if f := w.end(); f.code != codes.Unavailable {
		t.Errorf("%+v", f)
	}
}

// TestNothingIsLeftOfStreams: however a stream ends, it leaves no goroutine, no place among the streams, and nothing of
// the budget that all share.
func TestNothingIsLeftOfStreams(t *testing.T) {
	figures := prometheus.NewRegistry()
	n := start(t, func(o *gateway.Options) {
		o.Limits.InFlight, o.Limits.Window, o.Metrics = 16<<20, 4, figures
	})
	large := func(i int) *granaryv1.Event {
		return event("box/1", "Charged", fmt.Sprint(i), &accountv1.Charged{TransactionId: strings.Repeat("x", 3<<20)})
	}
	// More than the budget over the life of one stream.
	w := n.stream(t)
	for i := range 8 {
		w.batch(uint64(i+1), 0, large(i))
	}
	w.until(8)
	if err := w.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if f := w.end(); f.code != codes.OK {
		t.Errorf("%+v", f)
	}
	// More than the budget in streams that end without an answer, refused or canceled with a full window.
	for i := range 8 {
		n.set(func(m *memory) {
			m.refuse = func(_ uint64, b *actors.Batch) { b.Refused, b.Why = actors.Unavailable, "no leader" }
		})
		w := n.stream(t)
		w.open(fmt.Sprint(i), 1)
		w.batch(1, 1, large(i))
		if f := w.end(); f.reason != "SHARD_UNAVAILABLE" {
			t.Errorf("%+v", f)
		}
		n.set(func(m *memory) { m.refuse, m.hold = nil, true })
		ctx, cancel := context.WithCancel(t.Context())
		s, err := n.events.PublishStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for j := range uint64(4) {
			e := charged("box/1", "", 1)
			if j == 0 {
				e = large(i)
			}
			if err := s.Send(&granaryv1.PublishStreamRequest{Batch: j + 1, Events: []*granaryv1.Event{e}}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the window is full", func() bool { return n.waiting() == 4 })
		cancel()
		eventually(t, "the stream is gone", func() bool { return figure(t, figures, "granary_gateway_streams") == 0 })
		n.release()
	}
	n.publish(t, large(100))
}
