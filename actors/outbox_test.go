package actors_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/granary-dev/granary/actors"
)

// sender is a world whose shard 1 sent n events to shard 2, whose messages are still on their way.
func sender(t *testing.T, n int) *world {
	w := newWorld(t, 2, 1<<20, 1000)
	for _, r := range w.shards {
		r.lead()
	}
	more(w, n)
	return w
}

// more lets shard 1 send n further events, 100 in a turn.
func more(w *world, n int) {
	for range n / 100 {
		w.publish(&actors.Batch{Events: []actors.Event{w.event("a", strings.TrimSpace(strings.Repeat(">deaf/x@2:+y ", 100)), "")}})
	}
	r := w.shards[0]
	r.idle()
	for len(r.proposed) > 0 {
		r.commit(len(r.proposed))
		r.idle()
	}
}

// under counts the sends on their way to shard 2.
func (w *world) under() (n int) {
	for _, p := range w.net {
		if in, ok := p.what.(*actors.Inbound); ok {
			n += len(in.Sends)
		}
	}
	return n
}

// TestSlowTargetHoldsClientsUp: what is under way to a target is bounded. Once it is behind by more than that, clients
// have to wait, until it was fed from the log.
func TestSlowTargetHoldsClientsUp(t *testing.T) {
	w := sender(t, 4000)
	defer w.close()
	source, target := w.shards[0], w.shards[1]
	if n := w.under(); n != 4000 || source.shard.Overloaded() {
		t.Fatalf("%d sends are under way, overloaded=%t", n, source.shard.Overloaded())
	}
	more(w, 6000)
	if n := w.under(); n != 4096 || !source.shard.Overloaded() {
		t.Fatalf("%d sends are under way, overloaded=%t", n, source.shard.Overloaded())
	}
	// the clock stands still, so nothing is taken for lost; the target takes its time
	for rounds := 0; source.shard.Overloaded(); rounds++ {
		if rounds > 20 {
			t.Fatal("the target was fed for 20 rounds and still lags")
		}
		for len(w.net) > 0 {
			w.deliver(0)
		}
		target.commit(len(target.proposed))
		target.idle()
		if n := w.under(); n > 4096 {
			t.Fatalf("%d sends are under way", n)
		}
	}
	w.settle()
	w.checkSends()
	if n := target.model.seq("deaf/x@2"); n != 10000 {
		t.Errorf("the target took %d sends in", n)
	}
}

// TestLargeSendsAreBounded: the bytes under way are bounded as well as the number.
func TestLargeSendsAreBounded(t *testing.T) {
	w := newWorld(t, 2, 1<<20, 1000)
	defer w.close()
	for _, r := range w.shards {
		r.lead()
	}
	r := w.shards[0]
	for range 10 {
		w.publish(&actors.Batch{Events: []actors.Event{w.event("a", ">deaf/x@2:"+strings.Repeat("-", 1<<20), "")}})
		r.idle()
		r.commit(len(r.proposed))
		r.idle()
	}
	if n := w.under(); n != 4 || !r.shard.Overloaded() {
		t.Errorf("%d sends of a MiB are under way, overloaded=%t", n, r.shard.Overloaded())
	}
	w.settle()
	w.checkSends()
}

// TestTargetAwayHoldsNobodyUp: a target that is out of service does not keep the source from taking events, is tried
// ever more seldom and with little, and gets everything in order when it is back, also from a source that crashed
// meanwhile.
func TestTargetAwayHoldsNobodyUp(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("crash=%t", crash), func(t *testing.T) {
			w := sender(t, 100)
			defer w.close()
			source, target := w.shards[0], w.shards[1]
			target.lose() // it follows, and refuses
			tries := 0
			for range 600 { // a minute
				w.now += 100_000
				source.step(actors.Tick{})
				source.idle()
				for n := len(w.net); n > 0; n-- {
					tries++
					w.deliver(0)
				}
			}
			if tries > 60 {
				t.Errorf("a target that refuses was tried %d times in a minute", tries)
			}
			more(w, 5000)
			if source.shard.Overloaded() {
				t.Error("the source takes no events because a target is out of service")
			}
			for range 60 {
				if n := w.under(); n > 64 {
					t.Fatalf("%d sends are under way to a target that refuses", n)
				}
				w.now += 1_000_000
				source.step(actors.Tick{})
				source.idle()
				for n := len(w.net); n > 0; n-- {
					w.deliver(0)
				}
			}
			if crash {
				if err := source.shard.Close(); err != nil {
					t.Fatal(err)
				}
				source.crash(0)
				source.lead()
			}
			w.settle()
			w.checkSends()
			if n := target.model.seq("deaf/x@2"); n != 5100 {
				t.Errorf("the target took %d sends in", n)
			}
		})
	}
}

// TestClockSetBackDoesNotStopSends: a target that is to be tried again at a moment is tried although the clock jumped to
// long before that moment.
func TestClockSetBackDoesNotStopSends(t *testing.T) {
	w := sender(t, 100)
	defer w.close()
	w.shards[1].lose()
	w.deliver(0) // refused
	w.deliver(0)
	w.shards[1].lead()
	w.now -= 3600_000_000
	for range 2 {
		w.shards[0].step(actors.Tick{})
		w.shards[0].idle()
	}
	if w.under() == 0 {
		t.Error("nothing is sent again")
	}
	w.settle()
	w.checkSends()
}

// TestLostMessagesWithClockSetBack: what was lost is found to be lost, whatever the clock does.
func TestLostMessagesWithClockSetBack(t *testing.T) {
	w := sender(t, 100)
	defer w.close()
	r := w.shards[0]
	r.step(actors.Tick{})
	w.net = nil
	w.now -= 3600_000_000
	for range 150 {
		r.step(actors.Tick{})
		r.idle()
		w.now += 100_000
	}
	if w.under() == 0 {
		t.Error("nothing was sent again in 15 seconds")
	}
	w.settle()
	w.checkSends()
}
