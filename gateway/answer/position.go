package answer

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/granary-dev/granary/persistence/entry"
)

// positionFormat is the first byte of a position, so that it can take on more some day.
const positionFormat = 1

// maxPosition is the most bytes of a position before base64.
const maxPosition = 1 + 2*binary.MaxVarintLen64 + binary.MaxVarintLen32

// ErrPosition is at the root of the error about a string that is not a position.
var ErrPosition = errors.New("not a position")

var positionText = base64.RawURLEncoding.Strict()

// Position is the form in which clients see a position. Nothing has none: the zero position is the empty string.
//
// It is base64url without padding over a format byte and the lineage, index and ordinal as varints. Clients must not
// look inside.
func Position(p entry.Position) string {
	if p.IsZero() {
		return ""
	}
	var raw [maxPosition]byte
	b := append(raw[:0], positionFormat)
	b = binary.AppendUvarint(b, p.Lineage)
	b = binary.AppendUvarint(b, p.Index)
	b = binary.AppendUvarint(b, uint64(p.Ordinal))
	return positionText.EncodeToString(b)
}

// ParsePosition reads what [Position] wrote, and nothing else: each position has one form.
func ParsePosition(s string) (entry.Position, error) {
	if s == "" {
		return entry.Position{}, nil
	}
	if len(s) > positionText.EncodedLen(maxPosition) {
		return entry.Position{}, fmt.Errorf("%w: too long", ErrPosition)
	}
	raw, err := positionText.DecodeString(s)
	if err != nil {
		return entry.Position{}, fmt.Errorf("%w: %w", ErrPosition, err)
	}
	if len(raw) == 0 { // the decoder skips line breaks
		return entry.Position{}, fmt.Errorf("%w: nothing in it", ErrPosition)
	}
	if raw[0] != positionFormat {
		return entry.Position{}, fmt.Errorf("%w: of format %d, this version knows %d", ErrPosition, raw[0], positionFormat)
	}
	var v [3]uint64
	rest := raw[1:]
	for i := range v {
		n := 0
		if v[i], n = binary.Uvarint(rest); n <= 0 {
			return entry.Position{}, fmt.Errorf("%w: cut short", ErrPosition)
		}
		rest = rest[n:]
	}
	if v[2] > math.MaxUint32 {
		return entry.Position{}, fmt.Errorf("%w: bad ordinal", ErrPosition)
	}
	p := entry.Position{Lineage: v[0], Index: v[1], Ordinal: uint32(v[2])}
	if Position(p) != s {
		return entry.Position{}, fmt.Errorf("%w: not as it was given", ErrPosition)
	}
	return p, nil
}
