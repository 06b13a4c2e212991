package verify

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

// fire is the firing of the reminder that effect n of the turn seq of a counter set.
func (w *world) fire(key string, seq, n uint64, every bool) {
	msg := &accountv1.Charged{TransactionId: "once", AmountCents: 1}
	if every {
		msg = &accountv1.Charged{TransactionId: "again", AmountCents: 2}
	}
	payload, err := proto.Marshal(msg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.handle(&record{kind: "counter", key: []byte(key), event: "granary.account.v1.Charged", payload: payload, timer: seq*1024 + n})
}

// reminding makes a world with reminders: c1 has one that fired and one pending, c2 one that repeats and fired late, c3
// one that was canceled and one pending; all in the one shard.
func reminding(t testing.TB) *world {
	w := newWorld(t, 1)
	w.charge("c1", "after:5", 1)
	w.charge("c1", "after:50000000", 1)
	w.charge("c2", "every:1000000", 1)
	w.charge("c3", "after:100", 1)
	w.flush()
	w.charge("c3", fmt.Sprint("cancel:", 1024), 1)
	w.charge("c3", "after:0", 1)
	w.charge("c3", "after:90000000", 1)
	w.fire("c1", 1, 0, false)
	w.flush()
	w.now += 3_500_000
	w.fire("c2", 1, 0, true)
	w.flush()
	w.fire("c3", 3, 0, false)
	w.now += 2_000_000
	w.fire("c2", 1, 0, true)
	w.flush()
	return w.fill()
}

// the record of a counter with a seq
func (w *world) counter(key string, seq uint64) (*testEntry, *record) {
	_, e, r := w.find(func(_ *testShard, _ *testEntry, r *record) bool { return string(r.key) == key && r.seq == seq })
	return e, r
}

func TestReminders(t *testing.T) {
	w := reminding(t)
	none(t, w.check(nil))
	none(t, w.check(func(o *Options) { o.MaxGrains = 1 }))
	for lag := range 6 {
		w.shards[1].lag = lag
		none(t, w.check(nil))
	}
	r := w.check(nil)
	if r.Records["timer"] != 4 || r.Turns != 11 {
		t.Errorf("%d firings, %d turns", r.Records["timer"], r.Turns)
	}

	name := func(key string, id uint64) []byte { return append([]byte("\x00counter\x00"+key+"\x00"), big(id)...) }
	byGrain := func(key string, id uint64) string { return bkey(1, 0x0a, []byte{1}, name(key, id)) }
	for _, test := range []struct {
		name  string
		spoil func(w *world)
		want  string
	}{
		{"fires twice", func(w *world) { w.fire("c1", 1, 0, false); w.flush(); w.fill() }, "counter/c1: reminder 1024 fires, which is not pending"},
		{"fires although canceled", func(w *world) { w.fire("c3", 1, 0, false); w.flush(); w.fill() }, "counter/c3: reminder 1024 fires, which is not pending"},
		{"fires early", func(w *world) { w.fire("c1", 2, 0, false); w.flush(); w.fill() }, "counter/c1: reminder 2048 fires 4"},
		{"repeats early", func(w *world) { w.fire("c2", 1, 0, true); w.flush(); w.fill() }, "counter/c2: reminder 1024 fires"},
		{"fires before it is set", func(w *world) { w.fire("c5", 1, 0, false); w.flush(); w.fill() }, "counter/c5: reminder 1024 fires, which is not pending"},
		{"fires with another event", func(w *world) {
			w.now += 60_000_000
			w.fire("c1", 2, 0, true)
			w.flush()
			w.fill()
		}, "counter/c1: reminder 2048 fires with another event"},
		{"a timer record without id", func(w *world) { _, r := w.counter("c1", 3); r.timer = 0 }, "counter/c1: a timer record without the id of a reminder"},
		{"an input with id", func(w *world) { _, r := w.counter("c1", 3); r.kindOf = input }, "counter/c1: reminder 1024 fires in a record of type input"},
		{"an origin beside", func(w *world) { _, r := w.counter("c1", 3); r.id = []byte("x") }, "the event has another origin as well"},
		{"due before it is set", func(w *world) { _, r := w.counter("c1", 2); r.effects[0].due = 7 }, "effect 0 sets reminder 2048, due at 7, before"},
		{"key missing by grain", func(w *world) { w.edit(func(k map[string][]byte) { delete(k, byGrain("c1", 2048)) }) },
			"timer by grain counter/c1 reminder 2048: is missing"},
		{"keys missing by due time", func(w *world) {
			w.edit(func(k map[string][]byte) {
				for key := range k {
					if strings.HasPrefix(key, bkey(1, 0x0a, []byte{0})) && strings.HasSuffix(key, string(name("c2", 1024))) {
						delete(k, key)
					}
				}
			})
		}, "timer by due time counter/c2 reminder 1024: is missing"},
		{"key that should be gone", func(w *world) {
			w.edit(func(k map[string][]byte) { k[byGrain("c1", 1024)] = uvs(nil, 1, 0, 2, 0, 0) })
		}, "no such reminder is pending"},
		{"canceled key", func(w *world) {
			w.edit(func(k map[string][]byte) { k[bkey(1, 0x0a, []byte{0}, big(5), name("c3", 1024))] = nil })
		}, "no such reminder is pending"},
		{"another due time", func(w *world) {
			w.edit(func(k map[string][]byte) { k[bkey(1, 0x0a, []byte{0}, big(5), name("c1", 2048))] = nil })
		}, "due at 5; the log up to"},
		{"not moved on", func(w *world) {
			w.edit(func(k map[string][]byte) {
				v := k[byGrain("c2", 1024)]
				c := &cursor{rest: v}
				due, every, rest := c.number(""), c.number(""), c.rest
				k[byGrain("c2", 1024)] = append(uvs(nil, due-every, every), rest...)
			})
		}, "due at "},
		{"another place", func(w *world) {
			w.edit(func(k map[string][]byte) { v := k[byGrain("c1", 2048)]; v[len(v)-1]++ })
		}, "set by effect 1 of"},
		{"family", func(w *world) { w.edit(func(k map[string][]byte) { k[bkey(1, 0x0a, []byte{2, 1})] = nil }) }, "not the form of a timer key"},
		{"value by due time", func(w *world) {
			w.edit(func(k map[string][]byte) {
				for key := range k {
					if strings.HasPrefix(key, bkey(1, 0x0a, []byte{0})) {
						k[key] = []byte{1}
					}
				}
			})
		}, "1 bytes behind the last field"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := reminding(t)
			test.spoil(w)
			r := w.check(nil)
			for _, f := range r.Findings {
				if strings.Contains(f.String(), test.want) {
					return
				}
			}
			t.Errorf("found %v, want %q", r.Findings, test.want)
		})
	}
}

// edit changes the keys of the finished store.
func (w *world) edit(fn func(keys map[string][]byte)) { w.after = append(w.after, fn) }
