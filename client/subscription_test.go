package client

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// counting is a server whose stream holds the numbers from 1 on, and which breaks calls at random.
type counting struct {
	granaryv1.UnimplementedEventServiceServer
	granaryv1.UnimplementedStreamServiceServer
	last uint64 // number, behind which there is none; until live ends there
	fail error  // at the end

	mu       sync.Mutex
	random   *rand.Rand
	requests []*granaryv1.SubscribeRequest
}

func (c *counting) intN(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

// breaks is an error that clients retry, or none.
func (c *counting) breaks(n int) error {
	if c.intN(n) > 0 {
		return nil
	}
	if c.intN(2) == 0 {
		return status.Error(codes.Unavailable, "gone")
	}
	st, err := status.New(codes.ResourceExhausted, "full").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func (c *counting) Subscribe(req *granaryv1.SubscribeRequest, call grpc.ServerStreamingServer[granaryv1.SubscribeResponse]) error {
	c.mu.Lock()
	c.requests = append(c.requests, req)
	c.mu.Unlock()
	at, _ := strconv.ParseUint(req.GetPosition(), 10, 64)
	if err := c.breaks(4); err != nil {
		return err
	}
	send := func(items ...*granaryv1.SubscribeItem) error {
		return call.Send(&granaryv1.SubscribeResponse{Items: items, Position: strconv.FormatUint(at, 10), Live: at == c.last})
	}
	if err := send(); err != nil {
		return err
	}
	for at < c.last {
		if err := c.breaks(30); err != nil {
			return err
		}
		var items []*granaryv1.SubscribeItem
		for range c.intN(4) {
			if at == c.last {
				break
			}
			at++
			items = append(items, &granaryv1.SubscribeItem{Item: &granaryv1.SubscribeItem_Message{Message: &granaryv1.StreamMessage{Seq: at}}})
		}
		if err := send(items...); err != nil {
			return err
		}
	}
	if !req.UntilLive && c.fail == nil {
		<-call.Context().Done()
	}
	return c.fail
}

func count(c *counting) *granaryv1.SubscribeRequest {
	return &granaryv1.SubscribeRequest{Source: &granaryv1.SubscribeRequest_Stream{Stream: "numbers"}, KeyPrefix: "p",
		From: &granaryv1.SubscribeRequest_Start{Start: granaryv1.SubscribeStart_SUBSCRIBE_START_BEGINNING}, UntilLive: c.fail == nil}
}

// TestSubscribe: over any number of lost calls, each item comes once and in order, and the request stays what it was.
func TestSubscribe(t *testing.T) {
	reconnects := uint64(0)
	for seed := range uint64(5) {
		c := &counting{last: 500, random: rand.New(rand.NewPCG(seed, 1))}
		s := Subscribe(t.Context(), serve(t, c), count(c))
		next := uint64(1)
		for item, err := range s.Items() {
			if err != nil {
				t.Fatal(err)
			}
			if got := item.GetMessage().GetSeq(); got != next {
				t.Fatalf("seed %d: number %d where %d should be", seed, got, next)
			}
			next++
		}
		if next != c.last+1 || s.Position() != "500" {
			t.Errorf("seed %d: ends before %d, at %q", seed, next, s.Position())
		}
		for i, req := range c.requests {
			if req.GetStream() != "numbers" || req.GetKeyPrefix() != "p" || i == 0 && req.GetPosition() != "" {
				t.Errorf("request %d: %v", i, req)
			}
		}
		reconnects += s.Reconnects()
		if _, err := s.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("behind the end: %v", err)
		}
	}
	if reconnects < 20 {
		t.Errorf("only %d reconnects", reconnects)
	}
}

// TestSubscribeEnds with the context, with what no retry helps against, and when it is closed.
func TestSubscribeEnds(t *testing.T) {
	for name, fail := range map[string]error{
		"data loss": status.Error(codes.DataLoss, "damaged"), "too large": status.Error(codes.ResourceExhausted, "received message larger than max"),
	} {
		c := &counting{last: 5, fail: fail, random: rand.New(rand.NewPCG(1, 1))}
		got, last := 0, error(nil)
		for _, err := range Subscribe(t.Context(), serve(t, c), count(c)).Items() {
			if last = err; err == nil {
				got++
			}
		}
		if got != 5 || status.Code(last) != status.Code(fail) {
			t.Errorf("%s: %d items, then %v", name, got, last)
		}
	}
	c := &counting{last: 5, random: rand.New(rand.NewPCG(1, 1))}
	ctx, cancel := context.WithCancel(t.Context())
	req := count(c)
	req.UntilLive = false
	s := Subscribe(ctx, serve(t, c), req)
	for live := false; !live; {
		response, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		live = response.Live
	}
	time.AfterFunc(20*time.Millisecond, cancel)
	for {
		if _, err := s.Next(); err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			break
		}
	}
	s = Subscribe(t.Context(), serve(t, c), req)
	for _, err := range s.Items() {
		if err != nil {
			t.Error(err)
		}
		break
	}
	if _, err := s.Next(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// nobody there, and a context that ends meanwhile
	conn, err := Dial("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Subscribe(ctx, conn, req).Next(); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
