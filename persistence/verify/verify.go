// Package verify reads a data folder and tells whether it is what Granary would have written.
//
// Here live a second reader of every byte in the folder, made from the documentation of the packages persistence and
// entry and from nothing else, and the checks that go over what it reads. Here never live imports of those packages, or
// of actors: a mistake in the code that writes would be shared by the code that reads, and go unnoticed.
//
// Invariant: nothing is believed that can be computed. The log is decoded from its bytes; everything else in the
// folder, and everything in a record that follows from earlier records, is computed again and compared.
//
// # What is looked at
//
//	files     every block of every live table, every chunk of the write-ahead logs and of the manifest, by their checksums
//	log       indexes dense, terms not falling, CRCs, the fence of each entry, journal time not running back
//	grains    in the shard that owns them, seq 1, 2, 3 …, distances back, ids unique within their window
//	turns     run again by the version of the logic that ran: same effects, same digest, and every snapshot equal to the
//	          fold before it; no version behind records of another that no snapshot covers
//	producers sequences rising, epochs not falling
//	sends     taken in by their target once, in order, with the bytes that were sent; outstanding only at the end
//	reminders fired only when they were set, not canceled, due, and not at their end, with the event they were set with
//	derived   every other key equal to what the log up to the applied index gives, and no key besides
//
// A torn end of the newest write-ahead log is what a crash leaves and is not a finding. A flipped bit there is told from
// it: flipping one bit makes the checksum right again, or a later chunk was written when this one was already synced.
// What cannot be told from it is more than one wrong bit behind the last sync that a later chunk bears witness to.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/grains"
)

// Options of a run. The zero value of a field means its default.
type Options struct {
	// Dir is the data folder. No node may be running on it.
	Dir string
	// FS is the file system; the operating system's by default.
	FS vfs.FS
	// Catalog has the kinds whose turns are run again; those of other kinds are counted, not run.
	Catalog *grains.Catalog
	// Progress is called now and then from the goroutine of [Run]; may be nil.
	Progress func(Progress)
	// MaxFindings is how many findings are kept; 100 by default. All are counted.
	MaxFindings int
	// MaxGrains is how many grains of a shard are held in memory at once; 1,000,000 by default. A shard that has more
	// is read more than once.
	MaxGrains int
}

// Run checks a data folder and changes nothing in it. Whatever is wrong with what is stored is a finding of the report;
// an error means that the folder could not be looked at: it is in use, not readable, not a data folder, or ctx ended.
func Run(ctx context.Context, o Options) (*Report, error) {
	began := time.Now()
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.MaxFindings == 0 {
		o.MaxFindings = 100
	}
	if o.MaxGrains == 0 {
		o.MaxGrains = 1_000_000
	}
	if o.Catalog == nil {
		var err error
		if o.Catalog, err = grains.NewCatalog(); err != nil {
			return nil, err
		}
	}
	if err := look(o); err != nil {
		return nil, err
	}
	lock, err := pebble.LockDirectory(o.Dir, o.FS)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "read-only") {
			return nil, fmt.Errorf("data folder %s cannot be locked against a node that starts meanwhile: %w", o.Dir, err)
		}
		return nil, fmt.Errorf("data folder %s is in use by another process; stop the node first: %w", o.Dir, err)
	}
	defer lock.Close()

	v := &verifier{ctx: ctx, o: o, report: &Report{Dir: o.Dir, Records: map[string]uint64{}, Unrun: map[string]uint64{}}}
	err = v.run(lock)
	v.report.Seconds = time.Since(began).Seconds()
	return v.report, err
}

// look tells what the folder is, before anything in it is touched.
func look(o Options) error {
	if info, err := o.FS.Stat(o.Dir); err != nil {
		return fmt.Errorf("data folder %s cannot be read: %w", o.Dir, err)
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", o.Dir)
	}
	d, err := pebble.Peek(o.Dir, o.FS)
	if err != nil {
		return fmt.Errorf("data folder %s cannot be read: %w", o.Dir, err)
	}
	if !d.Exists {
		return fmt.Errorf("%s is not a data folder of Granary: it holds no store", o.Dir)
	}
	if d.FormatMajorVersion > pebble.FormatNewest {
		return fmt.Errorf("data folder %s was written by a later version of Granary (store format %d)", o.Dir, d.FormatMajorVersion)
	}
	return nil
}

// verifier is one run.
type verifier struct {
	ctx    context.Context
	o      Options
	report *Report
	store  *store
	sends  sends
}

func (v *verifier) run(lock *pebble.Lock) (err error) {
	defer func() {
		if gone := notFatal(recover()); gone != nil {
			v.find(Finding{Ordinal: None, What: fmt.Sprintf("the store failed: %v", gone)})
		}
	}()
	if err := v.streams(); err != nil {
		return err
	}
	store, err := open(v.o.Dir, v.o.FS, lock)
	if err != nil {
		v.find(Finding{Ordinal: None, What: fmt.Sprintf("the store cannot be opened: %v", err)})
		return v.ctx.Err()
	}
	defer store.close()
	v.store = store
	if err := v.tables(); err != nil {
		return err
	}
	n, err := v.identity()
	if err != nil {
		return err
	}
	if n == 0 {
		return v.ctx.Err()
	}
	v.sends.begin(n)
	for id := uint64(1); id <= n; id++ {
		if err := v.shard(id, n); err != nil {
			return err
		}
	}
	v.strayShards(n)
	return v.reconcile(n)
}

// progress tells how far the run is.
func (v *verifier) progress(p Progress) {
	if v.o.Progress == nil {
		return
	}
	p.Entries, p.Findings = v.report.Entries, v.report.Total
	v.o.Progress(p)
}
