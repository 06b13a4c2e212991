package probe

import (
	"github.com/granary-dev/granary/grains"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
)

// questioned replies, or lets another probe reply.
func questioned(t *grains.Turn, s *probev1.Probe, e *probev1.Question) error {
	if e.Value == 0 {
		return grains.Reject("value is 0")
	}
	if e.To != "" {
		if err := grains.CheckKey(e.To); err != nil {
			return grains.Rejectf("to: %v", err)
		}
	}
	s.Questions++
	if e.To != "" {
		t.Send("probe/"+e.To, &probev1.Passed{Value: e.Value, Token: t.Defer()})
		return nil
	}
	t.Reply(reply(t, s, e.Value))
	return nil
}

// passed replies to a question of another probe.
func passed(t *grains.Turn, s *probev1.Probe, e *probev1.Passed) error {
	if _, _, err := grains.ParseToken(e.Token); err != nil {
		return grains.Rejectf("token: %v", err)
	}
	t.Answer(e.Token, reply(t, s, e.Value))
	return nil
}

func reply(t *grains.Turn, s *probev1.Probe, value uint64) *probev1.Reply {
	s.Replies++
	return &probev1.Reply{Value: value, By: t.Key(), Count: s.Replies}
}
