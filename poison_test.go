//go:build unix

package granary_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary"
	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/cluster/slots"
	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// asNode in the environment makes this test's binary a node.
const asNode = "GRANARY_TEST_NODE"

func TestMain(m *testing.M) {
	if os.Getenv(asNode) != "" {
		debug.SetMaxStack(1 << 20) // so that an overflow does not take a gigabyte first
		granary.Main(grains.Kind[*wrapperspb.Int64Value]{Name: "trap", Version: 1, Handlers: grains.Handlers[*wrapperspb.Int64Value]{grains.On(trapped)}}.MustDefine())
	}
	os.Exit(m.Run())
}

// trapped counts events, but for the two that no handler should do.
func trapped(_ *grains.Turn, s *wrapperspb.Int64Value, e *wrapperspb.StringValue) error {
	switch e.GetValue() {
	case "overflow":
		s.Value = deeper(s.GetValue())
	case "loop":
		for i := int64(0); ; i++ {
			s.Value = i
		}
	}
	s.Value++
	return nil
}

//go:noinline
func deeper(n int64) int64 { return 1 + deeper(n+1) } //nolint:staticcheck // without end, on purpose

// program is this test's binary as the command line.
type program struct {
	cmd     *exec.Cmd
	said    *output
	address string
	dir     string
	out     *json.Decoder
}

// output keeps what a process says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func startDev(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{said: &output{}}
	p.cmd = exec.Command(os.Args[0], append([]string{"dev", "--listen", "127.0.0.1:0", "-o", "json", "--shards", "4"}, args...)...)
	p.cmd.Env = append(os.Environ(), asNode+"=1")
	p.cmd.Stderr = p.said
	p.cmd.WaitDelay = 5 * time.Second
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // what is still there at the end
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("the node said:\n%s", p.said)
		}
	})
	p.out = json.NewDecoder(out)
	p.ready(t)
	return p
}

// ready waits until a node says that it takes calls.
func (p *program) ready(t *testing.T) {
	t.Helper()
	done := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer done.Stop()
	var said struct{ Listen, DataDir string }
	if err := p.out.Decode(&said); err != nil {
		t.Fatalf("the node does not start: %v\n%s", err, p.said)
	}
	if p.address != "" && (p.address != said.Listen || p.dir != said.DataDir) {
		t.Errorf("it started again at %s with %s, before at %s with %s", said.Listen, said.DataDir, p.address, p.dir)
	}
	p.address, p.dir = said.Listen, said.DataDir
}

// node is the process of the node, the child of the program.
func (p *program) node(t *testing.T) int {
	t.Helper()
	pid := p.cmd.Process.Pid
	for range 500 {
		// a child is made by any of its threads
		for _, file := range glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) {
			b, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			if fields := strings.Fields(string(b)); len(fields) > 0 {
				child, err := strconv.Atoi(fields[0])
				if err != nil {
					t.Fatal(err)
				}
				return child
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the program has no child")
	return 0
}

func glob(pattern string) []string {
	files, _ := filepath.Glob(pattern) // the pattern is well formed
	return files
}

func (p *program) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:"+p.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// end waits for the program to end, and returns its exit code.
func (p *program) end(t *testing.T) int {
	t.Helper()
	done := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer done.Stop()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

func trapEvent(grain, what string) *granaryv1.Event {
	payload, err := proto.Marshal(wrapperspb.String(what))
	if err != nil {
		panic(err)
	}
	return &granaryv1.Event{Grain: grain, Type: "google.protobuf.StringValue", Payload: &granaryv1.Event_Protobuf{Protobuf: payload}}
}

func trapValue(t *testing.T, conn *grpc.ClientConn, grain string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, err := granaryv1.NewGrainServiceClient(conn).Get(ctx, &granaryv1.GetRequest{Grain: grain}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatalf("%s: %v", grain, err)
	}
	var v wrapperspb.Int64Value
	if err := got.GetState().UnmarshalTo(&v); err != nil {
		t.Fatal(err)
	}
	return v.GetValue()
}

// TestPoison: a producer publishes two events among good ones that no node survives: one that loops, and one that
// overflows the stack and ends the process. The node comes back, both become dead letters of which the producer hears, and
// every other event is folded once.
func TestPoison(t *testing.T) {
	dir := t.TempDir()
	p := startDev(t, "--data-dir", dir, "--turn-limit", "1s")
	conn := p.dial(t)
	producer, err := client.NewProducer(conn, client.ProducerOptions{MaxBackoff: 100 * time.Millisecond, BatchEvents: 10})
	if err != nil {
		t.Fatal(err)
	}
	const events, grainCount = 2000, 20
	var mu sync.Mutex
	outcomes := map[uint64]string{}
	want := map[string]int64{}
	for i := range events {
		grain, what := fmt.Sprintf("trap/g%d", i%grainCount), fmt.Sprint("add ", i)
		switch i {
		case 500:
			what = "loop"
		case 1200:
			what = "overflow"
		default:
			want[grain]++
		}
		if err := producer.Publish(t.Context(), trapEvent(grain, what), func(r client.Result) {
			mu.Lock()
			defer mu.Unlock()
			outcomes[r.Sequence] = status.Convert(r.Err).Message()
		}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := producer.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(events) {
		text := ""
		switch i {
		case 500:
			text = "the turn ran longer than 1s"
		case 1200:
			text = "its turn ended the process twice"
		}
		if got := outcomes[i+1]; (text == "") != (got == "") || !strings.Contains(got, text) {
			t.Errorf("event %d: %q, want %q", i, got, text)
		}
	}
	for grain, n := range want {
		if got := trapValue(t, conn, grain); got != n {
			t.Errorf("%s has %d events, want %d", grain, got, n)
		}
	}
	said := p.said.String()
	for text, times := range map[string]int{"goroutine stack exceeds": 2, "it is started again in": 2, "a turn is given up": 1, "the last process died during a turn": 2} {
		if n := strings.Count(said, text); n != times {
			t.Errorf("%q is said %d times, want %d", text, n, times)
		}
	}
	if err := producer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.end(t); code != 0 {
		t.Errorf("exit %d", code)
	}
	verify := exec.Command(os.Args[0], "verify", "--data-dir", dir)
	verify.Env = append(os.Environ(), asNode+"=1")
	if out, err := verify.CombinedOutput(); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	file, _, err := slots.Open(dir, 4, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if left := file.Deaths(1); len(left) != 0 {
		t.Errorf("a dead letter is condemned still: %+v", left)
	}
}

// TestChildIsKilled: kill -9 of the node's process is followed by a new one, on the same folder and at the same address,
// and who connects between the two is served; the temporary folder goes with the program, and not before.
func TestChildIsKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it finds the child by /proc")
	}
	p := startDev(t)
	conn := p.dial(t)
	for i := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		e := trapEvent("trap/a", "add")
		e.Id, e.Source = fmt.Sprint(i), "test"
		for {
			got, err := granaryv1.NewEventServiceClient(conn).Publish(ctx, &granaryv1.PublishRequest{Events: []*granaryv1.Event{e}}, grpc.WaitForReady(true))
			if err == nil && got.GetResults()[0].GetStatus().GetCode() == 0 {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("event %d: %v %v", i, err, got)
			}
		}
		cancel()
		if err := syscall.Kill(p.node(t), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if got := trapValue(t, p.dial(t), "trap/a"); got != int64(i+1) {
			t.Errorf("after kill %d the value is %d", i+1, got)
		}
		p.ready(t)
	}
	if n := strings.Count(p.said.String(), "the node's process died by signal killed; it is started again in"); n != 3 {
		t.Errorf("it tells of %d deaths", n)
	}
	if _, err := os.Stat(p.dir); err != nil {
		t.Errorf("the temporary folder is gone too early: %v", err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.end(t); code != 0 {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(p.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
}

// TestKilledDuringATurn: to be killed from outside during a turn, as by a system that is out of memory, is a death of that
// turn's event, too; the client that publishes it until it has an answer gets one.
func TestKilledDuringATurn(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it finds the child by /proc")
	}
	p := startDev(t, "--turn-limit", "1h")
	answer := make(chan *granaryv1.Result)
	conn := p.dial(t)
	e := trapEvent("trap/a", "loop")
	e.Id, e.Source = "1", "test"
	go func() {
		for {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
			got, err := granaryv1.NewEventServiceClient(conn).Publish(ctx, &granaryv1.PublishRequest{Events: []*granaryv1.Event{e}}, grpc.WaitForReady(true))
			over := ctx.Err() != nil
			cancel()
			if err == nil || over {
				answer <- got.GetResults()[0]
				return
			}
		}
	}()
	for range 8 { // some may come before the event does
		select {
		case r := <-answer:
			if !strings.Contains(r.GetStatus().GetMessage(), "its turn ended the process twice") || r.GetSeq() != 1 {
				t.Errorf("it is answered with %v", r)
			}
			if n := strings.Count(p.said.String(), "the last process died during a turn"); n != 2 {
				t.Errorf("the event is condemned after %d deaths", n)
			}
			return
		case <-time.After(time.Second): // it loops
		}
		if err := syscall.Kill(p.node(t), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.ready(t)
	}
	t.Error("no answer")
}

// TestNoOrphan: kill -9 of the program ends the node.
func TestNoOrphan(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it finds the child by /proc")
	}
	p := startDev(t, "--data-dir", t.TempDir())
	child := p.node(t)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.end(t)
	for range 1000 {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child)); err != nil || len(b) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the node is still there")
}

// TestSecondSignalEndsTheChild: at the second signal nobody waits for anything, and nobody is left.
func TestSecondSignalEndsTheChild(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it finds the child by /proc")
	}
	p := startDev(t, "--turn-limit", "1h")
	child := p.node(t)
	conn := p.dial(t)
	go func() { // hangs, so that the node cannot stop in order
		_, _ = granaryv1.NewEventServiceClient(conn).Publish(context.WithoutCancel(t.Context()), &granaryv1.PublishRequest{Events: []*granaryv1.Event{trapEvent("trap/a", "loop")}})
	}()
	time.Sleep(100 * time.Millisecond)
	for range 2 {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if code := p.end(t); code != 1 {
		t.Errorf("exit %d", code)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child)); err == nil && len(b) > 0 {
		t.Error("the node is still there")
	}
	if _, err := os.Stat(p.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
}

// TestUnsupervised: with --supervise=false a crash is the end, as the runtime tells it.
func TestUnsupervised(t *testing.T) {
	p := startDev(t, "--supervise=false", "--data-dir", t.TempDir())
	conn := p.dial(t)
	_, err := granaryv1.NewEventServiceClient(conn).Publish(t.Context(), &granaryv1.PublishRequest{Events: []*granaryv1.Event{trapEvent("trap/a", "overflow")}})
	if err == nil {
		t.Error("the event is taken")
	}
	if code := p.end(t); code != 2 || !strings.Contains(p.said.String(), "stack overflow") {
		t.Errorf("exit %d", code)
	}
}
