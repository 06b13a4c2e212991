package actors_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// A book is a grain that writes down what it is told. An event is a line of words:
//
//	+item        write the item down
//	>key:words   send words (';' for a blank) to the book of that key, or to kind/key
//	loop:key     write "loop" down and tell the book of that key to do the same with this one
//	odd:key      tell the book of that key what no book understands
//	now          write the time of the turn down
//	from         write the sender down
//	big:n        write n bytes down
//	reply:text   reply to the publisher
//	defer:key    leave the reply to the book of that key, and send it the word "answer:TOKEN:from-KEY"
//	defer2:key   the same, but send the word twice: the second answer must not count
//	defer        leave the reply to nobody
//	answer:TOKEN:text  answer the event of that token
//	needs:item   fail, unless the item is written down
//	until:n      fail, in versions below n
//	!reason      refuse the event; the first word only
//	in:ms:words  set a reminder; its event are the words
//	at:µs:words  the same for a moment, since 1970
//	every:ms:words  the same, again and again
//	cancel:seq.n  take back the reminder that effect n of the turn seq set
//	fail, panic  write "broken" down and fail
//
// bookOf is its logic in a version: from 2 on, it marks each item with a "'" for every raise, and says in what it
// sends to other books who sent it.
func bookOf(version int) func(t *grains.Turn, s, e *wrapperspb.StringValue) error {
	return func(t *grains.Turn, s, e *wrapperspb.StringValue) error { return bookTurn(version, t, s, e) }
}

func bookTurn(version int, t *grains.Turn, s, e *wrapperspb.StringValue) error {
	for _, word := range strings.Fields(e.Value) {
		switch {
		case word[0] == '!':
			return grains.Reject(word[1:])
		case word == "fail" || word == "panic":
			s.Value += "broken "
			t.Send("book/never", wrapperspb.String("+never"))
			if word == "panic" {
				panic("as told")
			}
			return errors.New("as told")
		case strings.HasPrefix(word, "needs:"):
			if !strings.Contains(" "+s.Value, " "+word[6:]+" ") {
				return errors.New("it " + word)
			}
		case strings.HasPrefix(word, "until:"):
			if n, _ := strconv.Atoi(word[6:]); version < n {
				return errors.New("broken " + word)
			}
		case word[0] == '>':
			to, words, _ := strings.Cut(word[1:], ":")
			if !strings.Contains(to, "/") {
				to = "book/" + to
			}
			if version > 1 {
				words += fmt.Sprintf(" +by%d", version)
			}
			t.Send(to, wrapperspb.String(strings.ReplaceAll(words, ";", " ")))
		case strings.HasPrefix(word, "loop:"):
			s.Value += "loop "
			t.Send("book/"+word[5:], wrapperspb.String("loop:"+t.Key()))
		case strings.HasPrefix(word, "odd:"):
			t.Send("book/"+word[4:], wrapperspb.Int64(1))
		case strings.HasPrefix(word, "reply:"):
			t.Reply(wrapperspb.String(word[6:]))
		case word == "defer":
			t.Defer()
		case strings.HasPrefix(word, "defer:"):
			t.Send("book/"+word[6:], wrapperspb.String("answer:"+t.Defer()+":from-"+t.Key()))
		case strings.HasPrefix(word, "defer2:"):
			answer := "answer:" + t.Defer() + ":from-" + t.Key()
			t.Send("book/"+word[7:], wrapperspb.String(answer+" "+answer))
		case strings.HasPrefix(word, "answer:"):
			token, text, _ := strings.Cut(word[7:], ":")
			s.Value += "answered "
			t.Answer(token, wrapperspb.String(fmt.Sprintf("%s-%s-%d", text, t.Key(), len(s.Value))))
		case strings.HasPrefix(word, "in:"), strings.HasPrefix(word, "at:"), strings.HasPrefix(word, "every:"), strings.HasPrefix(word, "cancel:"):
			remindBook(t, word)
		case word == "now":
			s.Value += strconv.FormatInt(t.Now().UnixMicro(), 10) + " "
		case word == "from":
			from, _ := t.Sender()
			s.Value += from.String() + " "
		case strings.HasPrefix(word, "big:"):
			n, _ := strconv.Atoi(word[4:])
			s.Value += strings.Repeat("x", n) + " "
		default:
			s.Value += word[1:] + strings.Repeat("'", version-1) + " "
		}
	}
	return nil
}

func remindBook(t *grains.Turn, word string) {
	verb, rest, _ := strings.Cut(word, ":")
	number, words, _ := strings.Cut(rest, ":")
	n, _ := strconv.Atoi(number)
	event := wrapperspb.String(strings.ReplaceAll(words, ";", " "))
	switch verb {
	case "in":
		t.After(time.Duration(n)*time.Millisecond, event)
	case "at":
		t.At(time.UnixMicro(int64(n)), event)
	case "every":
		t.Every(time.Duration(n)*time.Millisecond, event)
	case "cancel":
		t.Cancel(bookTimer(number))
	}
}

// bookTimer is the id of the reminder that an effect of a turn set, written seq.effect.
func bookTimer(s string) uint64 {
	seq, effect, _ := strings.Cut(s, ".")
	n, _ := strconv.ParseUint(seq, 10, 64)
	i, _ := strconv.ParseUint(effect, 10, 64)
	return n*grains.MaxEffects + i
}

// deaf is a kind that takes numbers only.
func deaf(_ *grains.Turn, s, e *wrapperspb.Int64Value) error {
	s.Value += e.Value
	return nil
}

func testCatalog(snapshotEvery int) *grains.Catalog { return bookCatalog(snapshotEvery, 1) }

// bookCatalog has the book in a version, with the logic of earlier ones that are kept.
func bookCatalog(snapshotEvery, version int, keeps ...int) *grains.Catalog {
	k := grains.Kind[*wrapperspb.StringValue]{Name: "book", Version: uint32(version), SnapshotEvery: snapshotEvery,
		Handlers: grains.Handlers[*wrapperspb.StringValue]{grains.On(bookOf(version))}}
	for _, v := range keeps {
		k.Earlier = append(k.Earlier, grains.Logic[*wrapperspb.StringValue]{Version: uint32(v),
			Handlers: grains.Handlers[*wrapperspb.StringValue]{grains.On(bookOf(v))}})
	}
	c, err := grains.NewCatalog(k.MustDefine(),
		grains.Kind[*wrapperspb.Int64Value]{Name: "deaf", Version: 1,
			Handlers: grains.Handlers[*wrapperspb.Int64Value]{grains.On(deaf)}}.MustDefine(),
	)
	if err != nil {
		panic(err)
	}
	return c
}

// model is what a shard's committed entries say, read without the code under test: the truth that all else is held
// against.
type model struct {
	shard     uint64
	lastData  uint64
	lastTime  int64
	grains    map[string][]modelRecord
	inbox     map[uint64]persistence.Mark
	sends     map[persistence.Mark]modelSend
	order     []persistence.Mark // of sends
	received  []modelReceived
	producers map[string]modelProducer
	ids       map[string]int64 // grain and id: journal time of the last record with it
	snapshots int
	covered   map[string]uint64 // by grain: seq of its last snapshot
	logic     uint32            // of books, at least, since the last logic change
	answers   map[string]string // by grain and seq: the text of the answer that counts
	letters   map[string]*modelLetter
	pending   map[string]modelReminder // by grain and id
	fired     map[string]int           // the same
}

// modelReminder is one that was set and has not come to its end.
type modelReminder struct {
	payload    string
	due, every int64
}

type modelRecord struct {
	seq      uint64
	logic    uint32
	typ      entry.Type
	pos      entry.Position
	time     int64
	payload  string
	reason   string
	id       string
	producer string
	sequence uint64
	sender   string
	cause    persistence.Mark
	reply    string // its own
	deferred bool
	retryOf  string // seq of the dead letter that it is the second run of
}

// modelSend is a send, or a defer, which is to nobody, or, with a type, another effect.
type modelSend struct {
	to                    uint64
	grain, payload, token string
	typ                   entry.EffectType
	timer                 uint64
	due, every            int64
}

var modelDefer = modelSend{grain: "defer"}

type modelReceived struct {
	lineage uint64
	mark    persistence.Mark
	grain   string
	payload string
	token   string
}

type modelProducer struct{ epoch, watermark uint64 }

func newModel(shard uint64) *model {
	return &model{shard: shard, grains: map[string][]modelRecord{}, inbox: map[uint64]persistence.Mark{},
		sends: map[persistence.Mark]modelSend{}, producers: map[string]modelProducer{}, ids: map[string]int64{}, covered: map[string]uint64{}, answers: map[string]string{},
		letters: map[string]*modelLetter{}, pending: map[string]modelReminder{}, fired: map[string]int{}}
}

// tail are the versions that made the records behind a grain's last snapshot.
func (m *model) tail(name string) (versions []uint32) {
	for i := range m.grains[name][m.covered[name]:] {
		if r := &m.grains[name][m.covered[name]:][i]; r.logic != 0 {
			versions = append(versions, r.logic)
		}
	}
	return versions
}

func (m *model) record(name string, seq uint64) *modelRecord {
	if g := m.grains[name]; seq >= 1 && seq <= uint64(len(g)) {
		return &g[seq-1]
	}
	return nil
}

func (m *model) seq(name string) uint64 { return uint64(len(m.grains[name])) }

// commit takes the next committed entry in.
func (m *model) commit(e *raftpb.Entry) error {
	if len(e.GetData()) == 0 {
		return nil
	}
	r, err := entry.Open(e.GetData())
	if err != nil {
		return err
	}
	if r.Header.Term != e.GetTerm() || r.Header.Index != e.GetIndex() || r.Header.Previous != m.lastData {
		return nil // fenced off
	}
	m.lastData = e.GetIndex()
	for {
		var rec entry.Record
		more, err := r.Next(&rec)
		if err != nil || !more {
			return err
		}
		if rec.Time < m.lastTime {
			return fmt.Errorf("record %d: journal time runs back from %d to %d", rec.Ordinal, m.lastTime, rec.Time)
		}
		m.lastTime = rec.Time
		if err := m.take(e.GetIndex(), &rec); err != nil {
			return fmt.Errorf("record %d: %w", rec.Ordinal, err)
		}
	}
}

func (m *model) take(index uint64, rec *entry.Record) error {
	name := rec.Kind + "/" + string(rec.Key)
	here := persistence.Mark{Index: index, Ordinal: rec.Ordinal}
	switch rec.Type {
	case entry.Snapshot:
		m.snapshots++
		m.covered[name] = rec.Seq
		if rec.Seq != m.seq(name) {
			return fmt.Errorf("a snapshot of %s has seq %d, its last record has %d", name, rec.Seq, m.seq(name))
		}
		if state := wrapperspb.String(m.fold(name, rec.Seq)); rec.Kind == "book" && rec.Snapshot.Chunks == 1 {
			if want, err := proto.Marshal(state); err != nil || string(want) != string(rec.Payload) {
				return fmt.Errorf("the snapshot of %s at seq %d is not the fold of its records", name, rec.Seq)
			}
		}
		return nil
	case entry.Session:
		p := m.producers[rec.Producer]
		if rec.Epoch <= p.epoch {
			return fmt.Errorf("producer %s opens epoch %d behind %d", rec.Producer, rec.Epoch, p.epoch)
		}
		p.epoch = rec.Epoch
		m.producers[rec.Producer] = p
		return nil
	case entry.Settlement:
		return m.letter(index, rec)
	case entry.Expiry:
		delete(m.producers, rec.Producer)
		return nil
	case entry.Answer:
		return m.answer(name, rec)
	case entry.LogicChange:
		if rec.Kind != "book" || rec.Logic <= m.logic {
			return fmt.Errorf("a logic change of %s to version %d behind one to %d", rec.Kind, rec.Logic, m.logic)
		}
		m.logic = rec.Logic
		for name := range m.grains {
			if t := m.tail(name); strings.HasPrefix(name, "book/") && len(t) > 0 && slices.Min(t) < rec.Logic {
				return fmt.Errorf("a logic change to version %d, but %s has records of versions %v with no snapshot behind them", rec.Logic, name, t)
			}
		}
		return nil
	}
	if t := m.tail(name); rec.Kind == "book" && rec.Logic != 0 && (rec.Logic < m.logic || len(t) > 0 && slices.Min(t) != rec.Logic) {
		return fmt.Errorf("%s runs by version %d behind records of versions %v that no snapshot covers", name, rec.Logic, t)
	}
	if rec.Seq != m.seq(name)+1 {
		return fmt.Errorf("%s has seq %d behind %d", name, rec.Seq, m.seq(name))
	}
	if n := m.seq(name); n > 0 {
		last := m.grains[name][n-1]
		if back := index - last.pos.Index; back != 0 && rec.Back != back {
			return fmt.Errorf("%s seq %d points %d back, its last entry is %d back", name, rec.Seq, rec.Back, back)
		}
	}
	mr := modelRecord{seq: rec.Seq, logic: rec.Logic, typ: rec.Type, pos: entry.Position{Lineage: m.shard, Index: index, Ordinal: rec.Ordinal}, time: rec.Time,
		payload: string(rec.Payload), reason: string(rec.Reason), id: string(rec.ID), producer: rec.Producer, sequence: rec.Sequence}
	if (rec.Type == entry.Timer) != (rec.Timer != 0 && rec.Type != entry.Void && rec.Type != entry.DeadLetter) {
		return fmt.Errorf("%s seq %d is of type %v, and the firing of reminder %d", name, rec.Seq, rec.Type, rec.Timer)
	}
	if rec.Sender.Kind != "" {
		mr.sender = rec.Sender.Kind + "/" + string(rec.Sender.Key)
	}
	for _, h := range rec.Headers {
		if string(h.Name) == actors.RetryHeader {
			mr.retryOf = string(h.Value)
		}
	}
	switch {
	case rec.Timer != 0:
		if err := m.fire(name, rec); err != nil {
			return err
		}
	case rec.Sequence != 0:
		p := m.producers[rec.Producer]
		if rec.Epoch != p.epoch || rec.Sequence <= p.watermark {
			return fmt.Errorf("producer %s: epoch %d sequence %d follows %v", rec.Producer, rec.Epoch, rec.Sequence, p)
		}
		p.watermark = rec.Sequence
		m.producers[rec.Producer] = p
	case rec.Sender.Kind != "" && !rec.Cause.IsZero():
		var err error
		if mr.cause, err = m.takenIn(name, "", rec); err != nil {
			return err
		}
	case len(rec.ID) > 0:
		id := name + " " + string(rec.ID)
		if before, ok := m.ids[id]; ok && rec.Time-before < grains.DefaultIDWindow.Microseconds() {
			return fmt.Errorf("%s was taken in twice within the window", id)
		}
		m.ids[id] = rec.Time
	}
	var want []modelSend
	if (rec.Type == entry.Input || rec.Type == entry.Timer) && rec.Kind == "book" {
		_, want = m.turn(m.fold(name, rec.Seq-1), rec.Payload, &mr, string(rec.Key))
	}
	mr.deferred = slices.Contains(want, modelDefer)
	m.grains[name] = append(m.grains[name], mr)
	if rec.Type == entry.DeadLetter {
		if err := m.letter(index, rec); err != nil {
			return err
		}
	}
	if reply := replyText(rec.Reply); reply != mr.reply {
		return fmt.Errorf("%s seq %d replies %q, its turn %q", name, rec.Seq, reply, mr.reply)
	}
	if len(want) != len(rec.Effects) {
		return fmt.Errorf("%s seq %d has %d effects, its turn makes %d", name, rec.Seq, len(rec.Effects), len(want))
	}
	for i, x := range rec.Effects {
		to := modelSend{to: shardOf(x.Kind, x.Key), grain: x.Kind + "/" + string(x.Key), payload: string(x.Payload), token: string(x.Token)}
		switch x.Type {
		case entry.Send:
		case entry.Defer:
			to = modelDefer
		default:
			to = modelSend{payload: string(x.Payload), typ: x.Type, timer: x.Timer, due: x.Due, every: x.Every}
		}
		if to != want[i] {
			return fmt.Errorf("%s seq %d sends %v, its turn %v", name, rec.Seq, to, want[i])
		}
		timer := fmt.Sprintf("%s %d", name, x.Timer)
		switch x.Type {
		case entry.Remind:
			m.pending[timer] = modelReminder{string(x.Payload), x.Due, x.Every}
			continue
		case entry.Cancel:
			delete(m.pending, timer)
			continue
		}
		if to == modelDefer {
			continue
		}
		here.Effect = uint32(i)
		m.sends[here] = to
		m.order = append(m.order, here)
	}
	return nil
}

// takenIn moves the inbox on to a record that was sent.
func (m *model) takenIn(name, token string, rec *entry.Record) (persistence.Mark, error) {
	cause := persistence.Mark{Index: rec.Cause.Index, Ordinal: rec.Cause.Ordinal, Effect: rec.Sender.Effect}
	if in := m.inbox[rec.Cause.Lineage]; !in.Less(cause) {
		return cause, fmt.Errorf("the send %v of shard %d is taken in behind %v", cause, rec.Cause.Lineage, in)
	}
	m.inbox[rec.Cause.Lineage] = cause
	m.received = append(m.received, modelReceived{rec.Cause.Lineage, cause, name, string(rec.Payload), token})
	return cause, nil
}

// answer takes an answer in: the first one to an event that deferred counts, and has no reason; all others have one.
func (m *model) answer(name string, rec *entry.Record) error {
	token := fmt.Sprintf("%s#%d", name, rec.Seq)
	if _, err := m.takenIn(name, token, rec); err != nil {
		return err
	}
	event := m.record(name, rec.Seq)
	_, before := m.answers[token]
	counts := event != nil && event.deferred && !before && rec.Time-event.time <= grains.DefaultIDWindow.Microseconds()
	if counts != (len(rec.Reason) == 0) {
		return fmt.Errorf("the answer to %s (answered before: %t) has the reason %q", token, before, rec.Reason)
	}
	if counts {
		var v wrapperspb.StringValue
		if err := proto.Unmarshal(rec.Payload, &v); err != nil {
			return err
		}
		m.answers[token] = v.Value
	}
	return nil
}

// replyText is the text in a reply, "" where there is none.
func replyText(reply []byte) string {
	if len(reply) == 0 {
		return ""
	}
	var a anypb.Any
	var v wrapperspb.StringValue
	if err := proto.Unmarshal(reply, &a); err != nil {
		return err.Error()
	}
	if err := a.UnmarshalTo(&v); err != nil {
		return err.Error()
	}
	return v.Value
}

// fire takes in the firing of a reminder: of a pending one, with its event, and not before its time.
func (m *model) fire(name string, rec *entry.Record) error {
	timer := fmt.Sprintf("%s %d", name, rec.Timer)
	p, ok := m.pending[timer]
	switch {
	case !ok:
		return fmt.Errorf("reminder %s fires, which is not pending; it fired %d times before", timer, m.fired[timer])
	case string(rec.Payload) != p.payload:
		return fmt.Errorf("reminder %s fires with %q, it was set with %q", timer, rec.Payload, p.payload)
	case rec.Time < p.due:
		return fmt.Errorf("reminder %s fires at %d, which is %d µs early", timer, rec.Time, p.due-rec.Time)
	case rec.Sender.Kind != "" || rec.Producer != "" || len(rec.ID) > 0:
		return fmt.Errorf("reminder %s has an origin", timer)
	}
	m.fired[timer]++
	if p.every == 0 {
		delete(m.pending, timer)
		return nil
	}
	for p.due <= rec.Time {
		p.due += p.every
	}
	m.pending[timer] = p
	return nil
}

// checkReminders: what is due fired.
func (w *world) checkReminders() {
	w.t.Helper()
	for _, r := range w.shards {
		for _, timer := range sortedKeys(r.model.pending) {
			if p := r.model.pending[timer]; p.due <= w.now {
				w.t.Fatalf("shard %d: reminder %s was due %d µs ago", r.id, timer, w.now-p.due)
			}
		}
	}
}

// turn is the book's handler, written a second time: the words that change the state, and the sends.
func (m *model) turn(state string, payload []byte, rec *modelRecord, key string) (string, []modelSend) {
	var e wrapperspb.StringValue
	if err := proto.Unmarshal(payload, &e); err != nil {
		panic(err)
	}
	var sends []modelSend
	send := func(to, words string) {
		if !strings.Contains(to, "/") {
			to = "book/" + to
		}
		_, k, _ := strings.Cut(to, "/")
		wire, err := proto.Marshal(wrapperspb.String(words))
		if err != nil {
			panic(err)
		}
		sends = append(sends, modelSend{to: shardOf("", []byte(k)), grain: to, payload: string(wire)})
	}
	for _, word := range strings.Fields(e.Value) {
		switch {
		case word[0] == '+':
			state += word[1:] + strings.Repeat("'", int(rec.logic)-1) + " "
		case word[0] == '>':
			to, words, _ := strings.Cut(word[1:], ":")
			if rec.logic > 1 {
				words += fmt.Sprintf(";+by%d", rec.logic)
			}
			send(to, strings.ReplaceAll(words, ";", " "))
		case strings.HasPrefix(word, "odd:"):
			sends = append(sends, modelSend{to: shardOf("", []byte(word[4:])), grain: "book/" + word[4:], payload: "\x08\x01"})
		case strings.HasPrefix(word, "reply:"):
			rec.reply = word[6:]
		case word == "defer":
			sends = append(sends, modelDefer)
		case strings.HasPrefix(word, "defer:"):
			sends = append(sends, modelDefer)
			send(word[6:], fmt.Sprintf("answer:book/%s#%d:from-%s", key, rec.seq, key))
		case strings.HasPrefix(word, "defer2:"):
			answer := fmt.Sprintf("answer:book/%s#%d:from-%s", key, rec.seq, key)
			sends = append(sends, modelDefer)
			send(word[7:], answer+" "+answer)
		case strings.HasPrefix(word, "answer:"):
			token, text, _ := strings.Cut(word[7:], ":")
			state += "answered "
			grain, _, _ := strings.Cut(token, "#")
			send(grain, fmt.Sprintf("%s-%s-%d", text, key, len(state)))
			sends[len(sends)-1].token = token
		case strings.HasPrefix(word, "in:"), strings.HasPrefix(word, "at:"), strings.HasPrefix(word, "every:"), strings.HasPrefix(word, "cancel:"):
			sends = append(sends, rec.reminder(word, len(sends)))
		case word == "now":
			state += fmt.Sprintf("%d ", rec.time)
		case word == "from":
			from := rec.sender
			if from == "" {
				from = "/"
			}
			state += from + " "
		case strings.HasPrefix(word, "big:"):
			n, _ := strconv.Atoi(word[4:])
			state += strings.Repeat("x", n) + " "
		case strings.HasPrefix(word, "loop:"):
			state += "loop "
			send(word[5:], "loop:"+key)
		}
	}
	return state, sends
}

// reminder is the effect of a word about reminders, which has a number in its turn.
func (rec *modelRecord) reminder(word string, effect int) modelSend {
	parts := strings.SplitN(word, ":", 3)
	if parts[0] == "cancel" {
		return modelSend{typ: entry.Cancel, timer: bookTimer(parts[1])}
	}
	n, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		panic(err)
	}
	wire, err := proto.Marshal(wrapperspb.String(strings.ReplaceAll(parts[2], ";", " ")))
	if err != nil {
		panic(err)
	}
	e := modelSend{typ: entry.Remind, payload: string(wire), timer: rec.seq*grains.MaxEffects + uint64(effect)}
	switch parts[0] {
	case "in":
		e.due = rec.time + n*1000
	case "at":
		e.due = max(n, rec.time)
	case "every":
		e.due, e.every = rec.time+n*1000, n*1000
	}
	return e
}

// fold is the state of a book behind its record seq.
func (m *model) fold(name string, seq uint64) string {
	state := ""
	_, key, _ := strings.Cut(name, "/")
	for i := range m.grains[name][:seq] {
		if rec := &m.grains[name][i]; rec.typ == entry.Input || rec.typ == entry.Timer {
			state, _ = m.turn(state, []byte(rec.payload), rec, key)
		}
	}
	return state
}

// checkSends holds what was sent against what was taken in: once, in order, as it was sent.
func (w *world) checkSends() {
	w.t.Helper()
	for _, from := range w.shards {
		for _, to := range w.shards {
			var sent, got []modelReceived
			for _, m := range from.model.order {
				if s := from.model.sends[m]; s.to == to.id {
					sent = append(sent, modelReceived{from.id, m, s.grain, s.payload, s.token})
				}
			}
			for _, r := range to.model.received {
				if r.lineage == from.id {
					got = append(got, r)
				}
			}
			if !slices.Equal(sent, got) {
				n := 0
				for n < min(len(sent), len(got)) && sent[n] == got[n] {
					n++
				}
				w.t.Fatalf("shard %d sent %d to shard %d, which took %d in; they differ from number %d on", from.id, len(sent), to.id, len(got), n+1)
			}
		}
	}
}

// checkAnswered: whoever waited got an answer.
func (w *world) checkAnswered() {
	w.t.Helper()
	for b, answered := range w.batches {
		if !answered {
			w.t.Fatalf("a batch waits for ever: %+v", b.(*actors.Batch).Events[0])
		}
	}
	for in, answered := range w.settles {
		if !answered {
			w.t.Fatalf("a settlement waits for ever: %+v", in)
		}
	}
	for rd, answered := range w.reads {
		if !answered {
			w.t.Fatalf("a read waits for ever: %+v", rd)
		}
	}
}

// checkStates reads every book and holds it against the fold of its records.
func (w *world) checkStates() {
	w.t.Helper()
	for _, r := range w.shards {
		for _, name := range sortedKeys(r.model.grains) {
			kind, key, _ := strings.Cut(name, "/")
			if kind != "book" {
				continue
			}
			rd := &actors.Read{Get: &actors.Get{Kind: w.kind(kind), Key: key}}
			before := r.model.seq(name)
			w.read(rd)
			w.settle()
			if rd.Failed != actors.Folded {
				w.t.Fatalf("%s: %v %s", name, rd.Failed, rd.Why)
			}
			if rd.Get.Seq < before || rd.Get.Seq > r.model.seq(name) { // a reminder may have fired meanwhile
				w.t.Fatalf("%s is at seq %d, its records end at %d", name, rd.Get.Seq, r.model.seq(name))
			}
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
