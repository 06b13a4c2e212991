package gateway_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/granary-dev/granary/gateway"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func (n *node) tcp(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// cutWithin waits until the server has closed a connection.
func cutWithin(t *testing.T, c net.Conn, limit time.Duration) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(limit))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("open after %v", limit)
	}
}

// TestHalfOpenConnectionsAreCut: connections that stop somewhere on their way to a call do not pile up.
func TestHalfOpenConnectionsAreCut(t *testing.T) {
	const limit = 50 * time.Millisecond
	figures := prometheus.NewRegistry()
	n := start(t, func(o *gateway.Options) {
		o.Limits.SniffTimeout, o.Limits.HeaderTimeout, o.Limits.BodyTimeout, o.Limits.IdleTimeout, o.Metrics = limit, limit, 2*limit, limit, figures
	})
	for name, first := range map[string]string{
		"nothing":               "",
		"half a preface":        "PRI * HTTP/2.0\r\n",
		"preface only":          "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"half a request line":   "POST /gran",
		"half the headers":      "POST /granary.v1.EventService/Publish HTTP/1.1\r\nHost: x\r\nContent-Type: appli",
		"half a body":           "POST /granary.v1.EventService/Publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		"nothing after a call":  "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
		"something else at all": "\x16\x03\x01\x02\x00\x01\x00",
		"a headers flood":       "GET / HTTP/1.1\r\n" + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 100),
	} {
		t.Run(name, func(t *testing.T) {
			c := n.tcp(t)
			if _, err := c.Write([]byte(first)); err != nil {
				t.Fatal(err)
			}
			cutWithin(t, c, 5*time.Second)
		})
	}
	eventually(t, "all are forgotten", func() bool { return figure(t, figures, "granary_gateway_connections") == 0 })
}

func TestConnectionsBeyondTheLimitAreRefused(t *testing.T) {
	figures := prometheus.NewRegistry()
	n := start(t, func(o *gateway.Options) { o.Limits.Connections, o.Metrics = 10, figures })
	var open []net.Conn
	for range 10 {
		c := n.tcp(t)
		open = append(open, c)
		_, _ = c.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 200 {
			t.Fatalf("%v %v", res, err)
		}
	}
	cutWithin(t, n.tcp(t), 5*time.Second)
	if got := figure(t, figures, "granary_gateway_connections_refused_total"); got != 1 {
		t.Errorf("%v refused", got)
	}
	_ = open[3].Close()
	eventually(t, "there is room again", func() bool { return figure(t, figures, "granary_gateway_connections") == 9 })
	n.publish(t, charged("box/1", "", 1))
}

func TestWeb(t *testing.T) {
	figures := prometheus.NewRegistry()
	var notReady error
	n := start(t, func(o *gateway.Options) {
		o.Metrics, o.MetricsHandler = figures, promhttp.HandlerFor(figures, promhttp.HandlerOpts{})
		o.Ready = func() error { return notReady }
	})
	get := func(path string) (int, string) {
		res, err := n.web.Get("http://" + n.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		body, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(body)
	}
	n.publish(t, charged("box/1", "", 1), charged("box/1", "", -1))
	w := n.stream(t)
	w.batch(1, 0, charged("box/1", "", 1), charged("box/1", "", -1))
	w.until(1)
	n.post(t, publishPath, `{}`, nil)
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ok\n"} {
		if code, body := get(path); code != 200 || body != want {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	notReady = errors.New("3 of 8 shards have no leader")
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, "3 of 8") {
		t.Errorf("%d %q", code, body)
	}
	eventually(t, "the figures are right", func() bool {
		_, body := get("/metrics")
		for _, line := range []string{
			`granary_gateway_calls_total{code="OK",method="Publish"} 1`,
			`granary_gateway_calls_total{code="InvalidArgument",method="Publish"} 1`,
			`granary_gateway_events_total 4`,
			`granary_gateway_exceptions_total 2`,
			`granary_gateway_batches_total 1`,
			`granary_gateway_batch_seconds_count 1`,
			`granary_gateway_stream_responses_total 1`,
			`granary_gateway_streams 1`,
		} {
			if !strings.Contains(body, line+"\n") {
				return false
			}
		}
		return true
	})
}

func TestHealthAndReflection(t *testing.T) {
	n := start(t)
	health := healthpb.NewHealthClient(n.conn)
	for _, service := range []string{"", "granary.v1.EventService", "granary.v1.GrainService", "granary.v1.KindService", "granary.v1.DeadLetterService"} {
		res, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || res.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v %v", service, res, err)
		}
	}
	watch, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := watch.Recv(); err != nil || res.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v %v", res, err)
	}
	r, err := reflectionpb.NewServerReflectionClient(n.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, ask := range []*reflectionpb.ServerReflectionRequest{
		{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}},
		{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "granary.v1.EventService"}},
	} {
		if err := r.Send(ask); err != nil {
			t.Fatal(err)
		}
		res, err := r.Recv()
		if err != nil || res.GetErrorResponse() != nil {
			t.Errorf("%v %v", res, err)
		}
		if names := res.GetListServicesResponse(); names != nil && len(names.Service) < 5 {
			t.Errorf("%v", names)
		}
	}
	if err := r.CloseSend(); err != nil {
		t.Fatal(err)
	}
	// Who watches is told, and does not hold the end up.
	n.halt(t, 5*time.Second)
	if res, err := watch.Recv(); err != nil || res.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("%v %v", res, err)
	}
}

func TestUnknownMethodsOfGRPC(t *testing.T) {
	n := start(t)
	err := n.conn.Invoke(t.Context(), "/granary.v1.EventService/Publsh", &granaryv1.PublishRequest{}, &granaryv1.PublishResponse{})
	if f := grpcFailure(err); f.code != codes.Unimplemented || f.reason != "UNKNOWN_METHOD" {
		t.Errorf("%+v", f)
	}
}

func TestServeTwice(t *testing.T) {
	n := start(t)
	eventually(t, "it serves", func() bool { return n.post(t, publishPath, `{}`, nil).reason == "EMPTY_BATCH" })
	if err := n.gateway.Serve(nil); err == nil {
		t.Error("Serve can be called twice")
	}
}

// TestStopBeforeServe: a node that is told to stop while it starts.
func TestStopBeforeServe(t *testing.T) {
	g := gateway.New(gateway.Options{Catalog: testCatalog(), Router: newMemory(8)})
	g.Stop(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Serve(l); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("the listener is open")
	}
}

// broken is a listener that fails for good.
type broken struct{ net.Listener }

func (broken) Accept() (net.Conn, error) { return nil, fmt.Errorf("the cable is out") }

func TestBrokenListener(t *testing.T) {
	g := gateway.New(gateway.Options{Catalog: testCatalog(), Router: newMemory(8)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Serve(broken{l}); err == nil || !strings.Contains(err.Error(), "cable") {
		t.Error(err)
	}
	g.Stop(t.Context())
}
