package persistence

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// failures counts what a store reports.
type failures struct {
	slog.Handler
	background atomic.Int32
}

func (f *failures) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "background") {
		f.background.Add(1)
	}
	return nil
}

func (f *failures) Enabled(context.Context, slog.Level) bool { return true }

// TestDamageStopsCompactions: a table that cannot be rewritten is tried once, and named. What is whole is still read and
// written.
func TestDamageStopsCompactions(t *testing.T) {
	mem := vfs.NewMem()
	s := openStore(t, mem)
	write := func(s *Store, key, value string) {
		t.Helper()
		b := s.NewBatch()
		if err := b.Set([]byte(key), []byte(strings.Repeat(value, 3000)), nil); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(pebble.Sync); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"~a", "~a1", "~a2", "~a3"} {
		write(s, key, "1")
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := mem.List("data")
	if err != nil {
		t.Fatal(err)
	}
	damaged := ""
	for _, name := range names { // in order: the newest has the value
		if strings.HasSuffix(name, ".sst") {
			damaged = name
		}
	}
	flipInFile(t, mem, "data/"+damaged, 7000) // the first block has the identity of the store

	told := &failures{}
	s, err = Open(Options{Dir: "data", FS: mem, CacheBytes: 1 << 20, Logger: slog.New(told), Fatal: func(msg string) { t.Errorf("the store stops: %s", msg) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Damaged(); err != nil {
		t.Fatalf("before it was met: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); s.Damaged() == nil; {
		write(s, "~a", "2") // overlaps, so that a compaction has to read it
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("no compaction has met the damage")
		}
	}
	if err := s.Damaged(); !strings.Contains(err.Error(), damaged) || strings.Contains(err.Error(), "\n") {
		t.Errorf("the damage is in %s, told is: %v", damaged, err)
	}
	for range 8 { // each could start a compaction
		write(s, "~b", "3")
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond)
	if n := s.Metrics().Compact.FailedCount; n != 1 {
		t.Errorf("the compaction was tried %d times", n)
	}
	if n := told.background.Load(); n != 1 {
		t.Errorf("the operator was told %d times", n)
	}
	if v, err := s.get([]byte("~b")); err != nil || len(v) != 3000 {
		t.Errorf("what is whole is read as %d bytes, %v", len(v), err)
	}
}
