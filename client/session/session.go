// Package session is the publisher's side of a producer session, as a machine: what came in, and when, goes into
// [Session.Step]; what to send, open, close and report comes out. Whoever runs it owns the clock, the stream and the
// goroutines. No I/O, clock, randomness, goroutine or lock may live here, so that a simulation can run thousands of
// sessions against clusters that fail in any way.
//
// # The protocol
//
// A producer numbers its events. A stream carries one epoch of it; batches are numbered afresh on every stream. For each
// shard the server accepts of an epoch only an unbroken chain of batches, so what a shard holds of a producer is always a
// prefix of what the producer sent there, and a sequence at or below its watermark can only be a repetition.
//
// From that follows how to recover, whatever happened: open a stream under a larger epoch and send again, in the order
// of their sequences and before anything new, exactly the events that have no outcome yet.
//
//   - A lost stream leaves the batches in flight without outcome, whole. Some were journaled; those are answered as
//     duplicates. A server may also end the stream by itself when a shard does not take its part of a batch (leadership
//     lost, too much to do): that batch and the ones behind it at that shard then stay without outcome.
//   - Or it answers the events in question UNAVAILABLE or RESOURCE_EXHAUSTED. The chain of their shard is broken: all
//     later events to that shard on this stream will be refused too (reason PRODUCER_GAP), while those to other shards go
//     on. So nothing new is sent, the stream is read on until the pause before the next attempt is over, and what then has
//     no outcome is sent again under the next epoch. Of a batch that was answered in part only the rest is sent again, as
//     one batch for each unbroken run of sequences. Events that were folded or refused for good are not: the chain of
//     their shard is not the worse for it, because the first batch of an epoch may begin anywhere, and what the gateway
//     refused once (a time too far in the future, say) might pass the second time, at a sequence that its shard has
//     already left behind.
//   - The reason PRODUCER_FENCED means that someone opened a larger epoch of this producer. Going on would be a fight
//     between two publishers, so the session stops.
//
// Invariant: every event given to the session gets exactly one outcome, and no event is sent on a stream after an event
// with a larger sequence.
package session

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// MaxWindow is how many unanswered batches the protocol allows on a stream.
const MaxWindow = 256

// Config of a session. Every field must be set, except where it says otherwise.
type Config struct {
	// Producer is the id of the producer.
	Producer string
	// Epoch of the first stream, at least 1; every further stream takes the next.
	Epoch uint64
	// FirstSequence of the first event, at least 1 and above all that the producer ever used.
	FirstSequence uint64
	// Window is the number of batches that may be unanswered, 1 to [MaxWindow].
	Window int
	// MaxEvents and MaxBytes close a batch of single events. Bytes are those of the events on the wire.
	MaxEvents, MaxBytes int
	// Linger is how long a batch waits for more events once it could be sent. May be 0.
	Linger time.Duration
	// MinBackoff and MaxBackoff bound the pause between two streams. It doubles with every attempt without progress.
	MinBackoff, MaxBackoff time.Duration
	// GiveUp stops the session when the oldest unanswered event has not changed for this long. 0 means never.
	GiveUp time.Duration
	// Jitter returns a random number in [0, 1), by which a pause is shortened to between half and all of its length.
	Jitter func() float64
}

// Input is what can happen to a session: one of the types below.
type Input interface{ input() }

type (
	// Event is one event to publish, in a batch with others.
	Event struct {
		// Event must not be changed any more.
		Event *granaryv1.Event
		// Bytes is its size on the wire.
		Bytes int
		// Ref comes back with the outcome.
		Ref any
	}
	// Batch is a number of events to publish in one batch of their own.
	Batch struct {
		// Events, at least one. Neither they nor the slice may be changed any more.
		Events []*granaryv1.Event
		// Bytes is their size on the wire.
		Bytes int
		// Ref comes back with the outcome.
		Ref any
	}
	// Flush sends the events that wait for company as soon as the window allows.
	Flush struct{}
	// Received is an answer that came on the stream of an epoch.
	Received struct {
		// Epoch of the stream; answers of streams long given up are ignored.
		Epoch uint64
		// Response as it came.
		Response *granaryv1.PublishStreamResponse
	}
	// Lost says that the stream of an epoch is over: nothing more will come from it.
	Lost struct {
		// Epoch of the stream; those long given up are ignored.
		Epoch uint64
		// Err is why: the status of the stream, or io.EOF.
		Err error
	}
	// Tick says that the time asked for by [Effects.Wake] has come. More ticks do no harm.
	Tick struct{}
	// Stop ends the session. What has no outcome gets the error as one.
	Stop struct {
		// Err says why, not nil.
		Err error
	}
)

func (Event) input()    {}
func (Batch) input()    {}
func (Flush) input()    {}
func (Received) input() {}
func (Lost) input()     {}
func (Tick) input()     {}
func (Stop) input()     {}

// Effects is what to do after a step, in the order of the fields. It is valid until the next step.
type Effects struct {
	// Close the stream that is open.
	Close bool
	// Open a stream for this epoch, unless 0. If it cannot be opened, that is [Lost].
	Open uint64
	// Send these on the stream, in order.
	Send []*granaryv1.PublishStreamRequest
	// Done are the batches that got their outcome.
	Done []Outcome
	// Wake is when to step with a [Tick] at the latest, unless zero. It replaces the one before.
	Wake time.Time
	// Stopped is why the session has ended, nil while it has not. Events given to it from then on get this as outcome.
	Stopped error
}

// Outcome of one batch. Events that are not among the exceptions were folded.
type Outcome struct {
	// First is the sequence of the first event; the others follow by one.
	First uint64
	// Events is their number, and Bytes their size on the wire.
	Events, Bytes int
	// Duplicates is how many of them had been journaled before they were sent for the last time, because an answer was
	// lost.
	Duplicates int
	// Exceptions are the events that were not folded, or of which that is not known, in order.
	Exceptions []Exception
	// Ref of a [Batch]; nil otherwise.
	Ref any
	// Refs of single events ([Event]), one for each; nil otherwise.
	Refs []any
}

// Exception is an event that was not folded.
type Exception struct {
	// Index of the event in its batch, from 0.
	Index int
	// Err is the status that the cluster gave, or wraps [ErrUnknown] or [ErrNotSent] when it gave none.
	Err error
	// Position in the journal, if the event was journaled. Opaque.
	Position string
	// Seq is the grain's number of the event, if it was journaled; else 0.
	Seq uint64
}

// Session is one producer. It is not safe for concurrent use.
type Session struct {
	cfg     Config
	effects Effects

	epoch    uint64 // of the stream that is open, or was open last
	next     uint64 // sequence of the next event
	stopped  error
	streams  uint64
	resent   uint64
	lastLoss error

	filling *batch    // single events waiting for company
	due     time.Time // when filling has waited long enough

	queue  fifo   // to be sent, in order of sequences
	flight flight // sent and not answered
	failed []span // answered with "try again" on this stream

	open     bool      // a stream is open, or being opened
	retryAt  time.Time // nothing is sent before; zero while the stream is healthy
	attempts int       // failures since the last progress

	oldest   uint64    // smallest sequence without an outcome, 0 if there is none
	oldestAt time.Time // since when
}

// batch is what the caller gave as one, or what was put together from single events.
type batch struct {
	first      uint64
	events     []*granaryv1.Event
	bytes      int
	ref        any
	refs       []any
	left       int    // events without outcome
	settled    []bool // which events have one; nil while none or all have
	sent       bool
	duplicates int
	exceptions []Exception
}

// span is events [from, to) of a batch: what is sent as one message.
type span struct {
	b        *batch
	from, to int
}

func (s span) first() uint64 { return s.b.first + uint64(s.from) }

// New makes a session. It panics on a configuration that cannot work, which is a mistake of the program.
func New(cfg Config) *Session {
	switch {
	case cfg.Producer == "" || cfg.Epoch == 0 || cfg.FirstSequence == 0 || cfg.Jitter == nil:
		panic("session: the configuration is incomplete")
	case cfg.Window < 1 || cfg.Window > MaxWindow:
		panic(fmt.Sprintf("session: a window of %d is not between 1 and %d", cfg.Window, MaxWindow))
	case cfg.MaxEvents < 1 || cfg.MaxBytes < 1 || cfg.MinBackoff <= 0 || cfg.MaxBackoff < cfg.MinBackoff:
		panic("session: a limit is missing")
	}
	return &Session{cfg: cfg, epoch: cfg.Epoch - 1, next: cfg.FirstSequence}
}

// Streams is the number of streams asked for so far.
func (s *Session) Streams() uint64 { return s.streams }

// Resent is the number of events sent more than once, counted each time.
func (s *Session) Resent() uint64 { return s.resent }

// Last is the sequence of the last event given to the session; 0 if there was none.
func (s *Session) Last() uint64 {
	last := s.next - 1
	if s.filling != nil {
		last += uint64(len(s.filling.events))
	}
	if last < s.cfg.FirstSequence {
		return 0
	}
	return last
}

// Settled is true when every event up to the sequence has an outcome.
func (s *Session) Settled(sequence uint64) bool {
	oldest := s.oldestUnanswered()
	return oldest == 0 || oldest > sequence
}

// Step takes in what happened and says what to do.
func (s *Session) Step(now time.Time, in Input) *Effects {
	clear(s.effects.Send)
	clear(s.effects.Done)
	s.effects = Effects{Send: s.effects.Send[:0], Done: s.effects.Done[:0]}
	if s.stopped != nil {
		s.refuse(in)
		return &s.effects
	}
	switch in := in.(type) {
	case Event:
		s.add(now, in)
	case Batch:
		s.close()
		s.enqueue(&batch{events: in.Events, bytes: in.Bytes, ref: in.Ref})
	case Flush:
		s.due = now
	case Received:
		if s.open && in.Epoch == s.epoch {
			s.receive(now, in.Response)
		}
	case Lost:
		if s.open && in.Epoch == s.epoch {
			s.open = false
			s.lose(now, in.Err)
		}
	case Tick:
	case Stop:
		s.stop(in.Err)
	}
	s.advance(now)
	return &s.effects
}

// add puts a single event into the batch that is being filled.
func (s *Session) add(now time.Time, in Event) {
	if s.filling != nil && s.filling.bytes+in.Bytes > s.cfg.MaxBytes {
		s.close()
	}
	if s.filling == nil {
		s.filling = &batch{}
		s.due = now.Add(s.cfg.Linger)
	}
	f := s.filling
	f.events, f.refs, f.bytes = append(f.events, in.Event), append(f.refs, in.Ref), f.bytes+in.Bytes
	if len(f.events) >= s.cfg.MaxEvents || f.bytes >= s.cfg.MaxBytes {
		s.close()
	}
}

// close ends the batch that is being filled.
func (s *Session) close() {
	if s.filling != nil {
		s.enqueue(s.filling)
		s.filling = nil
	}
}

// enqueue numbers the events of a batch, for good.
func (s *Session) enqueue(b *batch) {
	b.first, b.left = s.next, len(b.events)
	s.next += uint64(len(b.events))
	s.queue.push(span{b, 0, len(b.events)})
}

// advance does what the time and the window allow.
func (s *Session) advance(now time.Time) {
	if s.stopped != nil {
		return
	}
	if !s.retryAt.IsZero() && !now.Before(s.retryAt) {
		s.restart()
	}
	if s.retryAt.IsZero() {
		s.send(now)
	}
	s.watch(now)
	if s.stopped == nil {
		s.effects.Wake = s.wake()
	}
}

// restart gives up the stream, if it is still open, and puts what has no outcome back in front of the queue.
func (s *Session) restart() {
	s.effects.Close = s.open
	s.open = false
	s.retryAt = time.Time{}
	s.requeue()
}

func (s *Session) requeue() {
	again := append(s.failed, s.flight.drain()...)
	slices.SortFunc(again, func(a, b span) int {
		if a.first() < b.first() {
			return -1
		}
		return 1
	})
	s.queue.unshift(again)
	s.failed = nil
}

// send fills the window.
func (s *Session) send(now time.Time) {
	for s.flight.unanswered < s.cfg.Window {
		if s.queue.empty() && s.filling != nil && !now.Before(s.due) {
			s.close()
		}
		if s.queue.empty() {
			return
		}
		request := &granaryv1.PublishStreamRequest{}
		if !s.open {
			s.open = true
			s.epoch++
			s.streams++
			s.flight = flight{next: 1}
			s.effects.Open = s.epoch
			request.Producer = &granaryv1.Producer{Id: s.cfg.Producer, Epoch: s.epoch}
		}
		sp := s.queue.pop()
		if sp.b.sent {
			s.resent += uint64(sp.to - sp.from)
		}
		sp.b.sent = true
		request.Batch = s.flight.push(sp)
		request.FirstSequence = sp.first()
		request.Events = sp.b.events[sp.from:sp.to]
		s.effects.Send = append(s.effects.Send, request)
	}
}

// receive takes an answer of the open stream.
func (s *Session) receive(now time.Time, r *granaryv1.PublishStreamResponse) {
	var retry error
	for _, result := range r.GetBatches() {
		sp := s.flight.at(result.GetBatch())
		if sp.b == nil {
			s.drop(now, fmt.Errorf("the server answered batch %d, which is not in flight", result.GetBatch()))
			return
		}
		again, err := s.settle(sp, result)
		if err != nil {
			s.drop(now, err)
			return
		}
		s.flight.answer(result.GetBatch())
		if errors.Is(again, ErrFenced) {
			s.stop(again)
			return
		}
		if again != nil {
			retry = again
		}
	}
	if number, ok := s.flight.oldest(); ok && r.GetFloor() >= number {
		s.drop(now, fmt.Errorf("the server's floor is %d, but batch %d has no outcome", r.GetFloor(), number))
		return
	}
	if retry != nil {
		s.pause(now, retry)
	}
}

// settle records the outcome of what was sent as one message. It returns the first reason to send some of it again, and
// an error if the answer does not fit what was sent.
func (s *Session) settle(sp span, r *granaryv1.BatchResult) (again, err error) {
	n := sp.to - sp.from
	if int(r.GetEvents()) != n {
		return nil, fmt.Errorf("the server answered %d events of batch %d, which has %d", r.GetEvents(), r.GetBatch(), n)
	}
	last := -1
	for _, e := range r.GetExceptions() {
		if i := int(e.GetIndex()); i <= last || i >= n {
			return nil, fmt.Errorf("the server answered event %d of batch %d, which has %d", i, r.GetBatch(), n)
		}
		last = int(e.GetIndex())
	}
	b := sp.b
	b.duplicates += int(r.GetDuplicates())
	if len(r.GetExceptions()) == 0 && b.left == n {
		b.left = 0
		s.finish(b)
		return nil, nil
	}
	if b.settled == nil {
		b.settled = make([]bool, len(b.events))
	}
	for i := sp.from; i < sp.to; i++ {
		b.settled[i] = true
	}
	for _, e := range r.GetExceptions() {
		i := sp.from + int(e.GetIndex())
		retry, problem := classify(e.GetResult())
		if retry {
			b.settled[i] = false
			if again == nil || errors.Is(problem, ErrFenced) {
				again = problem
			}
			continue
		}
		if problem == nil {
			continue
		}
		b.exceptions = append(b.exceptions, Exception{
			Index: i, Err: problem, Position: e.GetResult().GetPosition(), Seq: e.GetResult().GetSeq(),
		})
	}
	for i := sp.from; i < sp.to; {
		from := i
		for i < sp.to && !b.settled[i] {
			i++
		}
		if i > from {
			s.failed = append(s.failed, span{b, from, i})
		}
		b.left -= min(1, sp.to-i)
		i++
	}
	if b.left == 0 {
		s.finish(b)
	}
	return again, nil
}

// finish reports a batch whose events all have an outcome.
func (s *Session) finish(b *batch) {
	slices.SortFunc(b.exceptions, func(x, y Exception) int { return x.Index - y.Index })
	s.effects.Done = append(s.effects.Done, Outcome{
		First: b.first, Events: len(b.events), Bytes: b.bytes, Duplicates: b.duplicates, Exceptions: b.exceptions,
		Ref: b.ref, Refs: b.refs,
	})
}

// lose deals with a stream that is over.
func (s *Session) lose(now time.Time, err error) {
	if err == nil {
		err = io.EOF
	}
	if final := fatal(err); final != nil {
		s.stop(final)
		return
	}
	s.requeue()
	s.pause(now, err)
}

// drop leaves a stream on which the server broke the protocol. What it answered before that stands.
func (s *Session) drop(now time.Time, err error) {
	s.effects.Close = true
	s.open = false
	s.lose(now, err)
}

// pause sets the time of the next attempt, unless it is set already.
func (s *Session) pause(now time.Time, err error) {
	s.lastLoss = err
	if !s.retryAt.IsZero() {
		return
	}
	if s.oldestUnanswered() != s.oldest {
		s.attempts = 0
	}
	wait := s.cfg.MaxBackoff
	if s.attempts < 30 {
		wait = min(wait, s.cfg.MinBackoff<<s.attempts)
	}
	s.attempts++
	wait = wait/2 + time.Duration(s.cfg.Jitter()*float64(wait/2))
	s.retryAt = now.Add(max(wait, retryDelay(err)))
}

// watch notices progress, and the lack of it.
func (s *Session) watch(now time.Time) {
	oldest := s.oldestUnanswered()
	if oldest != s.oldest {
		s.oldest, s.oldestAt = oldest, now
		if s.retryAt.IsZero() {
			s.attempts = 0
		}
		return
	}
	if oldest != 0 && s.cfg.GiveUp > 0 && now.Sub(s.oldestAt) >= s.cfg.GiveUp {
		err := fmt.Errorf("%w after %v", ErrGaveUp, s.cfg.GiveUp)
		if s.lastLoss != nil {
			err = fmt.Errorf("%w: %w", err, s.lastLoss)
		}
		s.stop(err)
	}
}

// oldestUnanswered is the smallest sequence without an outcome, or 0.
func (s *Session) oldestUnanswered() uint64 {
	var oldest uint64
	consider := func(sequence uint64) {
		if oldest == 0 || sequence < oldest {
			oldest = sequence
		}
	}
	if number, ok := s.flight.oldest(); ok {
		consider(s.flight.at(number).first())
	}
	for _, sp := range s.failed {
		consider(sp.first())
	}
	if !s.queue.empty() {
		consider(s.queue.peek().first())
	}
	if s.filling != nil {
		consider(s.next)
	}
	return oldest
}

// wake is the earliest time at which something happens by itself.
func (s *Session) wake() time.Time {
	var at time.Time
	consider := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if !s.retryAt.IsZero() {
		consider(s.retryAt)
	} else if s.filling != nil && s.queue.empty() && s.flight.unanswered < s.cfg.Window {
		consider(s.due)
	}
	if s.oldest != 0 && s.cfg.GiveUp > 0 {
		consider(s.oldestAt.Add(s.cfg.GiveUp))
	}
	return at
}

// stop ends the session and gives every event without an outcome the error as one.
func (s *Session) stop(err error) {
	s.close()
	s.requeue()
	// A stream asked for in this very step is not opened at all.
	s.effects.Close = s.effects.Close || s.open && s.effects.Open == 0
	s.effects.Open, s.effects.Send = 0, s.effects.Send[:0]
	s.open = false
	s.stopped = err
	s.effects.Stopped = err
	for !s.queue.empty() {
		s.abandon(s.queue.pop())
	}
}

func (s *Session) abandon(sp span) {
	kind := ErrNotSent
	if sp.b.sent {
		kind = ErrUnknown
	}
	err := fmt.Errorf("%w: %w", kind, s.stopped)
	for i := sp.from; i < sp.to; i++ {
		sp.b.exceptions = append(sp.b.exceptions, Exception{Index: i, Err: err})
	}
	sp.b.left -= sp.to - sp.from
	if sp.b.left == 0 {
		s.finish(sp.b)
	}
}

// refuse answers what comes after the end.
func (s *Session) refuse(in Input) {
	s.effects.Stopped = s.stopped
	switch in := in.(type) {
	case Event:
		s.enqueue(&batch{events: []*granaryv1.Event{in.Event}, bytes: in.Bytes, refs: []any{in.Ref}})
	case Batch:
		s.enqueue(&batch{events: in.Events, bytes: in.Bytes, ref: in.Ref})
	default:
		return
	}
	s.abandon(s.queue.pop())
}
