package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/granary-dev/granary/gateway"
)

// ProcessOptions are those of a node and its gateway.
type ProcessOptions struct {
	Options
	// Listen is the HOST:PORT of all it serves; port 0 takes any that is free.
	Listen string
	// Listener to serve instead of one at Listen; nil for none.
	Listener net.Listener
	// Metrics serves /metrics on the same port.
	Metrics bool
	// Profiles serves Go's profiles under /debug/pprof/ on the same port.
	Profiles bool
	// Limits of the gateway.
	Limits gateway.Limits
}

// Process is a node with its gateway on one port.
type Process struct {
	node     *Node
	gate     *gateway.Gateway
	listener net.Listener
	served   chan error
	done     chan error
	closed   chan struct{}
}

// Serve takes the port, starts a node and serves it. Its errors are one line that says why.
func Serve(ctx context.Context, o ProcessOptions) (*Process, error) {
	listener := o.Listener
	if listener == nil {
		var lc net.ListenConfig
		var err error
		listener, err = lc.Listen(ctx, "tcp", o.Listen) // first, because it is what most often goes wrong
		if err != nil {
			return nil, fmt.Errorf("cannot listen: %w", err)
		}
	}
	n, err := Start(ctx, o.Options)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	g := gateway.Options{Catalog: o.Catalog, Router: n, Logger: n.opts.Logger, Now: n.opts.Now, Limits: o.Limits}
	if o.Metrics {
		registry := prometheus.NewRegistry()
		registry.MustRegister(n.Collector(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		g.Metrics, g.MetricsHandler = registry, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	}
	if o.Profiles {
		g.ProfileHandler = profiles()
	}
	p := &Process{node: n, gate: gateway.New(g), listener: listener, served: make(chan error, 1), done: make(chan error, 1), closed: make(chan struct{})}
	go func() { p.served <- p.gate.Serve(listener) }()
	go p.watch()
	return p, nil
}

// profiles serves what the Go runtime tells of the process.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index) // knows the profiles by their names
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// watch tells the owner when a part of the process ends by itself.
func (p *Process) watch() {
	select {
	case err := <-p.node.Failed():
		p.done <- err
	case err := <-p.served:
		p.served <- err // Shutdown waits for it too
		if err != nil {
			p.done <- err
		}
	case <-p.closed:
	}
}

// Addr is the HOST:PORT it listens at.
func (p *Process) Addr() string { return p.listener.Addr().String() }

// Done yields the reason when the process cannot go on. Call Shutdown then.
func (p *Process) Done() <-chan error { return p.done }

// Shutdown refuses new events with a retryable error, waits until those in flight are committed, answered and sent on
// (or ctx is done), and closes everything.
func (p *Process) Shutdown(ctx context.Context) error {
	close(p.closed)
	p.gate.Stop(ctx)
	return errors.Join(<-p.served, p.node.Drain(ctx), p.node.Close())
}
