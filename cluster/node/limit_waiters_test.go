package node_test

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/node"
)

// settling is a settlement on its way.
type settling struct {
	*actors.Settle
	done chan struct{}
}

func settle(t *testing.T, n *node.Node, key string, seq uint64, retry bool) *settling {
	t.Helper()
	s := &settling{Settle: &actors.Settle{Kind: "trap", Key: key, Seq: seq, Retry: retry}, done: make(chan struct{})}
	s.Done = func(*actors.Settle) { close(s.done) }
	if err := n.Settle(n.Table().Shard("", "trap", key), s.Settle); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *settling) wait(t *testing.T) {
	t.Helper()
	within(t, s.done, "a settlement")
}

func within(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("no answer to %s", what)
	}
}

// TestRetryOfAHangingTurn: a dead letter whose event still hangs is a dead letter again, and its retry is answered; so is
// what else is asked of dead letters meanwhile, in the same step and behind it.
func TestRetryOfAHangingTurn(t *testing.T) {
	p := newTrap(t)
	fs := vfs.NewMem()
	n := p.start(t, fs, nil)
	a, b := p.keyOn(n, 1, "a"), p.keyOn(n, 1, "b")
	batch(t, n, nil, p.event(a, "", "hang"), p.event(b, "", "hang 2")).wait(t)
	batch(t, n, nil, p.event(a, "", "remind")).wait(t) // its firing hangs as well
	for end := time.Now().Add(patience); n.Stats().OpenDeadLetters < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the reminder that hangs is no dead letter: %+v", n.Stats())
		}
	}
	was := p.hanging.Load()
	again := settle(t, n, a, 3, true)
	for p.hanging.Load() == was {
		time.Sleep(time.Millisecond)
	}
	drop := settle(t, n, b, 1, false) // while it hangs
	again.wait(t)
	drop.wait(t)
	if again.Failed != actors.Folded || again.Result.Outcome != actors.DeadLettered || again.Result.Seq != 4 {
		t.Errorf("a retry that hangs: %v %s %+v", again.Failed, again.Why, again.Result)
	}
	if drop.Failed != actors.Folded {
		t.Errorf("a drop behind it: %v %s", drop.Failed, drop.Why)
	}
	if s := n.Stats(); s.OpenDeadLetters != 2 || s.Abandoned != 4 || s.Quarantined != 0 {
		t.Errorf("the counters say %+v", s)
	}
	close(p.release)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	p.verify(t, fs)
}

// TestGiveUpWhileATurnHangs: who gives up while a turn hangs is let go as ever.
func TestGiveUpWhileATurnHangs(t *testing.T) {
	p := newTrap(t)
	n := p.start(t, vfs.NewMem(), nil)
	a, b := p.keyOn(n, 1, "a"), p.keyOn(n, 1, "b")
	hang := batch(t, n, nil, p.event(a, "", "hang"))
	p.hangs()
	ask := &waiting{Batch: &actors.Batch{Ask: true, Events: []actors.Event{p.event(b, "x", "defer")}}, done: make(chan struct{})}
	ask.Done = func(*actors.Batch) { close(ask.done) }
	if err := n.Publish(t.Context(), 1, ask.Batch, true); err != nil {
		t.Fatal(err)
	}
	n.GiveUp(1, ask.Batch)
	told := make(chan struct{})
	tail := &actors.Read{Tail: &actors.Tail{After: 1 << 40}, Done: func(*actors.Read) { close(told) }}
	if err := n.Read(1, tail); err != nil {
		t.Fatal(err)
	}
	n.GiveUpRead(1, tail)
	hang.wait(t)
	within(t, ask.done, "an ask that was given up")
	within(t, told, "a read that was given up")
	if r := ask.Results; ask.Refused != actors.Folded || r[0].Outcome != actors.Folded || !r[0].Deferred || r[0].Reply != nil {
		t.Errorf("the ask: %v %s %+v", ask.Refused, ask.Why, r)
	}
	if tail.Failed != actors.Unavailable {
		t.Errorf("the read: %v %s", tail.Failed, tail.Why)
	}
	close(p.release)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}
