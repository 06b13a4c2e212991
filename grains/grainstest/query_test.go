package grainstest

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/grains"
)

// TestPlantedQueries: each query breaks a promise, and is found.
func TestPlantedQueries(t *testing.T) {
	asked := 0
	for _, p := range []struct {
		name, says string
		query      func(*grains.View, *words, *word) (*word, error)
	}{
		{"none", "", func(v *grains.View, s *words, q *word) (*word, error) {
			if q.Value == "no" {
				return nil, grains.Reject("no")
			}
			return wrapperspb.String(v.Grain.String() + strings.Join(s.Paths, " ")), nil
		}},
		{"another answer each time", "two answers", func(*grains.View, *words, *word) (*word, error) {
			asked++
			return wrapperspb.String(strings.Repeat("x", asked)), nil
		}},
		{"a coin tossed to reject", "two answers", func(*grains.View, *words, *word) (*word, error) {
			if asked++; asked%2 == 0 {
				return nil, grains.Reject("tails")
			}
			return wrapperspb.String("heads"), nil
		}},
		{"a change of the state", "changes the state", func(_ *grains.View, s *words, _ *word) (*word, error) {
			s.Paths = append(s.Paths, "x")
			return wrapperspb.String(""), nil
		}},
		{"a change of the question", "changes the question", func(_ *grains.View, _ *words, q *word) (*word, error) {
			q.Value += "x"
			return wrapperspb.String(""), nil
		}},
		{"an error", "fails: broken", func(*grains.View, *words, *word) (*word, error) { return nil, errors.New("broken") }},
		{"a panic", "the handler panicked", func(*grains.View, *words, *word) (*word, error) { panic("x") }},
		{"no answer", "has no answer", func(*grains.View, *words, *word) (*word, error) { return nil, nil }},
	} {
		t.Run(p.name, func(t *testing.T) {
			asked = 0
			s := Suite{Questions: nil, Kind: grains.Kind[*words]{Name: "words", Version: 1,
				Handlers: grains.Handlers[*words]{grains.On(honest), grains.Query(p.query)}}.MustDefine()}
			s.Questions = append(s.Questions, wrapperspb.String("no"), wrapperspb.String("why"))
			err := s.Examine([]Event{{Message: wrapperspb.String("ash")}})
			if p.says == "" && err != nil || p.says != "" && (err == nil || !strings.Contains(err.Error(), p.says)) {
				t.Errorf("%v; want %q", err, p.says)
			}
		})
	}
	s := Suite{Kind: kind(honest), Questions: nil}
	s.Questions = append(s.Questions, wrapperspb.String("x"))
	if err := s.Examine(nil); err == nil || !strings.Contains(err.Error(), "has no query") {
		t.Error(err)
	}
}
