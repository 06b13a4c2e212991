package baseline

import (
	"fmt"

	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// codec writes and reads the messages of this package by their generated fast methods, and writes what is encoded already
// as it is: the client makes its requests before the clock starts.
type codec struct{}

// encoded is a message in wire format, in pieces.
type encoded [][]byte

type message interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
	Reset()
}

func (codec) Name() string { return proto.Name }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case encoded:
		var out mem.BufferSlice
		for _, piece := range v {
			out = append(out, mem.SliceBuffer(piece))
		}
		return out, nil
	case message:
		buf := make([]byte, v.SizeVT())
		if _, err := v.MarshalToSizedBufferVT(buf); err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
	}
	return nil, fmt.Errorf("cannot encode a %T", v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(message)
	if !ok {
		return fmt.Errorf("cannot decode a %T", v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	m.Reset()
	return m.UnmarshalVT(buf.ReadOnlyData())
}
