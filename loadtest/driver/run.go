package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/loadtest/ledger"
)

// run is one call of [Run]: one goroutine reads the feed and deals it out to lanes, each of which has a producer.
type run[T any] struct {
	w     Workload[T]
	o     Options
	begin time.Time
	lanes []*lane[T]
	tally *tally
	sent  *ledger.Sent // nil if nothing is kept
}

// batch is some happenings of one lane, and when they should be sent.
type batch[T any] struct {
	happenings []T
	due        time.Time
}

// ahead is how many full batches may wait for a lane.
const ahead = 4

// lane is one producer with the owners that are its own.
type lane[T any] struct {
	run      *run[T]
	producer *client.Producer
	notes    *ledger.Lane // nil if nothing is kept
	queue    chan batch[T]
	filling  []T
	// window holds a token for each unanswered batch of a run without a rate, so that latency leaves out the waiting in
	// the client's own queue. Nil with a rate: then that waiting counts.
	window chan struct{}
}

func newRun[T any](w Workload[T], o Options) (*run[T], error) {
	r := &run[T]{w: w, o: o, tally: newTally()}
	if !o.Forget {
		r.sent = ledger.NewSent(o.Source, o.Remember)
	}
	for i := range o.Streams {
		producer, err := client.NewProducer(o.Conns[i%len(o.Conns)], client.ProducerOptions{Window: o.Window, GiveUp: o.GiveUp})
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		l := &lane[T]{run: r, producer: producer, queue: make(chan batch[T], ahead)}
		if r.sent != nil {
			l.notes = r.sent.Lane()
		}
		if o.Rate == 0 {
			l.window = make(chan struct{}, o.Window)
		}
		r.lanes = append(r.lanes, l)
	}
	return r, nil
}

// close stops the producers. What has no answer by then gets none.
func (r *run[T]) close() error {
	var errs []error
	for _, l := range r.lanes {
		errs = append(errs, l.producer.Close())
	}
	return errors.Join(errs...)
}

var (
	// errTimeUp ends a run that lasted as long as it should.
	errTimeUp = errors.New("the time is up")
	// errEnough ends the dealing: what comes would be due after the end.
	errEnough = errors.New("the rest is due after the end")
)

func (r *run[T]) run(ctx context.Context, progress func(Progress)) error {
	r.begin = time.Now()
	limited := ctx
	if r.o.For > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithDeadlineCause(ctx, r.begin.Add(r.o.For), errTimeUp)
		defer cancel()
	}
	stopProgress := r.reportProgress(progress)
	group, work := errgroup.WithContext(limited)
	group.Go(func() error { return r.deal(work) })
	for _, l := range r.lanes {
		group.Go(func() error { return l.send(work) })
	}
	err := group.Wait()
	if cause := context.Cause(limited); cause != nil && (err == nil || errors.Is(err, limited.Err())) {
		err = cause
	}
	if errors.Is(err, errTimeUp) {
		err = nil
	}
	// Also a run that was called off waits for what is under way: its ledger should leave little open.
	if drained := r.drain(context.WithoutCancel(ctx)); err == nil {
		err = drained
	}
	if closed := r.close(); err == nil {
		err = closed
	}
	stopProgress()
	return err
}

// deal reads the feed and gives each lane its owners' events, in batches.
func (r *run[T]) deal(ctx context.Context) error {
	defer func() {
		for _, l := range r.lanes {
			close(l.queue)
		}
	}()
	dealt := 0
	pass := func(l *lane[T]) error {
		b := batch[T]{happenings: l.filling}
		if r.o.Rate > 0 {
			after := time.Duration(float64(dealt) / r.o.Rate * float64(time.Second))
			if r.o.For > 0 && after >= r.o.For {
				return errEnough
			}
			b.due = r.begin.Add(after)
		}
		dealt += len(l.filling)
		l.filling = make([]T, 0, r.o.Batch)
		select {
		case l.queue <- b:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		h, err := r.w.Feed.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("the feed: %w", err)
		}
		l := r.lanes[laneOf(r.w.Owner(h), len(r.lanes))]
		if l.filling = append(l.filling, h); len(l.filling) == r.o.Batch {
			if err := pass(l); errors.Is(err, errEnough) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
	for _, l := range r.lanes {
		if len(l.filling) > 0 {
			if err := pass(l); err != nil && !errors.Is(err, errEnough) {
				return err
			}
		}
	}
	return nil
}

// laneOf spreads owners over lanes (multiplicative hashing, so that numbers with a pattern spread too).
func laneOf(owner uint32, lanes int) int {
	return int(uint64(owner*2654435769) * uint64(lanes) >> 32)
}

// send publishes the batches of a lane when they are due.
func (l *lane[T]) send(ctx context.Context) error {
	for b := range l.queue {
		if err := l.publish(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func (l *lane[T]) publish(ctx context.Context, b batch[T]) error {
	t := l.run.tally
	if l.window == nil {
		if !sleepUntil(ctx, b.due) {
			return ctx.Err()
		}
		t.late(time.Since(b.due))
	} else {
		select {
		case l.window <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.due = time.Now()
	}
	var note *ledger.Batch
	if l.notes != nil {
		notes := make([]ledger.Note, len(b.happenings))
		for i, h := range b.happenings {
			notes[i] = l.run.w.Note(h)
		}
		note = l.notes.Note(notes)
	}
	t.sent.Add(uint64(len(b.happenings)))
	err := l.producer.PublishBatch(ctx, l.run.w.Events(l.run.o.Source, b.happenings), func(result client.BatchResult) {
		if l.window != nil {
			<-l.window
		}
		exceptions := t.answer(time.Since(b.due), result)
		if note != nil {
			note.Answer(exceptions)
		}
	})
	if err != nil {
		t.sent.Add(-uint64(len(b.happenings)))
		if note != nil {
			note.Withdraw()
		}
	}
	return err
}

// sleepUntil is false if the context ended first.
func sleepUntil(ctx context.Context, at time.Time) bool {
	wait := time.Until(at)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// drain waits for answers, but not for ever. Running out of time is no error: it shows as unknown outcomes.
func (r *run[T]) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.o.Drain)
	defer cancel()
	var group errgroup.Group
	for _, l := range r.lanes {
		group.Go(func() error {
			if err := l.producer.Flush(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			return nil
		})
	}
	return group.Wait()
}

// reportProgress calls progress now and then, until the function that it returns is called, and by that once more.
func (r *run[T]) reportProgress(progress func(Progress)) (stop func()) {
	var reporter sync.WaitGroup
	done := make(chan struct{})
	last := r.begin
	tell := func() {
		now := time.Now()
		p := r.tally.interval(now.Sub(last))
		p.Elapsed, p.Reconnects = now.Sub(r.begin), r.reconnects()
		last = now
		progress(p)
	}
	reporter.Go(func() {
		ticker := time.NewTicker(r.o.Every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				tell()
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		reporter.Wait()
		tell()
	}
}

func (r *run[T]) reconnects() uint64 {
	var n uint64
	for _, l := range r.lanes {
		n += l.producer.Stats().Reconnects
	}
	return n
}

func (r *run[T]) report() *Report {
	report := r.tally.report(r.begin)
	report.Source, report.Ledger, report.Reconnects = r.o.Source, r.sent, r.reconnects()
	return report
}
