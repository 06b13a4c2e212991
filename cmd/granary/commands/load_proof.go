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
	"github.com/granary-dev/granary/loadtest/ratings"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// loadShape holds the flags of all loads that end with a ledger.
type loadShape struct {
	from   string
	rate   eventRate
	ledger ledgerMode
	driver driver.Options
	unary  int
}

func (s *loadShape) addTo(cmd *cobra.Command) {
	s.ledger = ledgerFull
	f := cmd.Flags()
	f.Var(&s.rate, "rate", "`events` a second, or max")
	f.IntVar(&s.driver.Streams, "streams", 4, "`number` of producers, each with a stream of its own")
	f.IntVar(&s.driver.Batch, "batch", 100, "`number` of events in a batch, 1 to 1000")
	f.Var(&s.ledger, "ledger", "`full`, sample (a tenth of the grains), or off")
	_ = cmd.RegisterFlagCompletionFunc("ledger", cobra.FixedCompletions([]string{"full", "sample", "off"}, cobra.ShellCompDirectiveNoFileComp))
}

// loadReport is the final word of a load under -o json.
type loadReport struct {
	Load    *driver.Report    `json:"load"`
	Ledger  *ledger.Report    `json:"ledger"`
	Quality *ratings.Quality  `json:"quality,omitempty"`
	Asks    *driver.AskReport `json:"asks,omitempty"`
}

// proof is a workload and how to find out what became of it.
type proof[T any] struct {
	what, kinds string // the command, and the kinds that it needs
	workload    driver.Workload[T]
	check       func(context.Context, grpc.ClientConnInterface, *ledger.Sent, ledger.Options) (*ledger.Report, error)
	// ready says what speaks against sending anything at all. May be nil.
	ready func(context.Context, grpc.ClientConnInterface) error
	// judge says how well what was learnt foretells. May be nil.
	judge func(context.Context, grpc.ClientConnInterface) (*ratings.Quality, error)
	// asks beside the load, if their rate is above 0.
	asks driver.AskOptions
}

// prove runs a load and its ledger, and tells the result.
func prove[T any](ctx context.Context, a *app, t *target, s loadShape, p proof[T]) error {
	conns, err := t.dialSeveral(ctx, p.what, max(s.driver.Streams, 1), (*target).dialPatient)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	s.driver.Rate, s.driver.Forget = float64(s.rate), s.ledger == ledgerOff
	for _, c := range conns {
		s.driver.Conns = append(s.driver.Conns, c)
	}
	if p.ready != nil {
		if err := p.ready(ctx, conns[0]); err != nil {
			return conns[0].callFailure(p.what, err)
		}
	}
	var report loadReport
	stopAsking := p.ask(ctx, s.driver.Conns, &report)
	report.Load, err = runLoad(ctx, a, s, p.workload)
	stopAsking()
	if report.Load == nil {
		return conns[0].callFailure(p.what, err)
	}
	// The ledger is drawn up even if the load was interrupted or given up: then it is most wanted.
	late := context.WithoutCancel(ctx)
	var checkErr, judgeErr error
	if s.ledger != ledgerOff {
		report.Ledger, checkErr = a.checkLedger(late, conns[0], report.Load.Ledger, s.ledger, p.check)
	}
	if p.judge != nil && err == nil {
		report.Quality, judgeErr = p.judge(late, conns[0])
	}
	if err := a.showLoad(report); err != nil {
		return err
	}
	switch {
	case checkErr != nil:
		return conns[0].callFailure(p.what+": the ledger", checkErr)
	case judgeErr != nil:
		return conns[0].callFailure(p.what+": what comes next", judgeErr)
	case err != nil && !errors.Is(err, context.Canceled):
		return conns[0].callFailure(p.what, err)
	}
	return loadVerdict(p.what, p.kinds, report)
}

// ask asks beside a load until it is stopped, and then reports.
func (p *proof[T]) ask(ctx context.Context, conns []grpc.ClientConnInterface, report *loadReport) (stop func()) {
	if p.asks.Rate <= 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	o, done := p.asks, make(chan struct{})
	o.Conns = conns
	go func() {
		defer close(done)
		report.Asks, _ = driver.Ask(ctx, o) // the options are checked with the flags
	}()
	return func() {
		cancel()
		<-done
	}
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

func runLoad[T any](ctx context.Context, a *app, s loadShape, w driver.Workload[T]) (*driver.Report, error) {
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
	if s.unary > 0 {
		return driver.RunUnary(ctx, w, s.driver, s.unary, show)
	}
	return driver.Run(ctx, w, s.driver, show)
}

func (a *app) checkLedger(
	ctx context.Context, conn grpc.ClientConnInterface, sent *ledger.Sent, mode ledgerMode,
	check func(context.Context, grpc.ClientConnInterface, *ledger.Sent, ledger.Options) (*ledger.Report, error),
) (*ledger.Report, error) {
	if sent == nil {
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
	return check(ctx, conn, sent, o)
}

func (a *app) showLoad(report loadReport) error {
	if a.format == formatJSON {
		return a.printJSON(report)
	}
	r, l := report.Load, report.Ledger
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
	if x := report.Asks; x != nil {
		figures = append(figures, figure{"asks", fmt.Sprintf("%s, %s answered%s; %s p50, %s p90, %s p99, %s most", count(x.Asked), count(x.Answered),
			listed(x.Failed), millis(x.Latency.P50), millis(x.Latency.P90), millis(x.Latency.P99), millis(x.Latency.Max))})
	}
	if l != nil {
		figures = append(figures, ledgerFigures(l)...)
	}
	if q := report.Quality; q != nil {
		figures = append(figures, qualityFigures(q)...)
	}
	if err := a.figures(figures...); err != nil {
		return err
	}
	return a.showFindings(l)
}

// ledgerFigures are the ledger's lines. Those that should be zero and are not very likely otherwise show only then.
func ledgerFigures(l *ledger.Report) []figure {
	grains := several(l.Accounts, "account") + " and " + several(l.Merchants, "merchant")
	if l.Users > 0 {
		grains = several(l.Users, "user") + " and " + several(l.Products, "product")
	}
	figures := []figure{
		{"", ""},
		{"ledger", fmt.Sprintf("%s of %s, read back in %.1f s", several(l.Checked, "event"), grains, l.Seconds)},
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
func loadVerdict(what, kinds string, report loadReport) error {
	r, l := report.Load, report.Ledger
	switch {
	case l != nil && !l.OK():
		return failed("stop the node, keep its data folder, and run: granary verify --data-dir DIR",
			"%s: the ledger does not add up: %s missing, %s twice (more above)",
			what, count(l.Missing+l.PassedMissing), count(l.Twice+l.PassedTwice))
	case r.Sent > 0 && r.Acknowledged == 0:
		return failed("granary kind ls shows whether the node runs the kinds "+kinds,
			"%s: no event was acknowledged%s", what, listed(r.Refusals))
	}
	return nil
}
