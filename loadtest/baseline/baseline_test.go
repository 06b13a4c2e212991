package baseline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	baselinev1 "github.com/granary-dev/granary/proto/granary/baseline/v1"
)

// asServer makes the test binary serve instead of testing.
const asServer = "serve-the-baseline"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == asServer {
		if err := Serve(context.Background(), ServeOptions{Dir: os.Args[2]}, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func TestRun(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"streams": {}, "scattered": {Scatter: true, Batch: 7, Streams: 2}, "unary": {Unary: 4},
		"process": {Server: []string{self, asServer}},
	} {
		t.Run(name, func(t *testing.T) {
			o.For, o.Dir, o.Accounts = 500*time.Millisecond, t.TempDir(), 1_000
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Events == 0 || r.Rate == 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Commits == 0 || r.EventBytes < payloadBytes {
				t.Errorf("%+v", r)
			}
			if left, _ := filepath.Glob(filepath.Join(o.Dir, "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestRunRefuses(t *testing.T) {
	for _, o := range []Options{{Accounts: 3}, {Batch: -1}, {Server: []string{"/nowhere/to/be/found"}}, {Server: []string{"false"}}} {
		if r, err := Run(t.Context(), o); err == nil {
			t.Errorf("%+v: got %+v", o, r)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Run(ctx, Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended early: %v", err)
	}
}

// TestCounts: the fold counts each entity's events in order, over requests for one shard and for many.
func TestCounts(t *testing.T) {
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	p := newPipeline(db)
	done := make(chan *request, 1)
	put := func(names ...string) *request {
		var events []*baselinev1.Measurement
		for _, n := range names {
			events = append(events, &baselinev1.Measurement{Entity: n})
		}
		p.put(events, &request{one: len(events) == 1, done: func(r *request) { done <- r }})
		return <-done
	}
	var many []string
	for i := range 1_000 {
		many = append(many, fmt.Sprint(i%500))
	}
	put(many...)
	put("7", "7", "7")
	if got := put("7").count; got != 6 {
		t.Errorf("counted %d events, want 6", got)
	}
	if got := put("499").count; got != 3 {
		t.Errorf("counted %d events, want 3", got)
	}
	if got := p.events.Load(); got != 1_005 {
		t.Errorf("%d events in all", got)
	}
	if err := errors.Join(p.close(), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestDurable: what was answered is in the store after a crash that loses all that was not synced.
func TestDurable(t *testing.T) {
	disk := vfs.NewCrashableMem()
	db, err := pebble.Open("", &pebble.Options{FS: disk, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	p := newPipeline(db)
	for range 20 {
		done := make(chan struct{})
		p.put([]*baselinev1.Measurement{{Entity: "x"}}, &request{done: func(*request) { close(done) }})
		<-done
	}
	after := disk.CrashClone(vfs.CrashCloneCfg{})
	if err := errors.Join(p.close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	db, err = pebble.Open("", &pebble.Options{FS: after, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	records := 0
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for it.First(); it.Valid(); it.Next() {
		records++
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	if records != 20 {
		t.Errorf("%d records are left of 20", records)
	}
}
