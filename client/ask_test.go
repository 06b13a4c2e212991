package client

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// askServer answers asks with the errors it is told, then with what it is asked.
type askServer struct {
	granaryv1.UnimplementedEventServiceServer
	mu     sync.Mutex
	errs   []error
	asked  []*granaryv1.AskRequest
	silent bool
}

func (s *askServer) Ask(_ context.Context, req *granaryv1.AskRequest) (*granaryv1.AskResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, req)
	if len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, err
	}
	out := &granaryv1.AskResponse{Result: &granaryv1.Result{Seq: uint64(len(s.asked))}}
	if !s.silent {
		out.Reply, _ = anypb.New(wrapperspb.String("to " + req.GetEvent().GetId()))
	}
	return out, nil
}

// TestAskPersists: whatever may be repeated is, under one id that the caller gave or nobody else has.
func TestAskPersists(t *testing.T) {
	s := &askServer{errs: []error{
		status.Error(codes.DeadlineExceeded, "no reply yet"), status.Error(codes.ResourceExhausted, "busy"), status.Error(codes.DeadlineExceeded, "no reply yet"),
	}}
	conn := serve(t, s)
	var reply wrapperspb.StringValue
	event := wrapperspb.String("x")
	res, err := Ask(t.Context(), conn, "box/1", event, &reply)
	if err != nil || res.GetSeq() != 4 || len(s.asked) != 4 {
		t.Fatalf("%v %v, asked %d times", res, err, len(s.asked))
	}
	id := s.asked[0].GetEvent().GetId()
	for _, r := range s.asked {
		if e := r.GetEvent(); e.GetId() != id || len(id) != 32 || e.GetGrain() != "box/1" || e.GetType() != "google.protobuf.StringValue" || r.GetWait().AsDuration() != 10*time.Second {
			t.Errorf("%v", r)
		}
	}
	if reply.Value != "to "+id {
		t.Errorf("%v", &reply)
	}
	if _, err := Ask(t.Context(), conn, "box/1", event, &reply); err != nil || s.asked[4].GetEvent().GetId() == id {
		t.Errorf("another ask has the id of the first: %v", err)
	}
	own := func(r *granaryv1.AskRequest) { r.Event.Id = "mine" }
	if _, err := Ask(t.Context(), conn, "box/1", event, &reply, own); err != nil || reply.Value != "to mine" {
		t.Errorf("%v %v", &reply, err)
	}
	s.silent = true
	if res, err := Ask(t.Context(), conn, "box/1", event, &reply); !errors.Is(err, ErrNoReply) || res.GetSeq() == 0 {
		t.Errorf("%v %v", res, err)
	}
	if _, err := Ask(t.Context(), conn, "box/1", event, nil); err != nil {
		t.Error(err)
	}
}

// TestAskEnds: with what no trying again changes, and with the context.
func TestAskEnds(t *testing.T) {
	s := &askServer{errs: []error{status.Error(codes.FailedPrecondition, "rejected")}}
	conn := serve(t, s)
	if _, err := Ask(t.Context(), conn, "box/1", wrapperspb.String("x"), nil); status.Code(err) != codes.FailedPrecondition || len(s.asked) != 1 {
		t.Errorf("%v after %d calls", err, len(s.asked))
	}
	for range 1000 {
		s.errs = append(s.errs, status.Error(codes.ResourceExhausted, "busy"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := Ask(ctx, conn, "box/1", wrapperspb.String("x"), nil); err == nil || time.Since(began) > 3*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	if w := s.asked[1].GetWait().AsDuration(); w > 300*time.Millisecond || w < 100*time.Millisecond {
		t.Errorf("the node is to wait for %v", w)
	}
}

// queryServer answers queries as told.
type queryServer struct {
	granaryv1.UnimplementedEventServiceServer
	granaryv1.UnimplementedGrainServiceServer
	mu   sync.Mutex
	errs []error
	last *granaryv1.QueryRequest
}

func (s *queryServer) Query(_ context.Context, req *granaryv1.QueryRequest) (*granaryv1.QueryResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last = req; len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, err
	}
	reply, err := anypb.New(wrapperspb.String("answer"))
	return &granaryv1.QueryResponse{Seq: 7, Reply: reply}, err
}

func TestQuery(t *testing.T) {
	s := &queryServer{errs: []error{status.Error(codes.ResourceExhausted, "busy")}}
	conn := serve(t, s)
	var reply wrapperspb.StringValue
	res, err := Query(t.Context(), conn, "box/1", wrapperspb.String("q"), &reply, func(r *granaryv1.QueryRequest) { r.Stale = true })
	if err != nil || res.GetSeq() != 7 || reply.Value != "answer" || !s.last.GetStale() || s.last.GetType() != "google.protobuf.StringValue" {
		t.Errorf("%v %v %v", res, err, s.last)
	}
	s.errs = []error{status.Error(codes.NotFound, "no such query")}
	if _, err := Query(t.Context(), conn, "box/1", wrapperspb.String("q"), &reply); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	if _, err := Query(t.Context(), conn, "box/1", wrapperspb.String("q"), &wrapperspb.Int64Value{}); err == nil {
		t.Error("an answer of another type was taken")
	}
}
