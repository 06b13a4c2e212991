package gateway

import (
	"context"
	"runtime/debug"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/granary-dev/granary/gateway/answer"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// register puts the services on the gRPC server. The handlers are not the generated ones: these keep a request that
// cannot be decoded together with the reason, where those end in a bare INTERNAL.
func (g *Gateway) register(s *grpc.Server) {
	events := granaryv1.EventService_ServiceDesc
	events.HandlerType = nil
	events.Methods = []grpc.MethodDesc{{MethodName: "Publish", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in publishRequest
		bad, err := received(ctx, &in, dec)
		if err != nil {
			return nil, err
		}
		if bad == nil {
			bad = in.refusal
		}
		return served(ctx, g, publishMethod, bad, &in.eventBatch, g.publish)
	}}, g.askHandler()}
	events.Streams = slices.Clone(events.Streams)
	events.Streams[0].Handler = func(_ any, srv grpc.ServerStream) error { return g.publishStream(srv) }
	s.RegisterService(&events, nil)

	grains := granaryv1.GrainService_ServiceDesc
	grains.HandlerType = nil
	grains.Methods = []grpc.MethodDesc{
		unary(g, "Get", getMethod, g.get),
		unary(g, "History", historyMethod, g.history),
		unary(g, "List", listMethod, g.list),
		g.queryHandler(),
		unary(g, "ListReminders", listRemindersMethod, g.listReminders),
	}
	s.RegisterService(&grains, nil)

	kinds := granaryv1.KindService_ServiceDesc
	kinds.HandlerType = nil
	kinds.Methods = []grpc.MethodDesc{
		unary(g, "List", listKindsMethod, g.listKinds),
		unary(g, "Describe", describeMethod, g.describe),
	}
	s.RegisterService(&kinds, nil)

	streams := granaryv1.StreamService_ServiceDesc
	streams.HandlerType = nil
	streams.Methods = []grpc.MethodDesc{unary(g, "List", listStreamsMethod, g.listStreams)}
	streams.Streams = slices.Clone(streams.Streams)
	streams.Streams[0].Handler = func(_ any, srv grpc.ServerStream) error { return g.subscribe(srv) }
	s.RegisterService(&streams, nil)
	g.registerDeadLetters(s)
}

// unknownMethod answers what no service has.
func unknownMethod(_ any, srv grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(srv)
	return &answer.Refusal{Code: codes.Unimplemented, Reason: answer.UnknownMethod,
		Message: "there is no method " + answer.Text(name, 128) + "; reflection tells which there are"}
}

// unary is a method without events.
func unary[M any, P interface {
	*M
	UnmarshalVT([]byte) error
}, R any](g *Gateway, name string, of method, f func(context.Context, P) (R, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in request[M, P]
		bad, err := received(ctx, &in, dec)
		if err != nil {
			return nil, err
		}
		if bad == nil {
			bad = in.refusal
		}
		return served(ctx, g, of, bad, P(&in.msg), f)
	}}
}

// received reads the request of a unary call. bad is what is wrong with it; an error means that gRPC has answered it.
func received(ctx context.Context, in incoming, dec func(any) error) (bad *answer.Refusal, err error) {
	w := wireOf(ctx)
	if w == nil {
		return nil, dec(in)
	}
	if err := receiveOne(w, in); err != nil {
		return answer.Of(err), nil
	}
	return nil, nil
}

// served answers one unary call, whichever way it came: it counts it, and sees to it that every error is a [answer.Refusal]
// and that a bug ends one call and not the node.
func served[P, R any](ctx context.Context, g *Gateway, of method, bad *answer.Refusal, req P, f func(context.Context, P) (R, error)) (out R, err error) {
	start := time.Now()
	defer func() {
		code := codes.OK
		if p := recover(); p != nil {
			g.log.Error("a bug: a call panicked", "method", methodNames[of], "panic", p, "stack", string(debug.Stack()))
			err = bug()
		}
		if err != nil {
			r := answer.Of(err)
			code, err = r.Code, r
		}
		g.metrics.call(of, code, time.Since(start))
	}()
	if bad != nil {
		return out, bad
	}
	return f(ctx, req)
}
