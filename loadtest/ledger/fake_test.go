package ledger

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/granary-dev/granary/loadtest/transactions"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// fakeGrains is a cluster's memory, which tests can falsify before it is read.
type fakeGrains struct {
	granaryv1.UnimplementedGrainServiceServer

	mu        sync.Mutex
	position  int
	histories map[string][]*granaryv1.HistoryRecord
	states    map[string]proto.Message
	// late are grains whose last record shows only from the second look on.
	late map[string]bool
	// cut is the grain whose last record never shows.
	cut string
	// grows is the grain that gets a record before its state is read, and one behind that.
	grows string
}

func newFakeGrains() *fakeGrains {
	return &fakeGrains{
		histories: map[string][]*granaryv1.HistoryRecord{}, states: map[string]proto.Message{}, late: map[string]bool{},
	}
}

func (f *fakeGrains) record(grain string, r *granaryv1.HistoryRecord) *granaryv1.HistoryRecord {
	f.position++
	r.Seq = uint64(len(f.histories[grain]) + 1)
	r.Position = fmt.Sprintf("p%d", f.position)
	f.histories[grain] = append(f.histories[grain], r)
	return r
}

// fold does with a happening what the cluster is to do.
func (f *fakeGrains) fold(source, producer string, sequence uint64, h transactions.Happening) {
	e := transactions.Events(source, []transactions.Happening{h})[0]
	r := f.record(e.Grain, &granaryv1.HistoryRecord{
		Type: e.Type, Id: e.Id, Source: source, Producer: producer, ProducerSequence: sequence,
		PayloadProtobuf: e.GetProtobuf(), Outcome: granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED,
	})
	state, _ := f.states[e.Grain].(*accountv1.Account)
	if state == nil {
		state = &accountv1.Account{}
		f.states[e.Grain] = state
	}
	if h.Label {
		state.LabelledCount++
		return
	}
	state.Count++
	state.Cents += h.Transaction.Cents
	f.pass(h.Transaction, r.Position)
}

func (f *fakeGrains) pass(t transactions.Transaction, cause string) {
	merchant := t.Merchant()
	payload, err := proto.Marshal(&merchantv1.Seen{
		TransactionId: strconv.FormatUint(t.ID, 10), Account: strconv.Itoa(int(t.Customer)), AmountCents: t.Cents,
	})
	if err != nil {
		panic(err)
	}
	f.record(merchant, &granaryv1.HistoryRecord{
		Type: seenType, Sender: t.Account(), Cause: cause, Hops: 1, PayloadProtobuf: payload,
		Outcome: granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED,
	})
	state, _ := f.states[merchant].(*merchantv1.Merchant)
	if state == nil {
		state = &merchantv1.Merchant{}
		f.states[merchant] = state
	}
	state.Count++
	state.Cents += t.Cents
}

func (f *fakeGrains) Get(_ context.Context, r *granaryv1.GetRequest) (*granaryv1.GetResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.states[r.Grain]
	if state == nil {
		return &granaryv1.GetResponse{Grain: r.Grain}, nil
	}
	packed, err := anypb.New(state)
	if err != nil {
		return nil, err
	}
	seq := uint64(len(f.histories[r.Grain]))
	if f.grows == r.Grain {
		seq--
	}
	return &granaryv1.GetResponse{Grain: r.Grain, Seq: seq, State: packed}, nil
}

// smallPages so that tests read several.
const smallPages = 7

func (f *fakeGrains) History(_ context.Context, r *granaryv1.HistoryRequest) (*granaryv1.HistoryResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.histories[r.Grain]
	if f.grows == r.Grain && r.FromSeq <= 1 {
		all = all[:len(all)-2]
	}
	if f.cut == r.Grain {
		all = all[:len(all)-1]
	}
	if f.late[r.Grain] {
		delete(f.late, r.Grain)
		all = all[:len(all)-1]
	}
	from, _ := strconv.Atoi(r.PageToken)
	from = max(from, int(r.FromSeq)-1)
	to := min(len(all), from+smallPages)
	page := &granaryv1.HistoryResponse{Records: all[from:to]}
	if to < len(all) {
		page.NextPageToken = strconv.Itoa(to)
	}
	return page, nil
}

func (f *fakeGrains) serve(t *testing.T) *grpc.ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	granaryv1.RegisterGrainServiceServer(server, f)
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
	})
	return conn
}

// renumber makes the records of a grain dense again after some were taken away, added or moved.
func (f *fakeGrains) renumber(grain string) {
	for i, r := range f.histories[grain] {
		clone := proto.Clone(r).(*granaryv1.HistoryRecord)
		clone.Seq = uint64(i + 1)
		f.histories[grain][i] = clone
	}
}

func (f *fakeGrains) remove(grain string, i int) *granaryv1.HistoryRecord {
	r := f.histories[grain][i]
	f.histories[grain] = slices.Delete(f.histories[grain], i, i+1)
	f.renumber(grain)
	return r
}

func (f *fakeGrains) insert(grain string, i int, r *granaryv1.HistoryRecord) {
	f.histories[grain] = slices.Insert(f.histories[grain], i, r)
	f.renumber(grain)
}

// happenings of a small world: account 1 pays at merchants 10 and 11, account 2 at 10.
func happenings() []transactions.Happening {
	at := time.Date(2018, 4, 1, 0, 0, 0, 0, time.UTC)
	var all []transactions.Happening
	for n := range 20 {
		t := transactions.Transaction{
			ID: uint64(n), Time: at.Add(time.Duration(n) * time.Hour), Customer: uint32(1 + n%2), Terminal: 10,
			Cents: int64(100 + n), Fraud: n == 4,
		}
		if n%4 == 0 {
			t.Terminal = 11
		}
		all = append(all, transactions.Happening{Transaction: t, At: t.Time})
	}
	fraud := all[4].Transaction
	return append(all, transactions.Happening{Transaction: fraud, Label: true, At: fraud.Time.Add(transactions.LabelDelay)})
}
