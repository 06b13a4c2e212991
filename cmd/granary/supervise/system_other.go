//go:build !unix

package supervise

import (
	"os"
	"syscall"
)

// Supported tells whether there are supervisors on this system: a child takes an open socket over, and signals.
const Supported = false

func stop(p *os.Process) error { return p.Kill() }

func howItEnded(p *os.ProcessState) (code int, signal string, meant bool) {
	return p.ExitCode(), "", false
}

func attributes() *syscall.SysProcAttr { return nil }
