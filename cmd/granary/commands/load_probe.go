package commands

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/loadtest/crowd"
	"github.com/granary-dev/granary/loadtest/workload"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// loadProbe is what `granary load run probe` is called in its messages.
const loadProbe = "load run probe"

// probe holds the flags of `granary load run probe`.
type probe struct {
	crowd.Options
	lasts time.Duration
}

func (a *app) loadProbeCommand() *cobra.Command {
	t, p := &target{}, probe{}
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "lists that show what was lost, done twice or put in another order, and a judge",
		Long: `Lets clients append values to the lists of a few contended and many other grains of kind probe, pass some of them on
with an amount, repeat themselves, and read. Half of them are producers with a stream, the others send one event a
call, with an id. They go on through restarts of the node: what has no answer is sent again.

Then a judge holds what each client was told to what is there. Nothing acknowledged may be lost, nothing be there
twice, no read be older than one before it; producers keep their order, each send arrives once, amounts add up, and
states are the fold of their histories. If not, the exit code is 1, and what clients did with the grain in question
is shown.

SIGINT ends the load early, and the judge is still heard; a second one ends at once.

With -o json: an object with run, seed, seconds, judge_seconds, operations, ok, failed, unknown, contended, known,
resent, reconnects, refusals, latency, grains, values, received, second_opinions, found, violations and story.`,
		Example: `  granary load run probe --for 10s
  granary load run probe --for 10m --clients 32 --seed 7 -o json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.Clients < 1 || p.Grains < 1 || p.lasts <= 0 || p.Pause < 0 {
				return usageFailure(cmd, "%s: --clients, --grains and --for must be more than 0, and --pause not less", cmd.CommandPath())
			}
			return a.loadProbe(cmd.Context(), t, p)
		},
	}
	t.addTo(cmd)
	f := cmd.Flags()
	f.DurationVar(&p.lasts, "for", time.Minute, "how long the clients work")
	f.IntVar(&p.Clients, "clients", 12, "`number` of clients")
	f.IntVar(&p.Grains, "grains", 64, "`number` of grains that are written to at a time, beside the 4 contended ones")
	f.DurationVar(&p.Pause, "pause", 0, "how long a client waits between two operations, on average")
	f.Uint64Var(&p.Seed, "seed", 0, "the same `number` draws the same operations; 0 takes a fresh one")
	return cmd
}

func (a *app) loadProbe(ctx context.Context, t *target, p probe) error {
	conns, err := t.dialSeveral(ctx, loadProbe, p.Clients, (*target).dial)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	if err := hasProbe(ctx, conns[0]); err != nil {
		return err
	}
	for _, c := range conns {
		p.Conns = append(p.Conns, c)
	}
	if p.Seed == 0 {
		p.Seed = rand.Uint64N(1e9) + 1
	}
	p.Patience = t.timeout
	clients, err := crowd.New(p.Options)
	if err != nil {
		return failed("granary load run probe --help", loadProbe+": %w", err)
	}
	if err := a.letWork(ctx, clients, p.lasts); err != nil {
		return conns[0].callFailure(loadProbe, err)
	}
	// The judge is heard even if the load was interrupted: then it is most wanted.
	report, err := a.hearJudge(context.WithoutCancel(ctx), clients)
	if err := a.showProbe(report); err != nil {
		return err
	}
	if err != nil {
		return conns[0].callFailure(loadProbe+": reading back", err)
	}
	return probeVerdict(report)
}

// hasProbe fails if the node does not run the kind.
func hasProbe(ctx context.Context, conn *nodeConn) error {
	ctx, cancel := conn.call(ctx)
	defer cancel()
	kinds, err := granaryv1.NewKindServiceClient(conn).List(ctx, &granaryv1.KindServiceListRequest{})
	if err != nil {
		return conn.callFailure(loadProbe, err)
	}
	if !slices.ContainsFunc(kinds.GetKinds(), func(k *granaryv1.Kind) bool { return k.GetName() == workload.Kind }) {
		return failed("granary kind ls shows what it runs", loadProbe+": the node at %s does not run the kind %s", conn.target, workload.Kind)
	}
	return nil
}

// letWork lets the clients work for a time and shows how they do.
func (a *app) letWork(ctx context.Context, clients *crowd.Crowd, lasts time.Duration) error {
	working, cancel := context.WithTimeout(ctx, lasts)
	defer cancel()
	live := a.newLiveLine()
	defer live.clear()
	start, worked := time.Now(), make(chan error, 1)
	go func() { worked <- clients.Work(working) }()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case err := <-worked:
			return err
		case <-ticker.C:
			n, elapsed := clients.Totals(), time.Since(start)
			live.show(fmt.Sprintf("%s: %s done, %s failed, %s unknown, %s/s", elapsed.Round(time.Second), several(n.OK, "operation"),
				count(n.Failed), count(n.Unknown), count(int(float64(n.OK)/elapsed.Seconds()))))
		}
	}
}

func (a *app) hearJudge(ctx context.Context, clients *crowd.Crowd) (*crowd.Report, error) {
	live := a.newLiveLine()
	defer live.clear()
	live.show("judge: waits until all sends have arrived, and reads every grain back")
	return clients.Finish(ctx)
}

func (a *app) showProbe(r *crowd.Report) error {
	if a.format == formatJSON {
		return a.printJSON(r)
	}
	figures := []figure{
		{"seed", fmt.Sprint(r.Seed)},
		{"operations", fmt.Sprintf("%s, %d%% of them on contended grains", count(r.Operations), 100*r.Contended/max(1, r.Operations))},
		{"ok", count(r.OK)},
		{"failed", count(r.Failed)},
		{"unknown", count(r.Unknown)},
	}
	if len(r.Refusals) > 0 {
		figures = append(figures, figure{"refusals", strings.Trim(listed(refusals(r)), " ()")})
	}
	figures = append(figures,
		figure{"rate", fmt.Sprintf("%s operations/s over %.1f s", count(int(float64(r.OK)/max(r.Seconds, 1e-3))), r.Seconds)},
		figure{"latency", fmt.Sprintf("%s p50, %s p99, %s most", millis(r.Latency.P50), millis(r.Latency.P99), millis(r.Latency.Max))},
		figure{"repeated", fmt.Sprintf("%s known already; %s again by producers, in %s", several(r.Known, "event"), count(r.Resent), several(r.Reconnects, "reconnect"))},
		figure{},
		figure{"judged", fmt.Sprintf("%s and their histories, read back in %.1f s; porcupine asked about %s", several(r.Grains, "grain"), r.JudgeSeconds, count(r.SecondOpinions))},
		figure{"values", fmt.Sprintf("%s in their lists, %s received", count(r.Values), several(r.Received, "send"))},
		figure{"violations", count(r.Found)},
	)
	if err := a.figures(figures...); err != nil {
		return err
	}
	for _, v := range r.Violations {
		fmt.Fprintf(a.Out, "  %s\n", plain(v))
	}
	if r.Found > len(r.Violations) {
		fmt.Fprintf(a.Out, "  … and %s more\n", count(r.Found-len(r.Violations)))
	}
	if r.Story != "" {
		fmt.Fprintf(a.Out, "\n%s", r.Story)
	}
	if !r.Clean() || r.OK == 0 || r.Grains == 0 {
		return nil
	}
	_, err := fmt.Fprintln(a.Out, a.screen.out.green("nothing lost, nothing twice, nothing out of order; each send once, amounts as recounted"))
	return err
}

func refusals(r *crowd.Report) map[string]uint64 {
	by := map[string]uint64{}
	for reason, n := range r.Refusals {
		by[reason] = uint64(n)
	}
	return by
}

// probeVerdict is the failure of a run that did not show what it should.
func probeVerdict(r *crowd.Report) error {
	switch {
	case !r.Clean():
		return failed("stop the node, keep its data folder, and run: granary verify --data-dir DIR",
			loadProbe+": the judge found %s (above)", several(r.Found, "violation"))
	case r.OK == 0:
		return failed("granary kind ls shows whether the node answers", loadProbe+": nothing was acknowledged%s", listed(refusals(r)))
	}
	return nil
}
