package grainstest

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/granary-dev/granary/grains"
)

// reruns is how often the determinism check runs the events again. An order that changes from run to run may come out the
// same once.
const reruns = 3

// checks are what a kind is held to, each on one sequence of events.
var checks = []struct {
	name string
	run  func(Suite, []Event) error
}{
	{"reject", checkReject},
	{"determinism", checkDeterminism},
	{"snapshot", checkSnapshot},
	{"queries", checkQueries},
}

// checkReject looks at each outcome for itself.
func checkReject(s Suite, events []Event) error {
	outcomes, err := s.play(events, nil)
	if err != nil {
		return err
	}
	for i, o := range outcomes {
		_, rejected := grains.Rejection(o.err)
		switch {
		case o.meddled:
			err = errors.New("its handler changed the event itself")
		case o.err != nil && !rejected:
			err = fmt.Errorf("it was dead-lettered: %w", o.err)
		case rejected && !bytes.Equal(o.before, o.after):
			err = fmt.Errorf("it was rejected (%w), but the state changed:\n%s",
				o.err, s.difference("before", o.before, "after", o.after))
		case rejected && len(o.effects)+len(o.reply) > 0:
			err = fmt.Errorf("it was rejected (%w), but it sent something", o.err)
		}
		if err != nil {
			return fmt.Errorf("event %d, %s: %w", i+1, o.event, err)
		}
	}
	return nil
}

// checkDeterminism runs the events again, with a runner that has a past and with one that has none.
func checkDeterminism(s Suite, events []Event) error {
	first, err := s.play(events, nil)
	if err != nil {
		return err
	}
	for range reruns {
		again, err := s.play(events, func(g *grain) error {
			g.runner = &grains.Runner{}
			return nil
		})
		if err != nil {
			return err
		}
		if err := s.compare(first, again, "one run", "another run of the same events"); err != nil {
			return err
		}
	}
	return nil
}

// checkSnapshot compares a grain that stays in memory with one that is passivated and activated after every event.
func checkSnapshot(s Suite, events []Event) error {
	stayed, err := s.play(events, nil)
	if err != nil {
		return err
	}
	reloaded, err := s.play(events, (*grain).reload)
	if err != nil {
		return err
	}
	return s.compare(stayed, reloaded, "in memory", "from a snapshot after each event")
}

// play gives a new grain all events. Between two of them it calls between, if there is one.
func (s Suite) play(events []Event, between func(*grain) error) ([]outcome, error) {
	g := s.newGrain()
	var all []outcome
	for _, e := range events {
		o, err := g.turn(e)
		if err != nil {
			return nil, err
		}
		all = append(all, o)
		if between == nil {
			continue
		}
		if err := between(g); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// compare tells where two runs of the same events first differ.
func (s Suite) compare(a, b []outcome, nameA, nameB string) error {
	for i := range a {
		a, b := a[i], b[i]
		where := fmt.Sprintf("event %d, %s", i+1, a.event)
		if x, y := verdict(a.err), verdict(b.err); x != y {
			return fmt.Errorf("%s: the outcomes differ:\n  %s: %s\n  %s: %s", where, nameA, x, nameB, y)
		}
		if !bytes.Equal(a.reply, b.reply) {
			return fmt.Errorf("%s: the replies differ:\n  %s: %s\n  %s: %s", where, nameA, replyText(a.reply), nameB, replyText(b.reply))
		}
		if len(a.effects) != len(b.effects) {
			return fmt.Errorf("%s: %d effects %s, %d %s", where, len(a.effects), nameA, len(b.effects), nameB)
		}
		for k := range a.effects {
			if x, y := effectText(a.effects[k]), effectText(b.effects[k]); x != y {
				return fmt.Errorf("%s: effect %d differs:\n  %s: %s\n  %s: %s", where, k+1, nameA, x, nameB, y)
			}
		}
		if !bytes.Equal(a.after, b.after) {
			return fmt.Errorf("%s: the states differ:\n%s", where, s.difference(nameA, a.after, nameB, b.after))
		}
	}
	return nil
}
