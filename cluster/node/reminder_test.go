package node_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/grains/catalog"
	"github.com/granary-dev/granary/persistence/verify"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
)

func probeEvent(t testing.TB, key string, msg proto.Message) actors.Event {
	t.Helper()
	kind, _ := catalog.Builtin().Kind("probe")
	typ, _ := kind.Event(string(msg.ProtoReflect().Descriptor().FullName()))
	payload, err := typ.Append(nil, msg)
	if err != nil {
		t.Fatal(err)
	}
	return actors.Event{Kind: kind, Key: key, Type: typ, Message: msg, Payload: payload}
}

func getProbe(t testing.TB, n *node.Node, key string) (*probev1.Probe, int64) {
	t.Helper()
	g := get(t, n, "probe", key)
	p := &probev1.Probe{}
	if err := p.UnmarshalVT(g.State); err != nil {
		t.Fatal(err)
	}
	return p, g.Time
}

// fired waits until so many reminders of a probe fired.
func fired(t testing.TB, n *node.Node, key string, want int) (*probev1.Probe, int64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		p, at := getProbe(t, n, key)
		if len(p.Reminded) >= want {
			return p, at
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d reminders fired within 20 s, want %d: %v", len(p.Reminded), want, p)
		}
	}
}

// TestReminderAcrossCrashes: a reminder that was acknowledged fires once although the power fails before it is due, and
// again after it fired; one that was taken back does not.
func TestReminderAcrossCrashes(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	fs := vfs.NewCrashableMem()
	n := start(t, fs)
	crash := func() {
		t.Helper()
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: random.IntN(101), RNG: random})
		n.Kill()
		fs = crashed
		n = start(t, fs)
	}
	publish(t, n, probeEvent(t, "p", &probev1.Remind{Value: 7, AfterMicros: 300_000}))
	publish(t, n, probeEvent(t, "p", &probev1.Remind{Value: 8, AfterMicros: 300_000}), probeEvent(t, "q", &probev1.Remind{Value: 9, EveryMicros: 1_000_000}))
	want := []uint64{7}
	if r := publish(t, n, probeEvent(t, "p", &probev1.Forget{Value: 8})); r[0].Outcome == actors.Rejected {
		want = append(want, 8) // a busy machine took so long that it had fired before
	}
	crash()
	fired(t, n, "p", len(want))
	crash()
	time.Sleep(350 * time.Millisecond)
	if s, _ := getProbe(t, n, "p"); !slices.Equal(s.Reminded, want) || s.Unexpected != 0 || s.Early != 0 || len(s.Pending) != 0 {
		t.Errorf("%v", s)
	}
	if s, _ := fired(t, n, "q", 2); s.Unexpected != 0 || s.Early != 0 || len(s.Pending) != 1 {
		t.Errorf("%v", s)
	}
	if got := n.Stats().Reminders; got == 0 {
		t.Error("no firing was counted")
	}
	if err := n.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := verify.Run(t.Context(), verify.Options{Dir: "data", FS: fs, Catalog: catalog.Builtin()})
	if err != nil || len(r.Findings) != 0 || r.Records["timer"] < 3 {
		t.Errorf("%v %v %v", err, r.Findings, r.Records)
	}
}

// TestReminderIsPunctual: on a node that has nothing else to do, a reminder is some tenths of a second late at most.
func TestReminderIsPunctual(t *testing.T) {
	n := start(t, vfs.NewMem())
	defer n.Close()
	best := time.Hour // of several: the machine of a test may be busy
	for i := range 5 {
		key := fmt.Sprint("p", i)
		publish(t, n, probeEvent(t, key, &probev1.Remind{Value: 1, AfterMicros: 50_000}))
		set := get(t, n, "probe", key)
		_, at := fired(t, n, key, 1)
		if set.Seq == 1 { // else it has fired, and who knows when it was set
			best = min(best, time.Duration(at-set.Time-50_000)*time.Microsecond)
		}
	}
	t.Logf("%v late", best)
	if best < 0 || best > 200*time.Millisecond {
		t.Errorf("reminders were %v late at best", best)
	}
}

// TestRemindersWaitForDisk: with a full disk nothing fires, and all that waited fires when there is room.
func TestRemindersWaitForDisk(t *testing.T) {
	fs := &usage{FS: vfs.NewMem()}
	fs.free.Store(1 << 40)
	n := startWith(t, node.Options{FS: fs, ReserveBytes: 1 << 20})
	defer n.Close()
	publish(t, n, probeEvent(t, "p", &probev1.Remind{Value: 7, AfterMicros: 1_500_000}))
	fs.free.Store(1 << 10)
	for !n.Store().Full() {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(1_800 * time.Millisecond)
	if s, _ := getProbe(t, n, "p"); len(s.Reminded) != 0 {
		t.Error("a reminder fired on a full disk")
	}
	fs.free.Store(1 << 40)
	fired(t, n, "p", 1)
}

var manyReminders = flag.Int("reminders", 60_000, "how many reminders are pending in TestPendingRemindersAreOnDisk")

// TestPendingRemindersAreOnDisk: what is pending takes no memory, neither when it was set nor after a restart.
func TestPendingRemindersAreOnDisk(t *testing.T) {
	if !heapCounts {
		t.Skip("it weighs the heap, and the race detector changes that")
	}
	const each = 100
	dir := t.TempDir()
	open := func() *node.Node {
		n, err := node.Start(t.Context(), node.Options{DataDir: dir, Shards: 2, Catalog: catalog.Builtin(), MemoryBudget: 1 << 20, CheckpointRecords: 512})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var n *node.Node
	// heap is what is in use beside the store's tables in memory and its cache, which have limits of their own
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		store := n.Store().Metrics()
		if !storeInHeap {
			return int64(m.HeapAlloc)
		}
		return int64(m.HeapAlloc) - int64(store.MemTable.Size) - int64(store.MemTable.ZombieSize) - store.BlockCache.Size
	}
	n = open()
	warm := func(key string) { publish(t, n, probeEvent(t, key, &probev1.Append{Value: 1})) }
	warm("warm")
	before := heap()
	for p := range *manyReminders / each {
		var events []actors.Event
		for i := range each {
			events = append(events, probeEvent(t, fmt.Sprint("p", p), &probev1.Remind{Value: uint64(i + 1), AfterMicros: int64(3600_000_000 + i)}))
		}
		publish(t, n, events...)
	}
	set := heap()
	if err := n.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = open()
	defer n.Close()
	warm("warm again")
	again := heap()
	t.Logf("%d pending: heap %.1f MiB before, %.1f MiB behind, %.1f MiB after a restart; disk %.1f MiB", *manyReminders, float64(before)/(1<<20), float64(set)/(1<<20),
		float64(again)/(1<<20), float64(n.Store().Metrics().DiskSpaceUsage())/(1<<20))
	if most := int64(10<<20 + 16*(*manyReminders)); set-before > most || again-before > most {
		t.Errorf("the heap grew by %d bytes, and by %d with a restart; at most %d are granted", set-before, again-before, most)
	}
	count := 0
	for shard := range uint64(2) {
		l := &actors.Reminders{Kind: "probe", Limit: 1 << 30, Bytes: 1 << 40}
		done := make(chan struct{})
		if err := n.Read(shard+1, &actors.Read{Reminders: l, Done: func(*actors.Read) { close(done) }}); err != nil {
			t.Fatal(err)
		}
		<-done
		count += len(l.Pending)
	}
	if count != *manyReminders/each*each {
		t.Errorf("%d are pending, %d were set", count, *manyReminders)
	}
}
