// Package cloudevents turns CloudEvents 1.0, as JSON one a line or as HTTP carries them, into the events of Granary's API.
//
// Here live the strict JSON scanner, the mapping of attributes to fields ([Decode]), the reader of lines ([Reader]) and
// the three modes of the HTTP binding ([FromHTTP]).
// Here never live connections, retries or knowledge of kinds: whether a grain exists and whether its payload fits is
// for the gateway to say. The package imports generated API messages only, so that the command line, the gateway and
// programs of others can share it.
//
// Invariant: what [Decode] accepts is well-formed JSON that says each thing once, and every value in the event is
// exactly what the line said. What cannot be kept exactly (a big integer, a lone surrogate, a second "id") is refused
// with the field's name, never rounded, replaced or dropped.
//
// # Mapping
//
//	specversion      must be "1.0"
//	id, source       Event.id, Event.source
//	type             Event.type
//	subject          Event.grain, as kind/key
//	time             Event.time, RFC 3339
//	data             Event.json, an object
//	data_base64      Event.protobuf; with a JSON content type, Event.json
//	datacontenttype  tells how to read the data: JSON if left out beside data, protobuf if left out beside data_base64
//	others           Event.headers; true, 7 and null become "true", "7" and nothing
package cloudevents

import (
	"encoding/base64"
	"fmt"
	"math"
	"mime"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// MaxLine is the longest line, in bytes. It is the most that one call of the API may carry.
const MaxLine = 4 << 20

// Error says what is wrong with an event, and where.
type Error struct {
	// Line of the event, from 1; 0 if it was not read from lines.
	Line int
	// Field that is wrong, as "subject" or "data.items[3].price"; empty if the line as a whole is.
	Field string
	// Problem in words, with what is wanted instead.
	Problem string
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Problem)
	return b.String()
}

func wrong(field, format string, args ...any) *Error {
	return &Error{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// Decode reads one event. Its errors are of type [*Error]. The event does not alias line.
func Decode(line []byte) (*granaryv1.Event, error) {
	if len(line) > MaxLine {
		return nil, tooLong
	}
	d := decoder{event: &granaryv1.Event{}, seen: map[string]struct{}{}}
	s := scanner{data: line}
	if err := s.document(func(name string) error { return d.attribute(&s, name) }); err != nil {
		return nil, err
	}
	if err := d.finish(); err != nil {
		return nil, err
	}
	return d.event, nil
}

var tooLong = wrong("", "the line has more than %d bytes; split its data or send it as several events", MaxLine)

// decoder gathers the attributes of one event. They come in any order, so what depends on another waits for finish.
type decoder struct {
	event       *granaryv1.Event
	seen        map[string]struct{}
	version     string
	contentType string
	data        *structpb.Value
	binary      *string
}

// attribute takes the member called name, whose value is next in s.
func (d *decoder) attribute(s *scanner, name string) error {
	if _, twice := d.seen[name]; twice {
		return s.twice()
	}
	d.seen[name] = struct{}{}
	v, err := s.value()
	if err != nil {
		return err
	}
	return d.take(name, v)
}

// take stores the value of an attribute.
func (d *decoder) take(name string, v *structpb.Value) error {
	if _, null := v.GetKind().(*structpb.Value_NullValue); null {
		return checkName(name) // null means left out
	}
	switch name {
	case "specversion":
		return setText(name, v, &d.version)
	case "id":
		return setText(name, v, &d.event.Id)
	case "source":
		return setText(name, v, &d.event.Source)
	case "type":
		return setText(name, v, &d.event.Type)
	case "subject":
		return setText(name, v, &d.event.Grain)
	case "datacontenttype":
		return setText(name, v, &d.contentType)
	case "time":
		return d.time(v)
	case "data":
		d.data = v
		return nil
	case "data_base64":
		return d.base64(v)
	}
	return d.header(name, v)
}

// setText stores an attribute that must be a string.
func setText(name string, v *structpb.Value, target *string) (err error) {
	if _, isText := v.GetKind().(*structpb.Value_StringValue); !isText {
		return wrong(name, "must be a string")
	}
	*target, err = attributeText(name, v)
	return err
}

// header keeps an attribute that has no field of its own.
func (d *decoder) header(name string, v *structpb.Value) error {
	if err := checkName(name); err != nil {
		return err
	}
	text, err := attributeText(name, v)
	if err != nil {
		return err
	}
	if d.event.Headers == nil {
		d.event.Headers = map[string]string{}
	}
	d.event.Headers[name] = text
	return nil
}

func (d *decoder) time(v *structpb.Value) error {
	var text string
	if err := setText("time", v, &text); err != nil {
		return err
	}
	var t time.Time
	if err := t.UnmarshalText([]byte(text)); err != nil {
		return wrong("time", "%q is not a time of RFC 3339; want for example \"2026-03-01T12:00:00Z\"", clip(text))
	}
	d.event.Time = timestamppb.New(t)
	if err := d.event.Time.CheckValid(); err != nil {
		return wrong("time", "%q is outside the years 1 to 9999", clip(text))
	}
	return nil
}

func (d *decoder) base64(v *structpb.Value) error {
	k, ok := v.GetKind().(*structpb.Value_StringValue)
	if !ok {
		return wrong("data_base64", "must be a string")
	}
	d.binary = &k.StringValue
	return nil
}

// finish checks what needs the whole event, and sets the payload.
func (d *decoder) finish() error {
	if err := d.finishAttributes(); err != nil {
		return err
	}
	if d.binary != nil {
		return d.finishBinary()
	}
	return d.finishData()
}

// finishAttributes checks that what every event needs is there.
func (d *decoder) finishAttributes() error {
	switch {
	case d.version == "":
		return wrong("specversion", "is missing; want \"1.0\"")
	case d.version != "1.0":
		return wrong("specversion", "%q is not supported; want \"1.0\"", clip(d.version))
	case d.event.Id == "":
		return wrong("id", "is missing; want a text that is unique in its source, so that a retry counts once")
	case d.event.Source == "":
		return wrong("source", "is missing; want who issues the ids, for example \"/checkout\"")
	case d.event.Type == "":
		return wrong("type", "is missing; want an event type of the grain's kind, see: granary kind show KIND")
	case d.event.Grain == "":
		return wrong("subject", "is missing; want the grain that the event is for, as kind/key")
	}
	return nil
}

func (d *decoder) finishData() error {
	if d.data == nil {
		return wrong("data", "is missing; want the fields of the event as an object, {} if it has none")
	}
	if d.contentType != "" && !isJSON(d.contentType) {
		return wrong("datacontenttype", "is %q beside data; want \"application/json\", or the bytes in data_base64", clip(d.contentType))
	}
	object, ok := d.data.GetKind().(*structpb.Value_StructValue)
	if !ok {
		return wrong("data", "must be an object with the fields of the event")
	}
	d.event.Payload = &granaryv1.Event_Json{Json: object.StructValue}
	return nil
}

func (d *decoder) finishBinary() error {
	if d.data != nil {
		return wrong("data_base64", "stands beside data; an event has one of them")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(*d.binary)
	if err != nil || strings.ContainsAny(*d.binary, "\r\n") {
		return wrong("data_base64", "is not base64 (RFC 4648, standard alphabet, padded, on one line)")
	}
	switch {
	case d.contentType == "" || isProtobuf(d.contentType):
		d.event.Payload = &granaryv1.Event_Protobuf{Protobuf: raw}
		return nil
	case isJSON(d.contentType):
		return d.finishBinaryJSON(raw)
	}
	return wrong("datacontenttype", "is %q; want \"application/json\" or \"application/protobuf\"", clip(d.contentType))
}

func (d *decoder) finishBinaryJSON(raw []byte) error {
	s := scanner{data: raw, path: []step{{name: "data_base64"}}}
	v, err := s.single()
	if err != nil {
		return err
	}
	d.binary, d.data = nil, v
	return d.finishData()
}

// checkName refuses what the specification does not allow as the name of an attribute. Most are typing mistakes.
func checkName(name string) error {
	switch name {
	case "":
		return wrong("", "an attribute has an empty name")
	case "data_base64":
		return nil
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			return wrong(clip(name), "is not an attribute: names are lower-case letters and digits; fields of the event belong into data")
		}
	}
	return nil
}

// attributeText is the canonical string form of an attribute that is not null.
func attributeText(name string, v *structpb.Value) (text string, err error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		text = k.StringValue
	case *structpb.Value_BoolValue:
		text = strconv.FormatBool(k.BoolValue)
	case *structpb.Value_NumberValue:
		n := k.NumberValue
		if n != math.Trunc(n) || n < math.MinInt32 || n > math.MaxInt32 {
			return "", wrong(clip(name), "must be a whole number of 32 bits; write other numbers as a string")
		}
		text = strconv.FormatInt(int64(n), 10)
	default:
		return "", wrong(clip(name), "must be a string, a whole number or a boolean; fields of the event belong into data")
	}
	if text == "" {
		return "", wrong(clip(name), "is empty")
	}
	for _, r := range text {
		if unicode.IsControl(r) {
			return "", wrong(clip(name), "has a control character (%U)", r)
		}
	}
	return text, nil
}

// isJSON tells whether a media type is JSON: application/json, or any with the suffix +json.
func isJSON(contentType string) bool {
	t, params, err := mime.ParseMediaType(contentType)
	if err != nil || !utf8Charset(params) {
		return false
	}
	return t == "application/json" || t == "text/json" || strings.HasSuffix(t, "+json")
}

func isProtobuf(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && (t == "application/protobuf" || t == "application/x-protobuf")
}

func utf8Charset(params map[string]string) bool {
	c, ok := params["charset"]
	return !ok || strings.EqualFold(c, "utf-8") || strings.EqualFold(c, "us-ascii")
}

// clip keeps hostile input out of error texts.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return strings.ToValidUTF8(s, "?")
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strings.ToValidUTF8(s[:cut], "?") + "…"
}
