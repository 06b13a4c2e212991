package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/granary-dev/granary/client/cloudevents"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// cloudEventsPath takes CloudEvents 1.0 by HTTP: structured, batched and binary.
const cloudEventsPath = "/v1/events"

// cloudEvents publishes the events of one request. Whoever sends CloudEvents looks at the status of the answer and at
// nothing else, so it is a success only if every event is one; a status that asks for a retry is preferred to one that
// does not. Trying again is safe: each event has an id.
func (g *Gateway) cloudEvents(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(asStatus{w, http.StatusMethodNotAllowed}, &answer.Refusal{Code: codes.Unimplemented, Reason: answer.UnsupportedContent, Message: "events are sent by POST"})
		return
	}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		refuse(asStatus{w, http.StatusUnsupportedMediaType}, answer.Invalid(answer.UnsupportedContent, "Content-Encoding", "%q is not supported; send the events as they are", answer.Text(coding, 64)))
		return
	}
	if r.ContentLength > intake.MaxBytes {
		w.Header().Set("Connection", "close") // the body is not read
		refuse(w, tooLarge())
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, intake.MaxBytes+1))
	if err != nil {
		// without an answer of ours the server would say 200, and the sender take the events for delivered
		w.Header().Set("Connection", "close")
		if errors.Is(err, os.ErrDeadlineExceeded) {
			refuse(w, answer.Routing(context.DeadlineExceeded))
			return
		}
		refuse(w, answer.Invalid(answer.MalformedRequest, "body", "it ends before it is whole"))
		return
	}
	if len(body) > intake.MaxBytes {
		w.Header().Set("Connection", "close")
		refuse(w, tooLarge())
		return
	}
	events, batched, err := cloudevents.FromHTTP(r.Header, body, intake.MaxEvents)
	if err != nil {
		refusal := malformedCloudEvent(err)
		if refusal.Reason == answer.UnsupportedContent {
			w = asStatus{w, http.StatusUnsupportedMediaType}
		}
		refuse(w, refusal)
		return
	}
	out, err := served(r.Context(), g, publishMethod, nil, &eventBatch{Request: intake.Request{Events: events, Bytes: len(body)}}, g.publish)
	if err != nil {
		refuse(w, inCloudEvents(answer.Of(err), batched))
		return
	}
	if failed := worst(out); failed != nil {
		refuseStatus(w, failed)
		return
	}
	text, err := protojson.Marshal(out)
	if err != nil {
		refuse(w, answer.Of(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
}

// asStatus answers with a status of HTTP's own where that says more than the one that Connect has for a code.
type asStatus struct {
	http.ResponseWriter
	status int
}

// WriteHeader is of http.ResponseWriter.
func (a asStatus) WriteHeader(int) { a.ResponseWriter.WriteHeader(a.status) }

// malformedCloudEvent is the refusal of a request that holds no CloudEvents.
func malformedCloudEvent(err error) *answer.Refusal {
	var bad *cloudevents.Error
	if !errors.As(err, &bad) {
		return answer.Of(err)
	}
	field, reason := bad.Field, answer.MalformedRequest
	switch field {
	case "":
		field = "body"
	case "Content-Type":
		reason = answer.UnsupportedContent
	}
	return answer.Invalid(reason, field, "%s", bad.Problem)
}

// inCloudEvents gives a refusal the names that its fields have in a CloudEvent.
func inCloudEvents(r *answer.Refusal, batched bool) *answer.Refusal {
	out := *r
	out.Violations = slices.Clone(r.Violations)
	for i := range out.Violations {
		v := &out.Violations[i]
		renamed := cloudEventField(v.Field, batched)
		out.Message = strings.Replace(out.Message, v.Field, renamed, 1)
		v.Field = renamed
	}
	return &out
}

func cloudEventField(field string, batched bool) string {
	rest, ok := strings.CutPrefix(field, "events[")
	if !ok {
		return field
	}
	place, rest, _ := strings.Cut(rest, "].")
	switch {
	case rest == "grain":
		rest = "subject"
	case strings.HasPrefix(rest, "payload"):
		rest = "data" + strings.TrimPrefix(rest, "payload")
	case strings.HasPrefix(rest, "headers["):
		rest = strings.TrimSuffix(strings.TrimPrefix(rest, "headers["), "]")
	}
	if batched {
		return "[" + place + "]." + rest
	}
	return rest
}

// worst is the status of the event that matters most: of one that may be tried again, else of the first that failed; nil
// if none did. Its message says how many there are.
func worst(out *granaryv1.PublishResponse) *spb.Status {
	var worst *spb.Status
	failed, at := 0, 0
	for i, r := range out.GetResults() {
		s := r.GetStatus()
		if s.GetCode() == int32(codes.OK) {
			continue
		}
		failed++
		if worst == nil || retryable(s) && !retryable(worst) {
			worst, at = s, i
		}
	}
	if failed == 0 || len(out.GetResults()) == 1 {
		return worst
	}
	return &spb.Status{Code: worst.GetCode(), Details: worst.GetDetails(), Message: fmt.Sprintf("[%d]: %s (%d of %d events failed; the others are taken, and known again by their ids)",
		at, worst.GetMessage(), failed, len(out.GetResults()))}
}

func retryable(s *spb.Status) bool {
	switch codes.Code(s.GetCode()) {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Aborted:
		return true
	}
	return false
}
