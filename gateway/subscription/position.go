package subscription

import (
	"encoding/base64"
	"encoding/binary"
	"math"

	"github.com/cespare/xxhash/v2"

	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/answer"
)

// A position is base64url without padding over: a format byte; 's' or 'k', for a stream or a kind; uv n and its name, of n
// bytes; uv number of shards; for each shard in their order sv lineage less the one before less 1, uv index, uv of twice
// the distance to the last data entry, plus one if ordinal and effect follow, as uv; and 4 bytes of XXH64 over all of it,
// so that what was cut or mistyped is no position. uv is a varint, sv a zigzag one. It is not secret, and whoever forges
// one only deceives himself.
const positionFormat = 1

// maxPositionBytes is the most that a position of n shards takes before base64.
func maxPositionBytes(n int) int { return 256 + n*5*binary.MaxVarintLen64 }

var positionText = base64.RawURLEncoding.Strict()

// position is where the subscription is.
func (s *Subscription) position() string {
	points := make([]byte, 0, 160+8*len(s.cursors))
	points = append(points, positionFormat)
	points = appendSource(points, &s.cfg)
	points = binary.AppendUvarint(points, uint64(len(s.cursors)))
	var lineage uint64
	for i := range s.cursors {
		p := &s.cursors[i].point
		points = binary.AppendVarint(points, int64(p.Lineage-lineage-1))
		lineage = p.Lineage
		points = binary.AppendUvarint(points, p.Index)
		points = binary.AppendUvarint(points, (p.Index-p.Data)<<1|bit(p.midway()))
		if p.midway() {
			points = binary.AppendUvarint(points, uint64(p.ordinal))
			points = binary.AppendUvarint(points, uint64(p.effect))
		}
	}
	return positionText.EncodeToString(binary.LittleEndian.AppendUint32(points, uint32(xxhash.Sum64(points))))
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func appendSource(dst []byte, c *Config) []byte {
	sort, name := byte('s'), c.Stream
	if c.Kind != "" {
		sort, name = 'k', c.Kind
	}
	dst = binary.AppendUvarint(append(dst, sort), uint64(len(name)))
	return append(dst, name...)
}

func badPosition(why string) *answer.Refusal {
	return answer.Invalid(answer.InvalidPosition, "position", "%s; take one as it came in a response", why)
}

// parsePosition reads what position wrote for this source.
func parsePosition(text string, c *Config) ([]point, *answer.Refusal) {
	if len(text) > positionText.EncodedLen(maxPositionBytes(c.Shards)) {
		return nil, badPosition("it is too long")
	}
	b, err := positionText.DecodeString(text)
	if err != nil || len(b) < 5 || positionText.EncodeToString(b) != text {
		return nil, badPosition("it is not the position of a subscription")
	}
	if b[0] != positionFormat {
		return nil, badPosition("it is not the position of a subscription, or of one of a later version")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if uint32(xxhash.Sum64(body)) != sum {
		return nil, badPosition("it was changed or cut")
	}
	d := digits{rest: body[1:]}
	sort := d.bytes(1)
	name := d.bytes(d.uv())
	if d.bad {
		return nil, badPosition("it is not the position of a subscription")
	}
	if own := appendSource(nil, c); string(own) != string(appendName(sort, name)) {
		what := "stream"
		if string(sort) == "k" {
			what = "kind"
		}
		return nil, badPosition("it is of the " + what + " " + answer.Text(string(name), 64))
	}
	if n := d.uv(); n != uint64(c.Shards) {
		return nil, badPosition("it is of a cluster with another number of shards")
	}
	points := make([]point, c.Shards)
	var lineage uint64
	for i := range points {
		lineage += uint64(d.sv()) + 1
		index := d.uv()
		gap := d.uv()
		points[i].Place = routing.Place{Lineage: lineage, Index: index, Data: index - gap>>1}
		if gap&1 == 1 {
			points[i].ordinal, points[i].effect = d.u32(), d.u32()
		}
		d.bad = d.bad || gap>>1 > index
	}
	if d.bad || len(d.rest) > 0 {
		return nil, badPosition("it is not the position of a subscription")
	}
	return points, nil
}

func appendName(sort, name []byte) []byte {
	b := binary.AppendUvarint(append([]byte(nil), sort...), uint64(len(name)))
	return append(b, name...)
}

// digits reads numbers and remembers that one was bad.
type digits struct {
	rest []byte
	bad  bool
}

func (d *digits) uv() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *digits) sv() int64 {
	v := d.uv()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *digits) u32() uint32 {
	v := d.uv()
	d.bad = d.bad || v > math.MaxUint32
	return uint32(v)
}

func (d *digits) bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}
