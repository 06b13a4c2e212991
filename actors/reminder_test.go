package actors_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/entry"
)

// setReminders lets books set reminders, in as many turns as there are words.
func (w *world) setReminders(keys int, words ...string) {
	for i, line := range words {
		w.publish(&actors.Batch{Events: []actors.Event{w.event(fmt.Sprintf("k%d", i%keys), line, "")}})
		w.shards[0].idle()
	}
	w.shards[0].commit(len(w.shards[0].proposed))
	w.shards[0].idle()
	w.shards[0].commit(len(w.shards[0].proposed))
}

// TestReminderOfWhatIsGone: a reminder whose kind, or whose event, this binary does not have is a dead letter, once.
func TestReminderOfWhatIsGone(t *testing.T) {
	bare, err := grains.NewCatalog(grains.Kind[*wrapperspb.Int64Value]{Name: "deaf", Version: 1,
		Handlers: grains.Handlers[*wrapperspb.Int64Value]{grains.On(deaf)}}.MustDefine())
	if err != nil {
		t.Fatal(err)
	}
	other, err := grains.NewCatalog(grains.Kind[*wrapperspb.StringValue]{Name: "book", Version: 1, Handlers: grains.Handlers[*wrapperspb.StringValue]{
		grains.On(func(*grains.Turn, *wrapperspb.StringValue, *wrapperspb.BoolValue) error { return nil })}}.MustDefine())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		catalog *grains.Catalog
		why     string
	}{
		{bare, `there is no kind "book"`},
		{other, `kind "book" takes no event "google.protobuf.StringValue"`},
	} {
		w := newWorld(t, 1, 1<<20, 1000)
		r := w.shards[0]
		r.lead()
		w.setReminders(1, "every:1000:+x")
		w.catalog = test.catalog
		r.crash(0)
		r.lead()
		w.now += 1_000_000
		for range 3 {
			r.step(actors.Tick{})
			r.idle()
			r.commit(len(r.proposed))
		}
		records := r.model.grains["book/k0"]
		if r.failed != nil || len(records) != 2 {
			t.Fatalf("%d records, %v", len(records), r.failed)
		}
		if rec := records[1]; rec.typ != entry.DeadLetter || rec.reason != test.why {
			t.Errorf("%v: %s", rec.typ, rec.reason)
		}
		if n := r.model.fired[fmt.Sprintf("book/k0 %d", bookTimer("1.0"))]; n != 1 {
			t.Errorf("it fired %d times", n)
		}
		w.close()
	}
}

// TestReminderIsHeldBack: a reminder whose grain cannot be loaded stays pending, and keeps no other from firing.
func TestReminderIsHeldBack(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	r := w.shards[0]
	r.lead()
	w.setReminders(2, "+a in:10:+x", "+b in:20:+y")
	// the logic changes under the same version: what k0 did is not what it would do
	changed := func(t *grains.Turn, s, e *wrapperspb.StringValue) error {
		if t.Key() == "k0" && e.Value != "+x" {
			return nil
		}
		return bookTurn(1, t, s, e)
	}
	right := w.catalog
	var err error
	if w.catalog, err = grains.NewCatalog(grains.Kind[*wrapperspb.StringValue]{Name: "book", Version: 1,
		Handlers: grains.Handlers[*wrapperspb.StringValue]{grains.On(changed)}}.MustDefine()); err != nil {
		t.Fatal(err)
	}
	var told []string
	w.trace = func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); strings.Contains(line, "holds reminder") {
			told = append(told, line)
		}
	}
	r.crash(0)
	r.lead()
	w.now += 100_000
	for range 3 {
		r.step(actors.Tick{})
		r.idle()
		r.commit(len(r.proposed))
	}
	if len(told) != 1 || !strings.Contains(told[0], "book/k0") || !strings.Contains(told[0], "the logic is not the one that ran") {
		t.Errorf("told: %q", told)
	}
	if a, b := r.model.seq("book/k0"), r.model.seq("book/k1"); a != 1 || b != 2 {
		t.Errorf("k0 has %d records, k1 has %d", a, b)
	}
	w.catalog = right
	r.crash(0)
	r.lead()
	w.settle()
	if a := r.model.seq("book/k0"); a != 2 {
		t.Errorf("with the right logic k0 has %d records", a)
	}
	w.checkReminders()
}

// TestManyRemindersAtOnce: when a great many are due, a step fires some of them, what is uncommitted stays bounded, and
// clients get their turns between.
func TestManyRemindersAtOnce(t *testing.T) {
	const turns, each = 40, 100
	w := newWorld(t, 1, 1<<20, 1000, 100)
	defer w.close()
	r := w.shards[0]
	r.lead()
	large := "!" + strings.Repeat("-", 1000) // no state to grow
	for range turns {
		var words []string
		for range each {
			words = append(words, "in:10:"+large)
		}
		w.setReminders(7, strings.Join(words, " "))
	}
	w.now += 1_000_000
	r.step(actors.Tick{})
	most, steps := 0, 0
	for rounds := 0; ; rounds++ {
		before := r.shard.Stats.Reminders
		r.idle()
		if n := r.shard.Stats.Reminders - before; n > 256 {
			t.Fatalf("%d fire in one step", n)
		} else if n > 0 {
			steps++
		}
		bytes := 0
		for _, e := range r.proposed {
			bytes += len(e.GetData())
		}
		most = max(most, bytes)
		if !r.again {
			if len(r.proposed) == 0 {
				break
			}
			r.commit(len(r.proposed))
		}
		if rounds > 1000 {
			t.Fatal("there is no end to it")
		}
	}
	if len(r.model.pending) != 0 || r.shard.Stats.Reminders != turns*each {
		t.Errorf("%d fired of %d, %d are pending", r.shard.Stats.Reminders, turns*each, len(r.model.pending))
	}
	if most < 512<<10 || most > 2<<20 || steps < turns*each/256 {
		t.Errorf("at most %d bytes were uncommitted, in %d steps", most, steps)
	}
	w.checkReminders()
}
