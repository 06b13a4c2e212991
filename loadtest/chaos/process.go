//go:build linux || darwin

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	// startTime is how long a node may take until it serves.
	startTime = 30 * time.Second
	// endTime is how long a process may take to be gone, once it was told to.
	endTime = 40 * time.Second
)

// process is a node that lives again and again on one data folder, at one address.
type process struct {
	binary, dir, listen string
	// syncs is where strace writes what it did.
	syncs string
	lives int

	cmd    *exec.Cmd
	said   *tail
	gone   chan struct{} // closed when the process is gone
	failed error         // how it ended; read behind gone
}

func newProcess(binary, dir, syncs string) (*process, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &process{binary: binary, dir: dir, listen: l.Addr().String(), syncs: syncs}
	return p, l.Close()
}

// start starts the node and waits until it serves.
func (p *process) start(ctx context.Context, under []string) error {
	if err := p.launch(under); err != nil {
		return err
	}
	return p.serves(ctx)
}

// launch starts the node. under is a command that runs it, strace for one; it must become the node's process itself.
func (p *process) launch(under []string) error {
	args := append(under[:len(under):len(under)], p.binary, "dev", "--listen", p.listen, "--data-dir", p.dir,
		"--supervise=false", "--memory", "1MiB", "--log-level", "error") // so little memory that grains come and go all the time
	cmd := exec.Command(args[0], args[1:]...)
	said, gone := &tail{}, make(chan struct{})
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.said, p.gone = cmd, said, gone
	p.lives++
	go func() {
		p.failed = cmd.Wait()
		close(gone)
	}()
	return nil
}

// serves waits until the node takes calls.
func (p *process) serves(ctx context.Context) error {
	conn, err := grpc.NewClient("passthrough:"+p.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	health := healthpb.NewHealthClient(conn)
	for deadline := time.Now().Add(startTime); ; {
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		res, err := health.Check(call, &healthpb.HealthCheckRequest{})
		cancel()
		if err == nil && res.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return nil
		}
		conn.ResetConnectBackoff()
		select {
		case <-p.gone:
			return fmt.Errorf("the node did not start: %s", p.how())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the node at %s does not serve after %v: %w\n%s", p.listen, startTime, err, p.said)
		}
	}
}

// how tells how the process ended.
func (p *process) how() string {
	<-p.gone
	return strings.TrimSpace(fmt.Sprintf("%v\n%s", p.failed, p.said))
}

func (p *process) hasEnded() (bool, string) {
	select {
	case <-p.gone:
		return true, p.how()
	default:
		return false, ""
	}
}

// ends waits until the process is gone by itself.
func (p *process) ends(within time.Duration) bool {
	select {
	case <-p.gone:
		return true
	case <-time.After(within):
		return false
	}
}

// kill ends the process as a crash does.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if !p.ends(endTime) {
		return fmt.Errorf("the process is still there %v after kill -9", endTime)
	}
	return nil
}

// end kills what may be left; for the way out.
func (p *process) end() {
	if p.cmd != nil {
		_ = p.kill() // there is nobody to tell
	}
}

// stop asks the node to end.
func (p *process) stop(context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%w: %s", err, p.how())
	}
	if !p.ends(endTime) {
		return fmt.Errorf("it is still there %v after SIGTERM", endTime)
	}
	if p.failed != nil {
		return errors.New(p.how())
	}
	return nil
}

// verify lets the independent reader go over the data folder.
func (p *process) verify(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, p.binary, "verify", "--data-dir", p.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// tail keeps the end of what a process says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 4 << 10

// Write is part of io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - tailBytes; n > 0 {
		t.b = bytes.Clone(t.b[n:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
