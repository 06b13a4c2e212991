package crash

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/test/bufconn"

	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/gateway"
	"github.com/granary-dev/granary/grains"
)

// dataDir is where the node keeps its store on its disk.
const dataDir = "data"

// host starts nodes, one life after the other, on a file system in memory that forgets at a crash what was not synced.
type host struct {
	catalog *grains.Catalog
	fs      *vfs.MemFS
	rnd     *rand.Rand

	mu  sync.Mutex
	now *life // nil between a crash and the next start
}

// newHost returns a host with an empty disk. seed draws what a crash leaves of the unsynced data.
func newHost(catalog *grains.Catalog, seed uint64) *host {
	return &host{catalog: catalog, fs: vfs.NewCrashableMem(), rnd: rand.New(rand.NewPCG(seed, 1))}
}

// life is one run of a node, from its start to its crash.
type life struct {
	host     *host
	node     *node.Node
	gate     *gateway.Gateway
	listener *bufconn.Listener
	served   chan error
	over     atomic.Bool // the moment of the crash has come

	mu    sync.Mutex
	wires []net.Conn
}

// start starts the node on what the last crash left.
func (h *host) start(ctx context.Context) (*life, error) {
	n, err := node.Start(ctx, node.Options{DataDir: dataDir, FS: h.fs, Catalog: h.catalog, Shards: 8,
		// so little that grains come and go all the time, and checkpoints are never far
		MemoryBudget: (1 + h.rnd.Int64N(200)) << 10, CheckpointRecords: 20 + h.rnd.IntN(500)})
	if err != nil {
		return nil, err
	}
	l := &life{host: h, node: n, listener: bufconn.Listen(1 << 20), served: make(chan error, 1),
		gate: gateway.New(gateway.Options{Catalog: h.catalog, Router: n, Logger: slog.New(slog.DiscardHandler)})}
	go func() { l.served <- l.gate.Serve(l.listener) }()
	h.mu.Lock()
	h.now = l
	h.mu.Unlock()
	return l, nil
}

var errDown = errors.New("the node is down")

// dial connects to the node that lives now.
func (h *host) dial(ctx context.Context, _ string) (net.Conn, error) {
	h.mu.Lock()
	l := h.now
	h.mu.Unlock()
	if l == nil {
		return nil, errDown
	}
	conn, err := l.listener.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wires = append(l.wires, conn)
	return &wire{conn, l}, nil
}

// wire is a connection to one life, of which nothing is heard after its end.
type wire struct {
	net.Conn
	life *life
}

// Read is part of net.Conn. What comes out of it was sent before the crash was taken.
func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if w.life.over.Load() {
		return 0, errDown
	}
	return n, err
}

// crash takes the disk as it would be found after a power cut, with any part of what was not synced, and cleans up.
func (l *life) crash() error {
	l.over.Store(true) // before the disk is taken: an answer that rests on what comes after must reach nobody
	h := l.host
	h.fs = h.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: h.rnd.IntN(101), RNG: rand.New(rand.NewPCG(h.rnd.Uint64(), 0))})
	h.mu.Lock()
	h.now = nil
	h.mu.Unlock()
	l.mu.Lock()
	for _, w := range l.wires {
		_ = w.Close() // that is the point
	}
	l.mu.Unlock()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	l.gate.Stop(now)
	err := <-l.served
	l.node.Kill()
	return err
}

// stop stops the node cleanly.
func (l *life) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	l.gate.Stop(ctx)
	return errors.Join(<-l.served, l.node.Drain(ctx), l.node.Close())
}
