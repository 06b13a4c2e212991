package session

import (
	"errors"
	"fmt"
	"io"
	"time"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// ErrUnknown is the outcome of an event that was sent and never answered. It may have been folded, once.
	ErrUnknown = errors.New("outcome unknown")
	// ErrNotSent is the outcome of an event that never left this process.
	ErrNotSent = errors.New("not sent")
	// ErrFenced ends a session whose producer was taken over by one with a larger epoch.
	ErrFenced = errors.New("another session of this producer has a larger epoch")
	// ErrGaveUp ends a session that got no answer for too long.
	ErrGaveUp = errors.New("gave up waiting for an answer")
)

// Reasons that the server gives in an ErrorInfo and that a session understands.
const (
	reasonFenced = "PRODUCER_FENCED"
	reasonGap    = "PRODUCER_GAP"
)

// classify reads the result of one event that was not folded: whether it has to be sent again, and why. Sending again is
// always safe, so it is the answer to every status that leaves the outcome open.
func classify(r *granaryv1.Result) (again bool, err error) {
	if r.GetStatus().GetCode() == int32(codes.OK) {
		return false, nil
	}
	st := status.FromProto(r.GetStatus())
	switch st.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.DeadlineExceeded, codes.Canceled:
		return true, st.Err()
	case codes.FailedPrecondition:
		switch reason(st) {
		case reasonFenced:
			return true, fmt.Errorf("%w: %w", ErrFenced, st.Err())
		case reasonGap:
			return true, st.Err()
		}
	}
	return false, st.Err()
}

// fatal returns the error with which a session has to end after its stream did, or nil if another stream may do better.
func fatal(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return nil
	}
	switch st.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.OutOfRange, codes.Unimplemented, codes.DataLoss:
		return err
	case codes.FailedPrecondition:
		switch reason(st) {
		case reasonGap:
			return nil
		case reasonFenced:
			return fmt.Errorf("%w: %w", ErrFenced, err)
		}
		return err
	}
	return nil
}

// reason is the word in the status's ErrorInfo, or "".
func reason(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// retryDelay is how long the server asked to wait, or 0.
func retryDelay(err error) time.Duration {
	st, ok := status.FromError(err)
	if !ok {
		return 0
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}
