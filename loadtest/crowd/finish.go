package crowd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/granary-dev/granary/loadtest/judge"
	"github.com/granary-dev/granary/loadtest/workload"
)

const (
	// readers is how many grains are read back at a time.
	readers = 8
	// secondOpinion is for one in how many grains porcupine is asked, and mostOpinions for how many at most.
	secondOpinion, mostOpinions = 20, 50
	// maxViolations is how many violations a report has.
	maxViolations = 20
	// linesAround is how much of a grain's story is shown around each operation that a violation names.
	linesAround = 12
)

// Finish is the end of a run, after Work and with all faults healed: it waits until all sends have arrived, reads every
// grain back and holds the history to what is there. An error means that the cluster cannot be read any more.
func (c *Crowd) Finish(ctx context.Context) (*Report, error) {
	start := time.Now()
	final, err := c.settle(ctx)
	if err != nil {
		return c.report(), fmt.Errorf("read back: %w", err)
	}
	var auditErr error
	if !c.o.Plain {
		auditErr = c.audit(ctx, final)
	}
	r := c.report()
	r.Grains = len(final)
	for _, g := range final {
		r.Values += len(g.Values)
		r.Received += len(g.Received)
	}
	c.judge(final, r)
	r.JudgeSeconds = time.Since(start).Seconds()
	if auditErr != nil {
		return r, fmt.Errorf("read the histories back: %w", auditErr)
	}
	return r, nil
}

// keys are all grains that the history names.
func (c *Crowd) keys() []string {
	keys := map[string]bool{}
	for _, r := range c.history.Records() {
		keys[r.Key] = true
		if r.To != "" {
			keys[r.To] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// settle reads all grains until every send has arrived and nothing changes any more: a call that its client has given up
// may still be on its way. What has not arrived when the time is over is for the judge.
func (c *Crowd) settle(ctx context.Context) (judge.Final, error) {
	keys := c.keys()
	deadline := time.Now().Add(c.o.Settle)
	var before judge.Final
	for {
		final, err := c.readBack(ctx, keys, deadline)
		if err != nil {
			return nil, err
		}
		if time.Now().After(deadline) || c.arrived(final) && reflect.DeepEqual(final, before) {
			return final, nil
		}
		before = final
		select {
		case <-time.After(c.o.MinBackoff):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// arrived tells whether what the lists have sent was received, by number: what of it is wrong is for the judge.
func (c *Crowd) arrived(final judge.Final) bool {
	targets := map[uint64]string{}
	for _, r := range c.history.Records() {
		if r.To != "" {
			targets[r.Value] = r.To
		}
	}
	missing := map[string]int{}
	for _, g := range final {
		for _, v := range g.Values {
			if to := targets[v]; to != "" {
				missing[to]++
			}
		}
	}
	for key, n := range missing {
		if g := final[key]; uint64(len(g.Received))+g.Uncounted < uint64(n) {
			return false
		}
	}
	return true
}

// readBack reads the grains, and tries again what cannot be read now until the deadline.
func (c *Crowd) readBack(ctx context.Context, keys []string, deadline time.Time) (judge.Final, error) {
	final := judge.Final{}
	var mu sync.Mutex
	err := c.each(ctx, keys, deadline, func(ctx context.Context, i int, key string) error {
		probe, _, err := get(ctx, c.conn(i), workload.Kind+"/"+key, false)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		final[key] = judge.Grain{Values: probe.GetValues(), Received: probe.GetReceived(), Uncounted: probe.GetUncounted(), Balance: probe.GetBalance()}
		return nil
	})
	return final, err
}

// each does something for each key, several at a time, and again as long as the cluster says that it may work later.
func (c *Crowd) each(ctx context.Context, keys []string, deadline time.Time, do func(ctx context.Context, i int, key string) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i, key := range keys {
		group.Go(func() error {
			for {
				call, cancel := context.WithTimeout(ctx, c.o.Patience)
				err := do(call, i, key)
				cancel()
				switch {
				case err == nil:
					return nil
				case ctx.Err() != nil:
					return ctx.Err()
				case time.Now().After(deadline) || !later(err):
					return fmt.Errorf("%s/%s: %w", workload.Kind, key, err)
				}
				time.Sleep(c.o.MinBackoff)
			}
		})
	}
	return group.Wait()
}

func later(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		return true
	}
	return false
}

// judge lets all speak who have an opinion.
func (c *Crowd) judge(final judge.Final, r *Report) {
	for _, v := range judge.Check(&c.history, final) {
		r.accuse(v.String())
		if v.Key != "" && r.Story == "" {
			r.Story = c.history.Around(v.Key, v.Operations, linesAround)
		}
	}
	if c.suspect != "" && r.Story == "" {
		r.Story = c.history.Around(c.suspect, nil, linesAround)
	}
	if !r.Clean() {
		return // porcupine may need for ever to see what is known already
	}
	asked := 0
	for i, key := range slices.Sorted(maps.Keys(final)) {
		if uint64(i)%secondOpinion != c.o.Seed%secondOpinion || asked == mostOpinions {
			continue
		}
		asked++
		if !judge.Linearizable(&c.history, final, key) {
			r.accuse(fmt.Sprintf("not linearizable: %s/%s", workload.Kind, key))
			r.Story = c.history.Timeline(key)
			return
		}
	}
	r.SecondOpinions = asked
}
