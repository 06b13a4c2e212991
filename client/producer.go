package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/granary-dev/granary/client/session"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"google.golang.org/grpc"
)

// Limits of the protocol for one batch.
const (
	// MaxBatchEvents is the largest number of events in a batch.
	MaxBatchEvents = 1_000
	// MaxBatchBytes is the largest size of the events of a batch on the wire.
	MaxBatchBytes = 4 << 20
)

// maxProducerID is the longest id of a producer in bytes.
const maxProducerID = 128

var (
	// ErrUnknown is the outcome of an event that was sent and never answered. It may have been folded, once.
	ErrUnknown = session.ErrUnknown
	// ErrNotSent is the outcome of an event that was accepted by the producer but never left it.
	ErrNotSent = session.ErrNotSent
	// ErrFenced says that another producer with the same id and a larger epoch has taken over.
	ErrFenced = session.ErrFenced
	// ErrGaveUp says that no answer came for [ProducerOptions.GiveUp].
	ErrGaveUp = session.ErrGaveUp
	// ErrClosed says that the producer was closed.
	ErrClosed = errors.New("the producer is closed")
	// ErrTooLarge refuses events that no batch can hold.
	ErrTooLarge = errors.New("too large for a batch")
)

// ProducerOptions are the settings of a [Producer]. The zero value is good for publishing from one process.
type ProducerOptions struct {
	// ID of the producer, at most 128 bytes. Default: a new random one. Give one only to go on publishing what an earlier
	// process left off, together with FirstSequence.
	ID string
	// Epoch of the first stream, above all that the id ever used. Default: 1 for a random id, else the clock in
	// microseconds.
	Epoch uint64
	// FirstSequence of the first event. What the cluster has already seen of the id is taken for a repetition and has no
	// effect, so with an ID of yours it must be given: the one after the last event known to be published, or that of the
	// first event to be published again. Default 1, for a random id.
	FirstSequence uint64

	// Window is how many batches may be unanswered, 1 to 256; default 64.
	Window int
	// BatchEvents closes a batch of single events, 1 to 1,000; default 100.
	BatchEvents int
	// BatchBytes closes it too, up to 4 MiB; default 1 MiB.
	BatchBytes int
	// Linger is how long a single event may wait for company, default 1 ms; negative means not at all. While the window is
	// full they wait longer and fill their batch.
	Linger time.Duration
	// MaxPending is how many events may be without outcome before Publish blocks, default 65,536.
	MaxPending int
	// MaxPendingBytes is how large they may be together on the wire, default 64 MiB.
	MaxPendingBytes int

	// MinBackoff and MaxBackoff bound the pause before a stream is opened again; default 20 ms and 2 s.
	MinBackoff, MaxBackoff time.Duration
	// GiveUp stops the producer when the oldest unanswered event has waited this long. Default: never.
	GiveUp time.Duration
}

func (o ProducerOptions) check() (ProducerOptions, error) {
	setDefault(&o.Window, 64)
	setDefault(&o.BatchEvents, 100)
	setDefault(&o.BatchBytes, 1<<20)
	setDefault(&o.MaxPending, 1<<16)
	setDefault(&o.MaxPendingBytes, 64<<20)
	setDefault(&o.MinBackoff, 20*time.Millisecond)
	setDefault(&o.MaxBackoff, max(2*time.Second, o.MinBackoff))
	setDefault(&o.Linger, time.Millisecond)
	o.Linger = max(o.Linger, 0)
	switch {
	case len(o.ID) > maxProducerID:
		return o, fmt.Errorf("the producer's id has %d bytes; at most %d are allowed", len(o.ID), maxProducerID)
	case o.ID != "" && o.FirstSequence == 0:
		return o, errors.New("a producer with an id of its own needs a FirstSequence: sequences that the cluster has seen have no effect")
	case o.Window < 1 || o.Window > session.MaxWindow:
		return o, fmt.Errorf("the window is %d batches; want 1 to %d", o.Window, session.MaxWindow)
	case o.BatchEvents < 1 || o.BatchEvents > MaxBatchEvents:
		return o, fmt.Errorf("the batch is %d events; want 1 to %d", o.BatchEvents, MaxBatchEvents)
	case o.BatchBytes < 1 || o.BatchBytes > MaxBatchBytes:
		return o, fmt.Errorf("the batch is %d bytes; want 1 to %d", o.BatchBytes, MaxBatchBytes)
	case o.MinBackoff < 0 || o.MaxBackoff < o.MinBackoff:
		return o, fmt.Errorf("the pause between streams is %v to %v; want it the other way round", o.MinBackoff, o.MaxBackoff)
	case o.MaxPending < 1 || o.MaxPendingBytes < 1:
		return o, errors.New("nothing may be pending: want at least one event and one byte")
	}
	if o.ID == "" {
		var id [16]byte
		if _, err := rand.Read(id[:]); err != nil {
			return o, err
		}
		o.ID = hex.EncodeToString(id[:])
		setDefault(&o.Epoch, 1)
		setDefault(&o.FirstSequence, 1)
	}
	setDefault(&o.Epoch, uint64(time.Now().UnixMicro()))
	return o, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Result is the outcome of one event.
type Result struct {
	// Sequence of the event in its producer.
	Sequence uint64
	// Err is nil when the event was folded. Else it is the status that the cluster gave (see [status.FromError]), or
	// wraps [ErrUnknown] or [ErrNotSent].
	Err error
	// Position in the journal of an event that was journaled without being folded. Opaque.
	Position string
	// Seq is the grain's own number of such an event.
	Seq uint64
}

// BatchResult is the outcome of one batch.
type BatchResult struct {
	// First is the sequence of the first event; the others follow by one.
	First uint64
	// Events of the batch.
	Events int
	// Duplicates is how many of them had been journaled before they were sent for the last time.
	Duplicates int
	// Exceptions are the events that were not folded, in order. All others were.
	Exceptions []Exception
}

// Exception is an event of a batch that was not folded.
type Exception = session.Exception

// Stats count what a producer did.
type Stats struct {
	// Reconnects is how often a stream was opened after the first.
	Reconnects uint64
	// Resent is how many events were sent again, counted each time.
	Resent uint64
	// Pending is how many events have no outcome yet.
	Pending int
}

// Producer publishes events in order, each with the effect of once, over one stream at a time. It may be used by many
// goroutines; the order is that in which Publish and PublishBatch are entered.
//
// Callbacks are called one at a time, in the order in which outcomes become known. They must be quick, and must not call
// Publish, PublishBatch, Flush or Close, which may wait for a callback to return.
type Producer struct {
	options ProducerOptions
	client  granaryv1.EventServiceClient

	mu           sync.Mutex
	inbox        []session.Input
	flushes      []flush
	pending      int
	pendingBytes int
	room         chan struct{} // closed when something got an outcome; nil while nobody waits
	stopped      error         // why nothing is accepted any more

	// Beyond this line all is touched by run alone, or made for passing things to it.
	wake     chan struct{}
	incoming chan session.Input
	session  *session.Session
	stream   *stream
	tickAt   time.Time
	waiting  []flush

	reconnects, resent atomic.Uint64

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// flush is somebody who waits until all events accepted before are settled.
type flush struct {
	// after is the number of inputs that come before it in the inbox, then the sequence to wait for.
	after uint64
	done  chan error
}

// NewProducer makes a producer. It connects when the first event is published.
func NewProducer(conn grpc.ClientConnInterface, options ProducerOptions) (*Producer, error) {
	o, err := options.check()
	if err != nil {
		return nil, fmt.Errorf("producer: %w", err)
	}
	p := &Producer{
		options: o, client: granaryv1.NewEventServiceClient(conn),
		wake: make(chan struct{}, 1), incoming: make(chan session.Input, 16),
		session: session.New(session.Config{
			Producer: o.ID, Epoch: o.Epoch, FirstSequence: o.FirstSequence, Window: o.Window,
			MaxEvents: o.BatchEvents, MaxBytes: o.BatchBytes, Linger: o.Linger,
			MinBackoff: o.MinBackoff, MaxBackoff: o.MaxBackoff, GiveUp: o.GiveUp, Jitter: mathrand.Float64,
		}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.tasks.Go(p.run)
	return p, nil
}

// ID of the producer.
func (p *Producer) ID() string { return p.options.ID }

// Publish hands in one event, to be sent in a batch with others. It waits while too much is pending, until the context
// ends. If it returns nil, done is called once with the outcome; if it returns an error, done is never called. done may be
// nil. The event must not be changed any more.
func (p *Producer) Publish(ctx context.Context, event *granaryv1.Event, done func(Result)) error {
	size := event.SizeVT()
	size += overhead(size)
	if size > MaxBatchBytes {
		return fmt.Errorf("publish: an event of %d bytes is %w: at most %d fit", size, ErrTooLarge, MaxBatchBytes)
	}
	if err := p.accept(ctx, session.Event{Event: event, Bytes: size, Ref: done}, 1, size); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// PublishBatch hands in 1 to 1,000 events, at most 4 MiB, to be sent as one batch. Otherwise it is as Publish. After a
// disconnect what has no outcome of the batch may be sent in several.
func (p *Producer) PublishBatch(ctx context.Context, events []*granaryv1.Event, done func(BatchResult)) error {
	if len(events) == 0 || len(events) > MaxBatchEvents {
		return fmt.Errorf("publish: a batch has 1 to %d events, not %d", MaxBatchEvents, len(events))
	}
	size := 0
	for _, e := range events {
		n := e.SizeVT()
		size += n + overhead(n)
	}
	if size > MaxBatchBytes {
		return fmt.Errorf("publish: a batch of %d bytes is %w: at most %d fit", size, ErrTooLarge, MaxBatchBytes)
	}
	if err := p.accept(ctx, session.Batch{Events: events, Bytes: size, Ref: done}, len(events), size); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// overhead is what a batch adds to an event of n bytes: a tag and the length.
func overhead(n int) int {
	size := 2
	for ; n >= 1<<7; n >>= 7 {
		size++
	}
	return size
}

// accept puts an input into the inbox as soon as there is room for its events.
func (p *Producer) accept(ctx context.Context, in session.Input, events, bytes int) error {
	p.mu.Lock()
	for {
		if p.stopped != nil {
			p.mu.Unlock()
			return p.stopped
		}
		// What is larger than the limits alone gets in when it has the place to itself.
		if p.pending == 0 ||
			p.pending+events <= p.options.MaxPending && p.pendingBytes+bytes <= p.options.MaxPendingBytes {
			break
		}
		if p.room == nil {
			p.room = make(chan struct{})
		}
		room := p.room
		p.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
		p.mu.Lock()
	}
	p.pending += events
	p.pendingBytes += bytes
	p.inbox = append(p.inbox, in)
	p.mu.Unlock()
	p.nudge()
	return nil
}

func (p *Producer) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Flush sends what waits for company and returns when every event accepted before has its outcome. It returns the
// context's error if that comes first. Once the producer has stopped it returns why, at once.
func (p *Producer) Flush(ctx context.Context) error {
	done := make(chan error, 1)
	p.mu.Lock()
	if p.stopped != nil {
		defer p.mu.Unlock()
		return p.stopped
	}
	p.inbox = append(p.inbox, session.Flush{})
	p.flushes = append(p.flushes, flush{after: uint64(len(p.inbox)), done: done})
	p.mu.Unlock()
	p.nudge()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stats tell what the producer did so far.
func (p *Producer) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Reconnects: p.reconnects.Load(), Resent: p.resent.Load(), Pending: p.pending}
}

// Close stops the producer without waiting for answers: events without outcome get [ErrUnknown] or [ErrNotSent]. Call
// Flush before, to wait. When Close returns, all callbacks have been called and nothing of the producer is running. It
// returns why the producer had stopped by itself, if it had.
func (p *Producer) Close() error {
	p.cancel()
	p.tasks.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(p.stopped, ErrClosed) {
		return nil
	}
	return p.stopped
}

// run steps the session with whatever happens, until the producer is closed.
func (p *Producer) run() {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	var armed time.Time
	for {
		select {
		case <-p.ctx.Done():
			p.finish()
			return
		case <-p.wake:
			p.drain()
		case in := <-p.incoming:
			p.step(in)
		case <-timer.C:
			armed = time.Time{}
			p.step(session.Tick{})
		}
		// A timer that goes off early does no harm and saves setting it anew at every step.
		if !p.tickAt.IsZero() && (armed.IsZero() || p.tickAt.Before(armed)) {
			armed = p.tickAt
			timer.Reset(time.Until(armed))
		}
		p.settleFlushes()
	}
}

// drain steps through the inbox.
func (p *Producer) drain() {
	p.mu.Lock()
	inbox, flushes := p.inbox, p.flushes
	p.inbox, p.flushes = nil, nil
	p.mu.Unlock()
	for i, in := range inbox {
		p.step(in)
		for len(flushes) > 0 && flushes[0].after == uint64(i+1) {
			p.waiting = append(p.waiting, flush{after: p.session.Last(), done: flushes[0].done})
			flushes = flushes[1:]
		}
	}
}

// step runs the session and does what it says.
func (p *Producer) step(in session.Input) {
	effects := p.session.Step(time.Now(), in)
	if effects.Close && p.stream != nil {
		p.stream.cancel()
		p.stream = nil
	}
	if effects.Open != 0 {
		p.stream = p.openStream(effects.Open)
		p.reconnects.Store(p.session.Streams() - 1)
	}
	for _, request := range effects.Send {
		p.stream.out <- request
	}
	if effects.Stopped != nil {
		p.stop(effects.Stopped)
	}
	if len(effects.Done) > 0 {
		p.resent.Store(p.session.Resent())
		p.report(effects.Done)
	}
	p.tickAt = effects.Wake
}

// stop makes Publish refuse from now on.
func (p *Producer) stop(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped == nil {
		p.stopped = err
	}
	p.makeRoom()
}

func (p *Producer) makeRoom() {
	if p.room != nil {
		close(p.room)
		p.room = nil
	}
}

// report calls the callbacks and makes room for as many events.
func (p *Producer) report(outcomes []session.Outcome) {
	events, bytes := 0, 0
	for _, o := range outcomes {
		events, bytes = events+o.Events, bytes+o.Bytes
		if o.Refs == nil {
			if done := o.Ref.(func(BatchResult)); done != nil {
				done(BatchResult{First: o.First, Events: o.Events, Duplicates: o.Duplicates, Exceptions: o.Exceptions})
			}
			continue
		}
		exceptions := o.Exceptions
		for i, ref := range o.Refs {
			r := Result{Sequence: o.First + uint64(i)}
			if len(exceptions) > 0 && exceptions[0].Index == i {
				r.Err, r.Position, r.Seq = exceptions[0].Err, exceptions[0].Position, exceptions[0].Seq
				exceptions = exceptions[1:]
			}
			if done := ref.(func(Result)); done != nil {
				done(r)
			}
		}
	}
	p.mu.Lock()
	p.pending -= events
	p.pendingBytes -= bytes
	p.makeRoom()
	p.mu.Unlock()
}

// settleFlushes answers those who wait for events that all have an outcome by now.
func (p *Producer) settleFlushes() {
	for len(p.waiting) > 0 && p.session.Settled(p.waiting[0].after) {
		p.mu.Lock()
		err := p.stopped
		p.mu.Unlock()
		p.waiting[0].done <- err
		p.waiting = p.waiting[1:]
	}
}

// finish ends the session. Whoever comes now is refused; whoever came before gets an outcome.
func (p *Producer) finish() {
	p.stop(ErrClosed)
	p.drain()
	p.step(session.Stop{Err: ErrClosed})
	p.settleFlushes()
}
