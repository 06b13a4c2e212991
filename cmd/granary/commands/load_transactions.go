package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/granary-dev/granary/loadtest/driver"
	"github.com/granary-dev/granary/loadtest/ledger"
	"github.com/granary-dev/granary/loadtest/transactions"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// load holds the flags of `granary load run transactions`.
type load struct {
	from       string
	rate       eventRate
	labels     bool
	ledger     ledgerMode
	parameters transactions.Parameters
	driver     driver.Options
	unary      int
}

func (a *app) loadTransactionsCommand() *cobra.Command {
	t, l := &target{}, load{ledger: ledgerFull}
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
wrong_states, broken_histories, foreign, seconds, findings); ledger is null with --ledger off.`,
		Example: `  granary load run transactions --for 10s
  granary load run transactions --from transactions.csv.gz --rate max --streams 8
  granary load run transactions --rate 20000 --for 5m --ledger sample`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l.unary > 0 {
				if l.rate != 0 || cmd.Flags().Changed("streams") || cmd.Flags().Changed("batch") {
					return usageFailure(cmd, "--unary goes with no --rate, --streams or --batch")
				}
				l.ledger = ledgerOff
			}
			if l.from != "" && !cmd.Flags().Changed("for") {
				l.driver.For = 0
			}
			return a.loadTransactions(cmd.Context(), t, l)
		},
	}
	t.addTo(cmd)
	f := cmd.Flags()
	f.StringVar(&l.from, "from", "", "`FILE.csv.gz` or .csv with the transactions; without it they are generated")
	f.Var(&l.rate, "rate", "`events` a second, or max")
	f.DurationVar(&l.driver.For, "for", time.Minute, "how long; a file is read to its end unless this is given")
	f.IntVar(&l.driver.Streams, "streams", 4, "`number` of producers, each with a stream of its own")
	f.IntVar(&l.driver.Batch, "batch", 100, "`number` of events in a batch, 1 to 1000")
	f.IntVar(&l.unary, "unary", 0, "`number` of callers that publish one event a call, instead of streams; without a ledger")
	f.Var(&l.ledger, "ledger", "`full`, sample (a tenth of the grains), or off")
	f.BoolVar(&l.labels, "labels", false, "also tell, days later in event time, which were fraud")
	f.IntVar(&l.parameters.Customers, "customers", 5000, "`number` of generated customers")
	f.IntVar(&l.parameters.Terminals, "terminals", 10000, "`number` of generated terminals")
	f.Uint64Var(&l.parameters.Seed, "seed", 0, "the same `number` generates the same transactions")
	_ = cmd.RegisterFlagCompletionFunc("ledger", cobra.FixedCompletions([]string{"full", "sample", "off"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// loadReport is the final word of a load under -o json.
type loadReport struct {
	Load   *driver.Report `json:"load"`
	Ledger *ledger.Report `json:"ledger"`
}

func (a *app) loadTransactions(ctx context.Context, t *target, l load) error {
	feed, closeFeed, err := l.feed()
	if err != nil {
		return failed("granary load run transactions --help", "load run transactions: %w", err)
	}
	defer closeFeed()
	conns, err := t.dialSeveral(ctx, "load run transactions", max(l.driver.Streams, 1), (*target).dialPatient)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	l.driver.Feed, l.driver.Rate, l.driver.Forget = feed, float64(l.rate), l.ledger == ledgerOff
	for _, c := range conns {
		l.driver.Conns = append(l.driver.Conns, c)
	}
	report, err := a.runLoad(ctx, l)
	if report == nil {
		return conns[0].callFailure("load run transactions", err)
	}
	// The ledger is drawn up even if the load was interrupted or given up: then it is most wanted.
	checked, checkErr := a.checkLedger(context.WithoutCancel(ctx), conns[0], report.Ledger, l.ledger)
	if err := a.showLoad(report, checked); err != nil {
		return err
	}
	switch {
	case checkErr != nil:
		return conns[0].callFailure("load run transactions: the ledger", checkErr)
	case err != nil && !errors.Is(err, context.Canceled):
		return conns[0].callFailure("load run transactions", err)
	}
	return loadVerdict(report, checked)
}

// ahead is how many transactions are generated before a load at full speed begins: some seconds' worth.
const ahead = 1 << 20

// feed opens or generates what is sent.
func (l *load) feed() (feed transactions.Feed, done func(), err error) {
	var source transactions.Source = transactions.Generate(l.parameters)
	done = func() {}
	if l.rate == 0 && l.from == "" {
		source = transactions.Ahead(source, ahead)
	}
	if l.from != "" {
		file, err := transactions.Open(l.from)
		if err != nil {
			return nil, nil, err
		}
		source, done = file, func() { _ = file.Close() } // it was only read
	}
	if l.labels {
		return transactions.Labelled(source, transactions.Labels{}), done, nil
	}
	return transactions.Plain(source), done, nil
}

// dialSeveral makes connections for a load, after a call has shown that a node answers.
func (t *target) dialSeveral(ctx context.Context, what string, n int, dial func(*target) (*nodeConn, error)) ([]*nodeConn, error) {
	const most = 8
	first, err := t.dial()
	if err != nil {
		return nil, err
	}
	defer first.Close()
	ctx, cancel := first.call(ctx)
	defer cancel()
	if _, err := granaryv1.NewKindServiceClient(first).List(ctx, &granaryv1.KindServiceListRequest{}); err != nil {
		return nil, first.callFailure(what, err)
	}
	var conns []*nodeConn
	for range min(n, most) {
		conn, err := dial(t)
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func closeAll(conns []*nodeConn) {
	for _, c := range conns {
		_ = c.Close() // nothing is in flight
	}
}

func (a *app) runLoad(ctx context.Context, l load) (*driver.Report, error) {
	live := a.newLiveLine()
	defer live.clear()
	show := func(p driver.Progress) {
		text := fmt.Sprintf("%s: %s sent, %s acknowledged, %s/s", p.Elapsed.Round(time.Second),
			count(p.Sent), count(p.Acknowledged), count(uint64(p.Rate)))
		if p.P99 > 0 {
			text += fmt.Sprintf(", p50 %s, p99 %s", millis(p.P50.Seconds()*1e3), millis(p.P99.Seconds()*1e3))
		}
		if p.Refused > 0 {
			text += fmt.Sprintf(", %s refused", count(p.Refused))
		}
		if p.Reconnects > 0 {
			text += ", " + several(p.Reconnects, "reconnect")
		}
		live.show(text)
	}
	if l.unary > 0 {
		return driver.RunUnary(ctx, l.driver, l.unary, show)
	}
	return driver.Run(ctx, l.driver, show)
}

func (a *app) checkLedger(ctx context.Context, conn grpc.ClientConnInterface, sent *ledger.Sent, mode ledgerMode) (*ledger.Report, error) {
	if mode == ledgerOff || sent == nil {
		return nil, nil
	}
	live := a.newLiveLine()
	defer live.clear()
	o := ledger.Options{Progress: func(done, total int) {
		live.show(fmt.Sprintf("ledger: %s of %s read back", count(done), several(total, "grain")))
	}}
	if mode == ledgerSample {
		o.Sample = 0.1
	}
	return ledger.Check(ctx, conn, sent, o)
}

func (a *app) showLoad(r *driver.Report, l *ledger.Report) error {
	if a.format == formatJSON {
		return a.printJSON(loadReport{r, l})
	}
	figures := []figure{
		{"sent", count(r.Sent)},
		{"acknowledged", count(r.Acknowledged)},
		{"refused", count(r.Refused) + listed(r.Refusals)},
		{"unknown", count(r.Unknown)},
		{"rate", fmt.Sprintf("%s events/s over %.1f s", count(uint64(r.Rate)), r.Seconds)},
		{"latency", fmt.Sprintf("%s p50, %s p90, %s p99, %s p99.9, %s most", millis(r.Latency.P50), millis(r.Latency.P90),
			millis(r.Latency.P99), millis(r.Latency.P999), millis(r.Latency.Max))},
	}
	if r.Late > 0 {
		figures = append(figures, figure{"late", millis(r.Late) + " at most behind the intended time"})
	}
	if r.Reconnects > 0 {
		figures = append(figures, figure{"reconnects", fmt.Sprintf("%s, after which %s", count(r.Reconnects), several(r.Duplicates, "event")+" were known already")})
	}
	if l != nil {
		figures = append(figures, ledgerFigures(l)...)
	}
	if err := a.figures(figures...); err != nil {
		return err
	}
	return a.showFindings(l)
}

// ledgerFigures are the ledger's lines. Those that should be zero and are not very likely otherwise show only then.
func ledgerFigures(l *ledger.Report) []figure {
	figures := []figure{
		{"", ""},
		{"ledger", fmt.Sprintf("%s of %s and %s, read back in %.1f s", several(l.Checked, "event"),
			several(l.Accounts, "account"), several(l.Merchants, "merchant"), l.Seconds)},
		{"folded", count(l.Folded)},
		{"missing", count(l.Missing)},
		{"twice", count(l.Twice)},
		{"passed on", fmt.Sprintf("%s, missing %s, twice %s", count(l.Passed), count(l.PassedMissing), count(l.PassedTwice))},
	}
	for _, f := range []struct {
		name string
		n    uint64
	}{
		{"out of order", l.OutOfOrder}, {"altered", l.Altered}, {"uninvited", l.Uninvited},
		{"wrong states", l.WrongStates}, {"broken", l.BrokenHistories}, {"of others", l.Foreign},
	} {
		if f.n > 0 {
			figures = append(figures, figure{f.name, count(f.n)})
		}
	}
	return figures
}

func (a *app) showFindings(l *ledger.Report) error {
	if l == nil {
		return nil
	}
	for _, finding := range l.Findings {
		fmt.Fprintf(a.Out, "  %s\n", plain(finding))
	}
	if l.OK() {
		_, err := fmt.Fprintln(a.Out, a.screen.out.green("nothing missing, nothing twice, counts and sums as recounted"))
		return err
	}
	return nil
}

// loadVerdict is the failure of a run that did not show what it should.
func loadVerdict(r *driver.Report, l *ledger.Report) error {
	switch {
	case l != nil && !l.OK():
		return failed("stop the node, keep its data folder, and run: granary verify --data-dir DIR",
			"load run transactions: the ledger does not add up: %s missing, %s twice (more above)",
			count(l.Missing+l.PassedMissing), count(l.Twice+l.PassedTwice))
	case r.Sent > 0 && r.Acknowledged == 0:
		return failed("granary kind ls shows whether the node runs the kinds account and merchant",
			"load run transactions: no event was acknowledged%s", listed(r.Refusals))
	}
	return nil
}
