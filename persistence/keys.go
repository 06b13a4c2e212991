package persistence

import (
	"encoding/binary"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Types of keys. The package documentation has the layout.
const (
	keyLog      = 0x01
	keyHard     = 0x02
	keyApplied  = 0x03
	keyHead     = 0x04
	keySnap     = 0x05
	keyInbox    = 0x06
	keyOutbox   = 0x07
	keyProducer = 0x08
	keyID       = 0x09
	keyTimer    = 0x0a
	keyState    = 0x0b
	keyLogic    = 0x11
	keyReply    = 0x12
	keyDead     = 0x13
	keyNode     = 0x7f
)

// bucketMicros is the width of a bucket of event ids.
const bucketMicros = 6 * 3600 * 1e6

func appendPrefix(dst []byte, shard uint64, typ byte) []byte {
	return append(binary.BigEndian.AppendUint64(dst, shard), typ)
}

func key(shard uint64, typ byte) []byte { return appendPrefix(make([]byte, 0, 32), shard, typ) }

func logKey(dst []byte, shard, index uint64) []byte {
	return binary.BigEndian.AppendUint64(appendPrefix(dst, shard, keyLog), index)
}

// AppendGrain appends the form that a grain has in keys: tenant, 0x00, kind, 0x00, key.
func AppendGrain[K string | []byte](dst []byte, tenant, kind string, key K) []byte {
	dst = append(append(dst, tenant...), 0)
	dst = append(append(dst, kind...), 0)
	return append(dst, key...)
}

// CutGrain is the reverse of [AppendGrain] for a grain without a tenant.
func CutGrain(grain string) (kind, key string) {
	_, rest, _ := strings.Cut(grain, "\x00")
	kind, key, _ = strings.Cut(rest, "\x00")
	return kind, key
}

// GrainHash is the place of a grain on the ring of shards: XXH64 of its form in keys.
func GrainHash[K string | []byte](tenant, kind string, key K) uint64 {
	var buf [160]byte
	return xxhash.Sum64(AppendGrain(buf[:0], tenant, kind, key))
}

// IDHash is the hash under which the id of an event of a grain (as in keys) is remembered.
func IDHash[K string | []byte](grain []byte, source string, id K) uint64 {
	var buf [512]byte
	b := append(append(buf[:0], grain...), 0)
	b = append(append(b, source...), 0)
	return xxhash.Sum64(append(b, id...))
}

// BodyHash is the hash by which two events of the same id are held equal.
func BodyHash(event string, payload []byte) uint64 {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.WriteString(event)
	_, _ = h.Write([]byte{0})
	_, _ = h.Write(payload)
	return h.Sum64()
}

// successor is the smallest key that does not begin with prefix.
func successor(prefix []byte) []byte {
	s := append([]byte(nil), prefix...)
	for i := len(s) - 1; i >= 0; i-- {
		if s[i]++; s[i] != 0 {
			return s[:i+1]
		}
	}
	return nil
}

// values reads the uv fields of a derived value.
type values struct {
	buf []byte
	bad bool
}

func (v *values) uv() uint64 {
	x, n := binary.Uvarint(v.buf)
	if n <= 0 {
		v.bad, v.buf = true, nil
		return 0
	}
	v.buf = v.buf[n:]
	return x
}

func (v *values) fixed64() uint64 {
	if len(v.buf) < 8 {
		v.bad, v.buf = true, nil
		return 0
	}
	x := binary.LittleEndian.Uint64(v.buf)
	v.buf = v.buf[8:]
	return x
}

func appendUvs(dst []byte, vs ...uint64) []byte {
	for _, v := range vs {
		dst = binary.AppendUvarint(dst, v)
	}
	return dst
}
