package commands

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/granary-dev/granary/cmd/granary/supervise"
)

// superviseDev runs the node of `granary dev` in a process of its own, and watches over it.
func (a *app) superviseDev(ctx context.Context, d *dev) (err error) {
	o := supervise.Options{Path: a.Executable, Args: a.Args, Out: a.Out, Err: a.Err, Say: supervise.Say(a.Err)}
	if d.DataDir == "" {
		if o.Temporary, err = temporaryFolder(); err != nil {
			return err
		}
		defer removeFolder(o.Temporary)
	}
	var lc net.ListenConfig
	if o.Listener, err = lc.Listen(ctx, "tcp", string(d.listen)); err != nil {
		d.Listen, d.DataDir = string(d.listen), d.DataDir+o.Temporary
		return startFailure(d, err)
	}
	s, err := supervise.New(o)
	if err != nil {
		return failed("granary dev --supervise=false", "dev: the node's process cannot be supervised: %w", err)
	}
	a.beforeExit(func() {
		s.Kill()
		removeFolder(o.Temporary)
	})
	code, err := s.Run(ctx)
	var gaveUp *supervise.GaveUp
	switch {
	case errors.As(err, &gaveUp):
		return failed("the log above says why; what was acknowledged is there, if --data-dir was given", "dev: %w: it is not started again", err)
	case err != nil:
		return failed("granary dev --supervise=false", "dev: %w", err)
	case code != ExitDone:
		return &failure{exit: code, problem: "dev: the node's process ended", told: true}
	}
	return nil
}

// temporaryFolder makes the data folder of a node that has none.
func temporaryFolder() (string, error) {
	dir, err := os.MkdirTemp("", "granary-dev-")
	if err != nil {
		return "", failed("granary dev --data-dir DIR, with a folder that can be written", "dev: cannot make a temporary folder: %w", err)
	}
	return dir, nil
}

// removeFolder removes a temporary folder; none if there is none. What is left is in the system's temporary folder.
func removeFolder(dir string) {
	if dir != "" {
		_ = os.RemoveAll(dir)
	}
}
