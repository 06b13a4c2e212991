package cloudevents

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
)

// maxDepth is how deep data may nest: as deep as the messages of a grain may.
const maxDepth = 64

// scanner reads JSON (RFC 8259) and refuses what readers of JSON disagree about: members given twice, numbers that a
// double cannot hold, broken UTF-8 and lone surrogates.
type scanner struct {
	data []byte
	at   int
	// path to the value that is being read, for errors.
	path  []step
	depth int
}

// step is one part of a path: a member, or an element of a list.
type step struct {
	name    string
	element bool
	index   int
}

// fail is an error about the value being read.
func (s *scanner) fail(format string, args ...any) error { return wrong(s.field(), format, args...) }

// broken is an error about text that is not JSON, with the place in the line.
func (s *scanner) broken(format string, args ...any) error {
	return s.fail("not JSON at byte %d: %s", s.at+1, fmt.Sprintf(format, args...))
}

func (s *scanner) field() string {
	var b strings.Builder
	for i, p := range s.path {
		switch {
		case p.element:
			fmt.Fprintf(&b, "[%d]", p.index)
		case i > 0:
			b.WriteString("." + clip(p.name))
		default:
			b.WriteString(clip(p.name))
		}
	}
	return b.String()
}

// document reads one object that is all of the data, and calls member at the value of each member.
func (s *scanner) document(member func(name string) error) error {
	switch c := s.peek(); {
	case c == '[':
		return s.fail("is an array; write one event a line, for example with: jq -c '.[]'")
	case s.at == len(s.data):
		return s.fail("is empty; want one event as a JSON object")
	case c != '{':
		return s.broken("want an object, found %s", s.found())
	}
	if err := s.object(member); err != nil {
		return err
	}
	return s.end()
}

// single reads one value that is all of the data.
func (s *scanner) single() (*structpb.Value, error) {
	v, err := s.value()
	if err != nil {
		return nil, err
	}
	return v, s.end()
}

func (s *scanner) end() error {
	if s.peek(); s.at < len(s.data) {
		return s.broken("%s behind the end of the object; write one event a line", s.found())
	}
	return nil
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for ; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// found describes what stands at the place where something else was wanted.
func (s *scanner) found() string {
	if s.at >= len(s.data) {
		return "the end"
	}
	r, size := utf8.DecodeRune(s.data[s.at:])
	if r == utf8.RuneError && size <= 1 {
		return fmt.Sprintf("the byte %#x", s.data[s.at])
	}
	return strconv.QuoteRune(r)
}

func (s *scanner) value() (*structpb.Value, error) {
	switch c := s.peek(); {
	case c == '{':
		return s.structValue()
	case c == '[':
		return s.listValue()
	case c == '"':
		text, err := s.text()
		if err != nil {
			return nil, err
		}
		return structpb.NewStringValue(text), nil
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	}
	return s.literal()
}

func (s *scanner) literal() (*structpb.Value, error) {
	switch rest := s.data[s.at:]; {
	case bytes.HasPrefix(rest, []byte("true")):
		s.at += len("true")
		return structpb.NewBoolValue(true), nil
	case bytes.HasPrefix(rest, []byte("false")):
		s.at += len("false")
		return structpb.NewBoolValue(false), nil
	case bytes.HasPrefix(rest, []byte("null")):
		s.at += len("null")
		return structpb.NewNullValue(), nil
	}
	return nil, s.broken("want a value, found %s", s.found())
}

func (s *scanner) structValue() (*structpb.Value, error) {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	err := s.object(func(name string) (err error) {
		if _, twice := out.Fields[name]; twice {
			return s.twice()
		}
		out.Fields[name], err = s.value()
		return err
	})
	return structpb.NewStructValue(out), err
}

// twice is the error about a member that the object had before.
func (s *scanner) twice() error { return s.fail("is given twice") }

// object reads an object and calls member at the value of each member.
func (s *scanner) object(member func(name string) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	for first := true; s.peek() != '}'; first = false {
		if !first {
			if err := s.expect(',', "a comma or }"); err != nil {
				return err
			}
		}
		if err := s.member(member); err != nil {
			return err
		}
	}
	s.leave()
	return nil
}

func (s *scanner) member(member func(name string) error) error {
	if s.peek() != '"' {
		return s.broken("want the name of a member in quotes, found %s", s.found())
	}
	name, err := s.text()
	if err != nil {
		return err
	}
	if err := s.expect(':', "a colon"); err != nil {
		return err
	}
	s.path = append(s.path, step{name: name})
	if err := member(name); err != nil {
		return err
	}
	s.path = s.path[:len(s.path)-1]
	return nil
}

func (s *scanner) listValue() (*structpb.Value, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	out := &structpb.ListValue{}
	for s.peek() != ']' {
		if len(out.Values) > 0 {
			if err := s.expect(',', "a comma or ]"); err != nil {
				return nil, err
			}
		}
		s.path = append(s.path, step{element: true, index: len(out.Values)})
		v, err := s.value()
		if err != nil {
			return nil, err
		}
		s.path = s.path[:len(s.path)-1]
		out.Values = append(out.Values, v)
	}
	s.leave()
	return structpb.NewListValue(out), nil
}

// enter steps over the opening bracket, leave over the closing one.
func (s *scanner) enter() error {
	if s.depth++; s.depth > maxDepth+1 { // the event itself is one
		return wrong("", "nests deeper than %d levels", maxDepth)
	}
	s.at++
	return nil
}

func (s *scanner) leave() {
	s.depth--
	s.at++
}

func (s *scanner) expect(c byte, what string) error {
	if s.peek() != c || s.at >= len(s.data) {
		return s.broken("want %s, found %s", what, s.found())
	}
	s.at++
	return nil
}
