//go:build unix && !linux

package supervise

import "syscall"

// attributes of a child: a group of its own.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
