package persistence

import (
	"encoding/binary"
	"fmt"

	"github.com/granary-dev/granary/persistence/entry"
)

// replyAt is where the answer to an event is.
type replyAt struct {
	index   uint64
	ordinal uint32
	time    int64 // journal time of the answer, Unix microseconds
}

// replyKey is how the keys of the replies in a bucket begin.
func replyKey(dst []byte, shard, bucket uint64) []byte {
	return binary.BigEndian.AppendUint64(appendPrefix(dst, shard, keyReply), bucket)
}

// appendAsked appends how the key of a reply ends: the grain and the seq of the event that is answered.
func appendAsked(dst, grain []byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(append(dst, grain...), 0), seq)
}

// noteReply takes an answer in. One with a reason has no effect.
func (x *Index) noteReply(r *entry.Record, index uint64) {
	if len(r.Reason) == 0 {
		x.replies[string(appendAsked(nil, x.grain(r), r.Seq))] = replyAt{index, r.Ordinal, r.Time}
	}
}

// Reply finds the answer to an event that deferred its reply: the record of type Answer at a place. grain is in the form of
// [AppendGrain]; from is the journal time of the event, now that of the shard.
func (x *Index) Reply(grain []byte, seq uint64, from, now int64) (index uint64, ordinal uint32, ok bool, err error) {
	rest := appendAsked(nil, grain, seq)
	if at, ok := x.replies[string(rest)]; ok {
		return at.index, at.ordinal, true, nil
	}
	for bucket := max(from, 0) / bucketMicros; bucket <= now/bucketMicros; bucket++ {
		v, err := x.store.get(append(replyKey(nil, x.shard, uint64(bucket)), rest...))
		if err != nil {
			return 0, 0, false, err
		}
		if v == nil {
			continue
		}
		f := values{buf: v}
		if index, ordinal = f.uv(), uint32(f.uv()); f.bad {
			return 0, 0, false, fmt.Errorf("reply: %w", entry.ErrCorrupt)
		}
		return index, ordinal, true, nil
	}
	return 0, 0, false, nil
}
