package crash_test

import (
	"context"
	"flag"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/granary-dev/granary/grains/catalog"
	"github.com/granary-dev/granary/loadtest/crash"
	"github.com/granary-dev/granary/persistence/verify"
)

var (
	seeds  = flag.Int("seeds", 0, "seeds to run on the file system that crashes; 0 takes as many as CI does")
	seed   = flag.Uint64("seed", 0, "run this seed only; 0 takes fresh ones")
	rounds = flag.Int("rounds", 3, "rounds of kill -9 of the real binary")
)

// usualSeeds is how many seeds CI runs.
var usualSeeds = 100

// check runs the independent reader over a data folder after a clean stop.
func check(o verify.Options) func() error {
	return func() error {
		o.Catalog = catalog.Builtin()
		r, err := verify.Run(context.Background(), o)
		if err == nil && !r.OK() {
			err = &whole{r}
		}
		return err
	}
}

type whole struct{ r *verify.Report }

func (w *whole) Error() string {
	text := "verify:"
	for _, f := range w.r.Findings {
		text += "\n" + f.String()
	}
	return text
}

func add(total *crash.Report, r *crash.Report) {
	total.Acknowledged += r.Acknowledged
	total.Folded += r.Folded
	total.Unknown += r.Unknown
	total.Duplicates += r.Duplicates
	total.Crashes += r.Crashes
}

// TestPowerCuts: whatever of the unsynced data a crash leaves, nothing acknowledged is lost, nothing happens twice,
// order is kept, and sends arrive exactly once.
func TestPowerCuts(t *testing.T) {
	first, n := uint64(time.Now().UnixNano())%1e9+1, *seeds
	if n == 0 {
		n = usualSeeds
	}
	if *seed != 0 {
		first, n = *seed, 1
	}
	var total crash.Report
	for s := first; s < first+uint64(n); s++ {
		host := crash.NewMemory(catalog.Builtin(), s)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		r, err := crash.Run(ctx, crash.Options{Seed: s, Host: host, Check: func() error {
			fs, dir := host.FS()
			return check(verify.Options{FS: fs, Dir: dir})()
		}})
		cancel()
		if err != nil {
			t.Fatalf("seed %d: %v\nrepeat with: go test ./loadtest/crash -run %s -count 20 -seed %d", s, err, t.Name(), s)
		}
		add(&total, r)
	}
	t.Logf("seeds %d to %d: %+v", first, first+uint64(n)-1, total)
	if total.Acknowledged < 50*n {
		t.Errorf("only %d events were acknowledged: the test shows nothing", total.Acknowledged)
	}
}

// TestKillNine: the same with the real binary on the real disk, ended by kill -9 under load.
func TestKillNine(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "granary")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/granary-dev/granary/cmd/granary").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	_ = l.Close()
	s := uint64(time.Now().UnixNano())%1e9 + 1
	if *seed != 0 {
		s = *seed
	}
	data := filepath.Join(dir, "data")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second+time.Duration(*rounds)*5*time.Second)
	defer cancel()
	r, err := crash.Run(ctx, crash.Options{Seed: s, Crashes: *rounds, Shortest: 50 * time.Millisecond, Longest: 700 * time.Millisecond,
		Host: &crash.Process{Binary: binary, DataDir: data, Listen: listen}, Check: check(verify.Options{Dir: data})})
	if err != nil {
		t.Fatalf("seed %d: %v\nrepeat with: go test ./loadtest/crash -run %s -seed %d", s, err, t.Name(), s)
	}
	t.Logf("seed %d: %+v", s, *r)
}
