package actors_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/persistence/entry"
)

// modelLetter is a dead letter as the committed entries have it.
type modelLetter struct {
	name    string
	seq     uint64
	settled string // how
	runs    int    // second ones
}

func letterKey(name string, seq uint64) string { return fmt.Sprintf("%s#%08d", name, seq) }

// letter takes a dead letter or a settlement in.
func (m *model) letter(index uint64, rec *entry.Record) error {
	name := rec.Kind + "/" + string(rec.Key)
	if rec.Type == entry.DeadLetter {
		m.letters[letterKey(name, rec.Seq)] = &modelLetter{name: name, seq: rec.Seq}
		return nil
	}
	l := m.letters[letterKey(name, rec.Seq)]
	if l == nil {
		return fmt.Errorf("%s #%d is settled, and is no dead letter", name, rec.Seq)
	}
	if l.settled != "" {
		return fmt.Errorf("%s #%d is settled as %s, and was %s before", name, rec.Seq, rec.Reason, l.settled)
	}
	if l.settled = string(rec.Reason); l.settled != "retried" {
		return nil
	}
	n := m.seq(name)
	if run := m.record(name, n); run == nil || run.pos.Index != index || run.payload != m.record(name, rec.Seq).payload || run.retryOf != fmt.Sprint(rec.Seq) {
		return fmt.Errorf("%s #%d is settled as retried, and its run is not in front of that in the same entry", name, rec.Seq)
	}
	return nil
}

// settle hands a settlement in.
func (w *world) settleLetter(in *actors.Settle) {
	if in.Done == nil {
		in.Done = func(*actors.Settle) {}
	}
	w.settles[in] = false
	r := w.shards[shardOf("", []byte(in.Key))-1]
	if r.failed != nil {
		delete(w.settles, in)
		return
	}
	r.step(in)
}

// checkSettle: a settlement is told of when it is committed, and refused for reasons that are committed too.
func (r *replica) checkSettle(in *actors.Settle) {
	w := r.world
	name := in.Kind + "/" + in.Key
	l := r.model.letters[letterKey(name, in.Seq)]
	switch in.Failed {
	case actors.Folded:
		how := "dropped"
		if in.Retry {
			how = "retried"
		}
		if l == nil || l.settled != how {
			w.t.Fatalf("shard %d: %s #%d is told to be %s; committed is %+v", r.id, name, in.Seq, how, l)
		}
		if !in.Retry {
			return
		}
		l.runs++
		rec := r.model.record(name, in.Result.Seq)
		if rec == nil || rec.pos != in.Result.Position || rec.reason != in.Result.Reason || rec.retryOf != fmt.Sprint(in.Seq) || l.runs != 1 {
			w.t.Fatalf("shard %d: the run of %s #%d is told to be #%d at %v; committed is %+v", r.id, name, in.Seq, in.Result.Seq, in.Result.Position, rec)
		}
	case actors.NotOpen:
		if l == nil || l.settled == "" {
			w.t.Fatalf("shard %d: %s #%d is told to be settled (%s); committed is %+v", r.id, name, in.Seq, in.Why, l)
		}
		if got := in.Letter; got.Settled == "" && r.model.seq(name) > 4000 {
			return // so long ago that it was not looked up
		} else if got.Open || got.Settled != l.settled || (got.RetriedAs != 0) != (l.settled == "retried") {
			w.t.Fatalf("shard %d: %s #%d was %s, told is %+v", r.id, name, in.Seq, l.settled, got)
		} else if got.RetriedAs != 0 && r.model.record(name, got.RetriedAs).retryOf != fmt.Sprint(in.Seq) {
			w.t.Fatalf("shard %d: %s #%d was not retried as #%d", r.id, name, in.Seq, got.RetriedAs)
		}
	case actors.NotFound:
		if l != nil {
			w.t.Fatalf("shard %d: %s #%d is told to be no dead letter; committed is %+v", r.id, name, in.Seq, l)
		}
	}
}

// checkLetters: the open dead letters of a shard are those of its committed entries.
func (r *replica) checkLetters(l *actors.DeadLetters) {
	if l.Read != nil {
		for i, at := range l.Read {
			rec := r.model.record(at.Kind+"/"+at.Key, at.Seq)
			if got := l.Summaries[i]; got.Reason != rec.reason || got.Sender != rec.sender {
				r.world.t.Fatalf("shard %d: %s/%s #%d says %+v, its record %+v", r.id, at.Kind, at.Key, at.Seq, got, rec)
			}
		}
		return
	}
	var want, got []string
	for _, key := range sortedKeys(r.model.letters) {
		m := r.model.letters[key]
		kind, k, _ := strings.Cut(m.name, "/")
		behind := l.After.Kind == "" || key > letterKey(l.After.Kind+"/"+l.After.Key, l.After.Seq)
		if m.settled == "" && (l.Kind == "" || kind == l.Kind) && strings.HasPrefix(k, l.Prefix) && behind && len(want) < l.Limit {
			want = append(want, key)
		}
	}
	for _, at := range l.Found {
		got = append(got, letterKey(at.Kind+"/"+at.Key, at.Seq))
		if rec := r.model.record(at.Kind+"/"+at.Key, at.Seq); rec == nil || rec.pos.Index != at.Index || rec.pos.Ordinal != at.Ordinal || rec.time != at.Time {
			r.world.t.Fatalf("shard %d: %s/%s #%d is not at %d.%d", r.id, at.Kind, at.Key, at.Seq, at.Index, at.Ordinal)
		}
	}
	if !slices.Equal(got, want) {
		r.world.t.Fatalf("shard %d: the open dead letters of %q/%q behind %+v are %v, want %v", r.id, l.Kind, l.Prefix, l.After, got, want)
	}
}

// checkOpen: each shard knows its open dead letters and their number, before and behind a restart.
func (w *world) checkOpen() {
	w.t.Helper()
	for _, r := range w.shards {
		l := &actors.DeadLetters{Limit: 1000}
		w.lettersOf[l] = r.id
		// counted when it is listed: meanwhile a reminder may fire, and its turn fail
		w.read(&actors.Read{DeadLetters: l, Done: func(*actors.Read) {
			if n := r.shard.OpenDeadLetters(); n != len(l.Found) {
				w.t.Fatalf("shard %d counts %d open dead letters, and lists %d", r.id, n, len(l.Found))
			}
		}})
		w.settle()
		if len(l.Found) > 0 {
			said := &actors.DeadLetters{Read: l.Found}
			w.lettersOf[said] = r.id
			w.read(&actors.Read{DeadLetters: said})
			w.settle()
		}
	}
}

// settle is `retry NAME key seq [busy]` and `drop NAME key seq [busy]`.
func (s *script) settle(t *testing.T, d *datadriven.TestData) {
	label := name(t, d)
	kind, key, ok := strings.Cut(d.CmdArgs[1].Key, "/")
	if !ok {
		kind, key = "book", kind
	}
	in := &actors.Settle{Kind: kind, Key: key, Seq: uint64(number(t, d, "seq", 1)), Retry: d.Cmd == "retry"}
	in.Done = func(in *actors.Settle) {
		switch {
		case in.Failed != actors.Folded:
			fmt.Fprintf(&s.out, "%s: %v (%s)\n", label, in.Failed, in.Why)
		case !in.Retry:
			fmt.Fprintf(&s.out, "%s: dropped\n", label)
		default:
			fmt.Fprintf(&s.out, "%s: %v #%d at %s", label, in.Result.Outcome, in.Result.Seq, position(in.Result.Position))
			if in.Result.Reason != "" {
				fmt.Fprintf(&s.out, " (%s)", in.Result.Reason)
			}
			s.out.WriteString("\n")
		}
	}
	s.w.settleLetter(in)
	if !d.HasArg("busy") {
		s.w.shards[shardOf("", []byte(key))-1].idle()
	}
}

// letters is `dead NAME [kind=] [prefix=] [limit=]`.
func (s *script) letters(t *testing.T, d *datadriven.TestData) {
	l := &actors.DeadLetters{Kind: text(t, d, "kind"), Prefix: text(t, d, "prefix"), Limit: number(t, d, "limit", 100)}
	s.w.lettersOf[l] = s.shard(t, d).id
	s.read(name(t, d), &actors.Read{DeadLetters: l}, func() string {
		var b strings.Builder
		fmt.Fprintf(&b, "%d open:", s.shard(t, d).shard.OpenDeadLetters())
		for _, at := range l.Found {
			fmt.Fprintf(&b, " %s/%s#%d", at.Kind, at.Key, at.Seq)
		}
		return b.String()
	})
}

// letter is `letter NAME key seq=`.
func (s *script) letter(t *testing.T, d *datadriven.TestData) {
	kind, key, ok := strings.Cut(d.CmdArgs[1].Key, "/")
	if !ok {
		kind, key = "book", kind
	}
	l := &actors.DeadLetter{Kind: kind, Key: key, Seq: uint64(number(t, d, "seq", 1))}
	s.read(name(t, d), &actors.Read{DeadLetter: l}, func() string {
		out := record(&l.Record.Record)
		switch {
		case l.Open:
			return out + "; open"
		case l.RetriedAs != 0:
			return fmt.Sprintf("%s; retried as %v #%d", out, l.Became, l.RetriedAs)
		}
		return out + "; " + l.Settled
	})
}

// settle settles a dead letter, or something that is none, and repeats that now and then before it has an answer.
func (c *clients) settle() {
	r := c.shard()
	in := actors.Settle{Kind: "book", Key: c.key(), Seq: uint64(rapid.IntRange(0, 6).Draw(c.t, "seq")), Retry: rapid.IntRange(0, 3).Draw(c.t, "drop") > 0}
	if keys := sortedKeys(r.model.letters); len(keys) > 0 && rapid.IntRange(0, 9).Draw(c.t, "any") > 0 {
		l := r.model.letters[rapid.SampledFrom(keys).Draw(c.t, "letter")]
		in.Kind, in.Key, _ = strings.Cut(l.name, "/")
		in.Seq = l.seq
	}
	for range rapid.IntRange(1, 2).Draw(c.t, "times") {
		again := in
		c.w.settleLetter(&again)
	}
	c.w.shards[shardOf("", []byte(in.Key))-1].idle()
}

// TestRetryOverloaded: with too much under way a retry is refused, and the dead letter stays open; a drop is small.
func TestRetryOverloaded(t *testing.T) {
	w := newWorld(t, 1, 1<<20, 1000)
	defer w.close()
	r := w.shards[0]
	r.lead()
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "needs:1", ""), w.event("a", "needs:1", "")}})
	w.settle()
	for !r.shard.Overloaded() {
		w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "!"+strings.Repeat("-", 500_000), "")}})
		r.idle()
	}
	retry := &actors.Settle{Kind: "book", Key: "a", Seq: 1, Retry: true}
	w.settleLetter(retry)
	drop := &actors.Settle{Kind: "book", Key: "a", Seq: 2}
	w.settleLetter(drop)
	w.settle()
	if retry.Failed != actors.Overloaded || drop.Failed != actors.Folded || r.shard.OpenDeadLetters() != 1 {
		t.Errorf("%v, %v, %d are open", retry.Failed, drop.Failed, r.shard.OpenDeadLetters())
	}
	w.checkOpen()
	w.checkAnswered()
}
