package gateway

import (
	"container/heap"
	"context"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/entry"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// typeURL is what precedes the name of a message in an Any.
const typeURL = "type.googleapis.com/"

// read asks one shard and waits.
func (g *Gateway) read(ctx context.Context, shard uint64, r *actors.Read) error {
	done, err := g.ask(shard, r)
	if err != nil {
		return answer.Routing(err)
	}
	return finished(ctx, r, done)
}

// ask hands a read to its shard. The channel is closed when it is answered.
func (g *Gateway) ask(shard uint64, r *actors.Read) (<-chan struct{}, error) {
	done := make(chan struct{})
	r.Done = func(*actors.Read) { close(done) }
	return done, g.router.Read(shard, r)
}

func finished(ctx context.Context, r *actors.Read, done <-chan struct{}) error {
	select {
	case <-done:
	case <-ctx.Done():
		return answer.Routing(ctx.Err())
	}
	if refusal := answer.Read(r); refusal != nil {
		return refusal
	}
	return nil
}

// named checks the tenant and the grain of a read, and finds its shard.
func (g *Gateway) named(tenant, grain string) (kind *grains.Definition, key string, shard uint64, err error) {
	if tenant != "" {
		return nil, "", 0, noTenants()
	}
	kind, key, r := g.intake.Grain("grain", grain)
	if r != nil {
		return nil, "", 0, r
	}
	return kind, key, g.router.Table().Shard("", kind.Name, key), nil
}

func noTenants() *answer.Refusal {
	return answer.Invalid(answer.TenantNotSupported, "tenant", "tenants are not supported yet; leave it empty")
}

// get is GrainService.Get.
func (g *Gateway) get(ctx context.Context, req *granaryv1.GetRequest) (*granaryv1.GetResponse, error) {
	kind, key, shard, err := g.named(req.GetTenant(), req.GetGrain())
	if err != nil {
		return nil, err
	}
	if _, known := granaryv1.StateFormat_name[int32(req.GetFormat())]; !known {
		return nil, answer.Invalid(answer.InvalidFormat, "format", "%d is not a state format of this version", req.GetFormat())
	}
	get := &actors.Get{Kind: kind, Key: key}
	switch at := req.GetAt().(type) {
	case *granaryv1.GetRequest_AtSeq:
		if get.AtSeq = at.AtSeq; at.AtSeq == 0 {
			// Before its first record every grain has the empty state; for the shard 0 means now.
			if get.State, err = kind.AppendState(nil, kind.NewState()); err != nil {
				return nil, err
			}
			return stateResponse(get, req.GetFormat())
		}
	case *granaryv1.GetRequest_AtTime:
		if get.AtTime, err = journalTime(at.AtTime); err != nil {
			return nil, err
		}
	}
	if err := g.read(ctx, shard, &actors.Read{Stale: req.GetStale(), Get: get}); err != nil {
		return nil, err
	}
	return stateResponse(get, req.GetFormat())
}

// journalTime is a time in the microseconds of journals, rounded down: a record at that microsecond is not after it. No
// journal is older than this program, so all of the time before it becomes its first microsecond; for the shard 0 means
// now.
func journalTime(t *timestamppb.Timestamp) (int64, error) {
	if err := t.CheckValid(); err != nil {
		return 0, answer.Invalid(answer.InvalidTime, "at_time", "it is not a time from year 1 to 9999 with nanos from 0 to 999999999")
	}
	return max(t.AsTime().UnixMicro(), 1), nil
}

func stateResponse(get *actors.Get, format granaryv1.StateFormat) (*granaryv1.GetResponse, error) {
	out := &granaryv1.GetResponse{
		Grain: get.Kind.Name + "/" + get.Key, Seq: get.Seq, Position: answer.Position(get.Position), LogicVersion: get.Kind.Version,
	}
	if get.Seq != 0 {
		out.Time = moment(get.Time)
	}
	if format != granaryv1.StateFormat_STATE_FORMAT_JSON {
		out.State = &anypb.Any{TypeUrl: typeURL + string(get.Kind.StateDescriptor().FullName()), Value: get.State}
	}
	if format != granaryv1.StateFormat_STATE_FORMAT_PROTOBUF {
		state, err := get.Kind.DecodeState(get.State)
		if err != nil {
			return nil, err
		}
		out.Json = toJSON(state)
	}
	return out, nil
}

func moment(micros int64) *timestamppb.Timestamp { return timestamppb.New(time.UnixMicro(micros)) }

// toJSON is a message in the canonical JSON mapping; nil where that is not an object, or where the message holds an Any of
// a type that this binary does not know.
func toJSON(m proto.Message) *structpb.Struct {
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil
	}
	out := &structpb.Struct{}
	if err := protojson.Unmarshal(text, out); err != nil {
		return nil
	}
	return out
}

// Pages.
const (
	defaultPage = 100
	maxPage     = 1000
	// maxPageBytes is where a page of history ends early: clients take 4 MiB by default.
	maxPageBytes = 3 << 20
)

func pageSize(n uint32) (int, error) {
	switch {
	case n == 0:
		return defaultPage, nil
	case n > maxPage:
		return 0, answer.Invalid(answer.InvalidPage, "page_size", "%d is too large; at most %d are allowed", n, maxPage)
	}
	return int(n), nil
}

// history is GrainService.History.
func (g *Gateway) history(ctx context.Context, req *granaryv1.HistoryRequest) (*granaryv1.HistoryResponse, error) {
	kind, key, shard, err := g.named(req.GetTenant(), req.GetGrain())
	if err != nil {
		return nil, err
	}
	limit, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	page := historyPage{grain: req.GetGrain(), from: req.GetFromSeq(), newestFirst: req.GetNewestFirst()}
	h := &actors.History{Kind: kind, Key: key, From: max(req.GetFromSeq(), 1), Limit: limit, NewestFirst: page.newestFirst}
	if req.GetPageToken() != "" {
		next, err := page.parse(req.GetPageToken())
		if err != nil {
			return nil, err
		}
		if page.newestFirst {
			h.To = next
		} else {
			h.From = next
		}
	}
	if err := g.read(ctx, shard, &actors.Read{History: h}); err != nil {
		return nil, err
	}
	return g.historyResponse(h, page, req.GetFormat()), nil
}

// historyResponse shows as many records as fit into a page.
func (g *Gateway) historyResponse(h *actors.History, page historyPage, format granaryv1.StateFormat) *granaryv1.HistoryResponse {
	out := &granaryv1.HistoryResponse{}
	size, more := 0, h.More
	for i := range h.Records {
		r := g.historyRecord(h, &h.Records[i], format)
		n := r.SizeVT()
		if i > 0 && size+n > maxPageBytes {
			more = true
			break
		}
		if n > maxPageBytes {
			r.Payload = nil // it is there as protobuf, which takes less
		}
		size += n
		out.Records = append(out.Records, r)
	}
	if n := len(out.Records); more && n > 0 {
		last := out.Records[n-1].Seq
		if !page.newestFirst {
			out.NextPageToken = page.token(last + 1)
		} else if last > h.From {
			out.NextPageToken = page.token(last - 1)
		}
	}
	return out
}

func (g *Gateway) historyRecord(h *actors.History, r *actors.HistoryRecord, format granaryv1.StateFormat) *granaryv1.HistoryRecord {
	position := entry.Position{Lineage: h.Lineage, Index: r.Index, Ordinal: r.Ordinal}
	out := &granaryv1.HistoryRecord{
		Seq: r.Seq, Position: answer.Position(position), Time: moment(r.Time), Type: r.Event, Id: string(r.ID), Source: r.Source,
		Producer: r.Producer, ProducerSequence: r.Sequence, Cause: answer.Position(r.Cause), Hops: uint32(r.Hops),
		Reminder: r.Timer, Reply: historyReply(r.Reply, format), Outcome: recordOutcome(r.Type), Reason: strings.ToValidUTF8(string(r.Reason), "?"), LogicVersion: r.Logic,
	}
	if format != granaryv1.StateFormat_STATE_FORMAT_JSON {
		out.PayloadProtobuf = r.Payload
	}
	if format != granaryv1.StateFormat_STATE_FORMAT_PROTOBUF {
		out.Payload = g.payloadJSON(h.Kind, r.Event, r.Payload)
	}
	if r.EventTime != 0 {
		out.EventTime = timestamppb.New(time.Unix(0, r.EventTime))
	}
	if r.Sender.Kind != "" {
		out.Sender = r.Sender.Kind + "/" + string(r.Sender.Key)
	}
	if len(r.Headers) > 0 {
		out.Headers = make(map[string]string, len(r.Headers))
		for _, a := range r.Headers {
			out.Headers[string(a.Name)] = string(a.Value)
		}
	}
	for i := range r.Effects {
		if e := g.historyEffect(h.Kind, &r.Effects[i], format); e != nil {
			out.Effects = append(out.Effects, e)
		}
	}
	return out
}

// payloadJSON is a journaled payload as JSON; nil when this node does not know its type.
func (g *Gateway) payloadJSON(kind *grains.Definition, event string, payload []byte) *structpb.Struct {
	t, ok := kind.Event(event)
	for earlier := kind.Earlier(); !ok && len(earlier) > 0; earlier = earlier[:len(earlier)-1] {
		t, ok = earlier[len(earlier)-1].Event(event) // one that the present version does not take any more
	}
	if !ok {
		return nil
	}
	m, err := t.Decode(payload)
	if err != nil {
		return nil
	}
	return toJSON(m)
}

func recordOutcome(t entry.Type) granaryv1.RecordOutcome {
	switch t {
	case entry.Input, entry.Timer:
		return granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED
	case entry.Void:
		return granaryv1.RecordOutcome_RECORD_OUTCOME_REJECTED
	case entry.DeadLetter:
		return granaryv1.RecordOutcome_RECORD_OUTCOME_DEAD_LETTERED
	}
	return granaryv1.RecordOutcome_RECORD_OUTCOME_UNSPECIFIED
}

// list is GrainService.List: every shard has some of the grains of a kind, and knows their order.
func (g *Gateway) list(ctx context.Context, req *granaryv1.ListRequest) (*granaryv1.ListResponse, error) {
	if req.GetTenant() != "" {
		return nil, noTenants()
	}
	kind, refusal := g.intake.Kind("kind", req.GetKind())
	if refusal != nil {
		return nil, refusal
	}
	if err := checkPrefix(req.GetPrefix()); err != nil {
		return nil, err
	}
	limit, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	page := listPage{kind: kind.Name, prefix: req.GetPrefix()}
	after := ""
	if req.GetPageToken() != "" {
		if after, err = page.parse(req.GetPageToken()); err != nil {
			return nil, err
		}
	}
	// One more than wanted, from each: then what is left over tells whether there is another page.
	lists, err := g.askAll(ctx, actors.List{Kind: kind.Name, Prefix: req.GetPrefix(), After: after, Limit: limit + 1})
	if err != nil {
		return nil, err
	}
	out := &granaryv1.ListResponse{}
	merged := merge(lists, limit+1)
	for _, found := range merged[:min(limit, len(merged))] {
		out.Grains = append(out.Grains, &granaryv1.GrainSummary{Grain: kind.Name + "/" + found.Key, Seq: found.Seq, Time: moment(found.Time)})
	}
	if len(merged) > limit {
		out.NextPageToken = page.token(merged[limit-1].Key)
	}
	return out, nil
}

func checkPrefix(p string) error {
	if len(p) > grains.MaxKeyBytes || !utf8.ValidString(p) || strings.IndexFunc(p, unicode.IsControl) >= 0 {
		return answer.Invalid(answer.InvalidPrefix, "prefix", "it is not how a key can begin: at most %d bytes of UTF-8 without control characters", grains.MaxKeyBytes)
	}
	return nil
}

// askAll asks all shards at once and waits for all.
func (g *Gateway) askAll(ctx context.Context, want actors.List) ([][]actors.ListedGrain, error) {
	n := g.router.Table().Len()
	reads := make([]actors.Read, n)
	done := make([]<-chan struct{}, n)
	for i := range reads {
		l := want
		reads[i].List = &l
		var err error
		if done[i], err = g.ask(uint64(i+1), &reads[i]); err != nil {
			return nil, answer.Routing(err)
		}
	}
	lists := make([][]actors.ListedGrain, n)
	for i := range reads {
		if err := finished(ctx, &reads[i], done[i]); err != nil {
			return nil, err
		}
		lists[i] = reads[i].List.Grains
	}
	return lists, nil
}

// merge returns the first n of several ordered lists. No grain is in two of them.
func merge(lists [][]actors.ListedGrain, n int) []actors.ListedGrain {
	var fronts listHeap
	for _, l := range lists {
		if len(l) > 0 {
			fronts = append(fronts, l)
		}
	}
	heap.Init(&fronts)
	var out []actors.ListedGrain
	for len(out) < n && len(fronts) > 0 {
		front := &fronts[0]
		out = append(out, (*front)[0])
		if *front = (*front)[1:]; len(*front) == 0 {
			heap.Pop(&fronts)
		} else {
			heap.Fix(&fronts, 0)
		}
	}
	return out
}

// listHeap has the list with the smallest key in front.
type listHeap [][]actors.ListedGrain

func (h listHeap) Len() int           { return len(h) }
func (h listHeap) Less(i, j int) bool { return h[i][0].Key < h[j][0].Key }
func (h listHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *listHeap) Push(l any)        { *h = append(*h, l.([]actors.ListedGrain)) }
func (h *listHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	*h = (*h)[:last]
	return l
}
