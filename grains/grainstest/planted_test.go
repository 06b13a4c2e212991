package grainstest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains"
)

// The kinds here keep the words they are told, in a message that any protobuf library has. One keeps its promises, each
// of the others breaks one in a way that has happened to people.
type (
	words = fieldmaskpb.FieldMask
	word  = wrapperspb.StringValue
)

func kind(fold func(*grains.Turn, *words, *word) error) *grains.Definition {
	return grains.Kind[*words]{
		Name: "words", Version: 1, Handlers: grains.Handlers[*words]{grains.On(fold)},
	}.MustDefine()
}

func honest(t *grains.Turn, s *words, e *word) error {
	if e.Value == "" {
		return grains.Reject("no word")
	}
	s.Paths = append(s.Paths, e.Value)
	t.Send("words/"+e.Value, e)
	return nil
}

var (
	globalCount int
	sideCache   = map[*words]int{}
)

var planted = []struct {
	name string
	// check that must fail, and a word of what it must say.
	check, says string
	fold        func(*grains.Turn, *words, *word) error
}{
	{"map order in effects", "determinism", "effect", func(t *grains.Turn, s *words, e *word) error {
		set := map[string]bool{}
		for _, r := range "abcdef" {
			set[e.Value+string(r)] = true
		}
		for w := range set {
			t.Send("words/"+w, e)
		}
		return honest(t, s, e)
	}},
	{"map order in state", "determinism", "states differ", func(_ *grains.Turn, s *words, e *word) error {
		set := map[string]bool{}
		for _, r := range "abcdef" {
			set[e.Value+string(r)] = true
		}
		s.Paths = s.Paths[:0]
		for w := range set {
			s.Paths = append(s.Paths, w)
		}
		return nil
	}},
	{"a global counter", "determinism", "states differ", func(_ *grains.Turn, s *words, e *word) error {
		globalCount++
		s.Paths = []string{fmt.Sprint(e.Value, globalCount)}
		return nil
	}},
	{"the clock", "determinism", "states differ", func(_ *grains.Turn, s *words, _ *word) error {
		s.Paths = append(s.Paths, fmt.Sprint(time.Now().UnixNano()))
		return nil
	}},
	{"a coin tossed to reject", "determinism", "outcomes differ", func(_ *grains.Turn, _ *words, _ *word) error {
		if rand.IntN(2) == 0 {
			return grains.Reject("bad luck")
		}
		return nil
	}},
	{"a change before the reject", "reject", "the state changed", func(_ *grains.Turn, s *words, e *word) error {
		s.Paths = append(s.Paths, e.Value)
		if e.Value == "" {
			return grains.Reject("no word")
		}
		return nil
	}},
	{"a panic", "reject", "dead-lettered", func(_ *grains.Turn, s *words, e *word) error {
		if len(s.Paths) > 2 {
			panic("three are enough")
		}
		s.Paths = append(s.Paths, e.Value)
		return nil
	}},
	{"an error that is no reject", "reject", "dead-lettered", func(_ *grains.Turn, _ *words, e *word) error {
		if e.Value == "" {
			return errors.New("no word")
		}
		return nil
	}},
	{"a send to nowhere", "reject", "dead-lettered", func(t *grains.Turn, _ *words, e *word) error {
		t.Send("words/"+e.Value, e) // the key is empty when the word is
		return nil
	}},
	{"a change of the event", "reject", "changed the event", func(t *grains.Turn, s *words, e *word) error {
		e.Value = strings.ToUpper(e.Value)
		return honest(t, s, e)
	}},
	// It stays the same from run to run, as the cache starts empty with each new state; but it is not in the snapshot.
	{"a figure kept beside the state", "snapshot", "states differ", func(_ *grains.Turn, s *words, e *word) error {
		sideCache[s]++
		s.Paths = []string{fmt.Sprint(e.Value, sideCache[s])}
		return nil
	}},
	// Wire form knows no difference between a list that is empty and one that is not there.
	{"a list that is empty but not nil", "snapshot", "states differ", func(_ *grains.Turn, s *words, e *word) error {
		if s.Paths == nil {
			s.Paths = []string{}
			return nil
		}
		s.Paths = append(s.Paths, e.Value)
		return nil
	}},
	{"the room behind a list", "snapshot", "states differ", func(_ *grains.Turn, s *words, e *word) error {
		if len(s.Paths) > 0 && cap(s.Paths) > len(s.Paths) {
			s.Paths = s.Paths[:1]
		}
		s.Paths = append(s.Paths, e.Value)
		return nil
	}},
}

func generate(rt *rapid.T) []Event {
	var events []Event
	for range rapid.IntRange(0, 20).Draw(rt, "events") {
		w := rapid.SampledFrom([]string{"", "ash", "birch", "cedar"}).Draw(rt, "word")
		events = append(events, Event{Message: &word{Value: w}})
	}
	return events
}

// plantedVar makes [TestPlantedChild] run the kit on a bad kind.
const plantedVar = "GRAINSTEST_PLANTED"

// TestPlanted plants each bug and runs the kit on it, in a process of its own because the kit is meant to fail. It then
// does what the failure says and expects it again.
func TestPlanted(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) (string, error) {
		args = append(args, "-test.run=^TestPlantedChild$", "-rapid.nofailfile", "-rapid.shrinktime=100ms")
		cmd := exec.Command(self, args...)
		cmd.Env = append(os.Environ(), plantedVar+"="+name)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("nothing"); err != nil {
		t.Fatalf("the kit found fault with a kind that has none:\n%s", out)
	}
	seedFlag := regexp.MustCompile(`-rapid\.seed=[0-9]+`)
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			out, err := run(p.name)
			if err == nil {
				t.Fatal("the kit did not notice")
			}
			if !strings.Contains(out, "--- FAIL: TestPlantedChild/"+p.check) || !strings.Contains(out, p.says) {
				t.Errorf("want the check %q to fail and to say %q:\n%s", p.check, p.says, out)
			}
			seed := seedFlag.FindString(out)
			if seed == "" {
				t.Fatalf("the failure does not say how to repeat it:\n%s", out)
			}
			if out, err := run(p.name, seed); err == nil || !strings.Contains(out, p.says) {
				t.Errorf("not repeated with %s:\n%s", seed, out)
			}
		})
	}
}

func TestPlantedChild(t *testing.T) {
	name := os.Getenv(plantedVar)
	if name == "" {
		t.Skip("run by TestPlanted")
	}
	fold := honest
	for _, p := range planted {
		if p.name == name {
			fold = p.fold
		}
	}
	Check(t, Suite{Kind: kind(fold), Generate: generate})
}

// TestExamine is the kit without rapid: one sequence, one error.
func TestExamine(t *testing.T) {
	var events []Event
	for _, w := range []string{"ash", "", "birch", "birch", "cedar", ""} {
		events = append(events, Event{Message: &word{Value: w}})
	}
	if err := (Suite{Kind: kind(honest)}).Examine(events); err != nil {
		t.Errorf("a kind without fault: %v", err)
	}
	for _, p := range planted {
		err := Suite{Kind: kind(p.fold)}.Examine(events)
		if err == nil || !strings.Contains(err.Error(), p.says) {
			t.Errorf("%s: %v", p.name, err)
		}
	}
}

// TestScripts is the kit's own script, on the kind without fault.
func TestScripts(t *testing.T) {
	Check(t, Suite{Kind: kind(honest), Scripts: "testdata"})
}
