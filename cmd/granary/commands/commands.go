// Package commands is the command line of granary: one file for each command, and what they share.
//
// Here live flags, help texts, the forms of output, the wording of errors and the choice of an exit code. Here never
// lives what a command does: that is asked of a node over the public API, or of the package that owns it. Nothing here
// touches os.Args, os.Stdout or signals; all of that comes in with the [Environment], so that every command runs in a
// test as it runs in a shell.
//
// Invariant: standard output carries results and nothing else, in a form that -o json keeps stable; what went wrong is
// told on standard error, once, with what to type next; and the exit code is one of the four below.
package commands

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/cmd/granary/supervise"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/verify"
)

// Exit codes of every command.
const (
	// ExitDone: the command did what it was asked.
	ExitDone = 0
	// ExitFailed: it was understood and tried, but did not succeed, or found something wrong.
	ExitFailed = 1
	// ExitUsage: it was not understood, so nothing was tried.
	ExitUsage = 2
	// ExitUnreachable: no node answered at the target.
	ExitUnreachable = 3
)

// Environment is all that commands see of the process they run in.
type Environment struct {
	// Args are the arguments behind the program's name.
	Args []string
	// In, Out and Err are the standard streams.
	In  io.Reader
	Out io.Writer
	Err io.Writer
	// Getenv looks environment variables up.
	Getenv func(string) string
	// Signals that ask the program to stop: the first gracefully, the second at once. May be nil.
	Signals <-chan os.Signal
	// Exit ends the process at the second signal.
	Exit func(code int)
	// Executable is the path of this program, to start itself with; empty runs what it would start in this process.
	Executable string
	// Supervised is set in the process of a node that another process watches over; else nil.
	Supervised *supervise.Child
	// StartNode starts a node in this process, for `granary dev`.
	StartNode StartNode
	// Limits of the gateway of a node, and what is wrong with some of them by name and value.
	Limits      []Limit
	CheckLimits func(map[string]string) error
	// Catalog of the kinds that this build has, for `granary dev` and `granary verify`.
	Catalog *grains.Catalog
	// Verify checks a data folder: verify.Run.
	Verify func(context.Context, verify.Options) (*verify.Report, error)
}

// app is one run of the program.
type app struct {
	Environment
	format  format
	screen  screen
	running bool // the arguments were understood

	mu sync.Mutex
	// last is run before the process ends at once.
	last func()
}

// Run runs the command that the arguments name, and returns the exit code.
func Run(ctx context.Context, env Environment) int {
	a := &app{Environment: env, screen: newScreen(env)}
	return a.run(ctx)
}

func (a *app) run(ctx context.Context) int {
	ctx, stop := a.watchSignals(ctx)
	defer stop()
	root := a.root()
	root.SetArgs(a.Args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitDone
	}
	f := a.failureOf(cmd, err)
	a.tell(f)
	return f.exit
}

// watchSignals returns a context that the first signal cancels; the second ends the process.
func (a *app) watchSignals(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		for count := 0; ; count++ {
			select {
			case <-done:
				return
			case <-a.Signals:
			}
			if count == 0 {
				cancel()
				continue
			}
			a.mu.Lock()
			if a.last != nil {
				a.last()
			}
			a.mu.Unlock()
			a.Exit(ExitFailed)
			return
		}
	}()
	return ctx, func() {
		cancel()
		close(done)
	}
}

// beforeExit sets what is still done when the second signal ends the process.
func (a *app) beforeExit(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = f
}

// root is the whole tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "granary",
		Short: "small, stateful, durable entities in one binary",
		Long: `Granary keeps state that must be right, fresh and never lost. Every account, user or parcel is a grain,
named KIND/KEY: it takes its events one at a time, keeps them in a journal, and can be asked what it
knows now or knew at any moment.

Results go to standard output, as tables for people or, with -o json, in a form for programs that each
command's help describes and that only ever gains fields. What goes wrong is told on standard error.`,
		Example: `  granary dev
  granary publish -f events.jsonl
  granary grain get account/42`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          a.noSubcommand,
		Version:       readBuild().Version,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) {
			a.running = true
		},
	}
	root.SetVersionTemplate("granary {{.Version}}\n")
	root.PersistentFlags().VarP(&a.format, "output", "o", "`form` of the output: table or json")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(flagFailure)
	root.SetHelpFunc(a.help)
	root.SetHelpCommand(a.helpCommand())
	root.AddCommand(a.devCommand(), a.publishCommand(), a.askCommand(), a.grainCommand(), a.kindCommand(), a.tailCommand(), a.reminderCommand(), a.deadLetterCommand(),
		a.loadCommand(), a.verifyCommand(), a.versionCommand())
	a.addCompletion(root)
	return root
}

// group is a command that only holds others.
func (a *app) group(cmd *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	cmd.Args = a.noSubcommand
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return usageFailure(cmd, "%s needs a command: %s", cmd.CommandPath(), joinNames(cmd.Commands()))
	}
	cmd.AddCommand(commands...)
	return cmd
}

// failureOf makes a failure of whatever a command returned.
func (a *app) failureOf(cmd *cobra.Command, err error) *failure {
	var f *failure
	switch {
	case errors.As(err, &f):
		return f
	case !a.running: // cobra refused the arguments
		return usageFailure(cmd, "%v", err)
	case errors.Is(err, context.Canceled):
		return &failure{exit: ExitFailed, problem: cmd.CommandPath() + ": interrupted", cause: err}
	}
	return &failure{exit: ExitFailed, problem: cmd.CommandPath() + ": " + err.Error(), cause: err}
}
