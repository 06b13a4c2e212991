package crowd

import (
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// refusal is why something was not answered with success: a status, and its reason if a node gave it.
type refusal struct {
	code    codes.Code
	reason  string
	message string
}

func refusalOf(err error) refusal { return refusalOfStatus(status.Convert(err).Proto()) }

func refusalOfStatus(s *spb.Status) refusal {
	st := status.FromProto(s)
	r := refusal{code: st.Code(), message: st.Message()}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			r.reason = info.GetReason()
		}
	}
	return r
}

func (r refusal) String() string { return fmt.Sprintf("%v %s: %s", r.code, r.reason, r.message) }

// name is the reason that a node gave, or the code that stands for a lost connection or a lost answer.
func (r refusal) name() string {
	if r.reason != "" {
		return r.reason
	}
	return r.code.String()
}

// meaning is what a refusal says of what was asked for.
type meaning int

const (
	// nobodyKnows whether it was done, or will be.
	nobodyKnows meaning = iota
	// nothingHappened: it was not done, and never will be.
	nothingHappened
	// notAllowed: no correct cluster says this to what a crowd asks for.
	notAllowed
)

func (r refusal) meaning() meaning {
	switch r.reason {
	case "DISK_FULL", "SHARD_OVERLOADED", "GATEWAY_OVERLOADED":
		return nothingHappened
	case "SHARD_UNAVAILABLE", "NODE_STOPPING", "CANCELED", "DEADLINE_EXCEEDED":
		return nobodyKnows
	case "":
		switch r.code {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal:
			return nobodyKnows // the transport says this, also in the middle of an answer
		}
	}
	return notAllowed
}
