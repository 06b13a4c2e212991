package commands

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func (a *app) grainListCommand(t *target) *cobra.Command {
	var limit uint64
	cmd := &cobra.Command{
		Use:   "ls KIND[/PREFIX]",
		Short: "list the grains of a kind in the order of their keys",
		Long: `Lists the grains of a kind, or those whose keys begin with a prefix, in the order of their keys. It reads keys and
loads no grain, so it is cheap however many there are.

With -o json: one object a line, with grain, seq and time (of the grain's last record).`,
		Example: `  granary grain ls account
  granary grain ls account/40
  granary grain ls account --limit 0 -o json | wc -l`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" || strings.HasPrefix(args[0], "/") {
				return usageFailure(cmd, "%s wants a kind, or KIND/PREFIX, for example account or account/4", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: a.completeGrain(t),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.listGrains(cmd.Context(), t, args[0], limit)
		},
	}
	cmd.Flags().Uint64Var(&limit, "limit", 1000, "at most this `number` of grains; 0 for all")
	return cmd
}

// grainJSON is the form of a listed grain under -o json.
type grainJSON struct {
	Grain string `json:"grain"`
	Seq   uint64 `json:"seq"`
	Time  string `json:"time,omitempty"`
}

func (a *app) listGrains(ctx context.Context, t *target, argument string, limit uint64) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := granaryv1.NewGrainServiceClient(conn)
	table := a.newTable("GRAIN", ">SEQ", "TIME")
	kind, prefix, _ := cutGrain(argument)
	return a.pages(table, limit, "grain", func(size uint32, token string) (int, string, error) {
		ctx, cancel := conn.call(ctx)
		defer cancel()
		page, err := client.List(ctx, &granaryv1.ListRequest{Kind: kind, Prefix: prefix, PageSize: size, PageToken: token})
		if err != nil {
			return 0, "", conn.callFailure("grain ls "+argument, err)
		}
		for _, g := range page.GetGrains() {
			if a.format == formatJSON {
				if err := a.printJSONLine(grainJSON{g.GetGrain(), g.GetSeq(), jsonTime(g.GetTime())}); err != nil {
					return 0, "", err
				}
				continue
			}
			if err := table.row(g.GetGrain(), fmt.Sprint(g.GetSeq()), timeText(g.GetTime())); err != nil {
				return 0, "", err
			}
		}
		return len(page.GetGrains()), page.GetNextPageToken(), nil
	})
}

// cutGrain cuts KIND/KEY, or KIND alone.
func cutGrain(s string) (kind, key string, hasKey bool) { return strings.Cut(s, "/") }
