package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/loadtest/transactions"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Where no sample was asked for, the records of a kind are read by one subscription instead of grain by grain: records that
// stand side by side in the journal are then read together, which takes seconds where histories take minutes.

// follow passes the records of a kind behind a position to do, up to what is committed now, and returns the position
// behind them.
func (c *check) follow(ctx context.Context, kind, position string, do func(grain string, r *granaryv1.HistoryRecord) error) (string, error) {
	request := &granaryv1.SubscribeRequest{Source: &granaryv1.SubscribeRequest_Kind{Kind: kind}, UntilLive: true,
		Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF, From: &granaryv1.SubscribeRequest_Start{Start: granaryv1.SubscribeStart_SUBSCRIBE_START_BEGINNING}}
	if position != "" {
		request.From = &granaryv1.SubscribeRequest_Position{Position: position}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := client.Subscribe(ctx, c.conn, request)
	defer s.Close()
	heard := time.Now()
	s.Retrying = func(err error, _ time.Duration) {
		if time.Since(heard) > c.o.Settle {
			cancel(fmt.Errorf("nothing came for %v: %w", c.o.Settle, err))
		}
	}
	for {
		response, err := s.Next()
		heard = time.Now()
		if errors.Is(err, io.EOF) {
			return s.Position(), nil
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return "", fmt.Errorf("the records of kind %s: %w", kind, err)
		}
		for _, item := range response.GetItems() {
			if err := do(item.GetGrain(), item.GetRecord()); err != nil {
				return "", fmt.Errorf("%s: record %d: %w", item.GetGrain(), item.GetRecord().GetSeq(), err)
			}
		}
	}
}

// numbered checks that the records of a grain have the numbers 1, 2, 3 …
type numbered struct {
	seq    uint64
	broken string
}

func (n *numbered) take(grain string, r *granaryv1.HistoryRecord) {
	if n.seq++; r.GetSeq() != n.seq && n.broken == "" {
		n.broken = fmt.Sprintf("record %d of %s has the number %d", n.seq, grain, r.GetSeq())
	}
}

// wholeAccounts is checkAccounts by one subscription.
func (c *check) wholeAccounts(ctx context.Context) error {
	type read struct {
		*account
		numbered
	}
	accounts := make(map[string]*read, len(c.accounts))
	for customer, sent := range c.accounts {
		a := newAccount(c, customer, sent)
		accounts[a.name] = &read{account: a}
	}
	_, err := c.follow(ctx, transactions.AccountKind, "", func(grain string, r *granaryv1.HistoryRecord) error {
		a := accounts[grain]
		if a == nil {
			return nil // another run's
		}
		a.take(grain, r)
		return a.record(r)
	})
	if err != nil {
		return err
	}
	return each(ctx, c, accounts, func(ctx context.Context, _ string, a *read) error {
		return a.judge(ctx, a.seq, a.broken)
	})
}

// wholeMerchants is checkMerchants by one subscription, which goes on until everything has arrived or the time is over.
func (c *check) wholeMerchants(ctx context.Context) error {
	merchants := make(map[string]*merchant, len(c.merchants))
	for key := range c.merchants {
		m := newMerchant(transactions.MerchantKind + "/" + key)
		merchants[m.name] = m
	}
	position, deadline := "", time.Now().Add(c.o.Settle)
	for {
		var err error
		position, err = c.follow(ctx, transactions.MerchantKind, position, func(grain string, r *granaryv1.HistoryRecord) error {
			m := merchants[grain]
			if m == nil {
				return nil
			}
			m.take(grain, r)
			return m.record(c, r)
		})
		if err != nil {
			return err
		}
		if c.settled(merchants) || time.Now().After(deadline) {
			break
		}
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.report.Merchants = len(merchants)
	c.total += len(merchants)
	return each(ctx, c, merchants, func(ctx context.Context, name string, m *merchant) error {
		return c.judgeMerchant(ctx, m, c.merchants[strings.TrimPrefix(name, transactions.MerchantKind+"/")])
	})
}

// settled tells whether all merchants have got as much as was passed on to them.
func (c *check) settled(merchants map[string]*merchant) bool {
	for key, want := range c.merchants {
		if merchants[transactions.MerchantKind+"/"+key].seen.count < want.count {
			return false
		}
	}
	return true
}

// each does something with all grains, a few at a time.
func each[G any](ctx context.Context, c *check, grains map[string]G, do func(ctx context.Context, name string, g G) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.o.Parallel)
	for _, name := range slices.Sorted(maps.Keys(grains)) {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := do(ctx, name, grains[name]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			c.advance()
			return nil
		})
	}
	return group.Wait()
}

func accountName(customer uint32) string {
	return transactions.AccountKind + "/" + strconv.FormatUint(uint64(customer), 10)
}
