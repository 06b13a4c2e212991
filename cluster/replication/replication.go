// Package replication hosts the Raft groups of a node's shards and gathers what they write into one batch with one sync.
//
// Here live [Host], a pure machine over etcd/raft (proposals, ticks and the news that a batch is durable go in; writes
// and events come out), and the fence that keeps an entry out of any place it was not made for. Here never live
// goroutines, clocks or the network, and nothing that knows what an entry means.
//
// Invariant: an event Committed is given only for entries that are durable on a quorum, in the order of the log, and
// behind the event Lead or Lost that they belong to.
package replication

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/persistence"
)

// Limits of a group. What a shard may have uncommitted stays far below maxUncommitted.
const (
	electionTicks  = 10
	maxMessage     = 1 << 20
	maxInflight    = 256
	maxApplying    = 16 << 20
	maxUncommitted = 256 << 20
)

// Event is something that happened to a shard's group: one of actors.Lead, actors.Lost, *actors.Committed,
// actors.Confirmed and Restarted.
type Event struct {
	Shard uint64
	Input any
}

// group is one Raft group of the host.
type group struct {
	shard     uint64
	node      *raft.RawNode
	log       *persistence.Log
	leading   bool
	term      uint64
	round     uint64            // counts the beginnings of the shard; proposals of an older one are dropped
	barrier   bool              // the empty entry behind which the round begins is still to be proposed
	last      uint64            // index of the last entry, proposed ones included
	delivered uint64            // index of the last entry that the shard was given
	responses []*raftpb.Message // to be stepped when the batch is durable
	dirty     bool
}

// Host runs the Raft groups of one node.
type Host struct {
	self   uint64
	groups map[uint64]*group
	order  []*group
	dirty  []*group
	synced []*group // wait for the batch to be durable
	events []Event
}

// NewHost returns a host without groups. self is the id of this node's replicas.
func NewHost(self uint64) *Host { return &Host{self: self, groups: map[uint64]*group{}} }

// Add opens the group of a shard over its log. applied is the index up to which the shard has applied it.
func (h *Host) Add(shard uint64, log *persistence.Log, applied uint64) error {
	node, err := raft.NewRawNode(&raft.Config{
		ID: h.self, ElectionTick: electionTicks, HeartbeatTick: 1, Storage: log, Applied: applied,
		AsyncStorageWrites: true, MaxSizePerMsg: maxMessage, MaxInflightMsgs: maxInflight, MaxInflightBytes: 8 * maxMessage,
		MaxCommittedSizePerReady: maxApplying, MaxUncommittedEntriesSize: maxUncommitted,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, StepDownOnRemoval: true,
		Logger: quiet{},
	})
	if err != nil {
		return fmt.Errorf("shard %d: %w", shard, err)
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	g := &group{shard: shard, node: node, log: log, last: last, delivered: applied}
	h.groups[shard] = g
	h.order = append(h.order, g)
	h.touch(g)
	return nil
}

func (h *Host) touch(g *group) {
	if !g.dirty {
		g.dirty = true
		h.dirty = append(h.dirty, g)
	}
}

// Campaign lets every group of which this node is the only voter elect it now instead of after a timeout.
func (h *Host) Campaign() error {
	for _, g := range h.order {
		if st := g.node.Status(); len(st.Config.Voters[0]) == 1 && len(st.Config.Voters[1]) == 0 {
			if err := g.node.Campaign(); err != nil {
				return fmt.Errorf("shard %d: %w", g.shard, err)
			}
			h.touch(g)
		}
	}
	return nil
}

// Tick moves the logical clock of all groups on.
func (h *Host) Tick() error {
	for _, g := range h.order {
		g.node.Tick()
		h.touch(g)
		if err := h.begin(g); err != nil {
			return err
		}
	}
	return nil
}

// Propose hands an entry to a shard's group. It is refused, and the shard told that its speculation is lost, when the
// term in which its turns ran is over or another entry has taken its index. Once one is refused, so are all that were
// made before the shard heard of it: they follow what is not there.
func (h *Host) Propose(shard uint64, p actors.Proposal) error {
	g := h.groups[shard]
	if g == nil {
		return nil // the shard is in quarantine
	}
	h.touch(g)
	if !g.leading || g.term != p.Term || g.round != p.Round {
		return nil // the shard was told, or will be
	}
	if p.Index == g.last+1 {
		err := g.node.Propose(p.Data)
		if err == nil {
			g.last = p.Index
			return nil
		}
		if err != raft.ErrProposalDropped { //nolint:errorlint // raft returns it as it is
			return fmt.Errorf("shard %d: %w", shard, err)
		}
	}
	// let the shard begin anew behind everything in the log
	h.events = append(h.events, Event{g.shard, actors.Lost{}}, h.lead(g))
	g.barrier = true
	return h.begin(g)
}

// lead opens the next round of a shard.
func (h *Host) lead(g *group) Event {
	g.round++
	return Event{g.shard, actors.Lead{Term: g.term, Round: g.round}}
}

// begin proposes the barrier of a round if it is still to be proposed. Raft drops it while it hands its leadership over,
// and when it has just lost it: then the next tick tries again, or the shard hears that it is lost.
func (h *Host) begin(g *group) error {
	if !g.barrier {
		return nil
	}
	err := g.node.Propose(nil)
	if err == nil {
		g.barrier = false
		g.last++
	} else if !errors.Is(err, raft.ErrProposalDropped) {
		return fmt.Errorf("shard %d: %w", g.shard, err)
	}
	return nil
}

// Confirm asks a shard's group whether this node still leads; actors.Confirmed is the answer.
func (h *Host) Confirm(shard, token uint64) {
	if g := h.groups[shard]; g != nil {
		g.node.ReadIndex(binary.BigEndian.AppendUint64(nil, token))
		h.touch(g)
	}
}

// Collect adds to b what the groups have to write, and tells whether it must be made durable before the groups can go
// on: then commit it with a sync and call [Host.Persisted]. Otherwise b may as well wait for the next round.
func (h *Host) Collect(b *pebble.Batch) (sync bool, err error) {
	for len(h.dirty) > 0 {
		round := h.dirty
		h.dirty = nil
		for _, g := range round {
			g.dirty = false
			if !g.node.HasReady() {
				continue
			}
			needs, err := h.ready(g, b)
			if err != nil {
				return false, fmt.Errorf("shard %d: %w", g.shard, err)
			}
			if needs {
				h.synced = append(h.synced, g)
			} else {
				h.touch(g)
			}
		}
	}
	return len(h.synced) > 0, nil
}

// ready handles one Ready of a group.
func (h *Host) ready(g *group, b *pebble.Batch) (sync bool, err error) {
	rd := g.node.Ready()
	if rd.HardState != nil {
		g.term = rd.HardState.GetTerm()
	}
	if rd.SoftState != nil {
		leads := rd.SoftState.RaftState == raft.StateLeader
		if g.leading && !leads {
			h.events = append(h.events, Event{g.shard, actors.Lost{}})
		}
		if leads && !g.leading {
			g.term = g.node.BasicStatus().HardState.GetTerm()
			h.events = append(h.events, h.lead(g)) // Raft itself proposes the empty entry
		}
		if g.leading != leads {
			g.leading, g.barrier = leads, false
		}
	}
	for _, r := range rd.ReadStates {
		h.events = append(h.events, Event{g.shard, actors.Confirmed{Token: binary.BigEndian.Uint64(r.RequestCtx)}})
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			if err := h.write(g, b, m); err != nil {
				return false, err
			}
			g.responses = append(g.responses, m.GetResponses()...)
			sync = sync || len(m.GetResponses()) > 0
		case raft.LocalApplyThread:
			entries := m.GetEntries()
			h.events = append(h.events, Event{g.shard, &actors.Committed{Entries: entries}})
			g.delivered = entries[len(entries)-1].GetIndex()
			g.log.Applied(g.delivered)
			for _, r := range m.GetResponses() {
				if err := g.node.Step(r); err != nil {
					return false, err
				}
			}
		}
	}
	return sync, nil
}

func (h *Host) write(g *group, b *pebble.Batch, m *raftpb.Message) error {
	if entries := m.GetEntries(); len(entries) > 0 {
		if err := g.log.Append(b, entries); err != nil {
			return err
		}
		last := entries[len(entries)-1].GetIndex()
		if g.leading {
			last = max(last, g.last) // there may be newer proposals than these
		}
		g.last = last
	}
	if m.Term != nil && m.Commit != nil && m.GetTerm() != 0 {
		return g.log.SetHard(b, m.GetTerm(), m.GetVote(), m.GetCommit())
	}
	return nil
}

// Persisted tells that the batch of the last Collect is durable.
func (h *Host) Persisted() error {
	for _, g := range h.synced {
		for _, r := range g.responses {
			if r.GetTo() != h.self {
				continue
			}
			if err := g.node.Step(r); err != nil {
				return fmt.Errorf("shard %d: %w", g.shard, err)
			}
		}
		clear(g.responses)
		g.responses = g.responses[:0]
		h.touch(g)
	}
	clear(h.synced)
	h.synced = h.synced[:0]
	return nil
}

// Busy tells whether Collect has something to do.
func (h *Host) Busy() bool { return len(h.dirty) > 0 }

// Events returns what happened since the last call, in order.
func (h *Host) Events() []Event {
	e := h.events
	h.events = nil
	return e
}

// quiet drops what Raft reports: all of it that matters to an operator is told as an event. Its panics stay panics.
type quiet struct{}

func (quiet) Debug(...any)            {}
func (quiet) Debugf(string, ...any)   {}
func (quiet) Error(...any)            {}
func (quiet) Errorf(string, ...any)   {}
func (quiet) Info(...any)             {}
func (quiet) Infof(string, ...any)    {}
func (quiet) Warning(...any)          {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Fatal(v ...any)          { panic("raft: " + fmt.Sprint(v...)) }
func (quiet) Fatalf(f string, v ...any) {
	panic("raft: " + fmt.Sprintf(f, v...))
}
func (quiet) Panic(v ...any) { panic("raft: " + fmt.Sprint(v...)) }
func (quiet) Panicf(f string, v ...any) {
	panic("raft: " + fmt.Sprintf(f, v...))
}
