package gateway

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/grains/catalog"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// TestStreamRequestIsReadLikeTheGeneratedOne: the decoder written by hand reads what the generated one does, also when it
// is used again for a smaller message.
func TestStreamRequestIsReadLikeTheGeneratedOne(t *testing.T) {
	var in streamRequest
	for _, m := range []*granaryv1.PublishStreamRequest{
		{},
		{Producer: &granaryv1.Producer{Id: "p", Epoch: 7}, Batch: 1 << 63, FirstSequence: 300},
		{Batch: 2, Events: []*granaryv1.Event{{Tenant: "t", Grain: "a/b", Type: "C", Id: "i", Source: "s", Headers: map[string]string{"x": "y"}}, {}}},
		{Batch: 3, Events: []*granaryv1.Event{{Payload: &granaryv1.Event_Json{Json: &structpb.Struct{}}}, {Payload: &granaryv1.Event_Protobuf{}}, {Id: "z"}}},
		{Batch: 4, Events: []*granaryv1.Event{{}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, 15<<3|2, 1, 'x', 14<<3, 5) // what a later version may add
		in.decode(b)
		got := &granaryv1.PublishStreamRequest{Producer: in.producer, Batch: in.batch, FirstSequence: in.FirstSequence, Events: in.Events}
		if in.refusal != nil || !proto.Equal(got, m) || in.Bytes != len(b) || len(in.Deep) != 0 {
			t.Errorf("%v is read as %v, %v", m, got, in.refusal)
		}
	}
}

// TestDeepJSONIsCutOutBeforeItIsDecoded: the generated decoder would follow it to the end of the stack.
func TestDeepJSONIsCutOutBeforeItIsDecoded(t *testing.T) {
	deep := &structpb.Struct{}
	for range 100 {
		deep = &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewStructValue(deep)}}
	}
	b, err := proto.Marshal(&granaryv1.PublishStreamRequest{Batch: 1, Events: []*granaryv1.Event{{Id: "a"}, {Id: "b", Payload: &granaryv1.Event_Json{Json: deep}}, {Id: "c"}}})
	if err != nil {
		t.Fatal(err)
	}
	var in streamRequest
	in.decode(b)
	if !slices.Equal(in.Deep, []int32{1}) || in.Events[1].Payload != nil || in.Events[1].Id != "b" || len(in.Events) != 3 {
		t.Errorf("%v: %v", in.Deep, in.Events)
	}
}

// scripted is a stream of given requests, which ends when there are no more.
type scripted struct {
	grpc.ServerStream
	requests []*granaryv1.PublishStreamRequest
}

func (s *scripted) Context() context.Context { return context.Background() }

func (s *scripted) RecvMsg(m any) error {
	if len(s.requests) == 0 {
		return io.EOF
	}
	b, err := s.requests[0].MarshalVT()
	s.requests = s.requests[1:]
	m.(incoming).decode(b)
	return err
}

func (s *scripted) SendMsg(any) error { return nil }

// breaking is a router whose first shard refuses a part while the parts of the next batch are being handed out.
type breaking struct {
	instant
	t       *testing.T
	gateway *Gateway
	mu      sync.Mutex
	first   *actors.Batch
	handed  []uint64
}

func (r *breaking) Publish(ctx context.Context, shard uint64, b *actors.Batch, wait bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handed = append(r.handed, shard)
	if r.first == nil {
		r.first = b
		return nil
	}
	r.first.Refused, r.first.Results = actors.Gap, nil
	r.first.Done(r.first)
	for s := r.stream(); !s.halted.Load(); {
		time.Sleep(time.Millisecond)
	}
	return r.instant.Publish(ctx, shard, b, wait)
}

func (r *breaking) stream() *stream {
	r.gateway.mu.Lock()
	defer r.gateway.mu.Unlock()
	for s := range r.gateway.streams {
		return s
	}
	r.t.Fatal("there is no stream")
	return nil
}

// TestNothingIsHandedOutBehindABrokenChain, not even the rest of the batch that is being handed out.
func TestNothingIsHandedOutBehindABrokenChain(t *testing.T) {
	r := &breaking{instant: instant{routing.NewTable(8)}, t: t}
	g := New(Options{Catalog: catalog.Builtin(), Router: r, Logger: quiet()})
	defer g.Stop(context.Background())
	r.gateway = g
	var events []*granaryv1.Event
	for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		events = append(events, &granaryv1.Event{Grain: "account/" + key, Type: "Charged", Payload: &granaryv1.Event_Protobuf{}})
	}
	err := g.publishStream(&scripted{requests: []*granaryv1.PublishStreamRequest{
		{Producer: &granaryv1.Producer{Id: "p", Epoch: 1}, Batch: 1, FirstSequence: 1, Events: events[:1]},
		{Batch: 2, FirstSequence: 2, Events: events},
	}})
	if refusal := answer.Of(err); refusal.Reason != answer.ProducerGap {
		t.Errorf("%v", err)
	}
	if len(r.handed) != 2 {
		t.Errorf("handed to shards %v, want two parts", r.handed)
	}
}

// TestResponsesAreEncoded by the fast methods where there are any, by the general ones elsewhere.
func TestResponsesAreEncoded(t *testing.T) {
	for _, m := range []proto.Message{
		&granaryv1.PublishResponse{Results: slices.Repeat([]*granaryv1.Result{{Seq: 1, Position: "p", Status: answer.Stopping().Proto()}}, 100)},
		&granaryv1.PublishStreamResponse{Floor: 1}, &structpb.Struct{}, structpb.NewStringValue("x"),
	} {
		b, err := codec{}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got := m.ProtoReflect().New().Interface()
		if err := (codec{}).Unmarshal(b, got); err != nil || !proto.Equal(got, m) {
			t.Errorf("%v: %v", got, err)
		}
		b.Free()
	}
	if _, err := (codec{}).Marshal("text"); err == nil {
		t.Error("a string was encoded")
	}
	if err := (codec{}).Unmarshal(nil, bytes.NewReader(nil)); err == nil {
		t.Error("something was decoded into a reader")
	}
}
