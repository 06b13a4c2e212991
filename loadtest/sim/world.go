package sim

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/loadtest/workload"
	"github.com/granary-dev/granary/persistence/entry"
)

// reserve is what a node wants free on its disk.
const reserve = 64 << 20

// epoch is when every world begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is one run.
type world struct {
	o      Options
	rnd    *rand.Rand // drawn from by the world's goroutine alone
	now    time.Duration
	skew   time.Duration // of the node's clock
	queue  queue
	seq    uint64
	over   bool
	healed bool
	// resting clients wait until the run has caught up with them
	resting bool

	nodes      []*node
	disks      []*Disk
	budget     int64
	checkpoint int
	flights    int
	cutGrains  int
	// planned is the crash that comes at one of the next syncs of the log.
	planned *plannedCrash
	// ambush waits for a read of what is not committed yet, and plans a crash then
	ambush      bool
	flipped     *Flip // on the disk, and not found yet
	clients     []client
	subscribers []*subscriber

	catalog  *grains.Catalog // of the binary that nodes start with
	raises   int             // how many newer ones came
	kind     *grains.Definition
	workload *workload.Workload
	history  workload.History
	acked    int

	report *Report
	hash   xxhash.Digest
	lines  []string
}

// plannedCrash is a power cut in the middle of a sync.
type plannedCrash struct {
	in    int  // syncs from now
	after bool // the sync came through, but nobody has heard of it
	fail  bool // no power cut: the sync fails
	seed  uint64
	// chance of a sector that was not synced to be there all the same
	chance float64
	disk   *Disk // what it left
}

// errSync is what a disk says that cannot sync.
var errSync = errors.New("input/output error (of the simulated disk)")

// event is something that happens at a time.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// queue is a heap of events: by time, and those of one time in the order in which they were asked for.
type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

// at does something at a time.
func (w *world) at(at time.Duration, fn func()) {
	w.seq++
	heap.Push(&w.queue, event{max(at, w.now), w.seq, fn})
}

func (w *world) after(d time.Duration, fn func()) { w.at(w.now+d, fn) }

// between draws a time.
func (w *world) between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(w.rnd.Int64N(int64(high-low)))
}

func (w *world) chance(p float64) bool { return p > 0 && w.rnd.Float64() < p }

// clock is that of clients and gateways.
func (w *world) clock() time.Time { return epoch.Add(w.now) }

// until lets the world go on until a time, or until something says that it is enough.
func (w *world) until(end time.Duration, enough func() bool) {
	for len(w.queue) > 0 && w.queue[0].at <= end && !w.over && !enough() {
		e := heap.Pop(&w.queue).(event) //nolint:forcetypeassert // nothing else is pushed
		if e.at > w.now {
			time.Sleep(e.at - w.now) // the time of the bubble: for timers of the store
			w.now = e.at
		}
		e.do()
	}
	if len(w.queue) == 0 || w.queue[0].at > end {
		w.now = max(w.now, end)
	}
}

// trace takes a line into the hash of the run and into its timeline.
func (w *world) trace(format string, args ...any) {
	line := fmt.Sprintf("%12.6f ", w.now.Seconds()) + fmt.Sprintf(format, args...)
	_, _ = w.hash.WriteString(line) // a hash takes everything
	if w.o.Timeline > 0 {
		if w.lines = append(w.lines, line); len(w.lines) > 2*w.o.Timeline {
			w.lines = append(w.lines[:0], w.lines[len(w.lines)-w.o.Timeline:]...)
		}
	}
}

// count notes a fault.
func (w *world) count(fault string) {
	w.report.Faults[fault]++
	w.trace("fault: %s", fault)
}

// fail notes a violation and ends the run.
func (w *world) fail(format string, args ...any) {
	w.report.Violations = append(w.report.Violations, fmt.Sprintf(format, args...))
	w.trace("VIOLATION: "+format, args...)
	w.over = true
}

// sync is asked before each sync of a disk.
func (w *world) sync(disk *Disk, name string) error {
	p := w.planned
	if p == nil || p.disk != nil || !strings.HasSuffix(name, ".log") {
		return nil
	}
	if p.in--; p.in > 0 {
		return nil
	}
	if !p.after {
		p.disk = disk.Crash(p.seed, p.chance)
		if p.fail {
			return errSync
		}
		return nil
	}
	p.disk = disk
	return nil
}

// install makes a catalog that of the binary with which nodes start.
func (w *world) install(c *grains.Catalog) {
	w.catalog = c
	w.kind, _ = c.Kind(workload.Kind)
}

// start brings a node up on what its disk holds.
func (w *world) start(id int) {
	disk := w.disks[id]
	disk.beforeSync = func(name string) error { return w.sync(disk, name) }
	w.budget = int64(8+w.rnd.IntN(200)) << 10
	w.checkpoint = 20 + w.rnd.IntN(400)
	w.flights = 1 + w.rnd.IntN(4)
	w.cutGrains = 1 + w.rnd.IntN(4)
	if w.report.Crashes > 0 && w.raises < len(w.o.Raised) && w.chance(w.o.Faults.Raise) {
		w.install(w.o.Raised[w.raises])
		w.raises++
		w.count("newer binary")
	}
	n, err := w.startNode(id, disk)
	synctest.Wait() // what the store does behind its opening is done
	if err != nil && w.flipped != nil && errors.Is(err, entry.ErrCorrupt) && strings.Contains(err.Error(), path.Base(w.flipped.Name)) {
		// named, as it should be: the operator brings the file back
		w.count("flipped bit found")
		disk.Repair(w.flipped)
		w.flipped = nil
		w.start(id)
		return
	}
	if err != nil {
		w.fail("n%d does not start: %v", id, err)
		return
	}
	if !w.o.Tables {
		w.flipped = nil // in what a crash had cut off, or in what nobody needs
	}
	w.trace("n%d starts", id)
	w.nodes[id] = n
	for _, s := range n.shards {
		if s.failed != nil {
			w.quarantined(s, s.failed)
			return
		}
	}
}

// crash ends a life. The node comes back on what is left of its disk.
func (w *world) crash(n *node, left *Disk) {
	w.report.Crashes++
	w.trace("n%d crashes", n.id)
	n.bury()
	w.disks[n.id] = left
	w.nodes[n.id] = nil
	w.planned, w.ambush = nil, false
	if w.flipped != nil {
		left.Repair(w.flipped) // in a table that nobody has read meanwhile
		w.flipped = nil
	}
	if !w.healed && w.chance(w.o.Faults.Flip) {
		kind := ".log"
		if w.o.Tables {
			kind = ".sst"
		}
		if w.flipped = left.Flip(w.rnd, func(name string) bool { return strings.HasSuffix(name, kind) }); w.flipped != nil {
			w.trace("a bit flips in a %s at %d", kind, w.flipped.At)
			w.report.Faults["bit flipped"]++
		}
	}
	w.after(w.between(10*time.Millisecond, time.Second), func() { w.start(n.id) })
}

// slowSyncs is the share of syncs that take much longer than usual, so that much else happens before their commit.
const slowSyncs = 0.002

// slowestSync is how long a sync takes at most.
func (w *world) slowestSync() time.Duration {
	if !w.healed && w.chance(slowSyncs) {
		w.count("slow sync")
		return time.Second
	}
	return 3 * time.Millisecond
}

// dies tells whether a planned crash has come during a sync.
func (w *world) dies(n *node) bool {
	p := w.planned
	if p == nil || p.disk == nil {
		return false
	}
	left := p.disk
	if p.fail {
		// the node goes on as if nothing had happened; that shows at the next power cut
		w.count("sync failed, the node goes on")
		w.planned = nil
		n.after(w.between(100*time.Millisecond, 2*time.Second), func() {
			synctest.Wait()
			w.crash(n, n.disk.Crash(p.seed, 0))
		})
		return false
	}
	if p.after {
		w.count("crash after a sync")
		synctest.Wait()
		left = n.disk.Crash(p.seed, p.chance)
	} else {
		w.count("crash in a sync")
	}
	w.crash(n, left)
	return true
}

// stops is what becomes of a node whose commit loop failed: its process ends, and it starts again.
func (w *world) stops(n *node, err error) {
	p := w.planned
	if p == nil || !p.fail || p.disk == nil {
		w.fail("n%d stops: %v", n.id, err)
		return
	}
	w.count("sync failed")
	w.trace("n%d stops: %v", n.id, err)
	w.crash(n, p.disk)
}

// quarantined is what becomes of a shard that cannot go on. Only one fault of a world allows that: damage in a table, if it
// is named.
func (w *world) quarantined(s *shard, err error) {
	if !w.damaged(s.node, err.Error()) {
		w.fail("n%d s%d fails: %v", s.node.id, s.id, err)
	}
}

// damaged tells whether what somebody says is about the table in which a bit flipped. Then the operator stops the node,
// brings the file back and starts it again; who waits for an answer gets none.
func (w *world) damaged(n *node, why string) bool {
	if w.flipped == nil || !strings.Contains(why, path.Base(w.flipped.Name)) {
		return false
	}
	if n.alive {
		n.alive = false
		w.count("flipped bit found")
		w.after(0, func() {
			synctest.Wait()
			w.crash(n, n.disk.Crash(w.rnd.Uint64(), 1))
		})
	}
	return true
}
