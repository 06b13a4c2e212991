package commands

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"github.com/granary-dev/granary/persistence/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// session is what one script works with: a fake node, a folder, and the commands run so far.
type session struct {
	t      *testing.T
	fake   *fakeNode
	dir    string
	target string
}

// TestScripts runs testdata. Directives:
//
//	granary          runs the first line of the input as a command; the other lines are its standard input
//	mode NAME        has the node play draining, slow, …; no name: as usual again
//	target NAME      what --target stands for: node, nobody, http, or nowhere (an address that never answers)
//	file NAME        writes the input to a file that the command line may name as DIR/NAME
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		fake := startFake(t)
		s := &session{t: t, fake: fake, dir: t.TempDir(), target: fake.address}
		datadriven.RunTest(t, path, s.directive)
	})
}

func (s *session) directive(t *testing.T, d *datadriven.TestData) string {
	word := ""
	if len(d.CmdArgs) > 0 {
		var words []string
		for _, arg := range d.CmdArgs {
			words = append(words, arg.Key)
		}
		word = strings.Join(words, " ")
	}
	switch d.Cmd {
	case "granary":
		line, stdin, _ := strings.Cut(d.Input, "\n")
		return s.granary(line, stdin)
	case "mode":
		s.fake.setMode(word)
	case "target":
		s.target = s.targetOf(word)
	case "file":
		if err := os.WriteFile(filepath.Join(s.dir, word), []byte(d.Input), 0o600); err != nil {
			t.Fatal(err)
		}
	default:
		d.Fatalf(t, "unknown directive %q", d.Cmd)
	}
	return ""
}

func (s *session) targetOf(word string) string {
	switch word {
	case "node":
		return s.fake.address
	case "nobody":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	case "http":
		server := httptest.NewServer(http.NotFoundHandler())
		s.t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	case "nowhere": // accepts, and never says a word
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { l.Close() })
		return l.Addr().String()
	}
	s.t.Fatalf("unknown target %q", word)
	return ""
}

// granary runs a command and returns all that it left: what it wrote and its exit code.
func (s *session) granary(line, stdin string) string {
	args := fields(s.t, strings.ReplaceAll(line, "DIR", s.dir))
	for i := range args {
		if args[i] == "--target" {
			args = append(args[:i+1], append([]string{s.target}, args[i+1:]...)...)
			break
		}
	}
	var out, errs bytes.Buffer
	code := Run(context.Background(), Environment{
		Args: args, In: strings.NewReader(stdin), Out: &out, Err: &errs,
		Getenv: func(string) string { return "" },
		Exit:   func(int) { s.t.Error("the process was ended") },
		Verify: fakeVerify,
		Limits: []Limit{{"connections", "10000", "connections open at once"}, {"idle-timeout", "5m", "that a connection may be idle"}},
		CheckLimits: func(values map[string]string) error {
			for name := range values {
				return fmt.Errorf("there is no limit %q", name)
			}
			return nil
		},
	})
	var text strings.Builder
	text.WriteString(out.String())
	if errs.Len() > 0 {
		fmt.Fprintf(&text, "stderr:\n%s", errs.String())
	}
	fmt.Fprintf(&text, "exit %d\n", code)
	return s.settle(text.String())
}

// changing is what is different at every run.
var changing = []struct {
	form *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\(\d+\.\d s, [\d,]+/s\)`), "(TIME, RATE)"},
	{regexp.MustCompile(`"(seconds|eventsPerSecond)": [\d.e+]+`), `"$1": N`},
	{regexp.MustCompile(`go1\.[\d.a-z]+ for \w+/\w+`), "GO for PLATFORM"},
	{regexp.MustCompile(`"go": "[^"]*"`), `"go": "GO"`},
	{regexp.MustCompile(`"platform": "[^"]*"`), `"platform": "PLATFORM"`},
	{regexp.MustCompile(`127\.0\.0\.1:\d+->127\.0\.0\.1:\d+`), "FROM->TO"},
	{regexp.MustCompile(`granary-dev-\d+`), "granary-dev-N"},
}

func (s *session) settle(text string) string {
	text = strings.ReplaceAll(text, s.target, "TARGET")
	text = strings.ReplaceAll(text, s.dir, "DIR")
	for _, c := range changing {
		text = c.form.ReplaceAllString(text, c.with)
	}
	return text
}

// fields splits a command line as a shell would, with ” quotes only.
func fields(t *testing.T, line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 { // between quotes
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	if strings.Count(line, "'")%2 == 1 {
		t.Fatalf("open quote in %s", line)
	}
	return out
}

// fakeVerify finds in a folder what its name says.
func fakeVerify(_ context.Context, o verify.Options) (*verify.Report, error) {
	o.Progress(verify.Progress{Stage: "shard", Done: 1, Of: 64, Entries: 1})
	r := &verify.Report{
		Dir: o.Dir, NodeID: 7, Shards: 64, Files: 3, Bytes: 5 << 20, Entries: 1200, Empty: 64, Records: map[string]uint64{"input": 50_000, "void": 2},
		Grains: 7, Turns: 50_002, Unrun: map[string]uint64{}, Snapshots: 1, SendsMatched: 49_999, SendsPending: 1, Keys: 1, Seconds: 0.25,
	}
	switch filepath.Base(o.Dir) {
	case "locked":
		return nil, errors.New("data folder locked is in use by another process; stop the node first")
	case "flipped":
		r.Unrun["kind parcel unknown"], r.Total = 3, 3
		r.Findings = []verify.Finding{
			{Shard: 3, Index: 17, Ordinal: 2, Key: "account/1", What: "frame CRC is 00000001, stored is 00000002"},
			{File: "000004.log", Ordinal: verify.None, What: "bit 3 is flipped"},
		}
	}
	return r, nil
}

// TestHelp keeps every help text, and holds each to have an example.
func TestHelp(t *testing.T) {
	s := &session{t: t, target: "none", dir: "none"}
	commands := []string{
		"", "dev", "publish", "grain", "grain get", "grain history", "grain ls", "kind", "kind ls", "kind show", "tail",
		"deadletter", "deadletter ls", "deadletter show", "deadletter retry", "deadletter drop",
		"load", "load run", "load run transactions", "load run ratings", "load run probe", "load baseline", "verify", "version",
		"completion",
	}
	datadriven.RunTest(t, "testdata/help.txt", func(t *testing.T, d *datadriven.TestData) string {
		var out strings.Builder
		for _, command := range commands {
			text := s.granary(command+" --help", "")
			fmt.Fprintf(&out, "==== granary %s\n%s", command, text)
			if !strings.Contains(text, "\nEXAMPLES\n  ") || !strings.HasSuffix(text, "\nexit 0\n") {
				t.Errorf("granary %s --help: no example, or no success", command)
			}
		}
		return out.String()
	})
}

// runningDev is `granary dev` in a goroutine.
type runningDev struct {
	signals  chan os.Signal
	out, err lockedBuffer
	exited   chan int // by Exit
	code     chan int // by the return of Run
}

func startDev(start StartNode, args ...string) *runningDev {
	r := &runningDev{signals: make(chan os.Signal, 2), exited: make(chan int, 1), code: make(chan int, 1)}
	go func() {
		r.code <- Run(context.Background(), Environment{
			Args: append([]string{"dev"}, args...), In: strings.NewReader(""), Out: &r.out, Err: &r.err,
			Getenv: func(string) string { return "" }, Signals: r.signals,
			Exit: func(code int) { r.exited <- code }, StartNode: start,
		})
	}()
	return r
}

// lockedBuffer may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await waits until the output holds a text.
func (l *lockedBuffer) await(t *testing.T, text string) {
	t.Helper()
	for range 500 {
		if strings.Contains(l.String(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no %q in:\n%s", text, l.String())
}

// devNode is the node of a fake, for dev.
type devNode struct {
	options  NodeOptions
	address  string
	done     chan error
	shutdown func(context.Context) error
}

func (n *devNode) Addr() string                       { return n.address }
func (n *devNode) Done() <-chan error                 { return n.done }
func (n *devNode) Shutdown(ctx context.Context) error { return n.shutdown(ctx) }

// starter starts n, and notes the options.
func (n *devNode) starter() StartNode {
	n.done = make(chan error, 1)
	if n.shutdown == nil {
		n.shutdown = func(context.Context) error { return nil }
	}
	return func(_ context.Context, o NodeOptions) (Node, error) {
		n.options = o
		if _, err := os.Stat(o.DataDir); err != nil {
			return nil, err
		}
		return n, nil
	}
}

func wait(t *testing.T, code <-chan int) int {
	t.Helper()
	select {
	case c := <-code:
		return c
	case <-time.After(5 * time.Second):
		t.Fatal("it does not end")
		return 0
	}
}

func TestDevStopsAtTheFirstSignal(t *testing.T) {
	n := &devNode{address: startFake(t).address}
	r := startDev(n.starter())
	r.out.await(t, "Ctrl-C stops it.")
	folder := n.options.DataDir
	want := regexp.QuoteMeta(strings.ReplaceAll(strings.ReplaceAll(`granary listens at ADDRESS for gRPC and JSON
  data     FOLDER (temporary: removed at the end)
  metrics  http://ADDRESS/metrics

Try in another terminal:
  echo '{"specversion":"1.0","id":"try-1","source":"/try","type":"Charged","subject":"account/42","data":{"amountCents":"1250","merchant":"it'\''s"}}' | granary publish --target ADDRESS
  granary grain get account/42 --target ADDRESS
  curl -s http://ADDRESS/granary.v1.GrainService/Get -H 'Content-Type: application/json' -d '{"grain":"account/42"}'

Ctrl-C stops it.
`, "ADDRESS", n.address), "FOLDER", folder))
	if !regexp.MustCompile("^" + want + "$").MatchString(r.out.String()) {
		t.Errorf("it says\n%s", r.out.String())
	}
	if o := n.options; o.Listen != defaultTarget || o.Memory != 256<<20 || o.Shards != 64 || o.TurnLimit != 10*time.Second || !o.Metrics || o.Profiles || o.Logger == nil {
		t.Errorf("the defaults are %+v", o)
	}
	r.signals <- syscall.SIGTERM
	if code := wait(t, r.code); code != ExitDone {
		t.Errorf("exit %d: %s", code, r.err.String())
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
}

func TestDevStopsAtOnceAtTheSecondSignal(t *testing.T) {
	release := make(chan struct{})
	n := &devNode{address: "127.0.0.1:1", shutdown: func(context.Context) error { <-release; return nil }}
	r := startDev(n.starter(), "-o", "json")
	r.out.await(t, `"temporary":true}`)
	r.signals <- syscall.SIGINT
	r.signals <- syscall.SIGINT
	if code := wait(t, r.exited); code != ExitFailed {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(n.options.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
	close(release)
	wait(t, r.code)
}

func TestDevKeepsAFolderThatIsGiven(t *testing.T) {
	dir := t.TempDir()
	n := &devNode{address: "127.0.0.1:1"}
	r := startDev(n.starter(), "-o", "json", "--data-dir", dir, "--listen", "127.0.0.1:0", "--memory", "1GiB", "--shards", "8",
		"--metrics=false", "--profiles", "--log-level", "debug", "--log-format", "json")
	r.out.await(t, "}\n")
	if got, want := r.out.String(), fmt.Sprintf("{\"listen\":\"127.0.0.1:1\",\"dataDir\":%q,\"temporary\":false}\n", dir); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if o := n.options; o.Listen != "127.0.0.1:0" || o.Memory != 1<<30 || o.Shards != 8 || o.Metrics || !o.Profiles {
		t.Errorf("the options are %+v", o)
	}
	n.options.Logger.Debug("hello")
	r.err.await(t, `"msg":"hello"`)
	r.signals <- syscall.SIGINT
	if code := wait(t, r.code); code != ExitDone {
		t.Errorf("exit %d: %s", code, r.err.String())
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

func TestDevFails(t *testing.T) {
	inUse := func(context.Context, NodeOptions) (Node, error) {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	r := startDev(inUse, "--data-dir", "d")
	if code := wait(t, r.code); code != ExitFailed {
		t.Errorf("exit %d", code)
	}
	const want = `error: dev: the node did not start at 127.0.0.1:7080 with the data folder d: listen tcp: bind: address already in use
next: granary dev --listen 127.0.0.1:0 takes any port that is free; or stop what listens there
`
	if r.err.String() != want {
		t.Errorf("port in use: %s", r.err.String())
	}

	n := &devNode{address: "127.0.0.1:1"}
	r = startDev(n.starter())
	r.out.await(t, "Ctrl-C")
	n.done <- errors.New("fsync failed")
	if code := wait(t, r.code); code != ExitFailed || !strings.Contains(r.err.String(), "error: dev: the node at 127.0.0.1:1 stopped: fsync failed") {
		t.Errorf("died by itself: exit %d, %s", code, r.err.String())
	}

	n = &devNode{address: "127.0.0.1:1", shutdown: func(context.Context) error { return errors.New("too slow") }}
	r = startDev(n.starter())
	r.out.await(t, "Ctrl-C")
	r.signals <- syscall.SIGINT
	if code := wait(t, r.code); code != ExitFailed || !strings.Contains(r.err.String(), "did not stop cleanly: too slow") {
		t.Errorf("shutdown failed: exit %d, %s", code, r.err.String())
	}
}

// brokenPipe fails as a pipe whose reader has gone.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestOutputThatFailsIsAFailure(t *testing.T) {
	fake := startFake(t)
	for _, args := range [][]string{{"kind", "ls"}, {"kind", "ls", "-o", "json"}, {"kind", "show", "account", "-o", "json"}, {"grain", "get", "account/1"}, {"version"}} {
		if args[0] != "version" {
			args = append(args, "--target", fake.address)
		}
		code := Run(context.Background(), Environment{
			Args: args, In: strings.NewReader(""), Out: brokenPipe{}, Err: io.Discard, Getenv: func(string) string { return "" },
		})
		if code != ExitFailed {
			t.Errorf("granary %s: exit %d", strings.Join(args, " "), code)
		}
	}
}
