package gateway_test

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

const queryPath = "/granary.v1.GrainService/Query"

func protobufField(n protowire.Number, data []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), data)
}

// query is a question to desk/1.
func query(text string, change ...func(*granaryv1.QueryRequest)) *granaryv1.QueryRequest {
	b, err := proto.Marshal(wrapperspb.String(text))
	if err != nil {
		panic(err)
	}
	req := &granaryv1.QueryRequest{Grain: "desk/1", Type: "StringValue", Query: &granaryv1.QueryRequest_Protobuf{Protobuf: b}}
	for _, c := range change {
		c(req)
	}
	return req
}

// TestQuery: questions to the present and the past, by gRPC and by JSON; nothing of them stays.
func TestQuery(t *testing.T) {
	n := start(t, withDesks)
	for _, word := range []string{"a", "b", "c"} {
		n.publish(t, question(word, word))
	}
	before := time.UnixMicro(memoryTime(2)).Add(time.Millisecond).UTC()
	for _, c := range []struct {
		name string
		req  *granaryv1.QueryRequest
		want string
	}{
		{"now", query(""), "desk/1 #3 2026-11-20T12:00:00Z: a b c "},
		{"again", query(""), "desk/1 #3 2026-11-20T12:00:00Z: a b c "},
		{"full name", query("", func(r *granaryv1.QueryRequest) { r.Type = "google.protobuf.StringValue" }), "desk/1 #3 2026-11-20T12:00:00Z: a b c "},
		{"stale", query("", func(r *granaryv1.QueryRequest) { r.Stale = true }), "desk/1 #3 2026-11-20T12:00:00Z: a b c "},
		{"no question", query("", func(r *granaryv1.QueryRequest) { r.Query = nil }), "desk/1 #3 2026-11-20T12:00:00Z: a b c "},
		{"at seq 2", query("", func(r *granaryv1.QueryRequest) { r.At = &granaryv1.QueryRequest_AtSeq{AtSeq: 2} }),
			"desk/1 #2 " + time.UnixMicro(memoryTime(2)).UTC().Format(time.RFC3339) + ": a b "},
		{"at seq 0", query("", func(r *granaryv1.QueryRequest) { r.At = &granaryv1.QueryRequest_AtSeq{} }), "desk/1 #0 2026-11-20T12:00:00Z: "},
		{"at a time", query("", func(r *granaryv1.QueryRequest) {
			r.At = &granaryv1.QueryRequest_AtTime{AtTime: timestamppb.New(before)}
		}), "desk/1 #2 " + before.Format(time.RFC3339) + ": a b "},
		{"nobody knows it", query("", func(r *granaryv1.QueryRequest) { r.Grain = "desk/new" }), "desk/new #0 2026-11-20T12:00:00Z: "},
	} {
		res, err := n.grains.Query(t.Context(), c.req)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var text wrapperspb.StringValue
		if res.Reply.UnmarshalTo(&text) != nil || text.Value != c.want || res.LogicVersion != 1 || res.Grain != c.req.Grain || (res.Position != "") != (res.Seq > 0) {
			t.Errorf("%s: %v", c.name, res)
		}
		var web granaryv1.QueryResponse
		if f := n.post(t, queryPath, body(t, c.req), &web); f.code != codes.OK || !proto.Equal(&web, res) {
			t.Errorf("%s by JSON: %+v %v", c.name, f, &web)
		}
	}
	// the form that is wanted, and JSON questions
	s, _ := structpb.NewStruct(map[string]any{"x": 1.5})
	echo := &granaryv1.QueryRequest{Grain: "desk/1", Type: "Struct", Query: &granaryv1.QueryRequest_Json{Json: s}, Format: granaryv1.StateFormat_STATE_FORMAT_JSON}
	if res, err := n.grains.Query(t.Context(), echo); err != nil || res.Reply != nil || res.Json.Fields["x"].GetNumberValue() != 1.5 {
		t.Errorf("%v %v", res, err)
	}
	// the state is as it was
	if res, err := n.grains.Get(t.Context(), &granaryv1.GetRequest{Grain: "desk/1"}); err != nil || res.Seq != 3 || strings.Contains(string(res.State.Value), "scribbled") {
		t.Errorf("%v %v", res, err)
	}
}

// TestBadQueries: what is wrong with a question, or goes wrong with it.
func TestBadQueries(t *testing.T) {
	n := start(t, withDesks)
	n.publish(t, question("a", "a"))
	with := func(typ string, m proto.Message) *granaryv1.QueryRequest {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return query("", func(r *granaryv1.QueryRequest) { r.Type, r.Query = typ, &granaryv1.QueryRequest_Protobuf{Protobuf: b} })
	}
	for _, c := range []struct {
		name   string
		req    *granaryv1.QueryRequest
		code   codes.Code
		reason string
		field  string
	}{
		{"tenant", query("", func(r *granaryv1.QueryRequest) { r.Tenant = "x" }), codes.InvalidArgument, "TENANT_NOT_SUPPORTED", "tenant"},
		{"grain", query("", func(r *granaryv1.QueryRequest) { r.Grain = "desk" }), codes.InvalidArgument, "INVALID_GRAIN", "grain"},
		{"kind", query("", func(r *granaryv1.QueryRequest) { r.Grain = "ghost/1" }), codes.NotFound, "UNKNOWN_KIND", "grain"},
		{"type", query("", func(r *granaryv1.QueryRequest) { r.Type = "Nothing" }), codes.NotFound, "UNKNOWN_QUERY", "type"},
		{"an event's type", query("", func(r *granaryv1.QueryRequest) { r.Grain, r.Type = "box/1", "Charged" }), codes.NotFound, "UNKNOWN_QUERY", "type"},
		{"no type", query("", func(r *granaryv1.QueryRequest) { r.Type = "" }), codes.NotFound, "UNKNOWN_QUERY", "type"},
		{"format", query("", func(r *granaryv1.QueryRequest) { r.Format = 9 }), codes.InvalidArgument, "INVALID_FORMAT", "format"},
		{"not UTF-8", query("", func(r *granaryv1.QueryRequest) {
			r.Query = &granaryv1.QueryRequest_Protobuf{Protobuf: []byte("\x0a\x01\xff")}
		}), codes.InvalidArgument, "INVALID_PAYLOAD", "query"},
		{"no message", query("", func(r *granaryv1.QueryRequest) { r.Query = &granaryv1.QueryRequest_Protobuf{Protobuf: []byte{0xff}} }), codes.InvalidArgument, "INVALID_PAYLOAD", "query"},
		{"unknown field", query("", func(r *granaryv1.QueryRequest) {
			r.Type, r.Query = "DoubleValue", &granaryv1.QueryRequest_Json{Json: &structpb.Struct{Fields: map[string]*structpb.Value{"no": structpb.NewBoolValue(true)}}}
		}), codes.InvalidArgument, "INVALID_PAYLOAD", "query"},
		{"NaN", with("DoubleValue", wrapperspb.Double(math.NaN())), codes.InvalidArgument, "NOT_A_NUMBER", "query"},
		{"deep protobuf", with("Struct", nested(70)), codes.InvalidArgument, "NESTED_TOO_DEEP", "query"},
		{"deep JSON", query("", func(r *granaryv1.QueryRequest) {
			r.Type, r.Query = "Struct", &granaryv1.QueryRequest_Json{Json: nested(70)}
		}),
			codes.InvalidArgument, "NESTED_TOO_DEEP", "query"},
		{"time", query("", func(r *granaryv1.QueryRequest) {
			r.At = &granaryv1.QueryRequest_AtTime{AtTime: &timestamppb.Timestamp{Seconds: 1, Nanos: 1_500_000_000}}
		}), codes.InvalidArgument, "INVALID_TIME", "at_time"},
		{"seq", query("", func(r *granaryv1.QueryRequest) { r.At = &granaryv1.QueryRequest_AtSeq{AtSeq: 9} }), codes.OutOfRange, "SEQ_OUT_OF_RANGE", ""},
		{"rejected", query("reject"), codes.FailedPrecondition, "REJECTED", ""},
		{"panic", query("panic"), codes.Internal, "QUERY_FAILED", ""},
		{"failure", query("fail"), codes.Internal, "QUERY_FAILED", ""},
		{"no answer", query("nothing"), codes.Internal, "QUERY_FAILED", ""},
		{"too long", query("long"), codes.Internal, "QUERY_FAILED", ""},
	} {
		_, err := n.grains.Query(t.Context(), c.req)
		f := grpcFailure(err)
		if f.code != c.code || f.reason != c.reason || c.field != "" && f.violations[c.field] == "" || f.infos != 1 {
			t.Errorf("%s: %+v", c.name, f)
		}
		if c.name == "time" || c.name == "NaN" { // JSON cannot say it
			continue
		}
		if g := n.post(t, queryPath, body(t, c.req), nil); g.code != c.code || g.reason != c.reason {
			t.Errorf("%s by JSON: %+v", c.name, g)
		}
	}
	f := grpcFailure(func() error {
		_, err := n.grains.Query(t.Context(), query("", func(r *granaryv1.QueryRequest) { r.Type = "X" }))
		return err
	}())
	if f.metadata["kind"] != "desk" || f.metadata["type"] != "X" || !strings.Contains(f.metadata["queries"], "google.protobuf.StringValue") {
		t.Errorf("%v", f.metadata)
	}
	req := append(protobufField(2, []byte("desk/1")), append(protobufField(3, []byte("Struct")), protobufField(5, bomb(100_000))...)...)
	var out []byte
	if f := grpcFailure(n.conn.Invoke(t.Context(), queryPath, req, &out, grpc.ForceCodecV2(rawCodec{}))); f.reason != "NESTED_TOO_DEEP" {
		t.Errorf("%+v", f)
	}
}

// TestQueriesThatDoNotEnd hold up nobody but others like them: the callers go with their deadlines, the node answers reads
// and takes events, further queries are refused, and when the handlers end all is as before.
func TestQueriesThatDoNotEnd(t *testing.T) {
	n := start(t, withDesks)
	const most = 256
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	done := make(chan failure, most)
	for range most {
		go func() {
			_, err := n.grains.Query(ctx, query("wait"))
			done <- grpcFailure(err)
		}()
	}
	for range most {
		if f := <-done; f.code != codes.DeadlineExceeded {
			t.Fatalf("%+v", f)
		}
	}
	_, err := n.grains.Query(t.Context(), query(""))
	if f := grpcFailure(err); f.code != codes.ResourceExhausted || f.reason != "QUERIES_OVERLOADED" || f.retry == 0 {
		t.Errorf("%+v", f)
	}
	n.publish(t, question("x", ""))
	if _, err := n.grains.Get(t.Context(), &granaryv1.GetRequest{Grain: "desk/1"}); err != nil {
		t.Error(err)
	}
	for range most {
		asItGoes <- struct{}{}
	}
	eventually(t, "a query is answered", func() bool {
		_, err := n.grains.Query(t.Context(), query(""))
		return err == nil
	})
}

// TestKindWithQueries: the kind tells what it can be asked, and where it publishes to.
func TestKindWithQueries(t *testing.T) {
	n := start(t, withDesks)
	res, err := n.kinds.Describe(t.Context(), &granaryv1.DescribeRequest{Kind: "desk"})
	if err != nil || len(res.Kind.Queries) != 3 || len(res.Kind.Streams) != 1 || res.Kind.Streams[0] != "desk.news" {
		t.Fatalf("%v %v", res.GetKind(), err)
	}
	if q := res.Kind.Queries[1]; q.Name != "google.protobuf.StringValue" || q.Reply != "google.protobuf.StringValue" || q.Example != `"value"` || len(q.Fields) != 1 {
		t.Errorf("%v", q)
	}
}
