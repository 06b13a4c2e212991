package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/intake"
	"github.com/granary-dev/granary/grains/catalog"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"github.com/granary-dev/granary/proto/granary/v1/granaryv1connect"
)

// FuzzPublishJSON: whatever the body, there is an answer: a result for each event, or one error in the form of the Connect
// protocol with exactly one ErrorInfo.
func FuzzPublishJSON(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `[]`, `{"events":[]}`, `{"events":[null]}`, `{"events":[{}]}`,
		`{"events":[{"grain":"account/1","type":"Charged","id":"1","json":{"transactionId":"t","merchant":"m","amountCents":"12"}}]}`,
		`{"events":[{"grain":"account/1","type":"Charged","protobuf":"CgF0EgFtGAw="}]}`,
		`{"events":[{"grain":"account/\u0000","type":"Charged","json":{}}]}`,
		`{"events":[{"grain":"nobody/1","type":"Charged","json":{}}]}`,
		`{"events":[{"grain":"account/1","type":"?","json":{"a":[[[[1e999]]]]}}]}`,
		`{"events":[{"grain":"account/1","type":"Charged","json":{"amountCents":1e300}}]}`,
		`{"events":[{"grain":"account/1","type":"Labelled","json":{"fraud":"NaN"},"time":"9999-12-31T23:59:59.999999999Z"}]}`,
		`{"events":[{"headers":{"":""},"time":"0001-01-01T00:00:00Z"}]}`,
		`{"events":` + strings.Repeat("[", 300), `{"events":[` + strings.Repeat(`{},`, 1001) + `{}]}`,
	} {
		f.Add([]byte(body))
	}
	g := New(Options{Catalog: catalog.Builtin(), Router: instant{routing.NewTable(8)}, Logger: quiet(), Now: func() time.Time { return time.Unix(1_800_000_000, 0) }})
	f.Cleanup(func() { g.Stop(context.Background()) })
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, granaryv1connect.EventServicePublishProcedure, strings.NewReader(string(body)))
		r.Header.Set("Content-Type", "application/json")
		g.http.Handler.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			var req granaryv1.PublishRequest
			var res granaryv1.PublishResponse
			if err := protojson.Unmarshal(body, &req); err != nil {
				t.Fatalf("taken, but %v", err)
			}
			if err := protojson.Unmarshal(w.Body.Bytes(), &res); err != nil || len(res.Results) != len(req.Events) || len(req.Events) == 0 {
				t.Fatalf("%d results for %d events, %v", len(res.Results), len(req.Events), err)
			}
			return
		}
		var wire struct {
			Code, Message string
			Details       []struct{ Type string }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &wire); err != nil {
			t.Fatalf("%d %q: %v", w.Code, w.Body, err)
		}
		infos := 0
		for _, d := range wire.Details {
			if d.Type == "google.rpc.ErrorInfo" {
				infos++
			}
		}
		if wire.Code != "invalid_argument" && wire.Code != "not_found" || infos != 1 || wire.Message == "" || !utf8.ValidString(wire.Message) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}

// FuzzStreamRequest: whatever comes on the wire of a stream, each event is either refused with a field, or comes out as
// something that can be journaled and shown.
func FuzzStreamRequest(f *testing.F) {
	for _, m := range batchesOf(2, false)[:2] {
		f.Add(m)
	}
	good, err := (&granaryv1.PublishStreamRequest{Producer: &granaryv1.Producer{Id: "p", Epoch: 1}, Batch: 1, FirstSequence: 1, Events: []*granaryv1.Event{
		{Grain: "account/1", Type: "Charged", Headers: map[string]string{"a": "b"}, Payload: &granaryv1.Event_Protobuf{Protobuf: []byte("\x0a\x01t\x12\x01m\x18\x0c")}},
		{Grain: "account/1", Type: "Charged", Payload: &granaryv1.Event_Json{}},
	}}).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{4<<3 | 2, 0})
	f.Add([]byte{0xff})
	table := routing.NewTable(8)
	in := intake.New(catalog.Builtin(), table)
	var req streamRequest
	f.Fuzz(func(t *testing.T, data []byte) {
		req.decode(append([]byte(nil), data...))
		if req.refusal != nil {
			if req.refusal.Proto().Code == 0 {
				t.Fatal("refused with OK")
			}
			return
		}
		g := intake.NewGroup()
		defer g.Release()
		if r := in.Take(&req.Request, time.Unix(1_800_000_000, 0), g); r != nil {
			return
		}
		n := len(g.Refused)
		for _, r := range g.Refused {
			if s := r.Answer().Proto(); s.Code == 0 || len(s.Details) < 2 {
				t.Fatalf("%v", s)
			}
		}
		for _, p := range g.Parts {
			n += len(p.Index)
			for i := range p.Batch.Events {
				e := &p.Batch.Events[i]
				if table.Shard("", e.Kind.Name, e.Key) != p.Shard || e.Message == nil {
					t.Fatalf("%+v", e)
				}
				if _, err := protojson.Marshal(e.Message); err != nil {
					t.Fatalf("cannot be shown: %v", err)
				}
				if m, err := e.Type.Decode(e.Payload); err != nil || m == nil {
					t.Fatalf("cannot be replayed: %v", err)
				}
			}
		}
		if n != g.Len() || n != len(req.Events) {
			t.Fatalf("%d of %d events", n, len(req.Events))
		}
	})
}
