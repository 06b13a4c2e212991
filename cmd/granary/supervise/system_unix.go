//go:build unix

package supervise

import (
	"os"
	"syscall"
)

// Supported tells whether there are supervisors on this system.
const Supported = true

func stop(p *os.Process) error { return p.Signal(syscall.SIGTERM) }

// howItEnded tells the exit code of a process, or the signal that ended it and whether such a signal is sent to end a
// process in order.
func howItEnded(p *os.ProcessState) (code int, signal string, meant bool) {
	status, ok := p.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return p.ExitCode(), "", false
	}
	s := status.Signal()
	return 1, "signal " + s.String(), s == syscall.SIGTERM || s == syscall.SIGINT || s == syscall.SIGHUP
}
