package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTestProducer(t *testing.T, f *fakeServer, o ProducerOptions) *Producer {
	t.Helper()
	o.MinBackoff, o.MaxBackoff = time.Millisecond, 10*time.Millisecond
	p, err := NewProducer(f.serve(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestOnceInOrder publishes from several goroutines, one grain each, to a server that fails all the time.
func TestOnceInOrder(t *testing.T) {
	f := newFakeServer(7)
	f.setTrouble(true)
	p := newTestProducer(t, f, ProducerOptions{Window: 8, BatchEvents: 5, Linger: 100 * time.Microsecond, MaxPending: 64})
	const grains, events = 6, 300
	var called [grains][events]atomic.Int32
	var group sync.WaitGroup
	for g := range grains {
		group.Go(func() {
			for n := 0; n < events; {
				if g%2 == 0 {
					calls, id := &called[g][n], grainEvent(g, n).Id
					if err := p.Publish(t.Context(), grainEvent(g, n), func(r Result) {
						calls.Add(1)
						if r.Err != nil {
							t.Errorf("event %s: %v", id, r.Err)
						}
					}); err != nil {
						t.Error(err)
						return
					}
					n++
					continue
				}
				size := min(events-n, 1+n%7)
				var batch []*granaryv1.Event
				for i := range size {
					batch = append(batch, grainEvent(g, n+i))
				}
				first := n
				if err := p.PublishBatch(t.Context(), batch, func(r BatchResult) {
					for i := range r.Events {
						called[g][first+i].Add(1)
					}
					if len(r.Exceptions) > 0 || r.Events != size {
						t.Errorf("batch at %d/%d: %+v", g, first, r)
					}
				}); err != nil {
					t.Error(err)
					return
				}
				n += size
			}
		})
	}
	group.Wait()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for g := range grains {
		want := make([]string, events)
		for n := range want {
			want[n] = grainEvent(g, n).Id
			if c := called[g][n].Load(); c != 1 {
				t.Errorf("the callback of %d/%d was called %d times", g, n, c)
			}
		}
		if got := f.applied[grainEvent(g, 0).Grain]; !slices.Equal(got, want) {
			t.Errorf("grain %d: folded %d events, want %d in order", g, len(got), len(want))
		}
	}
	s := p.Stats()
	if s.Reconnects == 0 || s.Resent == 0 || s.Pending != 0 {
		t.Errorf("stats %+v: the test should have met trouble", s)
	}
}

// TestOutcomes: what was refused is told to the event that was, and to no other.
func TestOutcomes(t *testing.T) {
	f := newFakeServer(1)
	f.refuse["0/1"] = status.Error(codes.InvalidArgument, "bad")
	p := newTestProducer(t, f, ProducerOptions{BatchEvents: 3, Linger: time.Hour})
	results := make([]Result, 3)
	for n := range results {
		if err := p.Publish(t.Context(), grainEvent(0, n), func(r Result) { results[n] = r }); err != nil {
			t.Fatal(err)
		}
	}
	var batch BatchResult
	two := []*granaryv1.Event{grainEvent(0, 0), grainEvent(0, 1)}
	if err := p.PublishBatch(t.Context(), two, func(r BatchResult) { batch = r }); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n, r := range results {
		if bad := status.Code(r.Err) == codes.InvalidArgument; bad != (n == 1) || r.Sequence != uint64(n+1) {
			t.Errorf("event %d: %+v", n, r)
		}
	}
	if batch.First != 4 || batch.Events != 2 || len(batch.Exceptions) != 1 || batch.Exceptions[0].Index != 1 {
		t.Errorf("batch: %+v", batch)
	}
	if got, want := f.batches, [][]int{{3, 2}}; !slices.EqualFunc(got, want, slices.Equal[[]int]) {
		t.Errorf("batches %v, want %v", got, want)
	}
}

// TestFenced: of two producers with one id the older stops, and says why.
func TestFenced(t *testing.T) {
	f := newFakeServer(1)
	older := newTestProducer(t, f, ProducerOptions{ID: "twin", Epoch: 1, FirstSequence: 1})
	newer := newTestProducer(t, f, ProducerOptions{ID: "twin", FirstSequence: 10})
	publish := func(p *Producer) error {
		outcome := make(chan error, 1)
		if err := p.Publish(t.Context(), grainEvent(1, 1), func(r Result) { outcome <- r.Err }); err != nil {
			return err
		}
		return <-outcome
	}
	if err := publish(newer); err != nil {
		t.Fatal(err)
	}
	if err := publish(older); !errors.Is(err, ErrFenced) || !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want fenced and unknown", err)
	}
	eventually(t, "the older producer refuses", func() bool { return errors.Is(publish(older), ErrFenced) })
	if err := older.Flush(t.Context()); !errors.Is(err, ErrFenced) {
		t.Errorf("flush: %v", err)
	}
	if err := older.Close(); !errors.Is(err, ErrFenced) {
		t.Errorf("close: %v", err)
	}
}

// silentServer takes everything and answers nothing.
type silentServer struct {
	granaryv1.UnimplementedEventServiceServer
	got atomic.Int64
}

func (s *silentServer) PublishStream(stream granaryv1.EventService_PublishStreamServer) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return nil
		}
		s.got.Add(int64(len(r.Events)))
	}
}

// TestClose: without an answer every callback still comes, before Close returns, and says what is known.
func TestClose(t *testing.T) {
	silent := &silentServer{}
	p := newSilentProducer(t, silent, ProducerOptions{Window: 1, BatchEvents: 2, Linger: -1})
	var unknown, unsent int
	for n := range 5 {
		if err := p.Publish(t.Context(), grainEvent(0, n), func(r Result) {
			if !errors.Is(r.Err, ErrClosed) {
				t.Errorf("event %d: %v", n, r.Err)
			}
			if errors.Is(r.Err, ErrUnknown) {
				unknown++
			}
			if errors.Is(r.Err, ErrNotSent) {
				unsent++
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the server gets an event", func() bool { return silent.got.Load() > 0 })
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if unknown != int(silent.got.Load()) || unknown+unsent != 5 {
		t.Errorf("%d unknown and %d not sent; the server got %d of 5", unknown, unsent, silent.got.Load())
	}
	if err := p.Close(); err != nil {
		t.Error("the second time:", err)
	}
	if err := p.Publish(t.Context(), grainEvent(0, 9), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("publish after close: %v", err)
	}
	if err := p.Flush(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("flush after close: %v", err)
	}
}

func newSilentProducer(t *testing.T, s *silentServer, o ProducerOptions) *Producer {
	t.Helper()
	p, err := NewProducer(serve(t, s), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestBounded: Publish waits when too much is pending, and no longer than its context.
func TestBounded(t *testing.T) {
	for name, o := range map[string]ProducerOptions{
		"events": {MaxPending: 3}, "bytes": {MaxPendingBytes: 3 * grainEvent(0, 0).SizeVT()},
	} {
		t.Run(name, func(t *testing.T) {
			p := newSilentProducer(t, &silentServer{}, o)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			for n := range 4 {
				err := p.Publish(ctx, grainEvent(0, n), nil)
				if full := n >= 3 || name == "bytes" && n >= 2; full != errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("event %d: %v", n, err)
				}
			}
			if err := p.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("flush: %v", err)
			}
		})
	}
}

// TestWaitingPublishEnds: closing the producer wakes those who wait for room.
func TestWaitingPublishEnds(t *testing.T) {
	p := newSilentProducer(t, &silentServer{}, ProducerOptions{MaxPending: 1})
	if err := p.Publish(t.Context(), grainEvent(0, 0), nil); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- p.Publish(t.Context(), grainEvent(0, 1), nil) }()
	eventually(t, "somebody waits", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.room != nil
	})
	p.Close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestGiveUp: a cluster that cannot be reached ends the producer, if so asked.
func TestGiveUp(t *testing.T) {
	conn, err := Dial("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p, err := NewProducer(conn, ProducerOptions{GiveUp: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var outcome error
	if err := p.Publish(t.Context(), grainEvent(0, 0), func(r Result) { outcome = r.Err }); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); !errors.Is(err, ErrGaveUp) || status.Code(err) != codes.Unavailable {
		t.Errorf("flush: %v", err)
	}
	if err := p.Close(); !errors.Is(err, ErrGaveUp) || !errors.Is(outcome, ErrGaveUp) {
		t.Errorf("close: %v; outcome: %v", err, outcome)
	}
}

func TestRefusedInput(t *testing.T) {
	p := newSilentProducer(t, &silentServer{}, ProducerOptions{})
	big := &granaryv1.Event{Payload: &granaryv1.Event_Protobuf{Protobuf: make([]byte, MaxBatchBytes)}}
	if err := p.Publish(t.Context(), big, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large event: %v", err)
	}
	half := &granaryv1.Event{Payload: &granaryv1.Event_Protobuf{Protobuf: make([]byte, MaxBatchBytes/2)}}
	for name, batch := range map[string][]*granaryv1.Event{
		"empty": nil, "many": make([]*granaryv1.Event, MaxBatchEvents+1), "large": {half, half},
	} {
		if err := p.PublishBatch(t.Context(), batch, nil); err == nil {
			t.Errorf("%s batch was taken", name)
		}
	}
}

func TestRefusedOptions(t *testing.T) {
	for want, o := range map[string]ProducerOptions{
		"FirstSequence":  {ID: "mine"},
		"at most 128":    {ID: strings.Repeat("x", 129), FirstSequence: 1},
		"want 1 to 256":  {Window: 257},
		"want 1 to 1000": {BatchEvents: 1001},
		"bytes; want":    {BatchBytes: MaxBatchBytes + 1},
		"pending":        {MaxPending: -1},
		"pause":          {MinBackoff: time.Second, MaxBackoff: time.Millisecond},
	} {
		if _, err := NewProducer(nil, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want something with %q", o, err, want)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, batch := range []int{1, 100} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			f := newFakeServer(1)
			p, err := NewProducer(serve(b, f), ProducerOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			events := make([]*granaryv1.Event, batch)
			for i := range events {
				events[i] = grainEvent(i, i)
			}
			b.ResetTimer()
			for n := 0; n < b.N; n += batch {
				if batch == 1 {
					err = p.Publish(b.Context(), events[0], nil)
				} else {
					err = p.PublishBatch(b.Context(), events, nil)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			if err := p.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}
