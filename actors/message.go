package actors

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/entry"
)

// Outcome is what became of an event or a request, in the terms of a shard.
type Outcome uint8

// Outcomes. Those from Unavailable on mean that nothing was journaled, or that nothing is known: the caller may retry
// with the same id or sequence.
const (
	Folded       Outcome = iota // the event was folded into the state
	Rejected                    // the grain refused it; journaled
	DeadLettered                // its turn failed; journaled
	Conflict                    // same id as an earlier event, other body
	OutOfRange                  // a read names a moment that is not there
	Corrupt                     // stored bytes are not what was written; not served
	LogicMissing                // the journal needs a version of the kind's logic that this binary lacks
	NotFound                    // there is no such dead letter
	NotOpen                     // the dead letter is settled
	Unrunnable                  // this binary cannot run the event of the dead letter
	Fenced                      // the producer has a newer epoch
	Gap                         // the batch does not follow what the shard has of this producer
	Unavailable                 // leadership was lost or is not there yet
	Overloaded                  // too much is waiting
)

var outcomeNames = [...]string{"folded", "rejected", "dead-lettered", "conflict", "out of range", "corrupt", "logic missing", "not found", "not open", "unrunnable",
	"fenced", "gap", "unavailable", "overloaded"}

// String is the outcome in words.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// Event is one event for one grain: validated, with its payload decoded.
type Event struct {
	// Kind, Key and Type of the event.
	Kind *grains.Definition
	Key  string
	Type *grains.EventType
	// Message is the decoded payload. The turn may keep parts of it in the state: the caller must not touch it again.
	Message proto.Message
	// Payload is the message in wire form, as it is journaled.
	Payload []byte
	// ID and Source, empty if the event has none.
	ID, Source string
	// Time of the event in Unix nanoseconds; 0 if the publisher gave none.
	Time int64
	// Headers and Trace context; may be nil.
	Headers []entry.Attribute
	Trace   []byte
	// Sequence of the producer; 0 outside a producer session.
	Sequence uint64
}

// Link ties a batch of a producer to what the same stream sent to the same shard before.
type Link struct {
	// Producer's id and epoch.
	Producer string
	Epoch    uint64
	// Previous is the sequence of the last event sent to this shard in this epoch; 0 for the first batch.
	Previous uint64
}

// Result is the outcome of one event.
type Result struct {
	Outcome Outcome
	// Duplicate: an earlier publish had this outcome. Deduplicated: the event had an id or a sequence to tell by.
	Duplicate, Deduplicated bool
	// Seq of the record; 0 when nothing was journaled or the record of a duplicate is no longer known.
	Seq uint64
	// Position of the record.
	Position entry.Position
	// Reason in words, for outcomes other than Folded.
	Reason string
	// Reply to an ask, an encoded google.protobuf.Any; nil if there is none. Deferred tells that the turn left it to a later
	// one; if Reply is nil then, the asker gave up before it came.
	Reply    []byte
	Deferred bool
}

// Batch is a number of events for one shard, in order. Its outcome arrives at once for all events.
type Batch struct {
	// Link of a producer's batch; nil for others.
	Link *Link
	// Ask tells that the reply is wanted. The batch has one event then, and no link; if its turn defers, the outcome arrives
	// with the reply, or when [GiveUp] says so.
	Ask bool
	// Events, at least one, rising in sequence where there is a link.
	Events []Event
	// Results, one for each event, set when Done is called.
	Results []Result
	// Refused is the outcome of the batch as a whole when none of its events was taken (Fenced, Gap, LogicMissing,
	// Unavailable, Overloaded); Folded otherwise. Why says it in words, and Lack the first of what is missing, for
	// LogicMissing.
	Refused Outcome
	Why     string
	Lack    *Lack
	// Watermark of the producer, for Gap and Fenced; Epoch the newest known, for Fenced.
	Watermark, Epoch uint64
	// Done is called once, when everything in Results is committed. It must not block.
	Done func(*Batch)

	wait       uint64 // index that must be committed first
	duplicates []duplicate
	askedAt    int64 // journal time of the event of an ask
	awaiting   bool  // its deferred reply is waited for
	gaveUp     bool  // it is not to be waited for
}

// Read asks a shard for something. It takes its place among the turns of the shard: the answer holds everything before
// it and is given when that is committed.
type Read struct {
	// Stale skips the confirmation of leadership.
	Stale bool
	// One of these is set.
	Get         *Get
	History     *History
	List        *List
	Tail        *Tail
	DeadLetter  *DeadLetter
	DeadLetters *DeadLetters
	// Reminders is a list too.
	Reminders *Reminders
	// Failed is the outcome when the read failed, Folded otherwise. Why says it in words. Lack is what is missing, for a
	// LogicMissing that is for want of a version: the first of it if it keeps the shard from leading, or what this grain
	// needs; nil otherwise.
	Failed Outcome
	Why    string
	Lack   *Lack
	// Done is called once. It must not block.
	Done func(*Read)

	wait   uint64  // index that must be committed first
	token  uint64  // confirmation that must have come
	slot   int     // place among the tails, from 1; see Shard.tails
	settle *Settle // that is to be refused, if this is its read
}

// Get asks for the state of a grain.
type Get struct {
	Kind *grains.Definition
	Key  string
	// AtSeq or AtTime (journal time, Unix microseconds) choose a past moment; both 0: now.
	AtSeq  uint64
	AtTime int64

	// The answer: State in wire form, the Seq, Position and Time (Unix microseconds) of its last record.
	State    []byte
	Seq      uint64
	Position entry.Position
	Time     int64
}

// History asks for records of a grain.
type History struct {
	Kind *grains.Definition
	Key  string
	// From is the lowest seq wanted, To the highest (0: the last). Limit is the number of records, at least 1.
	From, To uint64
	Limit    int
	// NewestFirst takes them from To downwards.
	NewestFirst bool

	// The answer. Lineage is that of the shard. More tells that there are records beyond the last one answered.
	Records []HistoryRecord
	Lineage uint64
	More    bool
}

// HistoryRecord is a record and the index of its entry.
type HistoryRecord struct {
	Index uint64
	entry.Record
}

// List asks for the grains of a kind in one shard.
type List struct {
	Kind          string
	Prefix, After string
	Limit         int

	// The answer.
	Grains []ListedGrain
}

// ListedGrain is what the keys tell of a grain.
type ListedGrain struct {
	Key  string
	Seq  uint64
	Time int64 // journal time of the last record, Unix microseconds
}

// Reminders asks for the pending reminders of a kind in one shard, in the order of the keys and, for each, of the ids.
type Reminders struct {
	Kind string
	// Prefix of the keys. Key, if it is set, is the one grain that is meant.
	Prefix, Key string
	// AfterKey and AfterID are the last reminder before those that are wanted; empty: from the first on.
	AfterKey string
	AfterID  uint64
	// Limit is the number wanted. Behind so many Bytes of payload the answer ends too.
	Limit, Bytes int

	// The answer. More tells that there are others beyond the last one answered.
	Pending []PendingReminder
	More    bool
}

// PendingReminder is a reminder that was set and has not come to its end.
type PendingReminder struct {
	Key string
	ID  uint64
	// Due is when it fires next, in Unix microseconds of journal time; Every the time between firings, 0 if it fires once.
	Due, Every int64
	// Event is the full name of its message, Payload the message in wire form.
	Event   string
	Payload []byte
}
