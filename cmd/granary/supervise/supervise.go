// Package supervise keeps a node running when its process dies: the process that was started watches over another one,
// its child, which is the node.
//
// Here live the two ends: [Supervisor], which starts the child, passes signals on and starts it again after a crash, and
// [FromEnvironment], by which the child learns that it is one. Here never lives what a node does.
//
// Invariant: there is never a child without its supervisor. Who kills the supervisor, with whatever signal, has ended the
// node; who kills the child has not.
//
// # Between the two
//
// The child is the same program with the same arguments, and the variable GRANARY_SUPERVISED in its environment: it says
// where the temporary data folder is, or "-". Its file 3 is the socket that listens, so that the address stays the same
// through all children, and who connects between two of them waits for the next one. Its standard input is a pipe that
// nobody writes to: it ends when the supervisor does. The child is in a process group of its own, so that Ctrl-C reaches
// it once, through the supervisor.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	variable = "GRANARY_SUPERVISED"
	kept     = "-" // in place of a temporary folder
	// runtimeExit is the code of a Go program that panics, overflows its stack or has no memory left. A child whose
	// arguments were understood, by its supervisor, has no other reason for it.
	runtimeExit = 2
)

// Usual limits of a supervisor; see [Options].
const (
	// MaxCrashes leaves room for a few events that end the process, of which each does so twice.
	MaxCrashes = 10
	// Within is the time in which they count.
	Within = time.Minute
	// FirstPause lies between a crash and the next start; each further one is twice as long.
	FirstPause = 100 * time.Millisecond
	// LongestPause is the longest of them.
	LongestPause = 2 * time.Second
)

// Options of a supervisor. The zero value of a field means its default.
type Options struct {
	// Path of the program, and Args behind its name.
	Path string
	Args []string
	// Temporary is the data folder that goes with the supervisor; empty if the node has one of its own.
	Temporary string
	// Listener is the socket that children listen at. It is the supervisor's from here on.
	Listener net.Listener
	// Out and Err are the standard streams of the children.
	Out, Err io.Writer
	// Say tells whoever started the program, in one line, that a child died and what follows.
	Say func(line string)
	// MaxCrashes within Within end it; see the constants for what is usual.
	MaxCrashes               int
	Within                   time.Duration
	FirstPause, LongestPause time.Duration
}

// Supervisor runs one child after the other.
type Supervisor struct {
	o      Options
	socket *os.File

	mu      sync.Mutex
	child   *exec.Cmd     // that runs
	gone    chan struct{} // closed when it is gone
	stopped bool
}

// GaveUp is the error of a supervisor whose children died too often.
type GaveUp struct {
	// Crashes within Within, and how the last child ended.
	Crashes int
	Within  time.Duration
	Last    string
}

func (g *GaveUp) Error() string {
	return fmt.Sprintf("the node's process died %d times within %v, the last time by %s", g.Crashes, g.Within, g.Last)
}

// New returns a supervisor that has no child yet.
func New(o Options) (*Supervisor, error) {
	if o.MaxCrashes == 0 {
		o.MaxCrashes = MaxCrashes
	}
	if o.Within == 0 {
		o.Within = Within
	}
	if o.FirstPause == 0 {
		o.FirstPause, o.LongestPause = FirstPause, LongestPause
	}
	tcp, ok := o.Listener.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("a child cannot listen at a %T", o.Listener)
	}
	socket, err := tcp.File()
	if err != nil {
		return nil, err
	}
	return &Supervisor{o: o, socket: socket}, o.Listener.Close()
}

// Run runs children until one ends by itself or ctx is done, and returns the exit code of the last. When ctx is done it
// asks the child to stop and waits for it. The error is a *GaveUp, or says that no child could be started.
func (s *Supervisor) Run(ctx context.Context) (code int, err error) {
	// a child is told when the thread that made it ends: it must be there as long as the supervisor
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer s.socket.Close()
	var crashes []time.Time
	for pause := s.o.FirstPause; ; pause = min(2*pause, s.o.LongestPause) {
		code, crash, err := s.one(ctx)
		if err != nil || crash == "" {
			return code, err
		}
		now := time.Now()
		for len(crashes) > 0 && now.Sub(crashes[0]) > s.o.Within {
			crashes = crashes[1:]
		}
		if len(crashes) == 0 {
			pause = s.o.FirstPause
		}
		if crashes = append(crashes, now); len(crashes) >= s.o.MaxCrashes {
			return 1, &GaveUp{len(crashes), s.o.Within, crash}
		}
		s.o.Say(fmt.Sprintf("the node's process died by %s; it is started again in %v (crash %d; at %d within %v it is not)", crash, pause, len(crashes), s.o.MaxCrashes, s.o.Within))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, nil // there is nobody to stop, and nothing acknowledged is lost
		}
	}
}

// one runs a child. crash is how it died, if it was no end that anybody asked for.
func (s *Supervisor) one(ctx context.Context) (code int, crash string, err error) {
	cmd, lifeline, err := s.start()
	if err != nil || cmd == nil {
		return 0, "", err
	}
	defer lifeline.Close()
	s.mu.Lock()
	gone := s.gone
	s.mu.Unlock()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		select {
		case <-ctx.Done():
			_ = stop(cmd.Process) // one that is gone needs no asking
		case <-gone:
		}
	}()
	ended := cmd.Wait()
	s.mu.Lock()
	s.child = nil
	close(gone)
	s.mu.Unlock()
	<-asked
	var exit *exec.ExitError
	if ended != nil && !errors.As(ended, &exit) && !errors.Is(ended, exec.ErrWaitDelay) {
		return 0, "", ended
	}
	code, signal, meant := howItEnded(cmd.ProcessState)
	switch {
	case ctx.Err() != nil || signal == "" && code != runtimeExit:
		return code, "", nil
	case meant:
		return 1, "", nil
	case signal != "":
		return 0, signal, nil
	}
	return 0, "a fatal error of its own, told above", nil
}

// start starts a child. lifeline is the end of its standard input that ends with the supervisor.
func (s *Supervisor) start() (cmd *exec.Cmd, lifeline io.Closer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, nil, nil
	}
	where := s.o.Temporary
	if where == "" {
		where = kept
	}
	cmd = exec.Command(s.o.Path, s.o.Args...)
	cmd.Env = append(os.Environ(), variable+"="+where)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = s.o.Out, s.o.Err, []*os.File{s.socket}
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = time.Second // for whoever inherited its streams
	if lifeline, err = cmd.StdinPipe(); err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("the node's process cannot be started: %w", err), lifeline.Close())
	}
	s.child, s.gone = cmd, make(chan struct{})
	return cmd, lifeline, nil
}

// Kill ends the child at once, if there is one, and starts no other. It returns when it is gone.
func (s *Supervisor) Kill() {
	s.mu.Lock()
	s.stopped = true
	child, gone := s.child, s.gone
	s.mu.Unlock()
	if child == nil {
		return
	}
	if err := child.Process.Kill(); err == nil || errors.Is(err, os.ErrProcessDone) {
		<-gone
	}
}

// Child is what a child knows of being one.
type Child struct {
	// Listener that it is to serve.
	Listener net.Listener
	// Temporary is the data folder to use if none is given; empty if one is.
	Temporary string
}

// FromEnvironment tells a process whether it is a child, and takes that out of its environment. exit is called when the
// supervisor is gone: nothing that was acknowledged depends on an orderly end.
func FromEnvironment(exit func()) (*Child, error) {
	where := os.Getenv(variable)
	if where == "" {
		return nil, nil
	}
	if err := os.Unsetenv(variable); err != nil {
		return nil, err
	}
	socket := os.NewFile(3, "socket")
	listener, err := net.FileListener(socket)
	if err != nil {
		return nil, fmt.Errorf("%s is set, but file 3 is no socket that listens: %w", variable, err)
	}
	if err := socket.Close(); err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		exit()
	}()
	c := &Child{Listener: listener}
	if where != kept {
		c.Temporary = where
	}
	return c, nil
}

// Say is how a supervisor's line looks on standard error.
func Say(w io.Writer) func(string) {
	return func(line string) { fmt.Fprintf(w, "granary: %s\n", strings.TrimSpace(line)) }
}
