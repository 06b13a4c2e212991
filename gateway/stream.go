package gateway

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"

	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	"github.com/granary-dev/granary/gateway/session"
)

// stream drives the session of one PublishStream.
//
// It has two goroutines. The receiver reads messages, checks them, steps the machine and hands the parts to their shards;
// it waits where the machine has no room, the gateway no budget or a shard no place, and then the client is not read
// from. The sender steps the machine with what the shards are done with and sends the responses. The handler's own
// goroutine waits for the end, and cuts the stream when the sender does not get on.
type stream struct {
	g      *Gateway
	srv    grpc.ServerStream
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex // guards the machine
	machine *session.Session
	halted  atomic.Bool // as the machine says

	doneMu sync.Mutex // guards done; shards take it, so nothing slow happens under it
	done   []*intake.Part

	wake chan struct{} // to the sender: something is done or due
	room chan struct{} // to the receiver: there may be room

	held  atomic.Int64  // of the gateway's budget
	users atomic.Int32  // goroutines that may change held
	sends atomic.Uint64 // odd while a response is being sent

	ended chan struct{}
	once  sync.Once
	err   error // set before ended is closed
}

// publishStream is EventService.PublishStream.
func (g *Gateway) publishStream(srv grpc.ServerStream) error {
	if !g.gate.enter() {
		return answer.Stopping()
	}
	defer g.gate.leave()
	l := g.opts.Limits
	s := &stream{
		g: g, srv: srv, wake: make(chan struct{}, 1), room: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(srv.Context())
	defer s.cancel()
	s.machine = session.New(session.Config{
		Shards: g.router.Table().Len(), Window: l.Window, MaxCost: l.StreamInFlight, Done: s.partDone,
	})
	g.metrics.streamOpened()
	defer g.metrics.streamClosed()
	g.enlist(s)
	defer g.dismiss(s)

	s.users.Store(2)
	g.running.Add(2)
	go s.run(s.receive)
	go s.run(s.send)
	return s.wait()
}

// enlist makes the stream known to Stop.
func (g *Gateway) enlist(s *stream) {
	g.mu.Lock()
	g.streams[s] = struct{}{}
	g.mu.Unlock()
	if g.gate.closed.Load() { // Stop may have gone through the streams before
		s.stop()
	}
}

func (g *Gateway) dismiss(s *stream) {
	g.mu.Lock()
	delete(g.streams, s)
	g.mu.Unlock()
}

// run is the life of one of the two goroutines. The last one out gives back what the stream held of the budget.
func (s *stream) run(part func()) {
	defer s.g.running.Done()
	defer func() {
		if s.users.Add(-1) == 0 {
			s.g.budget.Release(s.held.Swap(0))
		}
	}()
	defer func() {
		if p := recover(); p != nil {
			s.g.log.Error("a bug: a publish stream panicked and was cut", "panic", p, "stack", string(debug.Stack()))
			s.end(bug())
		}
	}()
	part()
}

func bug() *answer.Refusal {
	return &answer.Refusal{Code: codes.Internal, Reason: answer.InternalError, Message: "this is a bug; the node's log has more"}
}

// end sets the status of the stream, once.
func (s *stream) end(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.ended)
	})
}

// wait returns the status of the stream. When the sender does not get through with a response, it does not wait for it:
// returning from the handler is what ends a blocked send. The client finds the status behind the responses that it has
// not read.
func (s *stream) wait() error {
	const looks = 4
	look := time.NewTicker(max(s.g.opts.Limits.SendTimeout/looks, time.Millisecond))
	defer look.Stop()
	var last uint64
	stuck := 0
	for {
		select {
		case <-s.ended:
			return s.err
		case <-s.ctx.Done():
			return answer.Routing(s.ctx.Err())
		case <-look.C:
			now := s.sends.Load()
			if now%2 == 0 || now != last {
				last, stuck = now, 0
				continue
			}
			if stuck++; stuck >= looks {
				s.g.metrics.cutStreams.Inc()
				if client, ok := peer.FromContext(s.ctx); ok {
					s.g.port.blame(client.Addr.String())
				}
				s.g.log.Warn("cut a publish stream: its client does not read the responses", "for", s.g.opts.Limits.SendTimeout)
				return &answer.Refusal{Code: codes.ResourceExhausted, Reason: answer.SlowReader, RetryAfter: time.Second,
					Message: "responses of this stream were not read for " + s.g.opts.Limits.SendTimeout.String() +
						"; reconnect, resend what is unanswered, and read responses as they come"}
			}
		}
	}
}

// stop lets the session end with what is outstanding.
func (s *stream) stop() {
	var fx session.Effects
	s.step(session.Stop{Reason: answer.Stopping()}, &fx)
	poke(s.wake)
}

// step is the only way to the machine.
func (s *stream) step(in session.Input, fx *session.Effects) {
	s.mu.Lock()
	s.machine.Step(s.g.opts.Now(), in, fx)
	s.after(fx)
	s.mu.Unlock()
}

// after is what follows every step, under mu.
func (s *stream) after(fx *session.Effects) {
	if s.machine.Halted() {
		s.halted.Store(true)
	}
	if fx.Released > 0 {
		s.held.Add(-int64(fx.Released))
		s.g.budget.Release(int64(fx.Released))
	}
}

// poke wakes whoever waits on a channel of capacity 1.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// partDone is called by shards.
func (s *stream) partDone(p *intake.Part) {
	s.doneMu.Lock()
	s.done = append(s.done, p)
	s.doneMu.Unlock()
	poke(s.wake)
}

// receive is the receiving goroutine.
func (s *stream) receive() {
	var in streamRequest
	var request session.Request
	var fx session.Effects
	w := wireOf(s.ctx)
	for s.waitForRoom() {
		var err error
		if w != nil {
			err = receive(w, &in)
		} else {
			err = s.srv.RecvMsg(&in)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				s.step(session.End{}, &fx)
				poke(s.wake)
			} else {
				s.end(err) // the client is gone, or the message is not one
			}
			return
		}
		cost := in.Bytes + costOfEvent*len(in.Events)
		if s.g.budget.Acquire(s.ctx, int64(cost)) != nil {
			return // the handler is on its way out
		}
		s.held.Add(int64(cost))
		request = session.Request{Producer: in.producer, Batch: in.batch, FirstSequence: in.FirstSequence, Refusal: in.refusal, Cost: cost}
		s.take(&in, &request)
		s.step(&request, &fx)
		s.route(&fx)
		poke(s.wake)
	}
}

// take checks the events of a message, outside the lock: it is most of the work.
func (s *stream) take(in *streamRequest, request *session.Request) {
	if in.refusal != nil || len(in.Events) == 0 {
		return
	}
	s.g.metrics.batches.Inc()
	s.g.metrics.events.Add(float64(len(in.Events)))
	group := intake.NewGroup()
	if r := s.g.intake.Take(&in.Request, s.g.opts.Now(), group); r != nil {
		group.Release()
		request.Refusal = r
		return
	}
	request.Group = group
}

// route hands parts to their shards. A part is not looked at again behind that: it may be somebody else's by then.
func (s *stream) route(fx *session.Effects) {
	for _, p := range fx.Route {
		var refused *answer.Refusal
		if s.halted.Load() {
			refused = &answer.Refusal{Code: codes.Unavailable, Reason: answer.ShardUnavailable, Message: "not handed out"}
		} else if err := s.g.router.Publish(s.ctx, p.Shard, &p.Batch, true); err != nil {
			refused = answer.Routing(err)
		}
		if refused != nil {
			var none session.Effects
			s.step(&session.Refused{Part: p, Reason: refused}, &none)
		}
	}
}

// waitForRoom returns false when nothing more may be read.
func (s *stream) waitForRoom() bool {
	for {
		s.mu.Lock()
		room := s.machine.Room()
		s.mu.Unlock()
		if room {
			return true
		}
		select {
		case <-s.room:
		case <-s.ctx.Done():
			return false
		}
	}
}

// send is the sending goroutine.
func (s *stream) send() {
	var fx session.Effects
	var done []*intake.Part
	for {
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return
		}
		for {
			done = s.collect(done[:0])
			s.advance(done, &fx)
			clear(done)
			if fx.Closed {
				if fx.Status != nil {
					s.end(fx.Status)
				} else {
					s.end(nil)
				}
				return
			}
			poke(s.room)
			if fx.Response == nil {
				break
			}
			s.sends.Add(1)
			err := s.srv.SendMsg(fx.Response)
			s.sends.Add(1)
			if err != nil {
				s.end(err)
				return
			}
			s.observe(&fx)
		}
	}
}

// collect takes the parts that shards are done with, in exchange for an empty slice.
func (s *stream) collect(empty []*intake.Part) []*intake.Part {
	s.doneMu.Lock()
	defer s.doneMu.Unlock()
	done := s.done
	s.done = empty
	return done
}

// advance steps the machine with what is done, and asks for a response.
func (s *stream) advance(done []*intake.Part, fx *session.Effects) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.g.opts.Now()
	for _, p := range done {
		s.machine.Step(now, session.Done{Part: p}, fx)
	}
	s.machine.Step(now, session.Writable{}, fx)
	s.after(fx)
}

func (s *stream) observe(fx *session.Effects) {
	m := s.g.metrics
	m.responses.Inc()
	exceptions := 0
	for i, b := range fx.Response.Batches {
		exceptions += len(b.Exceptions)
		m.batchSeconds.Observe(fx.Waited[i].Seconds())
	}
	if exceptions > 0 {
		m.exceptions.Add(float64(exceptions))
	}
}
