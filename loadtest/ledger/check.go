package ledger

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// pageSize of histories: the most that a page may have.
const pageSize = 1_000

// toTheEnd is the number of no record.
const toTheEnd = math.MaxUint64

// check is one run of [Check].
type check struct {
	o      Options
	sent   *Sent
	grains granaryv1.GrainServiceClient

	w      workload
	owners map[uint32][]Note // what was sent to each owner looked at

	mu       sync.Mutex
	partners map[string]*passed // by key: what owners passed on to them
	report   Report
	done     int
	total    int
}

// find counts a difference and describes it, if there is room for another description.
func (c *check) find(counter *uint64, n uint64, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*counter += n
	if len(c.report.Findings) < c.o.MaxFindings {
		c.report.Findings = append(c.report.Findings, fmt.Sprintf(format, args...))
	}
}

// advance tells that so many grains more were read.
func (c *check) advance() {
	c.mu.Lock()
	c.done++
	done, total := c.done, c.total
	c.mu.Unlock()
	if c.o.Progress != nil && (done%100 == 0 || done == total) {
		c.o.Progress(done, total)
	}
}

// checkOwners reads all owners, a few at a time.
func (c *check) checkOwners(ctx context.Context) error {
	c.total = len(c.owners)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.o.Parallel)
	for _, number := range slices.Sorted(maps.Keys(c.owners)) {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			o := newOwner(c, number, c.owners[number])
			if err := o.check(ctx); err != nil {
				return fmt.Errorf("%s: %w", o.name, err)
			}
			c.advance()
			return nil
		})
	}
	return group.Wait()
}

// history is the reading of a grain's records, oldest first.
type history struct {
	c     *check
	grain string
	// do takes each record.
	do func(*granaryv1.HistoryRecord) error
	// seq is the number of the last record read, and broken says where they are not numbered without a gap.
	seq    uint64
	broken string
}

// read goes on until the record of that number, or to the end.
func (h *history) read(ctx context.Context, last uint64) error {
	request := &granaryv1.HistoryRequest{Grain: h.grain, PageSize: pageSize, FromSeq: h.seq + 1, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF}
	for {
		page, err := h.c.grains.History(ctx, request)
		if err != nil {
			return err
		}
		for _, r := range page.GetRecords() {
			if h.seq == last {
				return nil
			}
			if h.seq++; r.GetSeq() != h.seq && h.broken == "" {
				h.broken = fmt.Sprintf("record %d of %s has the number %d", h.seq, h.grain, r.GetSeq())
			}
			if err := h.do(r); err != nil {
				return fmt.Errorf("record %d: %w", r.GetSeq(), err)
			}
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return nil
		}
	}
}

// state reads the current state of the grain into a message and checks that it includes every record read, and no other.
// What grains send each other may have arrived since the records were read: then those up to the state are read as well.
func (h *history) state(ctx context.Context, into unmarshaler) error {
	answer, err := h.c.grains.Get(ctx, &granaryv1.GetRequest{Grain: h.grain, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF})
	if err != nil {
		return err
	}
	if answer.GetSeq() > h.seq {
		if err := h.read(ctx, answer.GetSeq()); err != nil {
			return err
		}
	}
	if answer.GetSeq() != h.seq && h.broken == "" {
		h.broken = fmt.Sprintf("%s has the state of record %d, but its history ends with %d", h.grain, answer.GetSeq(), h.seq)
	}
	if h.broken != "" {
		h.c.find(&h.c.report.BrokenHistories, 1, "%s", h.broken)
	}
	if err := into.UnmarshalVT(answer.GetState().GetValue()); err != nil {
		return fmt.Errorf("the state: %w", err)
	}
	return nil
}
