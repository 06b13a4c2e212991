package sim

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/probe"
	"github.com/granary-dev/granary/loadtest/workload"
	"github.com/granary-dev/granary/persistence/verify"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
)

// usualSeeds is how many seeds a plain run of the tests has.
var usualSeeds = 70

var (
	seeds    = flag.Int("seeds", 0, "how many seeds to run")
	seed     = flag.Uint64("seed", 0, "the first seed; by default one that belongs to the commit")
	virtual  = flag.Duration("virtual", time.Minute, "how long faults happen, in virtual time")
	reader   = flag.Bool("verify", true, "let the independent reader look at each data folder")
	timeline = flag.Int("timeline", 60, "how many lines of the timeline a failure shows")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *seeds == 0 {
		*seeds = usualSeeds
	}
	os.Exit(m.Run())
}

// seedOfCommit is the same for all runs of one commit, so that what is red stays red, and another one for each commit.
func seedOfCommit() uint64 {
	out, err := exec.Command("git", "rev-parse", "HEAD").Output()
	if err != nil {
		return 1
	}
	return xxhash.Sum64(out) >> 24
}

// binaries are catalogs with the versions 1 to 4 of the kind probe, each with those before it. They do the same: what is tried
// is that a raise loses nothing and shows nowhere.
func binaries() (all []*grains.Catalog) {
	for version := uint32(1); version <= 4; version++ {
		k := probe.Kind
		k.Version = version
		for v := uint32(1); v < version; v++ {
			k.Earlier = append(k.Earlier, grains.Logic[*probev1.Probe]{Version: v, Handlers: k.Handlers})
		}
		c, err := grains.NewCatalog(k.MustDefine())
		if err != nil {
			panic(err)
		}
		all = append(all, c)
	}
	return all
}

// readByOthers is the independent reader.
func readByOthers(disk *Disk, dir string) error {
	r, err := verify.Run(context.Background(), verify.Options{Dir: dir, FS: disk, Catalog: binaries()[3]})
	if err != nil {
		return err
	}
	if len(r.Findings) > 0 {
		return fmt.Errorf("%d findings: %v", r.Total, r.Findings[0])
	}
	if r.UnrunGrains > 0 {
		return fmt.Errorf("%d grains cannot be checked: %v", r.UnrunGrains, r.Unrun)
	}
	return nil
}

//go:embed testdata/seeds.txt
var failed string

// runs are the seeds of this run of the tests: those that once failed, if none was asked for, and the fresh ones.
func runs(t *testing.T) (all []uint64) {
	t.Helper()
	if *seed == 0 {
		for line := range strings.Lines(failed) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			var s uint64
			if _, err := fmt.Sscan(line, &s); err != nil {
				t.Fatalf("testdata/seeds.txt: %q: %v", line, err)
			}
			all = append(all, s)
		}
	}
	first := *seed
	if first == 0 {
		first = seedOfCommit()
	}
	for i := range uint64(*seeds) {
		all = append(all, first+i)
	}
	return all
}

// TestSameSeedSameRun: a seed gives the same run twice, to the last byte of its trace.
func TestSameSeedSameRun(t *testing.T) {
	for _, s := range runs(t) {
		var lines [2][]string
		var hashes [2]uint64
		for i := range hashes {
			r := Run(t, Options{Seed: s, Virtual: *virtual, Catalog: binaries()[0], Raised: binaries()[1:], Timeline: 1 << 20})
			hashes[i], lines[i] = r.Hash, r.Timeline
		}
		if hashes[0] == hashes[1] {
			continue
		}
		for i, line := range lines[0] {
			if i >= len(lines[1]) || line != lines[1][i] {
				t.Errorf("seed %d: line %d is\n%s\nand then\n%s", s, i, line, append(lines[1], "nothing")[min(i, len(lines[1]))])
				break
			}
		}
	}
}

// TestDamagedTables lets bits flip in tables: what is read there is named and never served, and nothing is lost once the
// file is brought back. These runs are not the same twice; it is their outcome that counts.
func TestDamagedTables(t *testing.T) {
	found, flipped := 0, 0
	all := runs(t)
	all = all[:min(len(all), max(1, usualSeeds/5))]
	for _, s := range all {
		r := Run(t, Options{Seed: s, Virtual: *virtual, Catalog: binaries()[0], Raised: binaries()[1:], Timeline: *timeline, Verify: readByOthers, Tables: true})
		if err := r.Problem(fmt.Sprintf("go test ./loadtest/sim -run TestDamagedTables -seed %d -seeds 1", s)); err != nil {
			t.Fatal(err)
		}
		found, flipped = found+r.Faults["flipped bit found"], flipped+r.Faults["bit flipped"]
	}
	if t.Logf("%d bits flipped, %d of them were read", flipped, found); len(all) >= 20 && found == 0 {
		t.Error("nobody ever read a table")
	}
}

// TestSeeds runs seeds and lets the judges speak.
func TestSeeds(t *testing.T) {
	faults := map[string]int{}
	var totals workload.Totals
	var crashes, violations int
	var went time.Duration
	all := runs(t)
	for _, s := range all {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			start := time.Now()
			o := Options{Seed: s, Virtual: *virtual, Catalog: binaries()[0], Raised: binaries()[1:], Timeline: *timeline}
			if *reader {
				o.Verify = readByOthers
			}
			r := Run(t, o)
			violations += len(r.Violations)
			if err := r.Problem(fmt.Sprintf("go test ./loadtest/sim -run TestSeeds -seeds 1 -seed %d -virtual %v", s, *virtual)); err != nil {
				t.Fatal(err)
			}
			for fault, n := range r.Faults {
				faults[fault] += n
			}
			totals.OK, totals.Failed, totals.Unknown, totals.Contended = totals.OK+r.OK, totals.Failed+r.Failed, totals.Unknown+r.Unknown, totals.Contended+r.Contended
			crashes, went = crashes+r.Crashes, went+r.Virtual
			if *virtual >= time.Minute && (r.OK < 2000 || len(r.Faults) < 3 || r.Crashes == 0) {
				t.Errorf("seed %d proves little: %+v, %d crashes, faults %v", s, r.Totals, r.Crashes, r.Faults)
			}
			if testing.Verbose() {
				t.Logf("seed %d: %+v, %d duplicates, %d crashes, %v, hash %016x, %v virtual in %v", s, r.Totals, r.Duplicates, r.Crashes, r.Faults, r.Hash, r.Virtual, time.Since(start))
			}
		})
	}
	t.Logf("%d seeds from %d, %.1f virtual hours: %d operations judged %+v, %d crashes, faults %v, violations %d", len(all), all[len(all)-1]+1-uint64(*seeds), went.Hours(),
		totals.OK+totals.Failed+totals.Unknown, totals, crashes, faults, violations)
}
