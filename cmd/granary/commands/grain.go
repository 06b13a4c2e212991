package commands

import (
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// grainCommand is `granary grain`.
func (a *app) grainCommand() *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:   "grain",
		Short: "look at grains: what they know, how they came to know it, which there are",
		Example: `  granary grain ls account
  granary grain get account/42
  granary grain history account/42`,
	}
	t.addTo(cmd)
	return a.group(cmd, a.grainGetCommand(t), a.grainQueryCommand(t), a.grainHistoryCommand(t), a.grainListCommand(t))
}

// oneGrain is the argument KIND/KEY.
func oneGrain(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageFailure(cmd, "%s wants one grain as KIND/KEY, for example account/42; got %d arguments", cmd.CommandPath(), len(args))
	}
	if _, err := grains.ParseRef(args[0]); err != nil {
		return usageFailure(cmd, "%s: %w", cmd.CommandPath(), err)
	}
	return nil
}

// grainFailure is [nodeConn.callFailure] with the next step for a grain.
func (n *nodeConn) grainFailure(asked, grain string, err error) error {
	f := n.callFailure(asked, err)
	if f.code == codeName(int32(codes.OutOfRange)) {
		f.next = "granary grain history " + shellQuote(grain) + " --newest --limit 1"
	}
	return f
}

// completeGrain offers the kinds, and behind a kind its keys.
func (a *app) completeGrain(t *target) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(args) > 0 {
			return nil, none
		}
		conn, err := t.dial()
		if err != nil {
			return nil, none
		}
		defer conn.Close()
		ctx, cancel := conn.call(cmd.Context())
		defer cancel()
		kind, prefix, hasKey := cutGrain(typed)
		if !hasKey {
			return kindNames(ctx, conn, "/"), none | cobra.ShellCompDirectiveNoSpace
		}
		const most = 50
		page, err := granaryv1.NewGrainServiceClient(conn).List(ctx, &granaryv1.ListRequest{Kind: kind, Prefix: prefix, PageSize: most})
		if err != nil {
			return nil, none
		}
		var names []cobra.Completion
		for _, g := range page.GetGrains() {
			names = append(names, g.GetGrain())
		}
		return names, none
	}
}
