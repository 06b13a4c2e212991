package commands

import (
	"context"
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// fakeNode answers as a node would, from memory. What an event is called decides what becomes of it: "reject…" is
// refused by its grain, "busy…" at its first try, and an id that was seen is a duplicate.
type fakeNode struct {
	granaryv1.UnimplementedEventServiceServer
	granaryv1.UnimplementedGrainServiceServer

	t       *testing.T
	server  *grpc.Server
	address string

	mu     sync.Mutex
	mode   string
	seen   map[string]bool
	grains map[string][]*granaryv1.HistoryRecord
	calls  []int // events in each Publish
}

func startFake(t *testing.T) *fakeNode {
	f := &fakeNode{t: t, address: "127.0.0.1:0", seen: map[string]bool{}, grains: map[string][]*granaryv1.HistoryRecord{}}
	f.start()
	t.Cleanup(func() { f.server.Stop() })
	return f
}

// start listens, at the same address as before if it was stopped.
func (f *fakeNode) start() {
	listener, err := net.Listen("tcp", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.address = listener.Addr().String()
	f.server = grpc.NewServer(grpc.UnaryInterceptor(f.intercept))
	granaryv1.RegisterEventServiceServer(f.server, f)
	granaryv1.RegisterGrainServiceServer(f.server, f)
	granaryv1.RegisterKindServiceServer(f.server, fakeKinds{})
	granaryv1.RegisterStreamServiceServer(f.server, fakeStreams{f: f})
	granaryv1.RegisterDeadLetterServiceServer(f.server, &fakeLetters{node: f, settled: map[string]*granaryv1.DeadLetterServiceGetResponse{}})
	go func(s *grpc.Server) { _ = s.Serve(listener) }(f.server)
}

func (f *fakeNode) setMode(mode string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode = mode
}

// intercept plays what befalls a whole node.
func (f *fakeNode) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	f.mu.Lock()
	mode := f.mode
	if mode == "draining once" {
		f.mode = ""
	}
	f.mu.Unlock()
	switch mode {
	case "draining", "draining once":
		return nil, refusal(codes.Unavailable, "DRAINING", "the node is stopping", nil,
			&errdetails.RetryInfo{RetryDelay: durationpb.New(20 * time.Millisecond)})
	case "slow":
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	case "old":
		return nil, status.Error(codes.Unimplemented, "unknown service granary.v1")
	case "corrupt":
		return nil, refusal(codes.DataLoss, "CORRUPT_ENTRY", "shard 3 index 17: corrupt: frame CRC is 00000001, stored is 00000002", map[string]string{"index": "17", "shard": "3"})
	case "evil":
		return nil, refusal(codes.InvalidArgument, "EVIL", "\x1b[2Jlook away\u202e", nil)
	case "short":
		return &granaryv1.PublishResponse{}, nil
	}
	return handler(ctx, req)
}

func refusal(code codes.Code, reason, message string, values map[string]string, more ...protoadapt.MessageV1) error {
	st, err := status.New(code, message).WithDetails(append([]protoadapt.MessageV1{
		&errdetails.ErrorInfo{Reason: reason, Domain: "granary.dev", Metadata: values},
	}, more...)...)
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func (f *fakeNode) Publish(_ context.Context, req *granaryv1.PublishRequest) (*granaryv1.PublishResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, len(req.GetEvents()))
	out := &granaryv1.PublishResponse{}
	for _, e := range req.GetEvents() {
		out.Results = append(out.Results, f.take(e))
	}
	return out, nil
}

func (f *fakeNode) Ask(_ context.Context, req *granaryv1.AskRequest) (*granaryv1.AskResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.HasPrefix(req.GetEvent().GetId(), "late") {
		return nil, refusal(codes.DeadlineExceeded, "DEADLINE_EXCEEDED", "there is no reply after "+req.GetWait().AsDuration().String()+"; the event is journaled", map[string]string{"position": "p", "seq": "1"})
	}
	r := f.take(req.GetEvent())
	if r.GetStatus() != nil {
		return nil, status.ErrorProto(r.GetStatus())
	}
	out := &granaryv1.AskResponse{Result: r}
	if strings.HasPrefix(req.GetEvent().GetId(), "silent") {
		return out, nil
	}
	out.Json, _ = structpb.NewStruct(map[string]any{"approved": true, "asked": req.GetEvent().GetJson().AsMap()})
	out.Reply, _ = anypb.New(&emptypb.Empty{})
	return out, nil
}

func (f *fakeNode) Query(_ context.Context, req *granaryv1.QueryRequest) (*granaryv1.QueryResponse, error) {
	if req.GetType() != "Profile" {
		return nil, refusal(codes.NotFound, "UNKNOWN_QUERY", fmt.Sprintf("kind \"account\" has no query %q", req.GetType()), map[string]string{"queries": "Profile"})
	}
	if req.GetAtSeq() > 2 {
		return nil, refusal(codes.OutOfRange, "SEQ_OUT_OF_RANGE", "the grain has 2 records", nil)
	}
	out := &granaryv1.QueryResponse{Grain: req.GetGrain(), LogicVersion: 3}
	out.Json, _ = structpb.NewStruct(map[string]any{"asked": req.GetJson().AsMap(), "stale": req.GetStale(), "atSeq": req.GetAtSeq(), "at": req.GetAtTime().AsTime().Format(time.RFC3339)})
	out.Reply, _ = anypb.New(&emptypb.Empty{})
	return out, nil
}

func (f *fakeNode) take(e *granaryv1.Event) *granaryv1.Result {
	refused := func(err error) *granaryv1.Result {
		return &granaryv1.Result{Status: status.Convert(err).Proto(), Deduplicated: true}
	}
	first := !f.seen[e.GetId()]
	f.seen[e.GetId()] = true
	switch {
	case strings.HasPrefix(e.GetId(), "reject"):
		f.record(e, granaryv1.RecordOutcome_RECORD_OUTCOME_REJECTED, "amount must be positive")
		return refused(refusal(codes.FailedPrecondition, "REJECTED", "amount must be positive", nil))
	case strings.HasPrefix(e.GetId(), "die"):
		f.record(e, deadOutcome, "the handler panicked: as told")
		return refused(refusal(codes.Internal, "DEAD_LETTERED", "the event was dead-lettered, its turn failed: the handler panicked: as told", nil))
	case strings.HasPrefix(e.GetId(), "unknown"):
		return refused(refusal(codes.NotFound, "UNKNOWN_KIND", "there is no kind of this name", map[string]string{"kind": e.GetGrain()}))
	case strings.HasPrefix(e.GetId(), "busy") && first, strings.HasPrefix(e.GetId(), "stuck"):
		return refused(refusal(codes.ResourceExhausted, "SHARD_BUSY", "the shard is busy", nil,
			&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)}))
	case !first && !strings.HasPrefix(e.GetId(), "busy"):
		return &granaryv1.Result{Position: "p", Seq: 1, Duplicate: true, Deduplicated: true}
	}
	return &granaryv1.Result{Position: "p", Seq: f.record(e, granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED, ""), Deduplicated: true}
}

func (f *fakeNode) record(e *granaryv1.Event, outcome granaryv1.RecordOutcome, reason string) uint64 {
	seq := uint64(len(f.grains[e.GetGrain()]) + 1)
	r := &granaryv1.HistoryRecord{
		Seq: seq, Position: fmt.Sprintf("pos-%d", seq), Time: fakeTime(seq), EventTime: e.GetTime(),
		Type: "granary.account.v1." + lastPart(e.GetType()), Id: e.GetId(), Source: e.GetSource(), Headers: e.GetHeaders(),
		Outcome: outcome, Reason: reason, Payload: e.GetJson(), LogicVersion: 3,
	}
	if merchant := e.GetJson().GetFields()["merchant"].GetStringValue(); merchant != "" && reason == "" {
		r.Effects = []*granaryv1.HistoryEffect{{Effect: &granaryv1.HistoryEffect_Send{Send: &granaryv1.SendEffect{
			Grain: "merchant/" + merchant, Type: "granary.merchant.v1.Seen",
		}}}}
	}
	f.grains[e.GetGrain()] = append(f.grains[e.GetGrain()], r)
	return seq
}

// fakeTime is a journal time that is the same at every run of a test.
func fakeTime(seq uint64) *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 3, 1, 12, 0, int(seq), 250_000, time.UTC))
}

func (f *fakeNode) Get(_ context.Context, req *granaryv1.GetRequest) (*granaryv1.GetResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch kind, key, _ := cutGrain(req.GetGrain()); {
	case kind == "user" && key == "2": // rated before
		return &granaryv1.GetResponse{Grain: req.GetGrain(), Seq: 3}, nil
	case kind == "user":
		return &granaryv1.GetResponse{Grain: req.GetGrain()}, nil
	case kind != "account":
		return nil, refusal(codes.NotFound, "UNKNOWN_KIND", fmt.Sprintf("there is no kind %q", kind), map[string]string{"kind": kind})
	}
	records := f.grains[req.GetGrain()]
	switch at := req.GetAt().(type) {
	case *granaryv1.GetRequest_AtSeq:
		if at.AtSeq > uint64(len(records)) {
			return nil, refusal(codes.OutOfRange, "BEYOND_END", fmt.Sprintf("the grain has %d records", len(records)),
				map[string]string{"last_seq": fmt.Sprint(len(records))},
				&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "at_seq", Description: "must not be beyond the last record"}}})
		}
		records = records[:at.AtSeq]
	case *granaryv1.GetRequest_AtTime:
		n := sort.Search(len(records), func(i int) bool { return records[i].GetTime().AsTime().After(at.AtTime.AsTime()) })
		records = records[:n]
	}
	state, err := structpb.NewStruct(map[string]any{"count": fmt.Sprint(len(records)), "note": "a<b \u009b", "recent": recent(records)})
	if err != nil {
		return nil, err
	}
	anything, err := anypb.New(&emptypb.Empty{})
	if err != nil {
		return nil, err
	}
	out := &granaryv1.GetResponse{Grain: req.GetGrain(), State: anything, Json: state}
	if n := len(records); n > 0 {
		out.Seq, out.Position, out.Time, out.LogicVersion = uint64(n), records[n-1].GetPosition(), records[n-1].GetTime(), 3
	}
	return out, nil
}

// recent is a list in the state: the ids of the last two records that were folded.
func recent(records []*granaryv1.HistoryRecord) []any {
	ids := []any{}
	for _, r := range records {
		if r.GetOutcome() == granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED && strings.HasPrefix(r.GetId(), "diff") {
			ids = append(ids[max(0, len(ids)-1):], r.GetId())
		}
	}
	return ids
}

// page cuts a page out of n things. A token is the number of the next.
func page(n int, size uint32, token string) (from, to int, next string) {
	from, _ = strconv.Atoi(token) // no token is no number: from the first
	if to = from + int(size); to < n {
		return from, to, fmt.Sprint(to)
	}
	return from, n, ""
}

// ListReminders: each account has two for each of its records, of which the second repeats.
func (f *fakeNode) ListReminders(_ context.Context, req *granaryv1.ListRemindersRequest) (*granaryv1.ListRemindersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.GetKind() != "account" {
		return nil, refusal(codes.NotFound, "UNKNOWN_KIND", fmt.Sprintf("there is no kind %q", req.GetKind()), map[string]string{"kind": req.GetKind()})
	}
	var names []string
	for name := range f.grains {
		if _, key, _ := cutGrain(name); strings.HasPrefix(key, req.GetPrefix()) && (req.GetKey() == "" || req.GetKey() == key) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var all []*granaryv1.Reminder
	for _, name := range names {
		payload, err := structpb.NewStruct(map[string]any{"of": name})
		if err != nil {
			return nil, err
		}
		all = append(all, &granaryv1.Reminder{Grain: name, Id: 1024, Due: fakeTime(9), Type: "granary.account.v1.CooledDown", Payload: payload},
			&granaryv1.Reminder{Grain: name, Id: 1025, Due: fakeTime(10), Every: durationpb.New(90 * time.Second), Type: "granary.account.v1.Aged"})
	}
	from, to, next := page(len(all), min(req.GetPageSize(), 3), req.GetPageToken())
	return &granaryv1.ListRemindersResponse{Reminders: all[from:to], NextPageToken: next}, nil
}

func (f *fakeNode) History(_ context.Context, req *granaryv1.HistoryRequest) (*granaryv1.HistoryResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var records []*granaryv1.HistoryRecord
	for _, r := range f.grains[req.GetGrain()] {
		if from := req.GetFromSeq(); from == 0 || req.GetNewestFirst() == (r.GetSeq() <= from) || r.GetSeq() == from {
			records = append(records, r)
		}
	}
	if req.GetNewestFirst() {
		sort.Slice(records, func(i, j int) bool { return records[i].GetSeq() > records[j].GetSeq() })
	}
	from, to, next := page(len(records), min(req.GetPageSize(), 2), req.GetPageToken())
	return &granaryv1.HistoryResponse{Records: records[from:to], NextPageToken: next}, nil
}

func (f *fakeNode) List(_ context.Context, req *granaryv1.ListRequest) (*granaryv1.ListResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name := range f.grains {
		if strings.HasPrefix(name, req.GetKind()+"/"+req.GetPrefix()) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	from, to, next := page(len(names), min(req.GetPageSize(), 2), req.GetPageToken())
	out := &granaryv1.ListResponse{NextPageToken: next}
	for _, name := range names[from:to] {
		n := len(f.grains[name])
		out.Grains = append(out.Grains, &granaryv1.GrainSummary{Grain: name, Seq: uint64(n), Time: f.grains[name][n-1].GetTime()})
	}
	return out, nil
}

// fakeKinds is the KindService, apart from the node because both it and the GrainService have a List.
type fakeKinds struct {
	granaryv1.UnimplementedKindServiceServer
}

func fakeKindList() []*granaryv1.Kind {
	return []*granaryv1.Kind{
		{
			Name: "account", Version: 3, EarlierVersions: []uint32{1, 2}, Description: "one card and what it usually does", State: "granary.account.v1.Account",
			IdWindow: durationpb.New(24 * time.Hour),
			Events: []*granaryv1.EventType{
				{
					Name: "granary.account.v1.Charged", Example: `{"amountCents":"1250","merchant":"it's"}`,
					Fields: []*granaryv1.Field{{Name: "amountCents", Type: "int64"}, {Name: "merchant", Type: "string"}},
				},
				{Name: "granary.account.v1.Labelled", Fields: []*granaryv1.Field{{Name: "fraud", Type: "bool"}}},
			},
			Queries: []*granaryv1.QueryType{{Name: "granary.account.v1.Profile", Reply: "granary.account.v1.ProfileReply", Example: `{"merchant":"m"}`,
				Fields: []*granaryv1.Field{{Name: "merchant", Type: "string"}}}},
			Streams: []string{"fraud.alerts"},
		},
		{Name: "merchant", Version: 1, Description: "who is paid", State: "granary.merchant.v1.Merchant", IdWindow: durationpb.New(time.Hour)},
	}
}

func (fakeKinds) List(context.Context, *granaryv1.KindServiceListRequest) (*granaryv1.KindServiceListResponse, error) {
	return &granaryv1.KindServiceListResponse{Kinds: fakeKindList()}, nil
}

func (fakeKinds) Describe(_ context.Context, req *granaryv1.DescribeRequest) (*granaryv1.DescribeResponse, error) {
	for _, k := range fakeKindList() {
		if k.GetName() == req.GetKind() {
			return &granaryv1.DescribeResponse{Kind: k}, nil
		}
	}
	return nil, refusal(codes.NotFound, "UNKNOWN_KIND", fmt.Sprintf("there is no kind %q", req.GetKind()), map[string]string{"kind": req.GetKind()})
}
