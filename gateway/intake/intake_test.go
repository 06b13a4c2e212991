package intake_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
	"unsafe"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/intake"
	"github.com/granary-dev/granary/grains"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

var (
	now   = time.Unix(1_800_000_000, 0)
	table = routing.NewTable(16)
	taker = intake.New(func() *grains.Catalog {
		kind := grains.Kind[*accountv1.Account]{Name: "box", Version: 1, Handlers: grains.Handlers[*accountv1.Account]{
			grains.On(func(*grains.Turn, *accountv1.Account, *accountv1.Charged) error { return nil }),
			grains.On(func(*grains.Turn, *accountv1.Account, *structpb.Struct) error { return nil }),
			grains.On(func(*grains.Turn, *accountv1.Account, *wrapperspb.FloatValue) error { return nil }),
			grains.On(func(*grains.Turn, *accountv1.Account, *descriptorpb.UninterpretedOption) error { return nil }),
			grains.On(func(*grains.Turn, *accountv1.Account, *descriptorpb.SourceCodeInfo) error { return nil }),
		}}
		c, err := grains.NewCatalog(kind.MustDefine())
		if err != nil {
			panic(err)
		}
		return c
	}(), table)
)

func event(key, typ string, payload []byte) *granaryv1.Event {
	return &granaryv1.Event{Grain: "box/" + key, Type: typ, Payload: &granaryv1.Event_Protobuf{Protobuf: payload}}
}

func wire(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGroups: whatever the events, each good one is in exactly one part, that of its shard, in the order of the batch; the
// others are refused; and a group used again is as good as new.
func TestGroups(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 4).Draw(t, "uses") {
			keys := rapid.SliceOfN(rapid.IntRange(-3, 40), 1, 60).Draw(t, "keys")
			first := rapid.SampledFrom([]uint64{0, 1, 1 << 40}).Draw(t, "first sequence")
			req := &intake.Request{FirstSequence: first}
			for i, k := range keys {
				e := event(fmt.Sprint(k), "Charged", nil)
				if k < 0 {
					e.Type = "Nothing"
				}
				e.Id = fmt.Sprint(i)
				req.Events = append(req.Events, e)
			}
			g := intake.NewGroup()
			if r := taker.Take(req, now, g); r != nil {
				t.Fatal(r)
			}
			checkGroup(t, g, keys, first)
			g.Release()
		}
	})
}

func checkGroup(t *rapid.T, g *intake.Group, keys []int, first uint64) {
	seen := map[int32]bool{}
	if !slices.IsSortedFunc(g.Parts, func(a, b *intake.Part) int { return int(a.Shard) - int(b.Shard) }) {
		t.Fatal("the parts are not in the order of the shards")
	}
	for _, p := range g.Parts {
		last := int32(-1)
		if len(p.Index) == 0 || len(p.Index) != len(p.Batch.Events) || p.Batch.Link != nil || p.Refused || p.Batch.Refused != 0 {
			t.Fatalf("%+v", p)
		}
		for i, at := range p.Index {
			e := p.Batch.Events[i]
			if seen[at] || at <= last || e.ID != fmt.Sprint(at) || e.Key != fmt.Sprint(keys[at]) || table.Shard("", "box", e.Key) != p.Shard || keys[at] < 0 {
				t.Fatalf("event %d of key %d is in shard %d as %+v", at, keys[at], p.Shard, e)
			}
			if want := first + uint64(at); first == 0 && e.Sequence != 0 || first != 0 && e.Sequence != want {
				t.Fatalf("event %d has sequence %d", at, e.Sequence)
			}
			seen[at], last = true, at
		}
		if cap(p.Batch.Results) != len(p.Index) {
			t.Fatal("no room for the results, or for others'")
		}
	}
	last := int32(-1)
	for _, r := range g.Refused {
		if keys[r.Index] >= 0 || r.Index <= last {
			t.Fatalf("event %d is refused: %v", r.Index, r.Refusal)
		}
		seen[r.Index], last = true, r.Index
	}
	if len(seen) != len(keys) || g.Len() != len(keys) {
		t.Fatalf("%d of %d events", len(seen), len(keys))
	}
}

// take1 takes one event and returns the reason of its refusal, or "".
func take1(t testing.TB, e *granaryv1.Event) (reason string, payload []byte, msg proto.Message) {
	t.Helper()
	g := intake.NewGroup()
	if r := taker.Take(&intake.Request{Events: []*granaryv1.Event{e}}, now, g); r != nil {
		return r.Reason, nil, nil
	}
	if len(g.Refused) > 0 {
		return g.Refused[0].Refusal.Reason, nil, nil
	}
	out := g.Parts[0].Batch.Events[0]
	return "", out.Payload, out.Message
}

// TestPayloadIsKeptAsItCame: what was hashed and what is journaled are the client's own bytes, with what this binary does
// not know.
func TestPayloadIsKeptAsItCame(t *testing.T) {
	payload := append(wire(t, &accountv1.Charged{TransactionId: "t"}), 0xfa, 0x01, 1, 'x', 0x18, 0x80, 0x00) // field 31, and a long 0
	reason, kept, msg := take1(t, event("1", "Charged", payload))
	if reason != "" || &kept[0] != &payload[0] || !bytes.Equal(kept, payload) || msg.(*accountv1.Charged).TransactionId != "t" {
		t.Errorf("%s %x %v", reason, kept, msg)
	}
}

// TestKeysLeaveTheRequest: a grain may stay in memory under its key for long, and a request of megabytes must not stay
// with it.
func TestKeysLeaveTheRequest(t *testing.T) {
	e := event("some-key", "Charged", nil)
	g := intake.NewGroup()
	if r := taker.Take(&intake.Request{Events: []*granaryv1.Event{e}}, now, g); r != nil {
		t.Fatal(r)
	}
	if key := g.Parts[0].Batch.Events[0].Key; key != "some-key" || unsafe.StringData(key) == unsafe.StringData(e.Grain[len("box/"):]) {
		t.Errorf("%q is a part of the request", key)
	}
}

// TestJSONAndProtobufAreOneEvent: which form a client takes makes no difference to a shard.
func TestJSONAndProtobufAreOneEvent(t *testing.T) {
	for _, m := range []proto.Message{
		&accountv1.Charged{TransactionId: "t", AmountCents: math.MaxInt64},
		&structpb.Struct{Fields: map[string]*structpb.Value{"b": structpb.NewNumberValue(1e300), "a": structpb.NewBoolValue(true), "c": structpb.NewNullValue()}},
		&descriptorpb.UninterpretedOption{DoubleValue: proto.Float64(1.5), StringValue: []byte{0xff}, NegativeIntValue: proto.Int64(-1)},
	} {
		text, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		s := &structpb.Struct{}
		if err := protojson.Unmarshal(text, s); err != nil {
			t.Fatal(err)
		}
		name := string(m.ProtoReflect().Descriptor().FullName())
		reason, payload, msg := take1(t, &granaryv1.Event{Grain: "box/1", Type: name, Payload: &granaryv1.Event_Json{Json: s}})
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if reason != "" || !bytes.Equal(payload, want) || !proto.Equal(msg, m) {
			t.Errorf("%s: %s %x %v", name, reason, payload, msg)
		}
	}
}

func TestNumbersThatAreNone(t *testing.T) {
	inf := float32(math.Inf(1))
	for name, c := range map[string]struct {
		m   proto.Message
		typ string
	}{
		"float":          {wrapperspb.Float(float32(math.NaN())), "FloatValue"},
		"float infinity": {wrapperspb.Float(-inf), "FloatValue"},
		"double":         {&descriptorpb.UninterpretedOption{DoubleValue: proto.Float64(math.Inf(1))}, "UninterpretedOption"},
		"in a map":       {&structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewNumberValue(math.NaN())}}, "Struct"},
	} {
		if reason, _, _ := take1(t, event("1", c.typ, wire(t, c.m))); reason != "NOT_A_NUMBER" {
			t.Errorf("%s: %q", name, reason)
		}
	}
	if reason, _, _ := take1(t, event("1", "FloatValue", wire(t, wrapperspb.Float(math.MaxFloat32)))); reason != "" {
		t.Error(reason)
	}
	// Integers that are packed are no floats, whatever their bits.
	path := []int32{-1, math.MaxInt32, 0x7fc00000}
	if reason, _, _ := take1(t, event("1", "SourceCodeInfo", wire(t, &descriptorpb.SourceCodeInfo{Location: []*descriptorpb.SourceCodeInfo_Location{{Path: path}}}))); reason != "" {
		t.Error(reason)
	}
}

// levels is a Struct whose JSON nests n levels, itself the first.
func levels(n int) *structpb.Struct {
	s := &structpb.Struct{}
	for i := 1; i < n; i++ {
		v := structpb.NewStructValue(s)
		if i%2 == 0 && i+1 < n {
			i++
			v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
		}
		s = &structpb.Struct{Fields: map[string]*structpb.Value{"a": v}}
	}
	return s
}

// TestCutDeep: JSON is cut out exactly where it nests deeper than allowed, and nothing else of the event changes.
func TestCutDeep(t *testing.T) {
	for n := 1; n <= 3*intake.MaxNesting; n++ {
		e := &granaryv1.Event{Grain: "box/1", Type: "Charged", Id: "x", Payload: &granaryv1.Event_Json{Json: levels(n)}}
		b := wire(t, e)
		if got, want := intake.CutDeep(b), n > intake.MaxNesting; got != want {
			t.Fatalf("%d levels: cut %v", n, got)
		}
		out := &granaryv1.Event{}
		if err := proto.Unmarshal(b, out); err != nil {
			t.Fatal(err)
		}
		if n > intake.MaxNesting {
			if out.Payload != nil {
				t.Fatalf("%d levels are still there", n)
			}
			out.ProtoReflect().SetUnknown(nil)
			e.Payload = nil
		}
		if !proto.Equal(out, e) {
			t.Fatalf("%d levels: %v", n, out)
		}
	}
	if intake.CutDeep(wire(t, event("1", "Charged", bytes.Repeat([]byte{0x4a}, 1000)))) {
		t.Error("a payload that looks like JSON was cut")
	}
	for _, b := range [][]byte{nil, {0x4a}, {0x4a, 0x05, 1}, {0xff, 0xff}, {0x4b}} {
		if intake.CutDeep(b) {
			t.Errorf("%x was cut", b)
		}
	}
}

func TestDeepEventsAreRefusedAlone(t *testing.T) {
	good := event("1", "Charged", nil)
	g := intake.NewGroup()
	if r := taker.Take(&intake.Request{Events: []*granaryv1.Event{good, {Grain: "box/1", Type: "Charged"}, good}, Deep: []int32{1}}, now, g); r != nil {
		t.Fatal(r)
	}
	if len(g.Refused) != 1 || g.Refused[0].Index != 1 || g.Refused[0].Refusal.Reason != "NESTED_TOO_DEEP" || g.Len() != 3 {
		t.Errorf("%+v", g.Refused)
	}
}

// TestShardMustAnswerForAll: a shard that forgets an event is a bug that must not look like an acknowledgement.
func TestShardMustAnswerForAll(t *testing.T) {
	g := intake.NewGroup()
	if r := taker.Take(&intake.Request{Events: []*granaryv1.Event{event("1", "Charged", nil), event("1", "Charged", nil)}}, now, g); r != nil {
		t.Fatal(r)
	}
	defer func() {
		if recover() == nil {
			t.Error("nobody noticed")
		}
	}()
	p := g.Parts[0]
	p.Batch.Results = p.Batch.Results[:1]
	p.Results()
}

func BenchmarkTake(b *testing.B) {
	req := &intake.Request{}
	for i := range 100 {
		req.Events = append(req.Events, event(fmt.Sprintf("%010d", i*7919), "Charged", wire(b, &accountv1.Charged{TransactionId: fmt.Sprintf("tx-%09d", i), Merchant: "m00042", AmountCents: 1234})))
	}
	b.ReportAllocs()
	for range b.N {
		g := intake.NewGroup()
		if r := taker.Take(req, now, g); r != nil {
			b.Fatal(r)
		}
		g.Release()
	}
}
