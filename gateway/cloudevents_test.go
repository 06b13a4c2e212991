package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/granary-dev/granary/cluster/routing"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// cloudEvent posts to the path for CloudEvents.
func (n *node) cloudEvent(t *testing.T, header map[string]string, body string) (*http.Response, *granaryv1.PublishResponse, failure) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.addr+"/v1/events", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := n.web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		return res, nil, webFailure(t, answer)
	}
	out := &granaryv1.PublishResponse{}
	if err := protojson.Unmarshal(answer, out); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	return res, out, failure{}
}

const (
	oneEvent    = "application/cloudevents+json"
	manyEvents  = "application/cloudevents-batch+json"
	goodEvent   = `{"specversion":"1.0","id":"1","source":"/s","type":"Charged","subject":"box/1","data":{"amountCents":"5"}}`
	otherEvent  = `{"specversion":"1.0","id":"2","source":"/s","type":"Charged","subject":"box/2","data":{"amountCents":"7"}}`
	unlikedOne  = `{"specversion":"1.0","id":"3","source":"/s","type":"Charged","subject":"box/3","data":{"amountCents":"-7"}}`
	unknownKind = `{"specversion":"1.0","id":"4","source":"/s","type":"Charged","subject":"ghost/3","data":{}}`
)

// TestCloudEvents: each of the three modes reaches its grain, once however often it comes.
func TestCloudEvents(t *testing.T) {
	n := start(t)
	binary := map[string]string{"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "Charged", "ce-subject": "box/1", "Content-Type": "application/json"}
	for i, post := range []struct {
		header map[string]string
		body   string
		fresh  int
	}{
		{map[string]string{"Content-Type": oneEvent}, goodEvent, 1},
		{map[string]string{"Content-Type": oneEvent}, goodEvent, 0},
		{binary, `{"amountCents":"5"}`, 0}, // the same event in another dress
		{map[string]string{"Content-Type": manyEvents}, "[" + goodEvent + "," + otherEvent + "]", 1},
	} {
		_, out, failed := n.cloudEvent(t, post.header, post.body)
		if failed.code != codes.OK {
			t.Fatalf("post %d: %+v", i, failed)
		}
		fresh := 0
		for _, r := range out.Results {
			if r.Status != nil || r.Seq != 1 || r.Position == "" || !r.Deduplicated {
				t.Errorf("post %d: %v", i, r)
			}
			if !r.Duplicate {
				fresh++
			}
		}
		if fresh != post.fresh || len(out.Results) != strings.Count(post.body, "amountCents") {
			t.Errorf("post %d: %d events, %d of them new, want %d", i, len(out.Results), fresh, post.fresh)
		}
	}
}

// TestCloudEventsRefused: a sender of CloudEvents looks at the status alone, so it is a success only if all is well, and one
// that asks for a retry if a retry helps any of the events. Fields have their names in CloudEvents.
func TestCloudEventsRefused(t *testing.T) {
	n := start(t)
	one, many := map[string]string{"Content-Type": oneEvent}, map[string]string{"Content-Type": manyEvents}
	for _, test := range []struct {
		name   string
		header map[string]string
		body   string
		status int
		code   codes.Code
		reason string
		field  string
		text   string
	}{
		{"not an event", one, `{"specversion":"1.0"}`, 400, codes.InvalidArgument, "MALFORMED_REQUEST", "id", "id: is missing"},
		{"no mode", map[string]string{"Content-Type": "application/json"}, goodEvent, 415, codes.InvalidArgument, "UNSUPPORTED_CONTENT", "Content-Type", "no ce- headers"},
		{"packed", map[string]string{"Content-Type": oneEvent, "Content-Encoding": "br"}, "x", 415, codes.InvalidArgument, "UNSUPPORTED_CONTENT", "Content-Encoding", `"br" is not supported`},
		{"an empty batch", many, "[]", 400, codes.InvalidArgument, "EMPTY_BATCH", "events", "there are none"},
		{"a large batch", many, "[" + strings.Repeat(goodEvent+",", 1000) + goodEvent + "]", 400, codes.InvalidArgument, "MALFORMED_REQUEST", "body", "more than 1000 events"},
		{"a large event", one, strings.Replace(goodEvent, `"5"`, `"5`+strings.Repeat("5", 4<<20)+`"`, 1), 400, codes.InvalidArgument, "REQUEST_TOO_LARGE", "request", "more than 4194304 bytes"},
		{"an unknown kind", one, unknownKind, 404, codes.NotFound, "UNKNOWN_KIND", "subject", "subject: this cluster runs no kind \"ghost\""},
		{"an unknown kind in a batch", many, "[" + goodEvent + "," + unknownKind + "]", 404, codes.NotFound, "UNKNOWN_KIND", "[1].subject", "[1].subject: "},
		{"an unknown type", one, strings.Replace(goodEvent, "Charged", "Burnt", 1), 400, codes.InvalidArgument, "UNKNOWN_EVENT_TYPE", "type", "type: "},
		{"bad data", many, "[" + goodEvent + "," + strings.Replace(otherEvent, "amountCents", "cents", 1) + "]", 400, codes.InvalidArgument, "INVALID_PAYLOAD", "[1].data", "[1].data: "},
		{"a bad extension", one, strings.Replace(goodEvent, `"id"`, `"x":"`+strings.Repeat("x", 2000)+`","id"`, 1), 400, codes.InvalidArgument, "INVALID_HEADERS", "x", "x: it has 2000 bytes"},
		{"a rejected event", one, unlikedOne, 400, codes.FailedPrecondition, "REJECTED", "", "must not be negative"},
		{"a rejected event in a batch", many, "[" + goodEvent + "," + unlikedOne + "," + otherEvent + "]", 400, codes.FailedPrecondition, "REJECTED", "", "[1]: "},
		{"the same id again", one, strings.Replace(goodEvent, `"5"`, `"6"`, 1), 409, codes.AlreadyExists, "ID_CONFLICT", "", ""},
	} {
		res, _, got := n.cloudEvent(t, test.header, test.body)
		if res.StatusCode != test.status || got.code != test.code || got.reason != test.reason || !strings.Contains(got.message, test.text) || got.infos != 1 {
			t.Errorf("%s: %d %+v\nwant %d %v %s %q", test.name, res.StatusCode, got, test.status, test.code, test.reason, test.text)
		}
		if _, ok := got.violations[test.field]; test.field != "" && !ok {
			t.Errorf("%s: the violations are %v, want one of %q", test.name, got.violations, test.field)
		}
	}
	res, err := n.web.Get("http://" + n.addr + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK || res.Header.Get("Allow") != http.MethodPost {
		t.Errorf("GET is answered %d, allowed is %q", res.StatusCode, res.Header.Get("Allow"))
	}
}

// TestCloudEventsAskForARetry: of events that failed, one that may be tried again decides, and the answer says when.
func TestCloudEventsAskForARetry(t *testing.T) {
	n := start(t)
	full := n.memory.table.Shard("", "box", "2")
	if full == n.memory.table.Shard("", "box", "3") {
		t.Fatal("both grains are in one shard")
	}
	n.memory.mu.Lock()
	n.memory.err = func(shard uint64) error {
		if shard == full {
			return routing.ErrDiskFull
		}
		return nil
	}
	n.memory.mu.Unlock()
	res, _, got := n.cloudEvent(t, map[string]string{"Content-Type": manyEvents}, "["+unlikedOne+","+otherEvent+"]")
	if res.StatusCode != http.StatusTooManyRequests && res.StatusCode != http.StatusServiceUnavailable || got.reason != "DISK_FULL" {
		t.Errorf("answered %d %+v", res.StatusCode, got)
	}
	if res.Header.Get("Retry-After") != "10" || !strings.Contains(got.message, "2 of 2 events failed") {
		t.Errorf("Retry-After %q, %q", res.Header.Get("Retry-After"), got.message)
	}
}
