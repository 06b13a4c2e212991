package commands

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func (a *app) deadLetterListCommand(t *target) *cobra.Command {
	var limit uint64
	cmd := &cobra.Command{
		Use:   "ls [KIND[/PREFIX]]",
		Short: "list the open dead letters: of all kinds, of a kind, or of keys with a prefix",
		Long: `Lists the dead letters that nobody retried or dropped yet, in the order of their grains and numbers.

With -o json: one object a line, with grain, seq, position, time, type, reason and sender (where a grain sent it).`,
		Example: `  granary deadletter ls
  granary deadletter ls account
  granary deadletter ls account/40 --limit 0 -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && (args[0] == "" || strings.HasPrefix(args[0], "/")) {
				return usageFailure(cmd, "%s wants nothing, a kind, or KIND/PREFIX, for example account or account/4", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: a.completeGrain(t),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.listDeadLetters(cmd.Context(), t, strings.Join(args, ""), limit)
		},
	}
	cmd.Flags().Uint64Var(&limit, "limit", 1000, "at most this `number` of dead letters; 0 for all")
	return cmd
}

// deadLetterJSON is the form of a listed dead letter under -o json.
type deadLetterJSON struct {
	Grain    string `json:"grain"`
	Seq      uint64 `json:"seq"`
	Position string `json:"position"`
	Time     string `json:"time"`
	Type     string `json:"type"`
	Reason   string `json:"reason"`
	Sender   string `json:"sender,omitempty"`
}

func (a *app) listDeadLetters(ctx context.Context, t *target, argument string, limit uint64) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	const most = 60
	table := a.newTable("GRAIN", ">SEQ", "TIME", "TYPE", "FROM", "REASON")
	kind, prefix, _ := cutGrain(argument)
	return a.pages(table, limit, "open dead letter", func(size uint32, token string) (int, string, error) {
		page, err := conn.deadLetters(ctx, strings.TrimSpace("deadletter ls "+argument), kind, prefix, size, token)
		if err != nil {
			return 0, "", err
		}
		for _, d := range page.GetDeadLetters() {
			if a.format == formatJSON {
				err = a.printJSONLine(deadLetterJSON{d.GetGrain(), d.GetSeq(), d.GetPosition(), jsonTime(d.GetTime()), d.GetType(), d.GetReason(), d.GetSender()})
			} else {
				err = table.row(d.GetGrain(), fmt.Sprint(d.GetSeq()), timeText(d.GetTime()), lastPart(d.GetType()), cmp.Or(d.GetSender(), "-"), clip(d.GetReason(), most))
			}
			if err != nil {
				return 0, "", err
			}
		}
		return len(page.GetDeadLetters()), page.GetNextPageToken(), nil
	})
}

// deadLetters asks for a page of open dead letters.
func (n *nodeConn) deadLetters(ctx context.Context, asked, kind, prefix string, size uint32, token string) (*granaryv1.DeadLetterServiceListResponse, error) {
	ctx, cancel := n.call(ctx)
	defer cancel()
	page, err := granaryv1.NewDeadLetterServiceClient(n).List(ctx, &granaryv1.DeadLetterServiceListRequest{Kind: kind, Prefix: prefix, PageSize: size, PageToken: token})
	if err != nil {
		return nil, n.callFailure(asked, err)
	}
	return page, nil
}
