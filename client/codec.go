package client

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto" // registers the codec to fall back on
	"google.golang.org/grpc/mem"
)

// Codec is protobuf by the generated MarshalVT and UnmarshalVT methods where a message has them, which is about twice as
// fast, and by the protobuf library where it has not. On the wire it is the same. [Dial] uses it; it is not registered,
// so that other connections of the program are left alone.
func Codec() encoding.CodecV2 { return codec{fallback: encoding.GetCodecV2(proto.Name)} }

type codec struct{ fallback encoding.CodecV2 }

type fastMarshaler interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}

type fastUnmarshaler interface {
	Reset()
	UnmarshalVT([]byte) error
}

func (codec) Name() string { return proto.Name }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(fastMarshaler)
	if !ok {
		return c.fallback.Marshal(v)
	}
	size := m.SizeVT()
	if mem.IsBelowBufferPoolingThreshold(size) {
		buf := make([]byte, size)
		if _, err := m.MarshalToSizedBufferVT(buf); err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	if _, err := m.MarshalToSizedBufferVT((*buf)[:size]); err != nil {
		pool.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(fastUnmarshaler)
	if !ok {
		return c.fallback.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	// UnmarshalVT adds to what is there; a codec replaces it.
	m.Reset()
	return m.UnmarshalVT(buf.ReadOnlyData())
}
