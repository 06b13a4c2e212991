package persistence

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/granary-dev/granary/persistence/entry"
)

// The two families of timer keys.
const (
	timerByDue   = 0x00
	timerByGrain = 0x01
)

// Timer is a reminder that is set in the journal and has not come to its end.
type Timer struct {
	// Grain that it is for, in the form of [AppendGrain], and its ID there.
	Grain string
	ID    uint64
	// Due is when it fires next, in Unix microseconds of journal time; Every the time between firings, 0 if it fires once.
	Due, Every int64
	// Mark is the effect that set it: its event is there.
	Mark
}

// Name is the grain and the id in one string, unique in a shard.
func (t *Timer) Name() string { return string(appendTimerName(nil, t.Grain, t.ID)) }

// Before orders timers as they fire: by due time, then by name.
func (t *Timer) Before(o *Timer) bool { return t.compare(o) < 0 }

func (t *Timer) compare(o *Timer) int {
	switch {
	case t.Due != o.Due:
		if t.Due < o.Due {
			return -1
		}
		return 1
	case t.Grain != o.Grain:
		// as in keys: a grain is followed by 0x00, which no part of one is smaller than
		return strings.Compare(t.Grain, o.Grain)
	case t.ID != o.ID:
		if t.ID < o.ID {
			return -1
		}
		return 1
	}
	return 0
}

func appendTimerName[G string | []byte](dst []byte, grain G, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(append(dst, grain...), 0), id)
}

// cutTimerName is the reverse of appendTimerName.
func cutTimerName(name []byte) (grain []byte, id uint64, ok bool) {
	n := len(name) - 9
	if n < 0 || name[n] != 0 {
		return nil, 0, false
	}
	return name[:n], binary.BigEndian.Uint64(name[n+1:]), true
}

func timerFamily(dst []byte, shard uint64, family byte) []byte {
	return append(appendPrefix(dst, shard, keyTimer), family)
}

func timerDueKey(dst []byte, shard uint64, due int64, name string) []byte {
	return append(binary.BigEndian.AppendUint64(timerFamily(dst, shard, timerByDue), uint64(due)), name...)
}

func timerGrainKey(dst []byte, shard uint64, name string) []byte {
	return append(timerFamily(dst, shard, timerByGrain), name...)
}

// timers are the reminders of a shard: those that changed since the last checkpoint in memory, all others on disk.
type timers struct {
	changed map[string]*timerSlot // by name
	// from is a time before which none is due. It spares the search, and the search the keys that were deleted before it.
	from int64
}

// timerSlot is a timer that changed since the last checkpoint.
type timerSlot struct {
	Timer
	gone   bool
	stored int64 // the due time that it has on disk
	there  bool  // it is on disk
}

// noteTimers takes in what a record does to the reminders of its grain (in the form of [AppendGrain]): it is the firing of
// one, and it sets and cancels others.
func (x *Index) noteTimers(h *entry.Header, r *entry.Record, grain []byte) error {
	if r.Timer != 0 {
		if err := x.consumeTimer(grain, r.Timer, r.Time); err != nil {
			return err
		}
	}
	for i := range r.Effects {
		switch e := &r.Effects[i]; e.Type {
		case entry.Remind:
			t := Timer{Grain: string(grain), ID: e.Timer, Due: e.Due, Every: e.Every, Mark: Mark{h.Index, r.Ordinal, uint32(i)}}
			if t.Due < 0 || t.Every < 0 {
				return fmt.Errorf("%w: a reminder due at %d every %d µs", entry.ErrCorrupt, e.Due, e.Every)
			}
			// its id is new: the seq of the record is part of it
			x.timers.changed[t.Name()] = &timerSlot{Timer: t}
			x.timers.from = min(x.timers.from, t.Due)
		case entry.Cancel:
			slot, err := x.timerSlot(grain, e.Timer)
			if err != nil {
				return err
			}
			x.dropTimer(slot)
		}
	}
	return nil
}

// consumeTimer notes that a reminder fired. One that repeats is due next at a multiple of its time behind the firing, so
// that one firing makes up for all that were missed.
func (x *Index) consumeTimer(grain []byte, id uint64, now int64) error {
	slot, err := x.timerSlot(grain, id)
	if err != nil || slot == nil {
		return err
	}
	if slot.Every == 0 {
		x.dropTimer(slot)
		return nil
	}
	slot.Due += (max(now-slot.Due, 0)/slot.Every + 1) * slot.Every
	x.timers.from = min(x.timers.from, slot.Due)
	return nil
}

// timerSlot finds a pending reminder and has it among those that changed; nil if there is none.
func (x *Index) timerSlot(grain []byte, id uint64) (*timerSlot, error) {
	name := string(appendTimerName(nil, grain, id))
	if slot := x.timers.changed[name]; slot != nil {
		if slot.gone {
			return nil, nil
		}
		return slot, nil
	}
	t, there, err := x.storedTimer(name)
	if err != nil || !there {
		return nil, err
	}
	slot := &timerSlot{Timer: t, stored: t.Due, there: true}
	x.timers.changed[name] = slot
	return slot, nil
}

func (x *Index) dropTimer(slot *timerSlot) {
	switch {
	case slot == nil:
	case slot.there:
		slot.gone = true
	default:
		delete(x.timers.changed, slot.Name())
	}
}

func (x *Index) storedTimer(name string) (t Timer, there bool, err error) {
	v, err := x.store.get(timerGrainKey(nil, x.shard, name))
	if err != nil || v == nil {
		return t, false, err
	}
	t, err = decodeTimer([]byte(name), v)
	return t, err == nil, err
}

func decodeTimer(name, v []byte) (t Timer, err error) {
	grain, id, ok := cutTimerName(name)
	f := values{buf: v}
	t = Timer{Grain: string(grain), ID: id, Due: int64(f.uv()), Every: int64(f.uv()), Mark: Mark{f.uv(), uint32(f.uv()), uint32(f.uv())}}
	if !ok || f.bad || t.Due < 0 || t.Every < 0 {
		return t, fmt.Errorf("timer: %w", entry.ErrCorrupt)
	}
	return t, nil
}

// checkpointTimers adds what changed to a batch.
func (x *Index) checkpointTimers(b *pebble.Batch) error {
	var k, v []byte
	for name, slot := range x.timers.changed {
		if slot.there && (slot.gone || slot.stored != slot.Due) {
			k = timerDueKey(k[:0], x.shard, slot.stored, name)
			if err := b.Delete(k, nil); err != nil {
				return err
			}
		}
		if slot.gone {
			k = timerGrainKey(k[:0], x.shard, name)
			if err := b.Delete(k, nil); err != nil {
				return err
			}
			continue
		}
		k = timerDueKey(k[:0], x.shard, slot.Due, name)
		if err := b.Set(k, nil, nil); err != nil {
			return err
		}
		k = timerGrainKey(k[:0], x.shard, name)
		v = appendUvs(v[:0], uint64(slot.Due), uint64(slot.Every), slot.Index, uint64(slot.Ordinal), uint64(slot.Effect))
		if err := b.Set(k, v, nil); err != nil {
			return err
		}
	}
	return nil
}

// NextDue is a time before which no reminder is due.
func (x *Index) NextDue() int64 { return x.timers.from }

// Due finds the reminders that are due at a time, up to limit, in the order in which they fire: those behind a timer, or
// from the first on if that is nil.
func (x *Index) Due(now int64, behind *Timer, limit int) ([]Timer, error) {
	var found []Timer // of those that changed
	next := int64(math.MaxInt64)
	for _, slot := range x.timers.changed {
		switch {
		case slot.gone || behind != nil && slot.compare(behind) <= 0:
		case slot.Due <= now:
			found = append(found, slot.Timer)
		default:
			next = min(next, slot.Due)
		}
	}
	slices.SortFunc(found, func(a, b Timer) int { return a.compare(&b) })
	stored, nextStored, err := x.storedDue(now, behind, limit)
	if err != nil {
		return nil, fmt.Errorf("shard %d: %w", x.shard, err)
	}
	due := mergeTimers(found, stored, limit, (*Timer).compare)
	switch {
	case behind != nil:
	case len(due) > 0:
		x.timers.from = due[0].Due
	default:
		x.timers.from = min(next, nextStored)
	}
	return due, nil
}

// storedDue is [Index.Due] for what did not change since the last checkpoint. next is the due time of the first one
// behind now, if it came that far.
func (x *Index) storedDue(now int64, behind *Timer, limit int) (due []Timer, next int64, err error) {
	lower := timerDueKey(nil, x.shard, x.timers.from, "")
	if behind != nil {
		lower = append(timerDueKey(nil, x.shard, behind.Due, behind.Name()), 0)
	}
	base := len(timerFamily(nil, x.shard, timerByDue))
	it, err := x.store.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: timerFamily(nil, x.shard, timerByDue+1)})
	if err != nil {
		return nil, 0, err
	}
	defer it.Close()
	for it.First(); it.Valid() && len(due) < limit; it.Next() {
		rest := it.Key()[base:]
		if len(rest) < 8 {
			return nil, 0, fmt.Errorf("timer: %w", entry.ErrCorrupt)
		}
		at, name := int64(binary.BigEndian.Uint64(rest)), rest[8:]
		if _, newer := x.timers.changed[string(name)]; newer {
			continue
		}
		if at > now {
			return due, at, nil
		}
		t, there, err := x.storedTimer(string(name))
		if err != nil {
			return nil, 0, err
		}
		if !there || t.Due != at {
			return nil, 0, fmt.Errorf("timer: %w: the key by due time is not that of the grain", entry.ErrCorrupt)
		}
		due = append(due, t)
	}
	return due, math.MaxInt64, damage(it.Error())
}

// mergeTimers merges two ordered lists into the first limit timers of both.
func mergeTimers(a, b []Timer, limit int, compare func(*Timer, *Timer) int) []Timer {
	out := make([]Timer, 0, min(limit, len(a)+len(b)))
	for len(out) < limit && len(a)+len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && compare(&a[0], &b[0]) < 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return out
}

// TimerRange chooses reminders by their grains.
type TimerRange struct {
	// Kind of the grains, and what their keys begin with.
	Kind, Prefix string
	// Key of the one grain that is meant; empty: all with the prefix.
	Key string
	// AfterKey and AfterID are the last reminder before those that are wanted; empty: from the first on.
	AfterKey string
	AfterID  uint64
}

// Timers lists up to limit pending reminders in the order of the grains' keys and, for each, of the ids.
func (x *Index) Timers(r TimerRange, limit int) ([]Timer, error) {
	base := AppendGrain(nil, "", r.Kind, "")
	start := append(bytes.Clone(base), r.Prefix...)
	if r.Key != "" {
		start = append(append(bytes.Clone(base), r.Key...), 0)
	}
	end := successor(start)
	if r.AfterKey != "" {
		// every name has 8 bytes behind its last 0x00, so this is just behind that one
		if from := append(appendTimerName(bytes.Clone(base), r.AfterKey, r.AfterID), 0); bytes.Compare(from, start) >= 0 {
			start = from
		}
	}
	byName := func(a, b *Timer) int { return strings.Compare(a.Name(), b.Name()) }
	var found, stored []Timer
	for name, slot := range x.timers.changed {
		if !slot.gone && name >= string(start) && name < string(end) {
			found = append(found, slot.Timer)
		}
	}
	slices.SortFunc(found, func(a, b Timer) int { return byName(&a, &b) })
	skip := len(timerFamily(nil, x.shard, timerByGrain))
	it, err := x.store.db.NewIter(&pebble.IterOptions{LowerBound: timerGrainKey(nil, x.shard, string(start)), UpperBound: timerGrainKey(nil, x.shard, string(end))})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for it.First(); it.Valid() && len(stored) < limit; it.Next() {
		name := it.Key()[skip:]
		if _, newer := x.timers.changed[string(name)]; newer {
			continue
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, damage(err)
		}
		t, err := decodeTimer(name, v)
		if err != nil {
			return nil, fmt.Errorf("shard %d: %w", x.shard, err)
		}
		stored = append(stored, t)
	}
	if err := damage(it.Error()); err != nil {
		return nil, err
	}
	return mergeTimers(found, stored, limit, byName), nil
}

// TimerEvent reads the event of a reminder from the record that set it: the full name of its message, and the payload,
// which must not be changed.
func (x *Index) TimerEvent(t *Timer) (event string, payload []byte, err error) {
	fail := func(err error) (string, []byte, error) {
		return "", nil, fmt.Errorf("shard %d index %d record %d: %w", x.shard, t.Index, t.Ordinal, err)
	}
	d, err := x.Directory(t.Index)
	if err != nil {
		return "", nil, err
	}
	r, err := d.Reader(int(t.Ordinal))
	if err != nil {
		return fail(err)
	}
	var rec entry.Record
	more, err := r.Next(&rec)
	if err != nil {
		return fail(err)
	}
	if !more || int(t.Effect) >= len(rec.Effects) || rec.Effects[t.Effect].Type != entry.Remind || rec.Effects[t.Effect].Timer != t.ID ||
		string(AppendGrain(nil, rec.Tenant, rec.Kind, rec.Key)) != t.Grain {
		return fail(fmt.Errorf("%w: its effect %d does not set reminder %d", entry.ErrCorrupt, t.Effect, t.ID))
	}
	e := &rec.Effects[t.Effect]
	return e.Event, e.Payload, nil
}
