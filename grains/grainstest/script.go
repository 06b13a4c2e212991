package grainstest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/granary-dev/granary/grains"
)

// script runs one file of directives; the package comment says what they are.
type script struct {
	suite  Suite
	grain  *grain
	at     time.Time // of the latest event that had one
	events []Event
}

func (s Suite) runScripts(t *testing.T) {
	// Not datadriven.Walk: under testdata there may be more than scripts, as the fail files of rapid are.
	paths, err := filepath.Glob(filepath.Join(s.Scripts, "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %s/*.txt matches nothing", s.Scripts)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			sc := &script{suite: s, grain: s.newGrain()}
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				out, err := sc.run(d)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				return out
			})
			if err := sc.suite.Examine(sc.events); err != nil {
				t.Errorf("the events of the script: %v", err)
			}
		})
	}
}

func (sc *script) run(d *datadriven.TestData) (string, error) {
	switch d.Cmd {
	case "grain":
		if len(d.CmdArgs) != 1 || len(d.CmdArgs[0].Vals) != 0 {
			return "", fmt.Errorf("want: grain KEY")
		}
		if err := sc.suite.Examine(sc.events); err != nil {
			return "", fmt.Errorf("the events before: %w", err)
		}
		if err := grains.CheckKey(d.CmdArgs[0].Key); err != nil {
			return "", err
		}
		sc.suite.Key, sc.events, sc.at = d.CmdArgs[0].Key, nil, time.Time{}
		sc.grain = sc.suite.newGrain()
		return "", nil
	case "event":
		return sc.event(d)
	case "query":
		return sc.query(d)
	case "state":
		var b strings.Builder
		for _, f := range fields(sc.grain.state) {
			fmt.Fprintf(&b, "%s: %s\n", f.name, f.value)
		}
		return b.String(), nil
	}
	return "", fmt.Errorf("no directive %q; there are grain, event, query and state", d.Cmd)
}

func (sc *script) event(d *datadriven.TestData) (string, error) {
	if len(d.CmdArgs) == 0 || len(d.CmdArgs[0].Vals) != 0 {
		return "", fmt.Errorf("want: event TYPE")
	}
	typ, ok := sc.grain.kind.Event(d.CmdArgs[0].Key)
	if !ok {
		return "", fmt.Errorf("the kind %q has no event %q", sc.grain.kind.Name, d.CmdArgs[0].Key)
	}
	e := Event{Message: typ.New()}
	if err := protojson.Unmarshal([]byte(d.Input), e.Message); err != nil {
		return "", err
	}
	var at, now string
	times := 1
	for _, a := range d.CmdArgs[1:] {
		if len(a.Vals) != 1 {
			return "", fmt.Errorf("want %s=VALUE", a.Key)
		}
		var err error
		switch v := a.Vals[0]; a.Key {
		case "at":
			at = v
		case "now":
			now = v
		case "from":
			e.From, err = grains.ParseRef(v)
		case "times":
			_, err = fmt.Sscan(v, &times)
		default:
			err = fmt.Errorf("an event has no option %q", a.Key)
		}
		if err != nil {
			return "", err
		}
	}
	before, err := sc.grain.kind.DecodeState(sc.grain.wire)
	if err != nil {
		return "", err
	}
	var o outcome
	for range times {
		if e.At, err = moment(at, sc.at); err != nil {
			return "", err
		}
		if at != "" {
			sc.at = e.At
		}
		if e.Now, err = moment(now, sc.grain.now); err != nil {
			return "", err
		}
		sc.events = append(sc.events, e)
		if o, err = sc.grain.turn(e); err != nil {
			return "", err
		}
	}
	lines := []string{verdict(o.err)}
	if len(o.reply) > 0 {
		lines = append(lines, "reply "+replyText(o.reply))
	}
	for _, f := range o.effects {
		lines = append(lines, effectText(f))
	}
	for _, change := range changes(before, sc.grain.state) {
		lines = append(lines, "  "+change)
	}
	return strings.Join(lines, "\n") + "\n", nil
}

func (sc *script) query(d *datadriven.TestData) (string, error) {
	if len(d.CmdArgs) == 0 || len(d.CmdArgs[0].Vals) != 0 {
		return "", fmt.Errorf("want: query TYPE")
	}
	q, ok := sc.grain.kind.Query(d.CmdArgs[0].Key)
	if !ok {
		return "", fmt.Errorf("the kind %q has no query %q", sc.grain.kind.Name, d.CmdArgs[0].Key)
	}
	question := q.New()
	if err := protojson.Unmarshal([]byte(d.Input), question); err != nil {
		return "", err
	}
	now := sc.grain.now
	for _, a := range d.CmdArgs[1:] {
		if a.Key != "now" || len(a.Vals) != 1 {
			return "", fmt.Errorf("a query has no option %q", a.Key)
		}
		var err error
		if now, err = moment(a.Vals[0], now); err != nil {
			return "", err
		}
	}
	reply, refused, err := sc.grain.ask(q, question, now)
	if err != nil {
		return "", err
	}
	return answerText(reply, refused) + "\n", nil
}

// moment reads a time of a script: RFC 3339, or a duration behind "+" after the time before it.
func moment(text string, previous time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if !strings.HasPrefix(text, "+") {
		return time.Parse(time.RFC3339Nano, text)
	}
	d, err := time.ParseDuration(text[1:])
	if err != nil {
		return time.Time{}, err
	}
	if previous.IsZero() {
		return time.Time{}, fmt.Errorf("%s: there is no time before it", text)
	}
	return previous.Add(d), nil
}
