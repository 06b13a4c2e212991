package commands

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/loadtest/baseline"
)

// loadCommand is `granary load`.
func (a *app) loadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "load",
		Short: "put a node under load, and prove what became of every event",
		Example: `  granary load run transactions --for 10s
  granary load run ratings
  granary load run probe --for 10s
  granary load baseline`,
	}
	run := a.group(&cobra.Command{
		Use:     "run",
		Short:   "run a workload against a node",
		Example: "  granary load run transactions --for 10s\n  granary load run ratings\n  granary load run probe --for 10s",
	}, a.loadTransactionsCommand(), a.loadRatingsCommand(), a.loadProbeCommand())
	return a.group(cmd, run, a.loadBaselineCommand(), a.loadBaselineServerCommand())
}

// loadBaselineServerCommand is the process that the baseline measures. It is part of `load baseline` and not shown.
func (a *app) loadBaselineServerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "baseline-server DIR",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return baseline.Serve(cmd.Context(), baseline.ServeOptions{Dir: args[0]}, a.In, a.Out)
		},
	}
}

func (a *app) loadBaselineCommand() *cobra.Command {
	var o baseline.Options
	cmd := &cobra.Command{
		Use:   "baseline",
		Short: "measure the bare pipeline that a node's speed is held against",
		Long: `Measures what this machine can do at best: a bare pipeline (stream, hash, fold, one synced commit, answer) without
grains, consensus, deduplication or recovery, in a process of its own. Needs no node. Compare figures of the same
machine and the same hour only.

With -o json: an object with events, seconds, events_per_second, p50_ms, p99_ms, server_us_per_event,
client_us_per_event, commits and event_bytes.`,
		Example: `  granary load baseline
  granary load baseline --unary 64`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.baseline(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&o.For, "for", 0, "how long to measure (default 5s)")
	f.IntVar(&o.Streams, "streams", 0, "`number` of streams (default 4)")
	f.IntVar(&o.Batch, "batch", 0, "`number` of events in a batch (default 100)")
	f.IntVar(&o.Accounts, "accounts", 0, "`number` of different entities (default 10000)")
	f.IntVar(&o.Unary, "unary", 0, "`number` of callers that send one event a call, instead of streams")
	f.BoolVar(&o.Scatter, "scatter", false, "spread the events of each batch over all shards")
	f.StringVar(&o.Dir, "data-dir", "", "`folder` to write to, emptied first; without it a temporary one")
	_ = cmd.MarkFlagDirname("data-dir")
	return cmd
}

func (a *app) baseline(ctx context.Context, o baseline.Options) error {
	if a.Executable != "" {
		o.Server = []string{a.Executable, "load", "baseline-server"}
	}
	r, err := baseline.Run(ctx, o)
	if err != nil {
		return failed("granary load baseline --help", "load baseline: %w", err)
	}
	if a.format == formatJSON {
		return a.printJSON(r)
	}
	return a.figures(
		figure{"events", count(r.Events)},
		figure{"rate", count(uint64(r.Rate)) + " events/s"},
		figure{"latency", millis(r.P50) + " p50, " + millis(r.P99) + " p99"},
		figure{"processor", micros(r.ServerMicros) + " an event in the server, " + micros(r.ClientMicros) + " in the client"},
		figure{"commits", count(r.Commits)},
	)
}
