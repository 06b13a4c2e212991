package verify

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/cespare/xxhash/v2"
)

var crc32c = crc32.MakeTable(crc32.Castagnoli)

// cursor takes values off the front of some bytes. The first failure sticks: what is taken after it is zero.
type cursor struct {
	rest []byte
	err  error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
	c.rest = nil
}

func (c *cursor) take(n uint64, what string) []byte {
	if n > uint64(len(c.rest)) {
		c.fail("%s wants %d bytes, %d are left", what, n, len(c.rest))
		return nil
	}
	head := c.rest[:n]
	c.rest = c.rest[n:]
	return head
}

func (c *cursor) number(what string) uint64 {
	v, n := binary.Uvarint(c.rest)
	if n <= 0 {
		c.fail("%s is not a number", what)
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) number32(what string) uint32 {
	v := c.number(what)
	if v > math.MaxUint32 {
		c.fail("%s is %d: too large", what, v)
	}
	return uint32(v)
}

func (c *cursor) signed(what string) int64 {
	v, n := binary.Varint(c.rest)
	if n <= 0 {
		c.fail("%s is not a number", what)
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) fixed(what string) uint64 {
	if b := c.take(8, what); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) octet(what string) byte {
	if b := c.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) bytes(what string) []byte { return c.take(c.number(what), what) }

// times calls fn as often as the number that comes next says, until something fails.
func (c *cursor) times(what string, fn func()) {
	for n := c.number(what); n > 0 && c.err == nil; n-- {
		fn()
	}
}

// frame is a log value without its checksum.
type frame struct {
	kind byte // Raft's type of the entry
	term uint64
	data []byte
}

// Raft's types of entries that a frame may have.
const (
	raftNormal     = 0
	raftLastChange = 2
)

func readFrame(shard, index uint64, value []byte) (f frame, err error) {
	if len(value) < 7 {
		return f, fmt.Errorf("%d bytes are too few for a frame", len(value))
	}
	body, stored := value[:len(value)-4], binary.LittleEndian.Uint32(value[len(value)-4:])
	sum := crc32.New(crc32c)
	_ = binary.Write(sum, binary.BigEndian, [2]uint64{shard, index})
	_, _ = sum.Write(body)
	if got := sum.Sum32(); got != stored {
		return f, fmt.Errorf("CRC of the frame is %08x, stored is %08x", got, stored)
	}
	c := cursor{rest: body}
	if format := c.octet("format"); format != 1 {
		return f, fmt.Errorf("frame format %d: written by a later version", format)
	}
	f.kind = c.octet("type")
	f.term = c.number("term")
	f.data = c.rest
	if f.kind > raftLastChange {
		c.fail("Raft entry type %d: written by a later version", f.kind)
	}
	return f, c.err
}

// header of an entry.
type header struct {
	codec, dictionary, key, feature uint64
	lineage, term, index, previous  uint64
	base                            int64
}

// readEntry reads an entry and calls fn for each record. A record and its slices are valid during the call; fn returns
// false to stop. begin is called before the first record and returns false to skip them all.
func readEntry(data []byte, begin func(header) bool, fn func(*record) bool) error {
	if len(data) < 4 {
		return fmt.Errorf("%d bytes are too few for an entry", len(data))
	}
	body, stored := data[:len(data)-4], binary.LittleEndian.Uint32(data[len(data)-4:])
	if got := crc32.Checksum(body, crc32c); got != stored {
		return fmt.Errorf("CRC of the entry is %08x, stored is %08x", got, stored)
	}
	c := cursor{rest: body}
	if format := c.octet("format"); c.err == nil && format != 1 {
		return fmt.Errorf("entry format %d: written by a later version", format)
	}
	var h header
	for _, field := range []*uint64{&h.codec, &h.dictionary, &h.key, &h.feature, &h.lineage, &h.term, &h.index, &h.previous} {
		*field = c.number("header")
	}
	h.base = int64(c.number("time base"))
	switch {
	case c.err != nil:
		return c.err
	case h.feature > 1:
		return fmt.Errorf("feature level %d: written by a later version", h.feature)
	case h.codec|h.dictionary|h.key != 0:
		return fmt.Errorf("codec %d, dictionary %d, key %d: written by a later version", h.codec, h.dictionary, h.key)
	}
	if !begin(h) {
		return nil
	}
	d := recordReader{base: h.base}
	c.times("names", func() { d.names = append(d.names, string(c.bytes("a name"))) })
	var ordinal uint32
	c.times("records", func() {
		b := c.bytes("a record")
		if c.err != nil {
			return
		}
		if err := d.read(b); err != nil {
			c.fail("record %d: %w", ordinal, err)
			return
		}
		d.rec.ordinal = ordinal
		ordinal++
		if !fn(&d.rec) {
			c.err = errStop
		}
	})
	if c.err == errStop { //nolint:errorlint // never wrapped
		return nil
	}
	if c.err == nil && len(c.rest) != 0 {
		c.fail("%d bytes behind the last record", len(c.rest))
	}
	return c.err
}

var errStop = fmt.Errorf("stopped")

// Types of records.
const (
	input        = 1
	void         = 2
	deadLetter   = 3
	snapshot     = 4
	logicChange  = 5
	tombstone    = 6
	timer        = 7
	session      = 8
	expiry       = 9
	compaction   = 10
	answer       = 11
	settlement   = 12
	lastOfRecord = settlement
)

var recordNames = [...]string{input: "input", void: "void", deadLetter: "dead letter", snapshot: "snapshot", logicChange: "logic change",
	tombstone: "tombstone", timer: "timer", session: "session", expiry: "expiry", compaction: "compaction mark",
	answer: "answer", settlement: "settlement"}

// Types of effects.
const (
	send       = 1 // an event for another grain, or the reply to an event if it has a token
	remind     = 2
	cancel     = 3
	publish    = 4
	deferred   = 5
	lastEffect = deferred
)

// record is one record, as the documentation has it.
type record struct {
	ordinal          uint32
	kindOf           byte
	tenant, kind     string
	key              []byte
	seq, back        uint64
	time             int64
	event            string
	eventTime        int64
	source           string
	id               []byte
	producer         string
	epoch, sequence  uint64
	cause            cause
	sender           sender
	hops             uint64
	trace            []byte
	headers          [][2][]byte
	schema, logic    uint64
	digest           uint64
	payload          []byte
	effects          []effect
	reply            []byte
	expiry           int64
	after, reason    []byte
	timer            uint64
	snap             snapshotPart
	extensions       []uint64
	extensionPayload [][]byte
}

type cause struct {
	lineage, index uint64
	ordinal        uint32
}

type sender struct {
	shard  uint64
	effect uint32
	kind   string
	key    []byte
}

type effect struct {
	kindOf  byte
	kind    string
	key     []byte
	event   string
	payload []byte
	due     uint64
	timer   uint64
	stream  string
	token   []byte
	every   uint64
}

type snapshotPart struct {
	chunk, chunks, codec, key uint32
	digest                    uint64
	reminders                 []effect // id in timer
}

// recordReader reads the records of one entry into one value.
type recordReader struct {
	names []string
	base  int64
	rec   record
	c     cursor
}

func (d *recordReader) name(what string) string {
	i := d.c.number(what)
	if d.c.err == nil && i >= uint64(len(d.names)) {
		d.c.fail("%s is name %d of %d", what, i, len(d.names))
	}
	if d.c.err != nil {
		return ""
	}
	return d.names[i]
}

// address reads the kind and key of a grain.
func (d *recordReader) address(what string) (kind string, key []byte) {
	kind, key = d.name(what), d.c.bytes(what)
	if kind == "" {
		d.c.fail("the kind of the %s is empty", what)
	}
	return kind, key
}

// fields reads each field of a record, by its bit.
var fields = [...]func(*recordReader){
	func(d *recordReader) { d.rec.tenant = d.name("tenant") },
	func(d *recordReader) { d.rec.kind, d.rec.key = d.address("grain") },
	func(d *recordReader) { d.rec.seq = d.c.number("seq") },
	func(d *recordReader) { d.rec.back = d.c.number("back") },
	func(d *recordReader) { d.rec.time += int64(d.c.number("time")) },
	func(d *recordReader) { d.rec.event = d.name("event") },
	func(d *recordReader) { d.rec.eventTime = d.c.signed("event time") },
	func(d *recordReader) { d.rec.source = d.name("source") },
	func(d *recordReader) { d.rec.id = d.c.bytes("id") },
	func(d *recordReader) {
		if d.rec.producer = d.name("producer"); d.rec.producer == "" {
			d.c.fail("producer is empty")
		}
		d.rec.epoch = d.c.number("epoch")
	},
	func(d *recordReader) { d.rec.sequence = d.c.number("sequence") },
	func(d *recordReader) {
		x := &d.rec.cause
		x.lineage, x.index, x.ordinal = d.c.number("lineage of cause"), d.c.number("index of cause"), d.c.number32("ordinal of cause")
		if x.index == 0 {
			d.c.fail("index of cause is 0")
		}
	},
	func(d *recordReader) {
		x := &d.rec.sender
		x.shard, x.effect = d.c.number("shard of sender"), d.c.number32("effect of sender")
		x.kind, x.key = d.address("sender")
	},
	func(d *recordReader) { d.rec.hops = d.c.number("hops") },
	func(d *recordReader) { d.rec.trace = d.c.bytes("trace") },
	func(d *recordReader) {
		d.c.times("headers", func() {
			d.rec.headers = append(d.rec.headers, [2][]byte{d.c.bytes("name of a header"), d.c.bytes("value of a header")})
		})
	},
	func(d *recordReader) { d.rec.schema = d.c.number("schema") },
	func(d *recordReader) { d.rec.logic = uint64(d.c.number32("logic")) },
	func(d *recordReader) { d.rec.digest = d.c.fixed("digest") },
	func(d *recordReader) { d.rec.payload = d.c.bytes("payload") },
	func(d *recordReader) { d.c.times("effects", d.effect) },
	func(d *recordReader) { d.rec.reply = d.c.bytes("reply") },
	func(d *recordReader) { d.rec.expiry = int64(d.c.number("expiry")) },
	func(d *recordReader) { d.rec.after = d.c.bytes("state after") },
	func(d *recordReader) { d.rec.reason = d.c.bytes("reason") },
	func(d *recordReader) { d.rec.timer = d.c.number("timer") },
	func(d *recordReader) {
		x := &d.rec.snap
		x.chunk, x.chunks, x.codec, x.key = d.c.number32("chunk"), d.c.number32("chunks"), d.c.number32("codec"), d.c.number32("key id")
		x.digest = d.c.fixed("digest of the state")
		if x.chunk == 0 {
			d.c.fail("chunk is 0")
		}
		d.c.times("reminders", func() {
			x.reminders = append(x.reminders, effect{timer: d.c.number("reminder"), due: d.c.number("due"), event: d.name("event"), payload: d.c.bytes("payload")})
		})
	},
	func(d *recordReader) {
		d.c.times("extensions", func() {
			id := d.c.number("extension")
			if id%2 == 1 {
				d.c.fail("extension %d: written by a later version", id)
			}
			d.rec.extensions = append(d.rec.extensions, id)
			d.rec.extensionPayload = append(d.rec.extensionPayload, d.c.bytes("extension"))
		})
	},
}

func (d *recordReader) read(b []byte) error {
	d.c = cursor{rest: b}
	d.rec = record{time: d.base, headers: d.rec.headers[:0], effects: d.rec.effects[:0],
		extensions: d.rec.extensions[:0], extensionPayload: d.rec.extensionPayload[:0]}
	d.rec.kindOf = d.c.octet("type")
	there := d.c.number("presence")
	switch {
	case d.c.err != nil:
		return d.c.err
	case d.rec.kindOf == 0:
		return fmt.Errorf("record type 0")
	case d.rec.kindOf > lastOfRecord:
		return fmt.Errorf("record type %d: written by a later version", d.rec.kindOf)
	case there>>len(fields) != 0:
		return fmt.Errorf("fields %#x: written by a later version", there>>len(fields)<<len(fields))
	}
	for bit, field := range fields {
		if there>>bit&1 == 1 {
			field(d)
		}
	}
	if d.c.err == nil && len(d.c.rest) != 0 {
		d.c.fail("%d bytes behind the last field", len(d.c.rest))
	}
	return d.c.err
}

// effectFields reads each field of an effect, by its bit.
var effectFields = [...]func(*recordReader, *effect){
	func(d *recordReader, e *effect) { e.kind, e.key = d.address("target") },
	func(d *recordReader, e *effect) { e.event = d.name("event of an effect") },
	func(d *recordReader, e *effect) { e.payload = d.c.bytes("payload of an effect") },
	func(d *recordReader, e *effect) { e.due = d.c.number("due") },
	func(d *recordReader, e *effect) { e.timer = d.c.number("timer of an effect") },
	func(d *recordReader, e *effect) { e.stream = d.name("stream") },
	func(d *recordReader, e *effect) { e.token = d.c.bytes("reply token") },
	func(d *recordReader, e *effect) { e.every = d.c.number("every") },
}

func (d *recordReader) effect() {
	e := effect{kindOf: d.c.octet("type of an effect")}
	there := d.c.number("presence of an effect")
	if d.c.err == nil && (e.kindOf == 0 || e.kindOf > lastEffect || there>>len(effectFields) != 0) {
		d.c.fail("effect type %d with fields %#x: written by a later version", e.kindOf, there)
	}
	for bit, field := range effectFields {
		if d.c.err == nil && there>>bit&1 == 1 {
			field(d, &e)
		}
	}
	d.rec.effects = append(d.rec.effects, e)
}

// outcome is the digest that the record's effects and reply must have.
func (r *record) outcome() uint64 {
	if len(r.effects) == 0 && len(r.reply) == 0 {
		return 0
	}
	var b []byte
	text := func(parts ...[]byte) {
		for _, p := range parts {
			b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
		}
	}
	for _, e := range r.effects {
		b = binary.AppendUvarint(b, uint64(e.kindOf))
		text([]byte(e.kind), e.key, []byte(e.event), e.payload)
		b = binary.AppendUvarint(binary.AppendUvarint(b, e.due), e.timer)
		text([]byte(e.stream), e.token)
		if e.every != 0 {
			b = binary.AppendUvarint(b, e.every)
		}
	}
	text(r.reply)
	return max(xxhash.Sum64(b), 1)
}

// numbered tells whether a record takes a seq of its grain.
func (r *record) numbered() bool {
	switch r.kindOf {
	case input, void, deadLetter, timer, tombstone:
		return true
	}
	return false
}

// grainKey is the form of a grain in keys.
func grainKey(tenant, kind string, key []byte) string {
	return tenant + "\x00" + kind + "\x00" + string(key)
}

// grainName is the form of a grain in findings.
func grainName(tenant, kind string, key []byte) string {
	name := fmt.Sprintf("%s/%s", kind, printable(key))
	if tenant != "" {
		name = "tenant " + printable([]byte(tenant)) + " " + name
	}
	return name
}

// printable keeps odd bytes out of findings, but leaves ordinary text as it is.
func printable(b []byte) string {
	if q := fmt.Sprintf("%q", b); q != `"`+string(b)+`"` {
		return q
	}
	return string(b)
}

// owner is the shard, of n, that owns a grain: shards own equal parts of the hash's range.
func owner(grain string, n uint64) uint64 {
	h := xxhash.Sum64String(grain)
	if n == 1 {
		return 1
	}
	shift := 64
	for m := n; m > 1; m >>= 1 {
		shift--
	}
	return h>>shift + 1
}
