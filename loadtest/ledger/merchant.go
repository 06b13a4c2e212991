package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/granary-dev/granary/loadtest/transactions"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// seenType is the type of the event by which an account passes a transaction on.
const seenType = "granary.merchant.v1.Seen"

// Between two looks at a merchant that has not got everything yet.
const settlePause = 200 * time.Millisecond

// checkMerchants reads the merchants that accounts passed something on to, a few at a time.
func (c *check) checkMerchants(ctx context.Context) error {
	if c.o.Sample >= 1 {
		if err := c.wholeMerchants(ctx); status.Code(err) != codes.Unimplemented {
			return err
		}
	}
	keys := slices.DeleteFunc(slices.Sorted(maps.Keys(c.merchants)), func(key string) bool {
		return !sampled(xxhash.Sum64String(key), c.o.Sample)
	})
	c.report.Merchants = len(keys)
	c.total += len(keys)
	deadline := time.Now().Add(c.o.Settle)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.o.Parallel)
	for _, key := range keys {
		group.Go(func() error {
			if err := c.checkMerchant(ctx, key, deadline); err != nil {
				return fmt.Errorf("%s/%s: %w", transactions.MerchantKind, key, err)
			}
			c.advance()
			return nil
		})
	}
	return group.Wait()
}

// merchant is what the history of a merchant says.
type merchant struct {
	name string
	numbered
	// seen is what came from the accounts looked at, each cause once; again is how many came more than once.
	seen  passed
	again uint64
	// count and cents recount everything, whoever it came from.
	count uint64
	cents int64

	causes map[uint64]struct{}
	event  merchantv1.Seen
}

func newMerchant(name string) *merchant {
	return &merchant{name: name, causes: map[uint64]struct{}{}}
}

func (c *check) checkMerchant(ctx context.Context, key string, deadline time.Time) error {
	want := c.merchants[key]
	var m *merchant
	for {
		var err error
		if m, err = c.readMerchant(ctx, transactions.MerchantKind+"/"+key); err != nil {
			return err
		}
		if m.seen.count >= want.count || time.Now().After(deadline) {
			break
		}
		// What accounts send arrives a little later.
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return c.judgeMerchant(ctx, m, want)
}

// judgeMerchant holds the state, and what was passed on, against the records that were read.
func (c *check) judgeMerchant(ctx context.Context, m *merchant, want *passed) error {
	var state merchantv1.Merchant
	if err := c.state(ctx, m.name, m.seq, m.broken, &state); err != nil {
		return err
	}
	if state.GetCount() != m.count || state.GetCents() != m.cents {
		c.find(&c.report.WrongStates, 1, "%s holds %d transactions of %d cents; recounted: %d of %d",
			m.name, state.GetCount(), state.GetCents(), m.count, m.cents)
	}
	if m.again > 0 {
		c.find(&c.report.PassedTwice, m.again, "%s got %d transactions again", m.name, m.again)
	}
	got := m.seen
	switch {
	case got.count < want.count:
		c.find(&c.report.PassedMissing, want.count-got.count, "%s got %d of the %d transactions that accounts passed on to it",
			m.name, got.count, want.count)
	case got.count > want.count:
		c.find(&c.report.PassedTwice, got.count-want.count, "%s got %d transactions, and accounts passed on %d",
			m.name, got.count, want.count)
	case got != *want:
		c.find(&c.report.Altered, 1, "%s got %d transactions as passed on, but others: of %d cents instead of %d, or with other causes",
			m.name, got.count, got.cents, want.cents)
	}
	c.mu.Lock()
	c.report.Passed += got.count
	c.mu.Unlock()
	return nil
}

func (c *check) readMerchant(ctx context.Context, name string) (*merchant, error) {
	m := newMerchant(name)
	var err error
	m.seq, m.broken, err = c.read(ctx, name, func(r *granaryv1.HistoryRecord) error { return m.record(c, r) })
	return m, err
}

// record takes one record of the merchant.
func (m *merchant) record(c *check, r *granaryv1.HistoryRecord) error {
	if r.GetType() != seenType || r.GetOutcome() != granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED {
		return nil
	}
	m.event.Reset()
	if err := m.event.UnmarshalVT(r.GetPayloadProtobuf()); err != nil {
		return err
	}
	m.count++
	m.cents += m.event.GetAmountCents()
	if !c.looksAt(r.GetSender()) {
		return nil
	}
	cause := xxhash.Sum64String(r.GetCause())
	if _, again := m.causes[cause]; again {
		m.again++
		return nil
	}
	m.causes[cause] = struct{}{}
	m.seen.add(r.GetCause(), m.event.GetAmountCents())
	return nil
}

// looksAt says whether a grain is one of the accounts looked at.
func (c *check) looksAt(grain string) bool {
	key, ok := strings.CutPrefix(grain, transactions.AccountKind+"/")
	if !ok {
		return false
	}
	customer, err := strconv.ParseUint(key, 10, 32)
	if err != nil || strconv.FormatUint(customer, 10) != key {
		return false
	}
	_, ok = c.accounts[uint32(customer)]
	return ok
}
