package gateway

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// listReminders is GrainService.ListReminders: of one grain from its shard, of a kind from all.
func (g *Gateway) listReminders(ctx context.Context, req *granaryv1.ListRemindersRequest) (*granaryv1.ListRemindersResponse, error) {
	if req.GetTenant() != "" {
		return nil, noTenants()
	}
	kind, refusal := g.intake.Kind("kind", req.GetKind())
	if refusal != nil {
		return nil, refusal
	}
	if refusal := validPrefix("prefix", req.GetPrefix()); refusal != nil {
		return nil, refusal
	}
	if key := req.GetKey(); key != "" {
		if err := grains.CheckKey(key); err != nil {
			return nil, answer.Invalid(answer.InvalidGrain, "key", "%v", err)
		}
		if req.GetPrefix() != "" {
			return nil, answer.Invalid(answer.InvalidPrefix, "prefix", "it is given together with key; want one of them")
		}
	}
	limit, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	want := actors.Reminders{Kind: kind.Name, Prefix: req.GetPrefix(), Key: req.GetKey(), Limit: limit}
	page := reminderPage{kind: kind.Name, prefix: req.GetPrefix(), key: req.GetKey()}
	if req.GetPageToken() != "" {
		if want.AfterKey, want.AfterID, err = page.parse(req.GetPageToken()); err != nil {
			return nil, err
		}
	}
	found, more, err := g.pendingReminders(ctx, want)
	if err != nil {
		return nil, err
	}
	out := &granaryv1.ListRemindersResponse{}
	size := 0
	for i := range found {
		p := &found[i]
		r := &granaryv1.Reminder{Grain: kind.Name + "/" + p.Key, Id: p.ID, Due: moment(p.Due), Every: apart(p.Every), Type: p.Event,
			Payload: g.payloadJSON(kind, p.Event, p.Payload)}
		n := r.SizeVT()
		if i > 0 && size+n > maxPageBytes {
			more = true
			break
		}
		if n > maxPageBytes {
			r.Payload = nil // the history of the grain has it
		}
		size += n
		out.Reminders = append(out.Reminders, r)
	}
	if n := len(out.Reminders); more && n > 0 {
		out.NextPageToken = page.token(found[n-1].Key, found[n-1].ID)
	}
	return out, nil
}

// pendingReminders asks the shards that have some, at once, and merges what they answer.
func (g *Gateway) pendingReminders(ctx context.Context, want actors.Reminders) (found []actors.PendingReminder, more bool, err error) {
	table := g.router.Table()
	shards := make([]uint64, 0, table.Len())
	if want.Key != "" {
		shards = append(shards, table.Shard("", want.Kind, want.Key))
	} else {
		for i := range table.Len() {
			shards = append(shards, uint64(i+1))
		}
	}
	want.Bytes = maxPageBytes / len(shards)
	reads := make([]actors.Read, len(shards))
	done := make([]<-chan struct{}, len(shards))
	for i, shard := range shards {
		l := want
		reads[i].Reminders = &l
		if done[i], err = g.ask(shard, &reads[i]); err != nil {
			return nil, false, answer.Routing(err)
		}
	}
	lists := make([]*actors.Reminders, len(shards))
	for i := range reads {
		if err := finished(ctx, &reads[i], done[i]); err != nil {
			return nil, false, err
		}
		lists[i] = reads[i].Reminders
	}
	found, more = mergeReminders(lists, want.Limit)
	return found, more, nil
}

// mergeReminders returns the first n of the reminders that shards answered, and whether there are more. What lies behind
// the end of an answer that was cut is not known, so nothing behind it is taken.
func mergeReminders(lists []*actors.Reminders, n int) (merged []actors.PendingReminder, more bool) {
	order := func(a, b actors.PendingReminder) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.ID, b.ID))
	}
	var end *actors.PendingReminder // the first end of an answer that was cut
	for _, l := range lists {
		merged = append(merged, l.Pending...)
		if l.More {
			more = true
			if last := &l.Pending[len(l.Pending)-1]; end == nil || order(*last, *end) < 0 {
				end = last
			}
		}
	}
	slices.SortFunc(merged, order)
	if end != nil {
		i, _ := slices.BinarySearchFunc(merged, *end, order)
		merged = merged[:i+1]
	}
	return merged[:min(n, len(merged))], more || len(merged) > n
}

// reminderPage is what the pages of one list of reminders have in common.
type reminderPage struct{ kind, prefix, key string }

func (p reminderPage) check() uint64 {
	return xxhash.Sum64String(p.kind + "\x00" + p.prefix + "\x00" + p.key)
}

// token of the page behind a reminder.
func (p reminderPage) token(afterKey string, afterID uint64) string {
	return seal(reminderToken, p.check(), append(binary.BigEndian.AppendUint64(nil, afterID), afterKey...))
}

func (p reminderPage) parse(token string) (afterKey string, afterID uint64, err error) {
	place, ok := unseal(token, reminderToken, p.check())
	if !ok || len(place) <= 8 || !utf8.Valid(place[8:]) {
		return "", 0, badToken()
	}
	return string(place[8:]), binary.BigEndian.Uint64(place), nil
}
