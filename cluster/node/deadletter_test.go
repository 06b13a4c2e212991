package node_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/gateway"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/verify"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// fuses is a binary whose kind "fuse" adds what it is told, and in version 1 cannot bear more than 100. It tells another
// fuse about a tenth of it.
func fuses(t *testing.T, versions ...int64) *grains.Catalog {
	t.Helper()
	handlers := func(version int64) grains.Handlers[*wrapperspb.Int64Value] {
		return grains.Handlers[*wrapperspb.Int64Value]{grains.On(func(t *grains.Turn, s, e *wrapperspb.Int64Value) error {
			s.Value += e.Value
			if version == 1 && e.Value > 100 {
				return errors.New("blown")
			}
			if e.Value >= 10 {
				t.Send("fuse/next-"+t.Key(), wrapperspb.Int64(e.Value/10))
			}
			return nil
		})}
	}
	k := grains.Kind[*wrapperspb.Int64Value]{Name: "fuse", Version: uint32(versions[0]), Handlers: handlers(versions[0])}
	for _, v := range versions[1:] {
		k.Earlier = append(k.Earlier, grains.Logic[*wrapperspb.Int64Value]{Version: uint32(v), Handlers: handlers(v)})
	}
	c, err := grains.NewCatalog(k.MustDefine())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// door is a node with its port and a client.
type door struct {
	*node.Node
	letters granaryv1.DeadLetterServiceClient
	events  granaryv1.EventServiceClient
	grains  granaryv1.GrainServiceClient
	close   func()
}

func openDoor(t *testing.T, fs vfs.FS, c *grains.Catalog) *door {
	t.Helper()
	n, err := node.Start(context.Background(), node.Options{DataDir: "data", FS: fs, Catalog: c, Shards: 4})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Catalog: c, Router: n, Logger: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- g.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return &door{n, granaryv1.NewDeadLetterServiceClient(conn), granaryv1.NewEventServiceClient(conn), granaryv1.NewGrainServiceClient(conn), func() {
		_ = conn.Close()
		g.Stop(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
	}}
}

// open are the open dead letters, a page at a time.
func (d *door) open(t *testing.T) (all []string) {
	t.Helper()
	for req := (&granaryv1.DeadLetterServiceListRequest{PageSize: 3}); ; {
		page, err := d.letters.List(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range page.DeadLetters {
			all = append(all, fmt.Sprintf("%s#%d", l.Grain, l.Seq))
			if l.Reason != "blown" || l.Type != "google.protobuf.Int64Value" || strings.HasPrefix(l.Grain, "fuse/next-") != (l.Sender != "") {
				t.Errorf("%v", l)
			}
		}
		if req.PageToken = page.NextPageToken; req.PageToken == "" {
			return all
		}
	}
}

// TestDeadLetters goes the way of an operator: events die, a retry fails again, a new version comes, and then each event
// has been run once, however many people retry it, over restarts and crashes.
func TestDeadLetters(t *testing.T) {
	fs := vfs.NewMem()
	d := openDoor(t, fs, fuses(t, 1))
	for i := range 8 {
		var events []*granaryv1.Event
		for _, v := range []int64{5, 200, 30, 2000} {
			b, err := proto.Marshal(wrapperspb.Int64(v))
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, &granaryv1.Event{Grain: fmt.Sprint("fuse/", i), Type: "Int64Value", Id: fmt.Sprint("id", i, "-", v), Payload: &granaryv1.Event_Protobuf{Protobuf: b}})
		}
		if _, err := d.events.Publish(context.Background(), &granaryv1.PublishRequest{Events: events}); err != nil {
			t.Fatal(err)
		}
	}
	if open := d.open(t); len(open) != 16 || open[0] != "fuse/0#2" || open[15] != "fuse/7#4" {
		t.Fatalf("%v", open)
	}
	again, err := d.letters.Retry(context.Background(), &granaryv1.RetryRequest{Grain: "fuse/0", Seq: 2})
	if err != nil || again.Result.Seq != 5 || codes.Code(again.Result.GetStatus().GetCode()) != codes.Internal {
		t.Fatalf("%v %v", again, err)
	}
	d.Kill()
	d.close()

	d = openDoor(t, fs, fuses(t, 2, 1))
	if open := d.open(t); len(open) != 16 || open[0] != "fuse/0#4" || open[1] != "fuse/0#5" || d.Stats().OpenDeadLetters != 16 {
		t.Fatalf("%v, %d", open, d.Stats().OpenDeadLetters)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	ran := map[string]int{}
	for _, name := range d.open(t) {
		for range 4 {
			all.Go(func() {
				grain, n, _ := strings.Cut(name, "#")
				var seq uint64
				_, _ = fmt.Sscan(n, &seq)
				got, err := d.letters.Retry(context.Background(), &granaryv1.RetryRequest{Grain: grain, Seq: seq})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil && got.Result.Status == nil:
					ran[name]++
				case status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "was retried as #") || !strings.Contains(err.Error(), "folded"):
					t.Errorf("%s: %v %v", name, got, err)
				}
			})
		}
	}
	all.Wait()
	for name, n := range ran {
		if n != 1 {
			t.Errorf("%s was run %d times", name, n)
		}
	}
	if open := d.open(t); len(ran) != 16 || open != nil {
		t.Errorf("%d ran, %v are open", len(ran), open)
	}
	if err := d.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d.close()

	d = openDoor(t, fs, fuses(t, 2, 1))
	if open := d.open(t); open != nil || d.Stats().OpenDeadLetters != 0 {
		t.Errorf("%v, %d", open, d.Stats().OpenDeadLetters)
	}
	for i := range 8 {
		for grain, want := range map[string]string{fmt.Sprint("fuse/", i): "2235", fmt.Sprint("fuse/next-", i): "223"} {
			got, err := d.grains.Get(context.Background(), &granaryv1.GetRequest{Grain: grain})
			if err != nil {
				t.Fatal(err)
			}
			var state wrapperspb.Int64Value
			if err := got.State.UnmarshalTo(&state); err != nil || fmt.Sprint(state.Value) != want {
				t.Errorf("%s is %d, want %s (%v)", grain, state.Value, want, err)
			}
		}
	}
	shown, err := d.letters.Get(context.Background(), &granaryv1.DeadLetterServiceGetRequest{Grain: "fuse/0", Seq: 2})
	if err != nil || shown.Open || shown.Settled != "retried" || shown.RetriedAs != 5 {
		t.Errorf("%v %v", shown, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d.close()
	r, err := verify.Run(context.Background(), verify.Options{Dir: "data", FS: fs, Catalog: fuses(t, 2, 1)})
	if err != nil || !r.OK() || r.Records["settlement"] != 17 {
		t.Errorf("%v %v %v", err, r.Findings, r.Records)
	}
}
