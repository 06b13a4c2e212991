package driver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/granary-dev/granary/loadtest/ledger"
	"github.com/granary-dev/granary/loadtest/transactions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRunAndLedger: a whole feed through streams that break, and the ledger after it.
func TestRunAndLedger(t *testing.T) {
	for name, breakEvery := range map[string]int{"calm": 0, "breaking": 7} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCluster()
			f.breakEvery = breakEvery
			conns := f.serve(t)
			want := count(generated(5))
			var last Progress
			r, err := Run(t.Context(), Transactions(generated(5)), Options{Conns: conns, Streams: 3, Batch: 20}, func(p Progress) { last = p })
			if err != nil {
				t.Fatal(err)
			}
			if r.Sent != want || r.Acknowledged != want || r.Unknown+r.Refused != 0 || r.Rate <= 0 || r.Latency.P50 <= 0 ||
				r.Latency.Max < r.Latency.P999 || r.Late != 0 {
				t.Errorf("want %d events, got %+v", want, r)
			}
			if broken := breakEvery > 0; broken != (r.Reconnects > 0) || broken != (r.Duplicates > 0) {
				t.Errorf("%d reconnects, %d duplicates", r.Reconnects, r.Duplicates)
			}
			if last.Acknowledged != want || last.Reconnects != r.Reconnects {
				t.Errorf("last progress %+v", last)
			}
			l, err := ledger.Check(t.Context(), conns[0], r.Ledger, ledger.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if !l.OK() || l.Folded != want || l.Passed != want || l.Sent != want {
				t.Errorf("ledger %+v", l)
			}
			if text, err := json.Marshal(r); err != nil || strings.Contains(string(text), "Ledger") {
				t.Errorf("%s, %v", text, err)
			}
		})
	}
}

// TestLedgerNoticesLoss: a cluster that lies is caught by what the run noted.
func TestLedgerNoticesLoss(t *testing.T) {
	f := newFakeCluster()
	f.lose = true
	conns := f.serve(t)
	r, err := Run(t.Context(), Transactions(generated(3)), Options{Conns: conns, Streams: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Check(t.Context(), conns[0], r.Ledger, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if l.OK() || l.Missing != r.Sent/100 {
		t.Errorf("of %d events sent a hundredth is lost; the ledger says %d", r.Sent, l.Missing)
	}
}

// TestRate: the intended times hold, and with them the number of events.
func TestRate(t *testing.T) {
	conns := newFakeCluster().serve(t)
	feed := transactions.Plain(transactions.Generate(transactions.Parameters{Customers: 100}))
	r, err := Run(t.Context(), Transactions(feed), Options{Conns: conns, Rate: 2_000, For: 500 * time.Millisecond, Batch: 10, Forget: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent < 500 || r.Sent > 1_000 || r.Ledger != nil {
		t.Errorf("sent %d events in half a second at 2,000/s", r.Sent)
	}
}

// TestStallShows: in an open loop a pause of the cluster is felt by all events that were due meanwhile, not by one batch.
func TestStallShows(t *testing.T) {
	f := newFakeCluster()
	f.pause = 300 * time.Millisecond
	feed := transactions.Plain(transactions.Generate(transactions.Parameters{Customers: 100}))
	r, err := Run(t.Context(), Transactions(feed), Options{
		Conns: f.serve(t), Rate: 1_000, For: 500 * time.Millisecond, Batch: 10, Streams: 1,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Latency.P50 < 20 || r.Latency.Max < 250 {
		t.Errorf("a pause of 300 ms within 500 ms went unnoticed: %+v", r.Latency)
	}
}

// TestOutcomes: what was refused is counted by what was said, and the ledger knows what to expect of it.
func TestOutcomes(t *testing.T) {
	for name, test := range map[string]struct {
		refuse error
		key    string
	}{
		"rejected": {rejection(), "FailedPrecondition REJECTED"},
		"refused":  {status.Error(codes.InvalidArgument, "no"), "InvalidArgument"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCluster()
			f.negative = test.refuse
			conns := f.serve(t)
			feed := &list{err: io.EOF}
			for n := range 10 {
				feed.transactions = append(feed.transactions, transactions.Transaction{ID: uint64(n), Cents: int64(n % 5)})
			}
			r, err := Run(t.Context(), Transactions(transactions.Plain(feed)), Options{Conns: conns}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Sent != 10 || r.Acknowledged != 8 || r.Refused != 2 || r.Refusals[test.key] != 2 {
				t.Errorf("%+v", r)
			}
			l, err := ledger.Check(t.Context(), conns[0], r.Ledger, ledger.Options{})
			if err != nil || !l.OK() || l.Folded != 8 || l.Refused != 2 {
				t.Errorf("%v %+v", err, l)
			}
		})
	}
}

// TestUnknown: without answers a run ends all the same, and says that nothing is known. The cluster had folded it all.
func TestUnknown(t *testing.T) {
	f := newFakeCluster()
	f.silent = true
	conns := f.serve(t)
	r, err := Run(t.Context(), Transactions(generated(3)), Options{
		Conns: conns, For: 300 * time.Millisecond, Drain: 50 * time.Millisecond, Streams: 1, Window: 2, Batch: 10,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent != 20 || r.Unknown != 20 || r.Acknowledged != 0 {
		t.Errorf("a window of 2 batches of 10: %+v", r)
	}
	l, err := ledger.Check(t.Context(), conns[0], r.Ledger, ledger.Options{})
	if err != nil || !l.OK() || l.Unknown != 20 || l.Folded != 20 {
		t.Errorf("%v %+v", err, l)
	}
}

func TestEndsEarly(t *testing.T) {
	silent := newFakeCluster()
	silent.silent = true
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errors.New("the disk is on fire")
	for name, test := range map[string]struct {
		ctx  context.Context
		feed transactions.Feed
		o    Options
		want error
	}{
		"called off": {canceled, generated(0), Options{Conns: newFakeCluster().serve(t)}, context.Canceled},
		"feed":       {t.Context(), transactions.Plain(&list{err: broken}), Options{Conns: newFakeCluster().serve(t)}, broken},
		"gave up": {t.Context(), generated(0), Options{
			Conns: silent.serve(t), GiveUp: 50 * time.Millisecond, Window: 1,
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Run(test.ctx, Transactions(test.feed), test.o, nil)
			if err == nil || test.want != nil && !errors.Is(err, test.want) || r == nil {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
}

func TestRefusedOptions(t *testing.T) {
	conns := newFakeCluster().serve(t)
	for want, o := range map[string]Options{
		"connection": {},
		"nothing":    {Conns: conns},
		"rate":       {Conns: conns, Rate: -1},
		"streams":    {Conns: conns, Streams: -1},
		"batch":      {Conns: conns, Batch: 1001},
		"window":     {Conns: conns, Window: 257},
		"negative":   {Conns: conns, For: -1},
	} {
		feed := generated(1)
		if want == "nothing" {
			feed = nil
		}
		if _, err := Run(t.Context(), Transactions(feed), o, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something with %q", err, want)
		}
	}
}
