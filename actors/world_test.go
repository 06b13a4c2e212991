package actors_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// failer is what a world needs of testing.T and rapid.T.
type failer interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// world is some shards over one store, without goroutines, clocks or a network: the test decides when an entry is
// committed, and when, whether and how often a message arrives. It holds whatever leaves a shard against a model that is
// made of committed entries alone.
type world struct {
	t       failer
	fs      *vfs.MemFS
	store   *persistence.Store
	catalog *grains.Catalog
	system  *actor.ActorSystem
	budget  int64
	now     int64

	checkpoint int        // records, see actors.Config
	cutGrains  int        // the same
	flights    int        // see there
	gaveUp     bool       // an asker gives up, and may go without a reply
	unchecked  bool       // pages of history may end where they like
	shards     []*replica // by id - 1
	net        []packet
	trace      func(format string, args ...any) // may be nil

	batches, reads map[any]bool // false: waits for its answer
	settles        map[*actors.Settle]bool
	lettersOf      map[*actors.DeadLetters]uint64 // the shard that is asked
	acked          map[string]uint64
	listed         map[*actors.List]uint64      // the shard that is asked
	remindersOf    map[*actors.Reminders]uint64 // the same
	orphans        map[*actors.Batch]func()     // called when the node of the batch crashes
}

// replica is one shard with what stands for its Raft group.
type replica struct {
	world       *world
	id          uint64
	shard       *actors.Shard
	log         *persistence.Log
	term, round uint64
	leads       bool
	proposed    []*raftpb.Entry // taken and not yet committed
	committed   uint64
	confirms    []uint64
	model       *model
	failed      error
	unfit       *actors.Unfit // why it does not lead although it was elected
	again       bool          // it asked for another Idle
	cuts        []actors.Cut
	fx          actors.Effects
}

// packet is a message between shards.
type packet struct {
	from, to uint64
	what     any // *actors.Inbound or *actors.Ack
}

// newWorld makes a world whose shards follow. limits are after how many records a shard writes what it derived, and how
// many small entries it has under way; by default its usual number, and one.
func newWorld(t failer, shards int, budget int64, snapshotEvery int, limits ...int) *world {
	fs := vfs.NewMem()
	store, err := persistence.Open(persistence.Options{Dir: "data", FS: fs, Shards: shards, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatalf("%v", err)
	}
	w := &world{t: t, fs: fs, store: store, catalog: testCatalog(snapshotEvery), budget: budget, now: 1_700_000_000_000_000,
		batches: map[any]bool{}, reads: map[any]bool{}, settles: map[*actors.Settle]bool{}, lettersOf: map[*actors.DeadLetters]uint64{}, acked: map[string]uint64{}, listed: map[*actors.List]uint64{}, remindersOf: map[*actors.Reminders]uint64{}, orphans: map[*actors.Batch]func(){}}
	w.system = actor.NewActorSystemWithConfig(actor.Configure(
		actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }),
		actor.WithDeadLetterRequestLogging(false), actor.WithDeadLetterThrottleCount(0)))
	if w.flights = 1; len(limits) > 0 {
		w.checkpoint = limits[0]
	}
	if len(limits) > 1 {
		w.flights = limits[1]
	}
	for id := uint64(1); id <= uint64(shards); id++ {
		w.shards = append(w.shards, &replica{world: w, id: id, model: newModel(id)})
	}
	for _, r := range w.shards {
		r.open()
	}
	return w
}

func (w *world) close() {
	w.system.Shutdown()
	if err := w.store.Close(); err != nil {
		w.t.Fatalf("%v", err)
	}
}

// shardOf is the number behind the last '@' of a key, or 1.
func shardOf(_ string, key []byte) uint64 {
	if _, n, ok := strings.Cut(string(key), "@"); ok {
		if id, err := strconv.ParseUint(n, 10, 64); err == nil {
			return id
		}
	}
	return 1
}

// open makes the machine of a replica from what is stored.
func (r *replica) open() {
	w := r.world
	index, err := w.store.OpenIndex(r.id, 1)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	if r.log, err = w.store.OpenLog(r.id, 1); err != nil {
		w.t.Fatalf("%v", err)
	}
	r.shard = actors.NewShard(actors.Config{Shard: r.id, Shards: uint64(len(w.shards)), Catalog: w.catalog, Index: index, System: w.system,
		Route: shardOf, MemoryBudget: w.budget, CheckpointRecords: w.checkpoint, CutGrains: w.cutGrains, Flights: w.flights})
	// what is committed and behind the last checkpoint is handed over again
	applied, _ := index.Applied()
	r.leads, r.failed, r.unfit, r.again, r.confirms, r.cuts = false, nil, nil, false, nil, nil
	if r.committed > applied {
		entries, err := r.log.Entries(applied+1, r.committed+1, 1<<40)
		if err != nil {
			w.t.Fatalf("%v", err)
		}
		r.step(&actors.Committed{Entries: entries})
	}
}

// crash forgets the machine. Of what was proposed, survive entries were written before and will be committed.
func (r *replica) crash(survive int) {
	for b, answered := range r.world.batches {
		if p := b.(*actors.Batch); !answered && r.world.shardOfBatch(p) == r.id {
			r.world.batches[b] = true // its connection died with the node
			if orphaned := r.world.orphans[p]; orphaned != nil {
				orphaned()
			}
		}
	}
	for rd, answered := range r.world.reads {
		if p := rd.(*actors.Read); !answered && r.world.shardOfRead(p) == r.id {
			r.world.reads[rd] = true
		}
	}
	for in, answered := range r.world.settles {
		if !answered && shardOf("", []byte(in.Key)) == r.id {
			r.world.settles[in] = true
		}
	}
	kept := r.proposed[:survive]
	r.proposed = nil
	r.write(kept)
	for _, e := range kept {
		r.commitOne(e)
	}
	r.open()
}

// elect begins a term of this replica, with the empty entry that begins it proposed.
func (r *replica) elect() {
	r.term++
	r.begin()
}

func (r *replica) begin() {
	r.round++
	r.unfit = nil
	r.leads = true
	r.step(actors.Lead{Term: r.term, Round: r.round})
	r.append(r.term, nil)
}

func (r *replica) last() uint64 { return r.committed + uint64(len(r.proposed)) }

// append proposes an entry without asking anybody.
func (r *replica) append(term uint64, data []byte) {
	index, typ := r.last()+1, raftpb.EntryNormal
	r.proposed = append(r.proposed, &raftpb.Entry{Term: &term, Index: &index, Type: &typ, Data: data})
}

// lead elects the replica and commits what makes it lead.
func (r *replica) lead() {
	r.elect()
	r.commit(len(r.proposed))
	r.idle()
	for r.again && r.failed == nil && !r.shard.Leading() {
		r.idle()
	}
	if r.failed == nil && r.unfit == nil && !r.shard.Leading() {
		r.world.t.Fatalf("shard %d does not lead", r.id)
	}
}

func (r *replica) lose() {
	r.leads = false
	r.step(actors.Lost{})
	r.idle()
}

// take is what replication.Host does with a proposal.
func (r *replica) take(p actors.Proposal) {
	switch {
	case !r.leads || p.Term != r.term || p.Round != r.round:
	case p.Index != r.last()+1:
		r.step(actors.Lost{})
		r.begin()
	default:
		r.append(p.Term, p.Data)
	}
}

// commit commits the first n proposed entries and hands them over together.
func (r *replica) commit(n int) {
	if n == 0 {
		return
	}
	entries := r.proposed[:n:n]
	r.proposed = r.proposed[n:]
	r.write(entries)
	for _, e := range entries {
		r.commitOne(e)
	}
	r.log.Applied(r.committed)
	r.step(&actors.Committed{Entries: entries})
}

func (r *replica) write(entries []*raftpb.Entry) {
	b := r.world.store.NewBatch()
	err := r.log.Append(b, entries)
	if err == nil {
		err = r.log.SetHard(b, r.term, 1, r.last())
	}
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	if err != nil {
		r.world.t.Fatalf("%v", err)
	}
}

func (r *replica) commitOne(e *raftpb.Entry) {
	r.committed = e.GetIndex()
	if err := r.model.commit(e); err != nil {
		r.world.t.Fatalf("shard %d index %d: %v", r.id, e.GetIndex(), err)
	}
}

func (r *replica) idle() {
	r.again = false
	r.step(actors.Idle{})
}

// step lets the machine take an input and does what it wants done, all but what takes time.
func (r *replica) step(input any) {
	if r.failed != nil {
		return
	}
	fx := &r.fx
	if err := r.shard.Step(r.world.now, input, fx); err != nil {
		r.failed = err
		r.shard.Abandon(fx)
		r.tracef("stops: %v", err)
	}
	todo := *fx
	*fx = actors.Effects{}
	r.do(&todo)
}

func (r *replica) tracef(format string, args ...any) {
	if w := r.world; w.trace != nil {
		w.trace("%d: "+format, append([]any{r.id}, args...)...)
	}
}

func (r *replica) do(fx *actors.Effects) {
	w := r.world
	if fx.Leading {
		r.tracef("leads in term %d", r.term)
	}
	r.again = r.again || fx.Again
	if fx.Unfit != nil {
		r.unfit = fx.Unfit
		r.tracef("%v", fx.Unfit)
	}
	for _, c := range fx.Cuts {
		r.cuts = append(r.cuts, c)
		r.tracef("cut %s to version %d, failed=%t", c.Kind, c.Version, c.Failed)
	}
	for _, h := range fx.HeldBack {
		r.tracef("holds reminder %d of %s/%s back: %v", h.Reminder, h.Kind, h.Key, h.Why)
	}
	for _, p := range fx.Proposals {
		r.tracef("proposes %s", describe(p))
	}
	for _, b := range fx.Batches {
		if answered, known := w.batches[b]; answered || !known {
			w.t.Fatalf("shard %d: a batch is answered that does not wait", r.id)
		}
		w.batches[b] = true
		r.checkBatch(b)
		b.Done(b)
	}
	for _, rd := range fx.Reads {
		if answered, known := w.reads[rd]; answered || !known {
			w.t.Fatalf("shard %d: a read is answered that does not wait", r.id)
		}
		w.reads[rd] = true
		r.checkRead(rd)
		rd.Done(rd)
	}
	for _, in := range fx.Settles {
		if answered, known := w.settles[in]; answered || !known {
			w.t.Fatalf("shard %d: a settlement is answered that does not wait", r.id)
		}
		w.settles[in] = true
		r.checkSettle(in)
		in.Done(in)
	}
	for _, in := range fx.Sends {
		r.tracef("sends to %d, behind %s: %s", in.To, mark(in.Previous), sends(in))
		r.checkInbound(in)
		w.net = append(w.net, packet{r.id, in.To, in})
	}
	for _, a := range fx.Acks {
		if a.Refused {
			r.tracef("refuses the sends of %d behind %s", a.To, mark(a.Mark))
		} else {
			r.tracef("has the sends of %d up to %s", a.To, mark(a.Mark))
		}
		if in := r.model.inbox[a.Lineage]; in.Less(a.Mark) {
			w.t.Fatalf("shard %d tells shard %d that it has its sends up to %v; what is committed ends at %v", r.id, a.To, a.Mark, in)
		}
		w.net = append(w.net, packet{r.id, a.To, a})
	}
	if fx.Confirm != 0 {
		r.confirms = append(r.confirms, fx.Confirm)
	}
	for _, p := range fx.Proposals {
		r.take(p)
	}
}

// confirm answers what the shard asked its group.
func (r *replica) confirm() {
	asked := r.confirms
	r.confirms = nil
	for _, token := range asked {
		r.step(actors.Confirmed{Token: token})
	}
	r.idle()
}

// deliver hands the i-th message on the network over and takes it off.
func (w *world) deliver(i int) {
	p := w.net[i]
	w.net = append(w.net[:i:i], w.net[i+1:]...)
	w.hand(p)
}

func (w *world) hand(p packet) {
	if p.to < 1 || p.to > uint64(len(w.shards)) {
		w.t.Fatalf("a message to shard %d", p.to)
	}
	r := w.shards[p.to-1]
	if in, ok := p.what.(*actors.Inbound); ok && r.failed != nil {
		w.net = append(w.net, packet{r.id, p.from, &actors.Ack{From: r.id, To: p.from, Lineage: in.Lineage, Refused: true}}) // as cluster/node does
	}
	r.step(p.what)
	r.idle()
}

// settle lets all that is under way come to its end.
func (w *world) settle() {
	for round := 0; w.settleSome(); round++ {
		if round > 2_000 {
			for _, r := range w.shards {
				w.t.Logf("shard %d: leading=%t quiet=%t committed=%d proposed=%d %+v", r.id, r.shard.Leading(), r.shard.Quiet(), r.committed, len(r.proposed), r.shard.Stats)
			}
			w.t.Fatalf("the world does not come to rest: %d messages are on their way", len(w.net))
		}
	}
}

// settleSome commits and delivers what is under way, lets some time pass, and tells whether there is more.
func (w *world) settleSome() (busy bool) {
	for _, r := range w.shards {
		if r.failed != nil {
			continue
		}
		if !r.shard.Leading() && r.unfit == nil {
			r.lead()
			busy = true
		}
		if len(r.proposed) > 0 {
			r.commit(len(r.proposed))
			busy = true
		}
		r.step(actors.Tick{})
		r.idle()
		busy = busy || r.again
		if len(r.confirms) > 0 {
			r.confirm()
			busy = true
		}
	}
	for n := len(w.net); n > 0; n-- {
		w.deliver(0)
		busy = true
	}
	for _, r := range w.shards {
		busy = busy || r.failed == nil && !r.shard.Quiet()
	}
	if busy {
		w.now += 60_000 // what was refused is tried again after a while
	}
	return busy
}

// publish hands a batch in.
func (w *world) publish(b *actors.Batch) {
	r := w.shards[w.shardOfBatch(b)-1]
	if b.Done == nil {
		b.Done = func(*actors.Batch) {}
	}
	w.batches[b] = false
	if r.failed != nil {
		delete(w.batches, b)
		return
	}
	r.step(b)
}

func (w *world) shardOfBatch(b *actors.Batch) uint64 { return shardOf("", []byte(b.Events[0].Key)) }

func (w *world) shardOfRead(rd *actors.Read) uint64 {
	switch {
	case rd.Get != nil:
		return shardOf("", []byte(rd.Get.Key))
	case rd.History != nil:
		return shardOf("", []byte(rd.History.Key))
	case rd.DeadLetter != nil:
		return shardOf("", []byte(rd.DeadLetter.Key))
	case rd.DeadLetters != nil:
		return w.lettersOf[rd.DeadLetters]
	}
	if rd.Reminders != nil {
		return w.remindersOf[rd.Reminders]
	}
	return w.listed[rd.List]
}

// read hands a read in.
func (w *world) read(rd *actors.Read) {
	r := w.shards[w.shardOfRead(rd)-1]
	acked := uint64(0)
	if rd.Get != nil {
		acked = w.acked[rd.Get.Kind.Name+"/"+rd.Get.Key]
	}
	done := rd.Done
	rd.Done = func(rd *actors.Read) {
		if g := rd.Get; g != nil && rd.Failed == actors.Folded && g.AtSeq == 0 && g.AtTime == 0 && g.Seq < acked {
			w.t.Fatalf("%s was read at seq %d, but seq %d was acknowledged before the read began", g.Key, g.Seq, acked)
		}
		if done != nil {
			done(rd)
		}
	}
	w.reads[rd] = false
	r.step(rd)
}

// kind returns a kind of the test catalog.
func (w *world) kind(name string) *grains.Definition {
	k, ok := w.catalog.Kind(name)
	if !ok {
		w.t.Fatalf("no kind %q", name)
	}
	return k
}

// event is an event for a book.
func (w *world) event(key, words, id string) actors.Event {
	kind := w.kind("book")
	typ := kind.Events()[0]
	msg := wrapperspb.String(words)
	payload, err := typ.Append(nil, msg)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	e := actors.Event{Kind: kind, Key: key, Type: typ, Message: msg, Payload: payload, ID: id}
	if id != "" {
		e.Source = "test"
	}
	return e
}

// checkBatch: an answer rests on committed records alone, and says what they say.
func (r *replica) checkBatch(b *actors.Batch) {
	w := r.world
	if b.Refused != actors.Folded {
		if b.Results != nil {
			w.t.Fatalf("shard %d: a refused batch has results", r.id)
		}
		return
	}
	for i := range b.Events {
		e, res := &b.Events[i], &b.Results[i]
		if res.Outcome > actors.DeadLettered {
			continue // nothing of it was journaled now
		}
		name := e.Kind.Name + "/" + e.Key
		if res.Seq == 0 {
			// the first result is not known any more; that the event is committed, is
			if !res.Duplicate || r.model.producers[b.Link.Producer].watermark < e.Sequence {
				w.t.Fatalf("shard %d: %s %q is acknowledged without a committed record", r.id, name, clip(string(e.Payload)))
			}
			continue
		}
		rec := r.model.record(name, res.Seq)
		if rec == nil || rec.pos != res.Position {
			w.t.Fatalf("shard %d: %s %q is acknowledged as seq %d at %v, which is not committed", r.id, name, clip(string(e.Payload)), res.Seq, res.Position)
		}
		outcome := map[entry.Type]actors.Outcome{entry.Input: actors.Folded, entry.Void: actors.Rejected, entry.DeadLetter: actors.DeadLettered}[rec.typ]
		if string(e.Payload) != rec.payload || outcome != res.Outcome || rec.reason != res.Reason {
			w.t.Fatalf("shard %d: %s seq %d: the answer is %v %q, the record says %v %q", r.id, name, res.Seq, res.Outcome, res.Reason, outcome, rec.reason)
		}
		if b.Ask {
			r.checkAsk(name, res, rec)
		}
		if e.ID != rec.id || e.Sequence != rec.sequence {
			w.t.Fatalf("shard %d: %s seq %d is not the record of the event %q %d", r.id, name, res.Seq, e.ID, e.Sequence)
		}
		w.acked[name] = max(w.acked[name], res.Seq)
	}
}

// checkAsk: a reply is that of the turn, or the first answer to it that is committed.
func (r *replica) checkAsk(name string, res *actors.Result, rec *modelRecord) {
	want := rec.reply
	if rec.deferred {
		want = r.model.answers[fmt.Sprintf("%s#%d", name, res.Seq)]
	}
	if got := replyText(res.Reply); res.Deferred != rec.deferred || got != want && (got != "" || !r.world.gaveUp) {
		r.world.t.Fatalf("shard %d: the reply to %s seq %d is %q (deferred: %t); what is committed says %q", r.id, name, res.Seq, got, res.Deferred, want)
	}
}

// checkRead: what is read is what the committed records say.
func (r *replica) checkRead(rd *actors.Read) {
	switch {
	case rd.Failed != actors.Folded:
	case rd.Get != nil && rd.Get.Kind.Name == "book":
		r.checkGet(rd.Get)
	case rd.History != nil:
		r.checkHistory(rd.History)
	case rd.List != nil:
		r.checkList(rd.List)
	case rd.DeadLetters != nil:
		r.checkLetters(rd.DeadLetters)
	case rd.Reminders != nil:
		r.checkReminders(rd.Reminders)
	}
}

func (r *replica) checkGet(g *actors.Get) {
	w := r.world
	name := "book/" + g.Key
	var state wrapperspb.StringValue
	if err := proto.Unmarshal(g.State, &state); err != nil {
		w.t.Fatalf("%v", err)
	}
	if n := r.model.seq(name); g.Seq > n {
		w.t.Fatalf("shard %d: %s was read at seq %d; only %d are committed", r.id, name, g.Seq, n)
	}
	if want := r.model.fold(name, g.Seq); state.Value != want {
		w.t.Fatalf("shard %d: %s was read at seq %d as %q; its records give %q", r.id, name, g.Seq, clip(state.Value), clip(want))
	}
	if g.Seq > 0 {
		if rec := r.model.record(name, g.Seq); rec.pos != g.Position || rec.time != g.Time {
			w.t.Fatalf("shard %d: %s seq %d is at %v, not %v", r.id, name, g.Seq, rec.pos, g.Position)
		}
	}
	want := g.Seq
	if g.AtTime != 0 {
		want = 0
		for _, rec := range r.model.grains[name] {
			if rec.time <= g.AtTime {
				want++
			}
		}
	}
	if g.AtSeq != 0 {
		want = g.AtSeq
	}
	if g.Seq != want {
		w.t.Fatalf("shard %d: %s at seq %d or time %d was read as of seq %d, not %d", r.id, name, g.AtSeq, g.AtTime, g.Seq, want)
	}
}

func (r *replica) checkHistory(h *actors.History) {
	w := r.world
	name := "book/" + h.Key
	to := r.model.seq(name)
	if h.To != 0 {
		to = min(to, h.To)
	}
	var want []uint64
	for seq := max(h.From, 1); seq <= to; seq++ {
		want = append(want, seq)
	}
	if h.NewestFirst {
		slices.Reverse(want)
	}
	more := len(want) > h.Limit
	if more {
		want = want[:h.Limit]
	}
	if w.unchecked {
		return
	}
	if len(h.Records) != len(want) || h.More != more {
		w.t.Fatalf("shard %d: the history of %s %d to %d has %d records and more=%t; want %d, %t", r.id, name, h.From, h.To, len(h.Records), h.More, len(want), more)
	}
	for i, rec := range h.Records {
		at := r.model.record(name, want[i])
		if rec.Seq != want[i] || rec.Index != at.pos.Index || rec.Ordinal != at.pos.Ordinal || string(rec.Payload) != at.payload || rec.Type != at.typ {
			w.t.Fatalf("shard %d: record %d of the history of %s is #%d at %d.%d, want #%d at %v", r.id, i, name, rec.Seq, rec.Index, rec.Ordinal, want[i], at.pos)
		}
	}
}

func (r *replica) checkList(l *actors.List) {
	var want []string
	for _, name := range sortedKeys(r.model.grains) {
		kind, key, _ := strings.Cut(name, "/")
		if kind == l.Kind && strings.HasPrefix(key, l.Prefix) && (l.After == "" || key > l.After) && len(want) < l.Limit {
			want = append(want, fmt.Sprintf("%s#%d", key, r.model.seq(name)))
		}
	}
	var got []string
	for _, g := range l.Grains {
		got = append(got, fmt.Sprintf("%s#%d", g.Key, g.Seq))
	}
	if !slices.Equal(got, want) {
		r.world.t.Fatalf("shard %d: %s/%s behind %q lists %v, want %v", r.id, l.Kind, l.Prefix, l.After, got, want)
	}
}

func (r *replica) checkReminders(l *actors.Reminders) {
	var names []string
	for name := range r.model.pending {
		names = append(names, name)
	}
	order := func(name string) (key string, id uint64) {
		grain, number, _ := strings.Cut(name, " ")
		id, _ = strconv.ParseUint(number, 10, 64)
		return strings.TrimPrefix(grain, l.Kind+"/"), id
	}
	after := func(a string, i uint64, b string, j uint64) bool { return a > b || a == b && i > j }
	slices.SortFunc(names, func(a, b string) int {
		k, i := order(a)
		o, j := order(b)
		if after(k, i, o, j) {
			return 1
		}
		return -1
	})
	var want []string
	for _, name := range names {
		key, id := order(name)
		if strings.HasPrefix(key, l.Prefix) && (l.Key == "" || key == l.Key) && after(key, id, l.AfterKey, l.AfterID) {
			p := r.model.pending[name]
			want = append(want, fmt.Sprintf("%s %d due %d every %d: %q", key, id, p.due, p.every, p.payload))
		}
	}
	more := len(want) > l.Limit
	want = want[:min(len(want), l.Limit)]
	var got []string
	for _, p := range l.Pending {
		got = append(got, fmt.Sprintf("%s %d due %d every %d: %q", p.Key, p.ID, p.Due, p.Every, p.Payload))
	}
	if !slices.Equal(got, want) || l.More != more {
		r.world.t.Fatalf("shard %d: reminders %+v:\n%s\nwant\n%s\nmore=%t", r.id, l, strings.Join(got, "\n"), strings.Join(want, "\n"), more)
	}
}

// checkInbound: sends leave in order, and as they are committed.
func (r *replica) checkInbound(in *actors.Inbound) {
	var before persistence.Mark
	for _, m := range in.Sends {
		if !before.Less(m.Mark) {
			r.world.t.Fatalf("shard %d: sends to %d are not in order: %v follows %v", r.id, in.To, m.Mark, before)
		}
		before = m.Mark
		want, ok := r.model.sends[m.Mark]
		if got := (modelSend{to: in.To, grain: m.Kind + "/" + string(m.Key), payload: string(m.Payload), token: string(m.Token)}); !ok || got != want {
			r.world.t.Fatalf("shard %d: sends %v as %v; committed is %v", r.id, got, m.Mark, want)
		}
	}
}

func clip(s string) string {
	if len(s) > 100 {
		return fmt.Sprintf("%s…%s (%d bytes)", s[:40], s[len(s)-10:], len(s))
	}
	return s
}
