package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
)

// wire is what grpc-go's stream of bytes offers to itself. Its own way of receiving answers a message beyond the limit
// with a bare RESOURCE_EXHAUSTED before anybody else hears of it, so the gateway reads the five bytes in front of a message
// itself: then a client is told precisely, and nothing of the message is taken in.
type wire interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
}

// wireOf is the stream of bytes of a call; nil where grpc-go hands out another one, which is then left to receive as it
// does. TestOverlongMessage notices.
func wireOf(ctx context.Context) wire {
	w, _ := grpc.ServerTransportStreamFromContext(ctx).(wire)
	return w
}

// receive reads the next message. It fails with io.EOF at the end of the messages, and with a refusal where the message is
// at fault. Compressed messages do not come here: no compressor is registered, so grpc-go refuses their calls.
func receive(w wire, in incoming) error {
	var header [5]byte
	if err := w.ReadMessageHeader(header[:]); err != nil {
		return broken(err)
	}
	if header[0] != 0 {
		return answer.Invalid(answer.MalformedRequest, "request", "its message is compressed, and the call does not say how")
	}
	size := int64(binary.BigEndian.Uint32(header[1:]))
	if size > maxReceive {
		return tooLong(size)
	}
	data, err := w.Read(int(size))
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return broken(err)
	}
	defer data.Free()
	// A copy, because strings and payloads of events point into it for as long as they live. It goes with them.
	in.decode(data.Materialize())
	return nil
}

// receiveOne reads the message of a unary call, and that there is no other.
func receiveOne(w wire, in incoming) error {
	if err := receive(w, in); err != nil {
		if errors.Is(err, io.EOF) {
			return answer.Invalid(answer.MalformedRequest, "request", "there is none")
		}
		return err
	}
	var header [1]byte
	switch err := w.ReadMessageHeader(header[:]); {
	case err == nil:
		return answer.Invalid(answer.MalformedRequest, "request", "there is more than one")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return broken(err)
	}
}

// broken is why no more can be read: the messages are at their end, one of them ends early, or the client is gone.
func broken(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return answer.Invalid(answer.MalformedRequest, "request", "it ends before its message does")
	case errors.Is(err, io.EOF):
		return io.EOF
	case status.Code(err) == codes.DeadlineExceeded:
		return &answer.Refusal{Code: codes.DeadlineExceeded, Reason: answer.DeadlineExceeded, Message: "the deadline passed before the request was there"}
	}
	return &answer.Refusal{Code: codes.Canceled, Reason: answer.Canceled, Message: "the client went before the request was there: " + err.Error()}
}

// tooLong is the refusal of a message that is not even read.
func tooLong(bytes int64) *answer.Refusal {
	return answer.Invalid(answer.RequestTooLarge, "request", "it takes %d bytes; at most %d are allowed in one message", bytes, intake.MaxBytes)
}
