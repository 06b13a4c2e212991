package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway"
	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// desks is a kind that is asked: an event's text says what to do, a question's as well.
var desks = grains.Kind[*wrapperspb.StringValue]{
	Name: "desk", Version: 1, Streams: []string{"desk.news"},
	Handlers: grains.Handlers[*wrapperspb.StringValue]{
		grains.On(func(t *grains.Turn, s, e *wrapperspb.StringValue) error {
			switch e.Value {
			case "reject":
				return grains.Reject("as asked")
			case "panic":
				panic("as asked")
			case "defer":
				t.Defer()
			case "silent":
			default:
				t.Reply(wrapperspb.String("to " + e.Value))
			}
			s.Value += e.Value + " "
			return nil
		}),
		grains.Query(func(v *grains.View, s *wrapperspb.StringValue, q *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
			switch q.Value {
			case "reject":
				return nil, grains.Reject("as asked")
			case "panic":
				panic("as asked")
			case "fail":
				return nil, fmt.Errorf("as asked")
			case "nothing":
				return nil, nil
			case "long":
				return wrapperspb.String(strings.Repeat("x", 4<<20)), nil
			case "wait":
				<-asItGoes
			}
			s.Value += "scribbled"
			return wrapperspb.String(fmt.Sprintf("%v #%d %s: %s", v.Grain, v.Seq, v.Now.Format(time.RFC3339), strings.TrimSuffix(s.Value, "scribbled"))), nil
		}),
		grains.Query(func(_ *grains.View, _ *wrapperspb.StringValue, q *structpb.Struct) (*structpb.Struct, error) {
			return q, nil
		}),
		grains.Query(func(_ *grains.View, _ *wrapperspb.StringValue, q *wrapperspb.DoubleValue) (*wrapperspb.DoubleValue, error) {
			return q, nil
		}),
	},
}

// asItGoes is what the query "wait" waits for.
var asItGoes = make(chan struct{})

func withDesks(o *gateway.Options) {
	c, err := grains.NewCatalog(boxes.MustDefine(), desks.MustDefine())
	if err != nil {
		panic(err)
	}
	o.Catalog = c
}

// GiveUp implements routing.Router.
func (m *memory) GiveUp(_ uint64, b *actors.Batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.Index(m.asks, b); i >= 0 {
		m.asks = slices.Delete(m.asks, i, i+1)
		b.Done(b)
	}
}

// reply answers all who wait for a deferred reply.
func (m *memory) reply(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := anypb.New(wrapperspb.String(text))
	if err != nil {
		panic(err)
	}
	for _, b := range m.asks {
		b.Results[0].Reply, _ = proto.Marshal(a)
		b.Done(b)
	}
	m.asks = nil
}

func (m *memory) asking() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.asks)
}

func question(text, id string) *granaryv1.Event {
	return event("desk/1", "StringValue", id, wrapperspb.String(text))
}

const askPath = "/granary.v1.EventService/Ask"

func body(t testing.TB, m proto.Message) string {
	t.Helper()
	b, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestAsk: each way in which an ask can end, by gRPC and by JSON.
func TestAsk(t *testing.T) {
	n := start(t, withDesks)
	for _, c := range []struct {
		name, text string
		reply      string
		code       codes.Code
		reason     string
	}{
		{name: "reply", text: "hello", reply: "to hello"},
		{name: "no reply", text: "silent"},
		{name: "rejected", text: "reject", code: codes.FailedPrecondition, reason: "REJECTED"},
		{name: "dead-lettered", text: "panic", code: codes.Internal, reason: "DEAD_LETTERED"},
	} {
		for again := range 2 {
			req := &granaryv1.AskRequest{Event: question(c.text, c.name)}
			var web granaryv1.AskResponse
			res, err := n.events.Ask(t.Context(), req)
			f, g := grpcFailure(err), n.post(t, askPath, body(t, req), &web)
			if f.code != c.code || f.reason != c.reason || g.code != c.code || g.reason != c.reason {
				t.Fatalf("%s: %+v, by JSON %+v", c.name, f, g)
			}
			if c.code != codes.OK {
				if f.metadata["position"] == "" || f.metadata["seq"] == "" || f.metadata["duplicate"] != fmt.Sprint(again > 0) || g.metadata["duplicate"] != "true" {
					t.Errorf("%s: %v, by JSON %v", c.name, f.metadata, g.metadata)
				}
				continue
			}
			if res.Result.Duplicate != (again > 0) || !web.Result.Duplicate || res.Result.Seq == 0 || res.Result.Position != web.Result.Position || !res.Result.Deduplicated {
				t.Errorf("%s: %v, by JSON %v", c.name, res, &web)
			}
			var text wrapperspb.StringValue
			if (res.Reply == nil) != (c.reply == "") || res.Reply != nil && res.Reply.UnmarshalTo(&text) != nil || text.Value != c.reply || !proto.Equal(res.Reply, web.Reply) {
				t.Errorf("%s: %v, by JSON %v", c.name, res, &web)
			}
		}
	}
	// without an id nothing is told apart
	for range 2 {
		if res, err := n.events.Ask(t.Context(), &granaryv1.AskRequest{Event: question("x", "")}); err != nil || res.Result.Duplicate || res.Result.Deduplicated {
			t.Errorf("%v %v", res, err)
		}
	}
}

// TestDeferredAsk: the reply comes later, or not in time, and then the caller is told where the event is.
func TestDeferredAsk(t *testing.T) {
	n := start(t, withDesks)
	answered := make(chan *granaryv1.AskResponse, 1)
	go func() {
		res, err := n.events.Ask(context.Background(), &granaryv1.AskRequest{Event: question("defer", "a")})
		if err != nil {
			t.Error(err)
		}
		answered <- res
	}()
	eventually(t, "an asker waits", func() bool { return n.asking() == 1 })
	n.reply("later")
	var text wrapperspb.StringValue
	if res := <-answered; res == nil || res.Reply.UnmarshalTo(&text) != nil || text.Value != "later" {
		t.Errorf("%v", res)
	}

	short := &granaryv1.AskRequest{Event: question("defer", "b"), Wait: durationpb.New(30 * time.Millisecond)}
	_, err := n.events.Ask(t.Context(), short)
	f, g := grpcFailure(err), n.post(t, askPath, body(t, short), nil)
	for _, f := range []failure{f, g} {
		if f.code != codes.DeadlineExceeded || f.reason != "DEADLINE_EXCEEDED" || f.metadata["position"] == "" || f.metadata["seq"] != "2" ||
			!strings.Contains(f.message, "journaled") || !strings.Contains(f.message, "30ms") || !strings.Contains(f.message, "the same id") {
			t.Errorf("%+v", f)
		}
	}
	short.Event.Id = ""
	if f := n.post(t, askPath, body(t, short), nil); !strings.Contains(f.message, "it has no id") {
		t.Errorf("%+v", f)
	}

	// whoever hangs up, or has a deadline of its own, waits no more
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := n.events.Ask(ctx, &granaryv1.AskRequest{Event: question("defer", "c")}); grpcFailure(err).code != codes.DeadlineExceeded {
		t.Error(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.addr+askPath, strings.NewReader(body(t, &granaryv1.AskRequest{Event: question("defer", "d")})))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if res, err := n.web.Do(req); err == nil {
		_ = res.Body.Close()
		t.Error("answered")
	}
	eventually(t, "nobody waits", func() bool { return n.asking() == 0 })
}

// TestLongAskByJSON: a caller by HTTP/1.1 may wait longer than a request may usually take.
func TestLongAskByJSON(t *testing.T) {
	n := start(t, withDesks, func(o *gateway.Options) { o.Limits.BodyTimeout = 100 * time.Millisecond })
	go func() {
		eventually(t, "an asker waits", func() bool { return n.asking() == 1 })
		time.Sleep(300 * time.Millisecond)
		n.reply("late")
	}()
	var web granaryv1.AskResponse
	if f := n.post(t, askPath, body(t, &granaryv1.AskRequest{Event: question("defer", "a")}), &web); f.code != codes.OK || web.Reply == nil {
		t.Errorf("%+v %v", f, &web)
	}
}

// TestStopWhileAsking: those who wait for a deferred reply do not hold up a stop.
func TestStopWhileAsking(t *testing.T) {
	n := start(t, withDesks)
	failed := make(chan error, 1)
	go func() {
		_, err := n.events.Ask(context.Background(), &granaryv1.AskRequest{Event: question("defer", "a"), Wait: durationpb.New(time.Minute)})
		failed <- err
	}()
	eventually(t, "an asker waits", func() bool { return n.asking() == 1 })
	began := time.Now()
	n.halt(t, 10*time.Second)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v to stop", took)
	}
	if f := grpcFailure(<-failed); f.code != codes.Unavailable || f.reason != "NODE_STOPPING" || f.metadata["position"] == "" || f.retry == 0 {
		t.Errorf("%+v", f)
	}
}

// TestBadAsks: what is wrong with an ask, and in which field.
func TestBadAsks(t *testing.T) {
	n := start(t, withDesks)
	for _, c := range []struct {
		name   string
		req    *granaryv1.AskRequest
		code   codes.Code
		reason string
		field  string
	}{
		{"nothing", &granaryv1.AskRequest{}, codes.InvalidArgument, "EMPTY_BATCH", "event"},
		{"kind", &granaryv1.AskRequest{Event: &granaryv1.Event{Grain: "ghost/1"}}, codes.NotFound, "UNKNOWN_KIND", "event.grain"},
		{"type", &granaryv1.AskRequest{Event: &granaryv1.Event{Grain: "desk/1", Type: "X"}}, codes.InvalidArgument, "UNKNOWN_EVENT_TYPE", "event.type"},
		{"payload", &granaryv1.AskRequest{Event: &granaryv1.Event{Grain: "desk/1", Type: "StringValue"}}, codes.InvalidArgument, "PAYLOAD_MISSING", "event.payload"},
		{"not UTF-8", &granaryv1.AskRequest{Event: &granaryv1.Event{Grain: "desk/1", Type: "StringValue", Payload: &granaryv1.Event_Protobuf{Protobuf: []byte("\x0a\x01\xff")}}},
			codes.InvalidArgument, "INVALID_PAYLOAD", "event.payload"},
		{"id", &granaryv1.AskRequest{Event: question("x", "a\nb")}, codes.InvalidArgument, "INVALID_ID", "event.id"},
		{"no wait", &granaryv1.AskRequest{Event: question("x", "1"), Wait: durationpb.New(0)}, codes.InvalidArgument, "INVALID_WAIT", "wait"},
		{"negative wait", &granaryv1.AskRequest{Event: question("x", "1"), Wait: durationpb.New(-time.Second)}, codes.InvalidArgument, "INVALID_WAIT", "wait"},
		{"long wait", &granaryv1.AskRequest{Event: question("x", "1"), Wait: durationpb.New(5*time.Minute + 1)}, codes.InvalidArgument, "INVALID_WAIT", "wait"},
		{"deep", &granaryv1.AskRequest{Event: &granaryv1.Event{Grain: "box/1", Type: "Struct", Payload: &granaryv1.Event_Json{Json: nested(70)}}}, codes.InvalidArgument, "NESTED_TOO_DEEP", "event.payload"},
	} {
		_, err := n.events.Ask(t.Context(), c.req)
		f, g := grpcFailure(err), n.post(t, askPath, body(t, c.req), nil)
		for _, f := range []failure{f, g} {
			if f.code != c.code || f.reason != c.reason || f.violations[c.field] == "" {
				t.Errorf("%s: %+v", c.name, f)
			}
		}
	}
	good, err := proto.Marshal(question("x", "1"))
	if err != nil {
		t.Fatal(err)
	}
	two := append([]byte{0x0a, byte(len(good))}, good...)
	for name, raw := range map[string][]byte{"two events": append(two, two...), "wire type": {0x08, 1}, "cut": two[:len(two)-1], "bad wait": {0x12, 1, 0xff}} {
		var out []byte
		if f := grpcFailure(n.conn.Invoke(t.Context(), askPath, raw, &out, grpc.ForceCodecV2(rawCodec{}))); f.code != codes.InvalidArgument || f.reason != "MALFORMED_REQUEST" {
			t.Errorf("%s: %+v", name, f)
		}
	}
	// what no client sends: nesting that would end the process
	deep := bomb(100_000)
	e := append(protobufField(2, []byte("box/1")), append(protobufField(3, []byte("Struct")), protobufField(9, deep)...)...)
	var out []byte
	if f := grpcFailure(n.conn.Invoke(t.Context(), askPath, protobufField(1, e), &out, grpc.ForceCodecV2(rawCodec{}))); f.reason != "NESTED_TOO_DEEP" {
		t.Errorf("%+v", f)
	}
	// shards that do not take it
	n.set(func(m *memory) {
		m.refuse = func(_ uint64, b *actors.Batch) { b.Refused, b.Why = actors.Unavailable, "as told" }
	})
	if _, err := n.events.Ask(t.Context(), &granaryv1.AskRequest{Event: question("x", "1")}); grpcFailure(err).reason != "SHARD_UNAVAILABLE" {
		t.Error(err)
	}
}
