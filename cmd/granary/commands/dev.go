package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/cmd/granary/supervise"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// shutdownTime is how long a node may take to commit what is in flight.
const shutdownTime = 30 * time.Second

// leastTurnLimit is the lowest --turn-limit: below it a busy processor would be taken for a handler that hangs.
const leastTurnLimit = 10 * time.Millisecond

// dev holds the flags of `granary dev`.
type dev struct {
	NodeOptions
	listen    listenAddress
	supervise bool
	memory    byteSize
	logLevel  slog.Level
	logFormat logFormat
	insecure  bool
}

func (a *app) devCommand() *cobra.Command {
	d := dev{listen: defaultTarget, memory: 256 << 20, logFormat: "text"}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "run one node on this machine",
		Long: `Runs one node and serves gRPC and, for curl, JSON over HTTP/1.1 on one port, until SIGINT or SIGTERM. Then new
events are refused with an error that clients retry, those in flight are committed, and it ends; a second signal
ends it at once, and loses nothing that was acknowledged either.

Without --data-dir the journal is kept in a temporary folder that is removed at the end. With it, the node goes on
where it was, also after kill -9.

What clients can make it do is limited (--limit connections=500); the limits and their defaults:

` + a.limitTable() + `
The node is a process of its own, which is started again when it dies, at the same address; this one watches over it
and gives up when it dies too often. An event whose turn ends the process twice, or runs over --turn-limit, becomes a
dead letter and is not run again.

Log lines go to standard error. With -o json: when it takes calls, and again after each new start, an
object with listen, dataDir and temporary.`,
		Example: `  granary dev
  granary dev --data-dir ./data --listen 127.0.0.1:7081
  granary dev -o json --listen 127.0.0.1:0 | jq -r .listen`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.Shards < 1 || d.Shards > 1<<16 {
				return usageFailure(cmd, "%s: --shards must be from 1 to %d", cmd.CommandPath(), 1<<16)
			}
			if host, _, _ := net.SplitHostPort(string(d.listen)); !d.insecure && !loopback(host) {
				return usageFailure(cmd, "%s: --listen %s can be reached from other machines, and whoever reaches it may read and write everything: "+
					"there is no TLS and no authentication yet. Listen at 127.0.0.1, or add --insecure", cmd.CommandPath(), d.listen)
			}
			if len(d.Limits) > 0 {
				if err := a.CheckLimits(d.Limits); err != nil {
					return usageFailure(cmd, "%s: --limit: %w", cmd.CommandPath(), err)
				}
			}
			if d.TurnLimit < leastTurnLimit {
				return usageFailure(cmd, "%s: --turn-limit must be at least %v", cmd.CommandPath(), leastTurnLimit)
			}
			if d.supervise && a.Executable != "" && a.Supervised == nil {
				return a.superviseDev(cmd.Context(), &d)
			}
			return a.dev(cmd.Context(), &d)
		},
	}
	f := cmd.Flags()
	f.Var(&d.listen, "listen", "`HOST:PORT` to listen at; port 0 takes any that is free")
	f.StringVar(&d.DataDir, "data-dir", "", "`folder` of the journal; without it a temporary one")
	f.Var(&d.memory, "memory", "how much memory activations may take, as a `size`")
	f.IntVar(&d.Shards, "shards", 64, "`number` of shards of a new data folder")
	f.BoolVar(&d.insecure, "insecure", false, "allow --listen at an address that other machines can reach, without TLS and authentication")
	f.StringToStringVar(&d.Limits, "limit", nil, "set a limit by `NAME=VALUE`, again and again; the list is above")
	f.Lookup("limit").DefValue = ""
	f.DurationVar(&d.TurnLimit, "turn-limit", 10*time.Second, "how `long` the handler of an event may run")
	f.BoolVar(&d.supervise, "supervise", supervise.Supported, "run the node in a process of its own, and start that again when it dies")
	f.BoolVar(&d.Metrics, "metrics", true, "serve Prometheus metrics at /metrics on the same port")
	f.BoolVar(&d.Profiles, "profiles", false, "serve the process's CPU and memory profiles at /debug/pprof/ on the same port, for anyone who can reach it")
	f.TextVar(&d.logLevel, "log-level", slog.LevelWarn, "least `level` to log: debug, info, warn or error")
	f.Var(&d.logFormat, "log-format", "`form` of log lines: text or json")
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.MarkFlagDirname("data-dir")
	return cmd
}

func (a *app) dev(ctx context.Context, d *dev) (err error) {
	temporary := d.DataDir == ""
	if a.Supervised != nil {
		d.Listener = a.Supervised.Listener
	}
	if temporary && a.Supervised != nil {
		d.DataDir = a.Supervised.Temporary // it outlives this process
	} else if temporary {
		if d.DataDir, err = temporaryFolder(); err != nil {
			return err
		}
		remove := func() { removeFolder(d.DataDir) }
		defer remove()
		a.beforeExit(remove)
	}
	d.Listen, d.Memory, d.Catalog, d.Logger = string(d.listen), int64(d.memory), a.Catalog, a.logger(d)
	node, err := a.StartNode(ctx, d.NodeOptions)
	if err != nil {
		return startFailure(d, err)
	}
	if err := a.announce(ctx, node.Addr(), d.DataDir, temporary, d.Metrics); err != nil {
		_ = a.stop(ctx, node) // the first error says more
		return err
	}
	select {
	case err := <-node.Done():
		if err == nil {
			err = errors.New("it ended by itself")
		}
		return failed("the log above says more; start it again with the same --data-dir", "dev: the node at %s stopped: %w", node.Addr(), err)
	case <-ctx.Done():
		return a.stop(ctx, node)
	}
}

// loopback tells whether only this machine reaches a host.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// limitTable are the limits of a node, a line each.
func (a *app) limitTable() string {
	var s strings.Builder
	for _, l := range a.Limits {
		fmt.Fprintf(&s, "  %-16s %-10s %s\n", l.Name, l.Default, l.Doc)
	}
	return s.String()
}

// stop shuts the node down. Nothing acknowledged is lost however it ends.
func (a *app) stop(ctx context.Context, node Node) error {
	if a.format != formatJSON {
		fmt.Fprintln(a.Err, "stopping: what is in flight is committed first; a second signal stops at once")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	if err := node.Shutdown(ctx); err != nil {
		return failed("start it again with the same --data-dir: what was acknowledged is there", "dev: the node at %s did not stop cleanly: %w", node.Addr(), err)
	}
	return nil
}

func (a *app) logger(d *dev) *slog.Logger {
	options := &slog.HandlerOptions{Level: d.logLevel}
	if d.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(a.Err, options))
	}
	return slog.New(slog.NewTextHandler(a.Err, options))
}

// startFailure says why a node did not start, in one line.
func startFailure(d *dev, err error) error {
	next := "granary dev --help"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		next = "granary dev --listen 127.0.0.1:0 takes any port that is free; or stop what listens there"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EROFS), errors.Is(err, os.ErrPermission):
		next = "granary dev --data-dir DIR, with a folder that this user can write"
	case errors.Is(err, context.Canceled):
		return &failure{exit: ExitFailed, problem: "dev: stopped while it was starting", cause: err}
	}
	return failed(next, "dev: the node did not start at %s with the data folder %s: %w", d.Listen, d.DataDir, err)
}

// readyJSON is what dev says under -o json when the node takes calls.
type readyJSON struct {
	Listen    string `json:"listen"`
	DataDir   string `json:"dataDir"`
	Temporary bool   `json:"temporary"`
}

// announce says where the node is and what to try first.
func (a *app) announce(ctx context.Context, address, dir string, temporary, metrics bool) error {
	if a.format == formatJSON {
		return a.printJSONLine(readyJSON{address, dir, temporary})
	}
	bold := a.screen.out.bold
	kept := "kept: start with the same --data-dir to go on"
	if temporary {
		kept = "temporary: removed at the end"
	}
	fmt.Fprintf(a.Out, "%s listens at %s for gRPC and JSON\n", bold("granary"), bold(address))
	fmt.Fprintf(a.Out, "  data     %s (%s)\n", dir, kept)
	if metrics {
		fmt.Fprintf(a.Out, "  metrics  http://%s/metrics\n", address)
	}
	fmt.Fprintf(a.Out, "\nTry in another terminal:\n%s\nCtrl-C stops it.\n", a.firstTry(ctx, address))
	return nil
}

// firstTry are commands that work with this node: an event for one of its kinds, and two ways to look at the grain.
func (a *app) firstTry(ctx context.Context, address string) string {
	t := &target{address: hostPort(address), timeout: 2 * time.Second}
	suffix := ""
	if address != defaultTarget {
		suffix = " --target " + address
	}
	fallback := "  granary kind ls" + suffix + "\n"
	conn, err := t.dial()
	if err != nil {
		return fallback
	}
	defer conn.Close()
	ctx, cancel := conn.call(ctx)
	defer cancel()
	got, err := granaryv1.NewKindServiceClient(conn).List(ctx, &granaryv1.KindServiceListRequest{})
	if err != nil {
		return fallback
	}
	for _, k := range got.GetKinds() {
		for _, e := range kindOf(k).Events {
			if e.Example == nil {
				continue
			}
			grain := k.GetName() + "/42"
			return "  " + exampleLine(grain, e, address) + "\n" +
				"  granary grain get " + grain + suffix + "\n" +
				"  curl -s http://" + address + "/granary.v1.GrainService/Get -H 'Content-Type: application/json' -d '{\"grain\":\"" + grain + "\"}'\n"
		}
	}
	return fallback
}

// logFormat is the value of --log-format.
type logFormat string

// String is part of pflag.Value.
func (l *logFormat) String() string { return string(*l) }

// Type is part of pflag.Value.
func (l *logFormat) Type() string { return "form" }

// Set is part of pflag.Value.
func (l *logFormat) Set(text string) error {
	if text != "text" && text != "json" {
		return errors.New("want text or json")
	}
	*l = logFormat(text)
	return nil
}
