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

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Between two looks at a partner that has not got everything yet.
const settlePause = 200 * time.Millisecond

// checkPartners reads the grains that owners passed something on to, a few at a time.
func (c *check) checkPartners(ctx context.Context) error {
	keys := slices.DeleteFunc(slices.Sorted(maps.Keys(c.partners)), func(key string) bool {
		return !sampled(xxhash.Sum64String(key), c.o.Sample)
	})
	c.w.numbers(&c.report, len(c.owners), len(keys))
	c.total += len(keys)
	deadline := time.Now().Add(c.o.Settle)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.o.Parallel)
	for _, key := range keys {
		group.Go(func() error {
			if err := c.checkPartner(ctx, key, deadline); err != nil {
				return fmt.Errorf("%s/%s: %w", c.w.words().partner, key, err)
			}
			c.advance()
			return nil
		})
	}
	return group.Wait()
}

// partner is what the history of a partner says.
type partner struct {
	name    string
	history *history
	recount partnerRecount
	// got is what came from the owners looked at, each cause once; again is how many came more than once.
	got   passed
	again uint64
}

func (c *check) checkPartner(ctx context.Context, key string, deadline time.Time) error {
	words := c.w.words()
	want := c.partners[key]
	var p *partner
	for {
		var err error
		if p, err = c.readPartner(ctx, key); err != nil {
			return err
		}
		if p.got.count >= want.count || time.Now().After(deadline) {
			break
		}
		// What owners send arrives a little later.
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := p.history.state(ctx, p.recount.state()); err != nil {
		return err
	}
	if what := p.recount.wrong(); what != "" {
		c.find(&c.report.WrongStates, 1, "%s holds %s", p.name, what)
	}
	if p.again > 0 {
		c.find(&c.report.PassedTwice, p.again, "%s got %d %s again", p.name, p.again, words.things)
	}
	got := p.got
	switch {
	case got.count < want.count:
		c.find(&c.report.PassedMissing, want.count-got.count, "%s got %d of the %d %s that %ss passed on to it",
			p.name, got.count, want.count, words.things, words.owner)
	case got.count > want.count:
		c.find(&c.report.PassedTwice, got.count-want.count, "%s got %d %s, and %ss passed on %d",
			p.name, got.count, words.things, words.owner, want.count)
	case got != *want:
		c.find(&c.report.Altered, 1, "%s got %d %s as passed on, but others: of %d %s instead of %d, or with other causes",
			p.name, got.count, words.things, got.value, words.unit, want.value)
	}
	c.mu.Lock()
	c.report.Passed += got.count
	c.mu.Unlock()
	return nil
}

func (c *check) readPartner(ctx context.Context, key string) (*partner, error) {
	words := c.w.words()
	p := &partner{name: words.partner + "/" + key, recount: c.w.newPartner(key)}
	causes := map[uint64]struct{}{}
	p.history = &history{c: c, grain: p.name, do: func(r *granaryv1.HistoryRecord) error {
		if r.GetType() != words.passedType || r.GetOutcome() != granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED {
			return nil
		}
		if err := p.recount.read(r); err != nil {
			return err
		}
		looked := c.looksAt(r.GetSender())
		value := p.recount.fold(looked)
		if !looked {
			return nil
		}
		cause := xxhash.Sum64String(r.GetCause())
		if _, again := causes[cause]; again {
			p.again++
			return nil
		}
		causes[cause] = struct{}{}
		p.got.add(r.GetCause(), value)
		return nil
	}}
	return p, p.history.read(ctx, toTheEnd)
}

// looksAt says whether a grain is one of the owners looked at.
func (c *check) looksAt(grain string) bool {
	key, ok := strings.CutPrefix(grain, c.w.words().owner+"/")
	if !ok {
		return false
	}
	number, err := strconv.ParseUint(key, 10, 32)
	if err != nil || strconv.FormatUint(number, 10) != key {
		return false
	}
	_, ok = c.owners[uint32(number)]
	return ok
}
