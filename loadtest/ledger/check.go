package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// pageSize of histories: the most that a page may have.
const pageSize = 1_000

// check is one run of [Check].
type check struct {
	o      Options
	sent   *Sent
	conn   grpc.ClientConnInterface
	grains granaryv1.GrainServiceClient

	accounts map[uint32][]row // what was sent to each account looked at

	mu        sync.Mutex
	merchants map[string]*passed // by key: what accounts passed on to them
	report    Report
	done      int
	total     int
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

// checkAccounts reads all accounts, a few at a time.
func (c *check) checkAccounts(ctx context.Context) error {
	c.total = len(c.accounts)
	c.report.Accounts = len(c.accounts)
	if c.o.Sample >= 1 {
		if err := c.wholeAccounts(ctx); status.Code(err) != codes.Unimplemented {
			return err
		} // a node that knows no subscriptions yet
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.o.Parallel)
	for _, customer := range slices.Sorted(maps.Keys(c.accounts)) {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			a := newAccount(c, customer, c.accounts[customer])
			if err := a.check(ctx); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			c.advance()
			return nil
		})
	}
	return group.Wait()
}

// read passes the records of a grain to do, oldest first, and checks that they are numbered without a gap. It returns
// the number of the last.
func (c *check) read(ctx context.Context, grain string, do func(*granaryv1.HistoryRecord) error) (seq uint64, broken string, err error) {
	request := &granaryv1.HistoryRequest{Grain: grain, PageSize: pageSize, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF}
	var n numbered
	for {
		page, err := c.grains.History(ctx, request)
		if err != nil {
			return 0, "", err
		}
		for _, r := range page.GetRecords() {
			n.take(grain, r)
			if err := do(r); err != nil {
				return 0, "", fmt.Errorf("record %d: %w", r.GetSeq(), err)
			}
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return n.seq, n.broken, nil
		}
	}
}

// state reads the current state of a grain into a message and checks that it includes every record read.
func (c *check) state(ctx context.Context, grain string, seq uint64, broken string, into interface{ UnmarshalVT([]byte) error }) error {
	answer, err := c.grains.Get(ctx, &granaryv1.GetRequest{Grain: grain, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF})
	if err != nil {
		return err
	}
	if answer.GetSeq() != seq && broken == "" {
		broken = fmt.Sprintf("%s has the state of record %d, but its history ends with %d", grain, answer.GetSeq(), seq)
	}
	if broken != "" {
		c.find(&c.report.BrokenHistories, 1, "%s", broken)
	}
	if err := into.UnmarshalVT(answer.GetState().GetValue()); err != nil {
		return fmt.Errorf("the state: %w", err)
	}
	return nil
}
