package gateway_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/granary-dev/granary/actors"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func TestGet(t *testing.T) {
	n := start(t)
	for i := range 5 {
		n.publish(t, charged("box/1", fmt.Sprint(i), 10))
	}
	at := func(seq uint64) *granaryv1.GetRequest {
		return &granaryv1.GetRequest{Grain: "box/1", At: &granaryv1.GetRequest_AtSeq{AtSeq: seq}}
	}
	when := func(t time.Time) *granaryv1.GetRequest {
		return &granaryv1.GetRequest{Grain: "box/1", At: &granaryv1.GetRequest_AtTime{AtTime: timestamppb.New(t)}}
	}
	third := time.UnixMicro(memoryTime(3))
	for _, c := range []struct {
		name string
		req  *granaryv1.GetRequest
		seq  uint64
	}{
		{"now", &granaryv1.GetRequest{Grain: "box/1"}, 5},
		{"stale", &granaryv1.GetRequest{Grain: "box/1", Stale: true}, 5},
		{"at seq 3", at(3), 3},
		{"at seq 0", at(0), 0},
		{"at the time of the third", when(third), 3},
		{"999 ns later", when(third.Add(999)), 3},
		{"1 ns earlier", when(third.Add(-1)), 2},
		{"at the epoch", when(time.Unix(0, 0)), 0},
		{"in antiquity", when(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)), 0},
		{"in the far future", when(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)), 5},
		{"nobody knows it", &granaryv1.GetRequest{Grain: "box/new"}, 0},
	} {
		res, err := n.grains.Get(t.Context(), c.req)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		state := &accountv1.Account{}
		if err := res.State.UnmarshalTo(state); err != nil {
			t.Fatal(err)
		}
		if res.Seq != c.seq || state.Count != c.seq || state.Cents != int64(10*c.seq) || res.LogicVersion != 3 || res.Grain != c.req.Grain {
			t.Errorf("%s: %v", c.name, res)
		}
		if (res.Position != "") != (c.seq > 0) || (res.Time != nil) != (c.seq > 0) || c.seq > 0 && res.Time.AsTime().UnixMicro() != memoryTime(c.seq) {
			t.Errorf("%s: position %q, time %v", c.name, res.Position, res.Time)
		}
		if c.seq > 0 && res.Json.Fields["cents"].GetStringValue() != fmt.Sprint(10*c.seq) {
			t.Errorf("%s: JSON %v", c.name, res.Json)
		}
	}
	for format, want := range map[granaryv1.StateFormat][2]bool{0: {true, true}, 1: {true, false}, 2: {false, true}} {
		res, err := n.grains.Get(t.Context(), &granaryv1.GetRequest{Grain: "box/1", Format: format})
		if err != nil || (res.State != nil) != want[0] || (res.Json != nil) != want[1] {
			t.Errorf("%v: %v %v", format, res, err)
		}
	}
	var res granaryv1.GetResponse
	if f := n.post(t, "/granary.v1.GrainService/Get", `{"grain":"box/1","atSeq":"2"}`, &res); f.code != codes.OK || res.Seq != 2 || res.Json.Fields["cents"].GetStringValue() != "20" {
		t.Errorf("by JSON: %+v %v", f, &res)
	}
}

func TestBadReads(t *testing.T) {
	n := start(t)
	n.publish(t, charged("box/1", "", 1))
	refused := func(m *memory, o actors.Outcome) {
		m.failed = func(r *actors.Read) { r.Failed, r.Why = o, "as told" }
	}
	get := func(req *granaryv1.GetRequest) func() error {
		return func() error { _, err := n.grains.Get(t.Context(), req); return err }
	}
	history := func(req *granaryv1.HistoryRequest) func() error {
		return func() error { _, err := n.grains.History(t.Context(), req); return err }
	}
	list := func(req *granaryv1.ListRequest) func() error {
		return func() error { _, err := n.grains.List(t.Context(), req); return err }
	}
	describe := func(kind string) func() error {
		return func() error {
			_, err := n.kinds.Describe(t.Context(), &granaryv1.DescribeRequest{Kind: kind})
			return err
		}
	}
	good := &granaryv1.GetRequest{Grain: "box/1"}
	for _, c := range []struct {
		name   string
		call   func() error
		failed actors.Outcome
		code   codes.Code
		reason string
		field  string
	}{
		{"tenant", get(&granaryv1.GetRequest{Tenant: "t", Grain: "box/1"}), 0, codes.InvalidArgument, "TENANT_NOT_SUPPORTED", "tenant"},
		{"no grain", get(&granaryv1.GetRequest{}), 0, codes.InvalidArgument, "INVALID_GRAIN", "grain"},
		{"unknown kind", get(&granaryv1.GetRequest{Grain: "crate/1"}), 0, codes.NotFound, "UNKNOWN_KIND", "grain"},
		{"format", get(&granaryv1.GetRequest{Grain: "box/1", Format: 9}), 0, codes.InvalidArgument, "INVALID_FORMAT", "format"},
		{"bad time", get(&granaryv1.GetRequest{Grain: "box/1", At: &granaryv1.GetRequest_AtTime{AtTime: &timestamppb.Timestamp{Nanos: -1}}}), 0, codes.InvalidArgument, "INVALID_TIME", "at_time"},
		{"beyond the end", get(&granaryv1.GetRequest{Grain: "box/1", At: &granaryv1.GetRequest_AtSeq{AtSeq: 2}}), 0, codes.OutOfRange, "SEQ_OUT_OF_RANGE", ""},
		{"corrupt", get(good), actors.Corrupt, codes.DataLoss, "JOURNAL_CORRUPT", ""},
		{"logic missing", get(good), actors.LogicMissing, codes.FailedPrecondition, "LOGIC_MISSING", ""},
		{"no leader", get(good), actors.Unavailable, codes.Unavailable, "SHARD_UNAVAILABLE", ""},
		{"history without grain", history(&granaryv1.HistoryRequest{}), 0, codes.InvalidArgument, "INVALID_GRAIN", "grain"},
		{"history page too large", history(&granaryv1.HistoryRequest{Grain: "box/1", PageSize: 1001}), 0, codes.InvalidArgument, "INVALID_PAGE", "page_size"},
		{"history token is nonsense", history(&granaryv1.HistoryRequest{Grain: "box/1", PageToken: "nonsense"}), 0, codes.InvalidArgument, "INVALID_PAGE", "page_token"},
		{"history token too long", history(&granaryv1.HistoryRequest{Grain: "box/1", PageToken: strings.Repeat("A", 5000)}), 0, codes.InvalidArgument, "INVALID_PAGE", "page_token"},
		{"history corrupt", history(&granaryv1.HistoryRequest{Grain: "box/1"}), actors.Corrupt, codes.DataLoss, "JOURNAL_CORRUPT", ""},
		{"list without kind", list(&granaryv1.ListRequest{}), 0, codes.NotFound, "UNKNOWN_KIND", "kind"},
		{"list of a tenant", list(&granaryv1.ListRequest{Tenant: "t", Kind: "box"}), 0, codes.InvalidArgument, "TENANT_NOT_SUPPORTED", "tenant"},
		{"list page too large", list(&granaryv1.ListRequest{Kind: "box", PageSize: 1 << 31}), 0, codes.InvalidArgument, "INVALID_PAGE", "page_size"},
		{"list prefix", list(&granaryv1.ListRequest{Kind: "box", Prefix: "a\x00"}), 0, codes.InvalidArgument, "INVALID_PREFIX", "prefix"},
		{"list token", list(&granaryv1.ListRequest{Kind: "box", PageToken: "bA"}), 0, codes.InvalidArgument, "INVALID_PAGE", "page_token"},
		{"list without leader", list(&granaryv1.ListRequest{Kind: "box"}), actors.Unavailable, codes.Unavailable, "SHARD_UNAVAILABLE", ""},
		{"describe nothing", describe(""), 0, codes.NotFound, "UNKNOWN_KIND", "kind"},
		{"describe unknown", describe("crate"), 0, codes.NotFound, "UNKNOWN_KIND", "kind"},
	} {
		n.set(func(m *memory) {
			m.failed = nil
			if c.failed != 0 {
				refused(m, c.failed)
			}
		})
		f := grpcFailure(c.call())
		if f.code != c.code || f.reason != c.reason || f.infos != 1 {
			t.Errorf("%s: %+v, want %v %s", c.name, f, c.code, c.reason)
		}
		if _, ok := f.violations[c.field]; c.field != "" && !ok {
			t.Errorf("%s: violations %v, want %s", c.name, f.violations, c.field)
		}
	}
}

// pages reads a history to its end.
func (n *node) pages(t *testing.T, req *granaryv1.HistoryRequest) (records []*granaryv1.HistoryRecord, sizes []int) {
	t.Helper()
	for {
		res, err := n.grains.History(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, res.Records...)
		sizes = append(sizes, len(res.Records))
		if res.NextPageToken == "" {
			return records, sizes
		}
		req = proto.Clone(req).(*granaryv1.HistoryRequest)
		req.PageToken = res.NextPageToken
	}
}

func TestHistory(t *testing.T) {
	n := start(t)
	for i := range 25 {
		e := event("box/1", "Charged", fmt.Sprint(i), &accountv1.Charged{TransactionId: "t", AmountCents: int64(i), Merchant: "m"})
		e.Source, e.Headers, e.Time = "src", map[string]string{"b": "2", "a": "1"}, timestamppb.New(now)
		n.publish(t, e)
	}
	n.publish(t, charged("box/1", "bad", -1), event("box/1", "Charged", "worse", &accountv1.Charged{TransactionId: "panic"}))
	seqs := func(from, to uint64) (out []uint64) {
		for ; from < to; from++ {
			out = append(out, from)
		}
		if from > to {
			for ; from > to; from-- {
				out = append(out, from)
			}
		}
		return out
	}
	for _, c := range []struct {
		name  string
		req   *granaryv1.HistoryRequest
		seqs  []uint64
		pages int
	}{
		{"all", &granaryv1.HistoryRequest{}, seqs(1, 28), 1},
		{"in tens", &granaryv1.HistoryRequest{PageSize: 10}, seqs(1, 28), 3},
		{"in nines", &granaryv1.HistoryRequest{PageSize: 9}, seqs(1, 28), 3},
		{"newest first", &granaryv1.HistoryRequest{PageSize: 10, NewestFirst: true}, seqs(27, 0), 3},
		{"from 20", &granaryv1.HistoryRequest{PageSize: 3, FromSeq: 20}, seqs(20, 28), 3},
		{"newest first down to 20", &granaryv1.HistoryRequest{PageSize: 3, FromSeq: 20, NewestFirst: true}, seqs(27, 19), 3},
		{"beyond", &granaryv1.HistoryRequest{FromSeq: 100}, nil, 1},
	} {
		c.req.Grain = "box/1"
		records, pages := n.pages(t, c.req)
		var got []uint64
		for _, r := range records {
			got = append(got, r.Seq)
		}
		if !slices.Equal(got, c.seqs) || len(pages) != c.pages {
			t.Errorf("%s: %v in pages of %v", c.name, got, pages)
		}
	}
	records, _ := n.pages(t, &granaryv1.HistoryRequest{Grain: "box/1"})
	r := records[7]
	if r.Position == "" || r.Time.AsTime().UnixMicro() != memoryTime(8) || !r.EventTime.AsTime().Equal(now) || r.Type != "granary.account.v1.Charged" || r.Id != "7" ||
		r.Source != "src" || r.Headers["a"] != "1" || len(r.Headers) != 2 || r.Outcome != granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED || r.LogicVersion != 3 ||
		r.Payload.Fields["amountCents"].GetStringValue() != "7" || len(r.PayloadProtobuf) == 0 {
		t.Errorf("%v", r)
	}
	if send := r.Effects[0].GetSend(); len(r.Effects) != 1 || send.Grain != "shelf/m" || send.Type != "granary.merchant.v1.Seen" || send.Payload.Fields["transactionId"].GetStringValue() != "t" {
		t.Errorf("%v", r.Effects)
	}
	if r := records[25]; r.Outcome != granaryv1.RecordOutcome_RECORD_OUTCOME_REJECTED || r.Reason == "" {
		t.Errorf("%v", r)
	}
	if r := records[26]; r.Outcome != granaryv1.RecordOutcome_RECORD_OUTCOME_DEAD_LETTERED || r.Reason == "" {
		t.Errorf("%v", r)
	}
	// A token belongs to its request.
	res, err := n.grains.History(t.Context(), &granaryv1.HistoryRequest{Grain: "box/1", PageSize: 5})
	if err != nil {
		t.Fatal(err)
	}
	for name, req := range map[string]*granaryv1.HistoryRequest{
		"other grain": {Grain: "box/2"}, "other order": {Grain: "box/1", NewestFirst: true}, "other beginning": {Grain: "box/1", FromSeq: 2},
	} {
		req.PageToken = res.NextPageToken
		_, err := n.grains.History(t.Context(), req)
		if f := grpcFailure(err); f.reason != "INVALID_PAGE" {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestHistoryFitsIntoAMessage: large records make short pages, and none is left out.
// TestHistoryOfEarlierVersions: an event that only an earlier version took is shown as what it was.
func TestHistoryOfEarlierVersions(t *testing.T) {
	n := start(t)
	n.publish(t, charged("box/1", "", 1))
	n.set(func(m *memory) {
		r := &m.grains["box/1"].records[0]
		r.Logic, r.Event, r.Payload = 2, "granary.account.v1.Labelled", []byte{1<<3 | 2, 1, 'a'}
	})
	records, _ := n.pages(t, &granaryv1.HistoryRequest{Grain: "box/1"})
	if len(records) != 1 || records[0].Payload.GetFields()["transactionId"].GetStringValue() != "a" {
		t.Errorf("%v", records)
	}
}

func TestHistoryFitsIntoAMessage(t *testing.T) {
	n := start(t)
	for i := range 6 {
		n.publish(t, event("box/1", "Charged", fmt.Sprint(i), &accountv1.Charged{TransactionId: strings.Repeat("x", 700<<10)}))
	}
	n.publish(t, event("box/1", "Charged", "huge", &accountv1.Charged{TransactionId: strings.Repeat("x", 3<<20)}))
	records, pages := n.pages(t, &granaryv1.HistoryRequest{Grain: "box/1"})
	if len(records) != 7 || len(pages) < 4 {
		t.Errorf("%d records in pages of %v", len(records), pages)
	}
	for _, r := range records {
		if huge := r.Seq == 7; (r.Payload == nil) != huge || len(r.PayloadProtobuf) == 0 {
			t.Errorf("record %d: payload %v, protobuf %d bytes", r.Seq, r.Payload != nil, len(r.PayloadProtobuf))
		}
	}
}

func TestList(t *testing.T) {
	n := start(t)
	var events []*granaryv1.Event
	var all []string
	for i := range 100 {
		all = append(all, fmt.Sprintf("box/k%02d", i))
		events = append(events, charged(all[i], "", 1), charged(all[i], "", 1))
	}
	n.publish(t, append(events, charged("box/other", "", 1))...)
	for _, size := range []uint32{0, 1, 7, 50, 99, 100, 1000} {
		var got []string
		req := &granaryv1.ListRequest{Kind: "box", Prefix: "k", PageSize: size}
		pages := 0
		for {
			res, err := n.grains.List(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, g := range res.Grains {
				if got = append(got, g.Grain); g.Seq != 2 || g.Time.AsTime().UnixMicro() != memoryTime(2) {
					t.Errorf("%v", g)
				}
			}
			if req.PageToken = res.NextPageToken; req.PageToken == "" {
				break
			}
		}
		if !slices.Equal(got, all) {
			t.Errorf("pages of %d: %v", size, got)
		}
		if want := (100 + int(max(size, 1)) - 1) / int(max(size, 1)); size > 0 && pages != want {
			t.Errorf("pages of %d: %d pages, want %d", size, pages, want)
		}
	}
	res, err := n.grains.List(t.Context(), &granaryv1.ListRequest{Kind: "shelf"})
	if err != nil || len(res.Grains) != 0 || res.NextPageToken != "" {
		t.Errorf("%v %v", res, err)
	}
}

func TestReadCanceled(t *testing.T) {
	n := start(t)
	n.set(func(m *memory) { m.hold = true })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := n.grains.Get(ctx, &granaryv1.GetRequest{Grain: "box/1"}); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	if _, err := n.grains.List(ctx, &granaryv1.ListRequest{Kind: "box"}); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
}
