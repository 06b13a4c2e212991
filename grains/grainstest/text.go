package grainstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/granary-dev/granary/grains"
)

// verdict is the outcome of an event in words.
func verdict(err error) string {
	if err == nil {
		return "folded"
	}
	if reason, ok := grains.Rejection(err); ok {
		return "rejected: " + reason
	}
	return "dead letter: " + err.Error()
}

// effectText is an effect on one line. What is of a type that this binary does not know is shown in hex.
func effectText(e grains.Effect) string {
	line := fmt.Sprintf("send %s %s ", e.To, e.Type)
	switch {
	case e.Kind == grains.Send && e.Token != "":
		line = fmt.Sprintf("answer %s %s ", e.Token, e.Type)
	case e.Kind == grains.Remind && e.Every != 0:
		line = fmt.Sprintf("remind %d at %s every %s %s ", e.Timer, time.UnixMicro(e.Due).UTC().Format(time.RFC3339Nano), time.Duration(e.Every)*time.Microsecond, e.Type)
	case e.Kind == grains.Remind:
		line = fmt.Sprintf("remind %d at %s %s ", e.Timer, time.UnixMicro(e.Due).UTC().Format(time.RFC3339Nano), e.Type)
	case e.Kind == grains.Cancel:
		return fmt.Sprintf("cancel %d", e.Timer)
	case e.Kind == grains.Publish:
		line = fmt.Sprintf("publish %s %s ", e.Stream, e.Type)
	case e.Kind == grains.Defer:
		return "defer"
	}
	if t, err := protoregistry.GlobalTypes.FindMessageByURL(e.Type); err == nil {
		msg := t.New().Interface()
		if proto.Unmarshal(e.Payload, msg) == nil {
			return line + string(jsonText(msg))
		}
	}
	return line + fmt.Sprintf("%x", e.Payload)
}

// replyText is a reply, an encoded google.protobuf.Any, on one line.
func replyText(reply []byte) string {
	var a anypb.Any
	if err := proto.Unmarshal(reply, &a); err != nil {
		return fmt.Sprintf("%x", reply)
	}
	msg, err := a.UnmarshalNew()
	if err != nil {
		return fmt.Sprintf("%x", reply)
	}
	return string(a.MessageName()) + " " + string(jsonText(msg))
}

// jsonText is a message as compact JSON. It takes out the random spaces that protojson puts in on purpose.
func jsonText(msg proto.Message) []byte {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(msg)
	if err != nil {
		return fmt.Appendf(nil, "(no JSON: %v)", err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return fmt.Appendf(nil, "(no JSON: %v)", err)
	}
	return b.Bytes()
}

// field is one field of a state that is set, its value as JSON.
type field struct{ name, value string }

// fields are the fields of a state that are set, in the order in which protojson writes them. A state whose JSON is not
// an object is one field without a name.
func fields(state proto.Message) []field {
	text := jsonText(state)
	d := json.NewDecoder(bytes.NewReader(text))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return []field{{"value", string(text)}}
	}
	var all []field
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return []field{{"value", string(text)}}
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return []field{{"value", string(text)}}
		}
		all = append(all, field{fmt.Sprint(name), string(value)})
	}
	return all
}

// changes are the lines that tell how a state came out of another: the fields that are new or have a new value, then
// those that are gone, with a "-".
func changes(before, after proto.Message) []string {
	old := map[string]string{}
	for _, f := range fields(before) {
		old[f.name] = f.value
	}
	var lines []string
	for _, f := range fields(after) {
		if value, had := old[f.name]; !had || value != f.value {
			lines = append(lines, f.name+": "+f.value)
		}
		delete(old, f.name)
	}
	for _, f := range fields(before) {
		if _, gone := old[f.name]; gone {
			lines = append(lines, f.name+": -")
		}
	}
	return lines
}

// difference shows two states in wire form that should be the same: the fields that differ, or the bytes if none do.
func (s Suite) difference(nameA string, a []byte, nameB string, b []byte) string {
	x, errX := s.Kind.DecodeState(a)
	y, errY := s.Kind.DecodeState(b)
	if errX != nil || errY != nil || len(changes(x, y)) == 0 {
		return fmt.Sprintf("  %s: %x\n  %s: %x", nameA, a, nameB, b)
	}
	return fmt.Sprintf("  %s:\n    %s\n  %s:\n    %s", nameA, strings.Join(changes(y, x), "\n    "),
		nameB, strings.Join(changes(x, y), "\n    "))
}
