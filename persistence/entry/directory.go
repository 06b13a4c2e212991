package entry

import (
	"bytes"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// Directory is an entry that was checked once and is asked often: it knows where each record begins and to which grain it
// belongs, so that the records of one grain are found without reading those of the others. It is not changed by being
// asked, and aliases the data it was made of.
type Directory struct {
	reader  Reader // at the first record
	hashes  []uint32
	offsets []uint32
	size    int
}

// NewDirectory checks an entry and finds its records.
func NewDirectory(data []byte) (*Directory, error) {
	d := &Directory{}
	if err := d.reader.Reset(data); err != nil {
		return nil, err
	}
	r := d.reader
	d.hashes, d.offsets = make([]uint32, r.Count), make([]uint32, r.Count)
	for i := range d.offsets {
		d.offsets[i] = uint32(len(d.reader.rest) - len(r.rest))
		body, err := r.body()
		if err != nil {
			return nil, err
		}
		_, _, key, _ := r.grain(body)
		d.hashes[i] = directoryHash(key)
	}
	if len(r.rest) != 0 {
		return nil, fmt.Errorf("entry: %w: %d bytes behind the last record", ErrCorrupt, len(r.rest))
	}
	d.size = len(data) + 8*r.Count + 256
	return d, nil
}

// directoryHash only chooses what is looked at; it is never stored.
func directoryHash(key []byte) uint32 { return uint32(xxhash.Sum64(key)) }

// Size is roughly what the directory and its data take in memory, in bytes.
func (d *Directory) Size() int { return d.size }

// Reader returns a reader at a record.
func (d *Directory) Reader(ordinal int) (*Reader, error) {
	if ordinal < 0 || ordinal > len(d.offsets) {
		return nil, fmt.Errorf("entry: %w: no record %d", ErrCorrupt, ordinal)
	}
	r := d.reader
	r.next = ordinal
	if ordinal == len(d.offsets) {
		r.rest = nil
	} else {
		r.rest = r.rest[d.offsets[ordinal]:]
	}
	return &r, nil
}

// Records appends the records of one grain, in their order, to dst. They alias the entry and stay valid.
func (d *Directory) Records(dst []Record, tenant, kind string, key []byte) ([]Record, error) {
	hash := directoryHash(key)
	for i, h := range d.hashes {
		if h != hash {
			continue
		}
		r := d.reader
		r.next, r.rest = i, r.rest[d.offsets[i]:]
		body, err := r.body()
		if err != nil {
			return dst, err
		}
		if t, k, own, ok := r.grain(body); ok && (t != tenant || k != kind || !bytes.Equal(own, key)) {
			continue
		}
		dst = append(dst, Record{})
		rec := &dst[len(dst)-1]
		if err := r.record(rec, body); err != nil {
			return dst, fmt.Errorf("record %d: %w", i, err)
		}
		rec.Ordinal = uint32(i)
	}
	return dst, nil
}

// body takes the bytes of the next record.
func (r *Reader) body() ([]byte, error) {
	d := decoder{buf: r.rest}
	body := d.bytes()
	if d.bad {
		return nil, fmt.Errorf("record %d: %w: bad length", r.next, ErrCorrupt)
	}
	r.rest = d.buf
	r.next++
	return body, nil
}

// grain reads which grain a record belongs to. It reports false where that cannot be read: reading the record says why.
func (r *Reader) grain(body []byte) (tenant, kind string, key []byte, ok bool) {
	d := decoder{buf: body}
	d.byte()
	p := d.uv()
	name := func() string {
		if i := d.uv(); i < uint64(len(r.names)) {
			return r.names[i]
		}
		d.bad = true
		return ""
	}
	if p&hasTenant != 0 {
		tenant = name()
	}
	if p&hasGrain != 0 {
		kind, key = name(), d.bytes()
	}
	return tenant, kind, key, !d.bad
}
