package sim

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// Disk is a file system in memory that knows what a power cut would leave of it. Nothing in it depends on the order of a
// map, so the same calls and the same random numbers leave the same bytes.
type Disk struct {
	mu    sync.Mutex
	files map[string]*inode // as programs see them
	dirs  map[string]bool
	saved map[string]*inode // as the directory is on the disk
	ops   []dirOp           // what the directory on the disk lacks, in order

	// beforeSync is asked before data becomes durable; an error is that of the sync, which then saved nothing.
	beforeSync func(name string) error
	// free is what is left for programs, in bytes.
	free uint64
}

// inode is a file, whatever it is called.
type inode struct {
	data    []byte
	pending []pendingWrite
	locked  bool
}

// pendingWrite is a write that no sync has saved yet, with what it has overwritten.
type pendingWrite struct {
	at       int
	old, new []byte
	lost     bool // a sync failed over it: no later one saves it
}

// dirOp gives a name to a file, or takes it away (nil).
type dirOp struct {
	name string
	file *inode
}

// NewDisk returns an empty disk.
func NewDisk() *Disk {
	return &Disk{files: map[string]*inode{}, dirs: map[string]bool{"": true, ".": true, "/": true}, saved: map[string]*inode{}, free: 1 << 40}
}

// Crash returns the disk as it is found after a power cut: all that was synced, the first of the pending changes of the
// directory, and of each file's pending writes any sectors, each with the given chance. What is left follows from the seed
// and from what was written, not from how many writes the store took for it or from the files that it works on besides.
func (d *Disk) Crash(seed uint64, chance float64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := NewDisk()
	for name := range d.dirs {
		after.dirs[name] = true
	}
	names := map[string]*inode{}
	for name, f := range d.saved {
		names[name] = f
	}
	kept := rand.New(rand.NewPCG(seed, 0)).IntN(len(d.ops) + 1)
	for _, op := range d.ops[:kept] {
		if op.file == nil {
			delete(names, op.name)
		} else {
			names[op.name] = op.file
		}
	}
	moved := map[*inode]*inode{} // a file may have two names
	nth := map[string]uint64{}   // of its kind, from the newest on: the store numbers files as it pleases
	for _, name := range slices.Backward(sorted(names)) {
		f := names[name]
		if moved[f] == nil {
			kind := path.Ext(name)
			nth[kind]++
			moved[f] = &inode{data: f.afterCrash(rand.New(rand.NewPCG(seed, xxhash.Sum64String(kind)+nth[kind])), chance)}
		}
		after.files[name], after.saved[name] = moved[f], moved[f]
	}
	return after
}

// afterCrash draws what is left of a file: sector by sector what was synced or what was written, or, where the disk was
// just at it, the first of what was written and the rest of what was synced.
func (f *inode) afterCrash(rnd *rand.Rand, chance float64) []byte {
	data, written := slices.Clone(f.data), []byte(nil)
	for _, w := range slices.Backward(f.pending) {
		copy(data[w.at:], w.old)
		if grown, had := w.at+len(w.new), w.at+len(w.old); grown == len(data) {
			data = data[:had]
		} else {
			clear(data[had:grown]) // what came behind it was saved
		}
	}
	written = slices.Clone(data)
	for _, w := range f.pending {
		if !w.lost {
			written = overwrite(written, w.at, w.new)
		}
	}
	for at := 0; at < len(written); at += sector {
		end := min(at+sector, len(written))
		if bytes.Equal(written[at:end], data[min(at, len(data)):min(end, len(data))]) {
			continue
		}
		switch draw := rnd.Float64(); {
		case draw < chance:
			data = overwrite(data, at, written[at:end])
		case draw < chance+(1-chance)*torn:
			data = overwrite(data, at, written[at:at+rnd.IntN(end-at+1)])
		}
	}
	return data
}

// torn is the share of the sectors not saved of which a first part was.
const torn = 0.1

// overwrite puts bytes at an offset, behind zeros where the data ends before it.
func overwrite(data []byte, at int, with []byte) []byte {
	if grow := at + len(with) - len(data); grow > 0 {
		data = append(data, make([]byte, grow)...)
	}
	copy(data[at:], with)
	return data
}

// Flip is one bit of a file that is not what was written.
type Flip struct {
	// Name of the file, and offset in it.
	Name string
	At   int
	mask byte
}

// Flip flips one bit of the last by name of the files that a rule picks; of none if there is none. Which others there are
// and how they are numbered is the store's affair, and differs from run to run.
func (d *Disk) Flip(rnd *rand.Rand, picks func(name string) bool) *Flip {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &Flip{}
	for _, name := range sorted(d.files) {
		if len(d.files[name].data) > 0 && picks(name) {
			f.Name = name
		}
	}
	if f.Name == "" {
		return nil
	}
	data := d.files[f.Name].data
	f.At, f.mask = rnd.IntN(len(data)), 1<<rnd.IntN(8)
	data[f.At] ^= f.mask
	return f
}

// Repair makes a file again what it was, if it is still there.
func (d *Disk) Repair(f *Flip) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if file := d.files[f.Name]; file != nil && f.At < len(file.data) {
		file.data[f.At] ^= f.mask
	}
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func clean(name string) string { return strings.TrimPrefix(path.Clean(name), "/") }

func notThere(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

func (d *Disk) set(name string, f *inode) {
	if f == nil {
		delete(d.files, name)
	} else {
		d.files[name] = f
	}
	d.ops = append(d.ops, dirOp{name, f})
}

// Create implements [vfs.FS].
func (d *Disk) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &inode{}
	d.set(clean(name), f)
	return &handle{disk: d, file: f, name: clean(name)}, nil
}

// Link implements [vfs.FS].
func (d *Disk) Link(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[clean(from)]
	if f == nil {
		return notThere("link", from)
	}
	d.set(clean(to), f)
	return nil
}

// Open implements [vfs.FS].
func (d *Disk) Open(name string, _ ...vfs.OpenOption) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.files[clean(name)]; f != nil {
		return &handle{disk: d, file: f, name: clean(name)}, nil
	}
	return nil, notThere("open", name)
}

// OpenReadWrite implements [vfs.FS].
func (d *Disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return d.Create(name, c)
	}
	return f, err
}

// OpenDir implements [vfs.FS].
func (d *Disk) OpenDir(name string) (vfs.File, error) {
	return &handle{disk: d, name: clean(name), dir: true}, nil
}

// Remove implements [vfs.FS].
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[clean(name)] == nil {
		return notThere("remove", name)
	}
	d.set(clean(name), nil)
	return nil
}

// RemoveAll implements [vfs.FS].
func (d *Disk) RemoveAll(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range sorted(d.files) {
		if n == clean(name) || strings.HasPrefix(n, clean(name)+"/") {
			d.set(n, nil)
		}
	}
	return nil
}

// Rename implements [vfs.FS].
func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[clean(from)]
	if f == nil {
		return notThere("rename", from)
	}
	d.set(clean(to), f)
	d.set(clean(from), nil)
	return nil
}

// ReuseForWrite implements [vfs.FS].
func (d *Disk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.Rename(from, to); err != nil {
		return nil, err
	}
	return d.OpenReadWrite(to, c)
}

// MkdirAll implements [vfs.FS].
func (d *Disk) MkdirAll(dir string, _ os.FileMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirs[clean(dir)] = true
	return nil
}

// Lock implements [vfs.FS].
func (d *Disk) Lock(name string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[clean(name)]
	if f == nil {
		f = &inode{}
		d.set(clean(name), f)
	}
	if f.locked {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: syscall.EAGAIN}
	}
	f.locked = true
	return unlock{d, f}, nil
}

type unlock struct {
	disk *Disk
	file *inode
}

// Close implements [io.Closer].
func (u unlock) Close() error {
	u.disk.mu.Lock()
	defer u.disk.mu.Unlock()
	u.file.locked = false
	return nil
}

// List implements [vfs.FS].
func (d *Disk) List(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dirs[clean(dir)] {
		return nil, notThere("list", dir)
	}
	var names []string
	for _, n := range sorted(d.files) {
		if path.Dir(n) == clean(dir) {
			names = append(names, path.Base(n))
		}
	}
	return names, nil
}

// Stat implements [vfs.FS].
func (d *Disk) Stat(name string) (vfs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.files[clean(name)]; f != nil {
		return info{name: path.Base(clean(name)), size: int64(len(f.data))}, nil
	}
	if d.dirs[clean(name)] {
		return info{name: path.Base(clean(name)), dir: true}, nil
	}
	return nil, notThere("stat", name)
}

// PathBase implements [vfs.FS].
func (d *Disk) PathBase(p string) string { return path.Base(p) }

// PathJoin implements [vfs.FS].
func (d *Disk) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir implements [vfs.FS].
func (d *Disk) PathDir(p string) string { return path.Dir(p) }

// GetDiskUsage implements [vfs.FS].
func (d *Disk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return vfs.DiskUsage{AvailBytes: d.free, TotalBytes: 1 << 40, UsedBytes: 1<<40 - d.free}, nil
}

// Unwrap implements [vfs.FS].
func (d *Disk) Unwrap() vfs.FS { return nil }

// info implements [vfs.FileInfo].
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string { return i.name }
func (i info) Size() int64  { return i.size }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}
func (i info) ModTime() time.Time     { return time.Time{} }
func (i info) IsDir() bool            { return i.dir }
func (i info) Sys() any               { return nil }
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

// handle is an open file or directory.
type handle struct {
	disk *Disk
	file *inode
	name string
	dir  bool
	at   int
}

// Close implements [vfs.File].
func (h *handle) Close() error { return nil }

// Read implements [vfs.File].
func (h *handle) Read(p []byte) (int, error) {
	n, err := h.ReadAt(p, int64(h.at))
	h.at += n
	if n > 0 {
		err = nil
	}
	return n, err
}

// ReadAt implements [vfs.File].
func (h *handle) ReadAt(p []byte, at int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if at >= int64(len(h.file.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.file.data[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Write implements [vfs.File].
func (h *handle) Write(p []byte) (int, error) {
	n, err := h.WriteAt(p, int64(h.at))
	h.at += n
	return n, err
}

// WriteAt implements [vfs.File].
func (h *handle) WriteAt(p []byte, at int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	f, from := h.file, int(at)
	if from > len(f.data) {
		f.data = append(f.data, make([]byte, from-len(f.data))...)
	}
	w := pendingWrite{at: from, new: slices.Clone(p), old: slices.Clone(f.data[from:min(len(f.data), from+len(p))])}
	f.pending = append(f.pending, w)
	f.data = overwrite(f.data, from, p)
	return len(p), nil
}

// Preallocate implements [vfs.File].
func (h *handle) Preallocate(int64, int64) error { return nil }

// Stat implements [vfs.File].
func (h *handle) Stat() (vfs.FileInfo, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.dir {
		return info{name: path.Base(h.name), dir: true}, nil
	}
	return info{name: path.Base(h.name), size: int64(len(h.file.data))}, nil
}

// Sync implements [vfs.File].
func (h *handle) Sync() error {
	if hook := h.disk.beforeSync; hook != nil {
		if err := hook(h.name); err != nil {
			h.disk.mu.Lock()
			defer h.disk.mu.Unlock()
			for i := range h.file.pending {
				h.file.pending[i].lost = true // as kernels do: the pages count as clean, and are not written again
			}
			return err
		}
	}
	d := h.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if !h.dir {
		h.file.pending = slices.DeleteFunc(h.file.pending, func(w pendingWrite) bool { return !w.lost })
		return nil
	}
	kept := d.ops[:0]
	for _, op := range d.ops {
		switch {
		case path.Dir(op.name) != h.name:
			kept = append(kept, op)
		case op.file == nil:
			delete(d.saved, op.name)
		default:
			d.saved[op.name] = op.file
		}
	}
	d.ops = kept
	return nil
}

// SyncTo implements [vfs.File].
func (h *handle) SyncTo(int64) (bool, error) { return false, nil }

// SyncData implements [vfs.File].
func (h *handle) SyncData() error { return h.Sync() }

// Prefetch implements [vfs.File].
func (h *handle) Prefetch(int64, int64) error { return nil }

// Fd implements [vfs.File].
func (h *handle) Fd() uintptr { return vfs.InvalidFd }
