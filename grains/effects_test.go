package grains_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/grains"
)

// one runs a handler once, as record 7 of sum/a at the 5th microsecond.
func one(t *testing.T, fn func(t *grains.Turn, s, e *number) error) grains.Outcome {
	t.Helper()
	d, err := grains.Kind[*number]{Name: "sum", Version: 1, Handlers: handlers(grains.On(fn)), Streams: []string{"sums", "a.b-c_1"}}.Define()
	if err != nil {
		t.Fatal(err)
	}
	e, _ := d.Event("Int64Value")
	var r grains.Runner
	return r.Run(e, grains.Input{Grain: grains.Ref{Kind: "sum", Key: "a"}, Seq: 7, Now: 5}, d.NewState(), wrapperspb.Int64(1))
}

func TestEffects(t *testing.T) {
	var ids []uint64
	var token string
	out := one(t, func(t *grains.Turn, _, e *number) error {
		t.Send("sum/b", e)
		ids = append(ids, t.After(time.Second+time.Nanosecond, e), t.At(t.Now().Add(-time.Hour), e), t.Every(time.Minute, e))
		t.Cancel(ids[0])
		t.Publish("sums", wrapperspb.String("x"))
		token = t.Defer()
		t.Answer("other/k#1#12", wrapperspb.String("y"))
		return nil
	})
	if out.Err != nil || out.Reply != nil || token != "sum/a#7" {
		t.Fatalf("%v, reply %x, token %q", out.Err, out.Reply, token)
	}
	var got []string
	for _, e := range out.Effects {
		got = append(got, fmt.Sprintf("%d %v %s %d %d %d %s %s", e.Kind, e.To, e.Type, e.Due, e.Every, e.Timer, e.Stream, e.Token))
	}
	const i64, str = "google.protobuf.Int64Value", "google.protobuf.StringValue"
	want := []string{
		"0 sum/b " + i64 + " 0 0 0  ",
		"1 / " + i64 + " 1000006 0 7169  ", // rounded up: never early
		"1 / " + i64 + " 5 0 7170  ",
		"1 / " + i64 + " 60000005 60000000 7171  ",
		"2 /  0 0 7169  ",
		"3 / " + str + " 0 0 0 sums ",
		"4 /  0 0 0  ",
		"0 other/k#1 " + str + " 0 0 0  other/k#1#12",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || ids[0] != 7169 || ids[2] != 7171 {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReply(t *testing.T) {
	out := one(t, func(t *grains.Turn, _, _ *number) error { t.Reply(wrapperspb.String("hello")); return nil })
	a := &anypb.Any{}
	if err := proto.Unmarshal(out.Reply, a); err != nil {
		t.Fatal(err)
	}
	if m, err := a.UnmarshalNew(); err != nil || !proto.Equal(m, wrapperspb.String("hello")) || len(out.Effects) != 0 {
		t.Errorf("%v, %v", m, err)
	}
}

// TestEffectsRefused: what makes no sense is told at once, as an error of the handler.
func TestEffectsRefused(t *testing.T) {
	msg := wrapperspb.String("x")
	for want, fn := range map[string]func(t *grains.Turn, e *number){
		"no handler for google.protobuf.StringValue": func(t *grains.Turn, _ *number) { t.After(time.Hour, msg) },
		"After: -1ns is not from 0":                  func(t *grains.Turn, e *number) { t.After(-1, e) },
		"At: ":                                       func(t *grains.Turn, e *number) { t.At(t.Now().Add(200*366*24*time.Hour), e) },
		"Every: 999ms is less than a second":         func(t *grains.Turn, e *number) { t.Every(999*time.Millisecond, e) },
		`does not name the stream "other"`:           func(t *grains.Turn, _ *number) { t.Publish("other", msg) },
		"Reply: the turn has replied or deferred":    func(t *grains.Turn, _ *number) { t.Reply(msg); t.Reply(msg) },
		"Defer: the turn has replied or deferred":    func(t *grains.Turn, _ *number) { t.Reply(msg); t.Defer() },
		`"sum/a" is not a reply token`:               func(t *grains.Turn, _ *number) { t.Answer("sum/a", msg) },
		`"sum/a#" is not a reply token`:              func(t *grains.Turn, _ *number) { t.Answer("sum/a#", msg) },
		`"sum/a#01" is not a reply token`:            func(t *grains.Turn, _ *number) { t.Answer("sum/a#01", msg) },
		`"sum#1" is not a reply token`:               func(t *grains.Turn, _ *number) { t.Answer("sum#1", msg) },
		"Publish: a turn may have at most 1024": func(t *grains.Turn, _ *number) {
			for range 1025 {
				t.Publish("sums", msg)
			}
		},
	} {
		out := one(t, func(t *grains.Turn, _, e *number) error { fn(t, e); return nil })
		if out.Err == nil || !strings.Contains(out.Err.Error(), want) || out.Effects != nil || out.Reply != nil {
			t.Errorf("%v, want %q", out.Err, want)
		}
	}
}

func TestQuery(t *testing.T) {
	twice := grains.Query(func(v *grains.View, s *number, q *word) (*word, error) {
		switch q.Value {
		case "no":
			return nil, grains.Reject("not that")
		case "nothing":
			return nil, nil
		case "panic":
			panic("oh")
		}
		return wrapperspb.String(fmt.Sprint(v.Grain, v.Seq, s.Value)), nil
	})
	d, err := grains.Kind[*number]{Name: "sum", Version: 1, Handlers: handlers(by(1), twice)}.Define()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Event("StringValue"); ok {
		t.Error("a query is taken for an event")
	}
	q, ok := d.Query("StringValue")
	if other, also := d.Query("google.protobuf.StringValue"); !ok || !also || other != q || q.Reply.Name != "google.protobuf.StringValue" {
		t.Fatalf("%v, %v", q, other)
	}
	ask := func(s string) (proto.Message, error) {
		return q.Ask(&grains.View{Grain: grains.Ref{Kind: "sum", Key: "a"}, Seq: 3}, wrapperspb.Int64(5), wrapperspb.String(s))
	}
	if got, err := ask(""); err != nil || !proto.Equal(got, wrapperspb.String("sum/a 3 5")) {
		t.Errorf("%v, %v", got, err)
	}
	for s, want := range map[string]string{"no": "not that", "nothing": "has no answer", "panic": "panicked: oh"} {
		if got, err := ask(s); err == nil || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("%v, %v, want %q", got, err, want)
		}
	}
}

func TestDefineRefusesQueriesAndStreams(t *testing.T) {
	ask := grains.Query(func(*grains.View, *number, *word) (*word, error) { return nil, nil })
	for want, k := range map[string]grains.Kind[*number]{
		"two queries are called StringValue": {Name: "sum", Version: 1, Handlers: handlers(by(1), ask, ask)},
		"no handlers of events":              {Name: "sum", Version: 1, Handlers: handlers(ask)},
		`"a b" is no name for a stream`:      {Name: "sum", Version: 1, Handlers: handlers(by(1)), Streams: []string{"a b"}},
		`"a" is no name for a stream`:        {Name: "sum", Version: 1, Handlers: handlers(by(1)), Streams: []string{"a", "a"}},
	} {
		if _, err := k.Define(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
