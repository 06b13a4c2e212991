// Package gateway is the door of a node: clients publish events and look at grains through it, by gRPC and by JSON on one
// port.
//
// Here live the port ([Gateway.Serve]), the calls of the public API, and the bounds on what clients can make a node do.
// What an event must look like is in intake, what is answered in answer, how a stream goes on in session; those are pure.
// Here never live turns, storage or the placement of shards: the gateway hands batches and reads to a [routing.Router] and
// waits.
//
// Invariant: what the gateway refuses never reached a shard, and what reached a shard is answered with the shard's own
// outcome or not at all. Nothing waits here without a bound: connections, streams, batches and bytes in flight are all
// limited, and who meets a limit is told, or is not read from. A subscription pulls: a client that does not read it holds a
// page of entries and a response, and nobody up.
//
// # One port
//
// A connection that opens with the HTTP/2 preface is served by grpc-go natively: the services of the API, health and
// reflection. Any other is served as HTTP/1.1: the unary methods by the Connect protocol (POST of JSON, so curl will do),
// CloudEvents at POST /v1/events, /metrics, /healthz and /readyz.
//
// # Unary publishing is all or nothing at the door
//
// One malformed event fails the whole call of Publish, and nothing of it is journaled: a batch that is half taken is hard
// to correct and send again. Behind the door each event has its own outcome. When no shard took any of the events, the
// call fails as well, with the status of the first shard, so that the retry policies of gRPC clients see it.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/intake"
	"github.com/granary-dev/granary/gateway/session"
	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Options of a gateway.
type Options struct {
	// Catalog of the kinds that this node runs. Required.
	Catalog *grains.Catalog
	// Router to the shards. Required.
	Router routing.Router
	// Logger for what an operator should see. Default: slog.Default().
	Logger *slog.Logger
	// Now is the clock against which the times of events are checked. Default: time.Now.
	Now func() time.Time
	// Ready tells why this node should get no traffic yet, for /readyz and health checks by HTTP. Default: it is ready
	// until it stops.
	Ready func() error
	// Metrics takes the gateway's figures. Default: they are counted and shown nowhere.
	Metrics prometheus.Registerer
	// MetricsHandler serves /metrics. Default: not found.
	MetricsHandler http.Handler
	// ProfileHandler serves /debug/pprof/. Default: not found.
	ProfileHandler http.Handler
	// Limits; the zero value of each means its default.
	Limits Limits
}

// Limits bound what clients can make a node do.
type Limits struct {
	// Connections that are open at once; further ones are closed as soon as they are accepted. Default: 10,000.
	Connections int
	// Streams that one HTTP/2 connection has open at once, calls included; further ones wait at the client. Default: 1,024.
	Streams int
	// InFlight is how many bytes of batches may wait for their outcome, over all calls and streams: 512 for each event
	// besides its size. Calls beyond it are refused, streams are not read from. Default: 256 MiB, at least 16 MiB.
	InFlight int64
	// StreamInFlight is the same for one stream. Default: 32 MiB.
	StreamInFlight int
	// Window is how many batches of a stream may be above its floor. Default and most: 256.
	Window int
	// SniffTimeout is how long a connection may take for its first bytes. Default: 5 s.
	SniffTimeout time.Duration
	// HeaderTimeout is how long it may then take for the HTTP/2 handshake or the headers of an HTTP/1.1 request.
	// Default: 10 s.
	HeaderTimeout time.Duration
	// BodyTimeout is how long an HTTP/1.1 request may take in all, from its headers to its answer. Default: 2 min.
	BodyTimeout time.Duration
	// IdleTimeout is how long a connection may be open without a call. Default: 5 min.
	IdleTimeout time.Duration
	// PingAfter is how long an HTTP/2 connection may be silent before the client is asked whether it is still there, and
	// PingTimeout how long it may take to say so. Then it is cut. Defaults: 30 s and 10 s.
	PingAfter, PingTimeout time.Duration
	// PingEvery is the shortest time between the pings of an HTTP/2 client that we bear. One that pings faster is cut.
	// Default: 5 s.
	PingEvery time.Duration
	// SendTimeout is how long a client of a stream may leave responses unread before the stream is cut; it is noticed
	// within another quarter of it. Default: 30 s.
	SendTimeout time.Duration
	// Subscriptions that are open at once; further ones are refused. Default: 1,000.
	Subscriptions int
	// HeaderBytes of a request. Default: 32 KiB.
	HeaderBytes int
}

// Bounds that are no options, because clients rely on them.
const (
	// maxReceive is the largest message that is read. Between the limit of a batch and it the refusal tells of the events,
	// beyond it of the message.
	maxReceive = 2 * intake.MaxBytes
	// minInFlight is what one batch of the largest size can cost, and some more.
	minInFlight = 16 << 20
	// costOfEvent is what an event costs beside its bytes, while it waits for its outcome.
	costOfEvent = 512
	// streamWindow and connectionWindow are how much HTTP/2 clients may send ahead of us.
	streamWindow     = 1 << 20
	connectionWindow = 4 << 20
	// callWorkers goroutines stay and take calls, because new ones grow their stack anew each time: a tenth of the CPU of
	// a small call. Where all are busy, further calls and streams get goroutines of their own.
	callWorkers = 64
	// drainGrace is how long connections are given to close by themselves when everything is answered.
	drainGrace = 500 * time.Millisecond
)

func (l *Limits) fill() error {
	def(&l.Connections, 10_000)
	def(&l.Streams, 1024)
	def(&l.InFlight, 256<<20)
	def(&l.StreamInFlight, 32<<20)
	def(&l.Window, session.MaxWindow)
	def(&l.SniffTimeout, 5*time.Second)
	def(&l.HeaderTimeout, 10*time.Second)
	def(&l.BodyTimeout, 2*time.Minute)
	def(&l.IdleTimeout, 5*time.Minute)
	def(&l.PingAfter, 30*time.Second)
	def(&l.PingTimeout, 10*time.Second)
	def(&l.PingEvery, 5*time.Second)
	def(&l.SendTimeout, 30*time.Second)
	def(&l.Subscriptions, 1000)
	def(&l.HeaderBytes, 32<<10)
	if l.InFlight < minInFlight {
		return fmt.Errorf("gateway: InFlight is %d bytes, but must be at least %d, or the largest batch would never fit", l.InFlight, minInFlight)
	}
	if l.Window < 1 || l.Window > session.MaxWindow {
		return fmt.Errorf("gateway: Window is %d, but must be 1 to %d", l.Window, session.MaxWindow)
	}
	return nil
}

func def[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Gateway serves one port.
type Gateway struct {
	opts    Options
	log     *slog.Logger
	router  routing.Router
	intake  *intake.Intake
	kinds   *kindTable
	outputs *streamTable
	metrics *metrics
	budget  *semaphore.Weighted
	gate    gate
	// stopping is closed when Stop begins: who waits for a deferred reply goes, and subscriptions end, which have nothing
	// outstanding.
	stopping chan struct{}
	queries  chan struct{} // has a value for each query that runs

	subscriptions atomic.Int64

	port   *port
	grpc   *grpc.Server
	http   *http.Server
	health *health.Server

	mu      sync.Mutex
	streams map[*stream]struct{}
	// running goroutines of streams; Stop waits for them.
	running sync.WaitGroup
	serving atomic.Bool
	stopped chan struct{}
	stop    sync.Once
}

// New returns a gateway that does not serve yet; Stop ends it even if it never does. It panics when an option is missing or
// out of its range.
func New(opts Options) *Gateway {
	if opts.Catalog == nil || opts.Router == nil {
		panic("gateway: Options need a Catalog and a Router")
	}
	if err := opts.Limits.fill(); err != nil {
		panic(err.Error())
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Ready == nil {
		opts.Ready = func() error { return nil }
	}
	g := &Gateway{
		opts: opts, log: opts.Logger, router: opts.Router,
		intake: intake.New(opts.Catalog, opts.Router.Table()), kinds: describeKinds(opts.Catalog), outputs: listStreams(opts.Catalog),
		metrics: newMetrics(opts.Metrics), budget: semaphore.NewWeighted(opts.Limits.InFlight),
		stopping: make(chan struct{}), queries: make(chan struct{}, maxQueries),
		health: health.NewServer(), streams: map[*stream]struct{}{}, stopped: make(chan struct{}),
	}
	g.gate.drained = make(chan struct{})
	g.port = newPort(opts.Limits, opts.Logger, g.metrics)
	g.grpc = g.newGRPC()
	g.http = g.newHTTP()
	return g
}

func (g *Gateway) newGRPC() *grpc.Server {
	l := g.opts.Limits
	s := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxReceive),
		grpc.MaxConcurrentStreams(uint32(l.Streams)),
		grpc.MaxHeaderListSize(uint32(l.HeaderBytes)),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.ConnectionTimeout(l.HeaderTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: l.IdleTimeout, Time: l.PingAfter, Timeout: l.PingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: l.PingEvery, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
		grpc.UnknownServiceHandler(unknownMethod),
		grpc.NumStreamWorkers(callWorkers),
	)
	g.register(s)
	healthpb.RegisterHealthServer(s, g.health)
	reflection.Register(s)
	for _, name := range []string{"", granaryv1.EventService_ServiceDesc.ServiceName, granaryv1.GrainService_ServiceDesc.ServiceName,
		granaryv1.KindService_ServiceDesc.ServiceName, granaryv1.StreamService_ServiceDesc.ServiceName, granaryv1.DeadLetterService_ServiceDesc.ServiceName} {
		g.health.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	return s
}

// Serve accepts connections until Stop, and returns nil then. It closes the listener. It may be called once.
func (g *Gateway) Serve(l net.Listener) error {
	if g.serving.Swap(true) {
		return errors.New("gateway: Serve was called twice")
	}
	g.port.http1.addr, g.port.http2.addr = l.Addr(), l.Addr()
	var servers sync.WaitGroup
	servers.Go(func() {
		if err := g.grpc.Serve(g.port.http2); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
			g.log.Error("the gRPC server ended", "err", err)
		}
	})
	servers.Go(func() {
		if err := g.http.Serve(g.port.http1); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			g.log.Error("the HTTP server ended", "err", err)
		}
	})
	err := g.port.accept(l)
	if err != nil { // nobody asked for it: the listener broke
		g.grpc.Stop()
		_ = g.http.Close()
	} else {
		<-g.stopped
	}
	servers.Wait()
	g.running.Wait()
	return err
}

// Stop ends the gateway: new events are refused with a status that lets clients retry, those on their way are answered,
// streams get their outstanding results and are closed, then the connections are. When ctx is done, what is left is cut.
// Stop returns when nothing of the gateway runs any more, except Serve, which is about to return. It may be called again,
// and then waits as well.
func (g *Gateway) Stop(ctx context.Context) {
	g.stop.Do(func() {
		defer close(g.stopped)
		g.health.Shutdown()
		close(g.stopping)
		g.gate.close()
		g.mu.Lock()
		for s := range g.streams {
			s.stop()
		}
		g.mu.Unlock()
		select {
		case <-g.gate.drained:
			g.closeServers(ctx)
		case <-ctx.Done():
			g.log.Warn("stopping hard: some events were not answered in time", "streams", g.metrics.streamsNow())
		}
		g.grpc.Stop()
		_ = g.http.Close()
		g.port.close()
	})
	<-g.stopped
	g.running.Wait()
}

// closeServers lets connections end in peace. Clients that stay on without a call, watching health say, are not waited
// for.
func (g *Gateway) closeServers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainGrace)
	defer cancel()
	var both sync.WaitGroup
	both.Go(func() { _ = g.http.Shutdown(ctx) })
	graceful := make(chan struct{})
	both.Go(func() { g.grpc.GracefulStop(); close(graceful) })
	select {
	case <-graceful:
	case <-ctx.Done():
		g.grpc.Stop()
	}
	both.Wait()
}

// gate counts what is on its way, and tells when it is closed and all are through.
type gate struct {
	inside  atomic.Int64
	closed  atomic.Bool
	drained chan struct{}
	once    sync.Once
}

// enter returns false when the gate is closed. Else leave must follow.
func (g *gate) enter() bool {
	g.inside.Add(1)
	if g.closed.Load() {
		g.leave()
		return false
	}
	return true
}

func (g *gate) leave() {
	if g.inside.Add(-1) == 0 && g.closed.Load() {
		g.once.Do(func() { close(g.drained) })
	}
}

func (g *gate) close() {
	g.closed.Store(true)
	if g.inside.Load() == 0 {
		g.once.Do(func() { close(g.drained) })
	}
}
