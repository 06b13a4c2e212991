package commands

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/granary-dev/granary/client"
)

// defaultTarget is where `granary dev` listens when not told otherwise.
const defaultTarget = "127.0.0.1:7080"

// target holds the flags by which a client command finds its node.
type target struct {
	address hostPort
	timeout time.Duration
}

// addTo gives a command, and those below it, the flags.
func (t *target) addTo(cmd *cobra.Command) {
	t.address = defaultTarget
	cmd.PersistentFlags().Var(&t.address, "target", "`HOST:PORT` of a node")
	cmd.PersistentFlags().DurationVar(&t.timeout, "timeout", 10*time.Second, "how long to wait for each answer of the node")
}

// nodeConn is a connection to a node that remembers why it could not be made.
type nodeConn struct {
	*grpc.ClientConn
	target  string
	timeout time.Duration
	dialed  atomic.Pointer[error]
}

// dial prepares a connection. It is made at the first call, and an address where nobody listens fails that call at once:
// a person is told sooner than a program would give up.
func (t *target) dial() (*nodeConn, error) { return t.dialWith(grpc.WithDisableRetry()) }

// dialPatient prepares a connection whose calls follow the published retry policy.
func (t *target) dialPatient() (*nodeConn, error) { return t.dialWith() }

func (t *target) dialWith(options ...grpc.DialOption) (*nodeConn, error) {
	n := &nodeConn{target: string(t.address), timeout: t.timeout}
	// passthrough leaves looking the host up to the dialer, whose errors can be told.
	conn, err := client.Dial("passthrough:///"+n.target, append(options, grpc.WithContextDialer(n.dialContext))...)
	if err != nil {
		return nil, failed("granary --help", "cannot use the target %s: %w", n.target, err)
	}
	n.ClientConn = conn
	return n, nil
}

func (n *nodeConn) dialContext(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		n.dialed.Store(&err)
		return nil, err
	}
	n.dialed.Store(nil)
	return conn, nil
}

// lastDialError is why the last attempt to connect failed, nil if it did not.
func (n *nodeConn) lastDialError() error {
	if err := n.dialed.Load(); err != nil {
		return *err
	}
	return nil
}

func (n *nodeConn) connected() bool { return n.GetState() == connectivity.Ready }

// call gives one call to the node its time.
func (n *nodeConn) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, n.timeout)
}
