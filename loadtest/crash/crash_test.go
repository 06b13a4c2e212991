package crash_test

import (
	"context"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/grains/catalog"
	"github.com/granary-dev/granary/loadtest/crash"
	"github.com/granary-dev/granary/persistence/verify"
)

var (
	seeds = flag.Int("seeds", 0, "seeds to run; 0 takes as many as CI does")
	seed  = flag.Uint64("seed", 0, "run this seed only; 0 takes fresh ones")
)

// usualSeeds is how many seeds CI runs.
var usualSeeds = 100

// readByOthers runs the independent reader over a data folder after a clean stop.
func readByOthers(fs vfs.FS, dir string) error {
	r, err := verify.Run(context.Background(), verify.Options{FS: fs, Dir: dir, Catalog: catalog.Builtin()})
	if err == nil && !r.OK() {
		err = &wrong{r}
	}
	return err
}

type wrong struct{ r *verify.Report }

func (w *wrong) Error() string {
	text := "verify:"
	for _, f := range w.r.Findings {
		text += "\n" + f.String()
	}
	return text
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
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		r, err := crash.Run(ctx, crash.Options{Seed: s, Catalog: catalog.Builtin(), Check: readByOthers})
		cancel()
		if r != nil && !r.Clean() {
			t.Errorf("seed %d: %d violations, the first:\n%s\n%s", s, r.Found, strings.Join(r.Violations, "\n"), r.Story)
		}
		if err != nil {
			t.Errorf("seed %d: %v", s, err)
		}
		if t.Failed() {
			t.Fatalf("again: go test ./loadtest/crash -run %s -count 20 -seed %d", t.Name(), s)
		}
		total.Crashes += r.Crashes
		total.OK, total.Failed, total.Unknown, total.Contended = total.OK+r.OK, total.Failed+r.Failed, total.Unknown+r.Unknown, total.Contended+r.Contended
		total.Known, total.Resent, total.Received = total.Known+r.Known, total.Resent+r.Resent, total.Received+r.Received
	}
	t.Logf("seeds %d to %d, %d crashes: %d operations ok, %d failed, %d unknown, %d on contended grains; %d known, %d sent again, %d sends received",
		first, first+uint64(n)-1, total.Crashes, total.OK, total.Failed, total.Unknown, total.Contended, total.Known, total.Resent, total.Received)
	if total.OK < 50*n || total.Received < 5*n || total.Known < n || total.Resent < uint64(n) {
		t.Errorf("so little happened that it shows nothing")
	}
}
