package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Pauses between attempts to connect a subscription; they double, and a server may ask for longer ones.
const (
	minPause = 50 * time.Millisecond
	maxPause = 5 * time.Second
)

// Subscription reads a stream, or the records of a kind: each item once, those of a shard in order. It is not for use by
// several goroutines at once.
type Subscription struct {
	// Retrying, if it is set, is told why a call was lost, and the pause before the next attempt.
	Retrying func(err error, pause time.Duration)

	ctx        context.Context
	client     granaryv1.StreamServiceClient
	request    *granaryv1.SubscribeRequest
	call       grpc.ServerStreamingClient[granaryv1.SubscribeResponse]
	cancel     context.CancelFunc
	position   string
	failures   int // in a row
	reconnects uint64
	ended      error
}

// Subscribe returns a subscription for a request, without waiting for a connection; when one is lost, it connects again
// and goes on where it was, until ctx is done. The connection is best made by [Dial]. Whoever stops reading before ctx is
// done calls [Subscription.Close].
func Subscribe(ctx context.Context, conn grpc.ClientConnInterface, request *granaryv1.SubscribeRequest) *Subscription {
	return &Subscription{ctx: ctx, client: granaryv1.NewStreamServiceClient(conn), request: proto.CloneOf(request)}
}

// Next waits for the next response. It may hold no items: the first one never does. The error is io.EOF behind the last
// item of a request until live, that of the context, or a status that no retry helps against; then there is nothing more.
func (s *Subscription) Next() (*granaryv1.SubscribeResponse, error) {
	for s.ended == nil {
		response, err := s.receive()
		if err == nil {
			s.position, s.failures = response.GetPosition(), 0
			return response, nil
		}
		s.leave()
		if s.ended = s.retry(err); s.ended == nil {
			s.reconnects++
		}
	}
	s.leave()
	return nil, s.ended
}

// Items is every item until the subscription ends, with an error only for the last, which is no item. The end of a request
// until live, or of a loop, is no error.
func (s *Subscription) Items() iter.Seq2[*granaryv1.SubscribeItem, error] {
	return func(yield func(*granaryv1.SubscribeItem, error) bool) {
		defer s.Close()
		for {
			response, err := s.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			for _, item := range response.GetItems() {
				if !yield(item, nil) {
					return
				}
			}
		}
	}
}

// Position is behind the last response: a request with it goes on there. Empty before the first one.
func (s *Subscription) Position() string { return s.position }

// Reconnects is how often the subscription had to connect again.
func (s *Subscription) Reconnects() uint64 { return s.reconnects }

// Close ends the subscription. It may be called again.
func (s *Subscription) Close() {
	s.leave()
	if s.ended == nil {
		s.ended = context.Canceled
	}
}

func (s *Subscription) leave() {
	if s.cancel != nil {
		s.cancel()
	}
	s.call, s.cancel = nil, nil
}

func (s *Subscription) receive() (*granaryv1.SubscribeResponse, error) {
	if s.call == nil {
		if s.position != "" {
			s.request.From = &granaryv1.SubscribeRequest_Position{Position: s.position}
		}
		ctx, cancel := context.WithCancel(s.ctx)
		s.cancel = cancel
		call, err := s.client.Subscribe(ctx, s.request)
		if err != nil {
			return nil, err
		}
		s.call = call
	}
	return s.call.Recv()
}

// retry waits before the next attempt; an error ends the subscription.
func (s *Subscription) retry(err error) error {
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	asked, again := pauseAsked(err)
	if !again {
		return err
	}
	pause := min(minPause<<min(s.failures, 10), maxPause)
	s.failures++
	pause = max(pause/2+time.Duration(rand.Int64N(int64(pause/2))), asked)
	if s.Retrying != nil {
		s.Retrying(err, pause)
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// pauseAsked tells whether another attempt may help, and after how long the server wants it. RESOURCE_EXHAUSTED of gRPC
// itself, for a response that is too large, comes without such a wish and would come again.
func pauseAsked(err error) (pause time.Duration, again bool) {
	if errors.Is(err, io.EOF) {
		return 0, false
	}
	st := status.Convert(err)
	for _, d := range st.Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok {
			pause, again = retry.GetRetryDelay().AsDuration(), true
		}
	}
	return pause, again || st.Code() == codes.Unavailable
}
