// Command granary runs a node, and talks to one.
//
// Here lives the way from the process (arguments, streams, signals) to package commands and back (the exit code), and
// the choice of what a node is made of; nothing else.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/granary-dev/granary/cmd/granary/commands"
	"github.com/granary-dev/granary/grains/catalog"
	"github.com/granary-dev/granary/persistence/verify"
)

// gcPercent is how much the heap may grow before it is collected, in percent of what lives, where GOGC does not say. At
// full load it is worth about 3 % of the events a second, and costs about 130 MB beside 460.
const gcPercent = 200

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// Room for two: the second signal must not be lost while the first is handled.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
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
		Catalog:    catalog.Builtin(),
		StartNode:  startNode,
		Verify:     verify.Run,
	}))
}
