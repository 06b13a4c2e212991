package gateway_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/actors"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// listReminders answers as a shard does, from a list.
func (m *memory) listReminders(shard uint64, l *actors.Reminders) {
	size := 0
	for _, p := range m.reminders {
		if l.Kind != "box" || m.table.Shard("", l.Kind, p.Key) != shard || !strings.HasPrefix(p.Key, l.Prefix) || l.Key != "" && l.Key != p.Key ||
			cmp.Or(cmp.Compare(p.Key, l.AfterKey), cmp.Compare(p.ID, l.AfterID)) <= 0 {
			continue
		}
		if len(l.Pending) == l.Limit || len(l.Pending) > 0 && size > l.Bytes {
			l.More = true
			return
		}
		l.Pending = append(l.Pending, p)
		size += len(p.Payload)
	}
}

// reminderPages reads a list to its end.
func (n *node) reminderPages(t *testing.T, req *granaryv1.ListRemindersRequest) (all []*granaryv1.Reminder, pages int) {
	t.Helper()
	for req = proto.CloneOf(req); ; {
		res, err := n.grains.ListReminders(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if pages++; res.SizeVT() > 4<<20 || req.PageSize > 0 && len(res.Reminders) > int(req.PageSize) {
			t.Fatalf("a page of %d reminders with %d bytes", len(res.Reminders), res.SizeVT())
		}
		all = append(all, res.Reminders...)
		if req.PageToken = res.NextPageToken; req.PageToken == "" {
			return all, pages
		}
	}
}

func TestListReminders(t *testing.T) {
	n := start(t)
	event := charged("box/x", "", 5)
	var want []string
	var pending []actors.PendingReminder
	for i := range 60 {
		for id := range uint64(1 + i%4) {
			p := actors.PendingReminder{Key: fmt.Sprintf("k%02d", i), ID: 1024*id + 7, Due: memoryTime(uint64(i)), Event: event.GetType(), Payload: event.GetProtobuf()}
			if id == 1 {
				p.Every = 1_500_000
			}
			pending = append(pending, p)
			want = append(want, fmt.Sprintf("box/%s %d", p.Key, p.ID))
		}
	}
	n.set(func(m *memory) { m.reminders = pending })
	names := func(all []*granaryv1.Reminder) (names []string) {
		for _, r := range all {
			names = append(names, fmt.Sprintf("%s %d", r.Grain, r.Id))
		}
		return names
	}
	for _, size := range []uint32{0, 1, 7, 149, 150, 151, 1000} {
		all, pages := n.reminderPages(t, &granaryv1.ListRemindersRequest{Kind: "box", PageSize: size})
		if got := names(all); !slices.Equal(got, want) {
			t.Errorf("pages of %d: %v", size, got)
		}
		if w := (len(want) + int(size) - 1) / int(max(size, 1)); size > 0 && pages != w {
			t.Errorf("pages of %d: %d, want %d", size, pages, w)
		}
	}
	one, _ := n.reminderPages(t, &granaryv1.ListRemindersRequest{Kind: "box", Key: "k03", PageSize: 3})
	if got := names(one); len(got) != 4 || got[0] != "box/k03 7" {
		t.Errorf("of one grain: %v", got)
	}
	if r := one[1]; r.Due.AsTime().UnixMicro() != memoryTime(3) || r.Every.AsDuration().Milliseconds() != 1500 || r.Type != event.GetType() || one[0].Every != nil {
		t.Errorf("%v", r)
	}
	if some, _ := n.reminderPages(t, &granaryv1.ListRemindersRequest{Kind: "box", Prefix: "k5"}); len(some) != 27 {
		t.Errorf("with a prefix: %v", names(some))
	}
	for _, req := range []*granaryv1.ListRemindersRequest{{Kind: "shelf"}, {Kind: "box", Key: "none"}, {Kind: "box", Prefix: "z"}} {
		if none, _ := n.reminderPages(t, req); len(none) != 0 {
			t.Errorf("%v: %v", req, names(none))
		}
	}
	var res granaryv1.ListRemindersResponse
	if f := n.post(t, "/granary.v1.GrainService/ListReminders", `{"kind": "box", "key": "k01"}`, &res); f.code != codes.OK || len(res.Reminders) != 2 {
		t.Errorf("by JSON: %+v %v", f, &res)
	}

	// What does not fit into a message is on the next page.
	for i := range pending {
		pending[i].Payload = make([]byte, 100<<10)
	}
	n.set(func(m *memory) { m.reminders = pending })
	if all, _ := n.reminderPages(t, &granaryv1.ListRemindersRequest{Kind: "box", PageSize: 1000}); !slices.Equal(names(all), want) {
		t.Errorf("with large payloads: %v", names(all))
	}
}

func TestBadListReminders(t *testing.T) {
	n := start(t)
	n.set(func(m *memory) { m.reminders = []actors.PendingReminder{{Key: "a", ID: 1}, {Key: "b", ID: 2}} })
	page, err := n.grains.ListReminders(t.Context(), &granaryv1.ListRemindersRequest{Kind: "box", PageSize: 1})
	if err != nil || page.NextPageToken == "" {
		t.Fatalf("%v %v", page, err)
	}
	for _, c := range []struct {
		req    *granaryv1.ListRemindersRequest
		failed actors.Outcome
		code   codes.Code
		reason string
		field  string
	}{
		{&granaryv1.ListRemindersRequest{Tenant: "t", Kind: "box"}, 0, codes.InvalidArgument, "TENANT_NOT_SUPPORTED", "tenant"},
		{&granaryv1.ListRemindersRequest{}, 0, codes.NotFound, "UNKNOWN_KIND", "kind"},
		{&granaryv1.ListRemindersRequest{Kind: "crate"}, 0, codes.NotFound, "UNKNOWN_KIND", "kind"},
		{&granaryv1.ListRemindersRequest{Kind: "box", Prefix: "a\x00"}, 0, codes.InvalidArgument, "INVALID_PREFIX", "prefix"},
		{&granaryv1.ListRemindersRequest{Kind: "box", Prefix: "a", Key: "ab"}, 0, codes.InvalidArgument, "INVALID_PREFIX", "prefix"},
		{&granaryv1.ListRemindersRequest{Kind: "box", Key: "a\n"}, 0, codes.InvalidArgument, "INVALID_GRAIN", "key"},
		{&granaryv1.ListRemindersRequest{Kind: "box", Key: strings.Repeat("k", 513)}, 0, codes.InvalidArgument, "INVALID_GRAIN", "key"},
		{&granaryv1.ListRemindersRequest{Kind: "box", PageSize: 1001}, 0, codes.InvalidArgument, "INVALID_PAGE", "page_size"},
		{&granaryv1.ListRemindersRequest{Kind: "box", PageToken: "bA"}, 0, codes.InvalidArgument, "INVALID_PAGE", "page_token"},
		{&granaryv1.ListRemindersRequest{Kind: "box", Prefix: "b", PageToken: page.NextPageToken}, 0, codes.InvalidArgument, "INVALID_PAGE", "page_token"},
		{&granaryv1.ListRemindersRequest{Kind: "box"}, actors.Unavailable, codes.Unavailable, "SHARD_UNAVAILABLE", ""},
		{&granaryv1.ListRemindersRequest{Kind: "box", Key: "a"}, actors.Corrupt, codes.DataLoss, "JOURNAL_CORRUPT", ""},
	} {
		n.set(func(m *memory) {
			m.failed = func(r *actors.Read) {
				if c.failed != 0 {
					r.Failed, r.Why = c.failed, "as told"
				}
			}
		})
		_, err := n.grains.ListReminders(t.Context(), c.req)
		f := grpcFailure(err)
		if f.code != c.code || f.reason != c.reason || f.infos != 1 {
			t.Errorf("%v: %+v, want %v %s", c.req, f, c.code, c.reason)
		}
		if _, ok := f.violations[c.field]; c.field != "" && !ok {
			t.Errorf("%v: violations %v, want %s", c.req, f.violations, c.field)
		}
	}
}
