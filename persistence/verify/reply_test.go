package verify

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
)

// authorized leaves its reply to a tally.
func authorized(t *grains.Turn, _ *accountv1.Account, e *accountv1.Authorize) error {
	if e.Merchant != "" {
		t.Send("tally/"+e.Merchant, &merchantv1.Vet{Token: t.Defer(), AmountCents: e.AmountCents})
	}
	return nil
}

// vetted answers; an amount of 2 is answered twice.
func vetted(t *grains.Turn, s *merchantv1.Merchant, e *merchantv1.Vet) error {
	s.VettedCount++
	for i := range max(1, e.AmountCents) {
		t.Answer(e.Token, &accountv1.Decision{Score: uint32(s.VettedCount) + uint32(i)})
	}
	return nil
}

// authorize asks a counter.
func (w *world) authorize(key, merchant string, cents int64) *record {
	payload, err := proto.Marshal(&accountv1.Authorize{Merchant: merchant, AmountCents: cents})
	if err != nil {
		w.t.Fatal(err)
	}
	r := &record{kind: "counter", key: []byte(key), event: "granary.account.v1.Authorize", payload: payload}
	w.handle(r)
	return r
}

// answer adds an answer that arrived. All but the first to an event have a reason.
func (w *world) answer(r *record, token string) {
	s := w.shardOf(r.kind, string(r.key))
	i := strings.LastIndexByte(token, '#')
	w.now += 7
	r.kindOf, r.time = answer, w.now
	r.seq, _ = strconv.ParseUint(token[i+1:], 10, 64)
	before := func(records []*record) {
		for _, o := range records {
			if o.kindOf == answer && o.kind == r.kind && bytes.Equal(o.key, r.key) && o.seq == r.seq {
				r.reason = []byte("before")
			}
		}
	}
	for _, e := range s.entries {
		before(e.records)
	}
	before(s.open)
	s.open = append(s.open, r)
}

// asked is a world with answers, two of them in vain.
func asked(t *testing.T) *world {
	w := newWorld(t, 2)
	for i := range 12 {
		w.authorize("c"+strconv.Itoa(i%3), "m"+strconv.Itoa(i%5), int64(1+i/10))
		w.charge("c1", "m1", 1)
		w.flush()
	}
	w.authorize("c1", "", 1)
	w.flush()
	w.deliver()
	return w.fill()
}

// anAnswer finds the first answer in a shard with, or without, effect.
func (w *world) anAnswer(counts bool) (*testShard, *testEntry, *record) {
	return w.find(func(_ *testShard, _ *testEntry, r *record) bool {
		return r.kindOf == answer && (len(r.reason) == 0) == counts
	})
}

// changeReply changes the key of the first answer that counts.
func (w *world) changeReply(change func(keys map[string][]byte, key string)) {
	s, _, r := w.anAnswer(true)
	w.after = append(w.after, func(keys map[string][]byte) {
		change(keys, bkey(s.id, 0x12, big(uint64(r.time/bucketMicros)), []byte(grainKey("", r.kind, r.key)), []byte{0}, big(r.seq)))
	})
}

// TestReplies: answers are held against the events that they answer, and their keys against the log.
func TestReplies(t *testing.T) {
	w := asked(t)
	r := w.check(nil)
	none(t, r)
	if r.Records["answer"] != 14 || r.SendsPending != 0 {
		t.Errorf("%+v", r)
	}
	for _, s := range w.shards {
		s.lag = 2
	}
	none(t, w.check(nil))

	// a token that was guessed may come before its event is committed
	w = asked(t)
	s, _, early := w.anAnswer(true)
	early.reason = fmt.Appendf(nil, "the grain has %d records", early.seq-1)
	w.after = append(w.after, func(keys map[string][]byte) {
		delete(keys, bkey(s.id, 0x12, big(uint64(early.time/bucketMicros)), []byte(grainKey("", early.kind, early.key)), []byte{0}, big(early.seq)))
	})
	none(t, w.check(nil))

	for _, test := range []struct {
		name  string
		spoil func(w *world)
		want  string
	}{
		{"one that came too early, it says", func(w *world) {
			_, _, r := w.anAnswer(true)
			r.reason = fmt.Appendf(nil, "the grain has %d records", r.seq)
		}, "deferred its reply and was not answered before"},
		{"a second answer that counts", func(w *world) { _, _, r := w.anAnswer(false); r.reason = nil }, "is answered again; index"},
		{"a first one without effect", func(w *world) { _, _, r := w.anAnswer(true); r.reason = []byte("why") }, "deferred its reply and was not answered before"},
		{"to another event", func(w *world) { _, _, r := w.anAnswer(true); r.seq = 5 }, "answer"},
		{"to an event that did not defer", func(w *world) {
			_, _, r := w.find(func(_ *testShard, _ *testEntry, r *record) bool { return r.kindOf == answer && string(r.key) == "c1" })
			r.seq = w.seqs["counter/c1"]
		}, "which did not defer its reply"},
		{"another reply", func(w *world) {
			_, _, r := w.anAnswer(true)
			r.payload = binary.AppendUvarint(bytes.Clone(r.payload), 0x38)
			r.payload = append(r.payload, 1)
		}, "with another payload"},
		{"of nobody", func(w *world) { _, _, r := w.anAnswer(true); r.sender, r.cause = sender{}, cause{} }, "an answer that nobody sent"},
		{"with effects", func(w *world) {
			_, _, r := w.anAnswer(true)
			r.effects = []effect{{kindOf: 5}}
			r.digest = digestOf(r)
		}, "looks like a turn"},
		{"taken in twice", func(w *world) {
			_, e, r := w.anAnswer(false)
			twin := *r
			twin.ordinal = uint32(len(e.records))
			e.records = append(e.records, &twin)
		}, "was taken in behind"},
		{"key missing", func(w *world) {
			w.changeReply(func(keys map[string][]byte, key string) { delete(keys, key) })
		}, "is missing, though the log up to"},
		{"key of another record", func(w *world) {
			w.changeReply(func(keys map[string][]byte, key string) { keys[key] = uvs(nil, 2, 0) })
		}, "is not the answer that counts"},
		{"key in another bucket", func(w *world) {
			w.changeReply(func(keys map[string][]byte, key string) {
				k := []byte(key)
				k[16]++
				keys[string(k)] = keys[key]
				delete(keys, key)
			})
		}, "belongs to bucket"},
		{"key too short", func(w *world) {
			w.after = append(w.after, func(keys map[string][]byte) { keys[bkey(2, 0x12, big(1))] = uvs(nil, 2, 0) })
		}, "not the form of a reply key"},
		{"key too long", func(w *world) {
			w.changeReply(func(keys map[string][]byte, key string) { keys[key] = append(keys[key], 1) })
		}, "1 bytes behind the last field"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := asked(t)
			test.spoil(w)
			r := w.check(nil)
			for _, f := range r.Findings {
				if strings.Contains(f.String(), test.want) {
					t.Logf("of %d: %v", r.Total, f)
					return
				}
			}
			t.Errorf("want a finding with %q, got %d: %v", test.want, r.Total, r.Findings)
		})
	}
}
