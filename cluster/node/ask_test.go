package node_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/grains/catalog"
	"github.com/granary-dev/granary/persistence/entry"
	"github.com/granary-dev/granary/persistence/verify"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// question is an ask of a probe that leaves the reply to another.
func question(t testing.TB, key, id, to string) actors.Event {
	t.Helper()
	kind, _ := catalog.Builtin().Kind("probe")
	typ, _ := kind.Event("Question")
	msg := &probev1.Question{Value: 7, To: to}
	payload, err := typ.Append(nil, msg)
	if err != nil {
		t.Fatal(err)
	}
	return actors.Event{Kind: kind, Key: key, Type: typ, Message: msg, Payload: payload, ID: id, Source: "test"}
}

// askOf hands an ask in and does not wait for its reply.
func askOf(t testing.TB, n *node.Node, e actors.Event) *waiting {
	t.Helper()
	w := &waiting{Batch: &actors.Batch{Ask: true, Events: []actors.Event{e}}, done: make(chan struct{})}
	w.Done = func(*actors.Batch) {
		if w.n.Add(1) == 1 {
			close(w.done)
		}
	}
	if err := n.Publish(context.Background(), n.Table().Shard("", e.Kind.Name, e.Key), w.Batch, true); err != nil {
		t.Fatal(err)
	}
	return w
}

// replyTo is the reply that an ask got; nil if it got none.
func replyTo(t testing.TB, w *waiting) *probev1.Reply {
	t.Helper()
	w.wait(t)
	if w.Refused != actors.Folded || w.Results[0].Reply == nil {
		return nil
	}
	var a anypb.Any
	out := &probev1.Reply{}
	if err := proto.Unmarshal(w.Results[0].Reply, &a); err != nil {
		t.Fatal(err)
	}
	if err := a.UnmarshalTo(out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestAskAgainAfterACrash: power fails at any moment between a question and its reply. Asking again with the same id gives
// the one reply that there is: the question has one turn, and its answer is given once.
func TestAskAgainAfterACrash(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	cut := map[string]int{}
	for round := range 40 {
		fs := vfs.NewCrashableMem()
		n := startWith(t, node.Options{FS: fs})
		asker, replier := keyOn(n, "probe", 1), keyOn(n, "probe", 3)
		e := question(t, asker, "id", replier)
		first := askOf(t, n, e)
		time.Sleep(time.Duration(random.IntN(900)) * time.Microsecond)
		var before *probev1.Reply
		select {
		case <-first.done:
			before = replyTo(t, first)
		default:
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: random})
		n.Kill()

		n = startWith(t, node.Options{FS: crashed})
		again := askOf(t, n, e)
		reply := replyTo(t, again)
		if reply == nil || reply.By != replier || reply.Count != 1 || again.Results[0].Seq != 1 {
			t.Fatalf("round %d: %v %v: %+v", round, reply, again.Why, again.Results)
		}
		switch {
		case before != nil && !proto.Equal(before, reply):
			t.Fatalf("round %d: the reply was %v, and is %v", round, before, reply)
		case before != nil:
			cut["behind the reply"]++
		case again.Results[0].Duplicate:
			cut["before the reply"]++
		default:
			cut["before the question"]++
		}
		for _, key := range []string{asker, replier} {
			h := &actors.History{Kind: e.Kind, Key: key, Limit: 10}
			done := make(chan struct{})
			if err := n.Read(n.Table().Shard("", "probe", key), &actors.Read{History: h, Done: func(*actors.Read) { close(done) }}); err != nil {
				t.Fatal(err)
			}
			if <-done; len(h.Records) != 1 || h.Records[0].Type != entry.Input {
				t.Fatalf("round %d: %s has %d records", round, key, len(h.Records))
			}
		}
		if err := n.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := verify.Run(t.Context(), verify.Options{Dir: "data", FS: crashed, Catalog: catalog.Builtin()})
		if err != nil || r.Total != 0 || r.Records["answer"] != 1 {
			t.Fatalf("round %d: %v: %+v", round, err, r)
		}
	}
	t.Log(cut)
	if cut["before the reply"] == 0 || cut["behind the reply"] == 0 {
		t.Errorf("power did not fail at different moments: %v", cut)
	}
}

// TestCloseWhileAsking: those who wait for a reply do not keep a node from draining, and are told to ask again.
func TestCloseWhileAsking(t *testing.T) {
	n := startWith(t, node.Options{FS: vfs.NewMem()})
	asker := keyOn(n, "probe", 1)
	var all []*waiting
	for i := range 50 {
		all = append(all, askOf(t, n, question(t, asker, fmt.Sprint(i), keyOn(n, "probe", uint64(1+i%4)))))
	}
	if err := n.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for i, w := range all {
		if w.wait(t); w.Refused != actors.Folded && w.Refused != actors.Unavailable || w.Refused == actors.Folded && replyTo(t, w) == nil {
			t.Errorf("%d: %v %s", i, w.Refused, w.Why)
		}
	}
}

// TestAskThroughTheDoor: an account leaves the decision to a merchant, by the Go client and the whole stack.
func TestAskThroughTheDoor(t *testing.T) {
	p, err := node.Serve(t.Context(), node.ProcessOptions{Options: node.Options{DataDir: "data", FS: vfs.NewMem(), Shards: 8, Catalog: catalog.Builtin(),
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := client.Dial(p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			var d accountv1.Decision
			r, err := client.Ask(t.Context(), conn, fmt.Sprint("account/a", i%5), &accountv1.Authorize{TransactionId: fmt.Sprint(i), Merchant: fmt.Sprint("m", i%3), AmountCents: 5}, &d)
			if err != nil || !d.Approved || r.GetSeq() == 0 {
				t.Errorf("%v %v %v", r, &d, err)
			}
		})
	}
	wg.Wait()
	var profile accountv1.ProfileReply
	if q, err := client.Query(t.Context(), conn, "account/a1", &accountv1.Profile{}, &profile); err != nil || q.GetSeq() != 8 || profile.Count != 0 {
		t.Errorf("%v %v %v", q, &profile, err)
	}
	_ = conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// BenchmarkAsk measures how long a decision takes that spans two grains, from the intended start of the call by the Go
// client to its reply: 1,000 a second, alone and beside 20,000 other events a second.
func BenchmarkAsk(b *testing.B) {
	for _, beside := range []int{0, 20_000} {
		b.Run(fmt.Sprintf("beside=%d", beside), func(b *testing.B) { benchmarkAsk(b, beside) })
	}
}

func benchmarkAsk(b *testing.B, beside int) {
	p, err := node.Serve(context.Background(), node.ProcessOptions{Options: node.Options{DataDir: b.TempDir(), Catalog: catalog.Builtin(),
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}, Listen: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	conn, err := client.Dial(p.Addr())
	if err != nil {
		b.Fatal(err)
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	if beside > 0 {
		producer, err := client.NewProducer(conn, client.ProducerOptions{})
		if err != nil {
			b.Fatal(err)
		}
		others.Go(func() { publishBeside(b, producer, beside, stop) })
	}
	const rate = 1000
	took := make([]time.Duration, b.N)
	var wg sync.WaitGroup
	b.ResetTimer()
	start := time.Now()
	for i := range took {
		due := start.Add(time.Duration(i) * time.Second / rate)
		time.Sleep(time.Until(due))
		wg.Go(func() {
			var d accountv1.Decision
			if _, err := client.Ask(context.Background(), conn, fmt.Sprint("account/", i%10_000), &accountv1.Authorize{TransactionId: fmt.Sprint(i),
				Merchant: fmt.Sprint(i % 1000), AmountCents: 5}, &d); err != nil {
				b.Error(err)
			}
			took[i] = time.Since(due)
		})
	}
	wg.Wait()
	b.StopTimer()
	close(stop)
	others.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	_ = conn.Close()
	if err := p.Shutdown(context.Background()); err != nil {
		b.Error(err)
	}
}

// publishBeside publishes charges at a rate until it is stopped, in batches of 100.
func publishBeside(b *testing.B, producer *client.Producer, rate int, stop <-chan struct{}) {
	defer producer.Close()
	const batch = 100
	start := time.Now()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Until(start.Add(time.Duration(i) * batch * time.Second / time.Duration(rate)))):
		}
		var events []*granaryv1.Event
		for k := range batch {
			payload, err := proto.Marshal(&accountv1.Charged{TransactionId: fmt.Sprint(i, "-", k), Merchant: fmt.Sprint((i + k) % 1000), AmountCents: 5})
			if err != nil {
				b.Error(err)
			}
			events = append(events, &granaryv1.Event{Grain: fmt.Sprint("account/", (i*batch+k)%10_000), Type: "Charged", Payload: &granaryv1.Event_Protobuf{Protobuf: payload}})
		}
		if err := producer.PublishBatch(context.Background(), events, func(client.BatchResult) {}); err != nil {
			b.Error(err)
			return
		}
	}
}
