package commands

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/granary-dev/granary/grains"
)

// NodeOptions say how a node is to run.
type NodeOptions struct {
	// Listen is the HOST:PORT of all it serves; port 0 takes any that is free.
	Listen string
	// Listener to serve instead, if another process has opened it; else nil.
	Listener net.Listener
	// DataDir is the folder of the journal.
	DataDir string
	// Memory is the budget for activations, in bytes.
	Memory int64
	// Shards is the number of shards a new folder is made with. A folder keeps the number it has.
	Shards int
	// TurnLimit is how long the handler of an event may run.
	TurnLimit time.Duration
	// Metrics serves /metrics on the same port.
	Metrics bool
	// Profiles serves Go's profiles under /debug/pprof/ on the same port.
	Profiles bool
	// Limits of its gateway by name; what is left out has its default.
	Limits map[string]string
	// Catalog of the kinds it runs.
	Catalog *grains.Catalog
	// Logger takes what the node has to say.
	Logger *slog.Logger
}

// Limit is something that a node lets clients have only so much of.
type Limit struct {
	// Name, Default value and what it is.
	Name, Default, Doc string
}

// Node is a running node.
type Node interface {
	// Addr is the HOST:PORT it listens at.
	Addr() string
	// Shutdown refuses new events with a retryable error, commits those in flight, and returns when all is closed.
	Shutdown(ctx context.Context) error
	// Done yields the reason when the node ends by itself.
	Done() <-chan error
}

// StartNode starts a node and returns when it takes calls. Its errors are one line that says why: a port in use, a
// folder that another process holds, that is of a newer format or cannot be written.
type StartNode func(ctx context.Context, o NodeOptions) (Node, error)
