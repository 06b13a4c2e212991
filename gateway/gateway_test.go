package gateway_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/granary-dev/granary/gateway"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is the time of all tests.
var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// node is a gateway under test, with its router and its clients.
type node struct {
	*memory
	gateway *gateway.Gateway
	addr    string
	conn    *grpc.ClientConn
	events  granaryv1.EventServiceClient
	grains  granaryv1.GrainServiceClient
	kinds   granaryv1.KindServiceClient
	web     *http.Client
	served  chan error
}

func start(t testing.TB, change ...func(*gateway.Options)) *node {
	t.Helper()
	n := &node{memory: newMemory(8), served: make(chan error, 1)}
	opts := gateway.Options{
		Catalog: testCatalog(), Router: n.memory, Now: func() time.Time { return now }, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, c := range change {
		c(&opts)
	}
	n.gateway = gateway.New(opts)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = l.Addr().String()
	go func() { n.served <- n.gateway.Serve(l) }()
	n.conn = n.dial(t)
	n.events, n.grains, n.kinds = granaryv1.NewEventServiceClient(n.conn), granaryv1.NewGrainServiceClient(n.conn), granaryv1.NewKindServiceClient(n.conn)
	n.web = &http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() {
		n.web.CloseIdleConnections()
		_ = n.conn.Close()
		n.release()
		n.halt(t, 5*time.Second)
		if err := <-n.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return n
}

func (n *node) halt(t testing.TB, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	n.gateway.Stop(ctx)
}

func (n *node) dial(t testing.TB) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(n.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// charged is an event that is right.
func charged(grain, id string, cents int64) *granaryv1.Event {
	return event(grain, "Charged", id, &accountv1.Charged{TransactionId: "t-" + id, AmountCents: cents})
}

func event(grain, typ, id string, payload proto.Message) *granaryv1.Event {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(payload)
	if err != nil {
		panic(err)
	}
	return &granaryv1.Event{Grain: grain, Type: typ, Id: id, Payload: &granaryv1.Event_Protobuf{Protobuf: b}}
}

// failure is what a client sees of a refusal, whichever way it came.
type failure struct {
	code       codes.Code
	reason     string
	message    string
	metadata   map[string]string
	violations map[string]string // description by field
	retry      time.Duration
	infos      int
}

func failureOf(s *spb.Status) failure {
	f := failure{code: codes.Code(s.GetCode()), message: s.GetMessage(), violations: map[string]string{}}
	for _, d := range s.GetDetails() {
		m, err := d.UnmarshalNew()
		if err != nil {
			panic(err)
		}
		switch m := m.(type) {
		case *errdetails.ErrorInfo:
			f.reason, f.metadata = m.Reason, m.Metadata
			if f.infos++; m.Domain != "granary.dev" {
				f.reason = "wrong domain " + m.Domain
			}
		case *errdetails.BadRequest:
			for _, v := range m.FieldViolations {
				f.violations[v.Field] = v.Description
			}
		case *errdetails.RetryInfo:
			f.retry = m.RetryDelay.AsDuration()
		}
	}
	return f
}

func grpcFailure(err error) failure { return failureOf(status.Convert(err).Proto()) }

// post calls a method as curl would: it returns the failure, or decodes the answer into out.
func (n *node) post(t testing.TB, path, body string, out proto.Message) failure {
	t.Helper()
	code, answer := n.postRaw(t, path, "application/json", strings.NewReader(body))
	if code == http.StatusOK {
		if out != nil {
			if err := protojson.Unmarshal(answer, out); err != nil {
				t.Fatalf("%s: %v", answer, err)
			}
		}
		return failure{}
	}
	return webFailure(t, answer)
}

func (n *node) postRaw(t testing.TB, path, contentType string, body io.Reader) (int, []byte) {
	t.Helper()
	res, err := n.web.Post("http://"+n.addr+path, contentType, body)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer
}

// webFailure reads an error in the form of the Connect protocol.
func webFailure(t testing.TB, body []byte) failure {
	t.Helper()
	var wire struct {
		Code    string
		Message string
		Details []struct{ Type, Value string }
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		t.Fatalf("not an error of the Connect protocol: %q", body)
	}
	s := &spb.Status{Message: wire.Message}
	var code codes.Code
	if err := code.UnmarshalJSON([]byte(`"` + strings.ToUpper(strings.Replace(wire.Code, "canceled", "cancelled", 1)) + `"`)); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	s.Code = int32(code)
	for _, d := range wire.Details {
		value, err := base64.RawStdEncoding.DecodeString(d.Value)
		if err != nil {
			t.Fatal(err)
		}
		s.Details = append(s.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type, Value: value})
	}
	return failureOf(s)
}

const (
	publishPath = "/granary.v1.EventService/Publish"
	streamPath  = "/granary.v1.EventService/PublishStream"
)

func publishBody(events ...*granaryv1.Event) string {
	b, err := protojson.Marshal(&granaryv1.PublishRequest{Events: events})
	if err != nil {
		panic(err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		panic(err)
	}
	return out.String()
}

func reader(s string) io.Reader { return strings.NewReader(s) }
