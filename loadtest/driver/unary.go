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
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// RunUnary sends the feed as calls of one event each, from a number of callers that each wait for their answer: what an
// online service does. Calls follow the published retry policy of their connection and no other. Of the options it heeds
// Conns, For, Source and Every; it keeps nothing for a ledger.
func RunUnary[T any](ctx context.Context, w Workload[T], o Options, callers int, progress func(Progress)) (*Report, error) {
	o, err := o.check(w.Feed != nil)
	if err != nil {
		return nil, fmt.Errorf("driver: %w", err)
	}
	if callers < 1 {
		return nil, fmt.Errorf("driver: %d callers, want at least 1", callers)
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	r := &run[T]{w: w, o: o, tally: newTally(), begin: time.Now()}
	if o.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, r.begin.Add(o.For), errTimeUp)
		defer cancel()
	}
	stopProgress := r.reportProgress(progress)
	var feed sync.Mutex
	next := func() (T, error) {
		feed.Lock()
		defer feed.Unlock()
		return w.Feed.Next()
	}
	var group errgroup.Group
	for i := range callers {
		service := granaryv1.NewEventServiceClient(o.Conns[i%len(o.Conns)])
		group.Go(func() error { return r.call(ctx, service, next) })
	}
	err = group.Wait()
	stopProgress()
	if err != nil {
		return r.report(), fmt.Errorf("driver: %w", err)
	}
	return r.report(), nil
}

// call is one caller.
func (r *run[T]) call(ctx context.Context, service granaryv1.EventServiceClient, next func() (T, error)) error {
	for ctx.Err() == nil {
		h, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the feed: %w", err)
		}
		request := &granaryv1.PublishRequest{Events: r.w.Events(r.o.Source, []T{h})}
		start := time.Now()
		r.tally.sent.Add(1)
		response, err := service.Publish(context.WithoutCancel(ctx), request)
		if err != nil {
			return err
		}
		var result client.BatchResult
		result.Events = 1
		if s := response.GetResults()[0].GetStatus(); s.GetCode() != 0 {
			return fmt.Errorf("%s: code %d: %s", request.Events[0].GetGrain(), s.GetCode(), s.GetMessage())
		}
		r.tally.answer(time.Since(start), result)
	}
	return nil
}
