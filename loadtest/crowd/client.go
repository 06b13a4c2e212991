package crowd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/loadtest/workload"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

const (
	// tries is how often a caller sends an event at most. Then it gives up, and the outcome stays open.
	tries = 5
	// unanswered is how many events a producer sends ahead of their answers.
	unanswered = 20
	// window and batch make the streams of a producer out of many small messages, so that a break hits several.
	window, batch = 8, 5
)

func (c *Crowd) conn(client int) grpc.ClientConnInterface { return c.o.Conns[client%len(c.o.Conns)] }

// message is an operation as it goes over the wire.
func (c *Crowd) message(op *workload.Operation) (*granaryv1.Event, error) {
	payload, err := op.Event().MarshalVT()
	if err != nil {
		return nil, err
	}
	e := &granaryv1.Event{Grain: op.Grain(), Type: "Append", Time: timestamppb.New(time.Unix(0, op.EventTime)),
		Payload: &granaryv1.Event_Protobuf{Protobuf: payload}}
	if id := op.ID(); id != "" {
		e.Id, e.Source = id, "/crowd/"+c.o.Run
	}
	return e, nil
}

// rhythm is the pauses of one client.
type rhythm struct {
	o        *Options
	random   *rand.Rand
	failures int
}

func (c *Crowd) rhythm(client int) *rhythm {
	return &rhythm{o: &c.o, random: rand.New(rand.NewPCG(c.o.Seed, 1000+uint64(client)))}
}

// rest waits after an operation, longer and longer as long as nothing succeeds.
func (r *rhythm) rest(done bool) {
	if done {
		r.failures = 0
		if r.o.Pause > 0 {
			time.Sleep(r.some(2 * r.o.Pause))
		}
		return
	}
	most := min(r.o.MaxBackoff, r.o.MinBackoff<<min(r.failures, 10))
	r.failures++
	time.Sleep(most/2 + r.some(most/2))
}

// some is a random part of a time.
func (r *rhythm) some(most time.Duration) time.Duration {
	return time.Duration(r.random.Int64N(int64(most) + 1))
}

// call is the life of a caller: one thing after the other.
func (c *Crowd) call(ctx context.Context, id int) {
	events, rhythm := granaryv1.NewEventServiceClient(c.conn(id)), c.rhythm(id)
	for ctx.Err() == nil {
		op, i := c.next(id)
		if op.Action != workload.Append {
			rhythm.rest(c.read(&op, i))
			continue
		}
		for try := 1; ; try++ {
			outcome := c.publish(events, &op)
			c.end(i, outcome, nil)
			rhythm.rest(outcome == workload.OK)
			if outcome == workload.OK || try == tries {
				break
			}
			op.Repeat = true
			i = c.again(op)
		}
	}
}

// publish sends one event by itself.
func (c *Crowd) publish(events granaryv1.EventServiceClient, op *workload.Operation) workload.Outcome {
	e, err := c.message(op)
	if err != nil {
		c.accuse(op.Key, "%v cannot be written: %v", op, err)
		return workload.Failed
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.o.Patience)
	defer cancel()
	answer, err := events.Publish(ctx, &granaryv1.PublishRequest{Events: []*granaryv1.Event{e}})
	if err != nil {
		return c.outcome(op, refusalOf(err))
	}
	if len(answer.GetResults()) != 1 {
		c.accuse(op.Key, "%v to %s has %d results", op, op.Key, len(answer.GetResults()))
		return workload.Unknown
	}
	r := answer.GetResults()[0]
	if r.GetStatus().GetCode() != 0 {
		return c.outcome(op, refusalOfStatus(r.GetStatus()))
	}
	c.takeResult(op, r)
	return workload.OK
}

// takeResult holds an answer to what was told of the same event before.
func (c *Crowd) takeResult(op *workload.Operation, r *granaryv1.Result) {
	here := place{r.GetSeq(), r.GetPosition()}
	c.mu.Lock()
	before, again := c.told[op.Value]
	c.told[op.Value] = here
	if r.GetDuplicate() {
		c.known++
	}
	c.mu.Unlock()
	switch {
	case !r.GetDeduplicated():
		c.accuse(op.Key, "%v to %s has an id, and is said not to be deduplicated", op, op.Key)
	case here.seq == 0 || here.position == "":
		c.accuse(op.Key, "%v to %s was done, and is said to be nowhere: %v", op, op.Key, r)
	case again && before != here:
		c.accuse(op.Key, "%v to %s is said to be at seq %d (%s), and was said to be at %d (%s)", op, op.Key, here.seq, here.position, before.seq, before.position)
	case again && !r.GetDuplicate():
		c.accuse(op.Key, "%v to %s was acknowledged before, and is said to be new", op, op.Key)
	}
}

// outcome is what a refusal means for an event.
func (c *Crowd) outcome(op *workload.Operation, r refusal) workload.Outcome {
	c.refused(r.name())
	switch r.meaning() {
	case nothingHappened:
		return workload.Failed
	case notAllowed:
		c.accuse(op.Key, "%v to %s was refused: %v", op, op.Key, r)
	}
	return workload.Unknown
}

// read asks for a list and says whether it got it. What is not answered has failed: a read changes nothing.
func (c *Crowd) read(op *workload.Operation, i int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), c.o.Patience)
	defer cancel()
	probe, _, err := get(ctx, c.conn(op.Client), op.Grain(), op.Action == workload.StaleRead)
	if err != nil {
		if r := refusalOf(err); r.meaning() == notAllowed {
			c.accuse(op.Key, "%v of %s was refused: %v", op, op.Key, r)
		} else {
			c.refused(r.name())
		}
		c.end(i, workload.Failed, nil)
		return false
	}
	c.end(i, workload.OK, probe.GetValues())
	return true
}

// get reads a probe, and the seq of its last record.
func get(ctx context.Context, conn grpc.ClientConnInterface, grain string, stale bool) (*probev1.Probe, uint64, error) {
	answer, err := granaryv1.NewGrainServiceClient(conn).Get(ctx, &granaryv1.GetRequest{
		Grain: grain, Stale: stale, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF,
	})
	if err != nil {
		return nil, 0, err
	}
	probe := &probev1.Probe{}
	if answer.GetState() == nil { // a grain that nothing has happened to
		return probe, answer.GetSeq(), nil
	}
	if err := probe.UnmarshalVT(answer.GetState().GetValue()); err != nil {
		return nil, 0, fmt.Errorf("the state of %s is no probe: %w", grain, err)
	}
	return probe, answer.GetSeq(), nil
}

// produce is the life of a producer: it sends ahead of the answers, and reads in between.
func (c *Crowd) produce(ctx context.Context, id int) error {
	p, err := client.NewProducer(c.conn(id), client.ProducerOptions{
		ID: fmt.Sprintf("%s-%d", c.o.Run, id), FirstSequence: 1, Window: window, BatchEvents: batch,
		MinBackoff: c.o.MinBackoff, MaxBackoff: c.o.MaxBackoff,
	})
	if err != nil {
		return err
	}
	rhythm, slots := c.rhythm(id), make(chan struct{}, unanswered)
	for ctx.Err() == nil {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		op, i := c.next(id)
		if op.Action != workload.Append {
			<-slots
			rhythm.rest(c.read(&op, i))
			continue
		}
		e, err := c.message(&op)
		if err != nil {
			return errors.Join(err, p.Close())
		}
		err = p.Publish(context.Background(), e, func(r client.Result) {
			c.end(i, c.produced(&op, r), nil)
			<-slots
		})
		if err != nil { // it has stopped; why is told below
			c.end(i, workload.Failed, nil)
			break
		}
		rhythm.rest(true)
	}
	settle, cancel := context.WithTimeout(context.Background(), c.o.Settle)
	defer cancel()
	if err := p.Flush(settle); errors.Is(err, context.DeadlineExceeded) {
		c.accuse("", "producer %d has no answer to %d events, %v after it sent the last", id, p.Stats().Pending, c.o.Settle)
	}
	if err := p.Close(); err != nil {
		c.accuse("", "producer %d stopped by itself: %v", id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resent.Resent += p.Stats().Resent
	c.resent.Reconnects += p.Stats().Reconnects
	return nil
}

// produced is the outcome of a producer's event.
func (c *Crowd) produced(op *workload.Operation, r client.Result) workload.Outcome {
	switch {
	case r.Err == nil && r.Sequence == op.Sequence:
		return workload.OK
	case r.Err == nil:
		c.accuse(op.Key, "%v is event %d of its producer, and was taken for event %d", op, op.Sequence, r.Sequence)
	case errors.Is(r.Err, client.ErrNotSent):
		return workload.Failed
	case !errors.Is(r.Err, client.ErrUnknown):
		c.accuse(op.Key, "%v to %s was refused: %v", op, op.Key, r.Err)
	}
	return workload.Unknown
}
