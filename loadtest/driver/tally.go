package driver

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/loadtest/ledger"
)

// tally adds up what comes back. Latencies are kept twice: for the whole run, and since the last progress.
type tally struct {
	sent atomic.Uint64

	mu           sync.Mutex
	acknowledged uint64
	refused      uint64
	duplicates   uint64
	refusals     map[string]uint64
	all, recent  *hdrhistogram.Histogram // microseconds
	lastAnswer   time.Time
	mostLate     time.Duration

	acknowledgedBefore uint64 // at the last progress
}

// longest latency that is told apart; more counts as this.
const longest = time.Hour

func newTally() *tally {
	h := func() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest.Microseconds(), 3) }
	return &tally{refusals: map[string]uint64{}, all: h(), recent: h()}
}

func (t *tally) late(by time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mostLate = max(t.mostLate, by)
}

// answer counts the outcome of a batch and says what each exception means for the ledger.
func (t *tally) answer(latency time.Duration, r client.BatchResult) []ledger.Exception {
	var exceptions []ledger.Exception
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range r.Exceptions {
		fate, what := classify(e)
		exceptions = append(exceptions, ledger.Exception{Index: e.Index, Fate: fate})
		if fate != ledger.Unknown {
			t.refused++
			t.refusals[what]++
		}
	}
	t.duplicates += uint64(r.Duplicates)
	folded := r.Events - len(r.Exceptions)
	if folded == 0 {
		return exceptions
	}
	t.acknowledged += uint64(folded)
	t.lastAnswer = time.Now()
	micros := min(latency, longest).Microseconds()
	// Values within the bounds are always taken.
	_ = t.all.RecordValues(micros, int64(folded))
	_ = t.recent.RecordValues(micros, int64(folded))
	return exceptions
}

// classify says what is known of an event that was not folded, and what its publisher was told as "CODE REASON".
func classify(e client.Exception) (ledger.Fate, string) {
	if errors.Is(e.Err, client.ErrUnknown) || errors.Is(e.Err, client.ErrNotSent) {
		return ledger.Unknown, ""
	}
	st := status.Convert(e.Err)
	what := st.Code().String()
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			what += " " + info.GetReason()
		}
	}
	if e.Position != "" {
		return ledger.Rejected, what
	}
	return ledger.Refused, what
}

// interval is what happened since it was called last.
func (t *tally) interval(length time.Duration) Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := Progress{Sent: t.sent.Load(), Acknowledged: t.acknowledged, Refused: t.refused}
	if length > 0 {
		p.Rate = float64(t.acknowledged-t.acknowledgedBefore) / length.Seconds()
	}
	t.acknowledgedBefore = t.acknowledged
	if t.recent.TotalCount() > 0 {
		p.P50 = time.Duration(t.recent.ValueAtPercentile(50)) * time.Microsecond
		p.P99 = time.Duration(t.recent.ValueAtPercentile(99)) * time.Microsecond
		t.recent.Reset()
	}
	return p
}

func (t *tally) report(begin time.Time) *Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &Report{
		Sent: t.sent.Load(), Acknowledged: t.acknowledged, Refused: t.refused, Duplicates: t.duplicates,
		Refusals: t.refusals, Late: millis(t.mostLate.Microseconds()),
	}
	r.Unknown = r.Sent - r.Acknowledged - r.Refused
	if !t.lastAnswer.IsZero() {
		r.Seconds = t.lastAnswer.Sub(begin).Seconds()
		r.Rate = float64(r.Acknowledged) / r.Seconds
		r.Latency = latencyOf(t.all)
	}
	return r
}

// latencyOf sums up a histogram of microseconds.
func latencyOf(h *hdrhistogram.Histogram) Latency {
	at := func(percentile float64) float64 { return millis(h.ValueAtPercentile(percentile)) }
	return Latency{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: millis(h.Max()), Mean: h.Mean() / 1000}
}

func millis(micros int64) float64 { return float64(micros) / 1000 }
