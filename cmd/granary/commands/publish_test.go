package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eventLines are n events for a few grains, each with some bytes of filler.
func eventLines(n, filler int) string {
	var b strings.Builder
	text := strings.Repeat("x", filler)
	for i := range n {
		fmt.Fprintf(&b, `{"specversion":"1.0","id":"e%d","source":"/s","type":"Charged","subject":"account/%d","data":{"x":%q}}`+"\n", i, i%7, text)
	}
	return b.String()
}

// publishing is `granary publish -o json` in a goroutine.
type publishing struct {
	out, err lockedBuffer
	signals  chan os.Signal
	code     chan int
}

func startPublishing(target string, in io.Reader, args ...string) *publishing {
	p := &publishing{signals: make(chan os.Signal, 2), code: make(chan int, 1)}
	go func() {
		p.code <- Run(context.Background(), Environment{
			Args: append([]string{"publish", "-o", "json", "--target", target}, args...), In: in, Out: &p.out, Err: &p.err,
			Getenv: func(string) string { return "" }, Signals: p.signals, Exit: func(int) {},
		})
	}()
	return p
}

func (p *publishing) report(t *testing.T) publishJSON {
	t.Helper()
	var r publishJSON
	if err := json.Unmarshal([]byte(p.out.String()), &r); err != nil {
		t.Fatalf("%v in %q", err, p.out.String())
	}
	if r.Read != r.Published+r.Duplicates+r.Refused+r.Invalid+r.Unanswered {
		t.Errorf("it does not add up: %+v", r)
	}
	return r
}

func TestPublishKeepsTheOrderAndTheBatchSize(t *testing.T) {
	fake := startFake(t)
	p := startPublishing(fake.address, strings.NewReader(eventLines(1234, 0)), "--batch", "100")
	if code := wait(t, p.code); code != ExitDone {
		t.Fatalf("exit %d: %s", code, p.err.String())
	}
	if r := p.report(t); r.Published != 1234 {
		t.Errorf("%+v", r)
	}
	for _, n := range fake.calls {
		if n > 100 {
			t.Errorf("a call of %d events", n)
		}
	}
	for grain := range 7 {
		next := grain
		for _, r := range fake.grains[fmt.Sprintf("account/%d", grain)] {
			if want := fmt.Sprintf("e%d", next); r.GetId() != want {
				t.Fatalf("account/%d: %s where %s should be", grain, r.GetId(), want)
			}
			next += 7
		}
	}
}

func TestPublishCutsBatchesBySize(t *testing.T) {
	fake := startFake(t)
	p := startPublishing(fake.address, strings.NewReader(eventLines(10, 1<<20)))
	if code := wait(t, p.code); code != ExitDone {
		t.Fatalf("exit %d: %s", code, p.err.String())
	}
	if r := p.report(t); r.Published != 10 {
		t.Errorf("%+v", r)
	}
	for _, n := range fake.calls {
		if n > 3 { // four of more than 1 MiB do not fit into 4 MiB
			t.Errorf("a call of %d MiB", n)
		}
	}
}

// TestPublishSurvivesARestart stops the node while the events flow and starts it again.
func TestPublishSurvivesARestart(t *testing.T) {
	fake := startFake(t)
	in, feed := io.Pipe()
	p := startPublishing(fake.address, in, "--batch", "10")
	lines := strings.SplitAfter(eventLines(300, 0), "\n")
	write := func(lines []string) {
		if _, err := io.WriteString(feed, strings.Join(lines, "")); err != nil {
			t.Error(err)
		}
	}
	write(lines[:100])
	awaitEvents(t, fake, 1)
	fake.server.Stop()
	go func() {
		time.Sleep(200 * time.Millisecond)
		fake.start()
	}()
	write(lines[100:])
	feed.Close()
	if code := wait(t, p.code); code != ExitDone {
		t.Fatalf("exit %d: %s", code, p.err.String())
	}
	if r := p.report(t); r.Published+r.Duplicates != 300 {
		t.Errorf("%+v", r)
	}
	total := 0
	for _, records := range fake.grains {
		total += len(records)
	}
	if total != 300 {
		t.Errorf("the node has %d events", total)
	}
}

// awaitEvents waits until the node has taken some events.
func awaitEvents(t *testing.T, fake *fakeNode, n int) {
	t.Helper()
	for range 500 {
		fake.mu.Lock()
		total := 0
		for _, records := range fake.grains {
			total += len(records)
		}
		fake.mu.Unlock()
		if total >= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("no event came")
}

func TestPublishGivesUpOnANodeThatStaysAway(t *testing.T) {
	fake := startFake(t)
	in, feed := io.Pipe()
	p := startPublishing(fake.address, in, "--retry-for", "100ms")
	lines := strings.SplitAfter(eventLines(2, 0), "\n")
	if _, err := io.WriteString(feed, lines[0]); err != nil {
		t.Fatal(err)
	}
	awaitEvents(t, fake, 1)
	fake.server.Stop()
	if _, err := io.WriteString(feed, lines[1]); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	if code := wait(t, p.code); code != ExitUnreachable {
		t.Errorf("exit %d", code)
	}
	if r := p.report(t); r.Published != 1 || r.Unanswered != 1 {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(p.err.String(), "run the same command again") {
		t.Error(p.err.String())
	}
}

// TestPublishIsInterrupted stops it while it waits for input: it says how far it came.
func TestPublishIsInterrupted(t *testing.T) {
	fake := startFake(t)
	in, feed := io.Pipe()
	p := startPublishing(fake.address, in)
	if _, err := io.WriteString(feed, eventLines(3, 0)); err != nil {
		t.Fatal(err)
	}
	awaitEvents(t, fake, 3)
	p.signals <- syscall.SIGINT
	if code := wait(t, p.code); code != ExitFailed {
		t.Errorf("exit %d", code)
	}
	if r := p.report(t); r.Published != 3 || !strings.Contains(p.err.String(), "publish: interrupted") {
		t.Errorf("%+v, %s", r, p.err.String())
	}
	feed.Close() // lets the goroutine that reads end, as the process would
}

func TestPublishReaderFails(t *testing.T) {
	fake := startFake(t)
	in, feed := io.Pipe()
	go func() {
		_, _ = io.WriteString(feed, eventLines(3, 0))
		feed.CloseWithError(fmt.Errorf("disk on fire"))
	}()
	p := startPublishing(fake.address, in)
	if code := wait(t, p.code); code != ExitFailed {
		t.Errorf("exit %d", code)
	}
	if r := p.report(t); r.Published != 3 || !strings.Contains(p.err.String(), "cannot read standard input: disk on fire") {
		t.Errorf("%+v, %s", r, p.err.String())
	}
}

// TestProblemsAreBounded has more bad lines than are listed.
func TestProblemsAreBounded(t *testing.T) {
	p := startPublishing("127.0.0.1:1", strings.NewReader(strings.Repeat("bad\n", 1500)), "--keep-going")
	if code := wait(t, p.code); code != ExitFailed {
		t.Errorf("exit %d", code)
	}
	if r := p.report(t); r.Invalid != 1500 || len(r.Problems) != 1000 || r.ProblemsLeftOut != 500 {
		t.Errorf("%d invalid, %d listed, %d left out", r.Invalid, len(r.Problems), r.ProblemsLeftOut)
	}
}

// TestOnATerminal runs what differs there: colours, the bar, and lines above it.
func TestOnATerminal(t *testing.T) {
	fake := startFake(t)
	run := func(no string, args ...string) (string, string) {
		var out, errs bytes.Buffer
		a := &app{Environment: Environment{
			Args: append(args, "--target", fake.address), In: strings.NewReader(eventLines(20, 0) + "bad\n"), Out: &out, Err: &errs,
			Getenv: func(string) string { return no },
		}}
		a.screen = screen{errTerminal: true, out: no == "", err: no == ""}
		a.run(t.Context())
		return out.String(), errs.String()
	}
	out, errs := run("", "publish", "--keep-going")
	if !strings.HasPrefix(out, "21 events: 20 published, 1 invalid") || !strings.Contains(errs, "\x1b[1;31merror:\x1b[0m publish: 1 event not published") ||
		!strings.Contains(errs, "line 21: INVALID_ARGUMENT") {
		t.Errorf("%q %q", out, errs)
	}
	if out, _ := run("", "kind", "ls"); !strings.HasPrefix(out, "\x1b[1mKIND") {
		t.Errorf("%q", out)
	}
	if out, errs := run("1", "kind", "ls"); strings.Contains(out+errs, "\x1b[1") {
		t.Errorf("colours despite NO_COLOR: %q", out+errs)
	}
}

func TestScreenRespectsTheEnvironment(t *testing.T) {
	s := newScreen(Environment{In: strings.NewReader(""), Out: io.Discard, Err: os.Stderr, Getenv: func(string) string { return "" }})
	if s.inTerminal || bool(s.out) {
		t.Errorf("a buffer was taken for a terminal: %+v", s)
	}
	if paint(false).red("x") != "x" || paint(true).red("x") == "x" {
		t.Error("paint")
	}
}
