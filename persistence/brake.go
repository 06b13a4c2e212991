package persistence

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// How often damage in one file is logged, from when on who meets it again has to wait, and how long.
const (
	toldTimes   = 3
	patientMeet = 64
	meetAgain   = 100 * time.Millisecond
)

// damageFound holds the first damage that the store met in its work in the background, and counts who met it at all.
type damageFound struct {
	err atomic.Pointer[error]
	mu  sync.Mutex
	met map[string]int // by file
}

// meet is called whenever somebody meets damage in a file. It tells whether that is worth a line in the log. What Pebble
// does in the background it tries again at once and for ever, so it is slowed down here.
func (d *damageFound) meet(file string) bool {
	d.mu.Lock()
	if d.met == nil {
		d.met = map[string]int{}
	}
	d.met[file]++
	n := d.met[file]
	d.mu.Unlock()
	if n > patientMeet {
		time.Sleep(meetAgain)
	}
	return n <= toldTimes
}

// note takes a failure of the work in the background, and tells whether it is worth a line in the log.
func (d *damageFound) note(err error) bool {
	if !pebble.IsCorruptionError(err) {
		return true
	}
	err = damage(err)
	return d.err.CompareAndSwap(nil, &err)
}

func (d *damageFound) get() error {
	if err := d.err.Load(); err != nil {
		return *err
	}
	return nil
}

// brake schedules compactions, one at a time, until one of them meets damage. Pebble by itself would try that one again at
// once and for ever: it would take a core, compact nothing else, and stall all writes when level 0 is full.
//
// The number of compactions at a time never changes here, so the scheduler needs no goroutine that looks for a change.
type brake struct {
	*pebble.ConcurrencyLimitScheduler
	found *damageFound
}

func newBrake(found *damageFound) *brake {
	return &brake{pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest(), found}
}

// Register implements [pebble.CompactionScheduler].
func (b *brake) Register(goroutines int, db pebble.DBForCompaction) {
	b.ConcurrencyLimitScheduler.Register(goroutines, braked{db, b.found})
}

// TrySchedule implements [pebble.CompactionScheduler].
func (b *brake) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	if b.found.get() != nil {
		return false, nil
	}
	return b.ConcurrencyLimitScheduler.TrySchedule()
}

// braked is a store in which nothing waits for a compaction any more.
type braked struct {
	pebble.DBForCompaction
	found *damageFound
}

// GetWaitingCompaction implements [pebble.DBForCompaction].
func (b braked) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	if b.found.get() != nil {
		return false, pebble.WaitingCompaction{}
	}
	return b.DBForCompaction.GetWaitingCompaction()
}
