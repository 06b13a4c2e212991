// Command mutants plants one bug after the other in the production code and lets the simulation look for it. A bug that is
// not found within the seeds given is a hole in the tests.
//
// Nothing of it is in the code that runs: each bug is a few lines that are replaced in a copy (mutants.txt says which),
// and the copy stands in for the file while the simulation is compiled (go build -overlay).
//
//	go run ./loadtest/mutants [-seeds 200] [-only NAME]
package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

//go:embed mutants.txt
var list string

// mutant is a bug to plant.
type mutant struct {
	name  string
	about string
	edits []edit
}

// edit replaces a text that stands in a file exactly once.
type edit struct{ file, old, new string }

func main() {
	seeds := flag.Int("seeds", 200, "within how many seeds a bug must be found")
	only := flag.String("only", "", "only the bug of this name")
	flag.Parse()
	mutants, err := parse(list)
	if err == nil {
		err = run(mutants, *seeds, *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// parse reads the list: "# name: what it is about", then for each edit "@ file", the old lines with - in front, and the
// new ones with +.
func parse(text string) (mutants []*mutant, err error) {
	var e *edit
	for i, line := range strings.Split(text, "\n") {
		mark, rest := "", ""
		if line != "" {
			mark, rest = line[:1], strings.TrimPrefix(line[1:], " ")
		}
		switch {
		case mark == "":
		case mark == "#":
			name, about, ok := strings.Cut(rest, ": ")
			if !ok {
				return nil, fmt.Errorf("mutants.txt:%d: no name", i+1)
			}
			mutants = append(mutants, &mutant{name: name, about: about})
		case mark == "@" && len(mutants) > 0:
			m := mutants[len(mutants)-1]
			m.edits = append(m.edits, edit{file: rest})
			e = &m.edits[len(m.edits)-1]
		case mark == "-" && e != nil:
			e.old += line[1:] + "\n"
		case mark == "+" && e != nil:
			e.new += line[1:] + "\n"
		default:
			return nil, fmt.Errorf("mutants.txt:%d: %q is not understood", i+1, line)
		}
	}
	return mutants, nil
}

func run(mutants []*mutant, seeds int, only string) error {
	survived := 0
	for _, m := range mutants {
		if only != "" && m.name != only {
			continue
		}
		found, err := m.try(seeds)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if found == "" {
			survived++
			found = fmt.Sprintf("SURVIVED %d seeds", seeds)
		}
		fmt.Printf("%-28s %s\n", m.name, found)
	}
	if survived > 0 {
		return fmt.Errorf("%d bugs were not found", survived)
	}
	return nil
}

// first finds the seed and the first thing that a failing run says.
var first = regexp.MustCompile(`(?s)seed (\d+) after [^\n]*:\n\s*([^\n]*)`)

// try builds the simulation with the bug in it and runs it until a seed fails.
func (m *mutant) try(seeds int) (found string, err error) {
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for i, e := range m.edits {
		path := filepath.Join(here, e.file)
		from := path
		if replace[path] != "" {
			from = replace[path]
		}
		code, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		if n := bytes.Count(code, []byte(e.old)); n != 1 {
			return "", fmt.Errorf("the lines to replace stand in %s %d times, not once", e.file, n)
		}
		copied := filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(copied, bytes.Replace(code, []byte(e.old), []byte(e.new), 1), 0o600); err != nil {
			return "", err
		}
		replace[path] = copied
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sim.test")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "test", "-overlay", file, "-c", "-o", binary, "./loadtest/sim").CombinedOutput(); err != nil {
		return "", fmt.Errorf("does not build: %w\n%s", err, out)
	}
	start := time.Now()
	const firstSeed = 1
	out, err := exec.Command(binary, "-test.run", "TestSeeds", "-test.failfast", "-test.timeout", "10m",
		"-seed", fmt.Sprint(firstSeed), "-seeds", fmt.Sprint(seeds), "-timeline", "0").CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	if err == nil {
		return "", nil
	}
	if match := first.FindSubmatch(out); match != nil {
		var seed int
		if _, err := fmt.Sscan(string(match[1]), &seed); err != nil {
			return "", err
		}
		return fmt.Sprintf("found after %d seeds, %.1f s: %.150s", seed-firstSeed+1, time.Since(start).Seconds(), match[2]), nil
	}
	if at := bytes.Index(out, []byte("panic: ")); at >= 0 {
		return fmt.Sprintf("found, %.1f s: %.150s", time.Since(start).Seconds(), out[at:]), nil
	}
	// a seed that proves little, say, has not found the bug
	return "", fmt.Errorf("the simulation failed without a violation:\n%.1000s", out)
}
