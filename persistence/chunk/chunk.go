// Package chunk reads the files that Pebble writes as streams of chunks, write-ahead logs and manifests, and tells damage
// from a torn end.
//
// Pebble itself takes damage in the last block of a log, and anywhere in a manifest, for the place where a crash cut off
// the writing, and goes on without the rest. Here never lives anything that opens a store.
//
// Invariant: what a crash can leave is never called damage.
package chunk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
)

// Write-ahead logs and manifests are streams of chunks in blocks of 32 KiB. A chunk does not cross blocks; what is left
// at the end of a block is zero. A chunk is
//
//	4 bytes CRC-32C over all behind the size, masked
//	2 bytes size of the payload
//	1 byte  type: a kind (full, first, middle, last) in one of three forms
//	4 bytes number of the log (forms recyclable and synced)
//	8 bytes offset up to which the file was synced when the chunk was written (form synced)
//	…       payload
//
// Log files are written over older ones, so a chunk with another log's number is not part of the stream. A log that was
// closed ends with a header of zeros with the type recyclable-full and the number of the log after it.
const (
	Block           = 32 << 10
	plainHeader     = 7
	recycledHeader  = 11
	syncedHeader    = 19
	firstRecyclable = 5
	firstSynced     = 9
	lastChunkType   = 12
)

// place tells where in a record a chunk of this type lies.
func place(kind byte) (first, last bool) {
	in := (kind - 1) % 4 // full, first, middle, last
	return in < 2, in == 0 || in == 3
}

// HeaderSize is the size of the header of a chunk of this type.
func HeaderSize(kind byte) int {
	switch {
	case kind >= firstSynced:
		return syncedHeader
	case kind >= firstRecyclable:
		return recycledHeader
	}
	return plainHeader
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func unmask(v uint32) uint32 { return bits.RotateLeft32(v-0xa282ead8, 15) }

// At reads the chunk at the beginning of b and returns its length, or 0 when there is none that is right.
func At(b []byte, number uint32) (length int) {
	if len(b) < plainHeader || b[6] == 0 || b[6] > lastChunkType {
		return 0
	}
	header := HeaderSize(b[6])
	end := header + int(binary.LittleEndian.Uint16(b[4:]))
	if end > len(b) || header > plainHeader && binary.LittleEndian.Uint32(b[7:]) != number {
		return 0
	}
	if unmask(binary.LittleEndian.Uint32(b)) != crc32.Checksum(b[6:end], castagnoli) {
		return 0
	}
	return end
}

// flipped looks for the one bit that makes the bytes at the beginning of b a chunk again. It returns the bit's number
// and a repaired copy of the chunk.
func flipped(b []byte, number uint32) (bit int, chunk []byte) {
	b = bytes.Clone(b)
	try := func(i int) bool {
		b[i/8] ^= 1 << (i % 8)
		if n := At(b, number); n > i/8 {
			bit, chunk = i, b[:n]
			return true
		}
		b[i/8] ^= 1 << (i % 8)
		return false
	}
	for i := range min(len(b), syncedHeader) * 8 {
		if try(i) {
			return bit, chunk
		}
	}
	if len(b) < plainHeader || b[6] == 0 || b[6] > lastChunkType {
		return 0, nil
	}
	end := HeaderSize(b[6]) + int(binary.LittleEndian.Uint16(b[4:]))
	if end > len(b) {
		return 0, nil
	}
	// A CRC is linear: the difference that one bit makes depends on nothing but its distance from the end, and is found
	// by shifting from the last bit to the first.
	wrong := unmask(binary.LittleEndian.Uint32(b)) ^ crc32.Checksum(b[6:end], castagnoli)
	difference := uint32(crc32.Castagnoli)
	for i := end*8 - 1; i >= 6*8; i-- {
		if difference == wrong && try(i) {
			return bit, chunk
		}
		if difference&1 == 1 {
			difference = difference>>1 ^ crc32.Castagnoli
		} else {
			difference >>= 1
		}
	}
	return 0, nil
}

// Damage is a place in a stream of chunks that is not what was written.
type Damage struct {
	// Offset in the file, and What is wrong there.
	Offset int64
	What   string
	// Record is what the bytes belong to, repaired, where that was possible; Within is where in it they are, or -1 for
	// the header of a chunk.
	Record []byte
	Within int
}

// collector puts the records together again, to tell what damaged chunks belong to.
type collector struct {
	record  []byte
	whole   bool // from its first chunk on
	damaged []Damage
	fn      func(Damage)
}

// chunk takes the next chunk of the stream, with the damage that was repaired in it.
func (c *collector) chunk(b []byte, repaired *Damage) {
	header := HeaderSize(b[6])
	first, last := place(b[6])
	if first {
		c.cut()
		c.whole = true
	}
	if repaired != nil {
		d := *repaired
		if d.Within -= header; d.Within < 0 {
			d.Within = -1
		} else {
			d.Within += len(c.record)
		}
		c.damaged = append(c.damaged, d)
	}
	c.record = append(c.record, b[header:]...)
	if last {
		for i := range c.damaged {
			if c.whole {
				c.damaged[i].Record = c.record
			}
		}
		c.cut()
	}
}

// cut ends a record, wherever it is.
func (c *collector) cut() {
	for _, d := range c.damaged {
		c.fn(d)
	}
	c.record, c.damaged, c.whole = c.record[:0], c.damaged[:0], false
}

// Read reads a stream of chunks to its end. A torn end is no damage; where something is wrong before the end, or
// the end is wrong by one bit only, it is. number is that of the log, 0 for a manifest.
func Read(r io.ReaderAt, size int64, number uint32, fn func(Damage)) error {
	buf := make([]byte, Block)
	c := &collector{fn: fn}
	defer c.cut()
	for at := int64(0); at < size; at += Block {
		block, err := readBlock(r, size, at, buf)
		if err != nil {
			return err
		}
		for p := 0; p+plainHeader <= len(block); {
			b := block[p:]
			if n := At(b, number); n > 0 {
				c.chunk(b[:n], nil)
				p += n
				continue
			}
			if ended(b, number) {
				return nil
			}
			if left := len(block) - p; len(block) == Block && left < syncedHeader && len(bytes.Trim(b, "\x00")) == 0 {
				break // too little room for a header: the next block
			}
			if bit, chunk := flipped(b, number); chunk != nil && !maybeTorn(block, p, p+bit/8, p+len(chunk)) {
				c.chunk(chunk, &Damage{Offset: at + int64(p) + int64(bit/8), What: fmt.Sprintf("bit %d is flipped", bit%8), Within: bit / 8})
				p += len(chunk)
				continue
			}
			later, err := provenLater(r, size, at, p, block, number)
			if err != nil || later == 0 {
				return err
			}
			c.cut()
			fn(Damage{Offset: at + int64(p), What: fmt.Sprintf("the bytes up to offset %d are not what was written there", later)})
			// go on in the block of the later chunk; what comes before it there is not looked at
			at = later / Block * Block
			if block, err = readBlock(r, size, at, buf); err != nil {
				return err
			}
			p = int(later % Block)
		}
	}
	return nil
}

// sector is what a disk writes as a whole. A crash may leave any of those that were not synced unwritten, the later ones
// there or not.
const sector = 512

// maybeTorn tells whether the chunk of a block from start to end, which one bit at byte bad would repair, may as well be
// one of which some was not written: from that byte on all is zero, in the chunk and behind it; or all that the chunk has
// in that byte's sector is.
func maybeTorn(block []byte, start, bad, end int) bool {
	zero := func(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
	first := bad / sector * sector
	return zero(block[bad:]) || zero(block[max(start, first):min(end, first+sector)])
}

func readBlock(r io.ReaderAt, size, at int64, buf []byte) ([]byte, error) {
	n := min(size-at, int64(len(buf)))
	if got, err := r.ReadAt(buf[:n], at); err != nil && (err != io.EOF || int64(got) < n) { //nolint:errorlint // io.ReaderAt's contract
		return nil, err
	}
	return buf[:n], nil
}

// ended tells whether b begins with the mark of a log that was closed.
func ended(b []byte, number uint32) bool {
	return len(b) >= recycledHeader && binary.LittleEndian.Uint32(b) == 0 && binary.LittleEndian.Uint16(b[4:]) == 0 &&
		b[6] == firstRecyclable && binary.LittleEndian.Uint32(b[7:]) == number+1
}

// provenLater looks behind the bad bytes at p of a block for a chunk that proves that they were complete once: in a log
// one that was written when they were synced, in a manifest (which is written in order, and synced each time) any.
// Without it they may be a write that a crash cut off. It returns the chunk's offset, or 0.
func provenLater(r io.ReaderAt, size, at int64, p int, block []byte, number uint32) (int64, error) {
	bad := at + int64(p)
	proof := func(b []byte) bool {
		if At(b, number) == 0 {
			return false
		}
		if number == 0 {
			return true
		}
		return b[6] >= firstSynced && binary.LittleEndian.Uint64(b[recycledHeader:]) > uint64(bad)
	}
	for q := p + 1; q+plainHeader <= len(block); q++ {
		if proof(block[q:]) {
			return at + int64(q), nil
		}
	}
	buf := make([]byte, Block)
	for at += Block; at < size; at += Block {
		block, err := readBlock(r, size, at, buf)
		if err != nil {
			return 0, err
		}
		for q := 0; q+plainHeader <= len(block); {
			n := At(block[q:], number)
			if n == 0 {
				break
			}
			if proof(block[q:]) {
				return at + int64(q), nil
			}
			q += n
		}
	}
	return 0, nil
}
