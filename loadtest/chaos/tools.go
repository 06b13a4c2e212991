//go:build linux || darwin

package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tools are what the machine has for faults that a process alone cannot make.
type tools struct {
	tmpfs  bool
	strace bool
	only   []string
}

// can tells whether a fault can happen on a disk.
func (t tools) can(f fault, d *disk) bool {
	return t.wants(f) && (!f.disk || d.mounted) && (!f.strace || t.strace)
}

func (t tools) wants(f fault) bool { return len(t.only) == 0 || slices.Contains(t.only, f.name) }

// lookAround finds out what can be had, by trying, and reports what cannot.
func lookAround(ctx context.Context, o Options, r *Report) tools {
	t := tools{only: o.Faults}
	var noDisk, noStrace error
	wants := func(needs func(f fault) bool) (names []string) {
		for _, f := range faults {
			if t.wants(f) && needs(f) {
				names = append(names, f.name)
			}
		}
		return names
	}
	if names := wants(func(f fault) bool { return f.disk }); len(names) > 0 {
		if noDisk = tryTmpfs(ctx, o.Dir); noDisk != nil {
			r.Skipped = append(r.Skipped, fmt.Sprintf("%s: a tmpfs cannot be mounted, run as root on Linux: %v", strings.Join(names, ", "), noDisk))
		}
		t.tmpfs = noDisk == nil
	}
	if names := wants(func(f fault) bool { return f.strace }); len(names) > 0 {
		if noStrace = tryStrace(ctx, o.Dir); noStrace != nil {
			r.Skipped = append(r.Skipped, fmt.Sprintf("%s: %v", strings.Join(names, ", "), noStrace))
		}
		t.strace = noStrace == nil
	}
	return t
}

func tryTmpfs(ctx context.Context, dir string) error {
	folder, err := os.MkdirTemp(dir, "tmpfs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	d, err := newDisk(ctx, filepath.Join(folder, "disk"), true)
	if err != nil {
		return err
	}
	if err := d.leave(ctx, 1<<20); err != nil {
		_ = d.close() // the first error says more
		return err
	}
	return d.close()
}

// tryStrace lets strace make a sync fail, in a program that does nothing else.
func tryStrace(ctx context.Context, dir string) error {
	if _, err := exec.LookPath("strace"); err != nil {
		return fmt.Errorf("strace is not installed: apt-get install strace")
	}
	folder, err := os.MkdirTemp(dir, "strace-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	log := filepath.Join(folder, "syncs")
	args := append(failingSync(log, 1), "sync", "--data", folder)
	out, _ := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput() // that it fails is the point
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), injected) {
		return fmt.Errorf("strace cannot make a sync fail here, it needs Linux, a strace of 5.3 or later and the right to trace: %.200s", out)
	}
	return nil
}
