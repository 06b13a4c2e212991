package crowd

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/granary-dev/granary/loadtest/judge"
	"github.com/granary-dev/granary/loadtest/workload"
	probev1 "github.com/granary-dev/granary/proto/granary/probe/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// audit holds the history of each grain to its state: the states must be the fold of what is in the journal, under the
// numbers that publishers were told.
func (c *Crowd) audit(ctx context.Context, final judge.Final) error {
	return c.each(ctx, c.keys(), time.Now().Add(c.o.Settle), func(ctx context.Context, i int, key string) error {
		records, err := c.records(ctx, i, workload.Kind+"/"+key)
		if err != nil {
			return err
		}
		if problem := c.compare(records, final[key]); problem != "" {
			c.accuse(key, "history of %s/%s: %s", workload.Kind, key, problem)
		}
		return nil
	})
}

// records reads the whole history of a grain.
func (c *Crowd) records(ctx context.Context, i int, grain string) ([]*granaryv1.HistoryRecord, error) {
	var all []*granaryv1.HistoryRecord
	for token := ""; ; {
		page, err := granaryv1.NewGrainServiceClient(c.conn(i)).History(ctx, &granaryv1.HistoryRequest{
			Grain: grain, PageSize: 1000, PageToken: token, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF,
		})
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetRecords()...)
		if token = page.GetNextPageToken(); token == "" {
			return all, nil
		}
	}
}

// compare folds a history and says in what it differs from the state, or from what was told; nothing if it does not.
func (c *Crowd) compare(records []*granaryv1.HistoryRecord, state judge.Grain) string {
	var values, received []uint64
	for i, r := range records {
		if r.GetSeq() != uint64(i+1) {
			return fmt.Sprintf("record %d has seq %d", i+1, r.GetSeq())
		}
		if r.GetOutcome() != granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED {
			return fmt.Sprintf("seq %d is %v: %s", r.GetSeq(), r.GetOutcome(), r.GetReason())
		}
		if r.GetSender() != "" {
			var e probev1.Received
			if err := e.UnmarshalVT(r.GetPayloadProtobuf()); err != nil {
				return fmt.Sprintf("seq %d is no send: %v", r.GetSeq(), err)
			}
			received = append(received, e.GetValue())
			continue
		}
		var e probev1.Append
		if err := e.UnmarshalVT(r.GetPayloadProtobuf()); err != nil {
			return fmt.Sprintf("seq %d is no append: %v", r.GetSeq(), err)
		}
		values = append(values, e.GetValue())
		if told, ok := c.told[e.GetValue()]; ok && (told.seq != r.GetSeq() || told.position != r.GetPosition()) {
			return fmt.Sprintf("%s has seq %d (%s), its publisher was told %d (%s)", workload.FormatValue(e.GetValue()),
				r.GetSeq(), r.GetPosition(), told.seq, told.position)
		}
	}
	switch {
	case !slices.Equal(values, state.Values):
		return fmt.Sprintf("the state has %s, the fold of the history has %s", workload.FormatList(state.Values), workload.FormatList(values))
	case state.Uncounted == 0 && !slices.Equal(received, state.Received):
		return fmt.Sprintf("the state has received %s, by the history it is %s", workload.FormatList(state.Received), workload.FormatList(received))
	}
	return ""
}
