package probe

import (
	"slices"
	"time"

	"github.com/granary-dev/granary/grains"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
)

// What bounds reminders. All are part of what [probev1.Probe] and [probev1.Remind] promise.
const (
	maxReminded = 65_536
	maxPending  = 1024
	minEvery    = 1_000_000
	maxMicros   = 1_000_000_000_000
)

// remind sets a reminder and notes when it is due.
func remind(t *grains.Turn, s *probev1.Probe, e *probev1.Remind) error {
	switch {
	case e.Value == 0:
		return grains.Reject("value is 0")
	case e.AfterMicros < 0 || e.AfterMicros > maxMicros:
		return grains.Rejectf("after_micros is %d; want 0 to %d", e.AfterMicros, int64(maxMicros))
	case e.EveryMicros != 0 && (e.EveryMicros < minEvery || e.EveryMicros > maxMicros):
		return grains.Rejectf("every_micros is %d; want 0, or %d to %d", e.EveryMicros, int64(minEvery), int64(maxMicros))
	case e.EveryMicros != 0 && e.AfterMicros != 0:
		return grains.Reject("after_micros and every_micros are both given")
	case pendingAt(s, e.Value) >= 0:
		return grains.Rejectf("a reminder with the value %d is pending", e.Value)
	case len(s.Pending) >= maxPending:
		return grains.Rejectf("full: %d reminders are pending", len(s.Pending))
	}
	p := &probev1.PendingReminder{Value: e.Value, EveryMicros: e.EveryMicros, DueMicros: t.Now().UnixMicro() + max(e.AfterMicros, e.EveryMicros)}
	if e.EveryMicros != 0 {
		p.Id = t.Every(time.Duration(e.EveryMicros)*time.Microsecond, &probev1.Reminded{Value: e.Value})
	} else {
		p.Id = t.After(time.Duration(e.AfterMicros)*time.Microsecond, &probev1.Reminded{Value: e.Value})
	}
	s.Pending = append(s.Pending, p)
	return nil
}

// reminded notes a firing, also one that should not have been.
func reminded(t *grains.Turn, s *probev1.Probe, e *probev1.Reminded) error {
	if len(s.Reminded) < maxReminded {
		s.Reminded = append(s.Reminded, e.Value)
	} else {
		s.RemindedUncounted++
	}
	i := pendingAt(s, e.Value)
	if i < 0 {
		s.Unexpected++
		return nil
	}
	p, now := s.Pending[i], t.Now().UnixMicro()
	if now < p.DueMicros {
		s.Early++
	}
	if p.EveryMicros == 0 {
		s.Pending = slices.Delete(s.Pending, i, i+1)
		return nil
	}
	p.DueMicros += (max(now-p.DueMicros, 0)/p.EveryMicros + 1) * p.EveryMicros
	return nil
}

// forget takes a reminder back.
func forget(t *grains.Turn, s *probev1.Probe, e *probev1.Forget) error {
	i := pendingAt(s, e.Value)
	if i < 0 {
		return grains.Rejectf("no reminder with the value %d is pending", e.Value)
	}
	t.Cancel(s.Pending[i].Id)
	s.Pending = slices.Delete(s.Pending, i, i+1)
	return nil
}

func pendingAt(s *probev1.Probe, value uint64) int {
	return slices.IndexFunc(s.Pending, func(p *probev1.PendingReminder) bool { return p.Value == value })
}
