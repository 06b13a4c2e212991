package probe

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/grainstest"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
)

// TestReminders holds the kind to the rules of a test kit, with events about reminders.
func TestReminders(t *testing.T) {
	grainstest.Check(t, grainstest.Suite{Kind: Kind.MustDefine(), Key: "p1", Generate: generateReminders})
}

func generateReminders(rt *rapid.T) []grainstest.Event {
	var events []grainstest.Event
	for range rapid.IntRange(0, 40).Draw(rt, "events") {
		value := rapid.Uint64Range(0, 9).Draw(rt, "value")
		switch rapid.IntRange(0, 4).Draw(rt, "turn") {
		case 0, 1:
			events = append(events, grainstest.Event{Message: &probev1.Remind{Value: value, AfterMicros: rapid.Int64Range(-1, 1000).Draw(rt, "after")}})
		case 2:
			events = append(events, grainstest.Event{Message: &probev1.Remind{Value: value, EveryMicros: rapid.Int64Range(minEvery-1, minEvery+1000).Draw(rt, "every")}})
		case 3:
			events = append(events, grainstest.Event{Message: &probev1.Forget{Value: value}})
		default:
			events = append(events, grainstest.Event{Message: &probev1.Reminded{Value: value}})
		}
	}
	return events
}

// TestRemindersRecount plays the part of a shard that fires what is due, and now and then what is not: a state says how
// many came that should not have.
func TestRemindersRecount(t *testing.T) {
	def := Kind.MustDefine()
	rapid.Check(t, func(rt *rapid.T) {
		type pending struct {
			id, value  uint64
			due, every int64
		}
		var set []pending
		var runner grains.Runner
		s, now, seq := def.NewState().(*probev1.Probe), int64(1_700_000_000_000_000), uint64(0)
		var fired, early, unexpected uint64
		run := func(m proto.Message) {
			typ, _ := def.Event(string(m.ProtoReflect().Descriptor().Name()))
			seq++
			out := runner.Run(typ, grains.Input{Grain: grains.Ref{Kind: "probe", Key: "p1"}, Seq: seq, Now: now}, s, m)
			for _, e := range out.Effects {
				switch e.Kind {
				case grains.Remind:
					set = append(set, pending{e.Timer, m.(*probev1.Remind).Value, e.Due, e.Every})
				case grains.Cancel:
					for i, p := range set {
						if p.id == e.Timer {
							set = append(set[:i:i], set[i+1:]...)
							break
						}
					}
				}
			}
		}
		for _, e := range generateReminders(rt) {
			now += rapid.Int64Range(0, 600_000).Draw(rt, "passes")
			if m, ok := e.Message.(*probev1.Reminded); !ok {
				run(e.Message)
			} else if i := int(m.Value); i < len(set) { // one that was set fires
				p := &set[i]
				if fired++; now < p.due {
					early++
				}
				for first := true; p.every != 0 && (first || p.due <= now); first = false {
					p.due += p.every
				}
				value := p.value
				if p.every == 0 {
					set = append(set[:i:i], set[i+1:]...)
				}
				run(&probev1.Reminded{Value: value})
			} else { // one that was not
				fired++
				unexpected++
				run(&probev1.Reminded{Value: 1000})
			}
			if len(s.Reminded) != int(fired) || s.Early != early || s.Unexpected != unexpected || len(s.Pending) != len(set) {
				rt.Fatalf("%v\nwant %d fired, %d early, %d unexpected, pending %+v", s, fired, early, unexpected, set)
			}
			for i, p := range set {
				if q := s.Pending[i]; q.Id != p.id || q.Value != p.value || q.DueMicros != p.due || q.EveryMicros != p.every {
					rt.Fatalf("pending %v, want %+v", s.Pending, set)
				}
			}
		}
	})
}

// TestRemindersAreBounded: a probe refuses a reminder too many, and goes on counting what it cannot keep.
func TestRemindersAreBounded(t *testing.T) {
	def := Kind.MustDefine()
	remind, _ := def.Event("Remind")
	reminded, _ := def.Event("Reminded")
	var runner grains.Runner
	s := &probev1.Probe{Reminded: make([]uint64, maxReminded-1)}
	for i := range maxPending + 1 {
		out := runner.Run(remind, grains.Input{Seq: 1}, s, &probev1.Remind{Value: uint64(i + 1)})
		if reason, rejected := grains.Rejection(out.Err); rejected != (i == maxPending) || rejected && reason != "full: 1024 reminders are pending" {
			t.Fatalf("reminder %d: %v", i, out.Err)
		}
	}
	for i := range 3 {
		if out := runner.Run(reminded, grains.Input{Seq: 2}, s, &probev1.Reminded{Value: uint64(i + 1)}); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	if len(s.Reminded) != maxReminded || s.RemindedUncounted != 2 || len(s.Pending) != maxPending-3 || s.Unexpected != 0 {
		t.Errorf("%d kept, %d counted, %d pending, %d unexpected", len(s.Reminded), s.RemindedUncounted, len(s.Pending), s.Unexpected)
	}
}
