package sim

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/granary-dev/granary/actors"
	clientsession "github.com/granary-dev/granary/client/session"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/loadtest/workload"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// patience is how long a client waits for the answer to a single call.
const patience = 2 * time.Second

// client is one of those who use the cluster.
type client interface {
	// next does the next operation of the workload.
	next()
	// pending is the number of its operations without an outcome.
	pending() int
}

// source of all events that have an id.
const source = "/sim"

// message is an operation as a client sends it.
func (w *world) message(op *workload.Operation) *granaryv1.Event {
	event := op.Event()
	payload, err := event.MarshalVT()
	if err != nil {
		w.fail("%v: %v", op, err)
	}
	e := &granaryv1.Event{Grain: op.Grain(), Type: string(event.ProtoReflect().Descriptor().Name()), Time: timestamppb.New(time.Unix(0, op.EventTime)),
		Payload: &granaryv1.Event_Protobuf{Protobuf: payload}}
	if id := op.ID(); id != "" {
		e.Id, e.Source = id, source
	}
	return e
}

// begin takes an operation into the history.
func (w *world) begin(op workload.Operation) int {
	w.trace("c%d %s: %v", op.Client, op.Key, &op)
	return w.history.Begin(op, int64(w.now))
}

func (w *world) end(i int, outcome workload.Outcome, values []uint64) {
	op := &w.history.Records()[i]
	w.history.End(i, int64(w.now), outcome, values)
	w.ended(op)
}

func (w *world) endAsk(i int, outcome workload.Outcome, reply workload.Reply) {
	w.history.EndAsk(i, int64(w.now), outcome, reply)
	w.ended(&w.history.Records()[i])
}

func (w *world) ended(op *workload.Record) {
	outcome := op.Outcome
	w.trace("c%d %s: %v: %v", op.Client, op.Key, &op.Operation, outcome)
	if outcome == workload.OK {
		w.acked++
	}
}

// read asks for a list. What is not answered in time has failed: a read changes nothing.
func (w *world) read(op workload.Operation, done func()) {
	i := w.begin(op)
	over := false
	end := func(outcome workload.Outcome, values []uint64) {
		if !over {
			over = true
			w.end(i, outcome, values)
			done()
		}
	}
	get := &actors.Get{Kind: w.kind, Key: op.Key}
	w.ask(op.Client, get, op.Action == workload.StaleRead, func(r *actors.Read) {
		if r.Failed != actors.Folded {
			end(workload.Failed, nil)
			return
		}
		probe := w.decode(get.State)
		end(workload.OK, probe.GetValues())
	})
	w.after(patience, func() { end(workload.Failed, nil) })
}

func (w *world) decode(state []byte) *probev1.Probe {
	probe := &probev1.Probe{}
	if err := proto.Unmarshal(state, probe); err != nil {
		w.fail("a state that is none was served: %v", err)
	}
	return probe
}

// producer publishes by a stream, several events at a time.
type producer struct {
	world   *world
	id      int
	session *clientsession.Session
	conn    *conn
	wake    time.Time
	waiting int
}

func (w *world) newProducer(id int) *producer {
	return &producer{world: w, id: id, session: clientsession.New(clientsession.Config{
		Producer: fmt.Sprintf("p%d", id), Epoch: 1, FirstSequence: 1, Window: 8, MaxEvents: 5, MaxBytes: 1 << 16, Linger: 2 * time.Millisecond,
		MinBackoff: 10 * time.Millisecond, MaxBackoff: time.Second, Jitter: w.rnd.Float64})}
}

func (p *producer) pending() int { return p.waiting }

func (p *producer) next() {
	w := p.world
	op := w.workload.Next(p.id, w.clock().UnixNano())
	p.waiting++
	done := func() { p.waiting-- }
	if op.Action != workload.Append {
		w.read(op, done)
		return
	}
	i := w.begin(op)
	p.step(clientsession.Event{Event: w.message(&op), Bytes: 100, Ref: func(outcome workload.Outcome) {
		w.end(i, outcome, nil)
		done()
	}})
}

// step lets the session take what happened, and does what it says.
func (p *producer) step(in clientsession.Input) {
	w := p.world
	fx := p.session.Step(w.clock(), in)
	if fx.Close && p.conn != nil {
		p.conn.hangUp()
	}
	if fx.Open != 0 {
		w.trace("c%d opens epoch %d", p.id, fx.Open)
		p.conn = w.dial(p, fx.Open)
	}
	for _, r := range fx.Send {
		p.conn.send(r)
	}
	for _, o := range fx.Done {
		w.report.Duplicates += o.Duplicates
		exceptions := o.Exceptions
		for i, ref := range o.Refs {
			outcome := workload.OK
			if len(exceptions) > 0 && exceptions[0].Index == i {
				w.fail("c%d: event %d was refused: %v", p.id, o.First+uint64(i), exceptions[0].Err)
				exceptions, outcome = exceptions[1:], workload.Unknown
			}
			ref.(func(workload.Outcome))(outcome) //nolint:forcetypeassert // set by next
		}
	}
	if fx.Stopped != nil {
		w.fail("c%d: its session ended: %v", p.id, fx.Stopped)
	}
	if !fx.Wake.IsZero() && !fx.Wake.Equal(p.wake) {
		p.wake = fx.Wake
		w.after(fx.Wake.Sub(w.clock()), func() {
			if !w.clock().Before(p.wake) {
				p.wake = time.Time{}
				p.step(clientsession.Tick{})
			}
		})
	}
}

// caller does one thing after the other, by single calls.
type caller struct {
	world *world
	id    int
	busy  bool
}

func (c *caller) pending() int {
	if c.busy {
		return 1
	}
	return 0
}

func (c *caller) next() {
	if c.busy {
		return
	}
	w := c.world
	c.busy = true
	op := w.workload.Next(c.id, w.clock().UnixNano())
	switch {
	case op.Action.Reads():
		w.read(op, func() { c.busy = false })
	case op.Action == workload.Ask:
		c.ask(op, 3)
	default:
		c.try(op, 3)
	}
}

// ask puts a question, and again with the same id where that makes sense. Now and then what was answered is answered again.
func (c *caller) ask(op workload.Operation, tries int) {
	w := c.world
	w.askOnce(op, w.between(50*time.Millisecond, patience), func(outcome workload.Outcome, r *actors.Result) {
		switch {
		case outcome == workload.OK && w.chance(lateAnswers):
			c.try(w.workload.Answer(c.id, fmt.Sprintf("%s#%d", op.Grain(), r.Seq), w.clock().UnixNano()), 3)
		case outcome == workload.OK || tries <= 1:
			c.busy = false
		default:
			op.Repeat = true
			w.after(w.between(10*time.Millisecond, 500*time.Millisecond), func() { c.ask(op, tries-1) })
		}
	})
}

// lateAnswers is the share of questions that somebody tries to answer once more.
const lateAnswers = 0.15

// askOnce puts a question and waits so long for its reply.
func (w *world) askOnce(op workload.Operation, wait time.Duration, done func(workload.Outcome, *actors.Result)) {
	i := w.begin(op)
	over := false
	end := func(outcome workload.Outcome, reply workload.Reply, r *actors.Result) {
		if !over {
			over = true
			w.endAsk(i, outcome, reply)
			done(outcome, r)
		}
	}
	w.call(op.Client, w.message(&op), wait, func(r *actors.Result, refused *answer.Refusal) {
		switch {
		case refused != nil && refused.Reason == answer.ShardUnavailable:
			end(workload.Unknown, workload.Reply{}, nil)
		case refused != nil && w.mayRefuse(refused):
			end(workload.Failed, workload.Reply{}, nil)
		case refused != nil:
			w.fail("c%d %v is refused: %v", op.Client, &op, refused)
		case r.Outcome != actors.Folded:
			w.fail("c%d %v is %v: %s", op.Client, &op, r.Outcome, r.Reason)
		case r.Reply == nil && !r.Deferred:
			w.fail("c%d %v has no reply, and will have none", op.Client, &op)
		case r.Reply == nil: // the time is over
			end(workload.Unknown, workload.Reply{}, nil)
		default:
			end(workload.OK, w.reply(r.Reply), r)
		}
	})
	w.after(wait+patience/2, func() { end(workload.Unknown, workload.Reply{}, nil) })
}

// reply reads what came to a question.
func (w *world) reply(data []byte) workload.Reply {
	a, reply := &anypb.Any{}, &probev1.Reply{}
	err := proto.Unmarshal(data, a)
	if err == nil {
		err = a.UnmarshalTo(reply)
	}
	if err != nil {
		w.fail("a reply that is none: %v", err)
	}
	return workload.Reply{Value: reply.GetValue(), By: reply.GetBy(), Count: reply.GetCount()}
}

// try publishes an event, and again with the same id where that makes sense.
func (c *caller) try(op workload.Operation, tries int) {
	w := c.world
	w.publish(op, func(_ workload.Outcome, again bool) {
		if !again || tries <= 1 {
			c.busy = false
			return
		}
		op.Repeat = true
		w.after(w.between(10*time.Millisecond, 500*time.Millisecond), func() { c.try(op, tries-1) })
	})
}

// publish publishes an event by a single call, and tells whether it makes sense to do it again.
func (w *world) publish(op workload.Operation, done func(outcome workload.Outcome, again bool)) {
	i := w.begin(op)
	over := false
	end := func(outcome workload.Outcome, again bool) {
		if !over {
			over = true
			w.end(i, outcome, nil)
			done(outcome, again)
		}
	}
	w.call(op.Client, w.message(&op), 0, func(r *actors.Result, refused *answer.Refusal) {
		switch {
		case refused != nil && (refused.Reason == answer.ShardUnavailable):
			end(workload.Unknown, true) // what was on its way when the leader was lost may yet be committed
		case refused != nil && w.mayRefuse(refused):
			end(workload.Failed, true)
		case refused != nil:
			w.fail("c%d %v is refused: %v", op.Client, &op, refused)
		case r.Outcome == actors.Rejected && op.Action == workload.Forget:
			end(workload.Failed, false) // it has fired, or never was
		case r.Outcome != actors.Folded:
			w.fail("c%d %v is %v: %s", op.Client, &op, r.Outcome, r.Reason)
		default:
			if r.Duplicate {
				w.report.Duplicates++
			}
			end(workload.OK, false)
		}
	})
	w.after(patience, func() { end(workload.Unknown, true) })
}

// mayRefuse tells whether a node may refuse an event for this reason now.
func (w *world) mayRefuse(r *answer.Refusal) bool {
	switch r.Reason {
	case answer.DiskFull, answer.StoreDamaged, answer.ShardOverloaded:
		return true
	}
	return false
}
