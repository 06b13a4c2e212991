package gateway

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// codec is the gateway's own "proto": the generated fast methods where a message has them. Requests decode themselves
// ([incoming]) and keep what is wrong with them, so that the client gets INVALID_ARGUMENT with details; a codec that
// fails leads to a bare INTERNAL.
type codec struct{}

// incoming is a request that can be read from the wire. It may keep data, which is never used again.
type incoming interface{ decode(data []byte) }

type fastMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}

// Name is of encoding.CodecV2.
func (codec) Name() string { return "proto" }

// Marshal is of encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	fast, ok := v.(fastMessage)
	if !ok {
		m, ok := v.(proto.Message)
		if !ok {
			return nil, fmt.Errorf("gateway: cannot encode a %T", v)
		}
		b, err := proto.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	size := fast.SizeVT()
	if mem.IsBelowBufferPoolingThreshold(size) {
		b := make([]byte, size)
		_, err := fast.MarshalToSizedBufferVT(b)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	pool := mem.DefaultBufferPool()
	b := pool.Get(size)
	if _, err := fast.MarshalToSizedBufferVT((*b)[:size]); err != nil {
		pool.Put(b)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(b, pool)}, nil
}

// Unmarshal is of encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if in, ok := v.(incoming); ok {
		// A copy, because strings and payloads of events point into it for as long as they live. It goes with them.
		in.decode(data.Materialize())
		return nil
	}
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("gateway: cannot decode a %T", v)
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	return proto.Unmarshal(b.ReadOnlyData(), m)
}

// request is a request of a method without events.
type request[M any, P interface {
	*M
	UnmarshalVT([]byte) error
}] struct {
	msg     M
	refusal *answer.Refusal
}

func (r *request[M, P]) decode(data []byte) {
	if err := P(&r.msg).UnmarshalVT(data); err != nil {
		r.refusal = malformed(err)
	}
}

func malformed(err error) *answer.Refusal {
	return answer.Invalid(answer.MalformedRequest, "request", "it cannot be decoded: %v", err)
}

// eventBatch is the events of a request as they came.
type eventBatch struct {
	intake.Request
	refusal *answer.Refusal
	spare   []*granaryv1.Event // to decode into
}

// reset makes room for the next request and keeps the events to decode into. Strings and payloads are let go of.
func (b *eventBatch) reset(bytes int) {
	b.spare = append(b.spare, b.Events...)
	clear(b.Events)
	b.Request = intake.Request{Events: b.Events[:0], Bytes: bytes, Deep: b.Deep[:0]}
	b.refusal = nil
}

// add decodes the next event. After too many it only counts: an empty event takes two bytes on the wire and a hundred
// times as many in memory.
func (b *eventBatch) add(data []byte, count int) {
	if count > intake.MaxEvents || b.refusal != nil {
		return
	}
	if intake.CutDeep(data) {
		b.Deep = append(b.Deep, int32(count-1))
	}
	var e *granaryv1.Event
	if n := len(b.spare); n > 0 {
		e, b.spare = b.spare[n-1], b.spare[:n-1]
		e.Reset()
	} else {
		e = &granaryv1.Event{}
	}
	if err := e.UnmarshalVTUnsafe(data); err != nil {
		b.refusal = malformed(fmt.Errorf("event %d: %w", count-1, err))
		return
	}
	b.Events = append(b.Events, e)
}

func (b *eventBatch) end(count int, err error) {
	switch {
	case b.refusal != nil:
	case err != nil:
		b.refusal = malformed(err)
	case count > intake.MaxEvents:
		b.refusal = answer.Invalid(answer.TooManyEvents, "events", "there are %d; at most %d are allowed in one batch", count, intake.MaxEvents)
	}
}

// publishRequest is a granary.v1.PublishRequest.
type publishRequest struct{ eventBatch }

func (r *publishRequest) decode(data []byte) {
	r.reset(len(data))
	count := 0
	err := fields(data, func(number protowire.Number, typ protowire.Type, value []byte, _ uint64) error {
		if number == 1 {
			if typ != protowire.BytesType {
				return errWireType(number)
			}
			count++
			r.add(value, count)
		}
		return nil
	})
	r.end(count, err)
}

// streamRequest is a granary.v1.PublishStreamRequest. It is used again for the next message of its stream: whoever takes
// its events takes only what they point to.
type streamRequest struct {
	eventBatch
	producer *granaryv1.Producer
	batch    uint64
}

func (r *streamRequest) decode(data []byte) {
	r.reset(len(data))
	r.producer, r.batch = nil, 0
	count := 0
	err := fields(data, func(number protowire.Number, typ protowire.Type, value []byte, v uint64) error {
		want := protowire.BytesType
		if number == 2 || number == 3 {
			want = protowire.VarintType
		}
		if number <= 4 && typ != want {
			return errWireType(number)
		}
		switch number {
		case 1:
			if r.producer == nil {
				r.producer = &granaryv1.Producer{}
			}
			return r.producer.UnmarshalVT(value)
		case 2:
			r.batch = v
		case 3:
			r.FirstSequence = v
		case 4:
			count++
			r.add(value, count)
		}
		return nil
	})
	r.end(count, err)
}

func errWireType(n protowire.Number) error { return fmt.Errorf("field %d has the wrong wire type", n) }

// fields calls f with each field of a message: the content of a length-delimited one, the number of a varint.
func fields(data []byte, f func(n protowire.Number, t protowire.Type, value []byte, v uint64) error) error {
	for len(data) > 0 {
		number, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var value []byte
		var v uint64
		switch typ {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(data)
		default:
			n = protowire.ConsumeFieldValue(number, typ, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := f(number, typ, value, v); err != nil {
			return err
		}
	}
	return nil
}
