package commands

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// reminderCommand is `granary reminder`.
func (a *app) reminderCommand() *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:     "reminder",
		Short:   "look at the reminders that grains have set and that are pending",
		Example: "  granary reminder ls account",
	}
	t.addTo(cmd)
	return a.group(cmd, a.reminderListCommand(t))
}

func (a *app) reminderListCommand(t *target) *cobra.Command {
	var limit uint64
	var exact bool
	cmd := &cobra.Command{
		Use:   "ls KIND[/PREFIX]",
		Short: "list the pending reminders of a kind, or of one grain",
		Long: `Lists the pending reminders of the grains of a kind, or of those whose keys begin with a prefix, in the order of the
keys. With --exact the key is the whole key of one grain, and only its reminders are listed. It loads no grain.

One that is overdue by more than a second waits for something: the disk is full, the node is catching up, or its grain
cannot be loaded, which granary grain get tells.

With -o json: one object a line, with grain, id (unique in the grain), due (when it fires next), every (left out if it
fires once), type and payload (the event that the grain gets).`,
		Example: `  granary reminder ls account
  granary reminder ls account/40
  granary reminder ls account/42 --exact`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" || strings.HasPrefix(args[0], "/") {
				return usageFailure(cmd, "%s wants a kind, or KIND/PREFIX, for example account or account/4", cmd.CommandPath())
			}
			if exact {
				if _, err := grains.ParseRef(args[0]); err != nil {
					return usageFailure(cmd, "%s --exact wants one grain as KIND/KEY: %w", cmd.CommandPath(), err)
				}
			}
			return nil
		},
		ValidArgsFunction: a.completeGrain(t),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.listReminders(cmd.Context(), t, args[0], exact, limit)
		},
	}
	cmd.Flags().Uint64Var(&limit, "limit", 1000, "at most this `number` of reminders; 0 for all")
	cmd.Flags().BoolVar(&exact, "exact", false, "the key is that of one grain, and no prefix")
	return cmd
}

// reminderJSON is the form of a reminder under -o json.
type reminderJSON struct {
	Grain   string          `json:"grain"`
	ID      uint64          `json:"id"`
	Due     string          `json:"due"`
	Every   string          `json:"every,omitempty"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

func (a *app) listReminders(ctx context.Context, t *target, argument string, exact bool, limit uint64) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := granaryv1.NewGrainServiceClient(conn)
	table := a.newTable("GRAIN", ">ID", "DUE", "EVERY", "EVENT")
	kind, key, _ := cutGrain(argument)
	req := &granaryv1.ListRemindersRequest{Kind: kind, Prefix: key}
	if exact {
		req.Prefix, req.Key = "", key
	}
	return a.pages(table, limit, "reminder", func(size uint32, token string) (int, string, error) {
		ctx, cancel := conn.call(ctx)
		defer cancel()
		req.PageSize, req.PageToken = size, token
		page, err := client.ListReminders(ctx, req)
		if err != nil {
			return 0, "", conn.callFailure("reminder ls "+argument, err)
		}
		for _, r := range page.GetReminders() {
			if err := a.printReminder(table, r); err != nil {
				return 0, "", err
			}
		}
		return len(page.GetReminders()), page.GetNextPageToken(), nil
	})
}

func (a *app) printReminder(table *table, r *granaryv1.Reminder) error {
	every := ""
	if r.GetEvery() != nil {
		every = r.GetEvery().AsDuration().String()
	}
	payload := payloadOf(r.GetPayload())
	if a.format == formatJSON {
		return a.printJSONLine(reminderJSON{r.GetGrain(), r.GetId(), jsonTime(r.GetDue()), every, r.GetType(), payload})
	}
	return table.row(r.GetGrain(), fmt.Sprint(r.GetId()), timeText(r.GetDue()), cmp.Or(every, "-"),
		clip(strings.TrimSpace(lastPart(r.GetType())+" "+string(payload)), 80))
}
