package entry

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// Type says what a record is.
type Type byte

// Types of records. Those behind Void, DeadLetter and Snapshot that nothing writes yet are read and written by this
// package, but a shard that meets one it cannot honour stops.
const (
	Input          Type = 1  // an event and the outcome of its turn
	Void           Type = 2  // an event that the grain rejected
	DeadLetter     Type = 3  // an event whose turn failed
	Snapshot       Type = 4  // a chunk of a grain's state
	LogicChange    Type = 5  // a kind's logic version was raised, and no earlier one is needed for what comes
	Tombstone      Type = 6  // a grain was deleted
	Timer          Type = 7  // a reminder fired
	Session        Type = 8  // a producer began an epoch
	Expiry         Type = 9  // a producer was forgotten
	CompactionMark Type = 10 // history below was rewritten
	Answer         Type = 11 // the reply to an event whose turn deferred it
	Settlement     Type = 12 // a dead letter was retried or dropped
	lastType            = Settlement
)

var typeNames = [...]string{Input: "input", Void: "void", DeadLetter: "dead letter", Snapshot: "snapshot",
	LogicChange: "logic change", Tombstone: "tombstone", Timer: "timer", Session: "session", Expiry: "expiry",
	CompactionMark: "compaction mark", Answer: "answer", Settlement: "settlement"}

// String is the type in words.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("record type %d", byte(t))
}

// Numbered tells whether records of this type take a seq of their grain.
func (t Type) Numbered() bool {
	switch t {
	case Input, Void, DeadLetter, Timer, Tombstone:
		return true
	}
	return false
}

// Record is one record of an entry. Zero fields are absent from its encoding. The package documentation has the meaning
// of each.
type Record struct {
	Type    Type
	Ordinal uint32 // set by the reader; not encoded

	Tenant     string
	Kind       string
	Key        []byte
	Seq        uint64
	Back       uint64 // distance in indexes to the grain's previous entry
	Time       int64  // journal time, Unix microseconds
	Event      string
	EventTime  int64 // Unix nanoseconds
	Source     string
	ID         []byte
	Producer   string
	Epoch      uint64
	Sequence   uint64
	Cause      Position
	Sender     Sender
	Hops       uint64
	Trace      []byte
	Headers    []Attribute
	Schema     uint64
	Logic      uint32
	Digest     uint64
	Payload    []byte
	Effects    []Effect
	Reply      []byte
	Expiry     int64 // Unix microseconds
	StateAfter []byte
	Reason     []byte
	Timer      uint64
	Snapshot   SnapshotMeta
	Extensions []Extension
}

// Sender is the grain that sent the event of a record.
type Sender struct {
	// Shard of the sender.
	Shard uint64
	// Effect is the number of the send in the record named by the cause.
	Effect uint32
	// Kind and Key of the sender.
	Kind string
	Key  []byte
}

// Attribute is one header of an event.
type Attribute struct{ Name, Value []byte }

// SnapshotMeta is what a snapshot record says beside the state, which is its payload.
type SnapshotMeta struct {
	// Chunk n of Chunks, from 1.
	Chunk, Chunks uint32
	// Codec and Key id of the chunk; 0 means none.
	Codec, Key uint32
	// Digest is XXH64 of the whole state.
	Digest uint64
	// Reminders that are pending.
	Reminders []Reminder
}

// Reminder is a pending reminder of a grain.
type Reminder struct {
	ID      uint64
	Due     int64 // Unix microseconds
	Event   string
	Payload []byte
}

// Extension is a field of a later version. An odd id must be understood.
type Extension struct {
	ID   uint64
	Data []byte
}

// EffectType says what an effect does.
type EffectType byte

// Types of effects.
const (
	Send    EffectType = 1
	Remind  EffectType = 2
	Cancel  EffectType = 3
	Publish EffectType = 4
	Defer   EffectType = 5
)

// Effect is one effect of a turn. Zero fields are absent.
type Effect struct {
	Type    EffectType
	Kind    string
	Key     []byte
	Event   string
	Payload []byte
	Due     int64 // Unix microseconds
	Timer   uint64
	Stream  string
	Token   []byte
	Every   int64 // microseconds between the firings of a reminder that repeats
}

// presence bits of a record
const (
	hasTenant = 1 << iota
	hasGrain
	hasSeq
	hasBack
	hasTime
	hasEvent
	hasEventTime
	hasSource
	hasID
	hasProducer
	hasSequence
	hasCause
	hasSender
	hasHops
	hasTrace
	hasHeaders
	hasSchema
	hasLogic
	hasDigest
	hasPayload
	hasEffects
	hasReply
	hasExpiry
	hasStateAfter
	hasReason
	hasTimer
	hasSnapshot
	hasExtensions
	knownFields = hasExtensions<<1 - 1
)

// presence bits of an effect
const (
	effectTo = 1 << iota
	effectEvent
	effectPayload
	effectDue
	effectTimer
	effectStream
	effectToken
	effectEvery
	knownEffectFields = effectEvery<<1 - 1
)

func (rec *Record) presence(base int64) (p uint64) {
	set := func(there bool, bit uint64) {
		if there {
			p |= bit
		}
	}
	set(rec.Tenant != "", hasTenant)
	set(rec.Kind != "", hasGrain)
	set(rec.Seq != 0, hasSeq)
	set(rec.Back != 0, hasBack)
	set(rec.Time != base, hasTime)
	set(rec.Event != "", hasEvent)
	set(rec.EventTime != 0, hasEventTime)
	set(rec.Source != "", hasSource)
	set(len(rec.ID) != 0, hasID)
	set(rec.Producer != "", hasProducer)
	set(rec.Sequence != 0, hasSequence)
	set(!rec.Cause.IsZero(), hasCause)
	set(rec.Sender.Kind != "", hasSender)
	set(rec.Hops != 0, hasHops)
	set(len(rec.Trace) != 0, hasTrace)
	set(len(rec.Headers) != 0, hasHeaders)
	set(rec.Schema != 0, hasSchema)
	set(rec.Logic != 0, hasLogic)
	set(rec.Digest != 0, hasDigest)
	set(len(rec.Payload) != 0, hasPayload)
	set(len(rec.Effects) != 0, hasEffects)
	set(len(rec.Reply) != 0, hasReply)
	set(rec.Expiry != 0, hasExpiry)
	set(len(rec.StateAfter) != 0, hasStateAfter)
	set(len(rec.Reason) != 0, hasReason)
	set(rec.Timer != 0, hasTimer)
	set(rec.Snapshot.Chunk != 0, hasSnapshot)
	set(len(rec.Extensions) != 0, hasExtensions)
	return p
}

// Append adds a record to the open entry and returns its ordinal. rec.Time must not be before the time base.
func (b *Builder) Append(rec *Record) uint32 {
	p := rec.presence(b.base)
	d := append(b.scratch[:0], byte(rec.Type))
	d = binary.AppendUvarint(d, p)
	if p&hasTenant != 0 {
		d = binary.AppendUvarint(d, b.name(rec.Tenant))
	}
	if p&hasGrain != 0 {
		d = binary.AppendUvarint(d, b.name(rec.Kind))
		d = appendBytes(d, rec.Key)
	}
	if p&hasSeq != 0 {
		d = binary.AppendUvarint(d, rec.Seq)
	}
	if p&hasBack != 0 {
		d = binary.AppendUvarint(d, rec.Back)
	}
	if p&hasTime != 0 {
		d = binary.AppendUvarint(d, uint64(rec.Time-b.base))
	}
	if p&hasEvent != 0 {
		d = binary.AppendUvarint(d, b.name(rec.Event))
	}
	if p&hasEventTime != 0 {
		d = binary.AppendVarint(d, rec.EventTime)
	}
	if p&hasSource != 0 {
		d = binary.AppendUvarint(d, b.name(rec.Source))
	}
	if p&hasID != 0 {
		d = appendBytes(d, rec.ID)
	}
	if p&hasProducer != 0 {
		d = binary.AppendUvarint(d, b.name(rec.Producer))
		d = binary.AppendUvarint(d, rec.Epoch)
	}
	if p&hasSequence != 0 {
		d = binary.AppendUvarint(d, rec.Sequence)
	}
	if p&hasCause != 0 {
		d = binary.AppendUvarint(d, rec.Cause.Lineage)
		d = binary.AppendUvarint(d, rec.Cause.Index)
		d = binary.AppendUvarint(d, uint64(rec.Cause.Ordinal))
	}
	if p&hasSender != 0 {
		d = binary.AppendUvarint(d, rec.Sender.Shard)
		d = binary.AppendUvarint(d, uint64(rec.Sender.Effect))
		d = binary.AppendUvarint(d, b.name(rec.Sender.Kind))
		d = appendBytes(d, rec.Sender.Key)
	}
	if p&hasHops != 0 {
		d = binary.AppendUvarint(d, rec.Hops)
	}
	if p&hasTrace != 0 {
		d = appendBytes(d, rec.Trace)
	}
	if p&hasHeaders != 0 {
		d = binary.AppendUvarint(d, uint64(len(rec.Headers)))
		for _, h := range rec.Headers {
			d = appendBytes(appendBytes(d, h.Name), h.Value)
		}
	}
	if p&hasSchema != 0 {
		d = binary.AppendUvarint(d, rec.Schema)
	}
	if p&hasLogic != 0 {
		d = binary.AppendUvarint(d, uint64(rec.Logic))
	}
	if p&hasDigest != 0 {
		d = binary.LittleEndian.AppendUint64(d, rec.Digest)
	}
	if p&hasPayload != 0 {
		d = appendBytes(d, rec.Payload)
	}
	if p&hasEffects != 0 {
		d = binary.AppendUvarint(d, uint64(len(rec.Effects)))
		for i := range rec.Effects {
			d = b.effect(d, &rec.Effects[i])
		}
	}
	if p&hasReply != 0 {
		d = appendBytes(d, rec.Reply)
	}
	if p&hasExpiry != 0 {
		d = binary.AppendUvarint(d, uint64(rec.Expiry))
	}
	if p&hasStateAfter != 0 {
		d = appendBytes(d, rec.StateAfter)
	}
	if p&hasReason != 0 {
		d = appendBytes(d, rec.Reason)
	}
	if p&hasTimer != 0 {
		d = binary.AppendUvarint(d, rec.Timer)
	}
	if p&hasSnapshot != 0 {
		s := &rec.Snapshot
		for _, v := range [...]uint32{s.Chunk, s.Chunks, s.Codec, s.Key} {
			d = binary.AppendUvarint(d, uint64(v))
		}
		d = binary.LittleEndian.AppendUint64(d, s.Digest)
		d = binary.AppendUvarint(d, uint64(len(s.Reminders)))
		for _, r := range s.Reminders {
			d = binary.AppendUvarint(d, r.ID)
			d = binary.AppendUvarint(d, uint64(r.Due))
			d = binary.AppendUvarint(d, b.name(r.Event))
			d = appendBytes(d, r.Payload)
		}
	}
	if p&hasExtensions != 0 {
		d = binary.AppendUvarint(d, uint64(len(rec.Extensions)))
		for _, x := range rec.Extensions {
			d = appendBytes(binary.AppendUvarint(d, x.ID), x.Data)
		}
	}
	b.scratch = d
	b.records = appendBytes(b.records, d)
	b.count++
	return uint32(b.count - 1)
}

func (b *Builder) effect(d []byte, e *Effect) []byte {
	var p uint64
	set := func(there bool, bit uint64) {
		if there {
			p |= bit
		}
	}
	set(e.Kind != "", effectTo)
	set(e.Event != "", effectEvent)
	set(len(e.Payload) != 0, effectPayload)
	set(e.Due != 0, effectDue)
	set(e.Timer != 0, effectTimer)
	set(e.Stream != "", effectStream)
	set(len(e.Token) != 0, effectToken)
	set(e.Every != 0, effectEvery)
	d = binary.AppendUvarint(append(d, byte(e.Type)), p)
	if p&effectTo != 0 {
		d = appendBytes(binary.AppendUvarint(d, b.name(e.Kind)), e.Key)
	}
	if p&effectEvent != 0 {
		d = binary.AppendUvarint(d, b.name(e.Event))
	}
	if p&effectPayload != 0 {
		d = appendBytes(d, e.Payload)
	}
	if p&effectDue != 0 {
		d = binary.AppendUvarint(d, uint64(e.Due))
	}
	if p&effectTimer != 0 {
		d = binary.AppendUvarint(d, e.Timer)
	}
	if p&effectStream != 0 {
		d = binary.AppendUvarint(d, b.name(e.Stream))
	}
	if p&effectToken != 0 {
		d = appendBytes(d, e.Token)
	}
	if p&effectEvery != 0 {
		d = binary.AppendUvarint(d, uint64(e.Every))
	}
	return d
}

// record reads one record from body.
func (r *Reader) record(rec *Record, body []byte) error {
	headers, effects, extensions, reminders := rec.Headers[:0], rec.Effects[:0], rec.Extensions[:0], rec.Snapshot.Reminders[:0]
	*rec = Record{} // cleared in place: to copy one costs as much as to decode it
	rec.Headers, rec.Effects, rec.Extensions, rec.Snapshot.Reminders = headers, effects, extensions, reminders
	d := decoder{buf: body}
	rec.Type = Type(d.byte())
	if rec.Type == 0 {
		return fmt.Errorf("%v: %w", rec.Type, ErrCorrupt)
	}
	if rec.Type > lastType {
		return fmt.Errorf("%v: %w", rec.Type, ErrTooNew)
	}
	p := d.uv()
	if p&^uint64(knownFields) != 0 {
		return fmt.Errorf("fields %#x: %w", p&^uint64(knownFields), ErrTooNew)
	}
	name := func() string {
		i := d.uv()
		if i >= uint64(len(r.names)) {
			d.bad = true
			return ""
		}
		return r.names[i]
	}
	if p&hasTenant != 0 {
		rec.Tenant = name()
	}
	if p&hasGrain != 0 {
		rec.Kind, rec.Key = name(), d.bytes()
	}
	if p&hasSeq != 0 {
		rec.Seq = d.uv()
	}
	if p&hasBack != 0 {
		rec.Back = d.uv()
	}
	rec.Time = r.Header.TimeBase
	if p&hasTime != 0 {
		rec.Time += int64(d.uv())
	}
	if p&hasEvent != 0 {
		rec.Event = name()
	}
	if p&hasEventTime != 0 {
		rec.EventTime = d.sv()
	}
	if p&hasSource != 0 {
		rec.Source = name()
	}
	if p&hasID != 0 {
		rec.ID = d.bytes()
	}
	if p&hasProducer != 0 {
		rec.Producer, rec.Epoch = name(), d.uv()
	}
	if p&hasSequence != 0 {
		rec.Sequence = d.uv()
	}
	if p&hasCause != 0 {
		rec.Cause = Position{d.uv(), d.uv(), d.u32()}
	}
	if p&hasSender != 0 {
		rec.Sender = Sender{d.uv(), d.u32(), name(), d.bytes()}
	}
	if p&hasHops != 0 {
		rec.Hops = d.uv()
	}
	if p&hasTrace != 0 {
		rec.Trace = d.bytes()
	}
	if p&hasHeaders != 0 {
		for range d.count(2) {
			rec.Headers = append(rec.Headers, Attribute{d.bytes(), d.bytes()})
		}
	}
	if p&hasSchema != 0 {
		rec.Schema = d.uv()
	}
	if p&hasLogic != 0 {
		rec.Logic = d.u32()
	}
	if p&hasDigest != 0 {
		rec.Digest = d.fixed64()
	}
	if p&hasPayload != 0 {
		rec.Payload = d.bytes()
	}
	if p&hasEffects != 0 {
		for range d.count(2) {
			var e Effect
			e.Type = EffectType(d.byte())
			q := d.uv()
			if e.Type < Send || e.Type > Defer || q&^uint64(knownEffectFields) != 0 {
				if d.bad {
					break
				}
				return fmt.Errorf("effect type %d with fields %#x: %w", e.Type, q, ErrTooNew)
			}
			if q&effectTo != 0 {
				e.Kind, e.Key = name(), d.bytes()
				d.bad = d.bad || e.Kind == ""
			}
			if q&effectEvent != 0 {
				e.Event = name()
			}
			if q&effectPayload != 0 {
				e.Payload = d.bytes()
			}
			if q&effectDue != 0 {
				e.Due = int64(d.uv())
			}
			if q&effectTimer != 0 {
				e.Timer = d.uv()
			}
			if q&effectStream != 0 {
				e.Stream = name()
			}
			if q&effectToken != 0 {
				e.Token = d.bytes()
			}
			if q&effectEvery != 0 {
				e.Every = int64(d.uv())
			}
			rec.Effects = append(rec.Effects, e)
		}
	}
	if p&hasReply != 0 {
		rec.Reply = d.bytes()
	}
	if p&hasExpiry != 0 {
		rec.Expiry = int64(d.uv())
	}
	if p&hasStateAfter != 0 {
		rec.StateAfter = d.bytes()
	}
	if p&hasReason != 0 {
		rec.Reason = d.bytes()
	}
	if p&hasTimer != 0 {
		rec.Timer = d.uv()
	}
	if p&hasSnapshot != 0 {
		s := &rec.Snapshot
		s.Chunk, s.Chunks, s.Codec, s.Key, s.Digest = d.u32(), d.u32(), d.u32(), d.u32(), d.fixed64()
		for range d.count(4) {
			s.Reminders = append(s.Reminders, Reminder{d.uv(), int64(d.uv()), name(), d.bytes()})
		}
	}
	if p&hasExtensions != 0 {
		for range d.count(2) {
			x := Extension{d.uv(), d.bytes()}
			if x.ID%2 == 1 {
				return fmt.Errorf("extension %d: %w", x.ID, ErrTooNew)
			}
			rec.Extensions = append(rec.Extensions, x)
		}
	}
	// The part of a field that decides whether it is there is never zero in it: such a field could not be written again.
	if p&hasGrain != 0 && rec.Kind == "" || p&hasProducer != 0 && rec.Producer == "" || p&hasCause != 0 && rec.Cause.IsZero() ||
		p&hasSender != 0 && rec.Sender.Kind == "" || p&hasSnapshot != 0 && rec.Snapshot.Chunk == 0 {
		d.bad = true
	}
	if d.bad || len(d.buf) != 0 {
		return fmt.Errorf("%v: %w: bad fields", rec.Type, ErrCorrupt)
	}
	return nil
}

func appendBytes(d, v []byte) []byte {
	return append(binary.AppendUvarint(d, uint64(len(v))), v...)
}

// OutcomeDigest is what the digest of a record must be: XXH64 over its effects and its reply, 0 where it has neither.
func (rec *Record) OutcomeDigest() uint64 {
	if len(rec.Effects) == 0 && len(rec.Reply) == 0 {
		return 0
	}
	var h xxhash.Digest
	h.Reset()
	var n [10]byte
	number := func(v uint64) { _, _ = h.Write(binary.AppendUvarint(n[:0], v)) }
	text := func(s string) { number(uint64(len(s))); _, _ = h.WriteString(s) }
	bytes := func(b []byte) { number(uint64(len(b))); _, _ = h.Write(b) }
	for i := range rec.Effects {
		e := &rec.Effects[i]
		number(uint64(e.Type))
		text(e.Kind)
		bytes(e.Key)
		text(e.Event)
		bytes(e.Payload)
		number(uint64(e.Due))
		number(e.Timer)
		text(e.Stream)
		bytes(e.Token)
		if e.Every != 0 {
			number(uint64(e.Every))
		}
	}
	bytes(rec.Reply)
	if d := h.Sum64(); d != 0 {
		return d
	}
	return 1 // 0 stands for "nothing to digest"
}
