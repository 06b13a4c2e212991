package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// ErrNoReply is the error of an ask whose event was folded by a turn that neither replied nor deferred.
var ErrNoReply = errors.New("the turn gave no reply")

// Bounds of waiting. The node's own are described at AskRequest.
const (
	longestWait  = 5 * time.Minute
	defaultWait  = 10 * time.Second
	firstPause   = 50 * time.Millisecond
	longestPause = 2 * time.Second
)

// Ask publishes an event to a grain ("kind/key") and decodes the reply of its turn, or of the later turn that the reply was
// left to, into reply, unless that is nil. The event is handed in once: Ask gives it an id, unless a change does, and asks
// again with the same id when a node does not answer, is busy, or has no reply yet, until ctx ends. Then the error is of the
// code DEADLINE_EXCEEDED or CANCELED, and whoever asks again with the same id gets the reply. Changes are made to the
// request before it is sent: an id, a source, a time, headers.
//
// A grain that rejects the event fails the call with FAILED_PRECONDITION, and a turn that fails with INTERNAL.
func Ask(ctx context.Context, conn grpc.ClientConnInterface, grain string, event, reply proto.Message, changes ...func(*granaryv1.AskRequest)) (*granaryv1.Result, error) {
	payload, err := proto.Marshal(event)
	if err != nil {
		return nil, err
	}
	req := &granaryv1.AskRequest{Event: &granaryv1.Event{Grain: grain, Type: string(event.ProtoReflect().Descriptor().FullName()),
		Payload: &granaryv1.Event_Protobuf{Protobuf: payload}}}
	for _, change := range changes {
		change(req)
	}
	if req.Event.Id == "" {
		req.Event.Id = newID()
	}
	wait := defaultWait
	if req.Wait != nil {
		wait = req.Wait.AsDuration()
	}
	events := granaryv1.NewEventServiceClient(conn)
	var resp *granaryv1.AskResponse
	err = persist(ctx, func() error {
		if end, ok := ctx.Deadline(); ok {
			// A little less than the caller has, so that the node has the last word.
			left := time.Until(end)
			req.Wait = durationpb.New(min(max(left-min(left/10, 200*time.Millisecond), time.Millisecond), longestWait))
		} else {
			req.Wait = durationpb.New(min(max(wait, time.Millisecond), longestWait))
		}
		var err error
		resp, err = events.Ask(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	switch {
	case reply == nil:
	case resp.GetReply() == nil:
		return resp.GetResult(), ErrNoReply
	default:
		if err := resp.GetReply().UnmarshalTo(reply); err != nil {
			return resp.GetResult(), fmt.Errorf("the reply: %w", err)
		}
	}
	return resp.GetResult(), nil
}

// Query puts a question to a grain ("kind/key") and decodes the answer into reply. It changes nothing, so it is tried again
// while no node answers, until ctx ends. Changes are made to the request before it is sent: a past moment, stale.
func Query(ctx context.Context, conn grpc.ClientConnInterface, grain string, question, reply proto.Message, changes ...func(*granaryv1.QueryRequest)) (*granaryv1.QueryResponse, error) {
	payload, err := proto.Marshal(question)
	if err != nil {
		return nil, err
	}
	req := &granaryv1.QueryRequest{Grain: grain, Type: string(question.ProtoReflect().Descriptor().FullName()),
		Query: &granaryv1.QueryRequest_Protobuf{Protobuf: payload}, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF}
	for _, change := range changes {
		change(req)
	}
	grains := granaryv1.NewGrainServiceClient(conn)
	var resp *granaryv1.QueryResponse
	if err := persist(ctx, func() error {
		var err error
		resp, err = grains.Query(ctx, req)
		return err
	}); err != nil {
		return nil, err
	}
	if err := resp.GetReply().UnmarshalTo(reply); err != nil {
		return resp, fmt.Errorf("the answer: %w", err)
	}
	return resp, nil
}

// persist calls until there is an answer, or an error that trying again does not change, or ctx ends.
func persist(ctx context.Context, call func() error) error {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := call()
		if err == nil || ctx.Err() != nil {
			return err
		}
		st := status.Convert(err)
		switch st.Code() {
		case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Aborted:
		default:
			return err
		}
		for _, d := range st.Details() {
			if retry, ok := d.(*errdetails.RetryInfo); ok {
				pause = max(pause, retry.GetRetryDelay().AsDuration())
			}
		}
		t := time.NewTimer(pause/2 + mathrand.N(pause/2+1))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// newID is an id that nobody else has.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
