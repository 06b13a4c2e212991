// Package grainstest is the test kit for kinds: give it a kind and a way to make events, and it finds out whether the
// kind keeps the promises that the runtime builds on.
//
//	func TestAccount(t *testing.T) {
//		grainstest.Check(t, grainstest.Suite{
//			Kind: account.Kind.MustDefine(), Generate: generate, Scripts: "testdata",
//		})
//	}
//
// Here live scripts (files that tell a story and its outcome) and the checks on random sequences of events:
//
//   - determinism: the same events give the same outcomes, effects and state bytes, with a used and with a fresh runner;
//   - snapshot: a grain that is encoded and decoded after every event goes on exactly like one that never was;
//   - queries: a question asked twice has the same answer, and changes neither the state nor itself;
//   - reject: a refused event leaves the state's bytes as they were and sends nothing; no event is changed by its
//     handler; nothing is dead-lettered.
//
// A failure of a random sequence is shrunk, and ends with the flags that repeat it. Here never live a shard, a journal or
// a clock: everything is decided by the suite. What one process cannot see (an order that is the same for a whole
// process, another GOARCH) is for the scripts to catch: their expected output comes from another run.
//
// # Scripts
//
// A script is a file of directives. Each is a line, perhaps with input under it, then "----" and what must come out.
// `go test -rewrite` writes the files anew; the diff is then to be read as a change of behaviour.
//
//	grain KEY
//	    Goes on with a new grain of the kind; a file need not begin with this.
//	event TYPE [at=TIME] [now=TIME] [from=KIND/KEY] [times=N]
//	    Gives the grain an event of the type, whose JSON is the input. TIME is RFC 3339, or "+1h30m": that much after
//	    the time before it. at is the event time (none if left out), now the journal time, from the grain that sent it.
//	    times repeats the event, each with its own relative time. Prints what came of it (of the last, if repeated), its
//	    effects, and the fields of the state that changed.
//	query TYPE [now=TIME]
//	    Puts a question of the type, whose JSON is the input, to the grain, and prints the answer. now is the time that it
//	    is for the question; that of the last event if left out.
//	state
//	    Prints the whole state.
//
// At the end of a file, and before each "grain", all checks are run on the events so far.
//
// Invariant: the kit hands a kind its events in wire form and takes its states in wire form, as the runtime does, so
// nothing passes here by staying in memory.
package grainstest

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains"
)

// Suite is what the kit needs to know of a kind.
type Suite struct {
	// Kind under test.
	Kind *grains.Definition
	// Key of the grain under test. Default "1".
	Key string
	// Generate draws a sequence of events, with a share of bad ones that the kind should reject. Nil leaves out the
	// checks on random sequences.
	Generate func(*rapid.T) []Event
	// Questions are put to the kind's queries after each event, beside the empty question of each query.
	Questions []proto.Message
	// Scripts is a folder whose *.txt files are scripts, in the form that the package comment tells. Empty means none.
	Scripts string
}

// Event is one event for the grain under test.
type Event struct {
	// Message of one of the kind's event types.
	Message proto.Message
	// At is the event time. Zero means that the publisher gave none.
	At time.Time
	// Now is the journal time. Zero means the event time. It never runs backwards: what is not after the previous event's
	// means a millisecond after that.
	Now time.Time
	// From is the grain that sent the event. Zero means a client.
	From grains.Ref
}

// Check runs all scripts and checks of a suite, each as a subtest.
func Check(t *testing.T, s Suite) {
	t.Helper()
	if s.Scripts != "" {
		t.Run("scripts", func(t *testing.T) { s.runScripts(t) })
	}
	if s.Generate == nil {
		return
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				if err := c.run(s, s.Generate(rt)); err != nil {
					rt.Fatalf("%s: %v", c.name, err)
				}
			})
		})
	}
}

// Examine runs all checks on one sequence of events and returns the first failure. [Check] is this on many sequences.
func (s Suite) Examine(events []Event) error {
	for _, c := range checks {
		if err := c.run(s, events); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}
