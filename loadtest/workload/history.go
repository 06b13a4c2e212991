package workload

import "slices"

// Outcome is what a client was told of an operation.
type Outcome uint8

// The outcomes. What has not ended is Unknown.
const (
	// Unknown: it may have been done, may yet be done at any later time, or never.
	Unknown Outcome = iota
	// OK: it was done.
	OK
	// Failed: this try of it was not done and never will be. Another try may.
	Failed
)

func (o Outcome) String() string {
	switch o {
	case OK:
		return "ok"
	case Failed:
		return "failed"
	}
	return "unknown"
}

// History is what the clients of a run did and saw. Not safe for concurrent use; a driver with goroutines puts a lock
// around it.
//
// What came before what is decided by the order of the calls of Begin and End, not by the clock: with Begin called before
// an operation is sent and End after its answer is in hand, an End before a Begin proves that the one operation was over
// when the other began, whatever clocks do.
type History struct {
	records []Record
	calls   int64
	// longest list read of each grain. Most reads show the beginning of it and need no memory of their own.
	longest map[string][]uint64
}

// Record is an operation and what came of it.
type Record struct {
	Operation
	// Outcome that the client was told.
	Outcome Outcome
	// Values that a read showed.
	Values []uint64
	// Reply to a question that is OK.
	Reply Reply
	// Began and Ended count the calls of Begin and End: smaller is earlier. Ended is 0 for what has not ended.
	Began, Ended int64
	// BeganAt and EndedAt are the times by the driver's clock, in nanoseconds. Only people look at them.
	BeganAt, EndedAt int64
}

// Begin notes an operation that is about to be sent. The number returned is for End.
func (h *History) Begin(op Operation, at int64) int {
	h.calls++
	h.records = append(h.records, Record{Operation: op, Began: h.calls, BeganAt: at})
	return len(h.records) - 1
}

// End notes the answer to operation i, or that none is waited for any longer. Values are what a read showed; they are
// the history's from now on. An operation ends once at most.
func (h *History) End(i int, at int64, outcome Outcome, values []uint64) {
	r := &h.records[i]
	if r.Ended != 0 {
		panic("workload: an operation ended twice")
	}
	h.calls++
	r.Ended, r.EndedAt, r.Outcome = h.calls, at, outcome
	if outcome == OK && r.Action.Reads() {
		r.Values = h.share(r.Key, values)
	}
}

// EndAsk is [History.End] for a question, with its reply.
func (h *History) EndAsk(i int, at int64, outcome Outcome, reply Reply) {
	h.End(i, at, outcome, nil)
	if outcome == OK {
		h.records[i].Reply = reply
	}
}

// share returns a list that is equal to values and, if it can, uses the memory of one that is there already.
func (h *History) share(key string, values []uint64) []uint64 {
	longest := h.longest[key]
	if n := len(values); n <= len(longest) && slices.Equal(values, longest[:n]) {
		return longest[:n:n]
	}
	if len(values) > len(longest) {
		if h.longest == nil {
			h.longest = map[string][]uint64{}
		}
		h.longest[key] = values
	}
	return values
}

// Records are all operations, in the order in which they began. They are the history's own: not to be changed.
func (h *History) Records() []Record { return h.records }

// Totals count a history.
type Totals struct {
	// Operations of each outcome.
	OK, Failed, Unknown int
	// Contended is how many of them went to a contended grain.
	Contended int
}

// Totals counts the operations.
func (h *History) Totals() Totals {
	var t Totals
	for i := range h.records {
		switch h.records[i].Outcome {
		case OK:
			t.OK++
		case Failed:
			t.Failed++
		default:
			t.Unknown++
		}
		if h.records[i].Contended {
			t.Contended++
		}
	}
	return t
}
