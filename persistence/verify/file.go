package verify

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"

	"github.com/granary-dev/granary/persistence/chunk"
)

// streams checks the write-ahead logs and the manifest chunk by chunk. It comes before the store is opened: from damage
// in the last block of a log, opening concludes that the log ends there and goes on without the rest, and it does so
// anywhere in the manifest.
func (v *verifier) streams() error {
	names, err := v.o.FS.List(v.o.Dir)
	if err != nil {
		return fmt.Errorf("data folder %s cannot be read: %w", v.o.Dir, err)
	}
	described, err := pebble.Peek(v.o.Dir, v.o.FS)
	if err != nil {
		return fmt.Errorf("data folder %s cannot be read: %w", v.o.Dir, err)
	}
	manifest := filepath.Base(described.ManifestFilename)
	var files []string
	slices.Sort(names) // so that two runs say the same
	for _, name := range names {
		if _, _, isLog := wal.ParseLogFilename(name); isLog || name == manifest {
			files = append(files, name)
		}
	}
	for i, name := range files {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		v.progress(Progress{Stage: "files", Done: uint64(i), Of: uint64(len(files))})
		number := uint32(0)
		if n, _, isLog := wal.ParseLogFilename(name); isLog {
			number = uint32(n)
		}
		if err := v.stream(name, number); err != nil {
			v.find(Finding{Ordinal: None, File: name, What: fmt.Sprintf("cannot be read: %v", err)})
		}
	}
	return nil
}

func (v *verifier) stream(name string, number uint32) error {
	f, size, err := v.openFile(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return chunk.Read(f, size, number, func(d chunk.Damage) {
		finding := Finding{Ordinal: None, File: name, What: fmt.Sprintf("at offset %d %s", d.Offset, d.What)}
		if number != 0 && d.Record != nil {
			finding.Key = batchKey(d.Record, d.Within)
		}
		v.find(finding)
	})
}

func (v *verifier) openFile(name string) (vfs.File, int64, error) {
	f, err := v.o.FS.Open(v.o.FS.PathJoin(v.o.Dir, name))
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	v.report.Files++
	v.report.Bytes += uint64(info.Size())
	return f, info.Size(), nil
}

// batchKey names the key that a place in a batch belongs to; the keys that it writes, where the place is none of them.
func batchKey(batch []byte, within int) string {
	if _, ok := batchrepr.ReadHeader(batch); !ok {
		return ""
	}
	var keys []string
	more := 0
	for r := batchrepr.Read(batch); ; {
		_, k, _, ok, err := r.Next()
		if err != nil || !ok {
			break
		}
		if within >= batchrepr.HeaderLen && within < len(batch)-len(r) {
			return describeKey(k)
		}
		if len(keys) < 3 {
			keys = append(keys, describeKey(k))
		} else {
			more++
		}
	}
	if len(keys) == 0 {
		return ""
	}
	s := "a batch that writes " + strings.Join(keys, ", ")
	if more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// tables checks every block of every live table, read by anybody or not, and then that the levels fit together.
func (v *verifier) tables() error {
	levels, err := v.store.db.SSTables()
	if err != nil {
		v.find(Finding{Ordinal: None, What: fmt.Sprintf("the tables cannot be listed: %v", err)})
		return v.ctx.Err()
	}
	var names []string
	for _, level := range levels {
		for _, t := range level {
			// tables may be parts of one file
			names = append(names, fmt.Sprintf("%s.sst", t.BackingSSTNum))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	before := v.report.Total
	for i, name := range names {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		v.progress(Progress{Stage: "tables", Done: uint64(i), Of: uint64(len(names))})
		if err := v.table(name); err != nil {
			v.find(Finding{Ordinal: None, File: name, What: fmt.Sprintf("cannot be read: %v", err)})
		}
	}
	if v.report.Total > before {
		return nil // the levels would say the same again
	}
	v.progress(Progress{Stage: "levels"})
	if err := v.store.db.CheckLevels(nil); err != nil {
		v.find(Finding{Ordinal: None, What: fmt.Sprintf("the tables do not fit together: %v", err)})
	}
	return v.ctx.Err()
}

func (v *verifier) table(name string) error {
	f, _, err := v.openFile(name)
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		_ = f.Close()
		return err
	}
	p := options(v.o.FS)
	p.EnsureDefaults()
	r, err := sstable.NewReader(v.ctx, readable, p.MakeReaderOptions())
	if err != nil {
		_ = readable.Close()
		return err
	}
	defer r.Close()
	l, err := r.Layout()
	if err != nil {
		return err
	}

	type part struct {
		block.Handle
		what string
	}
	parts := []part{{l.TopIndex, "top index"}, {l.RangeDel, "range deletions"}, {l.RangeKey, "range keys"}, {l.ValueIndex, "value index"},
		{l.Properties, "properties"}, {l.MetaIndex, "meta index"}, {l.BlobReferenceIndex, "blob references"}}
	for _, h := range l.Data {
		parts = append(parts, part{h.Handle, "data"})
	}
	for _, h := range l.Index {
		parts = append(parts, part{h, "index"})
	}
	for _, h := range l.ValueBlock {
		parts = append(parts, part{h, "value"})
	}
	for _, h := range l.Filter {
		parts = append(parts, part{h.Handle, "filter"})
	}
	slices.SortFunc(parts, func(a, b part) int { return int(int64(a.Offset) - int64(b.Offset)) })

	checksum := r.BlockReader().ChecksumType()
	var buf []byte
	named := false
	for _, p := range parts {
		if p.Length == 0 {
			continue
		}
		buf = slices.Grow(buf[:0], int(p.Length)+block.TrailerLen)[:int(p.Length)+block.TrailerLen]
		if err := readable.ReadAt(v.ctx, buf, int64(p.Offset)); err != nil {
			return err
		}
		err := block.ValidateChecksum(checksum, buf, p.Handle)
		if err == nil {
			continue
		}
		finding := Finding{Ordinal: None, File: name, What: fmt.Sprintf("the %s block at offset %d is not what was written: %v", p.what, p.Offset, err)}
		if p.what == "data" && !named {
			// keys of the first bad data block only: the table cannot be walked past it
			named = true
			finding.Key = v.keysBefore(r)
		}
		v.find(finding)
	}
	return nil
}

// keysBefore names the last key of a table that can still be read in front of its first bad data block.
func (v *verifier) keysBefore(r *sstable.Reader) string {
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.DebugHandlesBlobContext)
	if err != nil {
		return ""
	}
	defer it.Close()
	last := "the beginning of the table"
	for kv := it.First(); kv != nil; kv = it.Next() {
		last = describeKey(kv.K.UserKey)
	}
	return "behind " + last
}
