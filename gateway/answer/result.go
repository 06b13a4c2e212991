package answer

import (
	"context"
	"errors"
	"strconv"

	"google.golang.org/grpc/codes"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Result is the answer about one event that its shard took. bySequence tells that the event came by a producer session.
func Result(r *actors.Result, bySequence bool) *granaryv1.Result {
	out := &granaryv1.Result{
		Position: Position(r.Position), Seq: r.Seq, Duplicate: r.Duplicate, Deduplicated: r.Deduplicated,
	}
	if refusal := Outcome(r.Outcome, r.Reason); refusal != nil {
		if r.Outcome == actors.Conflict && bySequence {
			refusal.Reason = SequenceConflict
		}
		out.Status = refusal.Proto()
	}
	return out
}

// Outcome is the refusal that an outcome of a shard stands for, nil for Folded. why is in words.
func Outcome(o actors.Outcome, why string) *Refusal {
	switch o {
	case actors.Folded:
		return nil
	case actors.Rejected:
		return &Refusal{Code: codes.FailedPrecondition, Reason: Rejected, Message: "the grain rejected the event: " + why}
	case actors.DeadLettered:
		return &Refusal{Code: codes.Internal, Reason: DeadLettered, Message: "the event was dead-lettered, its turn failed: " + why}
	case actors.Conflict:
		return &Refusal{Code: codes.AlreadyExists, Reason: IDConflict, Message: why}
	case actors.OutOfRange:
		return &Refusal{Code: codes.OutOfRange, Reason: SeqOutOfRange, Message: why}
	case actors.Corrupt:
		return &Refusal{Code: codes.DataLoss, Reason: JournalCorrupt, Message: why}
	case actors.LogicMissing:
		return &Refusal{Code: codes.FailedPrecondition, Reason: LogicMissing, Message: why}
	case actors.NotFound:
		return &Refusal{Code: codes.NotFound, Reason: NoDeadLetter, Message: why}
	case actors.NotOpen:
		return &Refusal{Code: codes.FailedPrecondition, Reason: NotOpen, Message: why}
	case actors.Unrunnable:
		return &Refusal{Code: codes.FailedPrecondition, Reason: NotRunnable, Message: why + "; the dead letter stays open"}
	case actors.Fenced:
		return &Refusal{Code: codes.FailedPrecondition, Reason: ProducerFenced, Message: why}
	case actors.Gap:
		return &Refusal{Code: codes.FailedPrecondition, Reason: ProducerGap, Message: why}
	case actors.Unavailable:
		return &Refusal{Code: codes.Unavailable, Reason: ShardUnavailable, Message: why, RetryAfter: retryUnavailable}
	case actors.Overloaded:
		return &Refusal{Code: codes.ResourceExhausted, Reason: ShardOverloaded, Message: why, RetryAfter: retryOverloaded}
	}
	return &Refusal{Code: codes.Internal, Reason: InternalError, Message: "the shard answered with " + o.String() + ": " + why}
}

// Batch is the refusal of a batch that its shard did not take; nil if it did.
func Batch(b *actors.Batch) *Refusal {
	r := lacking(Outcome(b.Refused, b.Why), b.Lack)
	if b.Link == nil {
		return r
	}
	switch b.Refused {
	case actors.Fenced:
		return r.With("producer", b.Link.Producer).With("epoch", strconv.FormatUint(b.Epoch, 10))
	case actors.Gap:
		return r.With("producer", b.Link.Producer).With("watermark", strconv.FormatUint(b.Watermark, 10))
	}
	return r
}

// Read is the refusal of a read that failed; nil if it did not.
func Read(r *actors.Read) *Refusal { return lacking(Outcome(r.Failed, r.Why), r.Lack) }

// Settle is the refusal of a settlement that did not come to be; nil if it did.
func Settle(in *actors.Settle) *Refusal {
	r := lacking(Outcome(in.Failed, in.Why), in.Lack)
	if r == nil || in.Letter == nil {
		return r
	}
	if in.Letter.Settled != "" {
		r = r.With("settled", in.Letter.Settled)
	}
	if as := in.Letter.RetriedAs; as != 0 {
		r = r.With("retried_as", strconv.FormatUint(as, 10)).With("outcome", in.Letter.Became.String())
	}
	return r
}

// lacking adds what is missing to a refusal for want of logic. version_had is 0 where this binary does not have the kind.
func lacking(r *Refusal, l *actors.Lack) *Refusal {
	if r == nil || l == nil {
		return r
	}
	return r.With("kind", Text(l.Kind, 64)).With("version_needed", strconv.FormatUint(uint64(l.Version), 10)).
		With("version_had", strconv.FormatUint(uint64(l.Have), 10)).With("grains", strconv.Itoa(l.Grains))
}

// Routing is the refusal that an error of a router stands for.
func Routing(err error) *Refusal {
	switch {
	case errors.Is(err, routing.ErrOverloaded):
		return &Refusal{Code: codes.ResourceExhausted, Reason: ShardOverloaded, Message: err.Error(), RetryAfter: retryOverloaded}
	case errors.Is(err, routing.ErrStopping):
		return Stopping()
	case errors.Is(err, routing.ErrDiskFull):
		return &Refusal{Code: codes.ResourceExhausted, Reason: DiskFull, Message: err.Error(), RetryAfter: retryDiskFull}
	case errors.Is(err, routing.ErrDamaged):
		return &Refusal{Code: codes.Unavailable, Reason: StoreDamaged, Message: err.Error(), RetryAfter: retryDamaged}
	case errors.Is(err, context.Canceled):
		return &Refusal{Code: codes.Canceled, Reason: Canceled, Message: "the caller went away; events on their way may still be folded"}
	case errors.Is(err, context.DeadlineExceeded):
		return &Refusal{Code: codes.DeadlineExceeded, Reason: DeadlineExceeded,
			Message: "the caller's deadline passed before the outcome was known; retry with the same ids"}
	}
	return Of(err)
}
