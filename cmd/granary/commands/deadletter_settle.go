package commands

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func (a *app) deadLetterRetryCommand(t *target) *cobra.Command {
	var all, yes bool
	cmd := &cobra.Command{
		Use:   "retry KIND/KEY SEQ | --all [KIND[/PREFIX]]",
		Short: "run the event of a dead letter again, as a new record of its grain",
		Long: `Runs the event of a dead letter again, as a new record of its grain, and settles the dead letter; both or neither. The
event is run once, however often this is asked: the second time the command says what became of it. If the turn fails
again, the new record is an open dead letter.

With --all the open dead letters of a kind, or of all kinds, are retried one after the other. Each is shown and asked
for, unless --yes says that all are meant. What fails again is not tried a second time.

The exit code is 1 unless every event that was run was folded.

With -o json: one object a line, with grain, seq, outcome ("folded", "rejected", "dead-lettered", or "failed" where it
was not run), retriedAs and reason; --all needs --yes.`,
		Example: `  granary deadletter retry account/42 17
  granary deadletter retry --all account
  granary deadletter retry --all account --yes`,
		Args: func(cmd *cobra.Command, args []string) error {
			if !all {
				return letterArgs(cmd, args)
			}
			if len(args) > 1 || len(args) == 1 && (args[0] == "" || strings.HasPrefix(args[0], "/")) {
				return usageFailure(cmd, "%s --all wants nothing, a kind, or KIND/PREFIX, for example account or account/4", cmd.CommandPath())
			}
			if a.format == formatJSON && !yes {
				return usageFailure(cmd, "%s: -o json cannot ask: give --yes to retry all", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if all {
				return a.completeGrain(t)(cmd, args, typed)
			}
			return a.completeLetter(t)(cmd, args, typed)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return a.retryAll(cmd.Context(), t, strings.Join(args, ""), yes)
			}
			l, err := oneLetter(cmd, args)
			if err != nil {
				return err
			}
			return a.retryOne(cmd.Context(), t, l)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "retry all open dead letters")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "with --all: do not ask for each")
	return cmd
}

func (a *app) deadLetterDropCommand(t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "drop KIND/KEY SEQ",
		Short: "settle a dead letter without running its event",
		Long: `Settles a dead letter without running its event. It stays in the history of the grain, and can be shown, but not
retried any more.

With -o json: an object with grain, seq and outcome ("dropped").`,
		Example:           `  granary deadletter drop account/42 17`,
		Args:              letterArgs,
		ValidArgsFunction: a.completeLetter(t),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := oneLetter(cmd, args)
			if err != nil {
				return err
			}
			conn, err := t.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := conn.call(cmd.Context())
			defer cancel()
			if _, err := granaryv1.NewDeadLetterServiceClient(conn).Drop(ctx, &granaryv1.DropRequest{Grain: l.grain, Seq: l.seq}); err != nil {
				return conn.letterFailure("deadletter drop "+l.String(), l, err)
			}
			return a.tellSettled(settledJSON{Grain: l.grain, Seq: l.seq, Outcome: "dropped"})
		},
	}
}

// settledJSON is the form of what became of a dead letter under -o json.
type settledJSON struct {
	Grain     string `json:"grain"`
	Seq       uint64 `json:"seq"`
	Outcome   string `json:"outcome"`
	RetriedAs uint64 `json:"retriedAs,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

func (a *app) tellSettled(s settledJSON) error {
	if a.format == formatJSON {
		return a.printJSONLine(s)
	}
	text := fmt.Sprintf("%s #%d: %s", s.Grain, s.Seq, s.Outcome)
	if s.RetriedAs != 0 {
		text = fmt.Sprintf("%s #%d: retried as #%d: %s", s.Grain, s.Seq, s.RetriedAs, s.Outcome)
	}
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	_, err := fmt.Fprintln(a.Out, plain(text))
	return err
}

// retryLetter runs a dead letter again. It fails when nothing was run.
func (n *nodeConn) retryLetter(ctx context.Context, l letterName) (settledJSON, error) {
	ctx, cancel := n.call(ctx)
	defer cancel()
	out := settledJSON{Grain: l.grain, Seq: l.seq, Outcome: "folded"}
	got, err := granaryv1.NewDeadLetterServiceClient(n).Retry(ctx, &granaryv1.RetryRequest{Grain: l.grain, Seq: l.seq})
	if err != nil {
		return out, n.letterFailure("deadletter retry "+l.String(), l, err)
	}
	out.RetriedAs = got.GetResult().GetSeq()
	if st := got.GetResult().GetStatus(); st != nil {
		f := statusFailure(st)
		out.Reason = f.problem
		if out.Outcome = "rejected"; f.reason == "DEAD_LETTERED" {
			out.Outcome = "dead-lettered"
		}
	}
	return out, nil
}

func (a *app) retryOne(ctx context.Context, t *target, l letterName) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	s, err := conn.retryLetter(ctx, l)
	if err != nil {
		return err
	}
	if err := a.tellSettled(s); err != nil {
		return err
	}
	switch s.Outcome {
	case "dead-lettered":
		return failed("granary deadletter show "+letterName{l.grain, s.RetriedAs}.arguments(), "deadletter retry %v: the turn failed again, as #%d", l, s.RetriedAs)
	case "rejected":
		return failed("granary grain history "+shellQuote(l.grain)+" --newest --limit 5", "deadletter retry %v: the grain rejected the event, as #%d", l, s.RetriedAs)
	}
	return nil
}

// retryTally counts what became of the dead letters of `granary deadletter retry --all`.
type retryTally struct {
	folded, rejected, dead, failed, left int
	// before are the seqs that failed again in the grain that is at hand: they come again on a later page.
	grain  string
	before map[uint64]bool
}

func (r *retryTally) String() string {
	text := several(r.folded+r.rejected+r.dead, "dead letter") + " retried: " + count(r.folded) + " folded"
	for _, more := range []struct {
		n    int
		what string
	}{{r.rejected, "rejected"}, {r.dead, "dead-lettered again"}} {
		if more.n > 0 {
			text += fmt.Sprintf(", %s %s", count(more.n), more.what)
		}
	}
	if r.failed > 0 {
		text += fmt.Sprintf("; %s not retried", count(r.failed))
	}
	if r.left > 0 {
		text += fmt.Sprintf("; %s left as it is", several(r.left, "dead letter"))
	}
	return text
}

var errEnough = errors.New("enough")

func (a *app) retryAll(ctx context.Context, t *target, argument string, yes bool) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	asked := strings.TrimSpace("deadletter retry --all " + argument)
	kind, prefix, _ := cutGrain(argument)
	answers := bufio.NewReader(a.In)
	tally := &retryTally{}
	_, _, err = allPages(0, func(size uint32, token string) (int, string, error) {
		page, err := conn.deadLetters(ctx, asked, kind, prefix, 100, token)
		if err != nil {
			return 0, "", err
		}
		for _, d := range page.GetDeadLetters() {
			if d.GetGrain() != tally.grain {
				tally.grain, tally.before = d.GetGrain(), map[uint64]bool{}
			}
			if tally.before[d.GetSeq()] {
				continue
			}
			if !yes {
				var retry bool
				if retry, yes, err = a.askRetry(answers, d); err != nil {
					return 0, "", err
				}
				if !retry {
					tally.left++
					continue
				}
			}
			if err := a.retryNext(ctx, conn, letterName{d.GetGrain(), d.GetSeq()}, tally); err != nil {
				return 0, "", err
			}
		}
		return len(page.GetDeadLetters()), page.GetNextPageToken(), nil
	})
	if a.format != formatJSON {
		fmt.Fprintln(a.Err, tally)
	}
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if tally.rejected+tally.dead+tally.failed > 0 {
		return failed(strings.TrimSpace("granary deadletter ls "+argument), "%s: not every event was folded", asked)
	}
	return nil
}

// retryNext retries one of many. It fails where the next one would fail as well.
func (a *app) retryNext(ctx context.Context, conn *nodeConn, l letterName, tally *retryTally) error {
	s, err := conn.retryLetter(ctx, l)
	var f *failure
	switch {
	case errors.As(err, &f) && (f.reason == "NOT_OPEN" || f.reason == "NO_DEAD_LETTER"):
		tally.left++ // somebody else was here meanwhile
		s.Outcome, s.Reason = "failed", f.problem
	case errors.As(err, &f) && (f.reason == "NOT_RUNNABLE" || f.reason == "JOURNAL_CORRUPT"):
		tally.failed++
		s.Outcome, s.Reason = "failed", f.problem
	case err != nil:
		return err
	case s.Outcome == "folded":
		tally.folded++
	case s.Outcome == "rejected":
		tally.rejected++
	default:
		tally.dead++
		tally.before[s.RetriedAs] = true
	}
	return a.tellSettled(s)
}

// askRetry asks whether a dead letter is to be retried: yes, no, all from here on, or nothing more.
func (a *app) askRetry(answers *bufio.Reader, d *granaryv1.DeadLetter) (retry, all bool, err error) {
	for {
		fmt.Fprintf(a.Err, "retry %s? [y]es, [n]o, [a]ll, [q]uit: ", plain(fmt.Sprintf("%s #%d %s (%s)", d.GetGrain(), d.GetSeq(), lastPart(d.GetType()), clip(d.GetReason(), 60))))
		line, err := answers.ReadString('\n')
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return true, false, nil
		case "n", "no":
			return false, false, nil
		case "a", "all":
			return true, true, nil
		case "q", "quit":
			return false, false, errEnough
		}
		if errors.Is(err, io.EOF) {
			fmt.Fprintln(a.Err)
			return false, false, failed("give --yes where nobody can answer", "deadletter retry --all: no answer")
		}
		if err != nil {
			return false, false, err
		}
	}
}
