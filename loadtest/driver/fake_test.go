package driver

import (
	"context"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/loadtest/transactions"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// fakeCluster folds what is published, in memory, and shows it as history. It is one shard.
type fakeCluster struct {
	granaryv1.UnimplementedEventServiceServer
	granaryv1.UnimplementedGrainServiceServer

	mu        sync.Mutex
	position  int
	histories map[string][]*granaryv1.HistoryRecord
	counts    map[string]uint64
	cents     map[string]int64
	watermark map[string]uint64
	batches   int

	breakEvery int           // breaks the stream after each so many batches, before the answer
	pause      time.Duration // how long one batch, the tenth, takes
	silent     bool          // answers nothing
	lose       bool          // forgets every hundredth event and acknowledges it
	negative   error         // answer to transactions of no cents
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{
		histories: map[string][]*granaryv1.HistoryRecord{}, counts: map[string]uint64{}, cents: map[string]int64{},
		watermark: map[string]uint64{},
	}
}

func (f *fakeCluster) PublishStream(stream granaryv1.EventService_PublishStreamServer) error {
	var producer string
	for {
		r, err := stream.Recv()
		if err != nil {
			return nil
		}
		if r.Producer != nil {
			producer = r.Producer.Id
		}
		f.mu.Lock()
		f.batches++
		if f.batches == 10 {
			time.Sleep(f.pause)
		}
		result := &granaryv1.BatchResult{Batch: r.Batch, Events: uint32(len(r.Events))}
		for i, e := range r.Events {
			f.take(result, i, e, producer, r.FirstSequence+uint64(i))
		}
		broken := f.breakEvery > 0 && f.batches%f.breakEvery == 0
		silent := f.silent
		f.mu.Unlock()
		if broken {
			return status.Error(codes.Unavailable, "broken")
		}
		if silent {
			continue
		}
		if stream.Send(&granaryv1.PublishStreamResponse{Floor: r.Batch, Batches: []*granaryv1.BatchResult{result}}) != nil {
			return nil
		}
	}
}

func (f *fakeCluster) take(result *granaryv1.BatchResult, i int, e *granaryv1.Event, producer string, sequence uint64) {
	if sequence <= f.watermark[producer] {
		result.Duplicates++
		return
	}
	f.watermark[producer] = sequence
	record := &granaryv1.HistoryRecord{
		Type: e.Type, Id: e.Id, Source: e.Source, Producer: producer, ProducerSequence: sequence,
		PayloadProtobuf: e.GetProtobuf(), Outcome: granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED,
	}
	var charged accountv1.Charged
	if err := proto.Unmarshal(e.GetProtobuf(), &charged); err != nil {
		panic(err)
	}
	if f.lose && sequence%100 == 0 {
		return
	}
	if f.negative != nil && charged.AmountCents == 0 {
		st := status.Convert(f.negative)
		x := &granaryv1.BatchException{Index: uint32(i), Result: &granaryv1.Result{Status: st.Proto()}}
		if st.Code() == codes.FailedPrecondition {
			record.Outcome = granaryv1.RecordOutcome_RECORD_OUTCOME_REJECTED
			f.record(e.Grain, record, 0)
			x.Result.Position, x.Result.Seq = record.Position, record.Seq
		}
		result.Exceptions = append(result.Exceptions, x)
		return
	}
	f.record(e.Grain, record, charged.AmountCents)
	payload, err := proto.Marshal(&merchantv1.Seen{TransactionId: charged.TransactionId, AmountCents: charged.AmountCents})
	if err != nil {
		panic(err)
	}
	f.record("merchant/"+charged.Merchant, &granaryv1.HistoryRecord{
		Type: "granary.merchant.v1.Seen", Sender: e.Grain, Cause: record.Position, PayloadProtobuf: payload,
		Outcome: granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED,
	}, charged.AmountCents)
}

func (f *fakeCluster) record(grain string, r *granaryv1.HistoryRecord, cents int64) {
	f.position++
	r.Position, r.Seq = strconv.Itoa(f.position), uint64(len(f.histories[grain])+1)
	f.histories[grain] = append(f.histories[grain], r)
	if r.Outcome == granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED {
		f.counts[grain]++
		f.cents[grain] += cents
	}
}

func (f *fakeCluster) Get(_ context.Context, r *granaryv1.GetRequest) (*granaryv1.GetResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Count and cents have the same numbers in both messages.
	state, err := anypb.New(&accountv1.Account{Count: f.counts[r.Grain], Cents: f.cents[r.Grain]})
	return &granaryv1.GetResponse{Seq: uint64(len(f.histories[r.Grain])), State: state}, err
}

func (f *fakeCluster) History(_ context.Context, r *granaryv1.HistoryRequest) (*granaryv1.HistoryResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &granaryv1.HistoryResponse{Records: f.histories[r.Grain]}, nil
}

func (f *fakeCluster) serve(t testing.TB) []grpc.ClientConnInterface {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	granaryv1.RegisterEventServiceServer(server, f)
	granaryv1.RegisterGrainServiceServer(server, f)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = server.Serve(listener)
	}()
	conn, err := client.Dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-stopped
	})
	return []grpc.ClientConnInterface{conn}
}

func rejection() error {
	st, err := status.New(codes.FailedPrecondition, "no").WithDetails(&errdetails.ErrorInfo{Reason: "REJECTED"})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

// list is a feed of given transactions, and an error at its end if there is one.
type list struct {
	transactions []transactions.Transaction
	err          error
}

func (l *list) Next() (transactions.Transaction, error) {
	if len(l.transactions) == 0 {
		return transactions.Transaction{}, l.err
	}
	t := l.transactions[0]
	l.transactions = l.transactions[1:]
	return t, nil
}

func generated(days int) transactions.Feed {
	return transactions.Plain(transactions.Generate(transactions.Parameters{Customers: 100, Terminals: 500, Days: days, Seed: 3}))
}

// count is how many events the feed has.
func count(feed transactions.Feed) (n uint64) {
	for {
		if _, err := feed.Next(); err != nil {
			return n
		}
		n++
	}
}
