package actors_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/persistence/entry"
)

// flip turns a bit of a log entry around on the disk, and mend puts it right again.
func (r *replica) flip(t *testing.T, index uint64) (mend func()) {
	t.Helper()
	e, err := r.log.Read(index)
	if err != nil {
		t.Fatal(err)
	}
	frame := entry.AppendFrame(nil, r.id, index, e.GetTerm(), byte(e.GetType()), e.GetData())
	whole := bytes.Clone(frame)
	frame[len(frame)/2] ^= 0x10
	r.put(t, index, frame)
	return func() { r.put(t, index, whole) }
}

func (r *replica) put(t *testing.T, index uint64, frame []byte) {
	t.Helper()
	key := append([]byte{0, 0, 0, 0, 0, 0, 0, byte(r.id), 0x01}, 0, 0, 0, 0, 0, 0, 0, byte(index))
	b := r.world.store.NewBatch()
	if err := b.Set(key, frame, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
}

// forgetStates drops the states that are stored beside the log, so that the log is needed.
func (r *replica) forgetStates(t *testing.T) {
	t.Helper()
	from, to := []byte{0, 0, 0, 0, 0, 0, 0, byte(r.id), 0x0b}, []byte{0, 0, 0, 0, 0, 0, 0, byte(r.id), 0x0c}
	b := r.world.store.NewBatch()
	if err := b.DeleteRange(from, to, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
}

func (r *replica) checkpoint(t *testing.T) {
	t.Helper()
	if err := r.shard.Close(); err != nil {
		t.Fatal(err)
	}
}

// corrupted is a world in which the only entry of book/a is corrupt and book/a is not in memory; the shard leads.
func corrupted(t *testing.T, shards int) *world {
	w := newWorld(t, shards, 1, 1000)
	for _, r := range w.shards {
		r.lead()
	}
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a", "+1", "id1"), w.event("a", "!no", "id2")}})
	w.settle()
	r := w.shards[0]
	if n, _ := r.shard.Activations(); n != 0 {
		t.Fatalf("%d grains are in memory", n)
	}
	r.checkpoint(t) // what is behind the last one is in memory as well
	r.forgetStates(t)
	r.flip(t, r.committed)
	return w
}

// TestCorruptGrainStandsAlone: events for a grain that cannot be read are told so, one by one; the others of the batch
// are folded.
func TestCorruptGrainStandsAlone(t *testing.T) {
	w := corrupted(t, 1)
	defer w.close()
	b := &actors.Batch{Events: []actors.Event{w.event("b", "+1", "id3"), w.event("a", "+2", "id4"), w.event("c", "+1", "id5")}}
	w.publish(b)
	w.settle()
	if b.Refused != actors.Folded {
		t.Fatalf("refused: %v %s", b.Refused, b.Why)
	}
	for i, want := range []actors.Outcome{actors.Folded, actors.Corrupt, actors.Folded} {
		if b.Results[i].Outcome != want {
			t.Errorf("event %d: %+v, want %v", i, b.Results[i], want)
		}
	}
	if !strings.Contains(b.Results[1].Reason, "index 2") {
		t.Errorf("the reason does not name the entry: %s", b.Results[1].Reason)
	}
	rd := &actors.Read{Get: &actors.Get{Kind: w.kind("book"), Key: "a"}}
	w.read(rd)
	w.settle()
	if rd.Failed != actors.Corrupt || rd.Get.State != nil {
		t.Errorf("a read of it: %v %q", rd.Failed, rd.Get.State)
	}
}

// TestCorruptOriginal: a duplicate whose first result cannot be read says so; the new events of its batch are told what
// became of them.
func TestCorruptOriginal(t *testing.T) {
	w := corrupted(t, 1)
	defer w.close()
	b := &actors.Batch{Events: []actors.Event{w.event("b", "+1", "id3"), w.event("a", "+1", "id1")}}
	w.publish(b)
	w.settle()
	if b.Refused != actors.Folded || b.Results[0].Outcome != actors.Folded || b.Results[0].Seq != 1 || b.Results[1].Outcome != actors.Corrupt {
		t.Errorf("%v %s %+v", b.Refused, b.Why, b.Results)
	}
}

// TestCorruptProducerBatch: what a shard holds of a producer is always a prefix, so its batch ends at the event that
// cannot be taken, and so does every later one.
func TestCorruptProducerBatch(t *testing.T) {
	w := corrupted(t, 1)
	defer w.close()
	b := w.link(1, 0, w.numbered(1, "b", "+1"), w.numbered(2, "a", "+2"), w.numbered(3, "c", "+1"))
	w.publish(b)
	w.settle()
	if b.Refused != actors.Corrupt {
		t.Fatalf("%v %s", b.Refused, b.Why)
	}
	later := w.link(1, 3, w.numbered(4, "c", "+1"))
	w.publish(later)
	w.settle()
	if later.Refused != actors.Gap || later.Watermark != 1 {
		t.Errorf("%v, watermark %d", later.Refused, later.Watermark)
	}
}

// TestSendToCorruptGrainIsKept: a send that the disk keeps from its target is not given up as a dead letter, which would
// lose its effect for good: the target stops, and the send is taken in once it is repaired.
func TestSendToCorruptGrainIsKept(t *testing.T) {
	w := newWorld(t, 2, 1, 1000)
	defer w.close()
	for _, r := range w.shards {
		r.lead()
	}
	w.publish(&actors.Batch{Events: []actors.Event{w.event("a@2", "+1", "")}})
	w.settle()
	target := w.shards[1]
	target.checkpoint(t)
	target.forgetStates(t)
	mend := target.flip(t, target.committed)
	w.publish(&actors.Batch{Events: []actors.Event{w.event("b", ">a@2:+2 >c@2:+3", "")}})
	for range 20 {
		w.settleSome()
	}
	if target.failed == nil {
		t.Fatal("the target goes on")
	}
	if w.shards[0].shard.Overloaded() {
		t.Error("the source takes no more events because another shard is out of service")
	}
	mend()
	target.crash(0)
	w.settle()
	w.checkSends()
	w.checkStates()
}
