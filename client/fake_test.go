package client

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakeServer keeps the published protocol with a few shards in memory, and fails as told: it breaks streams, refuses for
// a while, applies without telling.
type fakeServer struct {
	granaryv1.UnimplementedEventServiceServer

	mu        sync.Mutex
	random    *rand.Rand
	trouble   bool
	producers map[string]*fakeProducer
	applied   map[string][]string // ids by grain, in the order of folding
	batches   [][]int             // sizes of the batches of each stream
	refuse    map[string]error    // outcome of events with these ids
}

type fakeProducer struct {
	epoch     uint64
	watermark [fakeShards]uint64
	cursor    [fakeShards]uint64
	seen      [fakeShards]uint64 // epoch that the shard knows
}

const fakeShards = 4

func newFakeServer(seed uint64) *fakeServer {
	return &fakeServer{
		random: rand.New(rand.NewPCG(seed, 1)), producers: map[string]*fakeProducer{},
		applied: map[string][]string{}, refuse: map[string]error{},
	}
}

func (f *fakeServer) setTrouble(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trouble = on
}

// chance is true in one of n cases, while there is trouble.
func (f *fakeServer) chance(n int) bool { return f.trouble && f.random.IntN(n) == 0 }

func refusal(code codes.Code, reason string) *rpcstatus.Status {
	st := status.New(code, reason)
	if with, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "granary"}); err == nil {
		st = with
	}
	return st.Proto()
}

func (f *fakeServer) PublishStream(stream granaryv1.EventService_PublishStreamServer) error {
	var producer *fakeProducer
	var epoch, floor uint64
	var links [fakeShards]uint64
	f.mu.Lock()
	number := len(f.batches)
	f.batches = append(f.batches, nil)
	f.mu.Unlock()
	for {
		r, err := stream.Recv()
		if err != nil {
			return nil
		}
		f.mu.Lock()
		f.batches[number] = append(f.batches[number], len(r.Events))
		if r.Producer != nil {
			producer = f.producers[r.Producer.Id]
			if producer == nil {
				producer = &fakeProducer{}
				f.producers[r.Producer.Id] = producer
			}
			epoch = r.Producer.Epoch
			if epoch < producer.epoch {
				f.mu.Unlock()
				return status.ErrorProto(refusal(codes.FailedPrecondition, "PRODUCER_FENCED"))
			}
			producer.epoch = epoch
		}
		if f.chance(60) {
			f.mu.Unlock()
			return status.Error(codes.Unavailable, "broke before the batch")
		}
		result := f.apply(producer, epoch, &links, r)
		broken := f.chance(60)
		f.mu.Unlock()
		if broken {
			return status.Error(codes.Unavailable, "broke after the batch")
		}
		floor = r.Batch
		if err := stream.Send(&granaryv1.PublishStreamResponse{Floor: floor, Batches: []*granaryv1.BatchResult{result}}); err != nil {
			return nil
		}
	}
}

func shardOfGrain(grain string) int {
	h := fnv.New32a()
	h.Write([]byte(grain))
	return int(h.Sum32() % fakeShards)
}

func (f *fakeServer) apply(
	p *fakeProducer, epoch uint64, links *[fakeShards]uint64, r *granaryv1.PublishStreamRequest,
) *granaryv1.BatchResult {
	result := &granaryv1.BatchResult{Batch: r.Batch, Events: uint32(len(r.Events))}
	except := func(i int, st *rpcstatus.Status) {
		result.Exceptions = append(result.Exceptions, &granaryv1.BatchException{Index: uint32(i), Result: &granaryv1.Result{Status: st}})
	}
	var state [fakeShards]string // what happens to the batch's part for a shard, decided at its first event
	for i, e := range r.Events {
		if err := f.refuse[e.Id]; err != nil {
			except(i, status.Convert(err).Proto())
			continue
		}
		n, sequence := shardOfGrain(e.Grain), r.FirstSequence+uint64(i)
		link := links[n]
		links[n] = sequence
		if state[n] == "" {
			switch {
			case f.chance(40):
				state[n] = "lost"
			case epoch < p.seen[n]:
				state[n] = "fenced"
			case epoch > p.seen[n] && link != 0, epoch == p.seen[n] && link != p.cursor[n]:
				state[n] = "gap"
			case f.chance(40):
				state[n] = "untold"
			default:
				state[n] = "fine"
			}
		}
		switch state[n] {
		case "lost":
			except(i, refusal(codes.Unavailable, "NOT_LEADER"))
			continue
		case "gap":
			except(i, refusal(codes.FailedPrecondition, "PRODUCER_GAP"))
			continue
		case "fenced":
			except(i, refusal(codes.FailedPrecondition, "PRODUCER_FENCED"))
			continue
		case "untold":
			except(i, refusal(codes.Unavailable, "LEADERSHIP_LOST"))
		}
		p.seen[n], p.cursor[n] = epoch, sequence
		if sequence <= p.watermark[n] {
			result.Duplicates++
			continue
		}
		p.watermark[n] = sequence
		f.applied[e.Grain] = append(f.applied[e.Grain], e.Id)
	}
	return result
}

func (f *fakeServer) serve(t testing.TB) *grpc.ClientConn { return serve(t, f) }

// serve starts a server on a port of its own and returns a connection to it.
func serve(t testing.TB, f granaryv1.EventServiceServer) *grpc.ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	granaryv1.RegisterEventServiceServer(server, f)
	if g, ok := f.(granaryv1.GrainServiceServer); ok {
		granaryv1.RegisterGrainServiceServer(server, g)
	}
	if s, ok := f.(granaryv1.StreamServiceServer); ok {
		granaryv1.RegisterStreamServiceServer(server, s)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	}()
	conn, err := Dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-stopped
	})
	return conn
}

func grainEvent(grain, n int) *granaryv1.Event {
	return &granaryv1.Event{Grain: fmt.Sprintf("account/%d", grain), Type: "Charged", Id: fmt.Sprintf("%d/%d", grain, n)}
}

// eventually waits for something that another goroutine does.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
