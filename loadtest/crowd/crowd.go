// Package crowd is the clients of a workload as they are in real life: goroutines that speak gRPC with a running node or
// cluster, lose their connections, wait in vain, and try again.
//
// Here live the clients ([Crowd.Work]: producers with their streams, callers that publish one event a call and repeat it
// with the same id, fresh and stale reads), and the end of a run ([Crowd.Finish]: wait until all sends have arrived, read
// every grain back, let the judges speak). What they do is drawn by package workload; what may not be is known by package
// judge. Here never live faults, nor anything that a node is made of: whoever drives a run kills and heals.
//
// Invariant: an operation is in the history before it leaves, and its outcome is noted after the answer is in hand. What
// is not surely done or surely not done is unknown.
package crowd

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc"

	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/loadtest/workload"
)

// Options of a crowd. The zero value of a field means its default.
type Options struct {
	// Conns to the cluster, at least one. Client i uses connection i modulo their number. They must not repeat calls by
	// themselves: a try that failed behind a try of which nothing is known would be taken for failed. [Dial] makes such.
	Conns []grpc.ClientConnInterface
	// Run names this run in all grains, sources and producers, so that a cluster can see many. Default: something random.
	Run string
	// Seed of what the clients do.
	Seed uint64
	// Clients is their number, half of them producers. Default 12.
	Clients int
	// Grains that the uncontended operations are spread over at a time. Default 64.
	Grains int
	// Pause is how long a client waits between two operations, on average. Default: not at all.
	Pause time.Duration
	// Patience is how long a client waits for one answer. Default 2 s.
	Patience time.Duration
	// MinBackoff and MaxBackoff bound the pause before something is tried again. Default 20 ms and 500 ms.
	MinBackoff, MaxBackoff time.Duration
	// Settle is how long, after the work, all may take to get an outcome and to arrive. Default 1 min.
	Settle time.Duration
	// Plain leaves out the histories at the end, which are read back and compared with the states otherwise.
	Plain bool
}

func (o Options) check() (Options, error) {
	setDefault(&o.Run, strings.ToLower(rand.Text()[:10]))
	setDefault(&o.Clients, 12)
	setDefault(&o.Patience, 2*time.Second)
	setDefault(&o.MinBackoff, 20*time.Millisecond)
	setDefault(&o.MaxBackoff, max(500*time.Millisecond, o.MinBackoff))
	setDefault(&o.Settle, time.Minute)
	switch {
	case len(o.Conns) == 0:
		return o, fmt.Errorf("crowd: no connection")
	case o.Clients < 1:
		return o, fmt.Errorf("crowd: %d clients are too few", o.Clients)
	case o.MaxBackoff < o.MinBackoff || o.Pause < 0 || o.Patience < 0 || o.Settle < 0:
		return o, fmt.Errorf("crowd: a time is negative, or a backoff ends before it begins")
	}
	return o, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Crowd is the clients of one run.
type Crowd struct {
	o     Options
	begin time.Time

	mu       sync.Mutex
	workload *workload.Workload
	history  workload.History
	counts   workload.Totals
	latency  *hdrhistogram.Histogram // of what was done, in microseconds
	refusals map[string]int
	known    int              // answers that said: done before
	told     map[uint64]place // where a value is, as its client was told
	wrong    []string         // answers that no correct cluster gives
	accused  map[string]int   // how often, by kind
	suspect  string           // the first grain of them
	resent   client.Stats     // of all producers
	worked   time.Duration    // how long Work took
}

// place is where an event is in its grain, as its publisher was told.
type place struct {
	seq      uint64
	position string
}

// New makes a crowd that does nothing yet.
func New(o Options) (*Crowd, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	return &Crowd{
		o: o, workload: workload.New(workload.Options{Seed: o.Seed, Clients: o.Clients, Grains: o.Grains, Prefix: o.Run + "-"}),
		latency:  hdrhistogram.New(1, time.Hour.Microseconds(), 3),
		refusals: map[string]int{}, told: map[uint64]place{}, accused: map[string]int{},
	}, nil
}

// Dial makes a connection for a crowd: one that repeats no call by itself, and is back soon after the node is.
func Dial(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return client.Dial(target, append([]grpc.DialOption{grpc.WithDisableRetry()}, options...)...)
}

// Work lets the clients work until the context ends, then waits until all they have begun has an outcome, or until the
// time for that is over.
func (c *Crowd) Work(ctx context.Context) error {
	c.mu.Lock()
	c.begin = time.Now()
	c.mu.Unlock()
	var clients sync.WaitGroup
	errs := make(chan error, c.o.Clients)
	for i := range c.o.Clients {
		clients.Go(func() {
			if c.workload.IsProducer(i) {
				errs <- c.produce(ctx, i)
				return
			}
			c.call(ctx, i)
		})
	}
	clients.Wait()
	c.mu.Lock()
	c.worked = time.Since(c.begin)
	c.mu.Unlock()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Totals count the operations so far.
func (c *Crowd) Totals() workload.Totals {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

// next draws an operation and takes it into the history; whoever calls must send it now.
func (c *Crowd) next(client int) (workload.Operation, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	op := c.workload.Next(client, time.Now().UnixNano())
	return op, c.history.Begin(op, time.Now().UnixNano())
}

// again takes another try of an operation into the history.
func (c *Crowd) again(op workload.Operation) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.history.Begin(op, time.Now().UnixNano())
}

// end notes the outcome of an operation.
func (c *Crowd) end(i int, outcome workload.Outcome, values []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history.End(i, time.Now().UnixNano(), outcome, values)
	r := &c.history.Records()[i]
	switch outcome {
	case workload.OK:
		c.counts.OK++
		// within the bounds every value is taken
		_ = c.latency.RecordValue(min((r.EndedAt-r.BeganAt)/1000, c.latency.HighestTrackableValue()))
	case workload.Failed:
		c.counts.Failed++
	default:
		c.counts.Unknown++
	}
	if r.Contended {
		c.counts.Contended++
	}
}

// accuse notes something that no correct cluster does, to a grain if it is about one; of each kind the first few, so that
// all kinds are seen.
func (c *Crowd) accuse(key, format string, args ...any) {
	const enough = 3
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.suspect == "" {
		c.suspect = key
	}
	if c.accused[format]++; c.accused[format] <= enough {
		c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
	}
}

// refused counts a refusal by its reason.
func (c *Crowd) refused(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusals[reason]++
}
