package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/grains/catalog"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func probes(t testing.TB, fs vfs.FS, listen string) *Process {
	t.Helper()
	p, err := Serve(t.Context(), ProcessOptions{
		Options: Options{DataDir: "data", FS: fs, Catalog: catalog.Builtin(), Shards: 4, CheckpointRecords: 50}, Listen: listen,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// kill ends a process as a crash would, and returns what is left on the disk.
func kill(t testing.TB, p *Process, fs *vfs.MemFS, rng *rand.Rand) *vfs.MemFS {
	t.Helper()
	left := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	close(p.closed)
	p.gate.Stop(ctx)
	if err := <-p.served; err != nil {
		t.Error(err)
	}
	p.node.Kill()
	return left
}

// TestSubscriptionOutlivesCrashes publishes while clients read, and kills the node under them again and again: each of them
// sees every item once, those of a grain in order, and what they saw is what the histories of the grains hold.
func TestSubscriptionOutlivesCrashes(t *testing.T) {
	const grains, rounds = 5, 4
	rng := rand.New(rand.NewPCG(1, 1))
	fs := vfs.NewCrashableMem()
	p := probes(t, fs, "127.0.0.1:0")
	addr := p.Addr()
	conn, err := client.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	stream := &granaryv1.SubscribeRequest{Source: &granaryv1.SubscribeRequest_Stream{Stream: "probe.values"},
		From: &granaryv1.SubscribeRequest_Start{Start: granaryv1.SubscribeStart_SUBSCRIBE_START_BEGINNING}, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF}
	kind := proto.CloneOf(stream)
	kind.Source = &granaryv1.SubscribeRequest_Kind{Kind: "probe"}
	values, records := collect(ctx, conn, stream), collect(ctx, conn, kind)

	events := granaryv1.NewEventServiceClient(conn)
	number := uint64(0)
	for round := range rounds {
		for range 60 {
			number++
			msg := &probev1.Announce{Value: number, Times: uint32(rng.IntN(4))}
			if rng.IntN(10) == 0 {
				msg.Times = 1000 // refused: a void record
			}
			payload, err := msg.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := events.Publish(ctx, &granaryv1.PublishRequest{Events: []*granaryv1.Event{{Grain: fmt.Sprintf("probe/%d", number%grains), Type: "Announce",
				Id: fmt.Sprint(number), Payload: &granaryv1.Event_Protobuf{Protobuf: payload}}}}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
		}
		if round < rounds-1 {
			fs = kill(t, p, fs, rng)
			p = probes(t, fs, addr)
		}
	}
	defer func() {
		if err := p.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}()

	var wantValues, wantRecords []string
	histories := granaryv1.NewGrainServiceClient(conn)
	for g := range grains {
		grain := fmt.Sprintf("probe/%d", g)
		h, err := histories.History(ctx, &granaryv1.HistoryRequest{Grain: grain, PageSize: 1000, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range h.Records {
			wantRecords = append(wantRecords, recordText(grain, r))
			for i, e := range r.Effects {
				wantValues = append(wantValues, messageText(grain, r.Seq, uint32(i), e.GetPublish().GetPayloadProtobuf()))
			}
		}
	}
	if len(wantRecords) != int(number) {
		t.Fatalf("%d records, want %d", len(wantRecords), number)
	}
	conform(t, "stream", values, wantValues)
	conform(t, "kind", records, wantRecords)
}

func recordText(grain string, r *granaryv1.HistoryRecord) string {
	return fmt.Sprintf("%s #%d %s %v %s %x %d", grain, r.Seq, r.Position, r.Outcome, r.Id, r.PayloadProtobuf, len(r.Effects))
}

func messageText(grain string, seq uint64, effect uint32, payload []byte) string {
	return fmt.Sprintf("%s #%d/%d %x", grain, seq, effect, payload)
}

// collect reads until the context is done, and passes on what it read as texts.
func collect(ctx context.Context, conn *grpc.ClientConn, req *granaryv1.SubscribeRequest) <-chan string {
	out := make(chan string, 10_000)
	s := client.Subscribe(ctx, conn, req)
	go func() {
		defer close(out)
		for item, err := range s.Items() {
			switch {
			case errors.Is(err, context.Canceled):
			case err != nil:
				out <- err.Error()
			case item.GetMessage() != nil:
				m := item.GetMessage()
				out <- messageText(item.Grain, m.Seq, m.Effect, m.PayloadProtobuf)
			default:
				out <- recordText(item.Grain, item.GetRecord())
			}
		}
	}()
	return out
}

// conform holds what a subscriber saw against the histories, grain by grain, and that nothing more comes.
func conform(t *testing.T, what string, saw <-chan string, want []string) {
	t.Helper()
	at := map[string][]string{}
	of := func(text string) string {
		var grain string
		_, _ = fmt.Sscan(text, &grain)
		return grain
	}
	for _, w := range want {
		at[of(w)] = append(at[of(w)], w)
	}
	for n := range want {
		select {
		case got := <-saw:
			rest := at[of(got)]
			if len(rest) == 0 || rest[0] != got {
				t.Fatalf("%s: item %d is %q, want %.1q", what, n, got, rest)
			}
			at[of(got)] = rest[1:]
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: %d of %d items came", what, n, len(want))
		}
	}
	select {
	case got := <-saw:
		t.Fatalf("%s: one too many: %q", what, got)
	case <-time.After(50 * time.Millisecond):
	}
}

// BenchmarkSubscribe reads small records of a kind from the beginning over gRPC, in protobuf.
func BenchmarkSubscribe(b *testing.B) {
	const records = 50_000
	p := probes(b, vfs.NewMem(), "127.0.0.1:0")
	defer func() { _ = p.Shutdown(context.Background()) }()
	conn, err := client.Dial(p.Addr())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	events := granaryv1.NewEventServiceClient(conn)
	payload, err := (&probev1.Announce{Value: 1}).MarshalVT()
	if err != nil {
		b.Fatal(err)
	}
	for at := 0; at < records; at += 1000 {
		req := &granaryv1.PublishRequest{}
		for i := range 1000 {
			req.Events = append(req.Events, &granaryv1.Event{Grain: fmt.Sprintf("probe/%d", (at+i)%5000), Type: "Announce", Payload: &granaryv1.Event_Protobuf{Protobuf: payload}})
		}
		if _, err := events.Publish(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
	for _, source := range []string{"kind", "stream"} {
		b.Run(source, func(b *testing.B) {
			req := &granaryv1.SubscribeRequest{Source: &granaryv1.SubscribeRequest_Kind{Kind: "probe"}, UntilLive: true, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF,
				From: &granaryv1.SubscribeRequest_Start{Start: granaryv1.SubscribeStart_SUBSCRIBE_START_BEGINNING}}
			if source == "stream" {
				req.Source = &granaryv1.SubscribeRequest_Stream{Stream: "probe.values"}
			}
			n := 0
			for b.Loop() {
				call := client.Subscribe(b.Context(), conn, req)
				got := 0
				for {
					r, err := call.Next()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
					got += len(r.Items)
				}
				if got != records {
					b.Fatalf("%d items", got)
				}
				n += got
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}
