// Package actors runs grains: it holds the state machine of a shard, in which events become turns, turns become records
// of the journal, and committed records become answers and sends.
//
// Here live activation and passivation, deduplication, the outbox, reminders, and reads. [Shard] is a pure machine: all
// that happens to it comes in through [Shard.Step] with the time, all that it wants done goes out as [Effects]; it reads
// the journal through persistence.Index, as Raft reads its log through its storage. Here never live goroutines, channels,
// clocks or the network, and no concrete kind.
//
// Invariant: nothing leaves a shard before the entry it rests on is committed: no acknowledgement, no read, no send.
//
// # Speculation
//
// Turns run ahead of the commit. What they change (activations, producers, ids, watermarks of senders) is the
// speculative state; it is thrown away as a whole when leadership is lost, and read again from the index, which knows
// committed entries only. Each entry names the term, index and data entry it was made for, and has no effect anywhere
// else.
package actors

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/granary-dev/granary/persistence"
)

// Lead tells a shard that its replica was elected for a term, or begins anew in it: Round tells the beginnings apart. The
// shard leads once it has applied the next empty entry of that term.
type Lead struct{ Term, Round uint64 }

// Lost tells a shard that its replica does not lead any more, or that a proposal was refused.
type Lost struct{}

// Committed hands a shard the next committed entries.
type Committed struct{ Entries []*raftpb.Entry }

// Confirmed tells a shard that it still led after it had asked for a confirmation with this token.
type Confirmed struct{ Token uint64 }

// Idle tells a shard that no more input is waiting: what is open is flushed unless an earlier entry is under way.
type Idle struct {
	// Hold tells that nothing should be written now that no client and no send waits for: the disk is down to its reserve,
	// or the node is stopping. A cut waits.
	Hold bool
}

// Tick is given every 100 ms or so.
type Tick struct{}

// Sent is a send on its way to its target shard.
type Sent struct {
	// Mark of the send in its source.
	persistence.Mark
	// Kind and Key of the target, Event and Payload. With a Token it is the reply to the event of the target that the token
	// names.
	Kind    string
	Key     []byte
	Token   []byte
	Event   string
	Payload []byte
	// SenderKind and SenderKey of the grain that sent it.
	SenderKind string
	SenderKey  []byte
	// Time of the sending record (journal time, Unix microseconds) and its event time (Unix nanoseconds).
	Time, EventTime int64
	// Hops of the sending record, and its trace context.
	Hops  uint64
	Trace []byte
}

// Inbound is a number of sends from one shard to another, in the source's order.
type Inbound struct {
	// From and To are shards, Lineage that of the source.
	From, To, Lineage uint64
	// Previous is the last send that the source had sent there before; zero for the first after the source began to lead.
	Previous persistence.Mark
	Sends    []Sent
}

// Ack tells a source shard how far its sends were taken in.
type Ack struct {
	// From is the target shard, To the source, Lineage that of the source.
	From, To, Lineage uint64
	// Mark is the last send taken in and committed.
	Mark persistence.Mark
	// Refused tells that an Inbound was not taken: the source goes on from Mark.
	Refused bool
}

// Proposal is an entry for the shard's Raft group. It must be proposed in Term and Round at Index or not at all. One that
// cannot be, while the round is still the newest, must bring Lost and the Lead of a new round.
type Proposal struct {
	Term, Round, Index uint64
	Data               []byte
}

// Effects are what a step wants done, in the order of each list. The caller empties them.
type Effects struct {
	// Proposals for the Raft group.
	Proposals []Proposal
	// Batches and Reads that are done.
	Batches []*Batch
	Reads   []*Read
	// Settles that are done.
	Settles []*Settle
	// Sends for other shards, or this one.
	Sends []*Inbound
	// Acks for other shards, or this one.
	Acks []*Ack
	// Confirm asks to confirm leadership; 0 asks for nothing.
	Confirm uint64
	// Leading tells that the shard began to lead in this step.
	Leading bool
	// Unfit tells that the shard was elected and does not lead, because this binary lacks logic that its journal needs.
	Unfit *Unfit
	// Cuts that came to their end.
	Cuts []Cut
	// Unrun are condemned events that are dead-lettered now, and so condemned no more.
	Unrun []Identity
	// HeldBack are reminders that were due and cannot fire.
	HeldBack []HeldBack
	// Again asks for another Idle soon: there is more to do than one step should.
	Again bool
}

// Cut is the end of the raising of a kind's version: no grain of this shard needs an earlier one any more, except for reads
// of the past; or one does, because it could not be loaded (Failed).
type Cut struct {
	Kind    string
	Version uint32
	Failed  bool
}

// HeldBack is a reminder that does not fire because its event cannot be read or its grain cannot be loaded. It stays
// pending: the next leader, or this one after a restart, tries again.
type HeldBack struct {
	Kind, Key string
	Reminder  uint64
	Due       int64
	Why       error
}

// Reset empties the effects and keeps their memory.
func (fx *Effects) Reset() {
	clear(fx.Proposals)
	clear(fx.Batches)
	clear(fx.Reads)
	clear(fx.Settles)
	clear(fx.Sends)
	clear(fx.Acks)
	*fx = Effects{Proposals: fx.Proposals[:0], Batches: fx.Batches[:0], Reads: fx.Reads[:0], Settles: fx.Settles[:0], Sends: fx.Sends[:0], Acks: fx.Acks[:0]}
}

// failure is an error with the outcome that callers are told.
type failure struct {
	outcome Outcome
	err     error
	lack    *Lack // for want of which it is; may be nil
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failf(o Outcome, format string, args ...any) error {
	return &failure{outcome: o, err: fmt.Errorf(format, args...)}
}
