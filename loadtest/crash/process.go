package crash

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Process hosts nodes as processes of the real binary, which it ends with kill -9.
type Process struct {
	// Binary is the path of granary, DataDir the folder that all lives share, Listen the address of its gateway.
	Binary, DataDir, Listen string
}

// Start implements [Host].
func (p *Process) Start(ctx context.Context) (Life, error) {
	cmd := exec.Command(p.Binary, "dev", "--listen", p.Listen, "--data-dir", p.DataDir, "--log-level", "error")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // what it prints is for people; the pipe must not fill up
		for s := bufio.NewScanner(out); s.Scan(); {
		}
	}()
	l := &processLife{cmd: cmd}
	l.conn, err = grpc.NewClient("passthrough:"+p.Listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, l.end(err)
	}
	health := healthpb.NewHealthClient(l.conn)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		res, err := health.Check(call, &healthpb.HealthCheckRequest{})
		cancel()
		if err == nil && res.Status == healthpb.HealthCheckResponse_SERVING {
			return l, nil
		}
		l.conn.ResetConnectBackoff()
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, l.end(fmt.Errorf("the node at %s did not become healthy: %w", p.Listen, err))
		}
	}
}

type processLife struct {
	cmd  *exec.Cmd
	conn *grpc.ClientConn
}

// Conn implements [Life].
func (l *processLife) Conn() *grpc.ClientConn { return l.conn }

// Crash implements [Life] with kill -9.
func (l *processLife) Crash() error { return l.cmd.Process.Kill() }

// Bury implements [Life].
func (l *processLife) Bury() error {
	_ = l.conn.Close()
	err := l.cmd.Wait()
	if err == nil || !strings.Contains(err.Error(), "killed") {
		return fmt.Errorf("the node ended otherwise than by kill -9: %w", err)
	}
	return nil
}

func (l *processLife) end(err error) error {
	_ = l.cmd.Process.Kill()
	_ = l.cmd.Wait()
	return err
}

// Settle implements [Life]. What is under way inside a node takes milliseconds; the judge would see what does not.
func (l *processLife) Settle(ctx context.Context) error {
	select {
	case <-time.After(500 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop implements [Life] with SIGTERM.
func (l *processLife) Stop(context.Context) error {
	_ = l.conn.Close()
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return l.cmd.Wait()
}
