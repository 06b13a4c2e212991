package client

import (
	"context"
	"sync/atomic"
	"testing"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// flakyServer refuses the first calls of each method.
type flakyServer struct {
	granaryv1.UnimplementedEventServiceServer
	calls atomic.Int64
}

func (s *flakyServer) Publish(context.Context, *granaryv1.PublishRequest) (*granaryv1.PublishResponse, error) {
	if s.calls.Add(1) <= 2 {
		return nil, status.Error(codes.Unavailable, "not yet")
	}
	return &granaryv1.PublishResponse{Results: []*granaryv1.Result{{Seq: 1}}}, nil
}

// TestPublishedPolicy: a stock client under the service config does not notice a short outage.
func TestPublishedPolicy(t *testing.T) {
	s := &flakyServer{}
	answer, err := granaryv1.NewEventServiceClient(serve(t, s)).Publish(t.Context(), &granaryv1.PublishRequest{})
	if err != nil || answer.GetResults()[0].GetSeq() != 1 || s.calls.Load() != 3 {
		t.Errorf("got %v, %v after %d calls", answer, err, s.calls.Load())
	}
}

// TestCodec: whether a message has the fast methods or not, and whatever was in it before, a copy equals the original.
func TestCodec(t *testing.T) {
	large := &granaryv1.PublishRequest{Events: []*granaryv1.Event{
		{Grain: "account/1", Payload: &granaryv1.Event_Protobuf{Protobuf: make([]byte, 100_000)}}, {Id: "2"},
	}}
	for _, test := range []struct{ message, into proto.Message }{
		{&granaryv1.Event{Grain: "account/1", Id: "x"}, &granaryv1.Event{Source: "left over"}},
		{large, &granaryv1.PublishRequest{Events: []*granaryv1.Event{{}}}},
		{&timestamppb.Timestamp{Seconds: 5}, &timestamppb.Timestamp{Nanos: 7}},
	} {
		data, err := Codec().Marshal(test.message)
		if err != nil {
			t.Fatal(err)
		}
		want, err := proto.Marshal(test.message)
		if err != nil {
			t.Fatal(err)
		}
		if string(data.Materialize()) != string(want) {
			t.Errorf("%T: other bytes than those of the protobuf library", test.message)
		}
		if err := Codec().Unmarshal(data, test.into); err != nil {
			t.Fatal(err)
		}
		data.Free()
		if !proto.Equal(test.message, test.into) {
			t.Errorf("%T: got %.100v", test.message, test.into)
		}
	}
	if err := Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer([]byte{0xff})}, &granaryv1.Event{}); err == nil {
		t.Error("half a message was taken")
	}
}
