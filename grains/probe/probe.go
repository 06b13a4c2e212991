// Package probe is the kind "probe": a grain for testing a cluster.
//
// A test appends values to lists, one value an append, and lets some appends pass their value on to another probe. Read
// back, the lists tell what was lost, done twice or put in another order, and the balances whether every send arrived
// once. Here lives only what makes such faults visible. Here never live checks that would hide them: a value that comes
// twice is in the list twice.
//
// Invariant: values holds exactly the appends that were not refused, in the order of their turns; received and uncounted
// together hold everything that was sent here; and the state has an upper size, whatever comes.
package probe

import (
	"github.com/granary-dev/granary/grains"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
)

// What bounds the state and the amounts. All are part of what [probev1.Probe] and [probev1.Append] promise.
const (
	maxValues   = 4096
	maxReceived = 65_536
	maxAmount   = 1_000_000_000_000
)

// Kind is the declaration of the kind.
var Kind = grains.Kind[*probev1.Probe]{
	Name:    "probe",
	Version: 1,
	Doc:     "a list for testing a cluster: it shows what was lost, done twice or put in another order",
	Handlers: grains.Handlers[*probev1.Probe]{
		grains.On(appended), grains.On(received),
		grains.On(questioned), grains.On(passed), grains.On(announce),
		grains.On(remind), grains.On(reminded), grains.On(forget),
	},
	Streams: []string{valuesStream},
}

// appended adds a value, and passes it on if another probe is named.
func appended(t *grains.Turn, s *probev1.Probe, e *probev1.Append) error {
	if err := checkAppend(e); err != nil {
		return err
	}
	if len(s.Values) >= maxValues {
		return grains.Rejectf("full: there are %d values", len(s.Values))
	}
	s.Values = append(s.Values, e.Value)
	if e.To != "" {
		s.Balance -= e.Amount
		t.Send("probe/"+e.To, &probev1.Received{Value: e.Value, Amount: e.Amount})
	}
	return nil
}

func checkAppend(e *probev1.Append) error {
	switch {
	case e.Value == 0:
		return grains.Reject("value is 0")
	case e.Amount < 0:
		return grains.Rejectf("amount is %d; it must not be negative", e.Amount)
	case e.Amount > maxAmount:
		return grains.Rejectf("amount is %d; at most %d is taken", e.Amount, int64(maxAmount))
	case e.To == "" && e.Amount != 0:
		return grains.Reject("amount without a probe that gets it")
	case e.To == "":
		return nil
	}
	if err := grains.CheckKey(e.To); err != nil {
		return grains.Rejectf("to: %v", err)
	}
	return nil
}

// received takes what another probe sent. It counts what it cannot keep, because a send that is refused would be lost
// without a trace in the balances.
func received(_ *grains.Turn, s *probev1.Probe, e *probev1.Received) error {
	if len(s.Received) < maxReceived {
		s.Received = append(s.Received, e.Value)
	} else {
		s.Uncounted++
	}
	s.Balance += e.Amount
	return nil
}
