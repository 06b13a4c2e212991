package cloudevents

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Media types of the HTTP binding.
const (
	structuredType = "application/cloudevents+json"
	batchedType    = "application/cloudevents-batch+json"
)

// headerPrefix marks the attributes of an event in binary mode.
const headerPrefix = "Ce-"

// FromHTTP reads the events of an HTTP request, in the mode that its Content-Type tells (HTTP binding 1.0, section 3):
// structured, one event as JSON; batched, an array of them; or binary, where attributes are headers and the body is the
// data. batched tells which. A batch of more than most events is refused. Errors are of type [*Error]; in a batch, fields
// begin with the event's place: "[3].subject". The events do not alias the body.
func FromHTTP(header http.Header, body []byte, most int) (events []*granaryv1.Event, batched bool, err error) {
	contentType, err := single(header, "Content-Type")
	if err != nil {
		return nil, false, err
	}
	media, params, parsed := mime.ParseMediaType(contentType)
	if parsed != nil && !strings.HasPrefix(strings.ToLower(contentType), "application/cloudevents") {
		media, params = "", nil // binary mode: it says what the data is, or is wrong there
	} else if parsed != nil {
		return nil, false, wrong("Content-Type", "%q is not a media type", clip(contentType))
	}
	if media == structuredType || media == batchedType {
		if !utf8Charset(params) {
			return nil, false, wrong("Content-Type", "the charset %q is not supported; want utf-8", clip(params["charset"]))
		}
		for name := range header {
			if name == headerPrefix+"Specversion" {
				return nil, false, wrong("Content-Type", "is %s, and there are ce- headers as well; an event is in the body or in headers, not both", media)
			}
		}
	}
	switch {
	case media == structuredType:
		if s := (scanner{data: body}); s.peek() == '[' {
			return nil, false, wrong("Content-Type", "is %s, and the body is an array; want %s", media, batchedType)
		}
		event, err := Decode(body)
		return []*granaryv1.Event{event}, false, err
	case media == batchedType:
		events, err = decodeBatch(body, most)
		return events, true, err
	case strings.HasPrefix(media, "application/cloudevents"):
		return nil, false, wrong("Content-Type", "%q is no format that is read here; want %s or %s", clip(media), structuredType, batchedType)
	}
	event, err := decodeBinary(header, contentType, body)
	return []*granaryv1.Event{event}, false, err
}

// single is the value of a header that may be given once.
func single(header http.Header, name string) (string, error) {
	switch values := header.Values(name); len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", wrong(name, "is given twice")
}

// decodeBatch reads an array of events.
func decodeBatch(body []byte, most int) (events []*granaryv1.Event, err error) {
	s := scanner{data: body}
	if s.peek() != '[' {
		return nil, s.broken("want an array of events, found %s", s.found())
	}
	s.at++
	for s.peek() != ']' {
		if len(events) == most {
			return nil, wrong("", "the batch has more than %d events; send several", most)
		}
		if len(events) > 0 {
			if err := s.expect(',', "a comma or ]"); err != nil {
				return nil, err
			}
		}
		s.path = append(s.path[:0], step{element: true, index: len(events)})
		if s.peek() != '{' {
			return nil, s.broken("want an event as a JSON object, found %s", s.found())
		}
		d := decoder{event: &granaryv1.Event{}, seen: map[string]struct{}{}}
		if err := s.object(func(name string) error { return d.attribute(&s, name) }); err != nil {
			return nil, inBatch(err, len(events))
		}
		if err := d.finish(); err != nil {
			return nil, inBatch(err, len(events))
		}
		events = append(events, d.event)
	}
	s.path, s.at = nil, s.at+1
	if s.peek(); s.at < len(s.data) {
		return nil, s.broken("%s behind the end of the batch", s.found())
	}
	return events, nil
}

// inBatch names the event in an error about one of its attributes.
func inBatch(err error, index int) error {
	bad, ok := err.(*Error) //nolint:errorlint // made here, never wrapped
	place := fmt.Sprintf("[%d]", index)
	if !ok || strings.HasPrefix(bad.Field, place) {
		return err
	}
	in := *bad
	in.Field = strings.TrimSuffix(place+"."+bad.Field, ".")
	return &in
}

// decodeBinary reads an event whose attributes are headers and whose data is the body.
func decodeBinary(header http.Header, contentType string, body []byte) (*granaryv1.Event, error) {
	if len(body) > MaxLine {
		return nil, wrong("data", "has more than %d bytes", MaxLine)
	}
	d := decoder{event: &granaryv1.Event{}, contentType: contentType}
	names := make([]string, 0, len(header))
	for name := range header {
		if strings.HasPrefix(name, headerPrefix) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, wrong("Content-Type", "is %q, and there are no ce- headers: want %s, %s, or an event in binary mode", clip(contentType), structuredType, batchedType)
	}
	slices.Sort(names) // of two errors always the same is told
	for _, name := range names {
		attribute := strings.ToLower(strings.TrimPrefix(name, headerPrefix))
		text, err := single(header, name)
		if err == nil {
			text, err = headerText(attribute, text)
		}
		if err == nil {
			err = d.binaryAttribute(attribute, text)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(body) == 0 && !isProtobuf(contentType) {
		return d.event, d.finish() // an event without data, which says so
	}
	switch {
	case isProtobuf(contentType):
		d.event.Payload = &granaryv1.Event_Protobuf{Protobuf: slices.Clone(body)}
		return d.event, d.finishAttributes()
	case contentType == "" || isJSON(contentType):
		s := scanner{data: body, path: []step{{name: "data"}}}
		v, err := s.single()
		if err != nil {
			return nil, err
		}
		d.data, d.contentType = v, ""
		return d.event, d.finish()
	}
	return nil, wrong("Content-Type", "is %q; want \"application/json\" or \"application/protobuf\"", clip(contentType))
}

// binaryAttribute takes an attribute that came as a header.
func (d *decoder) binaryAttribute(name, text string) error {
	switch name {
	case "datacontenttype":
		return wrong("ce-"+name, "is not a header of its own; the type of the data is the Content-Type")
	case "data", "data_base64":
		return wrong("ce-"+name, "is not a header; the data is the body")
	}
	return d.take(name, structpb.NewStringValue(text))
}

// headerText is the text that stands in a header: in quotes or not, and with what HTTP does not carry as %XX of its UTF-8.
func headerText(name, value string) (string, error) {
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		var b strings.Builder
		for i := 1; i < n-1; i++ {
			if value[i] == '\\' && i+1 < n-1 {
				i++
			}
			b.WriteByte(value[i])
		}
		value = b.String()
	}
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] != '%' {
			b.WriteByte(value[i])
			continue
		}
		if i+2 >= len(value) {
			return "", wrong("ce-"+name, "has a %% that is not followed by two hexadecimal digits; a %% itself is %%25")
		}
		high, ok := hexDigit(value[i+1])
		low, also := hexDigit(value[i+2])
		if !ok || !also {
			return "", wrong("ce-"+name, "has a %% that is not followed by two hexadecimal digits; a %% itself is %%25")
		}
		b.WriteByte(high<<4 | low)
		i += 2
	}
	if !utf8.ValidString(b.String()) {
		return "", wrong("ce-"+name, "is not UTF-8 behind its percent-encoding")
	}
	return b.String(), nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
