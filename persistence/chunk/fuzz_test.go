package chunk_test

import (
	"bytes"
	"math/bits"
	"testing"

	"github.com/cockroachdb/pebble/v2/record"

	"github.com/granary-dev/granary/persistence/chunk"
)

// stream is a manifest as Pebble writes one: records of these sizes.
func stream(t testing.TB, sizes ...int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := record.NewWriter(&b)
	for i, n := range sizes {
		if _, err := w.WriteRecord(bytes.Repeat([]byte{byte(i + 1)}, n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// damage is what a reader finds.
func damage(t *testing.T, b []byte, number uint32) (all []chunk.Damage) {
	t.Helper()
	if err := chunk.Read(bytes.NewReader(b), int64(len(b)), number, func(d chunk.Damage) { all = append(all, d) }); err != nil {
		t.Fatal(err)
	}
	return all
}

// FuzzRead reads any bytes as a log and as a manifest: it comes to an end, and damage lies within the file.
func FuzzRead(f *testing.F) {
	for _, sizes := range [][]int{{}, {0}, {1, 2, 3}, {100, chunk.Block, 5}, {chunk.Block - 7}, {3 * chunk.Block, 10}} {
		b := stream(f, sizes...)
		f.Add(b, uint32(0))
		f.Add(b, uint32(7))
		if len(b) > 20 {
			b[len(b)/2] ^= 4
			f.Add(b, uint32(0))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, number uint32) {
		for _, d := range damage(t, b, number) {
			if d.Offset < 0 || d.Offset >= int64(len(b)) || d.What == "" || d.Within >= len(d.Record) && d.Record != nil {
				t.Fatalf("%+v in %d bytes", d, len(b))
			}
		}
	})
}

// FuzzTorn cuts a good stream off anywhere, with zeros behind it or nothing: that is what a crash leaves, and no damage.
// One bit that is flipped in front of a whole record is damage, always.
func FuzzTorn(f *testing.F) {
	f.Add(10, 20, 30, uint(15), uint(0))
	f.Add(100, chunk.Block, 5, uint(chunk.Block+20), uint(100))
	f.Add(chunk.Block-7, 1, 1, uint(chunk.Block), uint(3*chunk.Block))
	f.Fuzz(func(t *testing.T, a, b, c int, at, zeros uint) {
		const most = 3 * chunk.Block
		size := func(n int) int { return (n%most + most) % most }
		good := stream(t, size(a), size(b), size(c))
		cut := append(bytes.Clone(good[:at%uint(len(good)+1)]), make([]byte, zeros%most)...)
		if d := damage(t, cut, 0); len(d) > 0 {
			t.Fatalf("records of %d, %d and %d bytes, cut at %d of %d with %d zeros: %+v", size(a), size(b), size(c), at%uint(len(good)+1), len(good), zeros%most, d[0])
		}
		first := stream(t, size(a))
		bit := at % uint(8*len(first))
		good[bit/8] ^= 1 << (bit % 8)
		if d := damage(t, good, 0); len(d) == 0 {
			t.Fatalf("bit %d of the first record of %d bytes is flipped, and nothing is found", bit, size(a))
		}
	})
}

// TestTornStart: a crash may leave the sector unwritten that the last chunk begins in, and write the next one. When the
// chunk had but one byte there, with one bit in it, that is no flipped bit. In front of a whole record it is.
func TestTornStart(t *testing.T) {
	const sector = 512
	planted := 0
	for size := range 200 {
		good := stream(t, sector-1-7, size) // the second chunk begins with the last byte of a sector
		if bits.OnesCount8(good[sector-1]) != 1 {
			continue
		}
		planted++
		torn := bytes.Clone(good)
		torn[sector-1] = 0
		if d := damage(t, torn, 0); len(d) > 0 {
			t.Errorf("%d bytes: %+v", size, d[0])
		}
		flipped := stream(t, sector-1-7, size, 3)
		flipped[sector-1] = 0
		if d := damage(t, flipped, 0); len(d) == 0 {
			t.Errorf("%d bytes: a bit is flipped in front of a whole record, and nothing is found", size)
		}
	}
	if planted == 0 {
		t.Error("no chunk begins with a byte that has one bit")
	}
}
