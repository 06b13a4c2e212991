//go:build linux || darwin

// Package chaos tortures the real binary: a process on a real disk, with real connections to it, which is killed, stopped,
// cut off, and given a disk that is full or cannot sync, while a crowd of clients works. In the end the judges hold what
// the clients saw to what is there, and the independent reader goes over the data folder.
//
// Here live the process, its disk and the faults. What the clients do and whether it came out right is for packages crowd
// and judge. Here never lives anything that a node is made of: the binary is all that is known of it.
//
// Invariant: a fault that needs a tool or a privilege that is missing is named among what was skipped, with how to get it;
// it never passes for done.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/granary-dev/granary/loadtest/crowd"
)

// Options of a run. The zero value of a field means its default, where it has one.
type Options struct {
	// Binary is the path of granary.
	Binary string
	// Dir is where data folders are made, and removed.
	Dir string
	// Seed of everything that is drawn. Processes and disks still race: a seed names a family of runs.
	Seed uint64
	// For is how long faults happen, all rounds together.
	For time.Duration
	// Round is how long one round is at most: then all is healed, judged and read, and a new data folder begun. Default 20 s.
	Round time.Duration
	// Faults to use, by name; all that can be had by default.
	Faults []string
	// Clients of a round. Default 12.
	Clients int
	// Log is told what happens; it may be nil.
	Log func(format string, args ...any)
}

// Report is what a run did.
type Report struct {
	// Seed of the run, and how long it Took.
	Seed uint64
	Took time.Duration
	// Rounds that were judged, and Lives of the node in them.
	Rounds, Lives int
	// Faults that happened, by name.
	Faults map[string]int
	// Skipped faults, and why.
	Skipped []string
	// Operations judged, by outcome, and what of them was on contended grains; Known are retries that the node told from
	// new events, Resent is what producers sent again, and Received are sends between grains.
	Operations, OK, Failed, Unknown, Contended, Known, Resent, Received int
	// Violations found; none in a good run. The run ends with the first round that has any.
	Violations []string
	// Story is what led to the first, for people: the faults, and what clients did with the grain.
	Story string
	// Kept is where the data folder of a bad round is.
	Kept string
}

// String is the report for people.
func (r *Report) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("seed", "%d", r.Seed)
	line("duration", "%s, %d rounds, %d lives of the node", r.Took.Round(time.Second), r.Rounds, r.Lives)
	names := make([]string, 0, len(r.Faults))
	for _, f := range faults {
		if n := r.Faults[f.name]; n > 0 {
			names = append(names, fmt.Sprintf("%s %d", f.name, n))
		}
	}
	line("faults", "%s", strings.Join(names, ", "))
	for _, s := range r.Skipped {
		line("skipped", "%s", s)
	}
	line("operations", "%d judged: %d ok, %d failed, %d unknown; %d on contended grains", r.Operations, r.OK, r.Failed, r.Unknown, r.Contended)
	line("repetitions", "%d events known to the node, %d sent again by producers; %d sends received", r.Known, r.Resent, r.Received)
	line("violations", "%d", len(r.Violations))
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "  %s\n", v)
	}
	if r.Kept != "" {
		line("data folder", "%s", r.Kept)
	}
	if r.Story != "" {
		b.WriteString(r.Story)
	}
	return b.String()
}

// Run runs rounds until the time is over or one of them shows a violation. An error means that the run could not go on
// for a reason that says nothing of the node.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Round == 0 {
		o.Round = 20 * time.Second
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	start := time.Now()
	report := &Report{Seed: o.Seed, Faults: map[string]int{}}
	tools := lookAround(ctx, o, report)
	rnd := rand.New(rand.NewPCG(o.Seed, 0))
	for left := o.For; left > 0 && len(report.Violations) == 0; {
		length := min(left, o.Round)
		if rest := left - length; rest < o.Round/4 { // no round that is too short to show anything
			length = left
		}
		left -= length
		r := &round{o: o, tools: tools, report: report, rnd: rand.New(rand.NewPCG(rnd.Uint64(), 0)), length: length, number: report.Rounds}
		if err := r.run(ctx); err != nil {
			report.Took = time.Since(start)
			return report, fmt.Errorf("round %d: %w", report.Rounds+1, err)
		}
		report.Rounds++
	}
	report.Took = time.Since(start)
	return report, nil
}

// round is one data folder, from empty to judged.
type round struct {
	o      Options
	tools  tools
	report *Report
	rnd    *rand.Rand
	length time.Duration
	number int

	disk  *disk
	node  *process
	wires wires
	begin time.Time
	lines []string // what happened, for people
	deck  []fault
	tried int // events that faults published themselves
}

// note tells people what happens.
func (r *round) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.o.Log("round %d, %5.1f s: %s", r.number+1, time.Since(r.begin).Seconds(), text)
	r.lines = append(r.lines, fmt.Sprintf("%14s   %s", time.Since(r.begin).Round(time.Millisecond), text))
}

// violated notes a violation.
func (r *round) violated(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.note("VIOLATION: %s", text)
	r.report.Violations = append(r.report.Violations, text)
}

func (r *round) run(ctx context.Context) (err error) {
	r.begin = time.Now()
	folder, err := os.MkdirTemp(r.o.Dir, "round-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	// A disk that can be filled is another one in every second round, so that the usual one has its share.
	if r.disk, err = newDisk(ctx, filepath.Join(folder, "disk"), r.tools.tmpfs && r.number%2 == 0); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.disk.close()) }()
	if r.node, err = newProcess(r.o.Binary, filepath.Join(r.disk.dir, "data"), filepath.Join(folder, "syncs")); err != nil {
		return err
	}
	defer r.node.end()
	defer func() { r.report.Lives += r.node.lives }()
	if err := r.node.start(ctx, nil); err != nil {
		return err
	}
	conns, err := r.dial()
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range conns {
			_ = c.(*grpc.ClientConn).Close() // nothing is in flight
		}
	}()
	clients, err := crowd.New(crowd.Options{Conns: conns, Run: fmt.Sprintf("round%d", r.number+1), Seed: r.rnd.Uint64(),
		Clients: r.o.Clients, Pause: 2 * time.Millisecond})
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	worked := make(chan error, 1)
	go func() { worked <- clients.Work(working) }()
	trouble := r.trouble(ctx, conns[0])
	r.note("all is healed")
	stop()
	if err := errors.Join(trouble, <-worked); err != nil {
		return err
	}
	return r.finish(ctx, clients)
}

// dial makes some connections, all of which a fault can cut.
func (r *round) dial() ([]grpc.ClientConnInterface, error) {
	var conns []grpc.ClientConnInterface
	for range 3 {
		conn, err := crowd.Dial("passthrough:"+r.node.listen, grpc.WithContextDialer(r.wires.dial))
		if err != nil {
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

// enoughKinds of faults make a run count; for so long a round waits for them.
const (
	enoughKinds   = 3
	graceForKinds = 15 * time.Second
)

// trouble lets faults happen until the round is over, and leaves a node that is well.
func (r *round) trouble(ctx context.Context, conn grpc.ClientConnInterface) error {
	for until := r.begin.Add(r.length); len(r.report.Violations) == 0; {
		if !sleep(ctx, r.between(200*time.Millisecond, 1200*time.Millisecond)) {
			return ctx.Err()
		}
		if ended, how := r.node.hasEnded(); ended {
			r.violated("the node ended although nothing was done to it: %s", how)
			return r.node.start(ctx, nil)
		}
		// the last round of a run goes on until the run has what makes it count
		if time.Now().After(until) && (len(r.report.Faults) >= enoughKinds || time.Now().After(until.Add(graceForKinds))) {
			break
		}
		if err := r.happen(ctx, r.draw(), conn); err != nil {
			return err
		}
	}
	return nil
}

// draw takes the next fault of a shuffled deck, so that even a short run has most of them.
func (r *round) draw() fault {
	if len(r.deck) == 0 {
		for _, f := range faults {
			if r.tools.can(f, r.disk) {
				r.deck = append(r.deck, f)
			}
		}
		r.rnd.Shuffle(len(r.deck), func(i, j int) { r.deck[i], r.deck[j] = r.deck[j], r.deck[i] })
	}
	f := r.deck[0]
	r.deck = r.deck[1:]
	return f
}

func (r *round) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.rnd.Int64N(int64(most-least)))
}

// finish lets the judges speak, stops the node cleanly and has its data folder read.
func (r *round) finish(ctx context.Context, clients *crowd.Crowd) error {
	found, err := clients.Finish(ctx)
	if err != nil {
		r.violated("after all was healed: %v", err)
	}
	t := r.report
	t.Operations, t.OK, t.Failed, t.Unknown, t.Contended = t.Operations+found.Operations, t.OK+found.OK, t.Failed+found.Failed, t.Unknown+found.Unknown, t.Contended+found.Contended
	t.Known, t.Resent, t.Received = t.Known+found.Known, t.Resent+int(found.Resent), t.Received+found.Received
	for _, v := range found.Violations {
		r.violated("%s", v)
	}
	r.note("%d operations judged: %d ok, %d failed, %d unknown; refusals %v", found.Operations, found.OK, found.Failed, found.Unknown, found.Refusals)
	if err := r.node.stop(ctx); err != nil {
		r.violated("the node does not stop cleanly: %v", err)
	}
	if err := r.node.verify(ctx); err != nil {
		r.violated("verify: %v", err)
	}
	if len(t.Violations) > 0 {
		t.Story = strings.Join(slices.Concat([]string{"what was done:"}, r.lines, []string{"what clients saw:", found.Story}), "\n")
		t.Kept = filepath.Join(os.TempDir(), fmt.Sprintf("granary-chaos-%d-%d", r.o.Seed, r.number+1))
		if err := errors.Join(os.RemoveAll(t.Kept), os.CopyFS(t.Kept, os.DirFS(r.node.dir))); err != nil {
			t.Kept = fmt.Sprintf("could not be kept: %v", err)
		}
	}
	return nil
}

// sleep is false if the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
