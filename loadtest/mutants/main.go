// Command mutants plants one bug after the other in the production code and lets the simulation look for it. A bug that is
// not found within the seeds given is a hole in the tests.
//
// Nothing of it is in the code that runs: each bug is a few lines that are replaced in a copy (mutants.txt says which),
// and the copy stands in for the file while the simulation is compiled (go build -overlay).
//
// With -rules it says instead which rules of the judge see each bug, while the independent reader of the journal, who is
// often first, looks away; and which rules none of them has broken.
//
//	go run ./loadtest/mutants [-seeds 200] [-only NAME] [-rules]
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
	"slices"
	"strings"
	"time"

	"github.com/granary-dev/granary/loadtest/judge"
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
	rules := flag.Bool("rules", false, "say which rules of the judge see each bug, within as many seeds")
	flag.Parse()
	mutants, err := parse(list)
	mutants = slices.DeleteFunc(mutants, func(m *mutant) bool { return *only != "" && m.name != *only })
	switch {
	case err != nil:
	case *rules:
		err = runRules(mutants, *seeds)
	default:
		err = run(mutants, *seeds)
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

func run(mutants []*mutant, seeds int) error {
	survived := 0
	for _, m := range mutants {
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

// runRules prints the rules that see each bug.
func runRules(mutants []*mutant, seeds int) error {
	seen := map[judge.Rule]bool{}
	for _, m := range mutants {
		// told seed by seed (-test.v), because a bug may also make a seed hang: then those before it count
		out, _, err := m.simulate("-test.v", "-test.timeout", "5m", "-seeds", fmt.Sprint(seeds), "-verify=false")
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		var broken []string
		for _, rule := range judge.Rules() {
			if n := len(regexp.MustCompile(`(?m)^\s*`+string(rule)+`: `).FindAll(out, -1)); n > 0 {
				seen[rule] = true
				broken = append(broken, fmt.Sprintf("%s %d", rule, n))
			}
		}
		fmt.Printf("%-28s %s\n", m.name, strings.Join(broken, ", "))
	}
	for _, rule := range judge.Rules() {
		if !seen[rule] {
			fmt.Printf("no bug has broken %q: %s\n", rule, rule.Doc())
		}
	}
	return nil
}

// first finds the seed and the first thing that a failing run says.
var first = regexp.MustCompile(`(?s)seed (\d+) after [^\n]*:\n\s*([^\n]*)`)

// firstSeed of each run.
const firstSeed = 1

// simulate builds the simulation with the bug in it, runs it, and returns what it prints and whether it failed.
func (m *mutant) simulate(flags ...string) (out []byte, failed bool, err error) {
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	here, err := os.Getwd()
	if err != nil {
		return nil, false, err
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
			return nil, false, err
		}
		if n := bytes.Count(code, []byte(e.old)); n != 1 {
			return nil, false, fmt.Errorf("the lines to replace stand in %s %d times, not once", e.file, n)
		}
		copied := filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(copied, bytes.Replace(code, []byte(e.old), []byte(e.new), 1), 0o600); err != nil {
			return nil, false, err
		}
		replace[path] = copied
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, false, err
	}
	file, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sim.test")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return nil, false, err
	}
	if out, err := exec.Command("go", "test", "-overlay", file, "-c", "-o", binary, "./loadtest/sim").CombinedOutput(); err != nil {
		return nil, false, fmt.Errorf("does not build: %w\n%s", err, out)
	}
	run := exec.Command(binary, append([]string{"-test.run", "TestSeeds", "-test.timeout", "30m", "-seed", fmt.Sprint(firstSeed), "-timeline", "0"}, flags...)...)
	out, err = run.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out, true, nil
	}
	return out, false, err
}

// try lets the simulation run until a seed fails.
func (m *mutant) try(seeds int) (found string, err error) {
	start := time.Now()
	out, failed, err := m.simulate("-test.failfast", "-seeds", fmt.Sprint(seeds))
	if err != nil || !failed {
		return "", err
	}
	if match := first.FindSubmatch(out); match != nil {
		var seed int
		if _, err := fmt.Sscan(string(match[1]), &seed); err != nil {
			return "", err
		}
		return fmt.Sprintf("found after %d seeds, %.1f s: %.150s", seed-firstSeed+1, time.Since(start).Seconds(), match[2]), nil
	}
	if at := bytes.Index(out, []byte("panic: ")); at >= 0 && !bytes.Contains(out, []byte("panic: test timed out")) {
		return fmt.Sprintf("found, %.1f s: %.150s", time.Since(start).Seconds(), out[at:]), nil
	}
	// a seed that proves little, say, has not found the bug
	return "", fmt.Errorf("the simulation failed without a violation:\n%.1000s", out)
}
