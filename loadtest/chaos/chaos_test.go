//go:build linux || darwin

package chaos

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/granary-dev/granary/loadtest/crowd"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

var (
	lasts  = flag.Duration("for", 6*time.Second, "how long faults happen")
	seed   = flag.Uint64("seed", 0, "what is drawn; 0 takes a fresh seed")
	length = flag.Duration("round", 20*time.Second, "how long a round is at most")
	only   = flag.String("faults", "", "faults to use, with commas between; all by default")
)

// binary is granary, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "granary")
	code := 1
	if out, err := exec.Command("go", "build", "-pgo=off", "-o", binary, "github.com/granary-dev/granary/cmd/granary").CombinedOutput(); err != nil {
		fmt.Printf("build: %v\n%s", err, out)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func theSeed() uint64 {
	if *seed != 0 {
		return *seed
	}
	return uint64(time.Now().UnixNano())%1e9 + 1
}

// TestChaos: whatever befalls the process and its disk, what clients saw is what is there.
func TestChaos(t *testing.T) {
	o := Options{Binary: binary, Dir: t.TempDir(), Seed: theSeed(), For: *lasts, Round: *length}
	switch {
	case *only != "":
		o.Faults = strings.Split(*only, ",")
	case *lasts < 10*time.Second: // a client that was told of a full disk waits for 10 s, as the node asks
		for _, f := range faults {
			if !f.disk {
				o.Faults = append(o.Faults, f.name)
			}
		}
	}
	if testing.Verbose() {
		o.Log = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	}
	again := fmt.Sprintf("go test ./loadtest/chaos -run TestChaos -count=1 -timeout=0 -v -seed=%d -for=%v -round=%v", o.Seed, *lasts, *length)
	if *only != "" {
		again += fmt.Sprintf(" -faults=%q", *only)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*o.For+3*time.Minute)
	defer cancel()
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatalf("seed %d: %v\nagain: %s", o.Seed, err, again)
	}
	if len(r.Violations) > 0 {
		t.Fatalf("%v\nagain: %s", r, again)
	}
	t.Logf("\n%vagain        %s", r, again)
	for _, s := range r.Skipped {
		t.Logf("SKIPPED %s", s)
	}
	if r.OK < 100 || len(r.Faults) < enoughKinds && *only == "" {
		t.Errorf("%d operations and %d kinds of faults prove little", r.OK, len(r.Faults))
	}
}

// TestKillNine: `granary load run probe` goes on while its node is killed and started again, and finds nothing wrong.
func TestKillNine(t *testing.T) {
	s := theSeed()
	rnd := rand.New(rand.NewPCG(s, 1))
	dir := t.TempDir()
	p, err := newProcess(binary, filepath.Join(dir, "data"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.end()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := p.start(ctx, nil); err != nil {
		t.Fatal(err)
	}
	load := exec.CommandContext(ctx, binary, "load", "run", "probe", "--target", p.listen, "--for", "3s", "--pause", "2ms", "--seed", fmt.Sprint(s))
	var said bytes.Buffer
	load.Stdout, load.Stderr = &said, &said
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	for !hasProbes(ctx, t, p.listen) { // a node that is away from the start is an error, as it should be
		time.Sleep(20 * time.Millisecond)
	}
	for range 4 {
		time.Sleep(100*time.Millisecond + time.Duration(rnd.Int64N(int64(800*time.Millisecond))))
		if err := p.kill(); err != nil {
			t.Fatal(err)
		}
		if err := p.start(ctx, nil); err != nil {
			t.Fatalf("seed %d: it does not come back: %v", s, err)
		}
	}
	if err := load.Wait(); err != nil || !strings.Contains(said.String(), "nothing lost, nothing twice") {
		t.Errorf("seed %d: %v\n%s", s, err, &said)
	}
	if err := p.stop(ctx); err != nil {
		t.Errorf("seed %d: it does not stop cleanly: %v", s, err)
	}
	if err := p.verify(ctx); err != nil {
		t.Errorf("seed %d: verify: %v", s, err)
	}
	if testing.Verbose() {
		t.Logf("seed %d\n%s", s, &said)
	}
}

// hasProbes tells whether the load has begun.
func hasProbes(ctx context.Context, t *testing.T, listen string) bool {
	conn, err := crowd.Dial("passthrough:" + listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	res, err := granaryv1.NewGrainServiceClient(conn).List(ctx, &granaryv1.ListRequest{Kind: "probe"})
	if err != nil {
		t.Fatal(err)
	}
	return len(res.GetGrains()) > 0
}

func TestFailedSyncsAreRead(t *testing.T) {
	failed := failedSyncs(`12 fsync(9</tmp/d>)     = 0
13 fdatasync(16</tmp/d/data/000011.log> <unfinished ...>
12 fdatasync(16</tmp/d/data/000010.sst>) = -1 EIO (Input/output error) (INJECTED)
13 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)
12 +++ exited with 1 +++
`)
	if len(failed) != 2 || len(ofJournal(failed)) != 1 || !strings.HasPrefix(ofJournal(failed)[0], "fdatasync(16</tmp/d/data/000011.log>") {
		t.Errorf("%q", failed)
	}
}

// TestFaultsThatHappenedCount: a fault counts when it was made and something went wrong, neither before nor otherwise.
func TestFaultsThatHappenedCount(t *testing.T) {
	const journal, table = "fdatasync(16</tmp/d/data/000011.log>) = -1 EIO", "fdatasync(16</tmp/d/data/000010.sst>) = -1 EIO"
	exitOne, unable := errors.New("exit status 1"), errors.New("no such tool")
	for _, test := range []struct {
		name              string
		failed            []string
		ended             bool
		exit, cannot      error
		counts, violation bool
	}{
		{name: "no sync failed"},
		{name: "no sync failed and the node ended", ended: true, exit: exitOne, violation: true},
		{name: "the node ended", failed: []string{journal}, ended: true, exit: exitOne, counts: true},
		{name: "the node ended as if all were well", failed: []string{journal}, ended: true, counts: true, violation: true},
		{name: "the journal failed and the node goes on", failed: []string{table, journal}, counts: true, violation: true},
		{name: "a table failed and the node goes on", failed: []string{table}, counts: true},
		{name: "it could not be made", failed: []string{journal}, cannot: unable},
	} {
		r := &round{o: Options{Log: func(string, ...any) {}}, report: &Report{Faults: map[string]int{}}, node: &process{failed: test.exit}}
		err := r.happen(t.Context(), fault{name: "sync failed", do: func(context.Context, *round, grpc.ClientConnInterface) error {
			if len(r.report.Faults) != 0 {
				t.Errorf("%s: counted before it was done", test.name)
			}
			if test.cannot != nil {
				return test.cannot
			}
			return r.judgeSyncs(test.failed, test.ended, "how")
		}}, nil)
		if !errors.Is(err, test.cannot) || (err == nil) != (test.cannot == nil) {
			t.Errorf("%s: %v", test.name, err)
		}
		if n := r.report.Faults["sync failed"]; (n == 1) != test.counts || n > 1 || len(r.report.Faults) != n {
			t.Errorf("%s: counted %v", test.name, r.report.Faults)
		}
		if (len(r.report.Violations) > 0) != test.violation {
			t.Errorf("%s: violations %q", test.name, r.report.Violations)
		}
	}
}
