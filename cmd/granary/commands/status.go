package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// hints say what to type next for a code, where the command itself has nothing better.
var hints = map[codes.Code]string{
	codes.NotFound:           "granary kind ls shows the kinds this node runs",
	codes.InvalidArgument:    "granary kind show KIND shows the events of a kind and an example of each",
	codes.AlreadyExists:      "give the event an id of its own, or publish it as it was the first time",
	codes.FailedPrecondition: "granary grain history KIND/KEY shows what the grain has taken so far",
	codes.OutOfRange:         "granary grain history KIND/KEY --newest --limit 1 shows the last record",
	codes.ResourceExhausted:  "the node is busy: try again in a moment, or send more slowly",
	codes.Unavailable:        "the node is starting or stopping: try again in a moment",
	codes.DeadlineExceeded:   "the node is slow: try again, or give it longer with --timeout",
	codes.Unimplemented:      "the node is of another version, or is no granary: compare with granary version",
	codes.Internal:           "this is a fault of the node: its log says more",
	codes.Unknown:            "this is a fault of the node: its log says more",
	codes.DataLoss:           "stop the node and run: granary verify --data-dir DIR",
	codes.Aborted:            "try again",
}

// Reasons of the API: the turn of the event failed; no kind takes an event of that type.
const (
	deadLettered     = "DEAD_LETTERED"
	unknownEventType = "UNKNOWN_EVENT_TYPE"
)

// reasonHints go before hints: what to type next for a reason of the API.
var reasonHints = map[string]string{
	deadLettered:       "granary deadletter ls shows what failed and why; correct the handler, then: granary deadletter retry",
	"QUERY_FAILED":     "this is a fault of the kind's query: correct it, and start the new binary",
	"LOGIC_MISSING":    "start a binary that has the logic that ran: a handler that computes something else needs a new version of its kind",
	"INVALID_POSITION": "give --from as granary tail told it for the same stream or kind, or: --from beginning",
}

// hintFor is what to type next, as far as what a node said tells it.
func hintFor(f *failure, c codes.Code) string {
	if f.reason == unknownEventType {
		if kind := f.values["kind"]; kind != "" {
			return "granary kind show " + shellQuote(plain(kind))
		}
		return hints[codes.InvalidArgument]
	}
	if hint, ok := reasonHints[f.reason]; ok {
		return hint
	}
	return hints[c]
}

// callFailure makes a failure of the error of a call. What was asked is said in a few words ("get account/42").
func (n *nodeConn) callFailure(asked string, err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	st, answered := status.FromError(err)
	switch {
	case n.unreachable(st, err):
		return n.unreachableFailure(asked, st)
	case errors.Is(err, context.Canceled) || st.Code() == codes.Canceled:
		return &failure{exit: ExitFailed, problem: asked + ": interrupted", cause: err}
	case !answered:
		return failed("", "%s: %w", asked, err)
	}
	f = statusFailure(st.Proto())
	message := st.Message()
	if st.Code() == codes.DeadlineExceeded && !hasInfo(st) {
		// the library has several texts for it, and which one comes is chance
		message = fmt.Sprintf("no answer within %v", n.timeout)
	}
	f.problem = fmt.Sprintf("%s at %s: %s: %s", asked, n.target, f.code, message)
	f.cause = err
	return f
}

// statusFailure takes a google.rpc.Status apart. Its problem is the status' own message.
func statusFailure(st *spb.Status) *failure {
	c := codes.Code(st.GetCode())
	f := &failure{exit: ExitFailed, problem: st.GetMessage(), code: codeName(st.GetCode())}
	for _, detail := range status.FromProto(st).Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			f.reason, f.values = d.GetReason(), d.GetMetadata()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				f.fields = append(f.fields, fieldProblem{v.GetField(), v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			f.retryAfter = d.GetRetryDelay().AsDuration().String()
		}
	}
	f.next = hintFor(f, c)
	return f
}

// hasInfo tells whether a status came from a node, which always says a reason, and not from the road to it.
func hasInfo(st *status.Status) bool {
	return slices.ContainsFunc(st.Details(), func(d any) bool {
		_, ok := d.(*errdetails.ErrorInfo)
		return ok
	})
}

// unreachable tells whether an error means that no node answered.
func (n *nodeConn) unreachable(st *status.Status, err error) bool {
	switch {
	case st.Code() == codes.Unavailable:
		return !hasInfo(st)
	case st.Code() == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded):
		return !n.connected()
	}
	return false
}

func (n *nodeConn) unreachableFailure(asked string, st *status.Status) *failure {
	why := st.Message()
	if dial := n.lastDialError(); dial != nil {
		why = dial.Error()
	}
	return &failure{
		exit:    ExitUnreachable,
		problem: fmt.Sprintf("%s: no node answers at %s: %s", asked, n.target, why),
		code:    codeName(int32(codes.Unavailable)),
		next:    "is a node running? start one with: granary dev (elsewhere? say where with --target HOST:PORT)",
		cause:   st.Err(),
	}
}

// codeName is the name of a code as the API's documents write it: INVALID_ARGUMENT.
func codeName(c int32) string {
	if name, ok := code.Code_name[c]; ok {
		return name
	}
	return fmt.Sprintf("CODE_%d", c)
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// plain makes text from elsewhere safe for a terminal: what is not printable is written as an escape.
func plain(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case isPrintable(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
