package gateway_test

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/granary-dev/granary/gateway"
)

func TestParseLimits(t *testing.T) {
	l, err := gateway.ParseLimits(map[string]string{"connections": "7", "idle-timeout": "90s", "in-flight": "33554432"})
	if err != nil || l.Connections != 7 || l.IdleTimeout != 90*time.Second || l.InFlight != 32<<20 || l.Streams != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	for _, tc := range []struct{ name, value, want string }{
		{"rooms", "1", `no limit "rooms"`},
		{"connections", "0", `limit connections: "0" is not a whole number of at least 1`},
		{"connections", "many", `"many" is not a whole number`},
		{"connections", "99999999999999999999", "is not a whole number"},
		{"idle-timeout", "90", `limit idle-timeout: "90" is not a duration`},
		{"idle-timeout", "-1s", "is not a duration above 0"},
		{"in-flight", "1000", "InFlight is 1000 bytes, but must be at least"},
		{"window", "1000", "Window is 1000, but must be 1 to"},
	} {
		if _, err := gateway.ParseLimits(map[string]string{tc.name: tc.value}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s=%s: %v, want %q", tc.name, tc.value, err, tc.want)
		}
	}
	for _, limit := range gateway.LimitList() {
		if _, err := gateway.ParseLimits(map[string]string{limit.Name: limit.Default}); err != nil {
			t.Errorf("the default of %s: %v", limit.Name, err)
		}
	}
}

// http2Conn is a connection that speaks HTTP/2 by hand, with what the server sends passed over.
func (n *node) http2Conn(t *testing.T) (net.Conn, *http2.Framer) {
	t.Helper()
	c := n.tcp(t)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c, f
}

// TestPingFlood: a client that pings without end is cut, and one that pings now and then is not.
func TestPingFlood(t *testing.T) {
	n := start(t, func(o *gateway.Options) { o.Limits.PingEvery = 50 * time.Millisecond })
	c, f := n.http2Conn(t)
	go func() {
		for f.WritePing(false, [8]byte{1}) == nil {
		}
	}()
	cutWithin(t, c, 5*time.Second)

	c, f = n.http2Conn(t)
	for range 8 {
		time.Sleep(60 * time.Millisecond)
		if err := f.WritePing(false, [8]byte{2}); err != nil {
			t.Fatal(err)
		}
	}
	answers := 0
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	for answers < 8 {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("after %d answers: %v", answers, err)
		}
		if p, ok := frame.(*http2.PingFrame); ok && p.IsAck() {
			answers++
		}
	}
}

// TestHeaderFlood: headers without end, in one frame or in many, end the connection and not the node.
func TestHeaderFlood(t *testing.T) {
	n := start(t)
	for name, frames := range map[string]int{"one frame": 1, "frames without end": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			c, f := n.http2Conn(t)
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			field := func(name, value string) { _ = enc.WriteField(hpack.HeaderField{Name: name, Value: value}) }
			field(":method", "POST")
			field(":scheme", "http")
			field(":path", "/granary.v1.KindService/List")
			field("content-type", "application/grpc")
			var taken atomic.Int64
			go func() {
				first := block.Bytes()
				if f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first}) != nil {
					return
				}
				for i := range frames {
					block.Reset()
					for range 15 {
						field("x", strings.Repeat("y", 1000))
					}
					if f.WriteContinuation(1, i == frames-1, block.Bytes()) != nil {
						return
					}
					taken.Add(int64(block.Len()))
				}
				// one whole list of headers is refused for its stream alone; then the client is gone
				if frames == 1 {
					_ = f.WriteRSTStream(1, http2.ErrCodeCancel)
					_ = c.(*net.TCPConn).CloseWrite()
				}
			}()
			cutWithin(t, c, 10*time.Second)
			if n := taken.Load(); n > 8<<20 { // what the kernel had taken by then is in it
				t.Errorf("cut after %d MiB", n>>20)
			}
		})
	}
	n.publish(t, charged("box/1", "", 1)) // and others are served
}
