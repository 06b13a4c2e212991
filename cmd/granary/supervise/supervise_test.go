//go:build unix

package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain makes this test's binary a child when it is started as one: its argument says how it ends.
func TestMain(m *testing.M) {
	child, err := FromEnvironment(func() { os.Exit(9) })
	if child == nil && err == nil {
		os.Exit(m.Run())
	}
	if err != nil || os.Getenv(variable) != "" {
		fmt.Println("no child:", err, os.Getenv(variable))
		os.Exit(8)
	}
	fmt.Println("child at", child.Listener.Addr(), "with", strconv.Quote(child.Temporary))
	switch how := os.Args[1]; how {
	case "panic":
		panic("on purpose")
	case "wait":
		select {}
	default:
		if n, err := strconv.Atoi(how); err == nil {
			os.Exit(n)
		}
		_ = syscall.Kill(os.Getpid(), map[string]syscall.Signal{"kill": syscall.SIGKILL, "term": syscall.SIGTERM}[how])
		select {}
	}
}

// run runs children that end in one way.
func run(ctx context.Context, t *testing.T, how string) (code int, out, said string, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	var lines []string
	s, err := New(Options{Path: os.Args[0], Args: []string{how}, Temporary: "tmp", Listener: l, Out: &stdout, Err: &stderr,
		Say: func(line string) { lines = append(lines, line) }, MaxCrashes: 3, Within: time.Minute, FirstPause: time.Millisecond, LongestPause: 2 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	code, err = s.Run(ctx)
	for _, line := range strings.Split(strings.TrimSpace(stdout.String()), "\n") {
		if line != "" && line != fmt.Sprintf("child at %v with \"tmp\"", l.Addr()) {
			t.Errorf("%s: a child says %q", how, line)
		}
	}
	return code, stdout.String(), strings.Join(lines, "\n"), err
}

// TestWhatIsACrash: a child is started again when it crashed, until that was too often; not when it ended with a code of
// its own, nor when somebody asked it to end.
func TestWhatIsACrash(t *testing.T) {
	for how, want := range map[string]int{"0": 0, "1": 1, "3": 3, "term": 1} {
		code, out, said, err := run(t.Context(), t, how)
		if code != want || err != nil || strings.Count(out, "child") != 1 || said != "" {
			t.Errorf("%s: exit %d, %v; %s %s", how, code, err, out, said)
		}
	}
	for how, last := range map[string]string{"panic": "a fatal error of its own, told above", "2": "a fatal error of its own, told above", "kill": "signal killed"} {
		_, out, said, err := run(t.Context(), t, how)
		var gaveUp *GaveUp
		if !errors.As(err, &gaveUp) || err.Error() != "the node's process died 3 times within 1m0s, the last time by "+last {
			t.Errorf("%s: %v", how, err)
		}
		if strings.Count(out, "child") != 3 || strings.Count(said, "it is started again in") != 2 {
			t.Errorf("%s: %s %s", how, out, said)
		}
	}
}

// TestStop: when it is asked to stop, the child is, and its end is no crash.
func TestStop(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if code, out, said, err := run(ctx, t, "wait"); code != 1 || err != nil || strings.Count(out, "child") != 1 || said != "" {
		t.Errorf("exit %d, %v; %s %s", code, err, out, said)
	}
}

// TestLifeline: a child ends when its supervisor is gone, also where the kernel does not see to it.
func TestLifeline(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Path: os.Args[0], Args: []string{"wait"}, Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	defer s.socket.Close()
	cmd, lifeline, err := s.start()
	if err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() }).Stop()
	if err := lifeline.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its exit code is looked at
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("exit %d", code)
	}
}
