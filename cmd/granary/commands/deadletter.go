package commands

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// deadLetterCommand is `granary deadletter`.
func (a *app) deadLetterCommand() *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:   "deadletter",
		Short: "look after the events whose turns failed: list, show, retry, drop",
		Long: `A turn that fails (its handler panics or returns an error that is no rejection) leaves no trace in the state. Its
event stays in the history of the grain as a dead letter, and so does one that was sent to a grain which does not take
it. It is open until somebody retries or drops it.

The usual way: see why it failed, deploy a version of the kind that can handle the event, retry it.`,
		Example: `  granary deadletter ls
  granary deadletter show account/42 17
  granary deadletter retry account/42 17`,
	}
	t.addTo(cmd)
	return a.group(cmd, a.deadLetterListCommand(t), a.deadLetterShowCommand(t), a.deadLetterRetryCommand(t), a.deadLetterDropCommand(t))
}

// letterName is a dead letter as the command line names it.
type letterName struct {
	grain string
	seq   uint64
}

func (l letterName) String() string { return fmt.Sprintf("%s #%d", l.grain, l.seq) }

// arguments are what names the dead letter behind a command.
func (l letterName) arguments() string { return fmt.Sprintf("%s %d", shellQuote(l.grain), l.seq) }

// oneLetter is the arguments KIND/KEY SEQ.
func oneLetter(cmd *cobra.Command, args []string) (l letterName, err error) {
	if len(args) != 2 {
		return l, usageFailure(cmd, "%s wants a grain as KIND/KEY and the number of a record, for example account/42 17; got %d arguments", cmd.CommandPath(), len(args))
	}
	if _, err := grains.ParseRef(args[0]); err != nil {
		return l, usageFailure(cmd, "%s: %w", cmd.CommandPath(), err)
	}
	seq, err := strconv.ParseUint(strings.TrimPrefix(args[1], "#"), 10, 64)
	if err != nil || seq == 0 {
		return l, usageFailure(cmd, "%s: %q is not the number of a record: want 1, 2, 3, …", cmd.CommandPath(), args[1])
	}
	return letterName{args[0], seq}, nil
}

func letterArgs(cmd *cobra.Command, args []string) error {
	_, err := oneLetter(cmd, args)
	return err
}

// letterFailure is [nodeConn.callFailure] with the next step for a dead letter.
func (n *nodeConn) letterFailure(asked string, l letterName, err error) *failure {
	f := n.callFailure(asked, err)
	kind, _, _ := cutGrain(l.grain)
	switch f.reason {
	case "NOT_OPEN":
		f.next = "granary deadletter show " + l.arguments()
	case "NO_DEAD_LETTER":
		f.next = "granary deadletter ls " + kind
	case "NOT_RUNNABLE":
		f.next = "run a version that has the kind and takes the event, and retry again; or: granary deadletter drop " + l.arguments()
	case "LOGIC_MISSING":
		f.next = "start a binary that has this version of kind " + kind + ", and retry again"
	}
	return f
}

// completeLetter offers the grains that have open dead letters, and behind a grain the numbers of those.
func (a *app) completeLetter(t *target) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(args) > 1 {
			return nil, none
		}
		conn, err := t.dial()
		if err != nil {
			return nil, none
		}
		defer conn.Close()
		ctx, cancel := conn.call(cmd.Context())
		defer cancel()
		wanted := typed
		if len(args) == 1 {
			wanted = args[0]
		}
		req := &granaryv1.DeadLetterServiceListRequest{PageSize: 200}
		if kind, prefix, ok := cutGrain(wanted); ok {
			req.Kind, req.Prefix = kind, prefix
		}
		page, err := granaryv1.NewDeadLetterServiceClient(conn).List(ctx, req)
		if err != nil {
			return nil, none
		}
		for _, d := range page.GetDeadLetters() {
			name := d.GetGrain()
			if len(args) == 1 {
				if name != args[0] {
					continue
				}
				name = fmt.Sprint(d.GetSeq())
			}
			if strings.HasPrefix(name, typed) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		return names, none
	}
}
