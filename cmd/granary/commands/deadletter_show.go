package commands

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func (a *app) deadLetterShowCommand(t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "show KIND/KEY SEQ",
		Short: "show a dead letter: its event, why it failed, and whether it is open",
		Long: `Shows a dead letter, open or settled: the event, who it came from, why its turn failed, and if it was retried, as which
record. A payload of a type that the node does not know is told by its size; -o json leaves it out.

With -o json: an object with grain, open, settled ("retried" or "dropped"; left out while it is open, and where so much
came after it that this was not looked up), retriedAs, and the fields of granary grain history -o json.`,
		Example:           `  granary deadletter show account/42 17`,
		Args:              letterArgs,
		ValidArgsFunction: a.completeLetter(t),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := oneLetter(cmd, args)
			if err != nil {
				return err
			}
			return a.showDeadLetter(cmd.Context(), t, l)
		},
	}
}

// shownLetterJSON is the form of a dead letter under -o json.
type shownLetterJSON struct {
	Grain     string `json:"grain"`
	Open      bool   `json:"open"`
	Settled   string `json:"settled,omitempty"`
	RetriedAs uint64 `json:"retriedAs,omitempty"`
	recordJSON
}

func (a *app) showDeadLetter(ctx context.Context, t *target, l letterName) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := conn.call(ctx)
	defer cancel()
	got, err := granaryv1.NewDeadLetterServiceClient(conn).Get(ctx, &granaryv1.DeadLetterServiceGetRequest{Grain: l.grain, Seq: l.seq})
	if err != nil {
		return conn.letterFailure("deadletter show "+l.String(), l, err)
	}
	r := got.GetRecord()
	if a.format == formatJSON {
		return a.printJSON(shownLetterJSON{got.GetGrain(), got.GetOpen(), got.GetSettled(), got.GetRetriedAs(), recordOf(r)})
	}
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(a.Out, "%s  %s\n", a.screen.out.bold(fmt.Sprintf("%-8s", name)), plain(value))
		}
	}
	line("grain", got.GetGrain())
	line("seq", fmt.Sprint(r.GetSeq()))
	line("time", timeText(r.GetTime()))
	line("type", r.GetType())
	line("from", cameFrom(r))
	line("id", r.GetId())
	line("logic", logicText(r.GetLogicVersion()))
	line("position", r.GetPosition())
	line("reason", r.GetReason())
	line("status", letterStatus(got))
	if r.GetPayload() == nil {
		line("payload", several(len(r.GetPayloadProtobuf()), "byte")+" of protobuf")
		return nil
	}
	text, err := jsonText(object(r.GetPayload()), "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, text)
	return err
}

func logicText(version uint32) string {
	if version == 0 {
		return "" // no logic ran
	}
	return fmt.Sprint(version)
}

func letterStatus(got *granaryv1.DeadLetterServiceGetResponse) string {
	switch {
	case got.GetOpen():
		return "open"
	case got.GetRetriedAs() != 0:
		return fmt.Sprintf("retried as #%d", got.GetRetriedAs())
	case got.GetSettled() != "":
		return got.GetSettled()
	}
	return "retried or dropped, long ago"
}
