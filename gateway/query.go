package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Bounds of queries.
const (
	// maxQueries run at once on a node. One that never ends holds its place until the process ends.
	maxQueries = 256
	// maxQueryTime is how long a caller without a deadline of its own waits for a query.
	maxQueryTime = time.Minute
	// maxReplyBytes is how long an answer may be.
	maxReplyBytes = 3 << 20
)

// queryRequest is a granary.v1.QueryRequest.
type queryRequest struct {
	msg     granaryv1.QueryRequest
	refusal *answer.Refusal
}

func (r *queryRequest) decode(data []byte) {
	const jsonField = 5
	deep := false
	err := fields(data, func(number protowire.Number, typ protowire.Type, value []byte, _ uint64) error {
		deep = deep || number == jsonField && typ == protowire.BytesType && intake.DeepJSON(value)
		return nil
	})
	if deep {
		r.refusal = intake.TooDeep("query")
		return
	}
	if err == nil {
		err = r.msg.UnmarshalVT(data)
	}
	if err != nil {
		r.refusal = malformed(err)
	}
}

// queryHandler is GrainService.Query for gRPC.
func (g *Gateway) queryHandler() grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: "Query", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in queryRequest
		bad, err := received(ctx, &in, dec)
		if err != nil {
			return nil, err
		}
		if bad == nil {
			bad = in.refusal
		}
		return served(ctx, g, queryMethod, bad, &in.msg, g.query)
	}}
}

// query is GrainService.Query: the state as Get gives it, and the query's handler run on a copy of it, here and not in the
// shard. So it can neither change anything nor hold anybody up.
func (g *Gateway) query(ctx context.Context, req *granaryv1.QueryRequest) (*granaryv1.QueryResponse, error) {
	kind, key, shard, err := g.named(req.GetTenant(), req.GetGrain())
	if err != nil {
		return nil, err
	}
	if _, known := granaryv1.StateFormat_name[int32(req.GetFormat())]; !known {
		return nil, answer.Invalid(answer.InvalidFormat, "format", "%d is not a state format of this version", req.GetFormat())
	}
	q, question, r := g.intake.Question(kind, req)
	if r != nil {
		return nil, r
	}
	select {
	case g.queries <- struct{}{}:
	default:
		return nil, &answer.Refusal{Code: codes.ResourceExhausted, Reason: answer.QueriesOverloaded, RetryAfter: 50 * time.Millisecond,
			Message: fmt.Sprintf("%d queries run on this node already", maxQueries)}
	}
	ctx, cancel := context.WithTimeout(ctx, maxQueryTime)
	defer cancel()
	get, now, err := g.stateFor(ctx, kind, key, shard, req)
	if err != nil {
		<-g.queries
		return nil, err
	}
	view := &grains.View{Grain: grains.Ref{Kind: kind.Name, Key: key}, Seq: get.Seq, Now: now}
	done := make(chan queried, 1)
	go func() {
		defer func() { <-g.queries }()
		done <- ask(view, q, get, question)
	}()
	select {
	case out := <-done:
		return g.queryResponse(req, q, get, out)
	case <-ctx.Done():
		return nil, answer.Routing(ctx.Err()) // its goroutine ends when the handler does
	}
}

// stateFor reads the state that a question is about, and tells what time it is for it.
func (g *Gateway) stateFor(ctx context.Context, kind *grains.Definition, key string, shard uint64, req *granaryv1.QueryRequest) (get *actors.Get, now time.Time, err error) {
	get = &actors.Get{Kind: kind, Key: key}
	switch at := req.GetAt().(type) {
	case *granaryv1.QueryRequest_AtSeq:
		if get.AtSeq = at.AtSeq; at.AtSeq == 0 { // see Get
			get.State, err = kind.AppendState(nil, kind.NewState())
			return get, g.opts.Now().UTC(), err
		}
	case *granaryv1.QueryRequest_AtTime:
		if get.AtTime, err = journalTime(at.AtTime); err != nil {
			return nil, now, err
		}
	}
	if err := g.read(ctx, shard, &actors.Read{Stale: req.GetStale(), Get: get}); err != nil {
		return nil, now, err
	}
	switch {
	case get.AtSeq != 0:
		now = time.UnixMicro(get.Time)
	case get.AtTime != 0:
		now = req.GetAtTime().AsTime()
	default:
		now = g.opts.Now()
	}
	return get, now.UTC(), nil
}

// queried is what came of a query.
type queried struct {
	msg   proto.Message
	reply []byte
	err   error
}

// ask runs a query's handler.
func ask(view *grains.View, q *grains.QueryType, get *actors.Get, question proto.Message) queried {
	state, err := get.Kind.DecodeState(get.State)
	if err != nil {
		return queried{err: err}
	}
	msg, err := q.Ask(view, state, question)
	if err != nil {
		return queried{err: err}
	}
	reply, err := q.Reply.Append(nil, msg)
	if err == nil && len(reply) > maxReplyBytes {
		err = fmt.Errorf("its answer has %d bytes; at most %d are sent", len(reply), maxReplyBytes)
	}
	return queried{msg, reply, err}
}

func (g *Gateway) queryResponse(req *granaryv1.QueryRequest, q *grains.QueryType, get *actors.Get, out queried) (*granaryv1.QueryResponse, error) {
	if reason, rejected := grains.Rejection(out.err); rejected {
		return nil, (&answer.Refusal{Code: codes.FailedPrecondition, Reason: answer.Rejected, Message: "the query rejected the question: " + reason}).With("type", q.Name)
	}
	if out.err != nil {
		if panicked := (*grains.Panicked)(nil); errors.As(out.err, &panicked) {
			g.log.Error("a query panicked", "kind", get.Kind.Name, "key", get.Key, "query", q.Name, "panic", panicked.Value)
		}
		return nil, (&answer.Refusal{Code: codes.Internal, Reason: answer.QueryFailed, Message: fmt.Sprintf("the query %s failed: %v", q.Name, out.err)}).With("type", q.Name)
	}
	resp := &granaryv1.QueryResponse{Grain: get.Kind.Name + "/" + get.Key, Seq: get.Seq, Position: answer.Position(get.Position), LogicVersion: get.Kind.Version}
	if req.GetFormat() != granaryv1.StateFormat_STATE_FORMAT_JSON {
		resp.Reply = &anypb.Any{TypeUrl: typeURL + q.Reply.Name, Value: out.reply}
	}
	if req.GetFormat() != granaryv1.StateFormat_STATE_FORMAT_PROTOBUF {
		resp.Json = toJSON(out.msg)
	}
	return resp, nil
}
