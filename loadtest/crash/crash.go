// Package crash runs a whole node, from the gateway to Pebble, on a file system that crashes: what was not synced is
// lost at random. A crowd of clients works all the while, and in the end the judges hold what they saw to what is there.
//
// Here live the world of one seed: the node, its disk and the moments of the crashes. What the clients do and whether it
// came out right is for packages crowd and judge. Here never live rules of the node itself.
//
// Invariant: what a client is told in a life was on its way before the moment of the crash; what the node says later, on a
// disk that no longer counts, reaches nobody.
package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/loadtest/crowd"
)

// Options of a run. The zero value of a field means its default.
type Options struct {
	// Seed of everything that is drawn. Goroutines still race, so a seed names a family of runs.
	Seed uint64
	// Crashes in the run; 3 by default.
	Crashes int
	// Shortest and Longest are how long a life is at least and at most; 5 to 45 ms by default.
	Shortest, Longest time.Duration
	// Catalog of kinds; must hold probe.
	Catalog *grains.Catalog
	// Check is called at the end, after a clean stop; for the independent reader of the data folder.
	Check func(fs vfs.FS, dir string) error
}

// Report is what the crowd did and how it is judged, and how often the node crashed.
type Report struct {
	crowd.Report
	Crashes int
}

// Run runs one seed. An error means that the run could not be made, or that the node does not come back from a crash.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Crashes == 0 {
		o.Crashes = 3
	}
	if o.Longest == 0 {
		o.Shortest, o.Longest = 5*time.Millisecond, 45*time.Millisecond
	}
	h := newHost(o.Catalog, o.Seed)
	conn, err := crowd.Dial("passthrough:node", grpc.WithContextDialer(h.dial),
		// lives are short, and so must be the pauses between them
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1.5, MaxDelay: 5 * time.Millisecond}, MinConnectTimeout: time.Second}))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	clients, err := crowd.New(crowd.Options{Conns: []grpc.ClientConnInterface{conn}, Run: "crash", Seed: o.Seed, Clients: 8, Grains: 30,
		Patience: 5 * time.Second, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, Settle: 20 * time.Second})
	if err != nil {
		return nil, err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	worked := make(chan error, 1)
	go func() { worked <- clients.Work(working) }()
	last, err := lives(ctx, o, h)
	stop()
	if err != nil {
		_ = conn.Close() // there is nobody whom the clients could wait for
		return nil, errors.Join(err, <-worked)
	}
	err = <-worked
	report := &Report{Crashes: o.Crashes}
	if err == nil {
		var found *crowd.Report
		if found, err = clients.Finish(ctx); found != nil {
			report.Report = *found
		}
	}
	err = errors.Join(err, last.stop(ctx))
	if err == nil && o.Check != nil {
		err = o.Check(h.fs, dataDir)
	}
	return report, err
}

// lives starts and crashes the node, and returns its last life.
func lives(ctx context.Context, o Options, h *host) (*life, error) {
	rnd := rand.New(rand.NewPCG(o.Seed, 0))
	for n := range o.Crashes + 1 {
		l, err := h.start(ctx)
		if err != nil {
			return nil, fmt.Errorf("start %d: %w", n+1, err)
		}
		if n == o.Crashes {
			time.Sleep(o.Shortest)
			return l, nil
		}
		time.Sleep(o.Shortest + time.Duration(rnd.Int64N(int64(o.Longest-o.Shortest))))
		if err := l.crash(); err != nil {
			return nil, err
		}
	}
	panic("not reached")
}
