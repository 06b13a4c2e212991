package gateway_test

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// rawCodec sends bytes as they are, so that a client can send what no client would.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (n *node) publishRaw(t testing.TB, request []byte) failure {
	t.Helper()
	var out []byte
	err := n.conn.Invoke(t.Context(), publishPath, request, &out, grpc.ForceCodecV2(rawCodec{}))
	return grpcFailure(err)
}

// nested is n levels of JSON lists.
func nested(n int) *structpb.Struct {
	v := structpb.NewNullValue()
	for range n {
		v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{"x": v}}
}

// bomb is the wire form of a Struct that nests n levels, made from the inside out and without recursion.
func bomb(n int) []byte {
	buf := make([]byte, 16*n+64)
	at := len(buf)
	wrap := func(field protowire.Number) {
		head := protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), uint64(len(buf)-at))
		at -= copy(buf[at-len(head):], head)
	}
	for range n { // Value{list_value: ListValue{values: …}}
		wrap(1)
		wrap(6)
	}
	wrap(2) // the value in an entry of the map
	wrap(1) // the entry
	return buf[at:]
}

// descriptors is n levels of messages that hold themselves.
func descriptors(n int) *descriptorpb.DescriptorProto {
	d := &descriptorpb.DescriptorProto{}
	for range n {
		d = &descriptorpb.DescriptorProto{NestedType: []*descriptorpb.DescriptorProto{d}}
	}
	return d
}

func withJSON(typ, text string) *granaryv1.Event {
	s := &structpb.Struct{}
	if err := s.UnmarshalJSON([]byte(text)); err != nil {
		panic(err)
	}
	return &granaryv1.Event{Grain: "box/1", Type: typ, Payload: &granaryv1.Event_Json{Json: s}}
}

// changed is an event that is right but for one thing.
func changed(f func(*granaryv1.Event)) []*granaryv1.Event {
	e := charged("box/1", "a", 1)
	f(e)
	return []*granaryv1.Event{e}
}

// badEvents are all ways in which events can be wrong. Each is tried by gRPC and by JSON, except where JSON cannot say it.
var badEvents = []struct {
	name   string
	events []*granaryv1.Event
	code   codes.Code
	reason string
	fields []string
	noJSON bool
	body   string // of JSON, where it is not the same request
}{
	{name: "empty batch", code: codes.InvalidArgument, reason: "EMPTY_BATCH", fields: []string{"events"}},
	{name: "too many events", events: slices.Repeat(changed(func(*granaryv1.Event) {}), 1001), code: codes.InvalidArgument, reason: "TOO_MANY_EVENTS", fields: []string{"events"},
		body: `{"events":[` + strings.Repeat(`{},`, 1000) + `{}]}`},
	{name: "more than 4 MiB", events: changed(func(e *granaryv1.Event) {
		e.Payload = &granaryv1.Event_Protobuf{Protobuf: make([]byte, 4<<20)}
	}), code: codes.InvalidArgument, reason: "REQUEST_TOO_LARGE", fields: []string{"events"}, noJSON: true},
	{name: "tenant", events: changed(func(e *granaryv1.Event) { e.Tenant = "acme" }), code: codes.InvalidArgument, reason: "TENANT_NOT_SUPPORTED", fields: []string{"events[0].tenant"}},
	{name: "no grain", events: changed(func(e *granaryv1.Event) { e.Grain = "" }), code: codes.InvalidArgument, reason: "INVALID_GRAIN", fields: []string{"events[0].grain"}},
	{name: "no key", events: changed(func(e *granaryv1.Event) { e.Grain = "box/" }), code: codes.InvalidArgument, reason: "INVALID_GRAIN", fields: []string{"events[0].grain"}},
	{name: "no slash", events: changed(func(e *granaryv1.Event) { e.Grain = "box" }), code: codes.InvalidArgument, reason: "INVALID_GRAIN", fields: []string{"events[0].grain"}},
	{name: "no kind's name", events: changed(func(e *granaryv1.Event) { e.Grain = "Box!/1" }), code: codes.InvalidArgument, reason: "INVALID_GRAIN", fields: []string{"events[0].grain"}},
	{name: "key too long", events: changed(func(e *granaryv1.Event) { e.Grain = "box/" + strings.Repeat("k", 513) }), code: codes.InvalidArgument, reason: "INVALID_GRAIN", fields: []string{"events[0].grain"}},
	{name: "control character in key", events: changed(func(e *granaryv1.Event) { e.Grain = "box/a\x00b" }), code: codes.InvalidArgument, reason: "INVALID_GRAIN", fields: []string{"events[0].grain"}},
	{name: "C1 control character in key", events: changed(func(e *granaryv1.Event) { e.Grain = "box/a\u0085b" }), code: codes.InvalidArgument, reason: "INVALID_GRAIN", fields: []string{"events[0].grain"}},
	{name: "key not UTF-8", events: changed(func(e *granaryv1.Event) { e.Grain = "box/\xff" }), code: codes.InvalidArgument, reason: "INVALID_GRAIN", fields: []string{"events[0].grain"}, noJSON: true},
	{name: "unknown kind", events: changed(func(e *granaryv1.Event) { e.Grain = "crate/1" }), code: codes.NotFound, reason: "UNKNOWN_KIND", fields: []string{"events[0].grain"}},
	{name: "unknown event type", events: changed(func(e *granaryv1.Event) { e.Type = "Opened" }), code: codes.InvalidArgument, reason: "UNKNOWN_EVENT_TYPE", fields: []string{"events[0].type"}},
	{name: "no event type", events: changed(func(e *granaryv1.Event) { e.Type = "" }), code: codes.InvalidArgument, reason: "UNKNOWN_EVENT_TYPE", fields: []string{"events[0].type"}},
	{name: "type of another kind", events: changed(func(e *granaryv1.Event) { e.Type = "granary.merchant.v1.Seen" }), code: codes.InvalidArgument, reason: "UNKNOWN_EVENT_TYPE", fields: []string{"events[0].type"}},
	{name: "id too long", events: changed(func(e *granaryv1.Event) { e.Id = strings.Repeat("i", 257) }), code: codes.InvalidArgument, reason: "INVALID_ID", fields: []string{"events[0].id"}},
	{name: "control character in id", events: changed(func(e *granaryv1.Event) { e.Id = "a\nb" }), code: codes.InvalidArgument, reason: "INVALID_ID", fields: []string{"events[0].id"}},
	{name: "id not UTF-8", events: changed(func(e *granaryv1.Event) { e.Id = "\xc3\x28" }), code: codes.InvalidArgument, reason: "INVALID_ID", fields: []string{"events[0].id"}, noJSON: true},
	{name: "source too long", events: changed(func(e *granaryv1.Event) { e.Source = strings.Repeat("s", 257) }), code: codes.InvalidArgument, reason: "INVALID_SOURCE", fields: []string{"events[0].source"}},
	{name: "control character in source", events: changed(func(e *granaryv1.Event) { e.Source = "\x7f" }), code: codes.InvalidArgument, reason: "INVALID_SOURCE", fields: []string{"events[0].source"}},
	{name: "time before 1970", events: changed(func(e *granaryv1.Event) { e.Time = &timestamppb.Timestamp{Seconds: -1} }), code: codes.InvalidArgument, reason: "INVALID_TIME", fields: []string{"events[0].time"}},
	{name: "time too far ahead", events: changed(func(e *granaryv1.Event) { e.Time = timestamppb.New(now.Add(5*time.Minute + 1)) }), code: codes.InvalidArgument, reason: "INVALID_TIME", fields: []string{"events[0].time"}},
	{name: "time far beyond", events: changed(func(e *granaryv1.Event) { e.Time = &timestamppb.Timestamp{Seconds: math.MaxInt64} }), code: codes.InvalidArgument, reason: "INVALID_TIME", fields: []string{"events[0].time"}, noJSON: true},
	{name: "time with bad nanos", events: changed(func(e *granaryv1.Event) { e.Time = &timestamppb.Timestamp{Seconds: 1, Nanos: -1} }), code: codes.InvalidArgument, reason: "INVALID_TIME", fields: []string{"events[0].time"}, noJSON: true},
	{name: "too many headers", events: changed(func(e *granaryv1.Event) {
		e.Headers = map[string]string{}
		for i := range 33 {
			e.Headers[fmt.Sprint(i)] = "v"
		}
	}), code: codes.InvalidArgument, reason: "INVALID_HEADERS", fields: []string{"events[0].headers"}},
	{name: "header without name", events: changed(func(e *granaryv1.Event) { e.Headers = map[string]string{"": "v"} }), code: codes.InvalidArgument, reason: "INVALID_HEADERS", fields: []string{"events[0].headers"}},
	{name: "header name too long", events: changed(func(e *granaryv1.Event) { e.Headers = map[string]string{strings.Repeat("n", 129): "v"} }), code: codes.InvalidArgument, reason: "INVALID_HEADERS", fields: []string{"events[0].headers"}},
	{name: "header value too long", events: changed(func(e *granaryv1.Event) { e.Headers = map[string]string{"n": strings.Repeat("v", 1025)} }), code: codes.InvalidArgument, reason: "INVALID_HEADERS", fields: []string{"events[0].headers[n]"}},
	{name: "header value not UTF-8", events: changed(func(e *granaryv1.Event) { e.Headers = map[string]string{"n": "\xff"} }), code: codes.InvalidArgument, reason: "INVALID_HEADERS", fields: []string{"events[0].headers[n]"}, noJSON: true},
	{name: "no payload", events: changed(func(e *granaryv1.Event) { e.Payload = nil }), code: codes.InvalidArgument, reason: "PAYLOAD_MISSING", fields: []string{"events[0].payload"}},
	{name: "undecodable payload", events: changed(func(e *granaryv1.Event) {
		e.Payload = &granaryv1.Event_Protobuf{Protobuf: []byte{0x0a, 0x7f, 'x'}}
	}), code: codes.InvalidArgument, reason: "INVALID_PAYLOAD", fields: []string{"events[0].payload"}},
	{name: "undecodable nested payload", events: changed(func(e *granaryv1.Event) {
		e.Type, e.Payload = "Struct", &granaryv1.Event_Protobuf{Protobuf: []byte{0x0a, 0x03, 0x0a, 0x7f, 'x'}}
	}), code: codes.InvalidArgument, reason: "INVALID_PAYLOAD", fields: []string{"events[0].payload"}},
	{name: "text in payload not UTF-8", events: changed(func(e *granaryv1.Event) {
		e.Payload = &granaryv1.Event_Protobuf{Protobuf: []byte{0x0a, 0x01, 0xff}}
	}), code: codes.InvalidArgument, reason: "INVALID_PAYLOAD", fields: []string{"events[0].payload"}},
	{name: "NaN", events: []*granaryv1.Event{event("box/1", "DoubleValue", "", wrapperspb.Double(math.NaN()))}, code: codes.InvalidArgument, reason: "NOT_A_NUMBER", fields: []string{"events[0].payload"}},
	{name: "infinity", events: []*granaryv1.Event{event("box/1", "DoubleValue", "", wrapperspb.Double(math.Inf(-1)))}, code: codes.InvalidArgument, reason: "NOT_A_NUMBER", fields: []string{"events[0].payload"}},
	{name: "NaN deep inside", events: []*granaryv1.Event{event("box/1", "Struct", "", &structpb.Struct{Fields: map[string]*structpb.Value{
		"a": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNumberValue(math.NaN())}}),
	}})}, code: codes.InvalidArgument, reason: "NOT_A_NUMBER", fields: []string{"events[0].payload"}},
	{name: "NaN in JSON payload", events: changed(func(e *granaryv1.Event) {
		e.Payload = &granaryv1.Event_Json{Json: &structpb.Struct{Fields: map[string]*structpb.Value{"amountCents": structpb.NewNumberValue(math.NaN())}}}
	}), code: codes.InvalidArgument, reason: "NOT_A_NUMBER", fields: []string{"events[0].payload"}, noJSON: true},
	{name: "payload nests too deep", events: []*granaryv1.Event{event("box/1", "DescriptorProto", "", descriptors(70))}, code: codes.InvalidArgument, reason: "NESTED_TOO_DEEP", fields: []string{"events[0].payload"}},
	{name: "JSON payload nests too deep", events: changed(func(e *granaryv1.Event) {
		e.Type, e.Payload = "Struct", &granaryv1.Event_Json{Json: nested(70)}
	}), code: codes.InvalidArgument, reason: "NESTED_TOO_DEEP", fields: []string{"events[0].payload"}},
	{name: "JSON of wrong shape", events: []*granaryv1.Event{withJSON("Charged", `{"amountCents":{"no":"number"}}`)}, code: codes.InvalidArgument, reason: "INVALID_PAYLOAD", fields: []string{"events[0].payload"}},
	{name: "JSON with an unknown field", events: []*granaryv1.Event{withJSON("Charged", `{"amount":1}`)}, code: codes.InvalidArgument, reason: "INVALID_PAYLOAD", fields: []string{"events[0].payload"}},
	{name: "JSON amount overflows", events: []*granaryv1.Event{withJSON("Charged", `{"amountCents":"9223372036854775808"}`)}, code: codes.InvalidArgument, reason: "INVALID_PAYLOAD", fields: []string{"events[0].payload"}},
	{name: "JSON amount is no integer", events: []*granaryv1.Event{withJSON("Charged", `{"amountCents":1.5}`)}, code: codes.InvalidArgument, reason: "INVALID_PAYLOAD", fields: []string{"events[0].payload"}},
	{name: "JSON amount loses digits", events: []*granaryv1.Event{withJSON("Charged", `{"amountCents":9007199254740993123}`)}, code: codes.InvalidArgument, reason: "INVALID_PAYLOAD", fields: []string{"events[0].payload"}},
	{name: "JSON says NaN", events: changed(func(e *granaryv1.Event) {
		e.Type = "DescriptorProto"
		e.Payload = withJSON("", `{"options":{"uninterpretedOption":[{"doubleValue":"NaN"}]}}`).Payload
	}), code: codes.InvalidArgument, reason: "NOT_A_NUMBER", fields: []string{"events[0].payload"}},
	{name: "third event is wrong", events: append([]*granaryv1.Event{charged("box/1", "x", 1), charged("box/2", "y", 1)}, changed(func(e *granaryv1.Event) { e.Type = "?" })...),
		code: codes.InvalidArgument, reason: "UNKNOWN_EVENT_TYPE", fields: []string{"events[2].type"}},
	{name: "two events are wrong", events: append(changed(func(e *granaryv1.Event) { e.Grain = "box/" }), changed(func(e *granaryv1.Event) { e.Id = "\n" })...),
		code: codes.InvalidArgument, reason: "INVALID_GRAIN", fields: []string{"events[0].grain", "events[1].id"}},
}

func TestBadEvents(t *testing.T) {
	n := start(t)
	check := func(t *testing.T, got failure, code codes.Code, reason string, fields []string) {
		t.Helper()
		if got.code != code || got.reason != reason || got.infos != 1 {
			t.Errorf("got %v %s (%d ErrorInfo), want %v %s: %s", got.code, got.reason, got.infos, code, reason, got.message)
		}
		if have := slices.Sorted(maps.Keys(got.violations)); !slices.Equal(have, fields) {
			t.Errorf("violations %v, want %v", have, fields)
		}
		if got.retry != 0 {
			t.Errorf("the client is told to retry")
		}
		if strings.Contains(got.message, "\u00a0") || strings.Contains(got.message, "line 1") {
			t.Errorf("message is for protobuf's authors: %q", got.message)
		}
	}
	for _, c := range badEvents {
		t.Run(c.name, func(t *testing.T) {
			raw, err := (&granaryv1.PublishRequest{Events: c.events}).MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			got := n.publishRaw(t, raw)
			t.Log(got.message)
			check(t, got, c.code, c.reason, c.fields)
			if c.noJSON {
				return
			}
			body, fields := c.body, c.fields
			if body == "" {
				body = publishBody(c.events...)
			} else {
				fields = []string{"request"}
			}
			check(t, n.post(t, publishPath, body, nil), c.code, c.reason, fields)
		})
	}
	if len(n.memory.grains) != 0 {
		t.Errorf("something of a refused call reached a shard: %v", n.memory.grains)
	}
}

// TestLimitsAreInclusive: what is just within the limits is taken.
func TestLimitsAreInclusive(t *testing.T) {
	n := start(t)
	full := charged("box/"+strings.Repeat("k", 512), strings.Repeat("i", 256), 1)
	full.Source, full.Time = strings.Repeat("s", 256), timestamppb.New(now.Add(5*time.Minute))
	full.Headers = map[string]string{}
	for i := range 32 {
		full.Headers[fmt.Sprintf("%0128d", i)] = strings.Repeat("v", 1024)
	}
	payload := &accountv1.Charged{TransactionId: strings.Repeat("x", 4<<20-40)}
	large := event("box/large", "Charged", "", payload)
	for large.SizeVT() < 4<<20 {
		payload.TransactionId += strings.Repeat("x", 4<<20-large.SizeVT())
		large = event("box/large", "Charged", "", payload)
	}
	for name, events := range map[string][]*granaryv1.Event{
		"full event":        {full},
		"1,000 events":      slices.Repeat([]*granaryv1.Event{charged("box/1", "", 1)}, 1000),
		"4 MiB":             {large},
		"no fields":         {event("box/1", "Empty", "", &emptypb.Empty{})},
		"epoch":             {func() *granaryv1.Event { e := charged("box/0", "", 1); e.Time = &timestamppb.Timestamp{}; return e }()},
		"deep payload":      {event("box/1", "DescriptorProto", "", descriptors(60))},
		"deep JSON":         {{Grain: "box/1", Type: "Struct", Payload: &granaryv1.Event_Json{Json: nested(25)}}},
		"empty JSON":        {withJSON("Empty", "{}")},
		"full name of type": {event("box/1", "granary.account.v1.Charged", "", &accountv1.Charged{})},
		"int64 as string":   {withJSON("Charged", `{"amountCents":"9223372036854775807"}`)},
		"snake case":        {withJSON("Charged", `{"amount_cents":5}`)},
	} {
		res, err := n.events.Publish(t.Context(), &granaryv1.PublishRequest{Events: events})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, r := range res.Results {
			if r.Status != nil {
				t.Errorf("%s: %v", name, r.Status)
			}
		}
	}
}

// TestWireBombs: requests that would blow the stack or the memory of a decoder without bounds.
func TestWireBombs(t *testing.T) {
	n := start(t)
	eventWith := func(field protowire.Number, content []byte) []byte {
		e := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), "box/1")
		e = protowire.AppendString(protowire.AppendTag(e, 3, protowire.BytesType), "Struct")
		e = protowire.AppendBytes(protowire.AppendTag(e, field, protowire.BytesType), content)
		return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), e)
	}
	deep := bomb(300_000)
	long := eventWith(9, deep)
	i := bytes.Index(long, protowire.AppendTag(nil, 9, protowire.BytesType))
	long = append(append(slices.Clone(long[:i]), 9<<3|2|0x80, 0), long[i+1:]...) // the same tag in two bytes
	for name, c := range map[string]struct {
		request []byte
		reason  string
	}{
		"JSON":         {eventWith(9, deep), "NESTED_TOO_DEEP"},
		"protobuf":     {eventWith(8, deep), "NESTED_TOO_DEEP"},
		"empty events": {bytes.Repeat([]byte{1<<3 | 2, 0}, 2<<20), "TOO_MANY_EVENTS"},
		"garbage":      {[]byte("\x0a\xff\xff\xff\xff\x0f"), "MALFORMED_REQUEST"},
		"wire type":    {[]byte{1 << 3, 1}, "MALFORMED_REQUEST"},
		"bad event":    {[]byte{1<<3 | 2, 2, 2 << 3, 1}, "MALFORMED_REQUEST"},
		"two-byte tag": {long, "MALFORMED_REQUEST"}, // its length is wrong by one now
		"groups":       {append(bytes.Repeat([]byte{15<<3 | 3}, 1<<20), bytes.Repeat([]byte{15<<3 | 4}, 1<<20)...), "MALFORMED_REQUEST"},
	} {
		if f := n.publishRaw(t, c.request); f.code != codes.InvalidArgument || f.reason != c.reason || f.infos != 1 {
			t.Errorf("%s: %+v, want %s", name, f, c.reason)
		}
		code, body := n.postRaw(t, publishPath, "application/proto", bytes.NewReader(c.request))
		if code == http.StatusOK {
			t.Errorf("%s was taken over HTTP/1.1", name)
			continue
		}
		if f := webFailure(t, body); f.code != codes.InvalidArgument || f.reason != c.reason && f.reason != "REQUEST_TOO_LARGE" || f.infos != 1 {
			t.Errorf("%s over HTTP/1.1: %+v, want %s", name, f, c.reason)
		}
	}
}

// TestOverlongMessage: however long a message is, by call or by stream, the client is told that it is too long, how long it
// may be, and nothing else. What came before it on a stream is answered.
func TestOverlongMessage(t *testing.T) {
	n := start(t)
	check := func(how string, size int, f failure) {
		t.Helper()
		if f.code != codes.InvalidArgument || f.reason != "REQUEST_TOO_LARGE" || f.infos != 1 || len(f.violations) != 1 || f.retry != 0 || !strings.Contains(f.message, "at most 4194304 are allowed") {
			t.Errorf("%d MiB by %s: %+v", size>>20, how, f)
		}
	}
	for _, size := range []int{5 << 20, 9 << 20, 100 << 20} {
		// one event of that size, as field 1 of a publish request and as field 4 of a stream's
		message := func(field protowire.Number) []byte {
			head := protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), uint64(size))
			event := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.BytesType), uint64(size-5))
			return append(append(head, event...), make([]byte, size-5)...)
		}
		check("call", size, n.publishRaw(t, message(1)))

		s, err := n.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, streamPath, grpc.ForceCodecV2(rawCodec{}))
		if err != nil {
			t.Fatal(err)
		}
		first, err := proto.Marshal(&granaryv1.PublishStreamRequest{Batch: 1, Events: []*granaryv1.Event{charged("box/1", "", 1)}})
		if err != nil {
			t.Fatal(err)
		}
		var answer []byte
		if err := s.SendMsg(first); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(&answer); err != nil {
			t.Fatal(err)
		}
		_ = s.SendMsg(append([]byte{2 << 3, 2}, message(4)...)) // fails where the answer is there before the message is
		for err == nil {
			err = s.RecvMsg(&answer)
		}
		check("stream", size, grpcFailure(err))
	}
	for name, request := range map[string]any{"a call without a message": nil, "a call with two": []byte{}} {
		s, err := n.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, publishPath, grpc.ForceCodecV2(rawCodec{}))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if b, ok := request.([]byte); ok {
				_ = s.SendMsg(b) // the second may come too late
			}
		}
		_ = s.CloseSend()
		var answer []byte
		if f := grpcFailure(s.RecvMsg(&answer)); f.code != codes.InvalidArgument || f.reason != "MALFORMED_REQUEST" || f.infos != 1 {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestBadBodies: what can be wrong with a request of HTTP/1.1 before it is one.
func TestBadBodies(t *testing.T) {
	n := start(t)
	for _, c := range []struct {
		name, path, contentType, body string
		code                          codes.Code
		reason                        string
	}{
		{"no JSON", publishPath, "application/json", `{"events":`, codes.InvalidArgument, "MALFORMED_REQUEST"},
		{"no body", publishPath, "application/json", ``, codes.InvalidArgument, "MALFORMED_REQUEST"},
		{"no object", publishPath, "application/json", `[]`, codes.InvalidArgument, "MALFORMED_REQUEST"},
		{"mistyped field", publishPath, "application/json", `{"events":[{"grain":"box/1","type":"Empty","idd":"7","json":{}}]}`, codes.InvalidArgument, "MALFORMED_REQUEST"},
		{"null event", publishPath, "application/json", `{"events":[null]}`, codes.InvalidArgument, "MALFORMED_REQUEST"},
		{"bad base64", publishPath, "application/json", `{"events":[{"protobuf":"***"}]}`, codes.InvalidArgument, "MALFORMED_REQUEST"},
		{"NaN", publishPath, "application/json", `{"events":[{"grain":"box/1","type":"Charged","json":{"amountCents":NaN}}]}`, codes.InvalidArgument, "MALFORMED_REQUEST"},
		{"bomb", publishPath, "application/json", strings.Repeat("[", 1<<20), codes.InvalidArgument, "NESTED_TOO_DEEP"},
		{"large", publishPath, "application/json", `{"events":[{"id":"` + strings.Repeat("x", 4<<20) + `"}]}`, codes.InvalidArgument, "REQUEST_TOO_LARGE"},
		{"form", publishPath, "application/x-www-form-urlencoded", `{}`, codes.InvalidArgument, "UNSUPPORTED_CONTENT"},
		{"no content type", publishPath, "", `{}`, codes.InvalidArgument, "UNSUPPORTED_CONTENT"},
		{"no such method", "/granary.v1.EventService/Publsh", "application/json", `{}`, codes.NotFound, "UNKNOWN_METHOD"},
		{"no such path", "/", "application/json", `{}`, codes.NotFound, "UNKNOWN_METHOD"},
		{"stream", "/granary.v1.EventService/PublishStream", "application/json", `{}`, codes.Unimplemented, "STREAM_NEEDS_HTTP2"},
	} {
		code, body := n.postRaw(t, c.path, c.contentType, strings.NewReader(c.body))
		if code == http.StatusOK {
			t.Errorf("%s was taken: %s", c.name, body)
			continue
		}
		f := webFailure(t, body)
		t.Logf("%s: %d %s", c.name, code, f.message)
		if f.code != c.code || f.reason != c.reason || f.infos != 1 {
			t.Errorf("%s: %+v, want %v %s", c.name, f, c.code, c.reason)
		}
	}
	// A body of unknown length is cut where it gets too long.
	code, body := n.postRaw(t, publishPath, "application/json", strings.NewReader(`{"events":[{"id":"`+strings.Repeat("x", 5<<20)))
	if f := webFailure(t, body); code != http.StatusBadRequest || f.reason != "REQUEST_TOO_LARGE" {
		t.Errorf("endless body: %d %+v", code, f)
	}
	res, err := n.web.Get("http://" + n.addr + publishPath)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusNotImplemented || res.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %s", res.Status)
	}
}
