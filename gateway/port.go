package gateway

import (
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// preface is what every HTTP/2 connection opens with (RFC 9113, 3.4). No request of HTTP/1.1 can begin like that.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// port accepts connections and sorts them by their first bytes: those of HTTP/2 to one listener, all others to another.
type port struct {
	limits  Limits
	log     *slog.Logger
	metrics *metrics
	http1   *door
	http2   *door

	open     atomic.Int64
	sniffers sync.WaitGroup
	mu       sync.Mutex
	sniffed  map[net.Conn]struct{} // connections whose first bytes are awaited
	served   map[string]*conn      // connections of HTTP/2 by their remote address
	listener net.Listener
	closed   bool
	// lastRefusal is when a refused connection was last logged, in Unix nanoseconds: a flood must not flood the log too.
	lastRefusal atomic.Int64
}

func newPort(l Limits, log *slog.Logger, m *metrics) *port {
	return &port{limits: l, log: log, metrics: m, http1: newDoor(), http2: newDoor(), sniffed: map[net.Conn]struct{}{}, served: map[string]*conn{}}
}

// accept serves a listener until close, and returns nil then.
func (p *port) accept(l net.Listener) error {
	p.mu.Lock()
	p.listener = l
	closed := p.closed
	p.mu.Unlock()
	defer func() { p.http1.shut(); p.http2.shut(); p.sniffers.Wait() }()
	if closed {
		return l.Close()
	}
	pause := time.Duration(0)
	for {
		c, err := l.Accept()
		if err != nil {
			if p.isClosed() {
				return nil
			}
			if temporary(err) { // out of file descriptors, mostly: those of others come back
				pause = min(max(2*pause, 5*time.Millisecond), time.Second)
				p.log.Error("cannot accept connections, trying again; is the limit of open files (ulimit -n) too low?", "err", err, "in", pause)
				time.Sleep(pause)
				continue
			}
			_ = l.Close()
			return err
		}
		pause = 0
		p.take(c)
	}
}

func temporary(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Temporary() //nolint:staticcheck // deprecated for being vague; Accept is its one use
}

// take counts a connection in and lets a goroutine of its own wait for its first bytes.
func (p *port) take(raw net.Conn) {
	if p.open.Add(1) > int64(p.limits.Connections) {
		p.open.Add(-1)
		_ = raw.Close()
		p.metrics.refusedConnections.Inc()
		now := time.Now().UnixNano()
		if last := p.lastRefusal.Load(); now-last > int64(10*time.Second) && p.lastRefusal.CompareAndSwap(last, now) {
			p.log.Warn("connections are refused: as many as allowed are open", "limit", p.limits.Connections, "from", raw.RemoteAddr())
		}
		return
	}
	p.metrics.connections.Inc()
	c := &conn{Conn: raw, port: p}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		_ = c.Close()
		return
	}
	p.sniffed[c] = struct{}{}
	p.sniffers.Add(1)
	p.mu.Unlock()
	go func() {
		defer p.sniffers.Done()
		p.sniff(c)
		p.mu.Lock()
		delete(p.sniffed, c)
		p.mu.Unlock()
	}()
}

// sniff reads until it is clear which protocol this is. Nobody writes in HTTP before the client does.
func (p *port) sniff(c *conn) {
	_ = c.SetReadDeadline(time.Now().Add(p.limits.SniffTimeout))
	buf := make([]byte, len(preface))
	have := 0
	for have < len(buf) {
		n, err := c.Conn.Read(buf[have:])
		have += n
		if string(buf[:have]) != preface[:have] {
			break
		}
		if err != nil {
			p.metrics.cutConnections.Inc()
			_ = c.Close()
			return
		}
	}
	_ = c.SetReadDeadline(time.Time{})
	c.ahead = buf[:have]
	if have == len(buf) && string(buf) == preface {
		p.mu.Lock()
		p.served[c.RemoteAddr().String()] = c
		p.mu.Unlock()
		p.http2.let(c)
	} else {
		p.http1.let(c)
	}
}

// maxCuts is how many streams of one connection may be cut for not being read before the connection is. A cut stream
// leaves up to 64 KiB behind that wait for its client, and HTTP/2 as grpc-go has it cannot take them back.
const maxCuts = 8

// blame notes that a stream was cut because its client does not read.
func (p *port) blame(remote string) {
	p.mu.Lock()
	c := p.served[remote]
	p.mu.Unlock()
	if c != nil && c.cuts.Add(1) == maxCuts {
		p.metrics.cutConnections.Inc()
		p.log.Warn("cut a connection: too many of its streams were not read", "from", remote, "streams", maxCuts)
		_ = c.Close()
	}
}

func (p *port) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// close ends accept and cuts the connections that nobody serves yet.
func (p *port) close() {
	p.mu.Lock()
	p.closed = true
	if p.listener != nil {
		_ = p.listener.Close()
	}
	waiting := slices.Collect(maps.Keys(p.sniffed))
	p.mu.Unlock()
	for _, c := range waiting {
		_ = c.Close()
	}
}

// conn is a connection some bytes of which were read ahead. It is counted until it is closed.
type conn struct {
	net.Conn
	port  *port
	ahead []byte
	once  sync.Once
	cuts  atomic.Int32 // streams that were cut because nobody read them
}

// Read gives the bytes read ahead first.
func (c *conn) Read(b []byte) (int, error) {
	if len(c.ahead) > 0 {
		n := copy(b, c.ahead)
		if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
			c.ahead = nil
		}
		return n, nil
	}
	return c.Conn.Read(b)
}

// Close closes the connection and makes room for another.
func (c *conn) Close() error {
	c.once.Do(func() {
		p, remote := c.port, c.RemoteAddr().String()
		p.open.Add(-1)
		p.metrics.connections.Dec()
		p.mu.Lock()
		if p.served[remote] == c {
			delete(p.served, remote)
		}
		p.mu.Unlock()
	})
	return c.Conn.Close()
}

// door is a listener whose connections come from a port.
type door struct {
	conns chan net.Conn
	addr  net.Addr
	gone  chan struct{}
	once  sync.Once
}

func newDoor() *door { return &door{conns: make(chan net.Conn), gone: make(chan struct{})} }

// let hands a connection to the server behind the door, or closes it when there is none any more.
func (d *door) let(c net.Conn) {
	select {
	case d.conns <- c:
	case <-d.gone:
		_ = c.Close()
	}
}

func (d *door) shut() { d.once.Do(func() { close(d.gone) }) }

// Accept is of net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.gone:
		return nil, net.ErrClosed
	}
}

// Close is of net.Listener.
func (d *door) Close() error {
	d.shut()
	return nil
}

// Addr is of net.Listener.
func (d *door) Addr() net.Addr { return d.addr }
