package grains_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/grains"
)

type (
	number = wrapperspb.Int64Value
	word   = wrapperspb.StringValue
)

// by adds an event n times.
func by(n int64) grains.Handler[*number] {
	return grains.On(func(_ *grains.Turn, s, e *number) error { s.Value += n * e.Value; return nil })
}

func handlers(hs ...grains.Handler[*number]) grains.Handlers[*number] { return hs }

// TestVersions: each version of a kind folds with its own handlers, into the same state.
func TestVersions(t *testing.T) {
	d, err := grains.Kind[*number]{Name: "sum", Version: 3, IDWindow: 7, Handlers: handlers(by(100)),
		Earlier: []grains.Logic[*number]{
			{Version: 2, Handlers: handlers(by(10), grains.On(func(_ *grains.Turn, s *number, e *word) error { s.Value = int64(len(e.Value)); return nil }))},
			{Version: 1, Handlers: handlers(by(1))},
		}}.Define()
	if err != nil {
		t.Fatal(err)
	}
	s := d.NewState()
	var runner grains.Runner
	for _, version := range []uint32{1, 2, 3} {
		at, ok := d.At(version)
		if !ok || at.Version != version || at.Name != "sum" || at.IDWindow != 7 {
			t.Fatalf("version %d: %+v", version, at)
		}
		e, _ := at.Event("Int64Value")
		if out := runner.Run(e, grains.Input{}, s, wrapperspb.Int64(1)); out.Err != nil {
			t.Fatal(out.Err)
		}
		if _, ok := at.Event("StringValue"); ok != (version == 2) {
			t.Errorf("version %d: takes a word: %t", version, ok)
		}
	}
	if want := wrapperspb.Int64(111); !proto.Equal(s, want) {
		t.Errorf("%v, want %v", s, want)
	}
	if _, ok := d.At(4); ok {
		t.Error("there is a version 4")
	}
	if e := d.Earlier(); len(e) != 2 || e[0].Version != 1 || e[1].Version != 2 || len(e[0].Earlier()) != 0 {
		t.Errorf("earlier: %+v", e)
	}
}

func TestDefineRefuses(t *testing.T) {
	earlier := func(ls ...grains.Logic[*number]) []grains.Logic[*number] { return ls }
	one := handlers(by(1))
	for want, k := range map[string]grains.Kind[*number]{
		"the version starts at 1":            {Name: "sum", Handlers: one},
		"no handlers":                        {Name: "sum", Version: 1},
		"two handlers for google.protobuf.":  {Name: "sum", Version: 1, Handlers: handlers(by(1), by(2))},
		"an earlier version is 0":            {Name: "sum", Version: 2, Handlers: one, Earlier: earlier(grains.Logic[*number]{Handlers: one})},
		"an earlier version is 2":            {Name: "sum", Version: 2, Handlers: one, Earlier: earlier(grains.Logic[*number]{Version: 2, Handlers: one})},
		"an earlier version is 3":            {Name: "sum", Version: 2, Handlers: one, Earlier: earlier(grains.Logic[*number]{Version: 3, Handlers: one})},
		"version 1 is there twice":           {Name: "sum", Version: 3, Handlers: one, Earlier: earlier(grains.Logic[*number]{Version: 1, Handlers: one}, grains.Logic[*number]{Version: 1, Handlers: one})},
		"version 1 of kind \"sum\": no hand": {Name: "sum", Version: 2, Handlers: one, Earlier: earlier(grains.Logic[*number]{Version: 1})},
	} {
		if _, err := k.Define(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
