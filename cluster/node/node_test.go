package node_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/grains/catalog"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
)

// charge is an event for an account.
func charge(t testing.TB, account, id, merchant string, cents int64) actors.Event {
	t.Helper()
	kind, _ := catalog.Builtin().Kind("account")
	typ, _ := kind.Event("Charged")
	msg := &accountv1.Charged{TransactionId: id, Merchant: merchant, AmountCents: cents}
	payload, err := typ.Append(nil, msg)
	if err != nil {
		t.Fatal(err)
	}
	return actors.Event{Kind: kind, Key: account, Type: typ, Message: msg, Payload: payload, ID: id, Source: "test"}
}

// publish hands events in one by one, all at once, and waits for their results.
func publish(t testing.TB, n *node.Node, events ...actors.Event) []actors.Result {
	t.Helper()
	done := make(chan *actors.Batch, len(events))
	batches := make([]*actors.Batch, len(events))
	for i, e := range events {
		batches[i] = &actors.Batch{Events: []actors.Event{e}, Done: func(b *actors.Batch) { done <- b }}
		if err := n.Publish(context.Background(), n.Table().Shard("", e.Kind.Name, e.Key), batches[i], true); err != nil {
			t.Fatal(err)
		}
	}
	for range events {
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("no answer within 10 s")
		}
	}
	var results []actors.Result
	for _, b := range batches {
		if b.Refused != actors.Folded {
			t.Fatalf("refused: %v: %s", b.Refused, b.Why)
		}
		results = append(results, b.Results...)
	}
	return results
}

func get(t testing.TB, n *node.Node, kindName, key string) *actors.Get {
	t.Helper()
	kind, _ := catalog.Builtin().Kind(kindName)
	g := &actors.Get{Kind: kind, Key: key}
	done := make(chan struct{})
	r := &actors.Read{Get: g, Done: func(*actors.Read) { close(done) }}
	if err := n.Read(n.Table().Shard("", kindName, key), r); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("no answer within 10 s")
	}
	if r.Failed != actors.Folded {
		t.Fatalf("%v: %s", r.Failed, r.Why)
	}
	return g
}

func start(t testing.TB, fs vfs.FS) *node.Node {
	t.Helper()
	n, err := node.Start(context.Background(), node.Options{DataDir: "data", FS: fs, Catalog: catalog.Builtin()})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEventsAreFoldedSentOnAndKept(t *testing.T) {
	fs := vfs.NewMem()
	n := start(t, fs)
	var events []actors.Event
	for i := range 1000 {
		events = append(events, charge(t, fmt.Sprintf("a%d", i%50), fmt.Sprintf("tx%d", i), fmt.Sprintf("m%d", i%7), int64(100+i)))
	}
	for i, r := range publish(t, n, events...) {
		if r.Outcome != actors.Folded || r.Duplicate {
			t.Fatalf("event %d: %+v", i, r)
		}
	}
	check := func() {
		t.Helper()
		var cents, seen int64
		for i := range 50 {
			var a accountv1.Account
			if err := a.UnmarshalVT(get(t, n, "account", fmt.Sprintf("a%d", i)).State); err != nil {
				t.Fatal(err)
			}
			if a.Count != 20 {
				t.Fatalf("account a%d has %d transactions, want 20", i, a.Count)
			}
			cents += a.Cents
		}
		for i := range 7 {
			var m merchantv1.Merchant
			if err := m.UnmarshalVT(get(t, n, "merchant", fmt.Sprintf("m%d", i)).State); err != nil {
				t.Fatal(err)
			}
			seen += m.Cents
		}
		if want := int64(1000*100 + 999*1000/2); cents != want || seen != want {
			t.Fatalf("accounts hold %d cents, merchants %d, want %d", cents, seen, want)
		}
	}
	if err := n.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	check()
	n.Kill()

	n = start(t, fs)
	for i, r := range publish(t, n, events[:100]...) {
		if !r.Duplicate || r.Seq == 0 {
			t.Fatalf("event %d published again: %+v", i, r)
		}
	}
	if err := n.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	check()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = start(t, fs)
	check()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}
