package cloudevents

import (
	"math"
	"strconv"

	"google.golang.org/protobuf/types/known/structpb"
)

// number reads a number, which must be one that a double holds: whole numbers exactly, others as the nearest.
func (s *scanner) number() (*structpb.Value, error) {
	text, whole, err := s.numeral()
	if err != nil {
		return nil, err
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, s.fail("the number %s is too large", clip(text))
	}
	const always = 15 // digits that a double always holds
	if whole && len(text) > always && strconv.FormatFloat(f, 'f', 0, 64) != text {
		return nil, s.fail("the number %s would lose digits; write it as a string: \"%[1]s\"", clip(text))
	}
	return structpb.NewNumberValue(f), nil
}

// numeral reads the text of a number by the grammar of RFC 8259.
func (s *scanner) numeral() (text string, whole bool, err error) {
	start := s.at
	if s.data[s.at] == '-' {
		s.at++
	}
	if s.at < len(s.data) && s.data[s.at] == '0' {
		s.at++
	} else if !s.digits() {
		return "", false, s.broken("want a digit, found %s", s.found())
	}
	whole = true
	if s.at < len(s.data) && s.data[s.at] == '.' {
		whole = false
		s.at++
		if !s.digits() {
			return "", false, s.broken("want a digit behind the point, found %s", s.found())
		}
	}
	if s.at < len(s.data) && s.data[s.at]|0x20 == 'e' {
		whole = false
		s.at++
		if s.at < len(s.data) && (s.data[s.at] == '+' || s.data[s.at] == '-') {
			s.at++
		}
		if !s.digits() {
			return "", false, s.broken("want a digit in the exponent, found %s", s.found())
		}
	}
	return string(s.data[start:s.at]), whole, nil
}

// digits steps over one digit or more.
func (s *scanner) digits() bool {
	start := s.at
	for s.at < len(s.data) && s.data[s.at] >= '0' && s.data[s.at] <= '9' {
		s.at++
	}
	return s.at > start
}
