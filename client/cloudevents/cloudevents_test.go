package cloudevents_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/client/cloudevents"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// TestScripts runs testdata: every line under a decode directive is one event, and its outcome is one paragraph. Under an
// http directive stands one request: headers, an empty line, and the body.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			switch d.Cmd {
			case "http":
				fromHTTP(&out, d.Input)
				return out.String()
			case "decode":
			default:
				d.Fatalf(t, "unknown directive %q", d.Cmd)
			}
			for line := range strings.SplitSeq(d.Input, "\n") {
				event, err := cloudevents.Decode([]byte(line))
				if err != nil {
					fmt.Fprintf(&out, "error: %v\n", err)
					continue
				}
				describe(&out, event)
			}
			return out.String()
		})
	})
}

// fromHTTP reads a request. In its body \xHH stands for a byte.
func fromHTTP(out *strings.Builder, request string) {
	head, body, _ := strings.Cut(request+"\n", "\n\n")
	header := http.Header{}
	for line := range strings.Lines(head) {
		name, value, _ := strings.Cut(line, ":")
		header.Add(name, strings.TrimSpace(value))
	}
	body = regexp.MustCompile(`\\x[0-9a-f]{2}`).ReplaceAllStringFunc(strings.TrimSuffix(body, "\n"), func(x string) string {
		b, _ := hex.DecodeString(x[2:])
		return string(b)
	})
	events, batched, err := cloudevents.FromHTTP(header, []byte(body), 3)
	if err != nil {
		fmt.Fprintf(out, "error: %v\n", err)
		return
	}
	if batched {
		fmt.Fprintf(out, "a batch of %d\n", len(events))
	}
	for _, e := range events {
		describe(out, e)
	}
}

// describe writes an event in a form that stays the same between versions of protobuf.
func describe(out *strings.Builder, e *granaryv1.Event) {
	fmt.Fprintf(out, "%s %s id=%s source=%s", e.GetGrain(), e.GetType(), e.GetId(), e.GetSource())
	if e.GetTime() != nil {
		fmt.Fprintf(out, " time=%s", e.GetTime().AsTime().Format(time.RFC3339Nano))
	}
	names := make([]string, 0, len(e.GetHeaders()))
	for name := range e.GetHeaders() {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(out, " %s:%s", name, e.GetHeaders()[name])
	}
	switch p := e.GetPayload().(type) {
	case *granaryv1.Event_Json:
		text, _ := json.Marshal(p.Json.AsMap())
		fmt.Fprintf(out, " json=%s\n", text)
	case *granaryv1.Event_Protobuf:
		fmt.Fprintf(out, " protobuf=%x\n", p.Protobuf)
	}
}

// event returns a good event with the given data.
func event(data string) []byte {
	return []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"T","subject":"a/1","data":` + data + `}`)
}

// TestRefused holds the input that cannot be written into a script.
func TestRefused(t *testing.T) {
	nested := func(levels int) string {
		return `{"x":` + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + `}`
	}
	for _, test := range []struct{ name, line, want string }{
		{"not UTF-8", string(event("{\"x\":\"a\xffb\"}")), "data.x: a string is not UTF-8"},
		{"name not UTF-8", string(event("{\"a\xff\":1}")), "data: a string is not UTF-8"},
		{"overlong UTF-8", string(event("{\"x\":\"\xc0\x80\"}")), "data.x: a string is not UTF-8"},
		{"raw control character", string(event("{\"x\":\"a\tb\"}")), "data.x: not JSON at byte 86: a control character (0x9) in a string; write it as an escape"},
		{"NUL", "\x00", `not JSON at byte 1: want an object, found '\x00'`},
		{"bad byte", "\xff", "not JSON at byte 1: want an object, found the byte 0xff"},
		{"too deep", string(event(nested(65))), "nests deeper than 64 levels"},
		{"bomb of lists", string(event(strings.Repeat("[", 1_000_000))), "nests deeper than 64 levels"},
		{"bomb of objects", strings.Repeat(`{"a":`, 500_000), "nests deeper than 64 levels"},
		{"bomb in an attribute", strings.TrimSuffix(string(event("{}")), "}") + `,"x":` + strings.Repeat("[", 100), "nests deeper than 64 levels"},
		{"too long", string(event(`{"x":"` + strings.Repeat("a", cloudevents.MaxLine) + `"}`)), "the line has more than 4194304 bytes; split its data or send it as several events"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := cloudevents.Decode([]byte(test.line))
			var bad *cloudevents.Error
			if !errors.As(err, &bad) || err.Error() != test.want {
				t.Fatalf("got %v\nwant %s", err, test.want)
			}
		})
	}
	if _, err := cloudevents.Decode(event(nested(64))); err != nil {
		t.Errorf("64 levels: %v", err)
	}
}

// TestTruncated cuts a good line at every byte: each cut is refused.
func TestTruncated(t *testing.T) {
	line := event(`{"a":[1,-2.5e3,true,null,"x\u00e9\ud83d\ude00"],"b":{"c":"d"}}`)
	if _, err := cloudevents.Decode(line); err != nil {
		t.Fatal(err)
	}
	for cut := range line {
		if e, err := cloudevents.Decode(line[:cut]); err == nil {
			t.Errorf("%q became %v", line[:cut], e)
		}
	}
}

// scriptLines are the events of all scripts.
func scriptLines(f *testing.F) iter.Seq[string] {
	scripts, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil || len(scripts) == 0 {
		f.Fatal("no scripts", err)
	}
	return func(yield func(string) bool) {
		for _, script := range scripts {
			text, err := os.ReadFile(script)
			if err != nil {
				f.Fatal(err)
			}
			for line := range strings.SplitSeq(string(text), "\n") {
				if strings.HasPrefix(strings.TrimSpace(line), "{") && !yield(line) {
					return
				}
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for line := range scriptLines(f) {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got, err := cloudevents.Decode(line)
		if err != nil {
			var bad *cloudevents.Error
			if !errors.As(err, &bad) || bad.Problem == "" || !utf8.ValidString(err.Error()) {
				t.Fatalf("not a readable *Error: %q", err)
			}
			return
		}
		check(t, line, got)
	})
}

// FuzzFromHTTP: whatever a request holds, the outcome is events that can be sent, or an error that can be read; and what a
// line says as the body of a request is what it says as a line.
func FuzzFromHTTP(f *testing.F) {
	for line := range scriptLines(f) {
		f.Add("application/cloudevents+json", "1", "/s", "T", "a/1", []byte(line))
		f.Add("application/cloudevents-batch+json", "", "", "", "", []byte("["+line+","+line+"]"))
	}
	f.Add("application/json", "a%20b", "\"/s\"", "T", "a/%E2%82%AC", []byte(`{"x":1}`))
	f.Add("application/protobuf", "1", "/s", "T", "a/1", []byte{8, 1})
	f.Fuzz(func(t *testing.T, contentType, id, source, typ, subject string, body []byte) {
		header := http.Header{"Content-Type": {contentType}}
		if !strings.Contains(contentType, "cloudevents") {
			header["Ce-Specversion"] = []string{"1.0"}
			header["Ce-Id"], header["Ce-Source"], header["Ce-Type"], header["Ce-Subject"] = []string{id}, []string{source}, []string{typ}, []string{subject}
		}
		events, _, err := cloudevents.FromHTTP(header, body, 10)
		if err != nil {
			var bad *cloudevents.Error
			if !errors.As(err, &bad) || bad.Problem == "" || !utf8.ValidString(err.Error()) {
				t.Fatalf("not a readable *Error: %q", err)
			}
			return
		}
		if len(events) > 10 {
			t.Fatalf("%d events, more than asked for", len(events))
		}
		for _, e := range events {
			if e.GetId() == "" || e.GetSource() == "" || e.GetType() == "" || e.GetGrain() == "" || e.GetPayload() == nil {
				t.Fatalf("incomplete: %v", e)
			}
			if _, err := proto.Marshal(e); err != nil {
				t.Fatalf("cannot be sent: %v", err)
			}
		}
		if contentType == "application/cloudevents+json" {
			line, err := cloudevents.Decode(body)
			if err != nil || !proto.Equal(line, events[0]) {
				t.Fatalf("as a line it is %v, %v; as a body %v", line, err, events[0])
			}
		}
	})
}

// check holds an accepted line against the standard library's reading of it.
func check(t *testing.T, line []byte, got *granaryv1.Event) {
	t.Helper()
	if got.GetId() == "" || got.GetSource() == "" || got.GetType() == "" || got.GetGrain() == "" || got.GetPayload() == nil {
		t.Fatalf("incomplete: %v", got)
	}
	if _, err := proto.Marshal(got); err != nil {
		t.Fatalf("cannot be sent: %v", err)
	}
	var want map[string]any
	if err := json.Unmarshal(line, &want); err != nil {
		t.Fatalf("accepted what is not JSON: %v", err)
	}
	if got.GetGrain() != want["subject"] || got.GetId() != want["id"] || got.GetType() != want["type"] || got.GetSource() != want["source"] {
		t.Fatalf("%v\nis not %v", got, want)
	}
	switch p := got.GetPayload().(type) {
	case *granaryv1.Event_Json:
		data := want["data"]
		if text, isBinary := want["data_base64"].(string); isBinary {
			raw, _ := base64.StdEncoding.DecodeString(text)
			if err := json.Unmarshal(raw, &data); err != nil {
				t.Fatalf("accepted what is not JSON in data_base64: %v", err)
			}
		}
		if !reflect.DeepEqual(any(p.Json.AsMap()), data) {
			t.Fatalf("data %v\nis not %v", p.Json.AsMap(), data)
		}
	case *granaryv1.Event_Protobuf:
		if base64.StdEncoding.EncodeToString(p.Protobuf) != want["data_base64"] {
			t.Fatalf("data_base64 %x is not %v", p.Protobuf, want["data_base64"])
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	line := []byte(`{"specversion":"1.0","id":"tx-1234567","source":"/cards","type":"Charged","subject":"account/4711","time":"2026-03-01T12:00:00Z","data":{"merchant":"m-17","amountCents":"1250","terminal":42}}`)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cloudevents.Decode(line); err != nil {
			b.Fatal(err)
		}
	}
}
