package supervise

import "syscall"

// attributes of a child: a group of its own, and the kernel ends it with the supervisor, even while it cannot see that
// its standard input has ended.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
