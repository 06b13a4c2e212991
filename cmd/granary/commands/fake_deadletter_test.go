package commands

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// fakeLetters is the DeadLetterService of a fake node. Which events die there, and what becomes of them when they are run
// again, is in their ids: "die-ok", "die-again", "die-reject", "die-gone".
type fakeLetters struct {
	granaryv1.UnimplementedDeadLetterServiceServer
	node    *fakeNode
	settled map[string]*granaryv1.DeadLetterServiceGetResponse
}

const deadOutcome = granaryv1.RecordOutcome_RECORD_OUTCOME_DEAD_LETTERED

func (l *fakeLetters) List(_ context.Context, req *granaryv1.DeadLetterServiceListRequest) (*granaryv1.DeadLetterServiceListResponse, error) {
	l.node.mu.Lock()
	defer l.node.mu.Unlock()
	if k := req.GetKind(); k != "" && k != "account" && k != "ghost" {
		return nil, refusal(codes.NotFound, "UNKNOWN_KIND", fmt.Sprintf("there is no kind %q", k), map[string]string{"kind": k})
	}
	var all []*granaryv1.DeadLetter
	for name, records := range l.node.grains {
		for _, r := range records {
			kind, key, _ := cutGrain(name)
			if r.GetOutcome() == deadOutcome && l.settled[letterName{name, r.GetSeq()}.String()] == nil && (req.GetKind() == "" || kind == req.GetKind()) && strings.HasPrefix(key, req.GetPrefix()) {
				all = append(all, &granaryv1.DeadLetter{Grain: name, Seq: r.GetSeq(), Position: r.GetPosition(), Time: r.GetTime(), Type: r.GetType(), Reason: r.GetReason(), Sender: r.GetSender()})
			}
		}
	}
	sort.Slice(all, func(i, j int) bool {
		return all[i].GetGrain() < all[j].GetGrain() || all[i].GetGrain() == all[j].GetGrain() && all[i].GetSeq() < all[j].GetSeq()
	})
	// a token is the last one of the page before
	from := sort.Search(len(all), func(i int) bool { return placeOf(all[i]) > req.GetPageToken() })
	to := min(len(all), from+int(min(req.GetPageSize(), 2)))
	out := &granaryv1.DeadLetterServiceListResponse{DeadLetters: all[from:to]}
	if to < len(all) {
		out.NextPageToken = placeOf(all[to-1])
	}
	return out, nil
}

func placeOf(d *granaryv1.DeadLetter) string { return fmt.Sprintf("%s %08d", d.GetGrain(), d.GetSeq()) }

// find returns a dead letter and the id of its event.
func (l *fakeLetters) find(grain string, seq uint64) (*granaryv1.HistoryRecord, error) {
	records := l.node.grains[grain]
	if seq > uint64(len(records)) || records[seq-1].GetOutcome() != deadOutcome {
		return nil, refusal(codes.NotFound, "NO_DEAD_LETTER", fmt.Sprintf("%s #%d is no dead letter", grain, seq), nil)
	}
	return records[seq-1], nil
}

func (l *fakeLetters) Get(_ context.Context, req *granaryv1.DeadLetterServiceGetRequest) (*granaryv1.DeadLetterServiceGetResponse, error) {
	l.node.mu.Lock()
	defer l.node.mu.Unlock()
	r, err := l.find(req.GetGrain(), req.GetSeq())
	if err != nil {
		return nil, err
	}
	out := &granaryv1.DeadLetterServiceGetResponse{Open: true}
	if s := l.settled[letterName{req.GetGrain(), req.GetSeq()}.String()]; s != nil {
		out = proto.CloneOf(s)
	}
	out.Grain, out.Record = req.GetGrain(), r
	if r.GetPayload() == nil {
		r.PayloadProtobuf = []byte{1, 2, 3}
	}
	return out, nil
}

func (l *fakeLetters) settle(grain string, seq uint64, s *granaryv1.DeadLetterServiceGetResponse) (*granaryv1.HistoryRecord, error) {
	r, err := l.find(grain, seq)
	if err != nil {
		return nil, err
	}
	name := letterName{grain, seq}.String()
	if s := l.settled[name]; s != nil {
		return nil, refusal(codes.FailedPrecondition, "NOT_OPEN", name+" is settled: it was "+letterStatus(s), map[string]string{"settled": s.GetSettled()})
	}
	if s.GetSettled() == "retried" && strings.HasPrefix(r.GetId(), "die-gone") {
		return nil, refusal(codes.FailedPrecondition, "NOT_RUNNABLE", "this binary has no kind \"ghost\"; the dead letter stays open", nil)
	}
	l.settled[name] = s
	return r, nil
}

func (l *fakeLetters) Retry(_ context.Context, req *granaryv1.RetryRequest) (*granaryv1.RetryResponse, error) {
	l.node.mu.Lock()
	defer l.node.mu.Unlock()
	s := &granaryv1.DeadLetterServiceGetResponse{Settled: "retried"}
	r, err := l.settle(req.GetGrain(), req.GetSeq(), s)
	if err != nil {
		return nil, err
	}
	e := &granaryv1.Event{Grain: req.GetGrain(), Type: r.GetType(), Id: r.GetId(), Payload: &granaryv1.Event_Json{Json: r.GetPayload()}}
	out := &granaryv1.Result{}
	switch {
	case strings.HasPrefix(r.GetId(), "die-again"):
		s.RetriedAs = l.node.record(e, deadOutcome, "the handler panicked: again")
		out.Status = status.Convert(refusal(codes.Internal, "DEAD_LETTERED", "the event was dead-lettered, its turn failed: again", nil)).Proto()
	case strings.HasPrefix(r.GetId(), "die-reject"):
		s.RetriedAs = l.node.record(e, granaryv1.RecordOutcome_RECORD_OUTCOME_REJECTED, "too late")
		out.Status = status.Convert(refusal(codes.FailedPrecondition, "REJECTED", "the grain rejected the event: too late", nil)).Proto()
	default:
		s.RetriedAs = l.node.record(e, granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED, "")
	}
	out.Seq = s.RetriedAs
	return &granaryv1.RetryResponse{Result: out}, nil
}

func (l *fakeLetters) Drop(_ context.Context, req *granaryv1.DropRequest) (*granaryv1.DropResponse, error) {
	l.node.mu.Lock()
	defer l.node.mu.Unlock()
	if _, err := l.settle(req.GetGrain(), req.GetSeq(), &granaryv1.DeadLetterServiceGetResponse{Settled: "dropped"}); err != nil {
		return nil, err
	}
	return &granaryv1.DropResponse{}, nil
}
