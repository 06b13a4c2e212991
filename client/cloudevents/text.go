package cloudevents

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// text reads a string. Most have no escapes and are taken as they are.
func (s *scanner) text() (string, error) {
	s.at++
	start := s.at
	for ; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; {
		case c == '"':
			return s.closeText(s.data[start:s.at])
		case c == '\\':
			return s.escapedText(append([]byte(nil), s.data[start:s.at]...))
		case c < ' ':
			return "", s.broken("a control character (%#x) in a string; write it as an escape", c)
		}
	}
	return "", s.broken("the string has no end")
}

func (s *scanner) closeText(text []byte) (string, error) {
	if !utf8.Valid(text) {
		return "", s.fail("a string is not UTF-8")
	}
	s.at++
	return string(text), nil
}

// escapedText reads on from the first escape of a string that begins with text.
func (s *scanner) escapedText(text []byte) (string, error) {
	for s.at < len(s.data) {
		switch c := s.data[s.at]; {
		case c == '"':
			return s.closeText(text)
		case c < ' ':
			return "", s.broken("a control character (%#x) in a string; write it as an escape", c)
		case c == '\\':
			var err error
			if text, err = s.escape(text); err != nil {
				return "", err
			}
		default:
			text = append(text, c)
			s.at++
		}
	}
	return "", s.broken("the string has no end")
}

var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// escape appends what the escape at the backslash stands for.
func (s *scanner) escape(text []byte) ([]byte, error) {
	if s.at+1 >= len(s.data) {
		return nil, s.broken("the string has no end")
	}
	c := s.data[s.at+1]
	if c != 'u' {
		if escapes[c] == 0 {
			return nil, s.broken("an unknown escape")
		}
		s.at += 2
		return append(text, escapes[c]), nil
	}
	r, ok := s.hex()
	if !ok {
		return nil, s.broken("want four hexadecimal digits behind \\u")
	}
	if utf16.IsSurrogate(r) {
		low, _ := s.hex()
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return nil, s.fail("a string has half of a surrogate pair, which is no character")
		}
	}
	return utf8.AppendRune(text, r), nil
}

// hex reads the escape \uXXXX, if there is one.
func (s *scanner) hex() (rune, bool) {
	const length = 6
	rest := s.data[s.at:]
	if len(rest) < length || rest[0] != '\\' || rest[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range rest[2:length] {
		digit := strings.IndexByte("0123456789abcdef", c|0x20) // letters become lower case, digits stay
		if digit < 0 || c < '0' {
			return 0, false
		}
		r = r<<4 | rune(digit)
	}
	s.at += length
	return r, true
}
