package gateway_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func (n *node) publish(t testing.TB, events ...*granaryv1.Event) []*granaryv1.Result {
	t.Helper()
	res, err := n.events.Publish(t.Context(), &granaryv1.PublishRequest{Events: events})
	if err != nil {
		t.Fatalf("%v: %+v", err, grpcFailure(err))
	}
	if len(res.Results) != len(events) {
		t.Fatalf("%d results for %d events", len(res.Results), len(events))
	}
	return res.Results
}

func TestPublishAnswersInOrder(t *testing.T) {
	n := start(t)
	var events []*granaryv1.Event
	for i := range 100 {
		events = append(events, charged(fmt.Sprintf("box/%d", i%10), fmt.Sprint(i), int64(i)))
	}
	events[33] = charged("box/3", "33", -1)
	events[44] = event("box/4", "Charged", "44", &accountv1.Charged{TransactionId: "panic"})
	for i, r := range n.publish(t, events...) {
		if want := uint64(i/10 + 1); r.Seq != want || r.Position == "" || !r.Deduplicated || r.Duplicate {
			t.Errorf("result %d: %v", i, r)
		}
		f := failureOf(r.Status)
		switch {
		case i == 33 && f.code == codes.FailedPrecondition && f.reason == "REJECTED" && f.retry == 0:
		case i == 44 && f.code == codes.Internal && f.reason == "DEAD_LETTERED" && f.retry == 0:
		case i != 33 && i != 44 && r.Status == nil:
		default:
			t.Errorf("result %d: %+v", i, f)
		}
	}
}

func TestPublishTwice(t *testing.T) {
	n := start(t)
	first := n.publish(t, charged("box/1", "a", 5), charged("box/1", "", 5))
	if !first[0].Deduplicated || first[1].Deduplicated {
		t.Errorf("deduplicated: %v", first)
	}
	again := n.publish(t, charged("box/1", "a", 5), charged("box/1", "a", 6), charged("box/1", "", 5))
	if r := again[0]; !r.Duplicate || r.Seq != first[0].Seq || r.Position != first[0].Position || r.Status != nil {
		t.Errorf("the same again: %v, first was %v", r, first[0])
	}
	if f := failureOf(again[1].Status); f.code != codes.AlreadyExists || f.reason != "ID_CONFLICT" {
		t.Errorf("same id, other body: %+v", f)
	}
	if r := again[2]; r.Duplicate || r.Seq != 3 {
		t.Errorf("without id: %v", r)
	}
}

func TestPublishByJSON(t *testing.T) {
	n := start(t)
	var res granaryv1.PublishResponse
	body := `{"events":[{"grain":"box/a/b","type":"Charged","id":"1","source":"//shop","time":"2026-11-20T11:00:00Z",
		"headers":{"traceparent":"00-x"},"json":{"transactionId":"t","amountCents":"250","merchant":"m"}}]}`
	if f := n.post(t, publishPath, body, &res); f.code != codes.OK {
		t.Fatalf("%+v", f)
	}
	if r := res.Results[0]; r.Seq != 1 || r.Status != nil || !r.Deduplicated {
		t.Errorf("%v", r)
	}
	// The same event as protobuf is the same event: JSON is journaled in deterministic wire form.
	same := event("box/a/b", "granary.account.v1.Charged", "1", &accountv1.Charged{TransactionId: "t", AmountCents: 250, Merchant: "m"})
	same.Source = "//shop"
	if r := n.publish(t, same)[0]; !r.Duplicate || r.Status != nil {
		t.Errorf("%v", r)
	}
}

func TestShardsThatDoNotTakeEvents(t *testing.T) {
	n := start(t)
	var all []*granaryv1.Event
	for i := range 64 {
		all = append(all, charged(fmt.Sprintf("box/%d", i), fmt.Sprint(i), 1))
	}
	bad := n.table.Shard("", "box", "0")
	for _, c := range []struct {
		name   string
		err    error
		refuse actors.Outcome
		code   codes.Code
		reason string
		retry  bool
	}{
		{"no room", routing.ErrOverloaded, 0, codes.ResourceExhausted, "SHARD_OVERLOADED", true},
		{"stopping", routing.ErrStopping, 0, codes.Unavailable, "NODE_STOPPING", true},
		{"damaged", routing.ErrDamaged, 0, codes.Unavailable, "STORE_DAMAGED", true},
		{"disk full", fmt.Errorf("shard 3: %w", routing.ErrDiskFull), 0, codes.ResourceExhausted, "DISK_FULL", true},
		{"bug", fmt.Errorf("what?"), 0, codes.Internal, "INTERNAL_ERROR", false},
		{"no leader", nil, actors.Unavailable, codes.Unavailable, "SHARD_UNAVAILABLE", true},
		{"overloaded", nil, actors.Overloaded, codes.ResourceExhausted, "SHARD_OVERLOADED", true},
		{"corrupt", nil, actors.Corrupt, codes.DataLoss, "JOURNAL_CORRUPT", false},
		{"logic missing", nil, actors.LogicMissing, codes.FailedPrecondition, "LOGIC_MISSING", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.set(func(m *memory) {
				m.err = func(shard uint64) error {
					if shard == bad {
						return c.err
					}
					return nil
				}
				m.refuse = func(shard uint64, b *actors.Batch) {
					if shard == bad {
						b.Refused, b.Why = c.refuse, "as told"
					}
				}
			})
			right := func(f failure) bool {
				return f.code == c.code && f.reason == c.reason && (f.retry > 0) == c.retry && f.infos == 1
			}
			refused := 0
			for i, r := range n.publish(t, all...) {
				if n.table.Shard("", "box", fmt.Sprint(i)) != bad {
					if r.Status != nil {
						t.Errorf("event %d of another shard: %v", i, r)
					}
					continue
				}
				if f := failureOf(r.Status); !right(f) || !r.Deduplicated || r.Seq != 0 {
					t.Errorf("event %d: %+v", i, f)
				}
				refused++
			}
			if refused == 0 {
				t.Fatal("no event of the shard")
			}
			// Nothing taken at all: then the call fails, for the retry policies of clients.
			_, err := n.events.Publish(t.Context(), &granaryv1.PublishRequest{Events: all[:1]})
			if f := grpcFailure(err); !right(f) {
				t.Errorf("alone: %+v", f)
			}
			if f := n.post(t, publishPath, publishBody(all[0]), nil); !right(f) {
				t.Errorf("alone, by JSON: %+v", f)
			}
		})
	}
}

func TestPublishCanceled(t *testing.T) {
	n := start(t)
	n.set(func(m *memory) { m.hold = true })
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := n.events.Publish(ctx, &granaryv1.PublishRequest{Events: []*granaryv1.Event{charged("box/1", "a", 1), charged("box/2", "b", 1)}})
		failed <- err
	}()
	eventually(t, "both shards have their part", func() bool { return n.waiting() == 2 })
	cancel()
	if err := <-failed; status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	n.release() // answers to nobody
	n.publish(t, charged("box/1", "c", 1))
}

func TestPublishDeadline(t *testing.T) {
	n := start(t)
	n.set(func(m *memory) { m.hold = true })
	req := `{"events":[{"grain":"box/1","type":"Empty","json":{}}]}`
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := n.events.Publish(ctx, &granaryv1.PublishRequest{Events: []*granaryv1.Event{charged("box/1", "a", 1)}})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	n.web.Timeout = 20 * time.Millisecond
	if _, err := n.web.Post("http://"+n.addr+publishPath, "application/json", reader(req)); err == nil {
		t.Error("answered although the shard held it")
	}
}

func TestInFlightIsBounded(t *testing.T) {
	n := start(t, func(o *gateway.Options) { o.Limits.InFlight = 16 << 20 })
	n.set(func(m *memory) { m.hold = true })
	large := event("box/1", "Charged", "", &accountv1.Charged{TransactionId: string(make([]byte, 4<<20-100))})
	done := make(chan error, 3)
	for range 3 {
		go func() {
			_, err := n.events.Publish(t.Context(), &granaryv1.PublishRequest{Events: []*granaryv1.Event{large}})
			done <- err
		}()
	}
	eventually(t, "three are in flight", func() bool { return n.waiting() == 3 })
	for range 2 {
		_, err := n.events.Publish(t.Context(), &granaryv1.PublishRequest{Events: []*granaryv1.Event{large}})
		if f := grpcFailure(err); f.reason != "GATEWAY_OVERLOADED" || f.code != codes.ResourceExhausted || f.retry == 0 {
			t.Errorf("over the limit: %+v", f)
		}
	}
	n.release()
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	n.publish(t, large)
}

func TestTimes(t *testing.T) {
	n := start(t)
	for i, at := range []*timestamppb.Timestamp{nil, {}, {Seconds: 1, Nanos: 5}, timestamppb.New(now.Add(5 * time.Minute))} {
		e := charged("box/times", fmt.Sprint(i), 1)
		e.Time = at
		n.publish(t, e)
	}
	n.set(func(m *memory) {
		for i, want := range []int64{0, 1, 1_000_000_005, now.Add(5 * time.Minute).UnixNano()} {
			if got := m.grains["box/times"].records[i].EventTime; got != want {
				t.Errorf("event %d has time %d, want %d", i, got, want)
			}
		}
	})
}

// eventually waits for what another goroutine is about to do.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came about that %s", what)
		}
	}
}
