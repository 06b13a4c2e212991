package entry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// Formats and levels that this package writes. It reads all that are not above.
const (
	// FrameFormat is the version of the frame.
	FrameFormat = 1
	// Format is the version of the entry.
	Format = 1
	// FeatureLevel rises when a record gets a meaning that an older reader must not skip.
	FeatureLevel = 1
)

// ErrCorrupt is at the root of every error about bytes that are not what was written.
var ErrCorrupt = errors.New("corrupt")

// ErrTooNew is at the root of every error about bytes that a later version wrote.
var ErrTooNew = errors.New("written by a later version")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Position is the place of a record in a shard's journal.
type Position struct {
	// Lineage of the shard.
	Lineage uint64
	// Index of the entry.
	Index uint64
	// Ordinal of the record in the entry, from 0.
	Ordinal uint32
}

// IsZero tells whether the position names nothing: indexes start at 1.
func (p Position) IsZero() bool { return p.Index == 0 }

// Less orders positions of one lineage.
func (p Position) Less(q Position) bool {
	return p.Index < q.Index || p.Index == q.Index && p.Ordinal < q.Ordinal
}

// Header is what an entry says about itself.
type Header struct {
	// Codec, Dictionary and Key are ids; 0 means none.
	Codec, Dictionary, Key uint64
	// Feature level.
	Feature uint64
	// Lineage of the shard.
	Lineage uint64
	// Term in which the turns ran, Index that the leader gave the entry, Previous data entry's index.
	Term, Index, Previous uint64
	// TimeBase in Unix microseconds.
	TimeBase int64
}

// AppendFrame appends the stored form of one Raft entry to dst.
func AppendFrame(dst []byte, shard, index, term uint64, raftType byte, data []byte) []byte {
	at := len(dst)
	dst = append(dst, FrameFormat, raftType)
	dst = binary.AppendUvarint(dst, term)
	dst = append(dst, data...)
	return binary.LittleEndian.AppendUint32(dst, frameCRC(shard, index, dst[at:]))
}

// FrameSize is the size of a frame of a term around n bytes of data.
func FrameSize(term uint64, n int) int { return 2 + (bits.Len64(term|1)+6)/7 + n + 4 }

// Frame reads a stored value. data aliases value.
func Frame(shard, index uint64, value []byte) (term uint64, raftType byte, data []byte, err error) {
	if len(value) < 2+1+4 {
		return 0, 0, nil, fmt.Errorf("shard %d index %d: %w: %d bytes are too few for a frame", shard, index, ErrCorrupt, len(value))
	}
	body, sum := value[:len(value)-4], binary.LittleEndian.Uint32(value[len(value)-4:])
	if got := frameCRC(shard, index, body); got != sum {
		return 0, 0, nil, fmt.Errorf("shard %d index %d: %w: frame CRC is %08x, stored is %08x", shard, index, ErrCorrupt, got, sum)
	}
	if body[0] != FrameFormat {
		return 0, 0, nil, fmt.Errorf("shard %d index %d: frame format %d: %w", shard, index, body[0], ErrTooNew)
	}
	term, n := binary.Uvarint(body[2:])
	if n <= 0 {
		return 0, 0, nil, fmt.Errorf("shard %d index %d: %w: bad term", shard, index, ErrCorrupt)
	}
	return term, body[1], body[2+n:], nil
}

func frameCRC(shard, index uint64, body []byte) uint32 {
	var place [16]byte
	binary.BigEndian.PutUint64(place[:], shard)
	binary.BigEndian.PutUint64(place[8:], index)
	return crc32.Update(crc32.Update(0, castagnoli, place[:]), castagnoli, body)
}

// Builder collects the records of one open entry. It is reused from entry to entry.
type Builder struct {
	records []byte
	scratch []byte
	base    int64
	names   map[string]uint64
	order   []string
	count   int
}

// Reset empties the builder and sets the time base of the next entry.
func (b *Builder) Reset(timeBase int64) {
	b.records = b.records[:0]
	b.base = timeBase
	if b.names == nil {
		b.names = map[string]uint64{}
	}
	clear(b.names)
	clear(b.order)
	b.order = b.order[:0]
	b.count = 0
}

// Len is the number of records so far.
func (b *Builder) Len() int { return b.count }

// Size is the number of bytes of the records so far.
func (b *Builder) Size() int { return len(b.records) }

// Close returns the encoded entry in memory of its own. The index is the one that the entry must get in the log; the
// records were built for it.
func (b *Builder) Close(h Header) []byte {
	n := 10*binary.MaxVarintLen64 + len(b.records) + 8
	for _, s := range b.order {
		n += len(s) + binary.MaxVarintLen32
	}
	dst := make([]byte, 0, n)
	dst = append(dst, Format)
	for _, v := range [...]uint64{h.Codec, h.Dictionary, h.Key, FeatureLevel, h.Lineage, h.Term, h.Index, h.Previous, uint64(b.base)} {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.order)))
	for _, s := range b.order {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	dst = binary.AppendUvarint(dst, uint64(b.count))
	dst = append(dst, b.records...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
}

// fewNames are looked through before the map is asked: most entries have no more, and comparing them costs less.
const fewNames = 8

// name returns the index of s in the table of names.
func (b *Builder) name(s string) uint64 {
	for i, known := range b.order[:min(len(b.order), fewNames)] {
		if known == s {
			return uint64(i)
		}
	}
	i, ok := b.names[s]
	if !ok {
		i = uint64(len(b.order))
		b.names[s] = i
		b.order = append(b.order, s)
	}
	return i
}

// Reader walks the records of one entry.
type Reader struct {
	// Header of the entry.
	Header Header
	// Count is the number of records.
	Count int

	names []string
	rest  []byte
	next  int
	size  int
}

// Size of the entry in bytes.
func (r *Reader) Size() int { return r.size }

// Open checks an entry and returns a reader at its first record. The reader aliases data.
func Open(data []byte) (*Reader, error) {
	r := &Reader{}
	if err := r.Reset(data); err != nil {
		return nil, err
	}
	return r, nil
}

// Reset is [Open] into an existing reader.
func (r *Reader) Reset(data []byte) error {
	if len(data) < 5 {
		return fmt.Errorf("entry: %w: %d bytes are too few", ErrCorrupt, len(data))
	}
	body, sum := data[:len(data)-4], binary.LittleEndian.Uint32(data[len(data)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return fmt.Errorf("entry: %w: CRC is %08x, stored is %08x", ErrCorrupt, got, sum)
	}
	if body[0] != Format {
		return fmt.Errorf("entry: format %d: %w", body[0], ErrTooNew)
	}
	d := decoder{buf: body[1:]}
	h := &r.Header
	h.Codec, h.Dictionary, h.Key, h.Feature = d.uv(), d.uv(), d.uv(), d.uv()
	h.Lineage, h.Term, h.Index, h.Previous = d.uv(), d.uv(), d.uv(), d.uv()
	h.TimeBase = int64(d.uv())
	switch {
	case d.bad:
		return fmt.Errorf("entry: %w: bad header", ErrCorrupt)
	case h.Feature > FeatureLevel:
		return fmt.Errorf("entry: feature level %d: %w", h.Feature, ErrTooNew)
	case h.Codec != 0 || h.Dictionary != 0 || h.Key != 0:
		return fmt.Errorf("entry: codec %d, dictionary %d, key %d: %w", h.Codec, h.Dictionary, h.Key, ErrTooNew)
	}
	n := d.count(1)
	r.names = r.names[:0]
	for range n {
		r.names = append(r.names, string(d.bytes()))
	}
	r.Count = d.count(3)
	if d.bad {
		return fmt.Errorf("entry: %w: bad table of names or count of records", ErrCorrupt)
	}
	r.rest, r.next, r.size = d.buf, 0, len(data)
	return nil
}

// Next reads the next record into rec, whose slices alias the entry, or are reused by the next call with the same rec. It
// returns false at the end.
func (r *Reader) Next(rec *Record) (bool, error) {
	if r.next == r.Count {
		if len(r.rest) != 0 {
			return false, fmt.Errorf("entry: %w: %d bytes behind the last record", ErrCorrupt, len(r.rest))
		}
		return false, nil
	}
	ordinal := r.next
	body, err := r.body()
	if err != nil {
		return false, err
	}
	if err := r.record(rec, body); err != nil {
		return false, fmt.Errorf("record %d: %w", ordinal, err)
	}
	rec.Ordinal = uint32(ordinal)
	return true, nil
}

// Skip passes over n records without reading them.
func (r *Reader) Skip(n int) error {
	for range n {
		if r.next == r.Count {
			return fmt.Errorf("entry: %w: no record %d", ErrCorrupt, r.next)
		}
		if _, err := r.body(); err != nil {
			return err
		}
	}
	return nil
}

// decoder reads primitive values and remembers that one was bad.
type decoder struct {
	buf []byte
	bad bool
}

func (d *decoder) uv() uint64 {
	if len(d.buf) > 0 && d.buf[0] < 0x80 {
		v := d.buf[0]
		d.buf = d.buf[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.buf)
	if n <= 0 {
		d.bad, d.buf = true, nil
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) u32() uint32 {
	v := d.uv()
	if v > 1<<32-1 {
		d.bad = true
	}
	return uint32(v)
}

func (d *decoder) sv() int64 {
	v := d.uv()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) fixed64() uint64 {
	if len(d.buf) < 8 {
		d.bad, d.buf = true, nil
		return 0
	}
	v := binary.LittleEndian.Uint64(d.buf)
	d.buf = d.buf[8:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.buf) == 0 {
		d.bad = true
		return 0
	}
	v := d.buf[0]
	d.buf = d.buf[1:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uv()
	if n > uint64(len(d.buf)) {
		d.bad, d.buf = true, nil
		return nil
	}
	v := d.buf[:n:n]
	d.buf = d.buf[n:]
	return v
}

// count reads the number of items that take at least min bytes each, so that hostile counts allocate nothing.
func (d *decoder) count(min int) int {
	n := d.uv()
	if n > uint64(len(d.buf)/min) {
		d.bad, d.buf = true, nil
		return 0
	}
	return int(n)
}
