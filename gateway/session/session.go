// Package session is the server's side of one PublishStream, as a machine: what came in goes into [Session.Step], what to
// hand to shards and what to answer comes out.
//
// Here live the numbering of batches, the links of a producer, the window, and what is answered when. Here never live
// goroutines, channels, clocks, randomness or gRPC: whoever drives it owns those, and a simulation can drive thousands.
//
// # The protocol
//
// A client numbers its batches, rising by one. Each is split into one part for each shard, and answered when all its
// parts are done and it is its turn to be sent: responses leave in the order in which batches got their outcome, several
// in one. A response names a floor: all batches up to it are answered, by this response or by one before it. At most
// [Config.Window] batches above the floor are taken in; beyond that the driver must not read from the stream
// ([Session.Room]).
//
// An event that the gateway refuses never reaches a shard. It is an exception of its batch, and the others go on.
//
// Without a producer, events whose shard did not take them are exceptions as well, with a status that says whether to try
// again.
//
// With a producer, the parts that go to one shard are linked: each names the sequence of the last event that this stream
// sent there. An event that the gateway refused is not part of that chain. Its sequence is used up, but the shard is never
// told of it, so it leaves no hole; sent again it is refused again. When a shard does not take a part, the chain to that
// shard is broken: nothing more of this stream can be right there. Then nothing at all is handed out any more, the batches
// that got a whole outcome are answered, those that did not are left unanswered, and the stream closes with the shard's
// reason. The client comes back under a larger epoch and resends what is unanswered.
//
// Invariant: every batch is answered at most once, and in the end either answered or above the floor; what one shard was
// handed of a producer is, in order, a chain of links without a hole.
package session

import (
	"strings"
	"time"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// MaxWindow is how many batches above the floor the protocol allows.
const MaxWindow = 256

// maxResponse is how many bytes of batch results go into one response, unless one alone has more. Clients take 4 MiB.
const maxResponse = 1 << 20

// maxProducerBytes is the longest id of a producer.
const maxProducerBytes = 128

// Config of a session. Every field must be set.
type Config struct {
	// Shards is the number of shards.
	Shards int
	// Window is how many batches above the floor are taken in, 1 to [MaxWindow].
	Window int
	// MaxCost is how much the unanswered batches may cost before no more is read. What is read then may go over it once.
	MaxCost int
	// Done is called with every part that its shard is done with, on that shard's goroutine. It must see to it that the
	// machine is stepped with [Done], and must not block.
	Done func(*intake.Part)
}

// Input is what can happen to a session: one of the types below.
type Input interface{ input() }

type (
	// Request is a message that came from the client.
	Request struct {
		// Producer, if the message has one.
		Producer *granaryv1.Producer
		// Batch number, and sequence of the first event.
		Batch, FirstSequence uint64
		// Group of the events, if there are any. The machine takes it over.
		Group *intake.Group
		// Refusal of the message as a whole; then there is no group.
		Refusal *answer.Refusal
		// Cost of keeping the batch until it is answered, in bytes.
		Cost int
	}
	// End says that the client will send no more.
	End struct{}
	// Done says that a shard is done with a part.
	Done struct{ Part *intake.Part }
	// Refused says that a part could not be handed to its shard, and why. Nothing happened to its events.
	Refused struct {
		Part   *intake.Part
		Reason *answer.Refusal
	}
	// Stop ends the session: nothing more is taken in, what is on its way is answered, then it closes with the reason.
	Stop struct{ Reason *answer.Refusal }
	// Writable says that a response can be sent.
	Writable struct{}
)

func (*Request) input() {}
func (End) input()      {}
func (Done) input()     {}
func (*Refused) input() {}
func (Stop) input()     {}
func (Writable) input() {}

// Effects is what to do after a step.
type Effects struct {
	// Route these parts to their shards, in order. Before each, look at [Session.Halted]: once it is true, step with
	// [Refused] instead, whatever the reason.
	Route []*intake.Part
	// Response to send, or nil. Only after [Writable].
	Response *granaryv1.PublishStreamResponse
	// Waited is how long each batch in the response was here.
	Waited []time.Duration
	// Released is how much of the cost that was stepped in is given back.
	Released int
	// Closed says that all is said: close the stream with Status, nil for OK. Only after [Writable].
	Closed bool
	Status *answer.Refusal
}

// Session is the machine. See the package documentation.
type Session struct {
	cfg      Config
	started  bool   // a message came
	first    uint64 // number of the first batch; 0 before it
	next     uint64 // number that the next batch must have
	floor    uint64 // all batches up to here are answered
	slots    []batch
	ready    []uint64 // batches with an outcome and without an answer, in the order in which they got it
	parts    int      // handed out and not done
	cost     int
	ended    bool            // the client will send no more
	closing  bool            // nothing more is taken in
	broken   bool            // a chain of links is
	status   *answer.Refusal // with which it closes
	producer string          // "" without a session
	epoch    uint64
	sequence uint64   // of the last event
	sent     []uint64 // by shard: sequence of the last event sent there
	waited   []time.Duration
}

// batch is a batch above the floor.
type batch struct {
	group   *intake.Group
	since   time.Time
	pending int // parts not done
	cost    int
	void    bool // a part was refused: there is no outcome
	result  *granaryv1.BatchResult
	// answered batches wait for those before them to be answered too.
	answered bool
}

// New returns a session before its first message.
func New(cfg Config) *Session {
	return &Session{
		cfg: cfg, slots: make([]batch, cfg.Window), ready: make([]uint64, 0, cfg.Window),
	}
}

// Room tells whether another message may be read from the client.
func (s *Session) Room() bool {
	return !s.closing && !s.ended && s.next-s.floor <= uint64(s.cfg.Window) && s.cost < s.cfg.MaxCost
}

// Halted tells that no part may be handed to a shard any more: a chain of links is broken.
func (s *Session) Halted() bool { return s.broken }

// Due tells whether [Writable] would give something to do.
func (s *Session) Due() bool { return len(s.ready) > 0 || s.over() }

// Parts is the number of parts that are with their shards.
func (s *Session) Parts() int { return s.parts }

func (s *Session) over() bool {
	return (s.ended || s.closing) && s.parts == 0 && len(s.ready) == 0
}

// Step lets the machine take one input. It writes what is to be done to fx, which is valid until the next step with it.
func (s *Session) Step(now time.Time, in Input, fx *Effects) {
	*fx = Effects{Route: fx.Route[:0]}
	switch in := in.(type) {
	case *Request:
		s.request(now, in, fx)
	case Done:
		s.done(in.Part, answer.Batch(&in.Part.Batch))
	case *Refused:
		s.done(in.Part, in.Reason)
	case End:
		s.ended = true
	case Stop:
		if !s.ended {
			s.close(in.Reason)
		}
	case Writable:
		s.respond(now, fx)
	}
}

// close takes in no more. The first reason stays, unless a later one says that all is in vain.
func (s *Session) close(reason *answer.Refusal) {
	if !s.closing || reason.Reason == answer.ProducerFenced {
		s.closing, s.status = true, reason
	}
}

func (s *Session) request(now time.Time, r *Request, fx *Effects) {
	if !s.closing {
		if refusal := s.check(r); refusal != nil {
			s.close(refusal)
		}
	}
	if s.closing || r.Group == nil {
		if r.Group != nil {
			r.Group.Release()
		}
		fx.Released = r.Cost
		return
	}
	b := s.slot(r.Batch)
	if b.group != nil || b.result != nil || b.answered {
		panic("session: a request was read although there was no room")
	}
	*b = batch{group: r.Group, since: now, pending: len(r.Group.Parts), cost: r.Cost}
	s.cost += r.Cost
	s.parts += b.pending
	r.Group.Number, r.Group.OnDone = r.Batch, s.cfg.Done
	for _, p := range r.Group.Parts {
		if s.producer != "" {
			last := p.Batch.Events[len(p.Batch.Events)-1].Sequence
			p.Link = actors.Link{Producer: s.producer, Epoch: s.epoch, Previous: s.sent[p.Shard]}
			p.Batch.Link = &p.Link
			s.sent[p.Shard] = last
		}
		fx.Route = append(fx.Route, p)
	}
	if b.pending == 0 {
		s.complete(r.Batch, b)
	}
}

// check looks at the message itself, and moves the numbers on when it is right.
func (s *Session) check(r *Request) *answer.Refusal {
	first := !s.started
	s.started = true
	if r.Refusal != nil {
		return r.Refusal
	}
	if r.Producer != nil {
		if refusal := s.open(r.Producer, first); refusal != nil {
			return refusal
		}
		if r.Group == nil {
			if r.Batch != 0 || r.FirstSequence != 0 {
				return answer.Invalid(answer.EmptyBatch, "events", "there are none, so batch and first_sequence must be 0")
			}
			return nil
		}
	}
	switch {
	case r.Group == nil:
		return answer.Invalid(answer.EmptyBatch, "events", "there are none; want 1 to %d", intake.MaxEvents)
	case r.Batch == 0:
		return answer.Invalid(answer.InvalidBatchNumber, "batch", "a batch with events has a number from 1 on")
	case s.first != 0 && r.Batch != s.next:
		return answer.Invalid(answer.InvalidBatchNumber, "batch", "batch %d follows batch %d; numbers rise by one", r.Batch, s.next-1)
	}
	if refusal := s.follow(r); refusal != nil {
		return refusal
	}
	if s.first == 0 {
		s.first, s.floor = r.Batch, r.Batch-1
	}
	s.next = r.Batch + 1
	return nil
}

// open begins a producer session.
func (s *Session) open(p *granaryv1.Producer, first bool) *answer.Refusal {
	switch {
	case !first:
		return answer.Invalid(answer.InvalidProducer, "producer", "it belongs in the first message of a stream")
	case p.GetId() == "" || len(p.GetId()) > maxProducerBytes || !intake.Plain(p.GetId(), maxProducerBytes):
		return answer.Invalid(answer.InvalidProducer, "producer.id", "it must be 1 to %d bytes of UTF-8 without control characters", maxProducerBytes)
	case p.GetEpoch() == 0:
		return answer.Invalid(answer.InvalidProducer, "producer.epoch", "epochs begin at 1 and grow with every reconnect")
	}
	s.producer, s.epoch = strings.Clone(p.GetId()), p.GetEpoch()
	s.sent = make([]uint64, s.cfg.Shards+1)
	return nil
}

// follow checks that the sequences of a batch rise.
func (s *Session) follow(r *Request) *answer.Refusal {
	if s.producer == "" {
		if r.FirstSequence != 0 {
			return answer.Invalid(answer.InvalidSequence, "first_sequence", "it must be 0 on a stream without a producer")
		}
		return nil
	}
	last := r.FirstSequence + uint64(r.Group.Len()) - 1
	switch {
	case r.FirstSequence == 0:
		return answer.Invalid(answer.InvalidSequence, "first_sequence", "sequences of a producer begin at 1")
	case last < r.FirstSequence:
		return answer.Invalid(answer.InvalidSequence, "first_sequence", "the sequences of the batch run over 2^64")
	case r.FirstSequence <= s.sequence:
		return answer.Invalid(answer.InvalidSequence, "first_sequence", "%d does not follow %d, which this stream has sent; sequences always rise",
			r.FirstSequence, s.sequence)
	}
	s.sequence = last
	return nil
}

func (s *Session) slot(number uint64) *batch { return &s.slots[number%uint64(len(s.slots))] }

// done takes back a part, with the reason if its shard did not take it.
func (s *Session) done(p *intake.Part, refusal *answer.Refusal) {
	number := p.Group.Number
	b := s.slot(number)
	s.parts--
	b.pending--
	if refusal != nil {
		p.Refused = true
		if s.producer != "" {
			b.void, s.broken = true, true
			s.close(refusal)
		} else {
			b.refuse(p, refusal)
		}
	}
	if b.pending == 0 {
		s.complete(number, b)
	}
}

// refuse notes that a shard did not take a part of a batch without producer. Its events keep their places until the batch
// is complete.
func (b *batch) refuse(p *intake.Part, refusal *answer.Refusal) {
	for n, i := range p.Index {
		b.group.Refused = append(b.group.Refused, intake.Refused{
			Index: i, Refusal: refusal, Whole: true, Deduplicated: p.Batch.Events[n].ID != "",
		})
	}
}

// complete turns the outcome of a batch into its result.
func (s *Session) complete(number uint64, b *batch) {
	if !b.void {
		b.result = result(number, b.group, s.producer != "")
		s.ready = append(s.ready, number)
	}
	b.group.Release()
	b.group = nil
}

// respond makes a response of what is ready, or closes.
func (s *Session) respond(now time.Time, fx *Effects) {
	if len(s.ready) == 0 {
		if s.over() {
			fx.Closed, fx.Status = true, s.status
		}
		return
	}
	out := &granaryv1.PublishStreamResponse{}
	size, n := 0, 0
	s.waited = s.waited[:0]
	for _, number := range s.ready {
		b := s.slot(number)
		if size += b.result.SizeVT(); size > maxResponse && n > 0 {
			break
		}
		n++
		out.Batches = append(out.Batches, b.result)
		s.waited = append(s.waited, now.Sub(b.since))
		s.cost -= b.cost
		fx.Released += b.cost
		*b = batch{answered: true}
	}
	s.ready = s.ready[:copy(s.ready, s.ready[n:])]
	for s.floor+1 < s.next && s.slot(s.floor+1).answered {
		s.floor++
		s.slot(s.floor).answered = false
	}
	out.Floor = s.floor
	fx.Response, fx.Waited = out, s.waited
}
