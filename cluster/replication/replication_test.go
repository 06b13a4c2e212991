package replication

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/persistence"
)

// bench drives a host by hand: what it wants written is written, and made durable when the test says so.
type bench struct {
	t     *testing.T
	fs    *vfs.MemFS
	store *persistence.Store
	host  *Host
	batch *pebble.Batch
	syncs int
}

func newBench(t *testing.T, fs *vfs.MemFS, shards int) *bench {
	t.Helper()
	store, err := persistence.Open(persistence.Options{Dir: "data", FS: fs, Shards: shards, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, fs: fs, store: store, host: NewHost(1), batch: store.NewBatch()}
	for shard := uint64(1); shard <= uint64(shards); shard++ {
		b.add(shard)
	}
	t.Cleanup(b.close)
	return b
}

func (b *bench) add(shard uint64) {
	b.t.Helper()
	index, err := b.store.OpenIndex(shard, 1)
	if err != nil {
		b.t.Fatal(err)
	}
	log, err := b.store.OpenLog(shard, 1)
	if err != nil {
		b.t.Fatal(err)
	}
	applied, _ := index.Applied()
	if err := b.host.Add(shard, log, applied); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) close() {
	if b.store != nil {
		_ = b.batch.Close()
		_ = b.store.Close()
		b.store = nil
	}
}

// collect lets the groups write once, without making it durable.
func (b *bench) collect() (sync bool) {
	b.t.Helper()
	sync, err := b.host.Collect(b.batch)
	if err != nil {
		b.t.Fatal(err)
	}
	return sync
}

// persist makes what was collected durable.
func (b *bench) persist() {
	b.t.Helper()
	if err := b.batch.Commit(pebble.Sync); err != nil {
		b.t.Fatal(err)
	}
	b.syncs++
	b.batch = b.store.NewBatch()
	if err := b.host.Persisted(); err != nil {
		b.t.Fatal(err)
	}
}

// run lets everything come to its end and returns what happened.
func (b *bench) run() string {
	b.t.Helper()
	for b.host.Busy() {
		if b.collect() {
			b.persist()
		}
	}
	return b.told()
}

// told returns the events since the last call in words.
func (b *bench) told() string {
	var out []string
	for _, e := range b.host.Events() {
		var what string
		switch in := e.Input.(type) {
		case actors.Lead:
			what = fmt.Sprintf("lead %d.%d", in.Term, in.Round)
		case actors.Lost:
			what = "lost"
		case actors.Confirmed:
			what = fmt.Sprintf("confirmed %d", in.Token)
		case *actors.Committed:
			what = "committed"
			for _, e := range in.Entries {
				what += fmt.Sprintf(" %d@%d=%q", e.GetIndex(), e.GetTerm(), e.GetData())
			}
		}
		if len(b.host.groups) > 1 {
			what = fmt.Sprintf("%d: %s", e.Shard, what)
		}
		out = append(out, what)
	}
	return strings.Join(out, ", ")
}

func (b *bench) want(got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Fatalf("happened: %s\n    want: %s", got, want)
	}
}

func (b *bench) propose(term, round, index uint64, data string) {
	b.t.Helper()
	if err := b.host.Propose(1, actors.Proposal{Term: term, Round: round, Index: index, Data: []byte(data)}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) campaign() {
	b.t.Helper()
	if err := b.host.Campaign(); err != nil {
		b.t.Fatal(err)
	}
}

// step hands a message of another node to the group of shard 1.
func (b *bench) step(m *raftpb.Message) {
	b.t.Helper()
	g := b.host.groups[1]
	m.From, m.To = proto.Uint64(2), proto.Uint64(1)
	if err := g.node.Step(m); err != nil {
		b.t.Fatal(err)
	}
	b.host.touch(g)
}

// leader is a bench whose shard 1 leads in term 1; its log has one entry.
func leader(t *testing.T) *bench {
	b := newBench(t, vfs.NewMem(), 1)
	b.campaign()
	b.want(b.run(), `lead 1.1, committed 1@1=""`)
	return b
}

// TestNothingIsCommittedBeforeItIsDurable: the batch with an entry must be synced before the entry is told of.
func TestNothingIsCommittedBeforeItIsDurable(t *testing.T) {
	b := leader(t)
	b.propose(1, 1, 2, "a")
	b.propose(1, 1, 3, "b")
	if !b.collect() {
		t.Fatal("nobody waits for the sync")
	}
	b.want(b.told(), "")
	// a third one, collected while the disk works, waits for the next sync
	b.propose(1, 1, 4, "c")
	b.want(b.told(), "")
	b.persist()
	if !b.collect() {
		t.Fatal("nobody waits for the second sync")
	}
	b.want(b.told(), `committed 2@1="a" 3@1="b"`)
	b.persist()
	b.want(b.run(), `committed 4@1="c"`)
}

// TestCommitsNeedNoSync: what follows a commit and nobody waits for is written along with the next entry.
func TestCommitsNeedNoSync(t *testing.T) {
	b := leader(t)
	b.syncs = 0
	for i := uint64(2); i < 12; i++ {
		b.propose(1, 1, i, "x")
		b.run()
	}
	if b.syncs != 10 {
		t.Errorf("%d syncs for 10 entries, one after the other", b.syncs)
	}
	for range 5 {
		if err := b.host.Tick(); err != nil {
			t.Fatal(err)
		}
		b.run()
	}
	if b.syncs != 10 {
		t.Errorf("%d syncs for nothing", b.syncs-10)
	}
}

// TestOneSyncForAllShards: the entries of all shards become durable together.
func TestOneSyncForAllShards(t *testing.T) {
	b := newBench(t, vfs.NewMem(), 4)
	b.campaign()
	b.run()
	b.syncs = 0
	for shard := uint64(1); shard <= 4; shard++ {
		if err := b.host.Propose(shard, actors.Proposal{Term: 1, Round: 1, Index: 2, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	b.want(b.run(), `1: committed 2@1="x", 2: committed 2@1="x", 3: committed 2@1="x", 4: committed 2@1="x"`)
	if b.syncs != 1 {
		t.Errorf("%d syncs", b.syncs)
	}
}

// TestFence: an entry that was made for another place in the log never gets into it.
func TestFence(t *testing.T) {
	for _, test := range []struct {
		name               string
		term, round, index uint64
		want               string
	}{
		{"right", 1, 1, 2, `committed 2@1="x"`},
		{"index taken", 1, 1, 1, `lost, lead 1.2, committed 2@1=""`},
		{"gap", 1, 1, 3, `lost, lead 1.2, committed 2@1=""`},
		{"nowhere", 1, 1, 0, `lost, lead 1.2, committed 2@1=""`},
		{"term that is over", 0, 1, 2, ""},
		{"term to come", 2, 1, 2, ""},
		{"round that is over", 1, 0, 2, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := leader(t)
			b.propose(test.term, test.round, test.index, "x")
			b.want(b.run(), test.want)
		})
	}
	t.Run("unknown shard", func(t *testing.T) {
		b := leader(t)
		if err := b.host.Propose(9, actors.Proposal{Term: 1, Index: 2}); err != nil {
			t.Error(err)
		}
		b.host.Confirm(9, 1)
		b.want(b.run(), "")
	})
}

// TestRefusedOnce: behind a proposal that has no place, those that were made before the shard heard of it have none
// either, although by chance an index fits; and the shard begins anew once, not once for each.
func TestRefusedOnce(t *testing.T) {
	b := leader(t)
	b.propose(1, 1, 2, "a")
	b.propose(1, 1, 4, "lost its predecessor") // the barrier takes 3
	b.propose(1, 1, 4, "fits by chance")
	b.propose(1, 1, 5, "and its successor")
	b.propose(1, 1, 9, "no place")
	b.want(b.run(), `lost, lead 1.2, committed 2@1="a" 3@1=""`)
	b.propose(1, 1, 4, "late")
	b.propose(1, 2, 4, "b")
	b.want(b.run(), `committed 4@1="b"`)
	b.propose(1, 2, 7, "no place")
	b.propose(1, 2, 6, "fits by chance")
	b.want(b.run(), `lost, lead 1.3, committed 5@1=""`)
	b.propose(1, 3, 6, "c")
	b.want(b.run(), `committed 6@1="c"`)
}

// TestOverthrownBetweenTwoSteps: another node's term becomes known, and before that was told, the shard proposes. The
// proposal is dropped; the shard hears in the end that it is lost, and the host goes on.
func TestOverthrownBetweenTwoSteps(t *testing.T) {
	b := leader(t)
	b.step(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Term: proto.Uint64(7)})
	b.propose(1, 1, 2, "x")
	b.propose(1, 1, 3, "y")
	if err := b.host.Tick(); err != nil {
		t.Fatal(err)
	}
	got := b.run()
	if !strings.HasSuffix(got, "lost") || strings.Contains(got, "committed") {
		t.Errorf("happened: %s", got)
	}
	for range 3 {
		if err := b.host.Tick(); err != nil {
			t.Fatal(err)
		}
	}
	b.propose(1, 2, 2, "z")
	b.want(b.run(), "")
	b.campaign()
	b.want(b.run(), `lead 8.3, committed 2@8=""`)
	b.propose(8, 3, 3, "again")
	b.want(b.run(), `committed 3@8="again"`)
}

// TestBarrierIsTriedAgain: Raft may drop the empty entry with which a round begins although the node still leads, as
// while it hands its leadership over. It must come all the same, or the shard would wait for ever.
func TestBarrierIsTriedAgain(t *testing.T) {
	b := leader(t)
	g := b.host.groups[1]
	g.barrier = true // as if it had been dropped
	if err := b.host.Tick(); err != nil {
		t.Fatal(err)
	}
	b.want(b.run(), `committed 2@1=""`)
	if err := b.host.Tick(); err != nil {
		t.Fatal(err)
	}
	b.want(b.run(), "")
	b.propose(1, 1, 3, "x")
	b.want(b.run(), `committed 3@1="x"`)
}

// TestTruncatedLog: a leader to come may have had entries that another leader's replaced. What it proposes follows what
// is in the log, not what was.
func TestTruncatedLog(t *testing.T) {
	b := newBench(t, vfs.NewMem(), 1)
	entries := func(term uint64, indexes ...uint64) (out []*raftpb.Entry) {
		for _, i := range indexes {
			out = append(out, &raftpb.Entry{Index: proto.Uint64(i), Term: proto.Uint64(term), Type: raftpb.EntryNormal.Enum(), Data: []byte("x")})
		}
		return out
	}
	appends := func(term, index, logTerm uint64, e []*raftpb.Entry) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgApp.Enum(), Term: proto.Uint64(term), Index: proto.Uint64(index), LogTerm: proto.Uint64(logTerm), Commit: proto.Uint64(0), Entries: e}
	}
	b.step(appends(2, 0, 0, entries(2, 1, 2, 3, 4, 5)))
	b.want(b.run(), "")
	b.step(appends(3, 1, 2, entries(3, 2)))
	b.want(b.run(), "")
	b.campaign()
	b.want(b.run(), `lead 4.1, committed 1@2="x" 2@3="x" 3@4=""`)
	b.propose(4, 1, 4, "y")
	b.want(b.run(), `committed 4@4="y"`)
}

// TestConfirm: who leads is told so, each time it asks; who does not, or no longer does, is not.
func TestConfirm(t *testing.T) {
	b := newBench(t, vfs.NewMem(), 1)
	b.host.Confirm(1, 7)
	b.want(b.run(), "")
	b.campaign()
	b.want(b.run(), `lead 1.1, committed 1@1=""`)
	b.host.Confirm(1, 8)
	b.host.Confirm(1, 9)
	b.want(b.run(), "confirmed 8, confirmed 9")
	b.step(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Term: proto.Uint64(7)})
	b.host.Confirm(1, 10)
	b.want(b.run(), "lost")
}

// TestRestart: a host that comes back hands over what is committed behind the shard's last checkpoint, and leads in a
// higher term. Whatever was told as committed is there, wherever the machine stopped.
func TestRestart(t *testing.T) {
	fs := vfs.NewCrashableMem()
	b := newBench(t, fs, 1)
	b.campaign()
	b.run()
	committed := uint64(1)
	next := uint64(2)
	for i := range 30 {
		b.propose(1, 1, next, fmt.Sprint(next))
		next++
		sync := b.collect()
		if i%3 == 0 && sync {
			b.persist()
			b.collect()
		}
		for _, e := range b.host.Events() {
			if c, ok := e.Input.(*actors.Committed); ok {
				committed = c.Entries[len(c.Entries)-1].GetIndex()
			}
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: (i * 37) % 101, RNG: rand.New(rand.NewPCG(uint64(i), 0))})
		after := newBench(t, crashed, 1)
		log := after.host.groups[1].log
		hard, _, err := log.InitialState()
		if err != nil {
			t.Fatal(err)
		}
		last, _ := log.LastIndex()
		if hard.GetTerm() != 1 || hard.GetVote() != 1 || hard.GetCommit() > last || last < committed {
			t.Fatalf("step %d: %d entries were told as committed; behind a crash the log ends at %d, hard state %v", i, committed, last, hard)
		}
		after.campaign()
		got := after.run()
		if !strings.Contains(got, "lead 2.1") || !strings.Contains(got, `committed 1@1=""`) || !strings.Contains(got, fmt.Sprintf(`%d@2=""`, last+1)) {
			t.Fatalf("step %d: happened: %s", i, got)
		}
		for index := uint64(2); index <= committed; index++ {
			if !strings.Contains(got, fmt.Sprintf("%d@1=%q", index, fmt.Sprint(index))) {
				t.Fatalf("step %d: entry %d was committed and is not: %s", i, index, got)
			}
		}
		after.close()
	}
}

// TestRestartBehindCheckpoint: only what the shard has not applied is handed over again.
func TestRestartBehindCheckpoint(t *testing.T) {
	fs := vfs.NewMem()
	b := newBench(t, fs, 1)
	index, err := b.store.OpenIndex(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	b.campaign()
	for b.host.Busy() {
		if b.collect() {
			b.persist()
		}
	}
	for _, e := range b.host.Events() {
		if c, ok := e.Input.(*actors.Committed); ok {
			for _, e := range c.Entries {
				if err := index.Apply(e, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := index.Checkpoint(0, 0); err != nil {
		t.Fatal(err)
	}
	b.propose(1, 1, 2, "")
	b.run()
	b.close()
	b = newBench(t, fs, 1)
	b.campaign()
	got := b.run()
	order := []int{strings.Index(got, "lead 2.1"), strings.Index(got, "2@1"), strings.Index(got, "3@2")}
	if slices.Contains(order, -1) || strings.Contains(got, "1@1=") {
		t.Errorf("happened: %s", got)
	}
}
