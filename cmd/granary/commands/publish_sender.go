package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/client/cloudevents"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// maxCall is how many bytes of events go into one call: the API's 4 MiB less room for what is around them.
const maxCall = cloudevents.MaxLine - 64<<10

// eventSender sends events in batches, one batch at a time: then a batch that is sent again cannot overtake or be
// overtaken, and the events of a grain keep the order of the lines.
type eventSender struct {
	publish
	conn   *nodeConn
	client granaryv1.EventServiceClient
	events <-chan item
	read   *countingReader
	tally  *tally
	// held is an item that was read, but belongs into the next batch.
	held *item
}

// run sends everything. It returns nil at the end of the input, errStopped at a problem that was told, or the error
// that keeps it from going on.
func (s *eventSender) run(ctx context.Context) error {
	for {
		batch, last, err := s.gather(ctx)
		if err != nil {
			return err
		}
		if len(batch) > 0 {
			if err := s.send(ctx, batch); err != nil {
				return err
			}
		}
		if s.tally.hasProblem() && !s.keepGoing {
			return errStopped
		}
		if last != nil {
			return s.end(last)
		}
		s.tally.progress(s.read.n.Load())
	}
}

func (s *eventSender) end(last error) error {
	if errors.Is(last, io.EOF) {
		return nil
	}
	return failed("check the input", "publish: cannot read %s: %w", inputName(s.file), last)
}

// gather waits for an event, then takes those that are there already. last is set at the end of the input.
func (s *eventSender) gather(ctx context.Context) (batch []item, last, err error) {
	bytes := 0
	for len(batch) < s.batch {
		next, ok := s.take(ctx, len(batch) == 0)
		if !ok {
			return batch, nil, ctx.Err()
		}
		var bad *cloudevents.Error
		switch {
		case errors.As(next.err, &bad) && len(batch) > 0:
			s.held = &next // what is told is told in the order of the lines
			return batch, nil, nil
		case errors.As(next.err, &bad):
			s.tally.invalid(next.line, bad)
			if !s.keepGoing {
				return batch, nil, nil
			}
			continue
		case next.err != nil:
			return batch, next.err, nil
		}
		size := proto.Size(next.event)
		if bytes += size; bytes > maxCall && len(batch) > 0 {
			s.held = &next
			return batch, nil, nil
		}
		batch = append(batch, next)
	}
	return batch, nil, nil
}

// take returns the next item. ok is false when there is none at the moment, or ctx has ended.
func (s *eventSender) take(ctx context.Context, wait bool) (next item, ok bool) {
	if s.held != nil {
		next, s.held = *s.held, nil
		return next, true
	}
	if !wait {
		select {
		case next, ok = <-s.events:
		default:
		}
		return next, ok
	}
	select {
	case next, ok = <-s.events:
	case <-ctx.Done():
	}
	return next, ok
}

// send sends a batch until each of its events has an outcome.
func (s *eventSender) send(ctx context.Context, batch []item) error {
	s.tally.sending(len(batch))
	patience := patience{within: s.retryFor}
	for {
		again, delay, err := s.call(ctx, batch)
		if err != nil && (!retryable(status.Code(err)) || ctx.Err() != nil || !s.tally.answered && s.conn.isDown(err)) {
			return err
		}
		if len(again) < len(batch) {
			patience.restart()
		}
		if batch = again; len(batch) == 0 {
			return nil
		}
		if !patience.wait(ctx, delay) {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = s.tally.lastRefusal(len(batch))
			}
			return err
		}
	}
}

// call sends a batch once. again are the events that must be sent again: all of them if the call failed.
func (s *eventSender) call(ctx context.Context, batch []item) (again []item, delay time.Duration, err error) {
	ctx, cancel := s.conn.call(ctx)
	defer cancel()
	req := &granaryv1.PublishRequest{Events: make([]*granaryv1.Event, len(batch))}
	for i := range batch {
		req.Events[i] = batch[i].event
	}
	resp, err := s.client.Publish(ctx, req)
	if err != nil {
		return batch, retryDelay(status.Convert(err).Proto()), err
	}
	if len(resp.GetResults()) != len(batch) {
		return nil, 0, failed(hints[codes.Internal], "publish at %s: the node answered %d results for %d events", s.conn.target, len(resp.GetResults()), len(batch))
	}
	for i, result := range resp.GetResults() {
		if st := result.GetStatus(); retryable(codes.Code(st.GetCode())) {
			s.tally.refusal = st
			delay = max(delay, retryDelay(st))
			again = append(again, batch[i])
			continue
		}
		s.tally.outcome(batch[i], result)
	}
	return again, delay, nil
}

// isDown tells whether an error means that nobody listens at the target.
func (n *nodeConn) isDown(err error) bool { return n.unreachable(status.Convert(err), err) }

// retryable tells whether an event with this outcome may yet be taken.
func retryable(c codes.Code) bool {
	switch c {
	case codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.DeadlineExceeded:
		return true
	}
	return false
}

func retryDelay(st *spb.Status) time.Duration {
	for _, detail := range status.FromProto(st).Details() {
		if d, ok := detail.(*errdetails.RetryInfo); ok {
			return d.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// patience is how long and how often something is tried again.
type patience struct {
	within time.Duration
	since  time.Time
	delay  time.Duration
}

// restart begins anew, because there was progress.
func (p *patience) restart() { *p = patience{within: p.within} }

// wait waits before the next try, at least as long as asked. It is false when there shall be none.
func (p *patience) wait(ctx context.Context, atLeast time.Duration) bool {
	const first, most = 20 * time.Millisecond, 2 * time.Second
	if p.since.IsZero() {
		p.since, p.delay = time.Now(), first
	}
	delay := max(p.delay, atLeast)
	if time.Since(p.since)+delay > p.within {
		return false
	}
	p.delay = min(2*p.delay, most)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(delay):
		return true
	}
}

// countingReader counts the bytes read, for the progress. The count may be read at any time.
type countingReader struct {
	io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func inputName(file string) string {
	if file == "-" {
		return "standard input"
	}
	return fmt.Sprintf("%q", file)
}
