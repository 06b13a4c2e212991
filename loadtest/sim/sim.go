// Package sim runs the code of a node, its clients and the network between them in one goroutine, on virtual time, and lets
// everything go wrong that a seed draws: power cuts in the middle of a sync, disks that cannot sync or are full, messages
// that are lost, late, doubled or overtaken, streams that break, clocks that jump.
//
// Here live the world (time, disks, network), the drivers of the machines of one node, and the faults. What the clients do
// is drawn by package workload, and whether what they saw was right is for package judge to say. Here never live rules of
// the node itself: what is driven is production code, from the gateway's sessions to Pebble.
//
// Invariant: one seed is one run. Nothing is drawn from anything but the seed, and nothing depends on which goroutine of
// the store is faster: the world goes on only when all of them wait.
package sim

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway/subscription"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/loadtest/judge"
	"github.com/granary-dev/granary/loadtest/workload"
	"github.com/granary-dev/granary/persistence"
)

// Options of a run. The zero value of a field means its default.
type Options struct {
	// Seed of everything.
	Seed uint64
	// Virtual is how long faults happen; 60 s by default. Healing and reading back come after it.
	Virtual time.Duration
	// Shards of the cluster; 8 by default.
	Shards int
	// Clients, half of them producers; 8 by default.
	Clients int
	// Catalog of kinds; must hold probe.
	Catalog *grains.Catalog
	// Raised are the catalogs of newer binaries, each with the logic of those before it. A restart may bring the next one.
	Raised []*grains.Catalog
	// Faults that happen; drawn from the seed by default.
	Faults *Faults
	// Tables lets bits flip in the store's tables as well. Which table that is, and who reads it first, is the store's
	// affair: such a run is not the same twice, and has to end well all the same.
	Tables bool
	// Timeline is how many of its last lines a run keeps for people.
	Timeline int
	// Verify reads a data folder at the end, as an independent reader.
	Verify func(disk *Disk, dir string) error
}

// Faults are the chances of what can go wrong.
type Faults struct {
	// Drop, Duplicate and Delay of a message between shards.
	Drop, Duplicate, Delay float64
	// Cut of a stream during its life, and of a call.
	Cut float64
	// Crashes is the mean time between two; 0: none. SyncFails is the share of them that are failing syncs.
	Crashes   time.Duration
	SyncFails float64
	// ClockJumps and DiskFulls: the mean times between two; 0: none.
	ClockJumps, DiskFulls time.Duration
	// Lost is the chance that a batch is lost between gateway and shard, while those behind it arrive.
	Lost float64
	// Refused is the chance that Raft takes a proposal for nothing, and with it all that the shard did meanwhile.
	Refused float64
	// Flip is the chance that a bit of a log flips at a crash; or of a table, where those may.
	Flip float64
	// Raise is the chance that a node comes back with a newer binary.
	Raise float64
}

// drawFaults draws which faults a run has: at least three kinds, and crashes always.
func drawFaults(rnd *rand.Rand) *Faults {
	some := func(most float64) float64 {
		if rnd.IntN(3) == 0 {
			return 0
		}
		return most * rnd.Float64()
	}
	f := &Faults{Drop: some(0.05), Duplicate: some(0.05), Delay: some(0.01), Cut: some(0.5), Lost: some(0.02), Refused: some(0.02), Flip: some(0.5), Raise: some(0.5),
		Crashes: time.Duration(2+rnd.IntN(10)) * time.Second, SyncFails: some(0.4)}
	if rnd.IntN(2) == 0 {
		f.ClockJumps = time.Duration(3+rnd.IntN(20)) * time.Second
	}
	if rnd.IntN(3) == 0 {
		f.DiskFulls = time.Duration(10+rnd.IntN(30)) * time.Second
	}
	kinds := 0
	for _, chance := range []float64{f.Drop, f.Duplicate, f.Delay, f.Cut, f.Lost, f.Refused} {
		if chance > 0 {
			kinds++
		}
	}
	if kinds < 3 {
		return drawFaults(rnd)
	}
	return f
}

// Report is what a run did.
type Report struct {
	// Seed of the run, and Hash of all that happened in it.
	Seed, Hash uint64
	// Virtual time that went by.
	Virtual time.Duration
	// Totals of the operations; Duplicates are events that the node knew already.
	workload.Totals
	Duplicates int
	// Crashes, and all Faults by kind.
	Crashes int
	Faults  map[string]int
	// Violations found; none in a good run.
	Violations []string
	// Story is what clients did with the grain of the first violation, for people.
	Story string
	// Timeline is the end of the run for people.
	Timeline []string
	// History of the operations.
	History *workload.History
}

// Run runs one seed. It must be called from a test that is not parallel: the randomness of the whole process is the
// seed's meanwhile.
func Run(t *testing.T, o Options) *Report {
	t.Helper()
	if o.Virtual == 0 {
		o.Virtual = time.Minute
	}
	if o.Shards == 0 {
		o.Shards = 8
	}
	if o.Clients == 0 {
		o.Clients = 8
	}
	w := &world{o: o, rnd: rand.New(rand.NewPCG(o.Seed, 0)), nodes: make([]*node, 1), disks: []*Disk{NewDisk()},
		report: &Report{Seed: o.Seed, Faults: map[string]int{}}}
	if w.o.Faults == nil {
		w.o.Faults = drawFaults(w.rnd)
	}
	w.install(o.Catalog)
	w.workload = workload.New(workload.Options{Seed: o.Seed, Clients: o.Clients, More: true})
	w.hash.Reset()
	cryptotest.SetGlobalRandom(t, o.Seed)
	synctest.Test(t, func(*testing.T) { w.run() })
	w.report.Hash, w.report.Virtual, w.report.Timeline = w.hash.Sum64(), w.now, w.lines
	w.report.Totals, w.report.History = w.history.Totals(), &w.history
	return w.report
}

// run is the life of the world.
func (w *world) run() {
	defer func() {
		for _, n := range w.nodes {
			if n != nil {
				n.bury()
			}
		}
	}()
	w.start(0)
	for i := range w.workload.Clients() {
		if w.workload.IsProducer(i) {
			w.clients = append(w.clients, w.newProducer(i))
		} else {
			w.clients = append(w.clients, &caller{world: w, id: i})
		}
		w.works(i)
	}
	w.subscribers = append(w.subscribers, w.newSubscriber(subscription.Config{Kind: workload.Kind}), w.newSubscriber(subscription.Config{Stream: announcements}))
	w.trouble()
	w.until(w.o.Virtual, never)
	w.until(4*w.o.Virtual, func() bool {
		return w.acked >= w.enough() && w.report.Crashes > 0 && len(w.report.Faults) >= 3
	})
	w.heal()
	if w.settle() && w.askAgain() && w.forget() {
		w.finish()
	}
}

// settle waits until what has no outcome has one, and what is on its way has arrived.
func (w *world) settle() bool {
	w.until(w.now+time.Minute, w.settled)
	if !w.over && !w.settled() {
		w.fail("no progress: after a minute without faults, %s", w.unsettled())
	}
	return !w.over
}

// askAgain puts all questions again that may have been taken. The reply is the one that is there already.
func (w *world) askAgain() bool {
	asked := map[uint64]bool{}
	var again []workload.Operation
	for _, r := range w.history.Records() {
		if r.Action == workload.Ask && r.Outcome != workload.Failed && !asked[r.Value] {
			asked[r.Value] = true
			again = append(again, r.Operation)
		}
	}
	left := len(again)
	for _, op := range again {
		op.Repeat = true
		w.after(w.between(0, time.Second), func() {
			w.askOnce(op, patience, func(outcome workload.Outcome, _ *actors.Result) {
				if left--; outcome != workload.OK {
					w.fail("%s of %s has no reply although all was healed and settled", &op, op.Key)
				}
			})
		})
	}
	w.until(w.now+10*time.Second, func() bool { return left == 0 })
	return !w.over && w.settle()
}

// forget takes back what repeats, and waits until all other reminders have fired. Those of a journal whose clock was ahead
// come when the clock has caught up.
func (w *world) forget() bool {
	type fate struct{ maybe, forgotten bool }
	repeating := map[uint64]*fate{}
	var all []*workload.Operation
	for _, r := range w.history.Records() {
		switch f := repeating[r.Value]; {
		case r.Action == workload.Remind && r.Every > 0 && f == nil:
			repeating[r.Value] = &fate{maybe: r.Outcome != workload.Failed}
			all = append(all, &r.Operation)
		case r.Action == workload.Remind && r.Every > 0:
			f.maybe = f.maybe || r.Outcome != workload.Failed
		case r.Action == workload.Forget && r.Outcome == workload.OK && repeating[r.Of] != nil:
			repeating[r.Of].forgotten = true
		}
	}
	left := 0
	for _, op := range all {
		if f := repeating[op.Value]; f.maybe && !f.forgotten {
			left++
			w.publish(w.workload.Forget(op, w.clock().UnixNano()), func(_ workload.Outcome, again bool) {
				if left--; again {
					w.fail("%s cannot be forgotten although all was healed and settled", op)
				}
			})
		}
	}
	due, looked := "", time.Duration(0)
	w.until(w.now+2*time.Minute, func() bool {
		if left > 0 || w.now < looked+100*time.Millisecond {
			return false
		}
		looked = w.now
		due = w.due()
		return due == ""
	})
	if !w.over && (left > 0 || due != "") {
		w.fail("no progress: two minutes after all was healed, %d reminders are not forgotten, and %s", left, due)
	}
	return !w.over && w.settle()
}

// due names a reminder that is pending; empty: there is none.
func (w *world) due() string {
	for _, n := range w.nodes {
		if n == nil {
			return "a node is down"
		}
		for _, s := range n.shards {
			page, err := s.index.Due(math.MaxInt64, &persistence.Timer{}, 1) // behind none, so that nothing is noted of this search
			if err != nil && !w.damaged(n, err.Error()) {
				w.fail("n%d s%d: reminders: %v", n.id, s.id, err)
			}
			if len(page) > 0 {
				return fmt.Sprintf("reminder %d of %q is pending in s%d and due at %d", page[0].ID, page[0].Grain, s.id, page[0].Due)
			}
		}
	}
	return ""
}

func never() bool { return false }

// enough is how many acknowledged operations make a run one that counts: a run of a minute goes on until it has so many.
func (w *world) enough() int { return int(2200 * w.o.Virtual / time.Minute) }

// busy tells whether clients work now. They come in waves, each until they are ahead of what a run needs by burst, so that
// all of the run has load, and its peaks have much.
func (w *world) busy() bool {
	ahead := w.acked - int(float64(w.enough())*w.now.Seconds()/w.o.Virtual.Seconds())
	switch {
	case ahead > burst:
		w.resting = true
	case ahead <= 0:
		w.resting = false
	}
	return !w.resting
}

// burst is how many operations clients do ahead of what a run needs, before they rest.
const burst = 300

// works lets a client do one operation after the other until the faults are over.
func (w *world) works(i int) {
	w.after(w.between(time.Millisecond, 110*time.Millisecond), func() {
		if w.healed {
			return
		}
		if w.clients[i].pending() < 20 && w.busy() {
			w.clients[i].next()
		}
		w.works(i)
	})
}

// trouble sets the faults going.
func (w *world) trouble() {
	f := w.o.Faults
	again := func(mean time.Duration, do func()) {
		if mean == 0 {
			return
		}
		var next func()
		next = func() {
			w.after(w.between(mean/4, 2*mean), func() {
				if !w.healed {
					do()
					next()
				}
			})
		}
		next()
	}
	again(f.Crashes, func() {
		n := w.nodes[0]
		if n == nil {
			return
		}
		switch draw := w.rnd.Float64(); {
		case draw < f.SyncFails:
			w.planned = &plannedCrash{in: 1 + w.rnd.IntN(20), fail: true, seed: w.rnd.Uint64(), chance: w.rnd.Float64()}
		case draw < 0.6:
			w.ambush = true
		case draw < 0.85:
			w.planned = &plannedCrash{in: 1 + w.rnd.IntN(20), after: w.rnd.IntN(2) == 0, seed: w.rnd.Uint64(), chance: w.rnd.Float64()}
		default:
			w.count("crash between syncs")
			synctest.Wait()
			w.crash(n, n.disk.Crash(w.rnd.Uint64(), w.rnd.Float64()))
		}
	})
	again(f.ClockJumps, func() {
		w.count("clock jumps")
		w.skew = w.between(-time.Minute, time.Minute)
	})
	again(f.DiskFulls, func() {
		w.count("disk full")
		w.disks[0].free = reserve / 2
		w.after(w.between(time.Second, 5*time.Second), w.room)
	})
}

func (w *world) room() {
	for _, d := range w.disks {
		d.free = 1 << 40
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.trace("all is healed")
	w.healed, w.planned, w.ambush, w.skew = true, nil, false, 0
	w.room()
}

// settled tells whether every operation has its outcome and every send has arrived.
func (w *world) settled() bool { return w.unsettled() == "" }

func (w *world) unsettled() string {
	for i, c := range w.clients {
		if n := c.pending(); n > 0 {
			return fmt.Sprintf("client %d waits for %d outcomes", i, n)
		}
	}
	for _, n := range w.nodes {
		switch {
		case n == nil:
			return "a node is down"
		case n.led < len(n.shards):
			return fmt.Sprintf("%d of %d shards lead", n.led, len(n.shards))
		case !n.quiet():
			return "some sends have not arrived"
		case n.store.Full():
			return "a node has not seen yet that its disk has room again"
		}
	}
	return ""
}

// finish reads everything back, stops the nodes and lets the judges speak.
func (w *world) finish() {
	final := w.readBack()
	if w.over {
		return
	}
	feeds := w.hear()
	if w.over {
		return
	}
	for i, n := range w.nodes {
		w.nodes[i] = nil
		if err := n.close(); err != nil {
			w.fail("n%d does not close: %v", n.id, err)
			return
		}
		if w.o.Verify == nil {
			continue
		}
		if err := w.o.Verify(n.disk, dataDir); err != nil {
			w.fail("verify: %v", err)
		}
	}
	w.judge(final, feeds)
}

// readBack reads the probes that were ever written to.
func (w *world) readBack() judge.Final {
	final := judge.Final{}
	left := 0
	keys := map[string]bool{}
	for _, r := range w.history.Records() {
		keys[r.Key] = true
		if r.To != "" {
			keys[r.To] = true
		}
	}
	for _, key := range sorted(keys) {
		left++
		get := &actors.Get{Kind: w.kind, Key: key}
		w.ask(0, get, false, func(r *actors.Read) {
			left--
			if r.Failed != actors.Folded {
				w.fail("%s cannot be read: %v: %s", key, r.Failed, r.Why)
				return
			}
			probe := w.decode(get.State)
			g := judge.Grain{Values: probe.GetValues(), Received: probe.GetReceived(), Uncounted: probe.GetUncounted(), Balance: probe.GetBalance(),
				Questions: probe.GetQuestions(), Replies: probe.GetReplies(), Reminded: probe.GetReminded(), RemindedUncounted: probe.GetRemindedUncounted(),
				Unexpected: probe.GetUnexpected(), Early: probe.GetEarly()}
			for _, p := range probe.GetPending() {
				g.Pending = append(g.Pending, p.GetValue())
			}
			final[key] = g
		})
	}
	w.until(w.now+time.Minute, func() bool { return left == 0 })
	if left > 0 {
		w.fail("%d final reads have no answer", left)
	}
	return final
}

// judge holds what clients saw against what is there.
func (w *world) judge(final judge.Final, feeds []judge.Feed) {
	for _, v := range append(judge.Check(&w.history, final), judge.CheckFeeds(&w.history, feeds)...) {
		w.fail("%v", v)
		if v.Key != "" && len(w.report.Violations) == 1 {
			w.report.Story = w.history.Timeline(v.Key)
		}
	}
	// a second opinion on some grains, by a checker that knows none of the rules
	for i, key := range sorted(final) {
		if uint64(i)%secondOpinion == w.o.Seed%secondOpinion && !w.over && !judge.Linearizable(&w.history, final, key) {
			w.fail("%s is not linearizable", key)
			w.report.Story = w.history.Timeline(key)
		}
	}
}

// secondOpinion is for one in how many grains porcupine is asked.
const secondOpinion = 20

// Problem is the report as an error, with all that is needed to run it again; nil for a good run.
func (r *Report) Problem(command string) error {
	if len(r.Violations) == 0 {
		return nil
	}
	faults := make([]string, 0, len(r.Faults))
	for _, f := range sorted(r.Faults) {
		faults = append(faults, fmt.Sprintf("%s %d", f, r.Faults[f]))
	}
	lines := slices.Concat([]string{fmt.Sprintf("seed %d after %v:", r.Seed, r.Virtual)}, r.Violations,
		[]string{"faults: " + strings.Join(faults, ", "), "again: " + command, r.Story, "the end of the run:"}, r.Timeline)
	return errors.New(strings.Join(lines, "\n"))
}
