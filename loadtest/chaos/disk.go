//go:build linux || darwin

package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// roomy is the size of a disk of our own: far more than a round writes beside the node's reserve. It is memory only as far
// as it is written to.
const roomy = 1 << 30

// disk is where the data folder is: a folder, or a small file system of its own whose end can be moved.
type disk struct {
	dir     string
	mounted bool
}

func newDisk(ctx context.Context, dir string, tmpfs bool) (*disk, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	d := &disk{dir: dir}
	if !tmpfs {
		return d, nil
	}
	if err := run(ctx, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", roomy), "granary-chaos", dir); err != nil {
		return nil, err
	}
	d.mounted = true
	return d, nil
}

func (d *disk) close() error {
	if !d.mounted {
		return nil
	}
	d.mounted = false
	if err := run(context.Background(), "umount", d.dir); err != nil {
		return run(context.Background(), "umount", "-l", d.dir)
	}
	return nil
}

// leave moves the end of the disk so that so much of it is free.
func (d *disk) leave(ctx context.Context, free int64) error {
	var err error
	for range 10 { // what is written meanwhile may be beyond the new end: then it is refused
		var s syscall.Statfs_t
		if err := syscall.Statfs(d.dir, &s); err != nil {
			return err
		}
		used := int64(s.Blocks-s.Bfree) * int64(s.Bsize) //nolint:unconvert // of another type on other systems
		if err = run(ctx, "mount", "-o", fmt.Sprintf("remount,size=%d", used+free), d.dir); err == nil {
			return nil
		}
	}
	return err
}

// room makes the disk large again.
func (d *disk) room(ctx context.Context) error {
	return run(ctx, "mount", "-o", fmt.Sprintf("remount,size=%d", roomy), d.dir)
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		first, _, _ := strings.Cut(string(out), "\n") // the rest is advice
		return fmt.Errorf("%s: %w: %s", name, err, first)
	}
	return nil
}
