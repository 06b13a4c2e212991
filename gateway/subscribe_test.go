package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/entry"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// journals is a router whose shards have journals of data entries, and take no events: the test appends.
type journals struct {
	*memory
	mu      sync.Mutex
	shards  []*journal
	read    atomic.Int64   // entries that were read
	damaged uint64         // index that cannot be read; 0: none
	absent  bool           // no shard has a leader
	refuses actors.Outcome // of shard 3
}

type journal struct {
	entries [][]byte
	waiting []*actors.Read
}

func newJournals(n int) *journals {
	j := &journals{memory: newMemory(n)}
	for range n {
		j.shards = append(j.shards, &journal{entries: [][]byte{nil}})
	}
	return j
}

// append commits an entry of some records.
func (j *journals) append(shard uint64, records ...entry.Record) {
	j.mu.Lock()
	s := j.shards[shard-1]
	index := uint64(len(s.entries)) + 1
	h := entry.Header{Lineage: shard, Term: 1, Index: index, Previous: index - 1}
	if index == 2 {
		h.Previous = 0
	}
	var b entry.Builder
	b.Reset(1)
	for _, r := range records {
		r.Time = 1
		b.Append(&r)
	}
	s.entries = append(s.entries, b.Close(h))
	waiting := s.waiting
	s.waiting = nil
	j.mu.Unlock()
	for _, r := range waiting {
		j.tell(shard, r)
	}
}

// tell answers a tail with what is committed now.
func (j *journals) tell(shard uint64, r *actors.Read) {
	j.mu.Lock()
	n := uint64(len(j.shards[shard-1].entries))
	j.mu.Unlock()
	if r.Tail.Place = (routing.Place{Lineage: shard, Index: n, Data: n}); n == 1 {
		r.Tail.Place.Data = 0
	}
	r.Done(r)
}

func (j *journals) Read(shard uint64, r *actors.Read) error {
	if r.Tail == nil {
		return j.memory.Read(shard, r)
	}
	j.mu.Lock()
	s := j.shards[shard-1]
	switch {
	case j.absent:
		j.mu.Unlock()
		r.Failed, r.Why = actors.Unavailable, "no leader"
		r.Done(r)
	case j.refuses != actors.Folded && shard == 3:
		j.mu.Unlock()
		r.Failed, r.Why = j.refuses, "shard 3 says why"
		r.Done(r)
	case uint64(len(s.entries)) > r.Tail.After:
		j.mu.Unlock()
		j.tell(shard, r)
	default:
		s.waiting = append(s.waiting, r)
		j.mu.Unlock()
	}
	return nil
}

func (j *journals) GiveUpRead(shard uint64, r *actors.Read) {
	j.mu.Lock()
	s := j.shards[shard-1]
	i := slices.Index(s.waiting, r)
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	j.mu.Unlock()
	if i >= 0 {
		r.Failed = actors.Unavailable
		r.Done(r)
	}
}

func (j *journals) waiting() (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.shards {
		n += len(s.waiting)
	}
	return n
}

// lose lets all shards lose their leader, and find is the end of that.
func (j *journals) lose() {
	j.mu.Lock()
	j.absent = true
	var lost []*actors.Read
	for _, s := range j.shards {
		lost = append(lost, s.waiting...)
		s.waiting = nil
	}
	j.mu.Unlock()
	for _, r := range lost {
		r.Failed, r.Why = actors.Unavailable, "lost"
		r.Done(r)
	}
}

func (j *journals) find() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.absent = false
}

func (j *journals) Entries(ctx context.Context, shard uint64, after routing.Place, upto uint64, maxBytes int) (entries []*entry.Reader, behind routing.Place, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if upto > uint64(len(j.shards[shard-1].entries)) {
		panic("beyond what is committed")
	}
	for after.Index < upto && maxBytes > 0 {
		index := after.Index + 1
		if index == j.damaged {
			return entries, after, &routing.EntryError{Shard: shard, Index: index, Err: entry.ErrCorrupt}
		}
		after.Index = index
		data := j.shards[shard-1].entries[index-1]
		if data == nil {
			continue
		}
		r, err := entry.Open(data)
		if err != nil {
			panic(err)
		}
		maxBytes -= len(data)
		j.read.Add(1)
		entries, after.Data = append(entries, r), index
	}
	return entries, after, ctx.Err()
}

// alarms is a kind that names streams.
var alarms = grains.Kind[*accountv1.Account]{
	Name: "alarm", Version: 1, Streams: []string{"bells", "sirens"},
	Handlers: grains.Handlers[*accountv1.Account]{
		grains.On(func(*grains.Turn, *accountv1.Account, *accountv1.Labelled) error { return nil }),
	},
}

func rung(key string, seq uint64, ids ...string) entry.Record {
	r := entry.Record{Type: entry.Input, Kind: "alarm", Key: []byte(key), Seq: seq, Event: "granary.account.v1.Labelled", Logic: 1}
	for _, id := range ids {
		payload, err := (&accountv1.Charged{TransactionId: id}).MarshalVT()
		if err != nil {
			panic(err)
		}
		r.Effects = append(r.Effects, entry.Effect{Type: entry.Publish, Stream: "bells", Event: "granary.account.v1.Charged", Payload: payload})
	}
	r.Digest = r.OutcomeDigest()
	return r
}

func startJournals(t testing.TB, change ...func(*gateway.Options)) (*node, *journals, granaryv1.StreamServiceClient) {
	j := newJournals(4)
	n := start(t, append([]func(*gateway.Options){func(o *gateway.Options) {
		c, err := grains.NewCatalog(boxes.MustDefine(), shelves.MustDefine(), alarms.MustDefine())
		if err != nil {
			t.Fatal(err)
		}
		o.Catalog, o.Router = c, j
	}}, change...)...)
	return n, j, granaryv1.NewStreamServiceClient(n.conn)
}

func bells(from granaryv1.SubscribeStart) *granaryv1.SubscribeRequest {
	return &granaryv1.SubscribeRequest{Source: &granaryv1.SubscribeRequest_Stream{Stream: "bells"}, From: &granaryv1.SubscribeRequest_Start{Start: from}}
}

const (
	beginning = granaryv1.SubscribeStart_SUBSCRIBE_START_BEGINNING
	fromNow   = granaryv1.SubscribeStart_SUBSCRIBE_START_NOW
)

// next receives until there is something: items, or the first response.
func next(t testing.TB, call grpc.ServerStreamingClient[granaryv1.SubscribeResponse]) *granaryv1.SubscribeResponse {
	t.Helper()
	r, err := call.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ids(r *granaryv1.SubscribeResponse) (out []string) {
	for _, i := range r.Items {
		out = append(out, i.GetMessage().GetPayload().GetFields()["transactionId"].GetStringValue())
	}
	return out
}

func TestListStreams(t *testing.T) {
	n, _, streams := startJournals(t)
	got, err := streams.List(t.Context(), &granaryv1.StreamServiceListRequest{})
	if err != nil || len(got.Streams) != 2 || got.Streams[0].Name != "bells" || got.Streams[1].Kinds[0] != "alarm" {
		t.Errorf("%v %v", got, err)
	}
	web := &granaryv1.StreamServiceListResponse{}
	if f := n.post(t, "/granary.v1.StreamService/List", "{}", web); f.code != codes.OK || len(web.Streams) != 2 {
		t.Errorf("%+v %v", f, web)
	}
	if f := n.post(t, "/granary.v1.StreamService/Subscribe", `{"stream": "bells"}`, nil); f.code != codes.Unimplemented || f.reason != answer.StreamNeedsHTTP2 {
		t.Errorf("%+v", f)
	}
}

// TestSubscribe sees what was, what comes, and what a turn published besides, in every form.
func TestSubscribe(t *testing.T) {
	_, j, streams := startJournals(t)
	j.append(1, rung("a", 1, "x", "y"), entry.Record{Type: entry.Void, Kind: "box", Key: []byte("b"), Seq: 1, Event: "granary.account.v1.Charged", Reason: []byte("no")})
	old, err := streams.Subscribe(t.Context(), bells(beginning))
	if err != nil {
		t.Fatal(err)
	}
	late, err := streams.Subscribe(t.Context(), bells(fromNow))
	if err != nil {
		t.Fatal(err)
	}
	if r := next(t, old); len(r.Items) > 0 || r.Live || r.Position == "" {
		t.Fatal(r)
	}
	if r := next(t, late); len(r.Items) > 0 || !r.Live || r.Position == "" {
		t.Fatal(r)
	}
	r := next(t, old)
	if !slices.Equal(ids(r), []string{"x", "y"}) || !r.Live {
		t.Fatal(r)
	}
	m := r.Items[1].GetMessage()
	if r.Items[1].Grain != "alarm/a" || m.Stream != "bells" || m.Seq != 1 || m.Effect != 1 || m.Type != "granary.account.v1.Charged" ||
		len(m.PayloadProtobuf) == 0 || m.Position != answer.Position(entry.Position{Lineage: 1, Index: 2}) || m.Time.AsTime().UnixMicro() != 1 {
		t.Error(m)
	}
	j.append(3, rung("c", 1, "z"))
	for _, call := range []grpc.ServerStreamingClient[granaryv1.SubscribeResponse]{old, late} {
		if r := next(t, call); !slices.Equal(ids(r), []string{"z"}) || !r.Live {
			t.Fatal(r)
		}
	}
	// the records of a kind, until there are no more
	req := &granaryv1.SubscribeRequest{Source: &granaryv1.SubscribeRequest_Kind{Kind: "box"}, From: &granaryv1.SubscribeRequest_Start{Start: beginning},
		UntilLive: true, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF}
	whole, err := streams.Subscribe(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	next(t, whole)
	if r := next(t, whole); len(r.Items) != 1 || r.Items[0].Grain != "box/b" || r.Items[0].GetRecord().Reason != "no" || !r.Live ||
		r.Items[0].GetRecord().Outcome != granaryv1.RecordOutcome_RECORD_OUTCOME_REJECTED {
		t.Fatal(r)
	}
	if r, err := whole.Recv(); !errors.Is(err, io.EOF) {
		t.Error(r, err)
	}
}

// TestSubscribeRefusals: each bad request gets its precise refusal.
func TestSubscribeRefusals(t *testing.T) {
	_, j, streams := startJournals(t)
	j.append(1, rung("a", 1, "x"))
	change := func(f func(*granaryv1.SubscribeRequest)) *granaryv1.SubscribeRequest {
		r := bells(beginning)
		f(r)
		return r
	}
	kind := func(f func(*granaryv1.SubscribeRequest)) *granaryv1.SubscribeRequest {
		return change(func(r *granaryv1.SubscribeRequest) {
			r.Source = &granaryv1.SubscribeRequest_Kind{Kind: "box"}
			f(r)
		})
	}
	for name, c := range map[string]struct {
		req    *granaryv1.SubscribeRequest
		code   codes.Code
		reason string
		field  string
	}{
		"no source":       {&granaryv1.SubscribeRequest{}, codes.InvalidArgument, answer.InvalidSubscription, "source"},
		"unknown stream":  {change(func(r *granaryv1.SubscribeRequest) { r.Source = &granaryv1.SubscribeRequest_Stream{Stream: "horns"} }), codes.NotFound, answer.UnknownStream, "stream"},
		"no stream":       {change(func(r *granaryv1.SubscribeRequest) { r.Source = &granaryv1.SubscribeRequest_Stream{} }), codes.NotFound, answer.UnknownStream, "stream"},
		"unknown kind":    {change(func(r *granaryv1.SubscribeRequest) { r.Source = &granaryv1.SubscribeRequest_Kind{Kind: "crate"} }), codes.NotFound, answer.UnknownKind, "kind"},
		"format":          {change(func(r *granaryv1.SubscribeRequest) { r.Format = 9 }), codes.InvalidArgument, answer.InvalidFormat, "format"},
		"start":           {bells(9), codes.InvalidArgument, answer.InvalidSubscription, "start"},
		"prefix":          {change(func(r *granaryv1.SubscribeRequest) { r.KeyPrefix = "a\x00" }), codes.InvalidArgument, answer.InvalidPrefix, "key_prefix"},
		"long prefix":     {change(func(r *granaryv1.SubscribeRequest) { r.KeyPrefix = strings.Repeat("a", 600) }), codes.InvalidArgument, answer.InvalidPrefix, "key_prefix"},
		"no type":         {kind(func(r *granaryv1.SubscribeRequest) { r.Types = []string{"Charged", "a b"} }), codes.InvalidArgument, answer.InvalidType, "types"},
		"empty type":      {kind(func(r *granaryv1.SubscribeRequest) { r.Types = []string{""} }), codes.InvalidArgument, answer.InvalidType, "types"},
		"many types":      {kind(func(r *granaryv1.SubscribeRequest) { r.Types = make([]string, 65) }), codes.InvalidArgument, answer.InvalidType, "types"},
		"unknown type":    {kind(func(r *granaryv1.SubscribeRequest) { r.Types = []string{"Seen"} }), codes.NotFound, answer.UnknownEventType, "types"},
		"unknown message": {change(func(r *granaryv1.SubscribeRequest) { r.Types = []string{"granary.v1.Nothing"} }), codes.NotFound, answer.UnknownEventType, "types"},
		"empty position":  {change(func(r *granaryv1.SubscribeRequest) { r.From = &granaryv1.SubscribeRequest_Position{} }), codes.InvalidArgument, answer.InvalidPosition, "position"},
		"bad position":    {change(func(r *granaryv1.SubscribeRequest) { r.From = &granaryv1.SubscribeRequest_Position{Position: "AAAA"} }), codes.InvalidArgument, answer.InvalidPosition, "position"},
	} {
		call, err := streams.Subscribe(t.Context(), c.req)
		if err == nil {
			_, err = call.Recv()
		}
		if f := grpcFailure(err); f.code != c.code || f.reason != c.reason || f.violations[c.field] == "" {
			t.Errorf("%s: %+v", name, f)
		}
		if c.reason == answer.UnknownStream && grpcFailure(err).metadata["streams"] != "bells,sirens" {
			t.Errorf("%s: %+v", name, grpcFailure(err))
		}
	}
	for _, types := range [][]string{{"Charged"}, {"granary.account.v1.Charged", "Labelled"}} { // Labelled is of an earlier version
		call, err := streams.Subscribe(t.Context(), kind(func(r *granaryv1.SubscribeRequest) { r.Types = types }))
		if err != nil {
			t.Fatal(err)
		}
		next(t, call)
	}
	// from the future
	call, err := streams.Subscribe(t.Context(), bells(fromNow))
	if err != nil {
		t.Fatal(err)
	}
	position := next(t, call).Position
	j.mu.Lock()
	j.shards[0].entries = j.shards[0].entries[:1]
	j.mu.Unlock()
	call, err = streams.Subscribe(t.Context(), change(func(r *granaryv1.SubscribeRequest) { r.From = &granaryv1.SubscribeRequest_Position{Position: position} }))
	if err == nil {
		_, err = call.Recv()
	}
	if f := grpcFailure(err); f.code != codes.OutOfRange || f.reason != answer.PositionOutOfRange || f.metadata["shard"] != "1" || f.metadata["have"] != "1" {
		t.Errorf("%+v", f)
	}
}

// TestSubscribeDamage: what is whole before a damaged entry is sent, then the call ends and names it.
func TestSubscribeDamage(t *testing.T) {
	_, j, streams := startJournals(t)
	j.append(1, rung("a", 1, "x"))
	j.append(1, rung("a", 2, "y"))
	j.append(1, rung("a", 3, "z"))
	j.damaged = 3
	call, err := streams.Subscribe(t.Context(), bells(beginning))
	if err != nil {
		t.Fatal(err)
	}
	next(t, call)
	if r := next(t, call); !slices.Equal(ids(r), []string{"x"}) || r.Live {
		t.Fatal(r)
	}
	_, err = call.Recv()
	if f := grpcFailure(err); f.code != codes.DataLoss || f.reason != answer.JournalCorrupt || f.metadata["shard"] != "1" || f.metadata["index"] != "3" {
		t.Errorf("%+v", f)
	}
}

// TestSubscribeToWhatIsNotServed: a shard in quarantine, or one that lacks logic, ends the call and says why.
func TestSubscribeToWhatIsNotServed(t *testing.T) {
	for outcome, want := range map[actors.Outcome]failure{
		actors.Corrupt:      {code: codes.DataLoss, reason: answer.JournalCorrupt},
		actors.LogicMissing: {code: codes.FailedPrecondition, reason: answer.LogicMissing},
		actors.Overloaded:   {code: codes.ResourceExhausted, reason: answer.ShardOverloaded},
	} {
		_, j, streams := startJournals(t)
		j.refuses = outcome
		call, err := streams.Subscribe(t.Context(), bells(beginning))
		if err == nil {
			_, err = call.Recv()
		}
		if f := grpcFailure(err); f.code != want.code || f.reason != want.reason || f.metadata["shard"] != "3" || f.message != "shard 3 says why" ||
			(f.retry > 0) != (outcome == actors.Overloaded) {
			t.Errorf("%v: %+v", outcome, f)
		}
		await(t, "nobody waits", func() bool { return j.waiting() == 0 })
	}
}

// TestSubscribeOutlivesLeaders: without a leader a subscription waits, and goes on where it was.
func TestSubscribeOutlivesLeaders(t *testing.T) {
	_, j, streams := startJournals(t)
	j.lose()
	call, err := streams.Subscribe(t.Context(), bells(beginning))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	j.find()
	next(t, call)
	if r := next(t, call); !r.Live || len(r.Items) > 0 { // empty entries of the terms
		t.Fatal(r)
	}
	for i := range 3 {
		j.lose()
		j.append(2, rung("a", uint64(i)+1, fmt.Sprint(i)))
		time.Sleep(30 * time.Millisecond)
		j.find()
		if r := next(t, call); !slices.Equal(ids(r), []string{fmt.Sprint(i)}) {
			t.Fatal(i, r)
		}
	}
}

// TestSubscribeHearsBehindNothing: an entry without an item, and the next one is not missed.
func TestSubscribeHearsBehindNothing(t *testing.T) {
	_, j, streams := startJournals(t)
	call, err := streams.Subscribe(t.Context(), bells(fromNow))
	if err != nil {
		t.Fatal(err)
	}
	next(t, call)
	for i := range 3 {
		await(t, "all shards are asked", func() bool { return j.waiting() == 4 })
		j.append(1, rung("a", uint64(2*i)+1))
		await(t, "all shards are asked again", func() bool { return j.waiting() == 4 })
		j.append(1, rung("a", uint64(2*i)+2, fmt.Sprint(i)))
		if r := next(t, call); !slices.Equal(ids(r), []string{fmt.Sprint(i)}) {
			t.Fatal(i, r)
		}
	}
}

// TestSubscriptionsAreBounded: one too many is told so, and whoever goes leaves nothing behind.
func TestSubscriptionsAreBounded(t *testing.T) {
	_, j, streams := startJournals(t, func(o *gateway.Options) { o.Limits.Subscriptions = 3 })
	ctx, cancel := context.WithCancel(t.Context())
	for range 3 {
		call, err := streams.Subscribe(ctx, bells(fromNow))
		if err != nil {
			t.Fatal(err)
		}
		next(t, call)
	}
	await(t, "the subscriptions wait", func() bool { return j.waiting() == 12 })
	call, err := streams.Subscribe(t.Context(), bells(fromNow))
	if err == nil {
		_, err = call.Recv()
	}
	if f := grpcFailure(err); f.code != codes.ResourceExhausted || f.reason != answer.TooManySubscriptions || f.retry == 0 {
		t.Errorf("%+v", f)
	}
	cancel()
	await(t, "nobody waits", func() bool { return j.waiting() == 0 })
	call, err = streams.Subscribe(t.Context(), bells(fromNow))
	if err == nil {
		_, err = call.Recv()
	}
	if err != nil {
		t.Error(err)
	}
}

func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came that ", what)
		}
	}
}

// TestSlowSubscriber: a client that reads nothing costs a few pages and responses however long the journal is, holds
// nobody up, is not cut, and gets everything once it reads.
func TestSlowSubscriber(t *testing.T) {
	n, j, _ := startJournals(t, func(o *gateway.Options) { o.Limits.SendTimeout = 100 * time.Millisecond })
	payload := strings.Repeat("p", 10_000)
	count := 0
	grow := func(entries int) {
		for range entries {
			count++
			j.append(1, rung("a", uint64(count), payload))
		}
	}
	grow(500)
	conn, err := grpc.NewClient(n.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithInitialWindowSize(1<<16), grpc.WithInitialConnWindowSize(1<<16))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := bells(beginning)
	req.Format = granaryv1.StateFormat_STATE_FORMAT_PROTOBUF
	slow, err := granaryv1.NewStreamServiceClient(conn).Subscribe(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	next(t, slow)
	time.Sleep(500 * time.Millisecond) // five times what publish streams get
	held := j.read.Load()
	if held > 150 { // 1.5 MB of 5
		t.Errorf("%d entries were read for a client that does not read", held)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	grow(1000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if more := j.read.Load() - held; more > 0 {
		t.Errorf("%d more entries were read", more)
	}
	t.Logf("%d entries read ahead; 10 MB more of journal cost %d KB", held, (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>10)
	got := 0
	for got < count {
		for _, i := range next(t, slow).Items {
			if got++; i.GetMessage().Seq != uint64(got) {
				t.Fatalf("seq %d where %d should be", i.GetMessage().Seq, got)
			}
		}
	}
}

// TestStopEndsSubscriptions: those that wait and those that are not read end at once, with a status that clients retry.
func TestStopEndsSubscriptions(t *testing.T) {
	n, j, streams := startJournals(t)
	call, err := streams.Subscribe(t.Context(), bells(fromNow))
	if err != nil {
		t.Fatal(err)
	}
	next(t, call)
	for i := range 2000 {
		j.append(1, rung("a", uint64(i)+1, strings.Repeat("p", 10_000)))
	}
	unread, err := streams.Subscribe(t.Context(), bells(beginning))
	if err != nil {
		t.Fatal(err)
	}
	next(t, unread)
	begun := time.Now()
	n.halt(t, 10*time.Second)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
	for err == nil {
		_, err = call.Recv()
	}
	if code := status.Code(err); code != codes.Unavailable {
		t.Error(err)
	}
}
