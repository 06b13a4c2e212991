package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// How long an ask waits for its reply: by default, and at most.
const (
	defaultWait = 10 * time.Second
	maxWait     = 5 * time.Minute
	// lastWord is how long, behind that, the shard may take to say whether the event is journaled.
	lastWord = 2 * time.Second
	// lastWordLate is the same when the caller's own deadline has passed, or it has gone.
	lastWordLate = 100 * time.Millisecond
)

// askRequest is a granary.v1.AskRequest.
type askRequest struct {
	eventBatch
	wait *durationpb.Duration
}

func newAskRequest(req *granaryv1.AskRequest) *askRequest {
	in := &askRequest{wait: req.GetWait()}
	in.Bytes = req.SizeVT()
	if req.GetEvent() != nil {
		in.Events = []*granaryv1.Event{req.GetEvent()}
	}
	return in
}

func (r *askRequest) decode(data []byte) {
	r.reset(len(data))
	r.wait = nil
	count := 0
	err := fields(data, func(number protowire.Number, typ protowire.Type, value []byte, _ uint64) error {
		if number <= 2 && typ != protowire.BytesType {
			return errWireType(number)
		}
		switch number {
		case 1:
			if count++; count > 1 {
				return errors.New("the event is there twice")
			}
			r.add(value, count)
		case 2:
			if r.wait == nil {
				r.wait = &durationpb.Duration{}
			}
			return proto.UnmarshalOptions{Merge: true}.Unmarshal(value, r.wait)
		}
		return nil
	})
	r.end(count, err)
}

// askHandler is EventService.Ask for gRPC.
func (g *Gateway) askHandler() grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: "Ask", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in askRequest
		bad, err := received(ctx, &in, dec)
		if err != nil {
			return nil, err
		}
		if bad == nil {
			bad = in.refusal
		}
		return served(ctx, g, askMethod, bad, &in, g.askFor)
	}}
}

// waitOf is how long a caller wants to wait.
func waitOf(d *durationpb.Duration) (time.Duration, *answer.Refusal) {
	if d == nil {
		return defaultWait, nil
	}
	if wait := d.AsDuration(); d.CheckValid() == nil && wait > 0 && wait <= maxWait {
		return wait, nil
	}
	return 0, answer.Invalid(answer.InvalidWait, "wait", "it must be more than 0s and at most %v", maxWait)
}

// askFor is EventService.Ask.
func (g *Gateway) askFor(ctx context.Context, in *askRequest) (*granaryv1.AskResponse, error) {
	if !g.gate.enter() {
		return nil, answer.Stopping()
	}
	defer g.gate.leave()
	wait, r := waitOf(in.wait)
	switch {
	case r != nil:
		return nil, r
	case len(in.Events) == 0:
		return nil, answer.Invalid(answer.EmptyBatch, "event", "it is missing")
	}
	g.metrics.events.Inc()
	cost := int64(in.Bytes + costOfEvent)
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
		r := group.Refused[0].Refusal.In("event.")
		group.Release()
		g.metrics.exceptions.Inc()
		return nil, r
	}
	p := group.Parts[0]
	p.Batch.Ask = true
	done := make(chan struct{}, 1)
	group.OnDone = func(*intake.Part) { done <- struct{}{} }
	release := func() {
		p.Batch.Ask = false
		group.Release()
	}
	if err := g.router.Publish(ctx, p.Shard, &p.Batch, false); err != nil {
		release()
		return nil, answer.Routing(err)
	}
	allowTime(ctx, wait)
	without := g.await(ctx, p, done, wait)
	out, r := g.askResponse(p, without)
	if without == nil {
		release()
	} // else the shard may still come upon the batch: it is left to the garbage collector
	if r != nil {
		g.metrics.exceptions.Inc()
		return nil, r
	}
	return out, nil
}

// unanswered is why an ask ends without a reply.
type unanswered struct {
	// known tells that the shard has said what became of the event.
	known bool
	why   *answer.Refusal
}

// await waits until the shard is done with an ask: nil if it has a reply, or needs none.
func (g *Gateway) await(ctx context.Context, p *intake.Part, done <-chan struct{}, wait time.Duration) *unanswered {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	out, last := &unanswered{}, lastWord
	select {
	case <-done:
		return nil
	case <-timer.C:
		out.why = &answer.Refusal{Code: codes.DeadlineExceeded, Reason: answer.DeadlineExceeded, Message: "there is no reply after " + wait.String()}
	case <-g.stopping:
		out.why = answer.Stopping()
	case <-ctx.Done():
		out.why, last = answer.Routing(context.Cause(ctx)), lastWordLate
	}
	g.router.GiveUp(p.Shard, &p.Batch)
	late := time.NewTimer(last)
	defer late.Stop()
	select {
	case <-done:
		out.known = true
	case <-late.C:
	}
	return out
}

// askResponse is the answer to an ask; without says why it was not waited for to the end.
func (g *Gateway) askResponse(p *intake.Part, without *unanswered) (*granaryv1.AskResponse, *answer.Refusal) {
	again := "ask again with the same id"
	if p.Batch.Events[0].ID == "" {
		again = "it has no id, so asking again would hand in another event"
	}
	if without != nil && !without.known {
		r := *without.why
		r.Message += "; whether the event is journaled is not known: " + again
		return nil, &r
	}
	if r := answer.Batch(&p.Batch); r != nil {
		return nil, r
	}
	result := &p.Results()[0]
	if r := answer.Outcome(result.Outcome, result.Reason); r != nil {
		return nil, placed(r, result)
	}
	if result.Deferred && result.Reply == nil {
		r := *without.why
		r.Message += "; the event is journaled, but its reply is not there yet: " + again
		return nil, placed(&r, result)
	}
	out := &granaryv1.AskResponse{Result: answer.Result(result, false), Reply: replyAny(result.Reply)}
	if out.Reply != nil {
		out.Json = messageJSON(string(out.Reply.MessageName()), out.Reply.GetValue())
	}
	return out, nil
}

// placed adds to a refusal where the event is in the journal.
func placed(r *answer.Refusal, result *actors.Result) *answer.Refusal {
	if result.Seq == 0 {
		return r
	}
	return r.With("position", answer.Position(result.Position)).With("seq", strconv.FormatUint(result.Seq, 10)).
		With("duplicate", strconv.FormatBool(result.Duplicate))
}

// controllerKey is the context's key of the connection that a call over HTTP/1.1 came by.
type controllerKey struct{}

func withController(ctx context.Context, w http.ResponseWriter) context.Context {
	return context.WithValue(ctx, controllerKey{}, http.NewResponseController(w))
}

// allowTime gives a call over HTTP/1.1, whose request was read, as long as it wants to wait.
func allowTime(ctx context.Context, wait time.Duration) {
	if c, ok := ctx.Value(controllerKey{}).(*http.ResponseController); ok {
		end := time.Now().Add(wait + 2*lastWord)
		_ = c.SetReadDeadline(end) // net/http looks for the end of the connection meanwhile
		_ = c.SetWriteDeadline(end)
	}
}
