package node_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/gateway"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/verify"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// sums is a binary: its kind "sum" adds what it is told as often as its version says, and keeps earlier versions.
func sums(t *testing.T, version uint32, keeps ...uint32) *grains.Catalog {
	t.Helper()
	handlers := func(version uint32) grains.Handlers[*wrapperspb.Int64Value] {
		return grains.Handlers[*wrapperspb.Int64Value]{grains.On(func(_ *grains.Turn, s, e *wrapperspb.Int64Value) error {
			s.Value += int64(version) * e.Value
			return nil
		})}
	}
	k := grains.Kind[*wrapperspb.Int64Value]{Name: "sum", Version: version, Handlers: handlers(version)}
	for _, v := range keeps {
		k.Earlier = append(k.Earlier, grains.Logic[*wrapperspb.Int64Value]{Version: v, Handlers: handlers(v)})
	}
	c, err := grains.NewCatalog(k.MustDefine())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// said is what a node logs, while it still does.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *said) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Reset()
}

// TestCutWaits: a cut writes nothing while the disk is down to its reserve, and does not hold up a node that is stopping.
func TestCutWaits(t *testing.T) {
	const count = 20_000
	fs := &usage{FS: vfs.NewMem()}
	fs.free.Store(1 << 40)
	begin := func(c *grains.Catalog) *node.Node {
		n, err := node.Start(context.Background(), node.Options{DataDir: "data", FS: fs, Catalog: c, Shards: 4})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	c := sums(t, 1)
	n := begin(c)
	kind, _ := c.Kind("sum")
	msg := wrapperspb.Int64(1)
	payload, err := proto.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	for from := 0; from < count; from += 1000 {
		var events []actors.Event
		for i := range 1000 {
			events = append(events, actors.Event{Kind: kind, Key: fmt.Sprint("g", from+i), Type: kind.Events()[0], Message: msg, Payload: payload})
		}
		publish(t, n, events...)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	fs.free.Store(100 << 20) // below the reserve
	n = begin(sums(t, 2, 1))
	time.Sleep(100 * time.Millisecond)
	if cut := n.Stats().Cut; cut != 0 {
		t.Errorf("%d grains were cut on a full disk", cut)
	}
	fs.free.Store(1 << 40)
	for deadline := time.Now().Add(patience); n.Stats().Cut == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("there is room again, and nothing is cut")
		}
	}
	if err := n.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if cut := n.Stats().Cut; cut >= count {
		t.Error("the node has waited for the whole cut before it stopped")
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRaisedVersion takes a node with many grains from one version to the next: a binary without the old logic answers
// nothing but how many grains need it; one with it answers at once, and cuts them meanwhile; then the old logic may go.
func TestRaisedVersion(t *testing.T) {
	const count = 3000
	fs := vfs.NewMem()
	var log said
	begin := func(c *grains.Catalog) *node.Node {
		log.Reset()
		n, err := node.Start(context.Background(), node.Options{DataDir: "data", FS: fs, Catalog: c, Shards: 4, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	end := func(n *node.Node) {
		t.Helper()
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	add := func(n *node.Node, c *grains.Catalog, from, to int) {
		t.Helper()
		kind, _ := c.Kind("sum")
		typ := kind.Events()[0]
		msg := wrapperspb.Int64(1)
		payload, err := proto.Marshal(msg)
		if err != nil {
			t.Fatal(err)
		}
		var events []actors.Event
		for i := from; i < to; i++ {
			events = append(events, actors.Event{Kind: kind, Key: fmt.Sprint("g", i), Type: typ, Message: msg, Payload: payload})
		}
		for _, r := range publish(t, n, events...) {
			if r.Outcome != actors.Folded {
				t.Fatalf("%+v", r)
			}
		}
	}

	c1 := sums(t, 1)
	n := begin(c1)
	add(n, c1, 0, count)
	end(n)

	n = begin(sums(t, 2))
	if want := fmt.Sprintf(`shards do not lead: kind \"sum\": %d grains need version 1 of its logic, this binary has version 2" shards=4 of=4`, count); strings.Count(log.String(), "level=ERROR") != 1 || !strings.Contains(log.String(), want) {
		t.Errorf("the log should say %s:\n%s", want, &log)
	}
	if s := n.Stats(); s.Unfit != 4 || s.Turns != 0 {
		t.Errorf("%+v", s)
	}
	publishTo(t, n, sums(t, 2))
	end(n)

	c2 := sums(t, 2, 1)
	n = begin(c2)
	add(n, c2, count/2, count+100)
	// a node that is stopping cuts no more, so it is waited for first
	for deadline := time.Now().Add(20 * time.Second); strings.Count(log.String(), "the cut is done") < 4; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", n.Stats())
		}
	}
	if err := n.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s := n.Stats(); s.Unfit != 0 || s.Cut != count || s.Quarantined != 0 {
		t.Errorf("%+v", s)
	}
	end(n)
	if got := strings.Count(log.String(), "the cut is done"); got != 4 {
		t.Errorf("%d cuts are done:\n%s", got, &log)
	}

	c := sums(t, 2)
	n = begin(c)
	add(n, c, 0, 1)
	end(n)
	for _, c := range []*grains.Catalog{c, c2} {
		r, err := verify.Run(context.Background(), verify.Options{Dir: "data", FS: fs, Catalog: c})
		if err != nil || !r.OK() {
			t.Fatalf("%v %v", err, r.Findings)
		}
		if kept := len(c.Kinds()[0].Earlier()) > 0; kept != (r.UnrunGrains == 0) || r.Turns != count/2+100+1+map[bool]uint64{true: count}[kept] {
			t.Errorf("%d turns, %d grains cannot be checked: %v", r.Turns, r.UnrunGrains, r.Unrun)
		}
	}
}

// publishTo publishes through the door of a node that lacks the logic.
func publishTo(t *testing.T, n *node.Node, c *grains.Catalog) {
	t.Helper()
	g := gateway.New(gateway.Options{Catalog: c, Router: n, Logger: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- g.Serve(l) }()
	defer func() {
		g.Stop(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, published := granaryv1.NewEventServiceClient(conn).Publish(context.Background(), &granaryv1.PublishRequest{Events: []*granaryv1.Event{{
		Grain: "sum/g1", Type: "Int64Value", Payload: &granaryv1.Event_Protobuf{Protobuf: []byte{8, 1}}}}})
	_, got := granaryv1.NewGrainServiceClient(conn).Get(context.Background(), &granaryv1.GetRequest{Grain: "sum/g1"})
	for _, err := range []error{published, got} {
		s := status.Convert(err)
		var info *errdetails.ErrorInfo
		for _, d := range s.Details() {
			if i, ok := d.(*errdetails.ErrorInfo); ok {
				info = i
			}
		}
		if s.Code() != codes.FailedPrecondition || info.GetReason() != "LOGIC_MISSING" || !strings.Contains(s.Message(), "version 1 of its logic, this binary has version 2") {
			t.Errorf("%v %v", s, info)
		}
		m := info.GetMetadata()
		if m["kind"] != "sum" || m["version_needed"] != "1" || m["version_had"] != "2" || m["grains"] == "" || m["grains"] == "0" || len(m) != 4 {
			t.Errorf("metadata %v", m)
		}
	}
}
