package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"github.com/granary-dev/granary/proto/granary/v1/granaryv1connect"
)

// maxBodyNesting is how deep a JSON body may nest before it is read no further. It leaves room for a payload that is too
// deep to be told so.
const maxBodyNesting = 4 * intake.MaxNesting

// newHTTP makes the server of everything that is not HTTP/2.
func (g *Gateway) newHTTP() *http.Server {
	l := g.opts.Limits
	mux := http.NewServeMux()
	options := []connect.HandlerOption{
		connect.WithCodec(jsonCodec{}), connect.WithCodec(protoCodec{}), connect.WithReadMaxBytes(intake.MaxBytes), connect.WithCompressMinBytes(1 << 10),
	}
	handle := func(path string, h http.Handler) { mux.Handle(path, front(h)) }
	handle(granaryv1connect.NewEventServiceHandler(eventService{g: g}, options...))
	handle(granaryv1connect.NewGrainServiceHandler(grainService{g}, options...))
	handle(granaryv1connect.NewKindServiceHandler(kindService{g}, options...))
	handle(granaryv1connect.NewStreamServiceHandler(streamService{g: g}, options...))
	handle(granaryv1connect.NewDeadLetterServiceHandler(deadLetterService{g}, options...))
	needsHTTP2 := func(path, message string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, &answer.Refusal{Code: codes.Unimplemented, Reason: answer.StreamNeedsHTTP2, Message: message})
		})
	}
	needsHTTP2(granaryv1connect.EventServicePublishStreamProcedure,
		"PublishStream needs HTTP/2: call it by gRPC on this same port, or send batches to "+granaryv1connect.EventServicePublishProcedure)
	needsHTTP2(granaryv1connect.StreamServiceSubscribeProcedure,
		"Subscribe needs HTTP/2: call it by gRPC on this same port, or read the records of one grain at "+granaryv1connect.GrainServiceHistoryProcedure)
	mux.HandleFunc(cloudEventsPath, g.cloudEvents)
	if g.opts.MetricsHandler != nil {
		mux.Handle("GET /metrics", g.opts.MetricsHandler)
	}
	if g.opts.ProfileHandler != nil {
		mux.Handle("GET /debug/pprof/", g.opts.ProfileHandler)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", g.readyz)
	mux.HandleFunc("/", notFound)
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: l.HeaderTimeout, ReadTimeout: l.BodyTimeout, WriteTimeout: l.BodyTimeout,
		IdleTimeout: l.IdleTimeout, MaxHeaderBytes: l.HeaderBytes, ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

func (g *Gateway) readyz(w http.ResponseWriter, _ *http.Request) {
	err := g.opts.Ready()
	if g.gate.closed.Load() {
		err = answer.Stopping()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

func notFound(w http.ResponseWriter, r *http.Request) {
	refuse(w, &answer.Refusal{Code: codes.NotFound, Reason: answer.UnknownMethod,
		Message: "there is nothing at " + answer.Text(r.URL.Path, 128) + "; methods are called by POST to paths like " + granaryv1connect.EventServicePublishProcedure})
}

// eventService, grainService and kindService are the same methods for Connect.
type eventService struct {
	granaryv1connect.UnimplementedEventServiceHandler
	g *Gateway
}

func (s eventService) Publish(ctx context.Context, req *connect.Request[granaryv1.PublishRequest]) (*connect.Response[granaryv1.PublishResponse], error) {
	in := &eventBatch{Request: intake.Request{Events: req.Msg.GetEvents(), Bytes: req.Msg.SizeVT()}}
	return answered(served(ctx, s.g, publishMethod, nil, in, s.g.publish))
}

func (s eventService) Ask(ctx context.Context, req *connect.Request[granaryv1.AskRequest]) (*connect.Response[granaryv1.AskResponse], error) {
	return answered(served(ctx, s.g, askMethod, nil, newAskRequest(req.Msg), s.g.askFor))
}

type grainService struct {
	g *Gateway
}

func (s grainService) Get(ctx context.Context, req *connect.Request[granaryv1.GetRequest]) (*connect.Response[granaryv1.GetResponse], error) {
	return answered(served(ctx, s.g, getMethod, nil, req.Msg, s.g.get))
}

func (s grainService) History(ctx context.Context, req *connect.Request[granaryv1.HistoryRequest]) (*connect.Response[granaryv1.HistoryResponse], error) {
	return answered(served(ctx, s.g, historyMethod, nil, req.Msg, s.g.history))
}

func (s grainService) List(ctx context.Context, req *connect.Request[granaryv1.ListRequest]) (*connect.Response[granaryv1.ListResponse], error) {
	return answered(served(ctx, s.g, listMethod, nil, req.Msg, s.g.list))
}

func (s grainService) Query(ctx context.Context, req *connect.Request[granaryv1.QueryRequest]) (*connect.Response[granaryv1.QueryResponse], error) {
	return answered(served(ctx, s.g, queryMethod, nil, req.Msg, s.g.query))
}

func (s grainService) ListReminders(ctx context.Context, req *connect.Request[granaryv1.ListRemindersRequest]) (*connect.Response[granaryv1.ListRemindersResponse], error) {
	return answered(served(ctx, s.g, listRemindersMethod, nil, req.Msg, s.g.listReminders))
}

type kindService struct{ g *Gateway }

func (s kindService) List(ctx context.Context, req *connect.Request[granaryv1.KindServiceListRequest]) (*connect.Response[granaryv1.KindServiceListResponse], error) {
	return answered(served(ctx, s.g, listKindsMethod, nil, req.Msg, s.g.listKinds))
}

func (s kindService) Describe(ctx context.Context, req *connect.Request[granaryv1.DescribeRequest]) (*connect.Response[granaryv1.DescribeResponse], error) {
	return answered(served(ctx, s.g, describeMethod, nil, req.Msg, s.g.describe))
}

type streamService struct {
	granaryv1connect.UnimplementedStreamServiceHandler
	g *Gateway
}

func (s streamService) List(ctx context.Context, req *connect.Request[granaryv1.StreamServiceListRequest]) (*connect.Response[granaryv1.StreamServiceListResponse], error) {
	return answered(served(ctx, s.g, listStreamsMethod, nil, req.Msg, s.g.listStreams))
}

// answered is an answer in Connect's terms.
func answered[M any](msg *M, err error) (*connect.Response[M], error) {
	if err != nil {
		return nil, connectError(answer.Of(err))
	}
	return connect.NewResponse(msg), nil
}

func connectError(r *answer.Refusal) *connect.Error { return connectStatus(r.Proto()) }

// connectStatus is a status in Connect's terms. What is to be tried again says when also in the words of HTTP.
func connectStatus(s *spb.Status) *connect.Error {
	out := connect.NewError(connect.Code(s.GetCode()), errors.New(s.GetMessage()))
	for _, d := range s.GetDetails() {
		if detail, err := connect.NewErrorDetail(d); err == nil {
			out.AddDetail(detail)
		}
		retry := &errdetails.RetryInfo{}
		if d.MessageIs(retry) && d.UnmarshalTo(retry) == nil {
			seconds := math.Ceil(retry.GetRetryDelay().AsDuration().Seconds())
			out.Meta().Set("Retry-After", strconv.Itoa(int(seconds)))
		}
	}
	return out
}

// refuse answers an HTTP request by Connect's rules where Connect itself has no say.
func refuse(w http.ResponseWriter, r *answer.Refusal) { refuseStatus(w, r.Proto()) }

func refuseStatus(w http.ResponseWriter, s *spb.Status) {
	// The one writer of the form is asked, so that there is one form.
	_ = errorWriter.Write(w, connectJSON, connectStatus(s))
}

var (
	errorWriter = connect.NewErrorWriter()
	connectJSON = &http.Request{Method: http.MethodPost, Header: http.Header{"Content-Type": {"application/json"}}}
)

// front stands before the methods: it turns away what is not theirs, and gives the errors that Connect makes by itself,
// of requests that do not get as far as a method, the details that all errors have.
func front(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			refuse(w, &answer.Refusal{Code: codes.Unimplemented, Reason: answer.UnsupportedContent, Message: "methods are called by POST"})
			return
		}
		if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" && t != "application/proto" {
			refuse(w, &answer.Refusal{Code: codes.InvalidArgument, Reason: answer.UnsupportedContent,
				Message: "the request needs the header Content-Type: application/json (or application/proto)"})
			return
		}
		if r.ContentLength > intake.MaxBytes {
			w.Header().Set("Connection", "close") // the body is not read
			refuse(w, tooLarge())
			return
		}
		d := &dresser{ResponseWriter: w}
		next.ServeHTTP(d, r.WithContext(withController(r.Context(), w)))
		d.finish(r)
	})
}

func tooLarge() *answer.Refusal {
	return answer.Invalid(answer.RequestTooLarge, "request", "it takes more than %d bytes", intake.MaxBytes)
}

// dresser holds an error back until it is whole, to look whether it has details.
type dresser struct {
	http.ResponseWriter
	failed int // status, if it is an error
	body   bytes.Buffer
}

// WriteHeader is of http.ResponseWriter.
func (d *dresser) WriteHeader(status int) {
	if status != http.StatusOK {
		d.failed = status
		return
	}
	d.ResponseWriter.WriteHeader(status)
}

// Write is of http.ResponseWriter.
func (d *dresser) Write(b []byte) (int, error) {
	if d.failed != 0 {
		return d.body.Write(b)
	}
	return d.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (d *dresser) Unwrap() http.ResponseWriter { return d.ResponseWriter }

func (d *dresser) finish(r *http.Request) {
	if d.failed == 0 {
		return
	}
	var wire struct {
		Code    string            `json:"code"`
		Message string            `json:"message"`
		Details []json.RawMessage `json:"details"`
	}
	if err := json.Unmarshal(d.body.Bytes(), &wire); err == nil && len(wire.Details) > 0 {
		d.ResponseWriter.WriteHeader(d.failed)
		_, _ = d.ResponseWriter.Write(d.body.Bytes())
		return
	}
	h := d.Header()
	h.Del("Content-Length")
	refuse(d.ResponseWriter, undressed(r, d.failed, wire.Code, wire.Message))
}

// undressed is the refusal that an error made by Connect stands for.
func undressed(r *http.Request, status int, code, message string) *answer.Refusal {
	switch code {
	case connect.CodeResourceExhausted.String():
		return tooLarge()
	case connect.CodeInvalidArgument.String():
		message = strings.TrimPrefix(message, "unmarshal message: ")
		reason := answer.MalformedRequest
		if strings.Contains(message, errNesting.Error()) {
			reason = answer.NestedTooDeep
		} else if strings.Contains(message, errManyEvents.Error()) {
			reason = answer.TooManyEvents
		}
		return answer.Invalid(reason, "request", "%s", message)
	case connect.CodeCanceled.String():
		return answer.Routing(context.Canceled)
	case connect.CodeDeadlineExceeded.String():
		return answer.Routing(context.DeadlineExceeded)
	case connect.CodeUnimplemented.String():
		return &answer.Refusal{Code: codes.Unimplemented, Reason: answer.UnsupportedContent, Message: message}
	case "":
		if status == http.StatusNotFound {
			return &answer.Refusal{Code: codes.NotFound, Reason: answer.UnknownMethod, Message: "there is no method " + answer.Text(r.URL.Path, 128)}
		}
		return &answer.Refusal{Code: codes.InvalidArgument, Reason: answer.UnsupportedContent, Message: http.StatusText(status)}
	}
	return &answer.Refusal{Code: codes.Unknown, Reason: answer.MalformedRequest, Message: message}
}

var (
	errNesting    = errors.New("it nests too deep")
	errManyEvents = errors.New("it has too many events")
)

// jsonCodec is Connect's JSON, but strict: a field that nobody knows is an error. A mistyped "id" would otherwise be
// dropped in silence, and with it the deduplication of the event.
type jsonCodec struct{}

// Name is of connect.Codec.
func (jsonCodec) Name() string { return "json" }

// Marshal is of connect.Codec.
func (jsonCodec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, errors.New("not a protobuf message")
	}
	return protojson.Marshal(m)
}

// Unmarshal is of connect.Codec.
func (jsonCodec) Unmarshal(data []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return errors.New("not a protobuf message")
	}
	if len(data) == 0 {
		return errors.New("the body is empty; want a JSON object, {} at least")
	}
	if err := surveyJSON(data); err != nil {
		return err
	}
	if err := (protojson.UnmarshalOptions{RecursionLimit: maxBodyNesting}).Unmarshal(data, m); err != nil {
		return errors.New(strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: "))
	}
	return nil
}

// protoCodec is Connect's protobuf with the bounds that gRPC requests have here.
type protoCodec struct{}

// Name is of connect.Codec.
func (protoCodec) Name() string { return "proto" }

// Marshal is of connect.Codec.
func (protoCodec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, errors.New("not a protobuf message")
	}
	return proto.Marshal(m)
}

// Unmarshal is of connect.Codec.
func (protoCodec) Unmarshal(data []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return errors.New("not a protobuf message")
	}
	if p, ok := v.(*granaryv1.PublishRequest); ok {
		var in publishRequest
		in.decode(bytes.Clone(data)) // Connect uses data again, and events point into it
		switch {
		case in.refusal != nil && in.refusal.Reason == answer.TooManyEvents:
			return errManyEvents
		case in.refusal != nil:
			return errors.New(in.refusal.Violations[0].Description)
		case len(in.Deep) > 0:
			return errNesting
		}
		p.Events = in.Events
		return nil
	}
	return proto.Unmarshal(data, m)
}

// surveyJSON looks at a body before anything is made of it: how deep it nests, and how many objects stand where events
// do. Two bytes of an empty event become hundreds in memory.
func surveyJSON(data []byte) error {
	depth, events := 0, 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i = endOfText(data, i)
		case '{', '[':
			if data[i] == '{' && depth == 2 {
				events++
			}
			if depth++; depth > maxBodyNesting {
				return errNesting
			}
		case '}', ']':
			depth--
		}
	}
	if events > intake.MaxEvents {
		return errManyEvents
	}
	return nil
}

// endOfText is where the text ends that begins at a place.
func endOfText(data []byte, at int) int {
	for at++; at < len(data) && data[at] != '"'; at++ {
		if data[at] == '\\' {
			at++
		}
	}
	return at
}
