package persistence

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"

	"github.com/granary-dev/granary/persistence/chunk"
	"github.com/granary-dev/granary/persistence/entry"
)

// StoreFormat is the version of the keys. A store of a higher one is refused.
const StoreFormat = 1

// Options of a store. The zero value of a field means its default.
type Options struct {
	// Dir is the data folder; it is made if it is not there.
	Dir string
	// FS is the file system; the operating system's by default.
	FS vfs.FS
	// Shards is the number of shards of a store that is made; 64 by default, a power of two. A store that exists keeps
	// the number it was made with.
	Shards int
	// NodeID of a store that is made; 1 by default.
	NodeID uint64
	// CacheBytes for blocks and tables in memory; 256 MiB by default.
	CacheBytes int64
	// OpenedBytes of log entries that are kept ready to be searched, over all shards; 128 MiB by default.
	OpenedBytes int
	// ReserveBytes of free disk space below which [Store.Full] tells to refuse writes; 256 MiB by default.
	ReserveBytes uint64
	// Logger for what the store reports; silent by default.
	Logger *slog.Logger
	// Fatal is called when a write that may have been lost cannot be undone, such as a failed fsync. It must not
	// return. By default it panics.
	Fatal func(msg string)
}

// Identity is what a store knows of itself.
type Identity struct {
	Format int    `json:"format"`
	GoArch string `json:"goarch"`
	Shards int    `json:"shards"`
	NodeID uint64 `json:"node_id"`
}

// Store is the one Pebble of a node.
type Store struct {
	db      *pebble.DB
	cache   *pebble.Cache
	lock    *pebble.Lock
	id      Identity
	dir     string
	fs      vfs.FS
	opened  int // bytes that may be kept opened, of all shards
	reserve uint64
	full    atomic.Bool
	found   *damageFound
}

// logger passes on what Pebble reports.
type logger struct {
	to    *slog.Logger
	fatal func(string)
}

func (l logger) Infof(string, ...any) {}
func (l logger) Errorf(format string, args ...any) {
	l.to.Error("storage", "event", fmt.Sprintf(format, args...))
}
func (l logger) Fatalf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	l.to.Error("storage failed, the node stops", "event", msg)
	l.fatal(msg)
}

// Open opens the store in a folder, or makes it. It fails with one line that says why: the folder is locked by another
// process, read-only, of a later format, or of another processor architecture.
func Open(o Options) (*Store, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Shards == 0 {
		o.Shards = 64
	}
	if o.Shards < 1 || o.Shards&(o.Shards-1) != 0 {
		return nil, fmt.Errorf("the number of shards must be a power of two, not %d", o.Shards)
	}
	if o.NodeID == 0 {
		o.NodeID = 1
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 256 << 20
	}
	if o.OpenedBytes == 0 {
		o.OpenedBytes = 128 << 20
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 256 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Fatal == nil {
		o.Fatal = func(msg string) { panic("storage: " + msg) }
	}
	if err := o.FS.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("data folder %s cannot be made: %w", o.Dir, err)
	}
	lock, err := pebble.LockDirectory(o.Dir, o.FS)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "read-only") {
			return nil, fmt.Errorf("data folder %s is not writable: %w", o.Dir, err)
		}
		return nil, fmt.Errorf("data folder %s is in use by another process: %w", o.Dir, err)
	}
	made, err := checkStreams(o.FS, o.Dir)
	if err != nil {
		return nil, errors.Join(notOpened(o.Dir, err), lock.Close())
	}
	if !made {
		if err := create(o, lock); err != nil {
			return nil, errors.Join(fmt.Errorf("data folder %s cannot be made: %w", o.Dir, err), lock.Close())
		}
	}
	if err := checkRoom(o.FS, o.Dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	cache := pebble.NewCache(o.CacheBytes)
	found := &damageFound{}
	db, err := pebble.Open(o.Dir, pebbleOptions(o, cache, lock, found))
	if err != nil {
		cache.Unref()
		_ = lock.Close()
		return nil, notOpened(o.Dir, err)
	}
	s := &Store{db: db, cache: cache, lock: lock, dir: o.Dir, fs: o.FS, opened: o.OpenedBytes, reserve: o.ReserveBytes, found: found}
	if err := s.identify(o); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("data folder %s: %w", o.Dir, err)
	}
	return s, nil
}

// openingNeeds is what is needed beside the size of the logs to open a store.
const openingNeeds = 16 << 20

// checkRoom refuses to open a store on a disk that has no room for what opening it writes: what is in the write-ahead logs
// becomes a table. Pebble would try that again and again, and neither serve nor end.
func checkRoom(fs vfs.FS, dir string) error {
	usage, err := fs.GetDiskUsage(dir)
	if err != nil {
		return nil //nolint:nilerr // not every file system can tell; then opening it shows
	}
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("data folder %s cannot be read: %w", dir, err)
	}
	need := uint64(openingNeeds)
	for _, name := range names {
		if _, _, log := wal.ParseLogFilename(name); !log {
			continue
		}
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if err != nil {
			return fmt.Errorf("data folder %s cannot be read: %w", dir, err)
		}
		need += uint64(info.Size())
	}
	if usage.AvailBytes < need {
		return fmt.Errorf("data folder %s: its disk has %d MiB free, and opening it needs %d MiB for what is in the write-ahead log: make room and start again; nothing was changed",
			dir, usage.AvailBytes>>20, (need+1<<20-1)>>20)
	}
	return nil
}

func notOpened(dir string, err error) error {
	if strings.Contains(err.Error(), "format major version") {
		return fmt.Errorf("data folder %s was written by a later version of Granary: %w", dir, err)
	}
	return fmt.Errorf("data folder %s cannot be opened: %w", dir, damage(err))
}

// create makes an empty store and closes it again. The first log of a store is begun before the store has its format, and
// so without the marks that tell damage from a torn end; nothing that matters may be written there.
func create(o Options, lock *pebble.Lock) error {
	cache := pebble.NewCache(1 << 20)
	defer cache.Unref()
	db, err := pebble.Open(o.Dir, pebbleOptions(o, cache, lock, &damageFound{}))
	if err != nil {
		return err
	}
	return db.Close()
}

// checkStreams reads the write-ahead logs and the manifest of a store before it is opened: Pebble takes damage near the
// end of a log for the place where a crash cut it off, and would go on without what was synced behind it. It tells
// whether there is a store at all.
func checkStreams(fs vfs.FS, dir string) (made bool, err error) {
	described, err := pebble.Peek(dir, fs)
	if err != nil && strings.Contains(err.Error(), "format major version") {
		return true, nil // opening it says what is wrong
	}
	if err != nil {
		return false, fmt.Errorf("cannot be read: %w", err)
	}
	if !described.Exists {
		return false, nil
	}
	names, err := fs.List(dir)
	if err != nil {
		return true, fmt.Errorf("cannot be read: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		number, _, log := wal.ParseLogFilename(name)
		if !log && name != fs.PathBase(described.ManifestFilename) {
			continue
		}
		if err := checkStream(fs, fs.PathJoin(dir, name), uint32(number)); err != nil {
			return true, fmt.Errorf("file %s %w; nothing was changed, keep a copy and run: granary verify --data-dir %s", name, err, dir)
		}
	}
	return true, nil
}

func checkStream(fs vfs.FS, path string, number uint32) error {
	f, err := fs.Open(path)
	if err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	var first *chunk.Damage
	err = chunk.Read(f, info.Size(), number, func(d chunk.Damage) {
		if first == nil {
			first = &chunk.Damage{Offset: d.Offset, What: d.What}
		}
	})
	if err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	if first != nil {
		return fmt.Errorf("is damaged at offset %d: %s: %w", first.Offset, first.What, entry.ErrCorrupt)
	}
	return nil
}

func pebbleOptions(o Options, cache *pebble.Cache, lock *pebble.Lock, found *damageFound) *pebble.Options {
	p := &pebble.Options{
		FS: o.FS, Lock: lock, Cache: cache,
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                64 << 20,
		MemTableStopWritesThreshold: 4,
		// Log entries come in order and are seldom read, and a filter tells which table has one: to merge tables early costs
		// more than to look into some more of them.
		L0CompactionThreshold: 10,
		L0StopWritesThreshold: 30,
		Logger:                logger{o.Logger, o.Fatal},
	}
	for i := range p.Levels {
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	p.ApplyCompressionSettings(compression)
	p.Experimental.CompactionScheduler = newBrake(found)
	// A read that meets corrupt bytes answers an error; it must not end the process, as Pebble would by default.
	p.EventListener = &pebble.EventListener{
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			if found.meet(i.Path) {
				o.Logger.Error("stored bytes are corrupt", "detail", i.String())
			}
		},
		BackgroundError: func(err error) {
			if found.note(err) {
				o.Logger.Error("the store's work in the background failed", "error", err)
			}
		},
	}
	return p
}

// compression leaves what a flush writes as it is, because it is soon written again, and packs what stays.
func compression() pebble.DBCompressionSettings {
	c := pebble.UniformDBCompressionSettings(block.SnappyCompression)
	c.Levels[0] = block.NoCompression
	return c
}

func (s *Store) identify(o Options) error {
	at := key(0, keyNode)
	v, closer, err := s.db.Get(at)
	if errors.Is(err, pebble.ErrNotFound) {
		s.id = Identity{Format: StoreFormat, GoArch: runtime.GOARCH, Shards: o.Shards, NodeID: o.NodeID}
		v, err := json.Marshal(s.id)
		if err != nil {
			return err
		}
		return s.db.Set(at, v, pebble.Sync)
	}
	if err != nil {
		return fmt.Errorf("its identity cannot be read: %w", damage(err))
	}
	defer closer.Close()
	if err := json.Unmarshal(v, &s.id); err != nil {
		return fmt.Errorf("its identity cannot be read: %w", err)
	}
	if s.id.Format > StoreFormat {
		return fmt.Errorf("written by a later version of Granary (format %d; this one reads up to %d)", s.id.Format, StoreFormat)
	}
	if n := s.id.Shards; n < 1 || n&(n-1) != 0 || s.id.NodeID == 0 {
		return fmt.Errorf("its identity cannot be read: %w: %d shards, node %d", entry.ErrCorrupt, n, s.id.NodeID)
	}
	if s.id.GoArch != runtime.GOARCH {
		return fmt.Errorf("written on %s; this is %s, whose floating-point results may differ", s.id.GoArch, runtime.GOARCH)
	}
	return nil
}

// damage says in one line what Pebble found damaged, and where.
func damage(err error) error {
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		return fmt.Errorf("%w: %s: %w", entry.ErrCorrupt, info.Path, info.Details)
	}
	return err
}

// Identity of the store.
func (s *Store) Identity() Identity { return s.id }

// NewBatch returns an empty batch of writes.
func (s *Store) NewBatch() *pebble.Batch { return s.db.NewBatch() }

// Metrics of the store.
func (s *Store) Metrics() *pebble.Metrics { return s.db.Metrics() }

// CheckSpace looks at the free disk space and sets what [Store.Full] tells. The owner of the node's clock calls it every
// second or so.
func (s *Store) CheckSpace() (free uint64, err error) {
	u, err := s.fs.GetDiskUsage(s.dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	s.full.Store(u.AvailBytes < s.reserve)
	return u.AvailBytes, nil
}

// Full tells whether the disk is down to its reserve: new events must be refused, reads go on.
func (s *Store) Full() bool { return s.full.Load() }

// Damaged is the damage in a table that the store met while it rewrote its tables, nil if it met none. From then on it
// rewrites none, and new events must be refused before it has no room for them; reads of what is whole go on. It stays so
// until the file is brought back and the store is opened anew.
func (s *Store) Damaged() error { return s.found.get() }

// Close flushes nothing and closes the store; what was synced is durable.
func (s *Store) Close() error {
	err := s.db.Close()
	s.cache.Unref()
	return errors.Join(err, s.lock.Close())
}
