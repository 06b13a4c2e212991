package verify

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/persistence/chunk"
)

var every = flag.Int("every", 131, "in which distance to flip the bytes of a file")

// contents reads a file of the folder.
func contents(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(fs.PathJoin(testDir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func overwrite(t testing.TB, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(fs.PathJoin(testDir, name), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// named lists the files of the folder whose names end so, or begin so.
func named(t testing.TB, fs vfs.FS, begin, end string) []string {
	t.Helper()
	names, err := fs.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, begin) || !strings.HasSuffix(n, end) })
}

// small is a world whose store is small enough to flip every byte of it.
func small(t *testing.T) *world {
	w := newWorld(t, 2)
	for i := range 6 {
		w.charge(fmt.Sprint("c", i%2), "m", int64(i), withID("s", fmt.Sprint(i)))
		w.flush()
	}
	w.deliver()
	return w.fill()
}

// flipEvery flips one bit of every so many bytes of a file and runs verify. It returns the findings per offset.
func flipEvery(t *testing.T, fs vfs.FS, w *world, name string, size int, check func(offset int, r *Report)) {
	t.Helper()
	whole := contents(t, fs, name)
	defer overwrite(t, fs, name, whole)
	for i := 0; i < size; i += *every {
		bad := bytes.Clone(whole)
		bad[i] ^= 1 << (i / *every % 8)
		overwrite(t, fs, name, bad)
		r, err := Run(t.Context(), Options{Dir: testDir, FS: fs, Catalog: w.catalog})
		if err != nil {
			t.Fatalf("byte %d of %s: %v", i, name, err)
		}
		check(i, r)
	}
}

// about tells whether a finding names a file.
func about(r *Report, name string) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.File == name })
}

// TestFlippedTable: no bit of a table can flip unnoticed, in whatever block it is and whether or not anybody reads it.
func TestFlippedTable(t *testing.T) {
	w := small(t)
	for _, kind := range []struct {
		name   string
		change func(*pebble.Options)
	}{
		{"usual", func(p *pebble.Options) {
			for i := range p.Levels {
				p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
			}
		}},
		{"many blocks", func(p *pebble.Options) {
			for i := range p.Levels {
				p.Levels[i].BlockSize, p.Levels[i].IndexBlockSize = 300, 300
				p.Levels[i].Compression = func() *sstable.CompressionProfile { return block.NoCompression }
			}
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			fs := write(t, w.keys(), 1, kind.change, func(db *pebble.DB) {
				if err := db.Flush(); err != nil {
					t.Fatal(err)
				}
			})
			tables := named(t, fs, "", ".sst")
			if len(tables) != 1 {
				t.Fatalf("tables %v", tables)
			}
			flipEvery(t, fs, w, tables[0], len(contents(t, fs, tables[0])), func(offset int, r *Report) {
				if !about(r, tables[0]) {
					t.Errorf("byte %d is flipped: %v", offset, r.Findings)
				}
			})
		})
	}
}

// TestFlippedLogEntry: the finding names what the bytes belong to.
func TestFlippedLogEntry(t *testing.T) {
	w := small(t)
	fs := write(t, w.keys(), 1, func(p *pebble.Options) {
		for i := range p.Levels {
			p.Levels[i].BlockSize = 1 // an entry a block
			p.Levels[i].Compression = func() *sstable.CompressionProfile { return block.NoCompression }
		}
	}, func(db *pebble.DB) {
		if err := db.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	name := named(t, fs, "", ".sst")[0]
	whole := contents(t, fs, name)
	s := w.shardOf("counter", "c0")
	at := bytes.Index(whole, s.entries[2].frame(s.id))
	if at < 0 {
		t.Fatal("the entry is not in the table")
	}
	whole[at+9] ^= 4
	overwrite(t, fs, name, whole)
	r, err := Run(t.Context(), Options{Dir: testDir, FS: fs, Catalog: w.catalog})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("%s, behind shard %d log 2: the data block at offset", name, s.id),
		fmt.Sprintf("shard %d, index 3: this entry cannot be read", s.id),
	} {
		if !strings.Contains(fmt.Sprint(r.Findings), want) {
			t.Errorf("no %q in %v", want, r.Findings)
		}
	}
}

// ends returns where the last chunk of a stream ends: what lies behind belongs to nobody.
func ends(b []byte, number uint32) (end int, last int) {
	for at := 0; at < len(b); {
		n := chunk.At(b[at:min(len(b), at/chunk.Block*chunk.Block+chunk.Block)], number)
		if n == 0 {
			if next := at/chunk.Block*chunk.Block + chunk.Block; next-at < 19 {
				at = next
				continue
			}
			return end, last
		}
		last, end = at, at+n
		at = end
	}
	return end, last
}

func logNumber(name string) (n uint32) {
	_, _ = fmt.Sscanf(name, "%d.log", &n)
	return n
}

// TestFlippedStream: no bit of the write-ahead log or the manifest can flip unnoticed, not even in the last chunk, where
// opening takes it for the end. A log cut off anywhere is what a crash leaves, and nothing is wrong with its bytes.
func TestFlippedStream(t *testing.T) {
	w := small(t)
	for _, closed := range []bool{true, false} {
		fs := vfs.NewCrashableMem()
		p := &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}}
		db, err := pebble.Open(testDir, p)
		if err != nil {
			t.Fatal(err)
		}
		keys := w.keys()
		for _, k := range sortedKeys(keys) {
			if err := db.Set([]byte(k), keys[k], pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if !closed {
			fs = crashed
		}
		r, err := Run(t.Context(), Options{Dir: testDir, FS: fs, Catalog: w.catalog})
		if err != nil {
			t.Fatal(err)
		}
		none(t, r)

		logs := named(t, fs, "", ".log")
		if len(logs) != 1 {
			t.Fatalf("logs %v", logs)
		}
		whole := contents(t, fs, logs[0])
		end, last := ends(whole, logNumber(logs[0]))
		if end < 1000 {
			t.Fatalf("the log ends at %d", end)
		}
		offset := func(i int, r *Report) {
			if !about(r, logs[0]) {
				t.Errorf("byte %d of %s is flipped (the last chunk begins at %d): %v", i, logs[0], last, r.Findings)
			}
		}
		flipEvery(t, fs, w, logs[0], end, offset)
		// every bit of the last chunk
		for i := last * 8; i < end*8; i++ {
			bad := bytes.Clone(whole)
			bad[i/8] ^= 1 << (i % 8)
			if !closed && len(bytes.Trim(bad[i/8:end], "\x00")) == 0 {
				continue // not to be told from a torn end
			}
			var found []chunk.Damage
			if err := chunk.Read(bytes.NewReader(bad), int64(len(bad)), logNumber(logs[0]), func(d chunk.Damage) { found = append(found, d) }); err != nil {
				t.Fatal(err)
			}
			if len(found) != 1 || found[0].Offset != int64(i/8) {
				t.Fatalf("bit %d of byte %d: %v", i%8, i/8, found)
			}
		}

		manifest := named(t, fs, "MANIFEST", "")
		if len(manifest) != 1 {
			t.Fatalf("manifests %v", manifest)
		}
		size, _ := ends(contents(t, fs, manifest[0]), 0)
		old := *every
		*every = max(1, old/20)
		flipEvery(t, fs, w, manifest[0], size, func(i int, r *Report) {
			if !about(r, manifest[0]) {
				t.Errorf("byte %d of %s is flipped: %v", i, manifest[0], r.Findings)
			}
		})
		*every = old
	}
}

// TestTornLog: whatever a crash cuts off the end of a log is not called damage, with nothing, with zeros, or (at the end
// of a sector) with an older log behind it.
func TestTornLog(t *testing.T) {
	w := small(t)
	fs := write(t, w.keys(), 40, nil, nil)
	name := named(t, fs, "", ".log")[0]
	whole := contents(t, fs, name)
	end, _ := ends(whole, logNumber(name))
	for cut := range end {
		ways := [][]byte{whole[:cut], append(bytes.Clone(whole[:cut]), make([]byte, 40_000)...)}
		if cut%512 == 0 {
			ways = append(ways, append(bytes.Clone(whole[:cut]), bytes.Repeat([]byte{0xa7, 3}, 20_000)...))
		}
		for _, torn := range ways {
			if err := chunk.Read(bytes.NewReader(torn), int64(len(torn)), logNumber(name), func(d chunk.Damage) {
				t.Fatalf("cut at %d: %+v", cut, d)
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestOverwrittenLog: more than a bit is wrong, in a log of several blocks that was synced behind it.
func TestOverwrittenLog(t *testing.T) {
	fs := write(t, nil, 0, nil, nil)
	// the first log of a store is begun before its format is raised to the one that writes sync offsets
	db, err := pebble.Open(testDir, &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	value := bytes.Repeat([]byte("0123456789abcdef"), 500)
	for i := range uint64(30) {
		if err := db.Set(logKey(1, i+1), value, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	logs := named(t, fs, "", ".log")
	name := logs[len(logs)-1]
	whole := contents(t, fs, name)
	end, _ := ends(whole, logNumber(name))
	for at := 0; at < end-2*len(value); at += 3001 {
		bad := bytes.Clone(whole)
		copy(bad[at:], make([]byte, 512))
		var found []chunk.Damage
		if err := chunk.Read(bytes.NewReader(bad), int64(len(bad)), logNumber(name), func(d chunk.Damage) { found = append(found, d) }); err != nil {
			t.Fatal(err)
		}
		if len(found) != 1 || found[0].Offset > int64(at) || found[0].Offset < int64(at-len(value)-100) {
			t.Errorf("512 bytes at %d zeroed: %v", at, found)
		}
	}
}

// TestDamagedBatchIsNamed: of a flipped bit in the log, the finding says which keys it may have changed.
func TestDamagedBatchIsNamed(t *testing.T) {
	w := small(t)
	keys := w.keys()
	keys[bkey(1, 0x44)] = make([]byte, 3*chunk.Block) // so that one batch has many chunks
	s := w.shardOf("counter", "c1")
	for _, batches := range []int{1, len(keys)} {
		fs := write(t, keys, batches, nil, nil)
		name := named(t, fs, "", ".log")[0]
		whole := contents(t, fs, name)
		frame := bytes.Index(whole, s.entries[1].frame(s.id))
		record := bytes.LastIndex(whole[:frame], []byte(bkey(s.id, 1, big(2)))) // its key stands before it
		for _, at := range []int{frame, record, frame + 20} {
			bad := bytes.Clone(whole)
			bad[at] ^= 0x80
			overwrite(t, fs, name, bad)
			r, err := Run(t.Context(), Options{Dir: testDir, FS: fs, Catalog: w.catalog})
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("%s, shard %d log 2: at offset %d bit 7 is flipped", name, s.id, at)
			if len(r.Findings) == 0 || r.Findings[0].String() != want {
				t.Errorf("got %v, want %q", r.Findings, want)
			}
		}
		// in the header of a chunk
		bad := bytes.Clone(whole)
		bad[0] ^= 1
		overwrite(t, fs, name, bad)
		r, err := Run(t.Context(), Options{Dir: testDir, FS: fs, Catalog: w.catalog})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Findings) == 0 || !strings.Contains(r.Findings[0].String(), "a batch that writes shard 0 node") {
			t.Errorf("got %v", r.Findings)
		}
	}
}

// TestMissingTable: a table that is gone is a finding, not an error.
func TestMissingTable(t *testing.T) {
	w := small(t)
	fs := write(t, w.keys(), 1, nil, func(db *pebble.DB) {
		if err := db.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	name := named(t, fs, "", ".sst")[0]
	if err := fs.Remove(fs.PathJoin(testDir, name)); err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), Options{Dir: testDir, FS: fs, Catalog: w.catalog})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(r.Findings); !strings.Contains(got, "the store cannot be opened") || !strings.Contains(got, strings.TrimSuffix(name, ".sst")) {
		t.Error(got)
	}
}

// TestOldVersionsOfKeys: keys that were written over many times, with older versions kept in value blocks and deleted
// ranges, are read like any.
func TestOldVersionsOfKeys(t *testing.T) {
	w := small(t)
	keys := w.keys()
	fs := write(t, keys, 1, func(p *pebble.Options) { p.Experimental.EnableValueBlocks = func() bool { return true } }, func(db *pebble.DB) {
		held := db.NewSnapshot()
		for range 3 {
			for _, k := range sortedKeys(keys) {
				if err := db.Set([]byte(k), keys[k], pebble.Sync); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := db.DeleteRange([]byte("x"), []byte("z"), pebble.Sync); err != nil {
			t.Fatal(err)
		}
		if err := db.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}
	})
	r, err := Run(t.Context(), Options{Dir: testDir, FS: fs, Catalog: w.catalog})
	if err != nil {
		t.Fatal(err)
	}
	none(t, r)
	tables := named(t, fs, "", ".sst")
	slices.SortFunc(tables, func(a, b string) int { return cmp.Compare(len(contents(t, fs, a)), len(contents(t, fs, b))) })
	name := tables[len(tables)-1]
	flipEvery(t, fs, w, name, len(contents(t, fs, name)), func(offset int, r *Report) {
		if !about(r, name) {
			t.Errorf("byte %d is flipped: %v", offset, r.Findings)
		}
	})
}
