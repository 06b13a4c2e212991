package actors_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// TestScripts runs the stories in testdata. Each begins with the command world; what the commands do is told by
// [script.run].
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := &script{t: t}
		t.Cleanup(s.end)
		datadriven.RunTest(t, path, s.run)
	})
}

type script struct {
	t   *testing.T
	w   *world
	out strings.Builder

	asks map[string]*actors.Batch // by name
}

func (s *script) end() {
	if s.w != nil {
		s.w.close()
		s.w = nil
	}
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	if d.Cmd == "world" {
		s.end()
		s.w = newWorld(t, number(t, d, "shards", 1), int64(number(t, d, "budget", 1<<20)), number(t, d, "snapshots", 8), number(t, d, "checkpoint", 0), number(t, d, "flights", 1))
		s.w.trace = func(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }
		return ""
	}
	command, ok := commands[d.Cmd]
	if !ok {
		t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
	command(s, t, d)
	if s.out.Len() == 0 {
		return "ok\n"
	}
	return s.out.String()
}

// shard is the one that the argument shard names; 1 by default.
func (s *script) shard(t *testing.T, d *datadriven.TestData) *replica {
	id := 1
	d.MaybeScanArgs(t, "shard", &id)
	return s.w.shards[id-1]
}

func number(t *testing.T, d *datadriven.TestData, name string, otherwise int) int {
	d.MaybeScanArgs(t, name, &otherwise)
	return otherwise
}

func text(t *testing.T, d *datadriven.TestData, name string) (v string) {
	d.MaybeScanArgs(t, name, &v)
	return v
}

// name is the first argument, by which an answer is known.
func name(t *testing.T, d *datadriven.TestData) string {
	if len(d.CmdArgs) == 0 || len(d.CmdArgs[0].Vals) > 0 {
		t.Fatalf("%s: %s wants a name first", d.Pos, d.Cmd)
	}
	return d.CmdArgs[0].Key
}

// commands of the scripts. All but those that say otherwise are followed by Idle, as a queue that has run empty.
var commands = map[string]func(*script, *testing.T, *datadriven.TestData){
	// lead: the shard is elected and the entry that begins its term is committed.
	"lead": func(s *script, t *testing.T, d *datadriven.TestData) { s.shard(t, d).lead() },
	// elect: the shard is elected, the entry that begins its term is proposed.
	"elect": func(s *script, t *testing.T, d *datadriven.TestData) { s.shard(t, d).elect() },
	// lost: the shard lost its leadership. What is proposed may still be committed, with [drop] it never is.
	"lost": func(s *script, t *testing.T, d *datadriven.TestData) {
		r := s.shard(t, d)
		if d.HasArg("drop") {
			r.proposed = nil
		}
		r.lose()
	},
	// publish NAME [producer= epoch= previous=] [busy]: a line for each event: key [id=] [seq=] [long=] words. busy: no Idle.
	"publish": func(s *script, t *testing.T, d *datadriven.TestData) {
		label := name(t, d)
		b := &actors.Batch{}
		for _, line := range strings.Split(d.Input, "\n") {
			b.Events = append(b.Events, s.event(line))
		}
		if producer := text(t, d, "producer"); producer != "" {
			b.Link = &actors.Link{Producer: producer, Epoch: uint64(number(t, d, "epoch", 1)), Previous: uint64(number(t, d, "previous", 0))}
		}
		b.Done = func(b *actors.Batch) { s.answer(label, b) }
		r := s.w.shards[s.w.shardOfBatch(b)-1]
		s.w.publish(b)
		if !d.HasArg("busy") {
			r.idle()
		}
	},
	// ask NAME [busy]: as publish, of one event whose reply is wanted.
	"ask": func(s *script, t *testing.T, d *datadriven.TestData) {
		label := name(t, d)
		b := &actors.Batch{Ask: true, Events: []actors.Event{s.event(d.Input)}}
		b.Done = func(b *actors.Batch) { s.answer(label, b) }
		if s.asks == nil {
			s.asks = map[string]*actors.Batch{}
		}
		s.asks[label] = b
		s.w.publish(b)
		if !d.HasArg("busy") {
			s.w.shards[s.w.shardOfBatch(b)-1].idle()
		}
	},
	// giveup NAME: whoever asked waits no more.
	"giveup": func(s *script, t *testing.T, d *datadriven.TestData) {
		b := s.asks[name(t, d)]
		s.w.gaveUp = true
		s.w.shards[s.w.shardOfBatch(b)-1].step(actors.GiveUp{Batch: b})
	},
	// get NAME key [seq=] [time=] [stale]: reads a state.
	"get": func(s *script, t *testing.T, d *datadriven.TestData) {
		label := name(t, d)
		kind, key, ok := strings.Cut(d.CmdArgs[1].Key, "/")
		if !ok {
			kind, key = "book", kind
		}
		rd := &actors.Read{Stale: d.HasArg("stale"), Get: &actors.Get{Kind: s.w.kind(kind), Key: key, AtSeq: uint64(number(t, d, "seq", 0)), AtTime: int64(number(t, d, "time", 0))}}
		s.read(label, rd, func() string {
			var state wrapperspb.StringValue
			if err := proto.Unmarshal(rd.Get.State, &state); err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%q #%d at %s", clip(strings.TrimSpace(state.Value)), rd.Get.Seq, position(rd.Get.Position))
		})
	},
	// history NAME key [from=] [to=] [limit=] [newest]: reads records.
	"history": func(s *script, t *testing.T, d *datadriven.TestData) {
		label := name(t, d)
		h := &actors.History{Kind: s.w.kind("book"), Key: d.CmdArgs[1].Key, From: uint64(number(t, d, "from", 0)), To: uint64(number(t, d, "to", 0)),
			Limit: number(t, d, "limit", 100), NewestFirst: d.HasArg("newest")}
		s.read(label, &actors.Read{History: h}, func() string {
			var b strings.Builder
			for _, r := range h.Records {
				fmt.Fprintf(&b, "\n  %d.%d %s", r.Index, r.Ordinal, record(&r.Record))
			}
			if h.More {
				b.WriteString("\n  more")
			}
			return b.String()
		})
	},
	// list NAME [prefix=] [after=] [limit=]: reads keys of a shard.
	"list": func(s *script, t *testing.T, d *datadriven.TestData) {
		label := name(t, d)
		l := &actors.List{Kind: "book", Prefix: text(t, d, "prefix"), After: text(t, d, "after"), Limit: number(t, d, "limit", 100)}
		s.w.listed[l] = s.shard(t, d).id
		s.read(label, &actors.Read{List: l}, func() string {
			var b strings.Builder
			for _, g := range l.Grains {
				fmt.Fprintf(&b, " %s#%d", g.Key, g.Seq)
			}
			return b.String()
		})
	},
	// retry NAME key [seq=] [busy], and drop: settles a dead letter. busy: no Idle.
	"retry": (*script).settle,
	"drop":  (*script).settle,
	// dead NAME [kind=] [prefix=] [limit=]: lists the open dead letters of a shard.
	"dead": (*script).letters,
	// letter NAME key [seq=]: reads a dead letter.
	"letter": (*script).letter,
	// reminders NAME [prefix=] [key=] [after=] [id=] [limit=]: reads the pending reminders of books in a shard.
	"reminders": func(s *script, t *testing.T, d *datadriven.TestData) {
		label := name(t, d)
		l := &actors.Reminders{Kind: "book", Prefix: text(t, d, "prefix"), Key: text(t, d, "key"), AfterKey: text(t, d, "after"),
			AfterID: bookTimer(text(t, d, "id")), Limit: number(t, d, "limit", 100), Bytes: 1 << 20}
		s.w.remindersOf[l] = s.shard(t, d).id
		s.read(label, &actors.Read{Reminders: l}, func() string {
			var b strings.Builder
			for _, p := range l.Pending {
				fmt.Fprintf(&b, "\n  %s %d.%d in %d ms: %s", p.Key, p.ID/grains.MaxEffects, p.ID%grains.MaxEffects, (p.Due-s.w.now)/1000, payload(p.Payload))
				if p.Every != 0 {
					fmt.Fprintf(&b, ", every %d ms", p.Every/1000)
				}
			}
			if l.More {
				b.WriteString("\n  more")
			}
			return b.String()
		})
	},
	// commit [n=] [busy]: the first n proposed entries are committed; all by default. busy: no Idle.
	"commit": func(s *script, t *testing.T, d *datadriven.TestData) {
		r := s.shard(t, d)
		r.commit(number(t, d, "n", len(r.proposed)))
		if !d.HasArg("busy") {
			r.idle()
		}
	},
	// confirm [once]: the group answers that the shard still leads, as often as it is asked; or only once.
	"confirm": func(s *script, t *testing.T, d *datadriven.TestData) {
		r := s.shard(t, d)
		for r.confirm(); len(r.confirms) > 0 && !d.HasArg("once"); {
			r.confirm()
		}
	},
	// deliver [n=] [drop=] [again]: hands the first n messages on the network over (1 by default; all); with drop, loses
	// them instead; with again, they also stay for another time; with last, takes the newest message.
	"deliver": func(s *script, t *testing.T, d *datadriven.TestData) {
		n := number(t, d, "n", 1)
		if d.HasArg("all") {
			n = len(s.w.net)
		}
		for range n {
			i := 0
			if d.HasArg("last") {
				i = len(s.w.net) - 1
			}
			p := s.w.net[i]
			switch {
			case d.HasArg("drop"):
				s.w.net = append(s.w.net[:i:i], s.w.net[i+1:]...)
			case d.HasArg("again"):
				s.w.hand(p)
			default:
				s.w.deliver(i)
			}
		}
	},
	// network: what is on its way.
	"network": func(s *script, _ *testing.T, _ *datadriven.TestData) {
		for _, p := range s.w.net {
			switch m := p.what.(type) {
			case *actors.Inbound:
				fmt.Fprintf(&s.out, "%d to %d: behind %s: %s\n", p.from, p.to, mark(m.Previous), sends(m))
			case *actors.Ack:
				fmt.Fprintf(&s.out, "%d to %d: refused=%t %s\n", p.from, p.to, m.Refused, mark(m.Mark))
			}
		}
	},
	// crash [survive=]: the machine is gone; of what was proposed, the first entries survive and will be committed.
	"crash": func(s *script, t *testing.T, d *datadriven.TestData) { s.shard(t, d).crash(number(t, d, "survive", 0)) },
	// binary version= [keeps=(…)]: all machines are gone, and start again from a binary with this version of the kind book,
	// and the logic of the earlier versions that it keeps. Nothing of what was proposed survives.
	"binary": func(s *script, t *testing.T, d *datadriven.TestData) {
		var keeps []int
		for _, arg := range d.CmdArgs {
			for _, v := range arg.Vals {
				if n, err := strconv.Atoi(v); arg.Key == "keeps" && err == nil {
					keeps = append(keeps, n)
				}
			}
		}
		s.w.catalog = bookCatalog(s.w.kind("book").SnapshotEvery, number(t, d, "version", 1), keeps...)
		for _, r := range s.w.shards {
			r.crash(0)
		}
	},
	// idle: the queue of the shard has run empty once more.
	"idle": func(s *script, t *testing.T, d *datadriven.TestData) { s.shard(t, d).idle() },
	// checkpoint: what is derived is written.
	"checkpoint": func(s *script, t *testing.T, d *datadriven.TestData) {
		if err := s.shard(t, d).shard.Close(); err != nil {
			t.Fatal(err)
		}
	},
	// foreign [term= index= previous=] words=: the next entry of the log is another leader's, with a header that says what
	// is true or not. What was proposed is lost, but for the empty entry that begins a round. It is committed.
	"foreign": func(s *script, t *testing.T, d *datadriven.TestData) {
		r := s.shard(t, d)
		waits := slices.ContainsFunc(r.proposed, func(e *raftpb.Entry) bool { return len(e.GetData()) == 0 })
		r.proposed = nil
		r.append(r.term, s.foreign(t, d, r))
		if waits {
			r.append(r.term, nil)
		}
		r.commit(1)
		r.idle()
	},
	// refuse: the group has no place for the next proposal.
	"refuse": func(s *script, t *testing.T, d *datadriven.TestData) {
		r := s.shard(t, d)
		r.take(actors.Proposal{Term: r.term, Round: r.round})
		r.idle()
	},
	// clock ms=: time passes; below 0, the clock is set back.
	"clock": func(s *script, t *testing.T, d *datadriven.TestData) { s.w.now += int64(number(t, d, "ms", 0)) * 1000 },
	// tick: as every 100 ms.
	"tick": func(s *script, t *testing.T, d *datadriven.TestData) {
		r := s.shard(t, d)
		r.step(actors.Tick{})
		r.idle()
	},
	// hold [tick]: the queue has run empty, and nothing should be written that nobody waits for; after a tick.
	"hold": func(s *script, t *testing.T, d *datadriven.TestData) {
		r := s.shard(t, d)
		if d.HasArg("tick") {
			r.step(actors.Tick{})
		}
		r.step(actors.Idle{Hold: true})
	},
	// fill key n= : publishes n events of one word each, in one batch.
	"fill": func(s *script, t *testing.T, d *datadriven.TestData) {
		b := &actors.Batch{Done: func(*actors.Batch) {}}
		for i := range number(t, d, "n", 1) {
			words := text(t, d, "words")
			if words == "" {
				words = fmt.Sprintf("+%d", i)
			}
			b.Events = append(b.Events, s.w.event(d.CmdArgs[0].Key, words, ""))
		}
		trace := s.w.trace
		s.w.trace = nil
		s.w.publish(b)
		s.w.shards[s.w.shardOfBatch(b)-1].idle()
		s.w.trace = trace
	},
	// settle: everything under way comes to its end, without a word.
	"settle": func(s *script, _ *testing.T, _ *datadriven.TestData) {
		trace := s.w.trace
		s.w.trace = nil
		s.w.settle()
		s.w.trace = trace
	},
	// check: sends were taken in once, states are the fold of their records, nobody waits.
	"check": func(s *script, _ *testing.T, _ *datadriven.TestData) {
		trace := s.w.trace
		s.w.trace = nil
		s.w.settle()
		s.w.checkSends()
		s.w.checkReminders()
		s.w.checkStates()
		s.w.checkOpen()
		s.w.checkAnswered()
		s.w.trace = trace
	},
	// stats [cut] [asks]: counters of the shard since it was made; or how many grains it cut, or askers wait.
	"stats": func(s *script, t *testing.T, d *datadriven.TestData) {
		sh := s.shard(t, d).shard
		n, _ := sh.Activations()
		if d.HasArg("cut") {
			fmt.Fprintf(&s.out, "cut=%d\n", sh.Stats.Cut)
			return
		}
		if d.HasArg("asks") {
			fmt.Fprintf(&s.out, "asking=%d answers=%d\n", sh.Asking(), sh.Stats.Answers)
			return
		}
		fmt.Fprintf(&s.out, "turns=%d duplicates=%d snapshots=%d activations=%d passivations=%d resident=%d overloaded=%t\n", sh.Stats.Turns, sh.Stats.Duplicates,
			sh.Stats.Snapshots, sh.Stats.Activations, sh.Stats.Passivations, n, sh.Overloaded())
	},
}

// event reads a line: key [id=] [seq=] [long=] words, the last of them made so many bytes longer.
func (s *script) event(line string) actors.Event {
	key, words, _ := strings.Cut(line, " ")
	var id string
	var seq uint64
	for {
		word, rest, _ := strings.Cut(words, " ")
		if v, ok := strings.CutPrefix(word, "id="); ok {
			id, words = v, rest
		} else if v, ok := strings.CutPrefix(word, "seq="); ok {
			seq, _ = strconv.ParseUint(v, 10, 64)
			words = rest
		} else if v, ok := strings.CutPrefix(word, "long="); ok {
			n, _ := strconv.Atoi(v)
			words = rest + strings.Repeat("1", n)
		} else {
			break
		}
	}
	e := s.w.event(key, words, id)
	e.Sequence = seq
	return e
}

func (s *script) answer(label string, b *actors.Batch) {
	if b.Refused != actors.Folded {
		fmt.Fprintf(&s.out, "%s: refused: %v", label, b.Refused)
		switch b.Refused {
		case actors.Gap:
			fmt.Fprintf(&s.out, ", watermark %d", b.Watermark)
		case actors.Fenced:
			fmt.Fprintf(&s.out, ", epoch %d", b.Epoch)
		}
		fmt.Fprintf(&s.out, " (%s)\n", b.Why)
		return
	}
	for _, r := range b.Results {
		fmt.Fprintf(&s.out, "%s: %v #%d at %s", label, r.Outcome, r.Seq, position(r.Position))
		if r.Duplicate {
			s.out.WriteString(", again")
		}
		if r.Deferred {
			s.out.WriteString(", deferred")
		}
		if r.Reply != nil {
			fmt.Fprintf(&s.out, ", reply %q", replyText(r.Reply))
		}
		if r.Reason != "" {
			fmt.Fprintf(&s.out, " (%s)", r.Reason)
		}
		s.out.WriteString("\n")
	}
}

func (s *script) read(label string, rd *actors.Read, answer func() string) {
	rd.Done = func(*actors.Read) {
		if rd.Failed != actors.Folded {
			fmt.Fprintf(&s.out, "%s: %v (%s)\n", label, rd.Failed, rd.Why)
			return
		}
		fmt.Fprintf(&s.out, "%s: %s\n", label, strings.TrimLeft(answer(), " "))
	}
	r := s.w.shards[s.w.shardOfRead(rd)-1]
	s.w.read(rd)
	r.idle()
}

// foreign builds an entry with one record.
func (s *script) foreign(t *testing.T, d *datadriven.TestData, r *replica) []byte {
	words := text(t, d, "words")
	if words == "" {
		return nil
	}
	e := s.w.event("f", words, "")
	var b entry.Builder
	now := max(s.w.now, r.model.lastTime)
	b.Reset(now)
	b.Append(&entry.Record{Type: entry.Input, Kind: "book", Key: []byte("f"), Seq: r.model.seq("book/f") + 1, Event: e.Type.Name, Logic: 1, Payload: e.Payload, Time: now})
	return b.Close(entry.Header{Lineage: r.id, Term: uint64(number(t, d, "term", int(r.term))), Index: uint64(number(t, d, "index", int(r.last()+1))),
		Previous: uint64(number(t, d, "previous", int(r.model.lastData)))})
}

func position(p entry.Position) string {
	if p.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%d.%d", p.Index, p.Ordinal)
}

func mark(m persistence.Mark) string {
	switch {
	case m.Index == 0:
		return "-"
	case m.Ordinal == 1<<32-1:
		return fmt.Sprintf("%d.*", m.Index)
	}
	return fmt.Sprintf("%d.%d.%d", m.Index, m.Ordinal, m.Effect)
}

func sends(in *actors.Inbound) string {
	var out []string
	for i, m := range in.Sends {
		if i == 4 && len(in.Sends) > 6 {
			out = append(out, fmt.Sprintf("… %d in all", len(in.Sends)))
			break
		}
		to := m.Kind + "/" + string(m.Key)
		if len(m.Token) > 0 {
			to = "answer to " + string(m.Token) + ":"
		}
		out = append(out, fmt.Sprintf("%s %s %s", mark(m.Mark), to, payload(m.Payload)))
	}
	return strings.Join(out, "; ")
}

func payload(p []byte) string {
	var v wrapperspb.StringValue
	if err := proto.Unmarshal(p, &v); err != nil {
		return fmt.Sprintf("%x", p)
	}
	return clip(v.Value)
}

// describe is a proposal in words.
func describe(p actors.Proposal) string {
	if len(p.Data) == 0 {
		return "nothing that fits"
	}
	r, err := entry.Open(p.Data)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "index %d behind %d", p.Index, r.Header.Previous)
	if r.Count > 8 {
		fmt.Fprintf(&b, ": %d records", r.Count)
		return b.String()
	}
	for {
		var rec entry.Record
		more, err := r.Next(&rec)
		if err != nil {
			return err.Error()
		}
		if !more {
			return b.String()
		}
		fmt.Fprintf(&b, "\n  %s", record(&rec))
	}
}

func record(r *entry.Record) string {
	switch r.Type {
	case entry.Session:
		return fmt.Sprintf("session %s epoch %d", r.Producer, r.Epoch)
	case entry.Expiry:
		return fmt.Sprintf("expiry %s", r.Producer)
	case entry.LogicChange:
		return fmt.Sprintf("logic change %s to version %d", r.Kind, r.Logic)
	case entry.Settlement:
		return fmt.Sprintf("settlement %s/%s #%d: %s", r.Kind, r.Key, r.Seq, r.Reason)
	case entry.Snapshot:
		return fmt.Sprintf("snapshot %s/%s #%d, %d of %d, %d bytes", r.Kind, r.Key, r.Seq, r.Snapshot.Chunk, r.Snapshot.Chunks, len(r.Payload)) + byVersion(r)
	}
	s := fmt.Sprintf("%v %s/%s #%d %s", r.Type, r.Kind, r.Key, r.Seq, payload(r.Payload)) + byVersion(r)
	if r.Timer != 0 {
		s += fmt.Sprintf(" (reminder %d.%d)", r.Timer/grains.MaxEffects, r.Timer%grains.MaxEffects)
	}
	if r.Back != 0 {
		s += fmt.Sprintf(" (back %d)", r.Back)
	}
	if len(r.Reason) > 0 {
		s += fmt.Sprintf(": %s", r.Reason)
	}
	return s
}

// byVersion says which version of the logic made a record, unless it is the first.
func byVersion(r *entry.Record) string {
	if r.Logic > 1 {
		return fmt.Sprintf(" by version %d", r.Logic)
	}
	return ""
}
