package probe

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/grainstest"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
)

func TestProbe(t *testing.T) {
	grainstest.Check(t, grainstest.Suite{
		Kind: Kind.MustDefine(), Key: "p1", Generate: generate, Scripts: "testdata",
	})
}

var (
	turns  = grainstest.Evenly("append", "append", "transfer", "receive", "ask", "passed", "announce")
	faults = grainstest.Evenly(append(slices.Repeat([]string{"none"}, 20), "zero", "negative", "huge", "key", "no target")...)
)

// generate draws appends and sends, some of them with a value that came before. One append in six or so is bad.
func generate(rt *rapid.T) []grainstest.Event {
	var events []grainstest.Event
	for range rapid.IntRange(0, 60).Draw(rt, "events") {
		value := rapid.Uint64Range(1, 40).Draw(rt, "value")
		amount := rapid.Int64Range(0, 100).Draw(rt, "amount")
		turn := turns.Draw(rt, "turn")
		switch turn {
		case "ask":
			q := &probev1.Question{Value: rapid.Uint64Range(0, 9).Draw(rt, "question"), To: grainstest.Evenly("", "p1", "p2", "a\x00b").Draw(rt, "of")}
			events = append(events, grainstest.Event{Message: q})
			continue
		case "passed":
			p := &probev1.Passed{Value: value, Token: grainstest.Evenly("probe/p2#3", "probe/p1#1", "p2").Draw(rt, "token")}
			events = append(events, grainstest.Event{Message: p, From: grains.Ref{Kind: "probe", Key: "p2"}})
			continue
		}
		if turn == "receive" {
			events = append(events, grainstest.Event{
				Message: &probev1.Received{Value: value, Amount: amount}, From: grains.Ref{Kind: "probe", Key: "p2"},
			})
			continue
		}
		if turn == "announce" {
			events = append(events, grainstest.Event{Message: &probev1.Announce{Value: value - 1, Times: uint32(amount + 2)}}) // some are refused
			continue
		}
		e := &probev1.Append{Value: value}
		if turn == "transfer" {
			e.To, e.Amount = grainstest.Evenly("p1", "p2", "p3").Draw(rt, "to"), amount
		}
		switch faults.Draw(rt, "fault") {
		case "zero":
			e.Value = 0
		case "negative":
			e.Amount = -1 - amount
		case "huge":
			e.Amount = maxAmount + 1 + amount
		case "key":
			e.To = grainstest.Evenly("a\x00b", strings.Repeat("x", 513)).Draw(rt, "key")
		case "no target":
			e.To, e.Amount = "", amount+1
		}
		events = append(events, grainstest.Event{Message: e})
	}
	return events
}

// TestRecount holds a state to what was taken, and the sends to what the appends asked for.
func TestRecount(t *testing.T) {
	def := Kind.MustDefine()
	rapid.Check(t, func(rt *rapid.T) {
		s, want := def.NewState().(*probev1.Probe), &probev1.Probe{}
		var runner grains.Runner
		for i, e := range generate(rt) {
			typ, _ := def.Event(string(e.Message.ProtoReflect().Descriptor().Name()))
			out := runner.Run(typ, grains.Input{Grain: grains.Ref{Kind: "probe", Key: "p1"}, Seq: uint64(i + 1)}, s, e.Message)
			if out.Err != nil {
				continue
			}
			sends := 0 // or publishes
			switch m := e.Message.(type) {
			case *probev1.Append:
				want.Values = append(want.Values, m.Value)
				if m.To != "" {
					sends = 1
					want.Balance -= m.Amount
				}
			case *probev1.Announce:
				sends = int(max(m.Times, 1))
			case *probev1.Received:
				want.Received = append(want.Received, m.Value)
				want.Balance += m.Amount
			case *probev1.Question:
				want.Questions++
				if sends = 2; m.To == "" {
					sends = 0
					want.Replies++
				}
				if (len(out.Reply) > 0) != (m.To == "") {
					rt.Fatalf("event %d: reply %x to %v", i+1, out.Reply, m)
				}
			case *probev1.Passed:
				sends = 1
				want.Replies++
			}
			if !proto.Equal(s, want) || len(out.Effects) != sends {
				rt.Fatalf("event %d: %d sends, want %d\nstate   %v\nrecount %v", i+1, len(out.Effects), sends, s, want)
			}
		}
	})
}

// TestFull is a probe whose list is full: it refuses, sends nothing and stays as it is.
func TestFull(t *testing.T) {
	def := Kind.MustDefine()
	typ, _ := def.Event("Append")
	s := &probev1.Probe{Values: make([]uint64, maxValues-1)}
	var runner grains.Runner
	if out := runner.Run(typ, grains.Input{}, s, &probev1.Append{Value: 1}); out.Err != nil {
		t.Fatal(out.Err)
	}
	out := runner.Run(typ, grains.Input{}, s, &probev1.Append{Value: 2, To: "p2", Amount: 1})
	if reason, _ := grains.Rejection(out.Err); reason != "full: there are 4096 values" || len(s.Values) != maxValues || s.Balance != 0 {
		t.Errorf("outcome %v, %d values, balance %d", out.Err, len(s.Values), s.Balance)
	}
}

// TestReceivedIsFull is a probe that cannot keep more of what is sent to it: it goes on counting.
func TestReceivedIsFull(t *testing.T) {
	def := Kind.MustDefine()
	typ, _ := def.Event("Received")
	s := &probev1.Probe{Received: make([]uint64, maxReceived-1)}
	var runner grains.Runner
	for range 3 {
		if out := runner.Run(typ, grains.Input{}, s, &probev1.Received{Value: 1, Amount: 2}); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	if len(s.Received) != maxReceived || s.Uncounted != 2 || s.Balance != 6 {
		t.Errorf("%d received, %d uncounted, balance %d", len(s.Received), s.Uncounted, s.Balance)
	}
}
