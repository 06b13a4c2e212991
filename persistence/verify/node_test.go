package verify_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/grains/catalog"
	"github.com/granary-dev/granary/persistence/verify"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

// traffic publishes events to a node: by id and by producers, some of them refused, in batches of every shard at once.
type traffic struct {
	t      *testing.T
	n      *node.Node
	random *rand.Rand
	event  int
	epoch  uint64
	link   map[uint64]uint64 // of the producer, by shard
	last   uint64
}

func (x *traffic) send(events int) {
	x.t.Helper()
	kind, _ := catalog.Builtin().Kind("account")
	byShard := map[uint64]*actors.Batch{}
	linked := x.random.IntN(2) == 0
	for range events {
		x.event++
		msg := proto.Message(&accountv1.Charged{TransactionId: fmt.Sprint("tx", x.event), Merchant: fmt.Sprint("m", x.random.IntN(9)),
			AmountCents: int64(x.random.IntN(5000)) - 50})
		typ, _ := kind.Event(string(msg.ProtoReflect().Descriptor().FullName()))
		payload, err := typ.Append(nil, msg)
		if err != nil {
			x.t.Fatal(err)
		}
		key := fmt.Sprint("a", x.random.IntN(40))
		e := actors.Event{Kind: kind, Key: key, Type: typ, Message: msg, Payload: payload}
		switch {
		case linked:
			x.last++
			e.Sequence = x.last
		case x.random.IntN(2) == 0:
			e.ID, e.Source = fmt.Sprint("id", x.random.IntN(200)), "pos"
		}
		if x.random.IntN(3) == 0 {
			e.Time = time.Now().UnixNano() - int64(x.random.IntN(1e9))
		}
		shard := x.n.Table().Shard("", "account", key)
		b := byShard[shard]
		if b == nil {
			b = &actors.Batch{}
			if linked {
				b.Link = &actors.Link{Producer: "gen", Epoch: x.epoch, Previous: x.link[shard]}
			}
			byShard[shard] = b
		}
		b.Events = append(b.Events, e)
	}
	done := make(chan *actors.Batch, len(byShard))
	for shard, b := range byShard {
		if linked {
			x.link[shard] = b.Events[len(b.Events)-1].Sequence
		}
		b.Done = func(b *actors.Batch) { done <- b }
		if err := x.n.Publish(context.Background(), shard, b, true); err != nil {
			x.t.Fatal(err)
		}
	}
	for range byShard {
		if b := <-done; b.Refused != actors.Folded {
			x.t.Fatalf("refused: %v: %s", b.Refused, b.Why)
		}
	}
}

func check(t *testing.T, fs vfs.FS) *verify.Report {
	t.Helper()
	r, err := verify.Run(t.Context(), verify.Options{Dir: "data", FS: fs, Catalog: catalog.Builtin()})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Errorf("found: %v", f)
	}
	return r
}

// TestNode verifies what a node leaves behind, stopped cleanly and crashed in mid-flight, over several runs of it.
func TestNode(t *testing.T) {
	fs := vfs.NewCrashableMem()
	random := rand.New(rand.NewPCG(1, 2))
	x := &traffic{t: t, random: random}
	for round := range 6 {
		n, err := node.Start(t.Context(), node.Options{DataDir: "data", FS: fs, Shards: 8, Catalog: catalog.Builtin(), MemoryBudget: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		x.n, x.epoch, x.link = n, uint64(round+1), map[uint64]uint64{}
		for range 30 {
			x.send(1 + random.IntN(60))
		}
		if round%2 == 0 {
			crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 30, RNG: random})
			n.Kill()
			fs = crashed
		} else {
			if err := n.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
		}
		r := check(t, fs)
		if t.Failed() {
			t.FailNow()
		}
		if r.Turns == 0 || r.SendsMatched == 0 || len(r.Unrun) != 0 || round%2 == 1 && (r.SendsPending != 0 || r.Snapshots == 0 || r.Keys == 0) {
			t.Errorf("round %d: %+v", round, r)
		}
		t.Logf("round %d: %d entries, %v, %d grains, %d turns, %d snapshots, sends %d + %d, %d keys", round, r.Entries, r.Records,
			r.Grains, r.Turns, r.Snapshots, r.SendsMatched, r.SendsPending, r.Keys)
	}
}
