package persistence

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// readOnly is a file system that takes no writes.
var readOnly = errorfs.InjectorFunc(func(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpLock, errorfs.OpMkdirAll, errorfs.OpRemove, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpFileWrite:
		if op.Kind == errorfs.OpMkdirAll {
			return nil // it is there
		}
		return &fs.PathError{Op: "open", Path: op.Path, Err: syscall.EROFS}
	}
	return nil
})

// TestOpenNeedsRoom: a store whose logs could not be taken up is not opened, and opens when there is room.
func TestOpenNeedsRoom(t *testing.T) {
	fs := &disk{FS: vfs.NewMem(), free: 1 << 40}
	s := openStore(t, fs)
	b := s.NewBatch()
	if err := b.Set([]byte("~"), make([]byte, 5<<20), nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Commit(pebble.Sync), b.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	fs.free = 20 << 20
	if _, err := Open(Options{Dir: "data", FS: fs}); err == nil || !strings.Contains(err.Error(), "has 20 MiB free, and opening it needs 22 MiB") {
		t.Fatalf("%v", err)
	}
	fs.free = 22 << 20
	s, err := Open(Options{Dir: "data", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestOpenSaysWhy: a folder that cannot be opened is refused in one line that says why, and can be opened when the
// reason is gone.
func TestOpenSaysWhy(t *testing.T) {
	denied := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpLock {
			return &fs.PathError{Op: "open", Path: op.Path, Err: fs.ErrPermission}
		}
		return nil
	})
	full := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpLock || op.Kind == errorfs.OpCreate {
			return &fs.PathError{Op: "open", Path: op.Path, Err: syscall.ENOSPC}
		}
		return nil
	})
	identity := func(v string) func(*testing.T, *vfs.MemFS) vfs.FS {
		return func(t *testing.T, mem *vfs.MemFS) vfs.FS {
			s := openStore(t, mem)
			if err := s.db.Set(key(0, keyNode), []byte(v), pebble.Sync); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return mem
		}
	}
	for _, test := range []struct {
		name string
		make func(*testing.T, *vfs.MemFS) vfs.FS
		says []string
	}{
		{"locked", func(t *testing.T, mem *vfs.MemFS) vfs.FS {
			s := openStore(t, mem)
			t.Cleanup(func() { _ = s.Close() })
			return mem
		}, []string{"data folder data is in use by another process"}},
		{"read-only", func(t *testing.T, mem *vfs.MemFS) vfs.FS {
			s := openStore(t, mem)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return errorfs.Wrap(mem, readOnly)
		}, []string{"data folder data is not writable", "read-only file system"}},
		{"not permitted", func(_ *testing.T, mem *vfs.MemFS) vfs.FS { return errorfs.Wrap(mem, denied) }, []string{"data folder data is not writable", "permission denied"}},
		{"no space", func(_ *testing.T, mem *vfs.MemFS) vfs.FS { return errorfs.Wrap(mem, full) }, []string{"data folder data", "no space left"}},
		{"cannot be made", func(_ *testing.T, mem *vfs.MemFS) vfs.FS {
			return errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == errorfs.OpMkdirAll {
					return &fs.PathError{Op: "mkdir", Path: op.Path, Err: fs.ErrPermission}
				}
				return nil
			}))
		}, []string{"data folder data cannot be made", "permission denied"}},
		{"later keys", identity(fmt.Sprintf(`{"format":%d,"goarch":%q,"shards":2,"node_id":1}`, StoreFormat+1, runtime.GOARCH)),
			[]string{"data folder data", "written by a later version of Granary", fmt.Sprintf("format %d", StoreFormat+1)}},
		{"another processor", identity(`{"format":1,"goarch":"pdp11","shards":2,"node_id":1}`), []string{"data folder data", "written on pdp11", runtime.GOARCH}},
		{"no identity", identity("not JSON"), []string{"data folder data", "its identity cannot be read"}},
		{"no sensible identity", identity(fmt.Sprintf(`{"format":1,"goarch":%q,"shards":3,"node_id":1}`, runtime.GOARCH)), []string{"data folder data", "its identity cannot be read"}},
		{"later store", func(t *testing.T, mem *vfs.MemFS) vfs.FS {
			s := openStore(t, mem)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			names, err := mem.List("data")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if strings.HasPrefix(name, "marker.format-version.") {
					if err := mem.Rename("data/"+name, "data/marker.format-version.000099.099"); err != nil {
						t.Fatal(err)
					}
				}
			}
			return mem
		}, []string{"data folder data", "written by a later version of Granary"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Open(Options{Dir: "data", FS: test.make(t, vfs.NewMem()), Shards: 2, CacheBytes: 1 << 20})
			if err == nil {
				_ = s.Close()
				t.Fatal("it was opened")
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			for _, says := range test.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%v\ndoes not say %q", err, says)
				}
			}
		})
	}
}

// TestOpenReleasesTheFolder: what failed to open, and what was closed, holds no lock. On the operating system's files,
// because there the lock is a real one.
func TestOpenReleasesTheFolder(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Options{Dir: dir, Shards: 2, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir, CacheBytes: 1 << 20}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("opened twice: %v", err)
	}
	whole := s.Identity()
	if err := s.db.Set(key(0, keyNode), []byte("{"), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Open(Options{Dir: dir, CacheBytes: 1 << 20}); err == nil || !strings.Contains(err.Error(), "identity") {
			t.Errorf("%v", err)
		}
	}
	if whole != (Identity{Format: StoreFormat, GoArch: runtime.GOARCH, Shards: 2, NodeID: 1}) {
		t.Errorf("%+v", whole)
	}
	if _, err := Open(Options{Dir: filepath.Join(dir, "file"), Shards: 3}); err == nil || !strings.Contains(err.Error(), "power of two") {
		t.Errorf("%v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: file}); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a file as folder: %v", err)
	}
}

// TestStoreKeepsItsIdentity: a store that exists keeps the number of shards it was made with.
func TestStoreKeepsItsIdentity(t *testing.T) {
	mem := vfs.NewMem()
	s, err := Open(Options{Dir: "data", FS: mem, Shards: 8, NodeID: 7, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = Open(Options{Dir: "data", FS: mem, Shards: 2, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if id := s.Identity(); id.Shards != 8 || id.NodeID != 7 {
		t.Errorf("%+v", id)
	}
}

// disk is a file system of which the free space is said.
type disk struct {
	vfs.FS
	free uint64
	err  error
}

func (d *disk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.free, TotalBytes: 1 << 40}, d.err
}

// TestDiskReserve: below the reserve the store says that it is full, above it that it is not; what cannot be asked
// changes nothing.
func TestDiskReserve(t *testing.T) {
	d := &disk{FS: vfs.NewMem(), free: 1 << 30}
	s, err := Open(Options{Dir: "data", FS: d, Shards: 2, CacheBytes: 1 << 20, ReserveBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, test := range []struct {
		free uint64
		err  error
		full bool
		fail bool
	}{{1 << 30, nil, false, false}, {1<<30 - 1, nil, true, false}, {0, io.ErrUnexpectedEOF, true, true}, {0, vfs.ErrUnsupported, true, false}, {1 << 30, nil, false, false}} {
		d.free, d.err = test.free, test.err
		_, err := s.CheckSpace()
		if (err != nil) != test.fail || s.Full() != test.full {
			t.Errorf("%d bytes free, %v: full=%t %v", test.free, test.err, s.Full(), err)
		}
	}
}

// TestFailedSyncIsFatal: when the disk fails to sync, nobody knows what of it is stored: Fatal is called before the
// write returns, so that nothing can be acknowledged on it.
func TestFailedSyncIsFatal(t *testing.T) {
	type stopped string
	fails := &errorfs.Toggle{Injector: errorfs.InjectorFunc(func(op errorfs.Op) error {
		if (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo) && strings.HasSuffix(op.Path, ".log") {
			return syscall.EIO
		}
		return nil
	})}
	s, err := Open(Options{Dir: "data", FS: errorfs.Wrap(vfs.NewMem(), fails), Shards: 2, CacheBytes: 1 << 20,
		Fatal: func(msg string) { panic(stopped(msg)) }})
	if err != nil {
		t.Fatal(err)
	}
	l := openLog(t, s)
	write := func(index uint64) error {
		b := s.NewBatch()
		if err := l.Append(b, []*raftpb.Entry{raftEntry(index, 1, "")}); err != nil {
			t.Fatal(err)
		}
		return b.Commit(pebble.Sync)
	}
	if err := write(1); err != nil {
		t.Fatal(err)
	}
	fails.On()
	defer func() {
		if msg, ok := recover().(stopped); !ok || !strings.Contains(string(msg), "input/output error") {
			t.Errorf("the store stopped with %v", msg)
		}
	}()
	err = write(2)
	t.Errorf("the write returned: %v", err)
}
