package gateway_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/persistence/entry"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func letterName(kind, key string, seq uint64) string { return fmt.Sprintf("%s/%s#%d", kind, key, seq) }

// deadLetters answers lists, and reads of what they have.
func (m *memory) deadLetters(shard uint64, l *actors.DeadLetters) {
	l.Lineage = memoryLineage
	for _, at := range l.Read {
		rec := m.grains[at.Kind+"/"+at.Key].records[at.Seq-1]
		l.Summaries = append(l.Summaries, actors.DeadLetterSummary{Event: rec.Event, Reason: string(rec.Reason), Sender: "shelf/" + at.Key})
	}
	if l.Read != nil {
		return
	}
	order := func(a, b actors.DeadLetterAt) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Key, b.Key), cmp.Compare(a.Seq, b.Seq))
	}
	for _, g := range m.grains {
		for i := range g.records {
			r := &g.records[i]
			at := actors.DeadLetterAt{Kind: g.kind.Name, Key: g.key, Seq: r.Seq, Index: r.Index, Time: r.Time}
			if r.Type == entry.DeadLetter && m.settled[letterName(at.Kind, at.Key, at.Seq)] == nil && m.table.Shard("", at.Kind, at.Key) == shard &&
				(l.Kind == "" || at.Kind == l.Kind) && strings.HasPrefix(at.Key, l.Prefix) && (l.After.Kind == "" || order(at, l.After) > 0) {
				l.Found = append(l.Found, at)
			}
		}
	}
	slices.SortFunc(l.Found, order)
	l.Found = l.Found[:min(l.Limit, len(l.Found))]
}

func (m *memory) deadLetter(l *actors.DeadLetter) (actors.Outcome, string) {
	g := m.grains[l.Kind+"/"+l.Key]
	if g == nil || l.Seq > uint64(len(g.records)) || g.records[l.Seq-1].Type != entry.DeadLetter {
		return actors.NotFound, "there is none"
	}
	if s := m.settled[letterName(l.Kind, l.Key, l.Seq)]; s != nil {
		*l = *s
	}
	l.Record, l.Lineage, l.Open = g.records[l.Seq-1], memoryLineage, l.Settled == ""
	return actors.Folded, ""
}

func (m *memory) Settle(shard uint64, in *actors.Settle) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		if err := m.err(shard); err != nil {
			return err
		}
	}
	l := actors.DeadLetter{Kind: in.Kind, Key: in.Key, Seq: in.Seq}
	if in.Failed, in.Why = m.deadLetter(&l); in.Failed == actors.Folded && !l.Open {
		in.Failed, in.Why, in.Letter = actors.NotOpen, "it is settled", &l
	}
	if in.Failed == actors.Folded && in.Retry {
		if l.Record.Event != "granary.account.v1.Charged" {
			in.Failed, in.Why = actors.Unrunnable, "no such event"
		} else {
			kind := m.grains[in.Kind+"/"+in.Key].kind
			typ, _ := kind.Event(l.Record.Event)
			in.Result = m.event(&actors.Event{Kind: kind, Key: in.Key, Type: typ, Message: &accountv1.Charged{AmountCents: 7}}, false)
			l.Settled, l.RetriedAs, l.Became = "retried", in.Result.Seq, entry.Input
		}
	} else if in.Failed == actors.Folded {
		l.Settled = "dropped"
	}
	if in.Failed == actors.Folded {
		m.settled[letterName(in.Kind, in.Key, in.Seq)] = &l
	}
	if m.hold {
		m.held = append(m.held, func() { in.Done(in) })
		return nil
	}
	in.Done(in)
	return nil
}

// die publishes an event that dies in a grain.
func (n *node) die(t *testing.T, grain string) {
	t.Helper()
	if r := n.publish(t, event(grain, "Charged", "", &accountv1.Charged{TransactionId: "panic"})); r[0].GetStatus() == nil {
		t.Fatal("it lives")
	}
}

func TestDeadLetters(t *testing.T) {
	n := start(t)
	letters := granaryv1.NewDeadLetterServiceClient(n.conn)
	n.publish(t, charged("box/a", "", 1))
	var want []string
	for i := range 12 {
		grain := fmt.Sprintf("box/a%02d", i/2)
		n.die(t, grain)
		want = append(want, fmt.Sprintf("%s#%d", grain, 1+i%2))
	}
	n.die(t, "box/other")
	list := func(req *granaryv1.DeadLetterServiceListRequest) (got []string) {
		for {
			res, err := letters.List(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range res.DeadLetters {
				got = append(got, fmt.Sprintf("%s#%d", d.Grain, d.Seq))
				if d.Type != "granary.account.v1.Charged" || !strings.Contains(d.Reason, "as asked") || d.Position == "" || d.Time.AsTime().UnixMicro() != memoryTime(d.Seq) || !strings.HasPrefix(d.Sender, "shelf/") {
					t.Errorf("%v", d)
				}
			}
			if req.PageToken = res.NextPageToken; req.PageToken == "" {
				return got
			}
		}
	}
	for _, size := range []uint32{0, 1, 5, 12, 13, 1000} {
		if got := list(&granaryv1.DeadLetterServiceListRequest{Kind: "box", Prefix: "a", PageSize: size}); !slices.Equal(got, want) {
			t.Errorf("pages of %d: %v", size, got)
		}
		if got := list(&granaryv1.DeadLetterServiceListRequest{PageSize: size}); !slices.Equal(got, append(slices.Clone(want), "box/other#1")) {
			t.Errorf("all, pages of %d: %v", size, got)
		}
	}
	if got := list(&granaryv1.DeadLetterServiceListRequest{Kind: "shelf"}); got != nil {
		t.Errorf("%v", got)
	}

	get, err := letters.Get(t.Context(), &granaryv1.DeadLetterServiceGetRequest{Grain: "box/a00", Seq: 2})
	if err != nil || !get.Open || get.Grain != "box/a00" || get.Record.Seq != 2 || get.Record.Outcome != granaryv1.RecordOutcome_RECORD_OUTCOME_DEAD_LETTERED ||
		get.Record.Payload.Fields["transactionId"].GetStringValue() != "panic" || len(get.Record.PayloadProtobuf) == 0 || get.Settled != "" {
		t.Errorf("%v %v", get, err)
	}
	// it is run again once, and whoever asks a second time is told as what
	retry, err := letters.Retry(t.Context(), &granaryv1.RetryRequest{Grain: "box/a00", Seq: 2})
	if err != nil || retry.Result.Status != nil || retry.Result.Seq != 3 || retry.Result.Position == "" || retry.Result.Deduplicated {
		t.Errorf("%v %v", retry, err)
	}
	_, err = letters.Retry(t.Context(), &granaryv1.RetryRequest{Grain: "box/a00", Seq: 2})
	if f := grpcFailure(err); f.code != codes.FailedPrecondition || f.reason != "NOT_OPEN" || f.metadata["settled"] != "retried" || f.metadata["retried_as"] != "3" || f.metadata["outcome"] != "input" {
		t.Errorf("%+v", f)
	}
	var web granaryv1.DropResponse
	if f := n.post(t, "/granary.v1.DeadLetterService/Drop", `{"grain":"box/a01","seq":"1"}`, &web); f.code != codes.OK {
		t.Errorf("%+v", f)
	}
	if f := n.post(t, "/granary.v1.DeadLetterService/Retry", `{"grain":"box/a01","seq":"1"}`, nil); f.code != codes.FailedPrecondition || f.reason != "NOT_OPEN" || f.metadata["settled"] != "dropped" || f.metadata["retried_as"] != "" {
		t.Errorf("%+v", f)
	}
	var shown granaryv1.DeadLetterServiceGetResponse
	if f := n.post(t, "/granary.v1.DeadLetterService/Get", `{"grain":"box/a00","seq":"2"}`, &shown); f.code != codes.OK || shown.Open || shown.Settled != "retried" || shown.RetriedAs != 3 {
		t.Errorf("%+v %v", f, &shown)
	}
	var listed granaryv1.DeadLetterServiceListResponse
	if f := n.post(t, "/granary.v1.DeadLetterService/List", `{"pageSize":1}`, &listed); f.code != codes.OK || len(listed.DeadLetters) != 1 || listed.DeadLetters[0].Grain != "box/a00" {
		t.Errorf("%+v %v", f, &listed)
	}
}

func TestDeadLetterRefusals(t *testing.T) {
	n := start(t)
	letters := granaryv1.NewDeadLetterServiceClient(n.conn)
	n.publish(t, charged("box/a", "", 1))
	n.die(t, "box/a")
	n.die(t, "box/b")
	page, err := letters.List(t.Context(), &granaryv1.DeadLetterServiceListRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		req    *granaryv1.DeadLetterServiceListRequest
		code   codes.Code
		reason string
	}{
		{&granaryv1.DeadLetterServiceListRequest{Tenant: "t"}, codes.InvalidArgument, "TENANT_NOT_SUPPORTED"},
		{&granaryv1.DeadLetterServiceListRequest{Kind: "boxes"}, codes.NotFound, "UNKNOWN_KIND"},
		{&granaryv1.DeadLetterServiceListRequest{Kind: "Box/1"}, codes.NotFound, "UNKNOWN_KIND"},
		{&granaryv1.DeadLetterServiceListRequest{Prefix: "a"}, codes.InvalidArgument, "INVALID_PREFIX"},
		{&granaryv1.DeadLetterServiceListRequest{Kind: "box", Prefix: "\x00"}, codes.InvalidArgument, "INVALID_PREFIX"},
		{&granaryv1.DeadLetterServiceListRequest{PageSize: 1001}, codes.InvalidArgument, "INVALID_PAGE"},
		{&granaryv1.DeadLetterServiceListRequest{PageToken: "x"}, codes.InvalidArgument, "INVALID_PAGE"},
		{&granaryv1.DeadLetterServiceListRequest{Kind: "box", PageToken: page.NextPageToken}, codes.InvalidArgument, "INVALID_PAGE"},
	} {
		_, err := letters.List(t.Context(), c.req)
		if f := grpcFailure(err); f.code != c.code || f.reason != c.reason || f.infos != 1 {
			t.Errorf("%v: %+v", c.req, f)
		}
	}
	for _, c := range []struct {
		tenant, grain string
		seq           uint64
		code          codes.Code
		reason        string
	}{
		{"t", "box/a", 2, codes.InvalidArgument, "TENANT_NOT_SUPPORTED"},
		{"", "box", 2, codes.InvalidArgument, "INVALID_GRAIN"},
		{"", "box/a", 0, codes.InvalidArgument, "INVALID_SEQ"},
		{"", "box/a", 1, codes.NotFound, "NO_DEAD_LETTER"},
		{"", "ghost/a", 1, codes.NotFound, "NO_DEAD_LETTER"},
	} {
		_, get := letters.Get(t.Context(), &granaryv1.DeadLetterServiceGetRequest{Tenant: c.tenant, Grain: c.grain, Seq: c.seq})
		_, retry := letters.Retry(t.Context(), &granaryv1.RetryRequest{Tenant: c.tenant, Grain: c.grain, Seq: c.seq})
		_, drop := letters.Drop(t.Context(), &granaryv1.DropRequest{Tenant: c.tenant, Grain: c.grain, Seq: c.seq})
		for _, err := range []error{get, retry, drop} {
			if f := grpcFailure(err); f.code != c.code || f.reason != c.reason || f.infos != 1 {
				t.Errorf("%+v: %+v", c, f)
			}
		}
	}
	for want, err := range map[string]error{"SHARD_OVERLOADED": routing.ErrOverloaded, "DISK_FULL": routing.ErrDiskFull, "STORE_DAMAGED": routing.ErrDamaged} {
		n.set(func(m *memory) { m.err = func(uint64) error { return err } })
		_, err := letters.Drop(t.Context(), &granaryv1.DropRequest{Grain: "box/a", Seq: 2})
		if f := grpcFailure(err); f.reason != want || f.retry == 0 {
			t.Errorf("%+v, want %s", f, want)
		}
	}
	n.set(func(m *memory) { m.err, m.hold = nil, true })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := letters.Drop(ctx, &granaryv1.DropRequest{Grain: "box/a", Seq: 2}); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	n.set(func(m *memory) { m.grains["box/b"].records[0].Event = "granary.account.v1.Gone"; m.hold = false })
	_, err = letters.Retry(t.Context(), &granaryv1.RetryRequest{Grain: "box/b", Seq: 1})
	if f := grpcFailure(err); f.code != codes.FailedPrecondition || f.reason != "NOT_RUNNABLE" || !strings.Contains(f.message, "stays open") {
		t.Errorf("%+v", f)
	}
}
