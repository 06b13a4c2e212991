package persistence

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/persistence/entry"
)

func timerName(key string, id uint64) string {
	return string(appendTimerName(nil, AppendGrain(nil, "", "k", key), id))
}

// reminders draws what a record does to the reminders of its grain. It is the firing of a pending one at times, and the
// turn of one that is not refused may set and cancel some.
func (a *author) reminders(t *rapid.T, r *entry.Record, grain string, ordinal uint32) {
	var own []string
	for name, p := range a.timers {
		if p.Grain == grain {
			own = append(own, name)
		}
	}
	slices.Sort(own)
	plain := r.Sequence == 0 && r.Sender.Kind == "" && len(r.ID) == 0
	if len(own) > 0 && plain && rapid.Bool().Draw(t, "fires") {
		name := rapid.SampledFrom(own).Draw(t, "timer")
		p := a.timers[name]
		if r.Timer = p.ID; r.Type == entry.Input {
			r.Type = entry.Timer
		}
		if p.Every == 0 {
			delete(a.timers, name)
		} else {
			for first := true; first || p.Due <= a.time; first = false {
				p.Due += p.Every
			}
			a.timers[name] = p
		}
	}
	if r.Type == entry.Void || r.Type == entry.DeadLetter {
		return
	}
	for range rapid.IntRange(0, 3).Draw(t, "effects") {
		e := entry.Effect{Type: entry.Cancel, Timer: a.nextTimer + 100} // never was
		if rapid.Bool().Draw(t, "set") {
			a.nextTimer++
			e = entry.Effect{Type: entry.Remind, Event: "e", Payload: []byte{byte(a.nextTimer)}, Timer: a.nextTimer,
				Due:   a.time + rapid.SampledFrom([]int64{0, 1, 1000, 8 * 3600 * 1e6}).Draw(t, "due"),
				Every: rapid.SampledFrom([]int64{0, 0, 1e6, 5 * 3600 * 1e6}).Draw(t, "every")}
			p := Timer{Grain: grain, ID: e.Timer, Due: e.Due, Every: e.Every, Mark: Mark{a.next, ordinal, uint32(len(r.Effects))}}
			a.timers[p.Name()] = p
		} else if len(own) > 0 {
			name := rapid.SampledFrom(own).Draw(t, "canceled")
			_, e.Timer, _ = cutTimerName([]byte(name))
			delete(a.timers, name)
		}
		r.Effects = append(r.Effects, e)
	}
}

// compareTimers asks an index for the reminders that its author knows: by due time and by grain, whole and in parts.
func (a *author) compareTimers(x *Index) {
	a.t.Helper()
	var want []Timer
	for _, p := range a.timers {
		want = append(want, p)
	}
	slices.SortFunc(want, func(a, b Timer) int {
		if a.Due != b.Due {
			return int(min(max(a.Due-b.Due, -1), 1))
		}
		return strings.Compare(a.Name(), b.Name())
	})
	if len(want) > 0 && x.NextDue() > want[0].Due {
		a.t.Fatalf("none is said to be due before %d, the first is due at %d", x.NextDue(), want[0].Due)
	}
	for _, now := range []int64{0, a.time, a.time + 1000, math.MaxInt64} {
		var due []Timer
		for _, p := range want {
			if p.Due <= now {
				due = append(due, p)
			}
		}
		for _, limit := range []int{2, 1000} {
			var got []Timer
			for behind := (*Timer)(nil); ; behind = &got[len(got)-1] {
				page, err := x.Due(now, behind, limit)
				if err != nil {
					a.t.Fatal(err)
				}
				if got = append(got, page...); len(page) < limit {
					break
				}
			}
			if !slices.Equal(got, due) {
				a.t.Fatalf("due at %d, %d at a time:\n%+v\nwant\n%+v", now, limit, got, due)
			}
		}
		if len(due) == 0 && len(want) > 0 && x.NextDue() <= now {
			a.t.Fatalf("a search found nothing up to %d, but the next is said to be due at %d", now, x.NextDue())
		}
	}
	slices.SortFunc(want, func(a, b Timer) int { return strings.Compare(a.Name(), b.Name()) })
	for _, r := range []TimerRange{{}, {Prefix: "a"}, {Key: "a"}, {Key: "0\xff"}, {Prefix: "no"}} {
		r.Kind = "k"
		var listed []Timer
		for _, p := range want {
			key := strings.TrimPrefix(p.Grain, "\x00k\x00")
			if strings.HasPrefix(key, r.Prefix) && (r.Key == "" || r.Key == key) {
				listed = append(listed, p)
			}
		}
		for _, limit := range []int{1, 1000} {
			var got []Timer
			for page := r; ; {
				timers, err := x.Timers(page, limit)
				if err != nil {
					a.t.Fatal(err)
				}
				if got = append(got, timers...); len(timers) < limit {
					break
				}
				last := got[len(got)-1]
				page.AfterKey, page.AfterID = strings.TrimPrefix(last.Grain, "\x00k\x00"), last.ID
			}
			if !slices.Equal(got, listed) {
				a.t.Fatalf("%+v, %d at a time:\n%+v\nwant\n%+v", r, limit, got, listed)
			}
		}
	}
	for i := range want {
		event, payload, err := x.TimerEvent(&want[i])
		if err != nil || event != "e" || len(payload) != 1 || payload[0] != byte(want[i].ID) {
			a.t.Fatalf("the event of %+v is %q %x, %v", want[i], event, payload, err)
		}
		wrong := want[i]
		wrong.ID++
		if _, _, err := x.TimerEvent(&wrong); !errors.Is(err, entry.ErrCorrupt) {
			a.t.Fatalf("a reminder that its record did not set has an event: %v", err)
		}
	}
}

// TestDueTimersAreFoundPastDeletedKeys: what fired since the last checkpoint is still on disk, and is not found again.
func TestDueTimersAreFoundPastDeletedKeys(t *testing.T) {
	const n = 500
	s := openStore(t, vfs.NewMem())
	defer s.Close()
	x, err := s.OpenIndex(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	index, prev := uint64(0), uint64(0)
	write := func(records ...entry.Record) {
		var b entry.Builder
		b.Reset(0)
		for i := range records {
			b.Append(&records[i])
		}
		index++
		term, typ, at := uint64(1), raftpb.EntryNormal, index
		apply(t, x, &raftpb.Entry{Index: &at, Term: &term, Type: &typ, Data: b.Close(entry.Header{Lineage: 1, Term: 1, Index: index, Previous: prev})})
		prev = index
	}
	r := entry.Record{Type: entry.Input, Kind: "k", Key: []byte("a"), Seq: 1, Event: "e"}
	for i := range n {
		r.Effects = append(r.Effects, entry.Effect{Type: entry.Remind, Event: "e", Due: int64(10 + i), Timer: uint64(i + 1)})
	}
	write(r)
	if err := x.Checkpoint(0, 0); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		due, err := x.Due(int64(10+i), nil, 10)
		if err != nil || len(due) != 1 || due[0].ID != uint64(i+1) || x.NextDue() != int64(10+i) {
			t.Fatalf("at %d: %+v %v, next %d", 10+i, due, err, x.NextDue())
		}
		write(entry.Record{Type: entry.Timer, Kind: "k", Key: []byte("a"), Seq: uint64(i + 2), Time: due[0].Due, Event: "e", Timer: due[0].ID})
		if i%100 == 99 {
			if err := x.Checkpoint(0, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if due, err := x.Due(math.MaxInt64, nil, 10); err != nil || len(due) > 0 || x.NextDue() != math.MaxInt64 {
		t.Fatalf("after all: %+v %v, next %d", due, err, x.NextDue())
	}
	for _, key := range derived(t, s, 0) {
		if strings.HasPrefix(key, fmt.Sprintf("%02x", keyTimer)) {
			t.Fatalf("%s is left", key)
		}
	}
}
