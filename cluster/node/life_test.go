package node_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/grains/catalog"
)

const patience = 20 * time.Second

// waiting is a batch on its way, and its answer.
type waiting struct {
	*actors.Batch
	done chan struct{}
	n    atomic.Int32
}

func (w *waiting) wait(t testing.TB) {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(patience):
		t.Fatal("no answer")
	}
}

// hand publishes one event and does not wait for its answer.
func hand(n *node.Node, wait bool, e actors.Event) (*waiting, error) {
	w := &waiting{Batch: &actors.Batch{Events: []actors.Event{e}}, done: make(chan struct{})}
	w.Done = func(*actors.Batch) {
		if w.n.Add(1) == 1 {
			close(w.done)
		}
	}
	return w, n.Publish(context.Background(), n.Table().Shard("", e.Kind.Name, e.Key), w.Batch, wait)
}

// slow is a file system whose log syncs wait while it is held.
type slow struct {
	vfs.FS
	mu sync.Mutex
}

func newSlow(fs vfs.FS) *slow {
	s := &slow{}
	s.FS = errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if syncs(op) {
			s.mu.Lock()
			defer s.mu.Unlock()
		}
		return nil
	}))
	return s
}

func syncs(op errorfs.Op) bool {
	return strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo)
}

func startWith(t testing.TB, o node.Options) *node.Node {
	t.Helper()
	o.DataDir, o.Catalog = "data", catalog.Builtin()
	if o.Shards == 0 {
		o.Shards = 4
	}
	n, err := node.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// keyOn finds a key whose account lives on a shard.
func keyOn(n *node.Node, kind string, shard uint64) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint("k", i); n.Table().Shard("", kind, key) == shard {
			return key
		}
	}
}

// TestCloseAnswersEverybody: a node that is closed in the middle of its work answers whoever waits, once; what it
// acknowledged is there when it starts again, what it refused may be published again.
func TestCloseAnswersEverybody(t *testing.T) {
	for _, drain := range []bool{false, true} {
		t.Run(fmt.Sprintf("drain=%t", drain), func(t *testing.T) {
			mem := vfs.NewMem()
			fs := newSlow(mem)
			n := startWith(t, node.Options{FS: fs})
			var all []*waiting
			var read []chan struct{}
			if !drain {
				fs.mu.Lock() // nothing more is committed
			}
			for i := range 2000 {
				w, err := hand(n, true, charge(t, fmt.Sprint("a", i%100), fmt.Sprint("tx", i), "m", 1))
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, w)
				if i%10 == 0 {
					done := make(chan struct{})
					kind, _ := catalog.Builtin().Kind("account")
					if err := n.Read(1+uint64(i/10%4), &actors.Read{Get: &actors.Get{Kind: kind, Key: "x"}, Done: func(*actors.Read) { close(done) }}); err != nil {
						t.Fatal(err)
					}
					read = append(read, done)
				}
			}
			if drain {
				if err := n.Drain(context.Background()); err != nil {
					t.Fatal(err)
				}
			} else {
				time.AfterFunc(50*time.Millisecond, fs.mu.Unlock)
			}
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			for _, done := range read {
				select {
				case <-done:
				case <-time.After(patience):
					t.Fatal("a read has no answer")
				}
			}
			acked := 0
			for i, w := range all {
				w.wait(t)
				switch {
				case w.Refused == actors.Folded:
					acked++
				case drain || w.Refused != actors.Unavailable:
					t.Fatalf("event %d: %v %s", i, w.Refused, w.Why)
				}
				if w.n.Load() != 1 {
					t.Fatalf("event %d has %d answers", i, w.n.Load())
				}
			}
			if _, err := hand(n, false, charge(t, "a", "late", "m", 1)); !errors.Is(err, routing.ErrStopping) {
				t.Errorf("publish when closed: %v", err)
			}
			if err := n.Read(1, &actors.Read{List: &actors.List{}, Done: func(*actors.Read) { t.Error("a closed node answers") }}); !errors.Is(err, routing.ErrStopping) {
				t.Errorf("read when closed: %v", err)
			}
			n = startWith(t, node.Options{FS: mem})
			defer n.Close()
			var events []actors.Event
			for i := range all {
				events = append(events, charge(t, fmt.Sprint("a", i%100), fmt.Sprint("tx", i), "m", 1))
			}
			again := 0
			for i, r := range publish(t, n, events...) {
				if r.Outcome != actors.Folded || all[i].Refused == actors.Folded && !r.Duplicate {
					t.Fatalf("event %d again: %+v; the first time %v", i, r, all[i].Refused)
				}
				if r.Duplicate {
					again++
				}
			}
			t.Logf("%d acknowledged, %d found again", acked, again)
		})
	}
}

// TestPublishWhileClosing: however a publish and the end of the node fall together, the caller hears one of both: an
// error, or an answer.
func TestPublishWhileClosing(t *testing.T) {
	for round := range 20 {
		n := startWith(t, node.Options{FS: vfs.NewMem()})
		var wg sync.WaitGroup
		for p := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					w, err := hand(n, true, charge(t, fmt.Sprint("a", i%10), fmt.Sprintf("tx%d-%d", p, i), "m", 1))
					if errors.Is(err, routing.ErrStopping) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					select {
					case <-w.done:
					case <-time.After(patience):
						t.Error("no answer")
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(round%5) * time.Millisecond)
		if round%2 == 0 {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			if err := n.Drain(ctx); err != nil {
				t.Error(err)
			}
			cancel()
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

// TestReadWhileClosing: the same holds for reads.
func TestReadWhileClosing(t *testing.T) {
	for range 30 {
		if t.Failed() {
			return
		}
		n := startWith(t, node.Options{FS: vfs.NewMem(), Shards: 1})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					done := make(chan struct{})
					err := n.Read(1, &actors.Read{List: &actors.List{Kind: "account", Limit: 1}, Done: func(*actors.Read) { close(done) }})
					if errors.Is(err, routing.ErrStopping) {
						return
					}
					select {
					case <-done:
					case <-time.After(patience):
						t.Error("no answer")
						return
					}
				}
			})
		}
		time.Sleep(time.Millisecond)
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

// TestDrainGivesUp: a drain that cannot end ends with its context.
func TestDrainGivesUp(t *testing.T) {
	fs := newSlow(vfs.NewMem())
	n := startWith(t, node.Options{FS: fs})
	fs.mu.Lock()
	w, err := hand(n, true, charge(t, "a", "tx", "m", 1))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := n.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, err := hand(n, true, charge(t, "a", "tx2", "m", 1)); !errors.Is(err, routing.ErrStopping) {
		t.Errorf("%v", err)
	}
	fs.mu.Unlock()
	w.wait(t)
	if err := n.Drain(context.Background()); err != nil {
		t.Error(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// TestOverload: while the disk stalls, a shard takes so much and no more; who waits for room gets it, or gives up with
// its context.
func TestOverload(t *testing.T) {
	fs := newSlow(vfs.NewMem())
	n := startWith(t, node.Options{FS: fs})
	defer n.Close()
	// a field that the account does not know, of 100 kB
	large := protowire.AppendBytes(protowire.AppendTag(nil, 9999, protowire.BytesType), make([]byte, 100_000))
	key := keyOn(n, "account", 1)
	event := func(i int) actors.Event {
		e := charge(t, key, fmt.Sprint("tx", i), "m", 1)
		e.Payload = append(e.Payload, large...) // journaled as it is; the message was decoded before
		return e
	}
	fs.mu.Lock()
	var taken []*waiting
	var err error
	for i := 0; i < 20_000; i++ {
		var w *waiting
		if w, err = hand(n, false, event(i)); err != nil {
			break
		}
		taken = append(taken, w)
		if i%10 == 9 {
			time.Sleep(time.Millisecond) // let the shard take them in
		}
	}
	if !errors.Is(err, routing.ErrOverloaded) {
		t.Fatalf("%d events of 100 kB were taken: %v", len(taken), err)
	}
	if mb := len(taken) / 10; mb < 4 || mb > 40 {
		t.Errorf("overloaded with %d MB", mb)
	}
	// another shard has room
	other, err := hand(n, false, charge(t, keyOn(n, "account", 2), "tx", "m", 1))
	if err != nil {
		t.Errorf("another shard: %v", err)
	}
	// who waits, gives up with its context
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := n.Publish(ctx, 1, &actors.Batch{Events: []actors.Event{event(-1)}, Done: func(*actors.Batch) {}}, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	got := make(chan error, 1)
	go func() {
		w, err := hand(n, true, event(-2))
		if err == nil {
			w.wait(t)
		}
		got <- err
	}()
	time.Sleep(10 * time.Millisecond)
	fs.mu.Unlock()
	if err := <-got; err != nil {
		t.Errorf("who waited for room: %v", err)
	}
	for _, w := range append(taken, other) {
		w.wait(t)
		if w.Refused != actors.Folded {
			t.Fatalf("%v %s", w.Refused, w.Why)
		}
	}
}

// TestReadsAreBounded: reads that wait are bounded as well.
func TestReadsAreBounded(t *testing.T) {
	fs := newSlow(vfs.NewMem())
	n := startWith(t, node.Options{FS: fs})
	defer n.Close()
	fs.mu.Lock()
	if _, err := hand(n, true, charge(t, keyOn(n, "account", 1), "tx", "m", 1)); err != nil {
		t.Fatal(err)
	}
	kind, _ := catalog.Builtin().Kind("account")
	var wg sync.WaitGroup
	var err error
	taken := 0
	for ; taken < 100_000; taken++ {
		wg.Add(1)
		if err = n.Read(1, &actors.Read{Get: &actors.Get{Kind: kind, Key: "x"}, Done: func(*actors.Read) { wg.Done() }}); err != nil {
			wg.Done()
			break
		}
	}
	if !errors.Is(err, routing.ErrOverloaded) {
		t.Errorf("%d reads were taken: %v", taken, err)
	}
	fs.mu.Unlock()
	wg.Wait()
	if err := n.Read(1, &actors.Read{Get: &actors.Get{Kind: kind, Key: "x"}, Done: func(*actors.Read) {}}); err != nil {
		t.Errorf("when all were answered: %v", err)
	}
}

// quiet is a logger of Pebble that says nothing.
type quiet struct{ t *testing.T }

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (q quiet) Fatalf(format string, args ...any) {
	q.t.Errorf(format, args...)
	runtime.Goexit()
}

// corrupt turns a bit of the newest log entry of a shard around.
func corrupt(t *testing.T, fs vfs.FS, shard uint64) {
	t.Helper()
	db, err := pebble.Open("data", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{t}})
	if err != nil {
		t.Fatal(err)
	}
	prefix := append(binary.BigEndian.AppendUint64(nil, shard), 0x01)
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: append(prefix[:8:8], 0x02)})
	if err != nil {
		t.Fatal(err)
	}
	if !it.Last() {
		t.Fatal("the shard has no log")
	}
	value := append([]byte(nil), it.Value()...)
	value[len(value)/2] ^= 1
	if err := db.Set(it.Key(), value, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(it.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestQuarantine: a shard whose log is corrupt answers nothing but that, and where; all others go on, also those that
// send to it.
func TestQuarantine(t *testing.T) {
	mem := vfs.NewMem()
	n := startWith(t, node.Options{FS: mem})
	var events []actors.Event
	for i := range 100 {
		events = append(events, charge(t, fmt.Sprint("a", i), fmt.Sprint("tx", i), fmt.Sprint("m", i), 1))
	}
	publish(t, n, events...)
	if err := n.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	corrupt(t, mem, 2)

	n = startWith(t, node.Options{FS: mem})
	if q := n.Stats().Quarantined; q != 1 {
		t.Fatalf("%d shards are in quarantine", q)
	}
	bad := keyOn(n, "account", 2)
	w, err := hand(n, true, charge(t, bad, "tx", "m", 1))
	if err != nil {
		t.Fatal(err)
	}
	w.wait(t)
	if w.Refused != actors.Corrupt || !strings.Contains(w.Why, "shard 2 index") {
		t.Errorf("publish: %v %s", w.Refused, w.Why)
	}
	kind, _ := catalog.Builtin().Kind("account")
	done := make(chan struct{})
	rd := &actors.Read{Stale: true, Get: &actors.Get{Kind: kind, Key: bad}, Done: func(*actors.Read) { close(done) }}
	if err := n.Read(2, rd); err != nil {
		t.Fatal(err)
	}
	<-done
	if rd.Failed != actors.Corrupt || !strings.Contains(rd.Why, "shard 2 index") || rd.Get.State != nil {
		t.Errorf("read: %v %s", rd.Failed, rd.Why)
	}
	// thousands of events of another shard's account, each of which sends to a merchant of the quarantined one
	good, merchant := keyOn(n, "account", 1), keyOn(n, "merchant", 2)
	for round := range 5 {
		events = events[:0]
		for i := range 2000 {
			events = append(events, charge(t, good, fmt.Sprintf("tx%d-%d", round, i), merchant, 1))
		}
		publish(t, n, events...)
		time.Sleep(60 * time.Millisecond)
	}
	if g := get(t, n, "account", good); g.Seq < 10_000 {
		t.Errorf("the account has %d records", g.Seq)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := n.Drain(ctx); err == nil {
		t.Error("the drain ended, although sends are outstanding")
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	// repaired: the sends are taken in, each once
	corrupt(t, mem, 2) // the same bit
	n = startWith(t, node.Options{FS: mem})
	defer n.Close()
	if q := n.Stats().Quarantined; q != 0 {
		t.Fatalf("%d shards are in quarantine", q)
	}
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if g := get(t, n, "merchant", merchant); g.Seq < 10_000 || g.Seq > 10_100 {
		t.Errorf("the merchant has %d records", g.Seq)
	}
}

// usage is a file system of which the free space is said.
type usage struct {
	vfs.FS
	free atomic.Uint64
}

func (u *usage) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: u.free.Load()}, nil
}

// TestDiskFull: below the reserve events are refused and reads go on; when there is room again, so do events.
func TestDiskFull(t *testing.T) {
	fs := &usage{FS: vfs.NewMem()}
	fs.free.Store(1<<30 - 1)
	n := startWith(t, node.Options{FS: fs, ReserveBytes: 1 << 30})
	defer n.Close()
	if _, err := hand(n, true, charge(t, "a", "tx", "m", 1)); !errors.Is(err, routing.ErrDiskFull) {
		t.Errorf("%v", err)
	}
	get(t, n, "account", "a")
	fs.free.Store(1 << 30)
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := hand(n, true, charge(t, "a", "tx", "m", 1)); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("events are refused although there is room")
		}
	}
}

// TestClockSetBack: journal time does not follow a clock that is set back.
func TestClockSetBack(t *testing.T) {
	var clock atomic.Int64
	clock.Store(1_700_000_000_000_000)
	n := startWith(t, node.Options{FS: vfs.NewMem(), Now: func() time.Time { return time.UnixMicro(clock.Load()) }})
	defer n.Close()
	var last int64
	for i := range 20 {
		publish(t, n, charge(t, "a", fmt.Sprint("tx", i), "m", 1))
		at := get(t, n, "account", "a").Time
		if at < last {
			t.Fatalf("the time runs back from %d to %d", last, at)
		}
		last = at
		clock.Add([]int64{-1000, 5, -60_000_000, 3_000}[i%4])
	}
	if last != 1_700_000_000_000_000 {
		t.Errorf("the journal ends at %d", last)
	}
}

// TestFailedSyncStopsTheNode: nothing is acknowledged that rests on a sync that failed.
func TestFailedSyncStopsTheNode(t *testing.T) {
	var fails atomic.Bool
	stopped := make(chan string, 1)
	mem := vfs.NewCrashableMem()
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fails.Load() && syncs(op) {
			return syscall.EIO
		}
		return nil
	}))
	n := startWith(t, node.Options{FS: fs, Fatal: func(msg string) {
		select {
		case stopped <- msg:
		default:
		}
		runtime.Goexit()
	}})
	publish(t, n, charge(t, "a", "before", "m", 1))
	fails.Store(true)
	w, err := hand(n, true, charge(t, "a", "after", "m", 1))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case msg := <-stopped:
		if !strings.Contains(msg, "input/output error") {
			t.Errorf("the node stops: %s", msg)
		}
	case <-time.After(patience):
		t.Fatal("the node goes on")
	}
	select {
	case <-w.done:
		t.Errorf("there is an answer: %v", w.Refused)
	case <-time.After(50 * time.Millisecond):
	}
	// the process would be gone now; this node is left as it is
}

// TestNoGoroutineStays: whichever way a node ends, its goroutines end with it.
func TestNoGoroutineStays(t *testing.T) {
	for _, test := range []struct {
		name string
		life func(t *testing.T, fs vfs.FS)
	}{
		{"closed", func(t *testing.T, fs vfs.FS) {
			n := startWith(t, node.Options{FS: fs})
			publish(t, n, charge(t, "a", "tx", "m", 1))
			if err := errors.Join(n.Drain(context.Background()), n.Close(), n.Close()); err != nil {
				t.Error(err)
			}
		}},
		{"closed in the middle", func(t *testing.T, fs vfs.FS) {
			n := startWith(t, node.Options{FS: fs})
			for i := range 100 {
				if _, err := hand(n, true, charge(t, "a", fmt.Sprint(i), "m", 1)); err != nil {
					t.Error(err)
				}
			}
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}},
		{"killed", func(t *testing.T, fs vfs.FS) {
			n := startWith(t, node.Options{FS: fs})
			publish(t, n, charge(t, "a", "tx", "m", 1))
			n.Kill()
		}},
		{"not started", func(t *testing.T, fs vfs.FS) {
			n := startWith(t, node.Options{FS: fs})
			defer n.Close()
			if _, err := node.Start(context.Background(), node.Options{DataDir: "data", FS: fs, Catalog: catalog.Builtin()}); err == nil {
				t.Error("two nodes on one folder")
			}
		}},
		{"given up at the start", func(t *testing.T, fs vfs.FS) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if n, err := node.Start(ctx, node.Options{DataDir: "data", FS: fs, Catalog: catalog.Builtin()}); err == nil {
				_ = n.Close() // it was faster
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			test.life(t, vfs.NewMem())
			if err := goleak.Find(before); err != nil {
				t.Error(err)
			}
		})
	}
}
