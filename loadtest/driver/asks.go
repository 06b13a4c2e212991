package driver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/granary-dev/granary/client"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	"google.golang.org/grpc"
)

// AskOptions say how decisions are asked for beside a load.
type AskOptions struct {
	// Conns to the cluster, at least one.
	Conns []grpc.ClientConnInterface
	// Rate of asks a second.
	Rate float64
	// First is the number of the first account that asks, and Accounts how many do. They should not be those of the load, so
	// that its ledger finds nothing that it does not know.
	First, Accounts int
	// Terminals whose merchants decide.
	Terminals int
}

// AskReport is what came of asking.
type AskReport struct {
	// Asked and Answered count asks; Failed counts others by what they were told.
	Asked    uint64            `json:"asked"`
	Answered uint64            `json:"answered"`
	Failed   map[string]uint64 `json:"failed,omitempty"`
	// Latency from the time at which an ask should have been sent to its answer.
	Latency Latency `json:"latency"`
}

// Ask asks accounts to authorize payments, which their merchants decide: an answer takes a turn of each, and both commits.
// It is an open loop: an ask is due whether those before it are answered or not. It ends with ctx, and waits for the
// answers that are due by then.
func Ask(ctx context.Context, o AskOptions) (*AskReport, error) {
	if len(o.Conns) == 0 || o.Rate <= 0 || o.Accounts < 1 || o.Terminals < 1 {
		return nil, errors.New("driver: asks want connections, a rate, accounts and terminals")
	}
	r := &AskReport{Failed: map[string]uint64{}}
	latency := newTally().all
	var mu sync.Mutex
	var asking sync.WaitGroup
	start := time.Now()
	for i := 0; ; i++ {
		due := start.Add(time.Duration(float64(i) / o.Rate * float64(time.Second)))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			asking.Wait()
			r.Latency = latencyOf(latency)
			return r, nil
		}
		r.Asked++
		asking.Go(func() {
			var d accountv1.Decision
			_, err := client.Ask(context.WithoutCancel(ctx), o.Conns[i%len(o.Conns)], "account/"+strconv.Itoa(o.First+i%o.Accounts),
				&accountv1.Authorize{TransactionId: fmt.Sprintf("ask-%d", i), Merchant: strconv.Itoa(i % o.Terminals), AmountCents: 1 + int64(i%20_000)}, &d)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.Failed[err.Error()]++
				return
			}
			r.Answered++
			_ = latency.RecordValue(min(time.Since(due), longest).Microseconds())
		})
	}
}
