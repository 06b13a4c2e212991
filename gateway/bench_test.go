package gateway

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/intake"
	"github.com/granary-dev/granary/grains/catalog"
	"github.com/granary-dev/granary/persistence/entry"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// instant is a router whose shards are done at once.
type instant struct{ table routing.Table }

func (r instant) Table() routing.Table { return r.table }

func (r instant) Publish(_ context.Context, _ uint64, b *actors.Batch, _ bool) error {
	b.Refused = actors.Folded
	if cap(b.Results) < len(b.Events) {
		b.Results = make([]actors.Result, len(b.Events))
	}
	b.Results = b.Results[:len(b.Events)]
	b.Done(b)
	return nil
}

func (r instant) GiveUp(uint64, *actors.Batch) {}

func (r instant) Read(uint64, *actors.Read) error { return routing.ErrStopping }

func (r instant) GiveUpRead(uint64, *actors.Read) {}

func (r instant) Entries(_ context.Context, _ uint64, after routing.Place, _ uint64, _ int) ([]*entry.Reader, routing.Place, error) {
	return nil, after, routing.ErrStopping
}

func (r instant) Settle(uint64, *actors.Settle) error { return routing.ErrStopping }

// looped is a stream that receives the same batches for ever, as the wire has them, and encodes what is sent.
type looped struct {
	grpc.ServerStream
	messages   [][]byte
	next, last uint64
	producer   bool
}

func (l *looped) Context() context.Context { return context.Background() }

func (l *looped) RecvMsg(m any) error {
	if l.next == l.last {
		return io.EOF
	}
	l.next++
	var head []byte
	if l.producer {
		if l.next == 1 {
			head = append(head, 1<<3|2, 5, 1<<3|2, 1, 'b', 2<<3, 1)
		}
		head = binary.AppendUvarint(append(head, 3<<3), l.next*intake.MaxEvents)
	}
	head = binary.AppendUvarint(append(head, 2<<3), l.next)
	message := l.messages[l.next%uint64(len(l.messages))]
	return codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(head), mem.SliceBuffer(message)}, m)
}

func (l *looped) SendMsg(m any) error {
	b, err := codec{}.Marshal(m)
	b.Free()
	return err
}

// batchesOf returns batches of n transactions of 10,000 accounts.
func batchesOf(n int, producer bool) [][]byte {
	var out [][]byte
	next := 0
	for range 10_000 / n {
		req := &granaryv1.PublishStreamRequest{}
		for range n {
			payload, err := proto.Marshal(&accountv1.Charged{TransactionId: fmt.Sprintf("tx-%09d", next), Merchant: fmt.Sprintf("m%05d", next*7919%5000), AmountCents: int64(next%10_000) + 1})
			if err != nil {
				panic(err)
			}
			e := &granaryv1.Event{
				Grain: fmt.Sprintf("account/%010d", next*7919%10_000), Type: "Charged", Time: timestamppb.New(timestamppb.Now().AsTime()),
				Payload: &granaryv1.Event_Protobuf{Protobuf: payload},
			}
			if !producer {
				e.Id, e.Source = fmt.Sprintf("tx-%09d", next), "bench"
			}
			req.Events = append(req.Events, e)
			next++
		}
		b, err := proto.Marshal(req)
		if err != nil {
			panic(err)
		}
		out = append(out, b)
	}
	return out
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// BenchmarkStream is all that the gateway does for a streamed batch between the transport and the shards, both ways. One
// op is one event.
func BenchmarkStream(b *testing.B) {
	for _, size := range []int{1, 10, 100, 1000} {
		for _, name := range []string{"ids", "producer"} {
			b.Run(fmt.Sprintf("events=%d/%s", size, name), func(b *testing.B) {
				g := New(Options{Catalog: catalog.Builtin(), Router: instant{routing.NewTable(64)}, Logger: quiet()})
				defer g.Stop(context.Background())
				s := &looped{messages: batchesOf(size, name == "producer"), last: uint64(b.N/size) + 1, producer: name == "producer"}
				b.ReportAllocs()
				b.ResetTimer()
				if err := g.publishStream(s); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// BenchmarkUnary is Publish of one event by gRPC over loopback, 64 callers, the client's share included. One op is one
// event.
func BenchmarkUnary(b *testing.B) {
	g := New(Options{Catalog: catalog.Builtin(), Router: instant{routing.NewTable(64)}, Logger: quiet()})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	defer func() {
		g.Stop(context.Background())
		if err := <-served; err != nil {
			b.Error(err)
		}
	}()
	var clients []granaryv1.EventServiceClient
	for range 4 {
		c, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		clients = append(clients, granaryv1.NewEventServiceClient(c))
	}
	var batch granaryv1.PublishStreamRequest
	if err := batch.UnmarshalVT(batchesOf(1, false)[0]); err != nil {
		b.Fatal(err)
	}
	message := &granaryv1.PublishRequest{Events: batch.Events}
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		client := clients[next.Add(1)%int64(len(clients))]
		for pb.Next() {
			if _, err := client.Publish(context.Background(), message); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
