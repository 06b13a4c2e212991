// Package granary is a whole node and its command line as one function, so that ten lines make a binary with kinds of one's
// own. docs/kinds.md walks through it; examples/ownkind is what comes out.
//
// Here lives the way from the process (arguments, streams, signals) to package commands and back (the exit code), and the
// choice of what a node is made of; nothing else. Here never live kinds: whoever calls [Main] brings them.
//
// Invariant: the binary that Granary is released as is made by the same function as everyone's own.
package granary

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/cmd/granary/commands"
	"github.com/granary-dev/granary/cmd/granary/supervise"
	"github.com/granary-dev/granary/gateway"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/verify"
)

// gcPercent is how much the heap may grow before it is collected, in percent of what lives, where GOGC does not say. At
// full load it is worth about 3 % of the events a second, and costs about 130 MB beside 460.
const gcPercent = 200

// besideBudget is what a node may use beside twice its budget for activations: caches, tables in memory, what is in flight,
// and some room for the collector. With the default budget that makes a node of less than 1 GiB.
const besideBudget = 448 << 20

// Main runs the command line of the process with these kinds, and ends the process with its exit code. Two kinds of one
// name, or one that is not well defined, are told in a line, with exit code 2.
func Main(kinds ...*grains.Definition) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	catalog, err := grains.NewCatalog(kinds...)
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: the kinds of this binary do not go together: %v\n", err)
		os.Exit(commands.ExitUsage)
	}
	// Room for two: the second signal must not be lost while the first is handled.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	child, err := supervise.FromEnvironment(func() { os.Exit(commands.ExitFailed) })
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: this process was started as the child of another: %v\n", err)
		os.Exit(commands.ExitFailed)
	}
	executable, err := os.Executable()
	if err != nil { // the program's file is gone; what would start it runs in this process
		executable = ""
	}
	os.Exit(commands.Run(context.Background(), commands.Environment{
		Args:       os.Args[1:],
		In:         os.Stdin,
		Out:        os.Stdout,
		Err:        os.Stderr,
		Getenv:     os.Getenv,
		Signals:    signals,
		Exit:       os.Exit,
		Executable: executable,
		Supervised: child,
		Catalog:    catalog,
		StartNode:  startNode,
		Verify:     verify.Run,
		Limits:     limits(),
		CheckLimits: func(values map[string]string) error {
			_, err := gateway.ParseLimits(values)
			return err
		},
	}))
}

// limits are what `granary dev --help` says of the gateway's limits.
func limits() (all []commands.Limit) {
	for _, l := range gateway.LimitList() {
		all = append(all, commands.Limit{Name: l.Name, Default: l.Default, Doc: l.Doc})
	}
	return all
}

// startNode starts a node with its gateway in this process.
func startNode(ctx context.Context, o commands.NodeOptions) (commands.Node, error) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2*o.Memory + besideBudget)
	}
	l, err := gateway.ParseLimits(o.Limits)
	if err != nil {
		return nil, err
	}
	return node.Serve(ctx, node.ProcessOptions{
		Limits:   l,
		Options:  node.Options{DataDir: o.DataDir, Catalog: o.Catalog, Shards: o.Shards, MemoryBudget: o.Memory, TurnLimit: o.TurnLimit, Logger: o.Logger},
		Listen:   o.Listen,
		Listener: o.Listener,
		Metrics:  o.Metrics,
		Profiles: o.Profiles,
	})
}
