package crash

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/gateway"
	"github.com/granary-dev/granary/grains"
)

// dataDir is where the node keeps its store in the file system of a [Memory].
const dataDir = "data"

// Memory hosts nodes in this process, on a file system in memory that forgets at a crash what was not synced.
type Memory struct {
	// Catalog of kinds; must hold account and merchant.
	Catalog *grains.Catalog

	fs  *vfs.MemFS
	rnd *rand.Rand
}

// NewMemory returns a host with an empty disk. seed draws what a crash leaves of the unsynced data.
func NewMemory(catalog *grains.Catalog, seed uint64) *Memory {
	return &Memory{Catalog: catalog, fs: vfs.NewCrashableMem(), rnd: rand.New(rand.NewPCG(seed, 1))}
}

// FS is the disk, and Dir the data folder on it.
func (m *Memory) FS() (fs vfs.FS, dir string) { return m.fs, dataDir }

// Start implements [Host].
func (m *Memory) Start(ctx context.Context) (Life, error) {
	n, err := node.Start(ctx, node.Options{DataDir: dataDir, FS: m.fs, Catalog: m.Catalog, Shards: 8,
		// so little that grains come and go all the time, and checkpoints are never far
		MemoryBudget: (1 + m.rnd.Int64N(200)) << 10, CheckpointRecords: 20 + m.rnd.IntN(500)})
	if err != nil {
		return nil, err
	}
	g := gateway.New(gateway.Options{Catalog: m.Catalog, Router: n, Logger: slog.New(slog.DiscardHandler)})
	listener := bufconn.Listen(1 << 20)
	l := &memoryLife{host: m, node: n, gate: g, served: make(chan error, 1)}
	go func() { l.served <- g.Serve(listener) }()
	l.conn, err = grpc.NewClient("passthrough:node", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		return nil, errors.Join(err, l.Bury())
	}
	return l, nil
}

type memoryLife struct {
	host   *Memory
	node   *node.Node
	gate   *gateway.Gateway
	conn   *grpc.ClientConn
	served chan error
}

// Conn implements [Life].
func (l *memoryLife) Conn() *grpc.ClientConn { return l.conn }

// Crash implements [Life]: the disk as it would be found after a power cut, with any part of what was not synced.
func (l *memoryLife) Crash() error {
	l.host.fs = l.host.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: l.host.rnd.IntN(101),
		RNG: rand.New(rand.NewPCG(l.host.rnd.Uint64(), 0))})
	return nil
}

// Bury implements [Life].
func (l *memoryLife) Bury() error {
	if l.conn != nil {
		_ = l.conn.Close()
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	l.gate.Stop(now)
	err := <-l.served
	l.node.Kill()
	return err
}

// Settle implements [Life].
func (l *memoryLife) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return l.node.Drain(ctx)
}

// Stop implements [Life].
func (l *memoryLife) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := l.conn.Close()
	l.gate.Stop(ctx)
	return errors.Join(err, <-l.served, l.node.Close())
}
