package commands

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// format is the form of the output.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

var formats = []string{string(formatTable), string(formatJSON)}

// String is part of pflag.Value. The zero format is the table.
func (f *format) String() string {
	if *f == "" {
		return string(formatTable)
	}
	return string(*f)
}

// Type is part of pflag.Value.
func (f *format) Type() string { return "form" }

// Set is part of pflag.Value.
func (f *format) Set(text string) error {
	switch format(text) {
	case formatTable, formatJSON:
		*f = format(text)
		return nil
	}
	return fmt.Errorf("want %s", strings.Join(formats, " or "))
}

// printJSON writes one value over several lines: the form of commands that answer one thing.
func (a *app) printJSON(v any) error { return a.writeJSON(v, "  ") }

// printJSONLine writes one value on a line: the form of commands that answer a list.
func (a *app) printJSONLine(v any) error { return a.writeJSON(v, "") }

func (a *app) writeJSON(v any, indent string) error {
	text, err := jsonText(v, indent)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, text)
	return err
}

// jsonText is the JSON of a value, safe for a terminal: beside what JSON demands, all other control characters are
// escaped too. They can stand in strings only, so the value stays the same.
func jsonText(v any, indent string) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	var out strings.Builder
	for _, r := range strings.TrimSuffix(b.String(), "\n") {
		if r == '\n' || isPrintable(r) || r > 0xffff {
			out.WriteRune(r)
			continue
		}
		fmt.Fprintf(&out, `\u%04x`, r)
	}
	return out.String(), nil
}

// object is a protobuf Struct as JSON with the names in order; null if there is none.
func object(s *structpb.Struct) json.RawMessage {
	if s == nil {
		return json.RawMessage("null")
	}
	text, err := jsonText(s.AsMap(), "")
	if err != nil { // a Struct of NaN or Inf, which no node of ours makes
		return json.RawMessage("null")
	}
	return json.RawMessage(text)
}

// tableTime is the form of times in tables: exact to the microsecond of the journal, so that it can be given to --at.
const tableTime = "2006-01-02T15:04:05.000000Z"

// timeText is a time for a table.
func timeText(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().UTC().Format(tableTime)
}

// jsonTime is a time for JSON: RFC 3339 in UTC, left out if there is none.
func jsonTime(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339Nano)
}

// count is a number for people: 1,754,155.
func count[N ~int | ~int64 | ~uint64](n N) string {
	text := strconv.FormatUint(uint64(max(n, 0)), 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// several is a number with its noun: "1 event", "1,200 events".
func several[N ~int | ~int64 | ~uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// clip shortens text for a table.
func clip(s string, most int) string {
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}
