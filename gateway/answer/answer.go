// Package answer is what the gateway says to its clients: statuses with their details, the results of events, and
// positions.
//
// Here live the reasons that clients may program against ([Refusal.Reason]), the mapping of a shard's outcomes to them,
// and the form of a position on the wire. Here never live checks, calls or transport: it is arithmetic on values, so that
// gRPC, JSON and a simulation say the same.
//
// Invariant: every status other than OK carries exactly one ErrorInfo, of domain "granary.dev", and is small enough for
// the trailers of any gRPC client; and one that a caller may retry says when.
package answer

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain of every ErrorInfo.
const Domain = "granary.dev"

// Reasons of refusals, part of the public API. The request is at fault and no retry helps, unless a comment says
// otherwise.
const (
	MalformedRequest     = "MALFORMED_REQUEST"      // the request is not the message that the method takes
	RequestTooLarge      = "REQUEST_TOO_LARGE"      // more than 4 MiB
	UnsupportedContent   = "UNSUPPORTED_CONTENT"    // neither JSON nor protobuf, or not by POST
	UnknownMethod        = "UNKNOWN_METHOD"         // no such service or method
	StreamNeedsHTTP2     = "STREAM_NEEDS_HTTP2"     // PublishStream was called over HTTP/1.1
	EmptyBatch           = "EMPTY_BATCH"            // no events
	TooManyEvents        = "TOO_MANY_EVENTS"        // more than 1,000
	TenantNotSupported   = "TENANT_NOT_SUPPORTED"   // a tenant was named
	InvalidGrain         = "INVALID_GRAIN"          // not of the form kind/key, or a bad key
	UnknownKind          = "UNKNOWN_KIND"           // this cluster runs no such kind
	UnknownEventType     = "UNKNOWN_EVENT_TYPE"     // the kind has no handler for it
	PayloadMissing       = "PAYLOAD_MISSING"        // neither protobuf nor JSON
	InvalidPayload       = "INVALID_PAYLOAD"        // not a message of the type
	NotANumber           = "NOT_A_NUMBER"           // NaN or an infinity in the payload
	NestedTooDeep        = "NESTED_TOO_DEEP"        // more than 64 levels
	InvalidID            = "INVALID_ID"             // too long, not UTF-8, or with control characters
	InvalidSource        = "INVALID_SOURCE"         // the same
	InvalidHeaders       = "INVALID_HEADERS"        // too many, too long, or not UTF-8
	InvalidTime          = "INVALID_TIME"           // negative, or too far in the future
	InvalidProducer      = "INVALID_PRODUCER"       // bad id or epoch, or not in the first message
	InvalidSequence      = "INVALID_SEQUENCE"       // does not rise, or does not go with the stream
	InvalidBatchNumber   = "INVALID_BATCH_NUMBER"   // does not rise by one
	InvalidPage          = "INVALID_PAGE"           // page size too large, or a page token of something else
	InvalidFormat        = "INVALID_FORMAT"         // an unknown state format
	InvalidPrefix        = "INVALID_PREFIX"         // a prefix that no key has
	UnknownQuery         = "UNKNOWN_QUERY"          // the kind answers no such question
	InvalidWait          = "INVALID_WAIT"           // not more than 0, or more than 5 minutes
	InvalidSeq           = "INVALID_SEQ"            // 0, which no record has
	SeqOutOfRange        = "SEQ_OUT_OF_RANGE"       // the grain has no such record (yet)
	InvalidSubscription  = "INVALID_SUBSCRIPTION"   // neither a stream nor a kind, or an unknown place to begin
	UnknownStream        = "UNKNOWN_STREAM"         // no kind of this cluster publishes to it
	InvalidType          = "INVALID_TYPE"           // not the name of a message, or too many
	InvalidPosition      = "INVALID_POSITION"       // not of a subscription, or of one to something else
	PositionOutOfRange   = "POSITION_OUT_OF_RANGE"  // beyond the journal
	TooManySubscriptions = "TOO_MANY_SUBSCRIPTIONS" // retry, on another node; this one serves as many as it may

	IDConflict       = "ID_CONFLICT"       // the id was published before with another body
	SequenceConflict = "SEQUENCE_CONFLICT" // the same of a producer's sequence
	Rejected         = "REJECTED"          // the grain refused the event; journaled
	DeadLettered     = "DEAD_LETTERED"     // the turn failed; journaled
	QueryFailed      = "QUERY_FAILED"      // the query's handler failed; nothing is changed
	JournalCorrupt   = "JOURNAL_CORRUPT"   // stored bytes are damaged; restore this node or ask another
	LogicMissing     = "LOGIC_MISSING"     // this binary lacks a version of the kind's logic; see the metadata

	NoDeadLetter = "NO_DEAD_LETTER" // the grain has no such record, or it is no dead letter
	NotOpen      = "NOT_OPEN"       // the dead letter was retried or dropped before; the metadata has what became of it
	NotRunnable  = "NOT_RUNNABLE"   // this binary cannot run the event; the dead letter stays open

	ProducerFenced = "PRODUCER_FENCED" // another stream of this producer has a newer epoch; stop
	ProducerGap    = "PRODUCER_GAP"    // the shard lacks what came before; reconnect under a larger epoch and resend

	NodeStopping      = "NODE_STOPPING"      // retry, on another node or when this one is back
	ShardUnavailable  = "SHARD_UNAVAILABLE"  // retry; the shard has no leader at the moment
	ShardOverloaded   = "SHARD_OVERLOADED"   // retry; the shard has no room
	GatewayOverloaded = "GATEWAY_OVERLOADED" // retry; this node has too much in flight
	QueriesOverloaded = "QUERIES_OVERLOADED" // retry; this node runs too many queries
	DiskFull          = "DISK_FULL"          // retry, once an operator made room
	StoreDamaged      = "STORE_DAMAGED"      // retry, once an operator brought the file back; reads of what is whole go on
	SlowReader        = "SLOW_READER"        // answers were not read; reconnect, resend, and read faster
	Canceled          = "CANCELED"           // by the caller
	DeadlineExceeded  = "DEADLINE_EXCEEDED"  // of the caller; the outcome is unknown, retry with the same id
	InternalError     = "INTERNAL_ERROR"     // a bug; the node's log has more
)

// How long a client is asked to wait before it tries again. Clients add jitter.
const (
	retryUnavailable = 100 * time.Millisecond
	retryOverloaded  = 50 * time.Millisecond
	retryStopping    = time.Second
	retryDiskFull    = 10 * time.Second
	retryDamaged     = 10 * time.Second
)

// Longest parts of a status, in bytes: several gRPC clients take no more than 8 KiB of trailers.
const (
	maxMessage     = 1024
	maxDescription = 256
	maxMetadata    = 256
	maxViolations  = 6
)

// Violation is one field that is not as it must be.
type Violation struct {
	// Field as a path from the request: "events[3].payload".
	Field string
	// Description in a sentence without a full stop.
	Description string
}

// Refusal is a status with its details. It is an error, of which gRPC takes the status.
type Refusal struct {
	// Code of the status; never OK.
	Code codes.Code
	// Reason in UPPER_SNAKE, one of the constants of this package.
	Reason string
	// Message for the reader.
	Message string
	// Metadata of the ErrorInfo, as pairs of key and value.
	Metadata []string
	// Violations are the fields at fault; only the first few are told.
	Violations []Violation
	// RetryAfter is when to try again; 0 when that does not help.
	RetryAfter time.Duration
}

// Invalid is a refusal of a field.
func Invalid(reason, field, format string, args ...any) *Refusal {
	return InvalidCode(codes.InvalidArgument, reason, field, format, args...)
}

// InvalidCode is [Invalid] with another code than INVALID_ARGUMENT.
func InvalidCode(code codes.Code, reason, field, format string, args ...any) *Refusal {
	d := Text(fmt.Sprintf(format, args...), maxDescription)
	return &Refusal{Code: code, Reason: reason, Message: field + ": " + d, Violations: []Violation{{field, d}}}
}

// With adds to the metadata and returns the refusal.
func (r *Refusal) With(key, value string) *Refusal {
	r.Metadata = append(r.Metadata, key, value)
	return r
}

// In returns the refusal of a message that is a field of another: its violations get the prefix, as in "events[3].".
func (r *Refusal) In(prefix string) *Refusal {
	in := *r
	in.Violations = make([]Violation, len(r.Violations))
	for i, v := range r.Violations {
		in.Violations[i] = Violation{prefix + v.Field, v.Description}
	}
	in.Message = prefix + r.Message
	return &in
}

// Error is the message.
func (r *Refusal) Error() string { return r.Message }

// GRPCStatus lets gRPC find the status.
func (r *Refusal) GRPCStatus() *status.Status { return status.FromProto(r.Proto()) }

// Proto is the status with its details.
func (r *Refusal) Proto() *spb.Status {
	info := &errdetails.ErrorInfo{Reason: r.Reason, Domain: Domain}
	for i := 0; i+1 < len(r.Metadata); i += 2 {
		if info.Metadata == nil {
			info.Metadata = map[string]string{}
		}
		info.Metadata[r.Metadata[i]] = Text(r.Metadata[i+1], maxMetadata)
	}
	s := &spb.Status{Code: int32(r.Code), Message: Text(r.Message, maxMessage), Details: []*anypb.Any{pack(info)}}
	if len(r.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range r.Violations[:min(len(r.Violations), maxViolations)] {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: v.Field, Description: Text(v.Description, maxDescription),
			})
		}
		s.Details = append(s.Details, pack(bad))
	}
	if r.RetryAfter > 0 {
		s.Details = append(s.Details, pack(&errdetails.RetryInfo{RetryDelay: durationpb.New(r.RetryAfter)}))
	}
	return s
}

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err) // all strings in it went through Text
	}
	return a
}

// Of returns the refusal that an error is, or one of reason INTERNAL_ERROR. It never returns nil for an error.
func Of(err error) *Refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	return &Refusal{Code: codes.Internal, Reason: InternalError, Message: err.Error()}
}

// Stopping is the refusal of a node that stops.
func Stopping() *Refusal {
	return &Refusal{Code: codes.Unavailable, Reason: NodeStopping, Message: "the node is stopping", RetryAfter: retryStopping}
}

// Overloaded is the refusal of a gateway with too much in flight.
func Overloaded() *Refusal {
	return &Refusal{Code: codes.ResourceExhausted, Reason: GatewayOverloaded, RetryAfter: retryOverloaded,
		Message: "too many events wait on this node for their outcome"}
}

// Text makes a string fit for an answer: valid UTF-8 of at most n bytes and a mark where it was cut.
func Text(s string, n int) string {
	if len(s) <= n {
		if utf8.ValidString(s) {
			return s
		}
		return strings.ToValidUTF8(s, "?")
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.ToValidUTF8(s[:n], "?") + "…"
}
