package verify

import (
	"fmt"
	"strings"
	"testing"
)

// die adds an event whose turn failed.
func (w *world) die(key string, cents int64, change ...func(*record)) *record {
	r := w.charge(key, "", cents, change...)
	r.kindOf, r.logic, r.effects, r.digest, r.reason = deadLetter, 1, nil, 0, []byte("the handler panicked")
	return r
}

// again runs the event of a dead letter once more and settles it.
func (w *world) again(dead *record) (run, settled *record) {
	run = &record{kind: dead.kind, key: dead.key, event: dead.event, payload: dead.payload, eventTime: dead.eventTime, source: dead.source,
		sender: dead.sender, hops: dead.hops, headers: [][2][]byte{{[]byte("granary-retry-of"), fmt.Append(nil, dead.seq)}}}
	w.handle(run)
	return run, w.settlement(dead, "retried")
}

func (w *world) settlement(dead *record, how string) *record {
	r := &record{kindOf: settlement, kind: dead.kind, key: dead.key, seq: dead.seq, time: w.now, reason: []byte(how)}
	s := w.shardOf(dead.kind, string(dead.key))
	s.open = append(s.open, r)
	return r
}

// deadKeys gives the dead keys of the finished store, of a version that writes them.
func (w *world) deadKeys() {
	w.after = append(w.after, func(keys map[string][]byte) {
		for id, s := range w.shards {
			upTo := len(s.entries) - s.lag
			for _, e := range s.entries[:upTo] {
				for _, r := range e.records {
					k := bkey(id, 0x13, []byte(r.tenant+"\x00"+r.kind+"\x00"+string(r.key)), []byte{0}, big(r.seq))
					switch r.kindOf {
					case deadLetter:
						keys[k] = uvs(nil, e.index, uint64(r.ordinal), uint64(r.time))
					case settlement:
						delete(keys, k)
					}
				}
			}
			keys[bkey(id, 0x13)] = uvs(nil, uint64(upTo))
		}
	})
}

// TestDeadLetters: open dead letters have keys, settled ones have none, and a settlement stands where it must.
func TestDeadLetters(t *testing.T) {
	type letters struct {
		open, dropped, retried, run, settled *record
	}
	fresh := func() (w *world, l letters) {
		w = newWorld(t, 1)
		w.charge("c", "m", 1)
		l.open = w.die("c", 2)
		l.dropped = w.die("c", 3)
		l.retried = w.die("d", 4, withID("pos", "x"))
		w.flush()
		w.deliver()
		w.settlement(l.dropped, "dropped")
		w.charge("c", "", 5)
		w.flush()
		l.run, l.settled = w.again(l.retried)
		w.flush()
		w.charge("e", "", 6)
		w.flush()
		w.fill()
		w.deadKeys()
		return w, l
	}
	w, _ := fresh()
	r := w.check(nil)
	none(t, r)
	if r.Records["settlement"] != 2 || r.Records["dead letter"] != 3 {
		t.Errorf("%+v", r.Records)
	}
	// a folder of a version that knows no dead keys, and one that such a version wrote to since
	w, _ = fresh()
	w.after = append(w.after, func(keys map[string][]byte) {
		for k := range keys {
			if strings.HasPrefix(k, bkey(1, 0x13)) {
				delete(keys, k)
			}
		}
	})
	none(t, w.check(nil))
	w, _ = fresh()
	w.after = append(w.after, func(keys map[string][]byte) {
		for k := range keys {
			if strings.HasPrefix(k, bkey(1, 0x13)) {
				delete(keys, k)
			}
		}
		keys[bkey(1, 0x13)] = uvs(nil, 1)
	})
	none(t, w.check(nil))

	openKey := func(l letters) string { return bkey(1, 0x13, []byte("\x00counter\x00c"), []byte{0}, big(l.open.seq)) }
	on := func(w *world, fn func(keys map[string][]byte)) { w.after = append(w.after, fn) }
	for want, spoil := range map[string]func(w *world, l letters){
		"dead counter/c seq 2: is missing": func(w *world, l letters) {
			on(w, func(keys map[string][]byte) { delete(keys, openKey(l)) })
		},
		"dead counter/c seq 3: the log up to the applied index": func(w *world, l letters) { // settled, and the key is not removed
			on(w, func(keys map[string][]byte) {
				keys[bkey(1, 0x13, []byte("\x00counter\x00c"), []byte{0}, big(3))] = uvs(nil, 2, 2, uint64(l.dropped.time))
			})
		},
		"index 3, record 1": func(w *world, l letters) {
			on(w, func(keys map[string][]byte) { keys[openKey(l)] = uvs(nil, 3, 1, uint64(l.open.time)) })
		},
		"not the form of a dead key": func(w *world, _ letters) {
			on(w, func(keys map[string][]byte) { keys[bkey(1, 0x13, []byte("\x00counter"))] = uvs(nil, 3, 1, 1) })
		},
		"time is not a number": func(w *world, l letters) {
			on(w, func(keys map[string][]byte) { keys[openKey(l)] = uvs(nil, 3, 1) })
		},
		"lies behind the applied index": func(w *world, _ letters) {
			on(w, func(keys map[string][]byte) { keys[bkey(1, 0x13)] = uvs(nil, 99) })
		},
		"is there without the key that says": func(w *world, _ letters) {
			on(w, func(keys map[string][]byte) { delete(keys, bkey(1, 0x13)) })
		},
		"its run is not in front of that in the same entry": func(w *world, l letters) {
			s := w.shards[1]
			e := s.entries[len(s.entries)-2]
			e.records = without(e.records, l.settled)
			last := s.entries[len(s.entries)-1]
			last.records = append([]*record{l.settled}, last.records...)
			renumber(last)
		},
		"seq 1 is settled, but is no open dead letter": func(w *world, l letters) {
			l.settled.seq = 1
			l.run.headers[0][1] = []byte("1")
			l.settled.key = []byte("d")
			l.retried.kindOf = void
		},
		"seq 2 is settled, but is no open dead letter": func(w *world, l letters) {
			last := w.shards[1].entries[len(w.shards[1].entries)-1]
			for range 2 {
				last.records = append(last.records, &record{kindOf: settlement, kind: "counter", key: []byte("c"), seq: 2, time: w.now, reason: []byte("dropped")})
			}
			renumber(last)
		},
		"does not say that it is of it": func(_ *world, l letters) { l.run.headers[0][1] = []byte("7") },
		"is of another event":           func(_ *world, l letters) { l.run.payload = l.open.payload },
		"is settled as lost":            func(_ *world, l letters) { l.settled.reason = []byte("lost") },
		"has a sender and no cause, but no settlement": func(_ *world, l letters) {
			l.run.sender = sender{shard: 1, kind: "counter", key: []byte("c")}
			l.settled.reason = []byte("dropped")
		},
		"shard 1, index 5, record 0, counter/d: seq 2 has a sender and no cause": func(w *world, l letters) { // the last of the log
			l.run.sender = sender{shard: 1, kind: "counter", key: []byte("c")}
			l.settled.reason = []byte("dropped")
			s := w.shards[1]
			s.entries = s.entries[:len(s.entries)-1]
			s.hard = [3]uint64{}
			w.fill()
		},
	} {
		w, l := fresh()
		spoil(w, l)
		if r := w.check(nil); !strings.Contains(fmt.Sprint(r.Findings), want) {
			t.Errorf("%q is not found: %v", want, r.Findings)
		}
	}
}

// TestRetriedSend: the second run of an event that was sent is no second arrival of the send.
func TestRetriedSend(t *testing.T) {
	w := newWorld(t, 2)
	w.charge("c", "m", 1)
	w.charge("c", "m", 2)
	w.flush()
	first := w.arrive(w.outbox[0])
	first.kindOf, first.logic, first.effects, first.digest, first.reason = deadLetter, 1, nil, 0, []byte("no")
	w.states["tally/m"] = nil // it changed nothing
	w.flush()
	w.again(first)
	w.outbox = w.outbox[1:]
	w.deliver()
	w.flush()
	w.fill()
	w.deadKeys()
	none(t, w.check(nil))
}

func renumber(e *testEntry) {
	for i, r := range e.records {
		r.ordinal = uint32(i)
	}
}
