package gateway

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// call waits for the parts of one Publish.
type call struct {
	pending atomic.Int32
	done    chan struct{} // gets one value when pending comes to 0
	onDone  func(*intake.Part)
}

var calls = sync.Pool{New: func() any {
	c := &call{done: make(chan struct{}, 1)}
	c.onDone = func(*intake.Part) { c.leave(1) }
	return c
}}

func (c *call) leave(n int) {
	if c.pending.Add(-int32(n)) == 0 {
		c.done <- struct{}{}
	}
}

// publish is EventService.Publish.
func (g *Gateway) publish(ctx context.Context, in *eventBatch) (*granaryv1.PublishResponse, error) {
	if !g.gate.enter() {
		return nil, answer.Stopping()
	}
	defer g.gate.leave()
	g.metrics.events.Add(float64(len(in.Events)))
	cost := int64(in.Bytes + costOfEvent*len(in.Events))
	if !g.budget.TryAcquire(cost) {
		return nil, answer.Overloaded()
	}
	defer g.budget.Release(cost)

	group := intake.NewGroup()
	if r := g.intake.Take(&in.Request, g.opts.Now(), group); r != nil {
		group.Release()
		return nil, r
	}
	if len(group.Refused) > 0 {
		r := malformedEvents(group.Refused)
		g.metrics.exceptions.Add(float64(len(group.Refused)))
		group.Release()
		return nil, r
	}

	c := calls.Get().(*call)
	c.pending.Store(int32(len(group.Parts)) + 1) // one more, so that it does not end while parts are handed out
	group.OnDone = c.onDone
	parts := group.Parts
	var refused []*answer.Refusal // by part
	for i, p := range parts {
		if err := g.router.Publish(ctx, p.Shard, &p.Batch, false); err != nil {
			if refused == nil {
				refused = make([]*answer.Refusal, len(parts))
			}
			refused[i] = answer.Routing(err)
			c.leave(1)
		}
	}
	c.leave(1)
	select {
	case <-c.done:
	case <-ctx.Done():
		// The parts come back to nobody. They and the call are left to the garbage collector.
		return nil, answer.Routing(context.Cause(ctx))
	}
	calls.Put(c)
	out, err := g.results(group, refused)
	group.Release()
	return out, err
}

// malformedEvents is the refusal of a call because of some of its events.
func malformedEvents(refused []intake.Refused) *answer.Refusal {
	r := *refused[0].Answer()
	for _, other := range refused[1:] {
		r.Violations = append(r.Violations, other.Answer().Violations...)
	}
	if n := len(refused); n > 1 {
		r.Message = fmt.Sprintf("%s (%d events are wrong)", r.Message, n)
	}
	return &r
}

// results turns the outcomes of the parts into results, in the order of the events.
func (g *Gateway) results(group *intake.Group, refused []*answer.Refusal) (*granaryv1.PublishResponse, error) {
	out := &granaryv1.PublishResponse{Results: make([]*granaryv1.Result, group.Len())}
	var first *answer.Refusal
	taken, exceptions := 0, 0
	for i, p := range group.Parts {
		r := answer.Batch(&p.Batch)
		if refused != nil && refused[i] != nil {
			r = refused[i]
		}
		if r != nil {
			if first == nil {
				first = r
			}
			exceptions += len(p.Index)
			refuseAll(out, p, r.Proto())
			continue
		}
		taken += len(p.Index)
		results := p.Results()
		for j, at := range p.Index {
			result := answer.Result(&results[j], false)
			if result.Status != nil {
				exceptions++
			}
			out.Results[at] = result
		}
	}
	g.metrics.exceptions.Add(float64(exceptions))
	if taken == 0 {
		return nil, first
	}
	return out, nil
}

// refuseAll gives the events of a part that no shard took one status.
func refuseAll(out *granaryv1.PublishResponse, p *intake.Part, status *spb.Status) {
	for j, at := range p.Index {
		out.Results[at] = &granaryv1.Result{Status: status, Deduplicated: p.Batch.Events[j].ID != ""}
	}
}
