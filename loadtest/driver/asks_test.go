package driver

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// deciding answers asks after a while; each fifth it refuses.
type deciding struct {
	grpc.ClientConnInterface
	asked atomic.Int64
}

func (d *deciding) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	if d.asked.Add(1)%5 == 0 {
		return status.Error(codes.FailedPrecondition, "not this one")
	}
	time.Sleep(20 * time.Millisecond)
	answer, err := anypb.New(&accountv1.Decision{})
	if err != nil {
		return err
	}
	proto.Merge(reply.(proto.Message), &granaryv1.AskResponse{Reply: answer}) //nolint:forcetypeassert // what the method answers
	return nil
}

// TestAsk: asks are due at their rate whether others are answered or not, and what is not answered counts as failed.
func TestAsk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	d := &deciding{}
	r, err := Ask(ctx, AskOptions{Conns: []grpc.ClientConnInterface{d}, Rate: 200, First: 5, Accounts: 3, Terminals: 2})
	if err != nil {
		t.Fatal(err)
	}
	var failed uint64
	for _, n := range r.Failed {
		failed += n
	}
	// one at a time would be 25
	if r.Asked < 40 || r.Asked > 101 || r.Answered+failed != r.Asked || failed != r.Asked/5 || r.Latency.P50 < 20 {
		t.Errorf("%+v", r)
	}
	if _, err := Ask(t.Context(), AskOptions{}); err == nil {
		t.Error("asks without connections, a rate and accounts")
	}
}
