// Package driver sends a workload through the published client and measures how it is received.
//
// With a rate it is an open loop: every batch has a time at which it should be sent, and latency is counted from that
// time, so that a cluster that stalls cannot make the load wait and the figures look better. Without a rate it sends as
// fast as the window lets it. The package may import client, the workloads, ledger and proto. It knows nothing of nodes.
//
// Invariant: all events of one owner (an account, a user) go through one stream, in the order of the feed.
package driver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/loadtest/ledger"
	"google.golang.org/grpc"
)

// Options of a run.
type Options struct {
	// Conns to the cluster, at least one. Stream i uses connection i modulo their number.
	Conns []grpc.ClientConnInterface
	// Rate in events a second over all streams; 0 means as fast as possible.
	Rate float64
	// For ends the run after this time; 0 means at the end of the feed.
	For time.Duration
	// Streams is the number of producers, each with a stream of its own; default 4.
	Streams int
	// Batch is the number of events in a batch, 1 to 1,000; default 100.
	Batch int
	// Window is the number of batches that a stream may leave unanswered, 1 to 256; default 64.
	Window int
	// Source of the events. Default: "loadtest/" and something random, so that runs can be told apart.
	Source string
	// Drain is how long to wait for answers when all is sent; default 30 s. What is unanswered then counts as unknown.
	Drain time.Duration
	// GiveUp ends the run with an error when the oldest unanswered event has waited this long; default 1 min.
	GiveUp time.Duration
	// Every is the time between two calls of progress; default 1 s.
	Every time.Duration
	// Remember bounds what is kept for the ledger.
	Remember ledger.SentOptions
	// Forget keeps nothing for the ledger: Report.Ledger is nil.
	Forget bool
}

// Progress is how a run is going.
type Progress struct {
	// Elapsed since the run began.
	Elapsed time.Duration
	// Sent is the number of events handed to the client so far.
	Sent uint64
	// Acknowledged is how many of them were folded, as far as is known.
	Acknowledged uint64
	// Refused is how many were answered otherwise.
	Refused uint64
	// Rate of acknowledgements in events a second since the progress before.
	Rate float64
	// P50 and P99 are latencies since the progress before; 0 when nothing was answered.
	P50, P99 time.Duration
	// Reconnects is how often a stream was opened again.
	Reconnects uint64
}

// Latency sums up how long events waited for their answer, in milliseconds from the time at which they should have been
// sent (with a rate) or were handed to the client (without).
type Latency struct {
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`
	Mean float64 `json:"mean_ms"`
}

// Report is what a run measured.
type Report struct {
	// Source that the events carried.
	Source string `json:"source"`
	// Sent, Acknowledged, Refused and Unknown count events. Sent is the sum of the other three.
	Sent         uint64 `json:"sent"`
	Acknowledged uint64 `json:"acknowledged"`
	Refused      uint64 `json:"refused"`
	Unknown      uint64 `json:"unknown"`
	// Duplicates is how many had been journaled before the client asked again, because an answer was lost.
	Duplicates uint64 `json:"duplicates"`
	// Reconnects is how often a stream was opened again.
	Reconnects uint64 `json:"reconnects"`
	// Seconds from the first event to the last answer.
	Seconds float64 `json:"seconds"`
	// Rate is Acknowledged by Seconds.
	Rate float64 `json:"events_per_second"`
	// Latency of the events acknowledged.
	Latency Latency `json:"latency"`
	// Late is the longest time by which a batch was handed to the client later than intended, in milliseconds. Large
	// values mean that the rate was more than the client or the cluster could take. 0 without a rate.
	Late float64 `json:"late_ms"`
	// Refusals counts the refused events by what they were told, "CODE REASON".
	Refusals map[string]uint64 `json:"refusals,omitempty"`
	// Ledger is what was sent and told, for [ledger.Check]; nil if it was not to be kept.
	Ledger *ledger.Sent `json:"-"`
}

// Run sends the workload's feed. It ends when the feed or the time does, or the context, and returns the report also then;
// an error means that the run could not be made or was given up, and comes with the report of what was done until then.
// progress may be nil; it is called by one goroutine at a time, and once more at the end.
func Run[T any](ctx context.Context, w Workload[T], o Options, progress func(Progress)) (*Report, error) {
	o, err := o.check(w.Feed != nil)
	if err != nil {
		return nil, fmt.Errorf("driver: %w", err)
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	r, err := newRun(w, o)
	if err != nil {
		return nil, fmt.Errorf("driver: %w", err)
	}
	if err := r.run(ctx, progress); err != nil {
		return r.report(), fmt.Errorf("driver: %w", err)
	}
	return r.report(), nil
}

func (o Options) check(fed bool) (Options, error) {
	setDefault(&o.Streams, 4)
	setDefault(&o.Batch, 100)
	setDefault(&o.Window, 64)
	setDefault(&o.Drain, 30*time.Second)
	setDefault(&o.GiveUp, time.Minute)
	setDefault(&o.Every, time.Second)
	setDefault(&o.Source, "loadtest/"+strings.ToLower(rand.Text()[:12]))
	switch {
	case len(o.Conns) == 0:
		return o, errors.New("no connection to send over")
	case !fed:
		return o, errors.New("nothing to send")
	case !(o.Rate >= 0) || math.IsInf(o.Rate, 1):
		return o, fmt.Errorf("a rate of %v events a second is not possible", o.Rate)
	case o.Streams < 1:
		return o, fmt.Errorf("%d streams are too few", o.Streams)
	case o.Batch < 1 || o.Batch > client.MaxBatchEvents:
		return o, fmt.Errorf("a batch has 1 to %d events, not %d", client.MaxBatchEvents, o.Batch)
	case o.For < 0 || o.Drain < 0 || o.Every < 0 || o.GiveUp < 0:
		return o, errors.New("a time is negative")
	}
	return o, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}
