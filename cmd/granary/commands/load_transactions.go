package commands

import (
	"context"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/loadtest/driver"
	"github.com/granary-dev/granary/loadtest/ledger"
	"github.com/granary-dev/granary/loadtest/transactions"
)

// load holds the flags of `granary load run transactions`.
type load struct {
	loadShape
	labels     bool
	access     accessMode
	asks       float64
	parameters transactions.Parameters
}

func (a *app) loadTransactionsCommand() *cobra.Command {
	t, l := &target{}, load{access: accessMode{text: "handbook"}}
	cmd := &cobra.Command{
		Use:   "transactions",
		Short: "card transactions, and a ledger of what became of each",
		Long: `Streams card transactions to accounts, which pass them on to merchants: those of the Fraud Detection Handbook's file
(--from), or look-alikes generated with its published parameters. Whether one was fraud never rides on it; with
--labels that is told by later events.

Then the ledger: it reads the history of every account and merchant that was touched, and compares it with what was
sent and what was acknowledged. Nothing may be missing, nothing folded twice, out of order or altered, and counts
and sums must equal a recount. If not, the exit code is 1.

SIGINT ends the load early, and the ledger is still drawn up; a second one ends at once.

With -o json: an object with load (source, sent, acknowledged, refused, unknown, duplicates, reconnects, seconds,
events_per_second, latency, late_ms, refusals) and ledger (sent, acknowledged, refused, unknown, checked, folded,
missing, twice, out_of_order, altered, uninvited, passed, passed_missing, passed_twice, accounts, merchants,
wrong_states, broken_histories, foreign, seconds, findings); ledger is null with --ledger off. With --asks also asks
(asked, answered, failed, latency).`,
		Example: `  granary load run transactions --for 10s
  granary load run transactions --from transactions.csv.gz --rate max --streams 8
  granary load run transactions --rate 20000 --for 5m --ledger sample
  granary load run transactions --customers 10000000 --access uniform --ledger off`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l.unary > 0 {
				if l.rate != 0 || cmd.Flags().Changed("streams") || cmd.Flags().Changed("batch") {
					return usageFailure(cmd, "--unary goes with no --rate, --streams or --batch")
				}
				l.ledger = ledgerOff
			}
			if l.from != "" && l.access.own() {
				return usageFailure(cmd, "--access and --fill go with no --from: a file says who pays")
			}
			if l.parameters.Customers < 1 || l.parameters.Terminals < 1 {
				return usageFailure(cmd, "--customers and --terminals must be at least 1")
			}
			if l.asks < 0 || l.asks > 0 && l.unary > 0 || math.IsNaN(l.asks) || math.IsInf(l.asks, 0) {
				return usageFailure(cmd, "--asks wants a number of at least 0, and goes with no --unary")
			}
			if (l.from != "" || l.access.Fill) && !cmd.Flags().Changed("for") {
				l.driver.For = 0
			}
			return a.loadTransactions(cmd.Context(), t, l)
		},
	}
	t.addTo(cmd)
	l.addTo(cmd)
	f := cmd.Flags()
	f.StringVar(&l.from, "from", "", "`FILE.csv.gz` or .csv with the transactions; without it they are generated")
	f.DurationVar(&l.driver.For, "for", time.Minute, "how long; a file is read to its end unless this is given")
	f.IntVar(&l.unary, "unary", 0, "`number` of callers that publish one event a call, instead of streams; without a ledger")
	f.BoolVar(&l.labels, "labels", false, "also tell, days later in event time, which were fraud")
	f.IntVar(&l.parameters.Customers, "customers", 5000, "`number` of generated customers")
	f.IntVar(&l.parameters.Terminals, "terminals", 10000, "`number` of generated terminals")
	f.Var(&l.access, "access", "who of the generated customers pays: handbook, where each pays now and then; uniform, where any may be next; or zipf:1.1, where a few pay most")
	f.Float64Var(&l.asks, "asks", 0, "`asks` a second beside the load: 10,000 other accounts ask whether they may pay, and merchants decide")
	f.BoolVar(&l.access.Fill, "fill", false, "let each generated customer pay once, and end")
	f.Uint64Var(&l.parameters.Seed, "seed", 0, "the same `number` generates the same transactions")
	return cmd
}

func (a *app) loadTransactions(ctx context.Context, t *target, l load) error {
	feed, closeFeed, err := l.feed()
	if err != nil {
		return failed("granary load run transactions --help", "load run transactions: %w", err)
	}
	defer closeFeed()
	return prove(ctx, a, t, l.loadShape, proof[transactions.Happening]{
		what: "load run transactions", kinds: "account and merchant", workload: driver.Transactions(feed), check: ledger.Check,
		asks: driver.AskOptions{Rate: l.asks, First: max(l.parameters.Customers, 100_000), Accounts: 10_000, Terminals: l.parameters.Terminals},
	})
}

// ahead is how many transactions are generated before a load at full speed begins: some seconds' worth.
const ahead = 1 << 20

// feed opens or generates what is sent.
func (l *load) feed() (feed transactions.Feed, done func(), err error) {
	var source transactions.Source
	done = func() {}
	switch {
	case l.from != "":
		file, err := transactions.Open(l.from)
		if err != nil {
			return nil, nil, err
		}
		source, done = file, func() { _ = file.Close() } // it was only read
	case l.access.own():
		source = transactions.Spread(l.parameters, l.access.Access)
	default:
		source = transactions.Generate(l.parameters)
		if l.rate == 0 {
			source = transactions.Ahead(source, ahead)
		}
	}
	if l.labels {
		return transactions.Labelled(source, transactions.Labels{}), done, nil
	}
	return transactions.Plain(source), done, nil
}
