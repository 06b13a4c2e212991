package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/grains/catalog"
	"github.com/granary-dev/granary/loadtest/crowd"
)

func goodProbe() *crowd.Report {
	return &crowd.Report{
		Run: "abc", Seed: 42, Seconds: 10.04, JudgeSeconds: 1.23, Operations: 50_100, OK: 50_000, Failed: 60, Unknown: 40, Contended: 17_000,
		Known: 1200, Resent: 300, Reconnects: 6, Refusals: map[string]int{"Unavailable": 90, "DISK_FULL": 10},
		Latency: crowd.Latency{P50: 1.5, P99: 12, Max: 2345}, Grains: 200, Values: 29_000, Received: 9000, SecondOpinions: 10,
	}
}

func badProbe() *crowd.Report {
	r := goodProbe()
	r.Found = 22
	r.Violations = []string{"lost: probe/abc-hot-0.0: 3:17 was acknowledged and is not in the final list (#230)\x1b[2J"}
	r.Story = "probe/abc-hot-0.0\n         230ms > #230   client 3   append 3:17\n         231ms < #230   client 3   append 3:17: ok\n"
	return r
}

// TestProbeReports keeps what a run says at its end, to people and to programs, and its verdict.
func TestProbeReports(t *testing.T) {
	datadriven.RunTest(t, "testdata/load_probe.txt", func(t *testing.T, d *datadriven.TestData) string {
		r := goodProbe()
		if d.HasArg("bad") {
			r = badProbe()
		}
		if d.HasArg("nothing") {
			r = &crowd.Report{Seed: 1, Operations: 7, Unknown: 7, Refusals: map[string]int{"Unavailable": 7}, Grains: 3}
		}
		var out bytes.Buffer
		a := &app{Environment: Environment{Out: &out}}
		if d.HasArg("json") {
			a.format = formatJSON
		}
		if err := a.showProbe(r); err != nil {
			t.Fatal(err)
		}
		var f *failure
		if err := probeVerdict(r); errors.As(err, &f) {
			fmt.Fprintf(&out, "stderr:\n%s", f.text(false))
		}
		return out.String()
	})
}

// runProbe runs the command against a node.
func runProbe(address string, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = Run(context.Background(), Environment{
		Args: append([]string{"load", "run", "probe", "--target", address}, args...), In: strings.NewReader(""), Out: &o, Err: &e,
		Getenv: func(string) string { return "" },
	})
	return code, o.String(), e.String()
}

// TestProbeSurvivesARestart: the load goes on through a restart of the node, and nothing is found wrong.
func TestProbeSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	serve := func(listen string) *node.Process {
		p, err := node.Serve(context.Background(), node.ProcessOptions{Options: node.Options{DataDir: dir, Catalog: catalog.Builtin(), Shards: 8}, Listen: listen})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := serve("127.0.0.1:0")
	address := p.Addr()
	type result struct {
		code      int
		out, errs string
	}
	done := make(chan result, 1)
	go func() {
		code, out, errs := runProbe(address, "--for", "1500ms", "--pause", "2ms", "--seed", "5", "-o", "json", "--timeout", "2s")
		done <- result{code, out, errs}
	}()
	time.Sleep(500 * time.Millisecond)
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.Shutdown(now) // what it left open is the point
	p = serve(address)
	r := <-done
	if err := p.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	var report crowd.Report
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || r.code != ExitDone {
		t.Fatalf("exit %d, %v\n%s%s", r.code, err, r.out, r.errs)
	}
	if !report.Clean() || report.OK < 100 || report.Reconnects == 0 || report.Seed != 5 {
		t.Errorf("%+v", report)
	}
}

// TestProbeNeedsItsKind: a node without the kind, none at all, and flags that say nothing are told apart.
func TestProbeNeedsItsKind(t *testing.T) {
	fake := startFake(t)
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{fake.address, "--for", "1s"}, ExitFailed, "does not run the kind probe"},
		{[]string{fake.address, "--clients", "0"}, ExitUsage, "--clients"},
		{[]string{"127.0.0.1:1", "--for", "1s"}, ExitUnreachable, "load run probe"},
	} {
		if code, out, errs := runProbe(test.args[0], test.args[1:]...); code != test.code || !strings.Contains(errs, test.want) {
			t.Errorf("%v: exit %d\n%s%s", test.args, code, out, errs)
		}
	}
}
