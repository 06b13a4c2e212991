//go:build linux || darwin

package chaos

import (
	"context"
	"net"
	"sync"
)

// wires are the connections of all clients, so that they can be cut.
type wires struct {
	mu  sync.Mutex
	all map[net.Conn]bool
}

func (w *wires) dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[net.Conn]bool{}
	}
	w.all[conn] = true
	return &wire{conn, w}, nil
}

// cut ends all connections, in the middle of whatever they carry, and says how many there were.
func (w *wires) cut() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.all)
	for conn := range w.all {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // what is on its way is lost too
		}
		_ = conn.Close() // that is the point
	}
	w.all = nil
	return n
}

// wire is one connection.
type wire struct {
	net.Conn
	of *wires
}

// Close is part of net.Conn.
func (w *wire) Close() error {
	w.of.mu.Lock()
	delete(w.of.all, w.Conn)
	w.of.mu.Unlock()
	return w.Conn.Close()
}
