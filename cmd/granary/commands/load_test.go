package commands

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/granary-dev/granary/loadtest/driver"
	"github.com/granary-dev/granary/loadtest/ledger"
	"github.com/granary-dev/granary/loadtest/ratings"
)

func goodLoad() (*driver.Report, *ledger.Report) {
	return &driver.Report{
			Source: "loadtest/x", Sent: 1_000_000, Acknowledged: 1_000_000, Seconds: 12.34, Rate: 81_037.2,
			Latency: driver.Latency{P50: 1.234, P90: 4.5, P99: 12.3, P999: 101, Max: 123.4, Mean: 2},
		}, &ledger.Report{
			Sent: 1_000_000, Acknowledged: 1_000_000, Checked: 1_000_000, Folded: 1_000_000, Passed: 1_000_000,
			Accounts: 4990, Merchants: 10_000, Seconds: 5.5,
		}
}

func badLoad() (*driver.Report, *ledger.Report) {
	r, l := goodLoad()
	r.Acknowledged, r.Refused, r.Unknown, r.Duplicates, r.Reconnects, r.Late = 999_990, 7, 3, 200, 2, 1500
	r.Refusals = map[string]uint64{"INVALID_ARGUMENT BAD_TIME": 5, "FAILED_PRECONDITION REJECTED": 2}
	l.Missing, l.Twice, l.PassedMissing, l.WrongStates, l.Foreign = 1, 2, 1, 3, 4
	l.Findings = []string{"account/7: event 12 was acknowledged and is not there\x1b[2J"}
	return r, l
}

// TestLoadReports keeps what a run says at its end, to people and to programs, and its verdict.
func TestLoadReports(t *testing.T) {
	datadriven.RunTest(t, "testdata/load.txt", func(t *testing.T, d *datadriven.TestData) string {
		r, l := goodLoad()
		if d.HasArg("bad") {
			r, l = badLoad()
		}
		if d.HasArg("unproven") {
			l = nil
		}
		if d.HasArg("nothing") {
			r.Acknowledged, r.Refused, r.Refusals = 0, r.Sent, map[string]uint64{"NOT_FOUND UNKNOWN_KIND": r.Sent}
		}
		report := loadReport{Load: r, Ledger: l}
		if d.HasArg("foretold") {
			l.Accounts, l.Merchants, l.Users, l.Products = 0, 0, 610, 9_709
			report.Quality = &ratings.Quality{Users: 609, Hits: 47, PopularHits: 26, ByChance: 0.64, Empty: 5}
		}
		var out bytes.Buffer
		a := &app{Environment: Environment{Out: &out}}
		if d.HasArg("json") {
			a.format = formatJSON
		}
		if err := a.showLoad(report); err != nil {
			t.Fatal(err)
		}
		var f *failure
		if err := loadVerdict("load run transactions", "account and merchant", report); errors.As(err, &f) {
			fmt.Fprintf(&out, "stderr:\n%s", f.text(false))
		}
		return out.String()
	})
}

func TestLoadFlags(t *testing.T) {
	for text, want := range map[string]eventRate{"max": 0, "20000": 20000, "0.5": 0.5, "1e3": 1000} {
		var r eventRate
		if err := r.Set(text); err != nil || r != want {
			t.Errorf("--rate %s: %v, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "NaN", "Inf", "fast"} {
		var r eventRate
		if err := r.Set(text); err == nil {
			t.Errorf("--rate %q became %v", text, r)
		}
	}
	l := load{loadShape: loadShape{from: "no-such-file.csv.gz"}}
	if _, _, err := l.feed(); err == nil || !strings.Contains(err.Error(), "no-such-file.csv.gz") {
		t.Errorf("no file: %v", err)
	}
	for want, l := range map[string]loadRatings{
		"no-such-file.csv.gz": {loadShape: loadShape{from: "no-such-file.csv.gz"}},
		"negative":            {parameters: ratings.Parameters{Users: -1}},
	} {
		if _, err := l.ratings(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something with %q", err, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"1B": 1, "64KiB": 64 << 10, "256MiB": 256 << 20, "1GiB": 1 << 30, "3 MiB": 3 << 20} {
		var b byteSize
		if err := b.Set(text); err != nil || int64(b) != want {
			t.Errorf("%s: %d, %v", text, b, err)
		}
	}
	for _, text := range []string{"", "256", "256MB", "-1MiB", "0GiB", "99999999999GiB", "MiB"} {
		var b byteSize
		if err := b.Set(text); err == nil {
			t.Errorf("%q became %d", text, b)
		}
	}
	for n, want := range map[byteSize]string{1: "1B", 1 << 10: "1KiB", 256 << 20: "256MiB", 2 << 30: "2GiB", 1536: "1536B"} {
		if n.String() != want {
			t.Errorf("%d is %s", n, &n)
		}
	}
}
