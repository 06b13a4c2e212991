package commands

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// maxPayload is how much of standard input is read as an event or a question.
const maxPayload = 4 << 20

// ask holds the flags of `granary ask`.
type ask struct {
	id, source string
	wait       time.Duration
}

func (a *app) askCommand() *cobra.Command {
	t, k := &target{}, ask{}
	cmd := &cobra.Command{
		Use:   "ask KIND/KEY TYPE [JSON|-]",
		Short: "publish one event and show the reply of the grain, or of the one that it left the reply to",
		Long: `Publishes one event of a type that the grain's kind takes, see: granary kind show KIND. Then waits for the reply: that
of the event's own turn, or that of a later turn, of any grain, if it was left to one. The event is JSON; - reads it
from standard input, and nothing stands for {}.

With an --id, asking again does not publish again: it shows the same reply, or waits for it if there is none yet.
Without one a new id is made; when no reply comes in time, it is told.

With -o json: an object with grain, id, seq, position, duplicate (it was asked before), replyType and reply (both left
out if the turn gave none).`,
		Example: `  granary ask account/42 Authorize '{"transactionId":"tx-1","merchant":"7","amountCents":"1250"}'
  granary ask account/42 Authorize --id tx-1 --wait 1m - < event.json`,
		Args:              grainAndType,
		ValidArgsFunction: a.completeGrain(t),
		RunE: func(cmd *cobra.Command, args []string) error {
			if k.wait <= 0 || k.wait > 5*time.Minute {
				return usageFailure(cmd, "%s: --wait must be more than 0s and at most 5m", cmd.CommandPath())
			}
			payload, err := a.payload(cmd, args)
			if err != nil {
				return err
			}
			if k.id == "" {
				k.id = newAskID()
			}
			event := &granaryv1.Event{Grain: args[0], Type: args[1], Id: k.id, Source: k.source, Payload: &granaryv1.Event_Json{Json: payload}}
			return a.ask(cmd.Context(), t, event, k.wait)
		},
	}
	t.addTo(cmd)
	cmd.Flags().StringVar(&k.id, "id", "", "`id` of the event; made up if left out")
	cmd.Flags().StringVar(&k.source, "source", "", "`source` that issued the id")
	cmd.Flags().DurationVar(&k.wait, "wait", 10*time.Second, "how long to wait for the reply, at most 5m")
	return cmd
}

func newAskID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// grainAndType are the arguments KIND/KEY TYPE [JSON|-].
func grainAndType(cmd *cobra.Command, args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return usageFailure(cmd, "%s wants a grain as KIND/KEY, a type, and JSON or -; got %d arguments", cmd.CommandPath(), len(args))
	}
	return oneGrain(cmd, args[:1])
}

// payload is the third argument of a command.
func (a *app) payload(cmd *cobra.Command, args []string) (*structpb.Struct, error) {
	text := []byte("{}")
	if len(args) == 3 {
		text = []byte(args[2])
	}
	if string(text) == "-" {
		var err error
		if text, err = io.ReadAll(io.LimitReader(a.In, maxPayload+1)); err != nil {
			return nil, failed(cmd.CommandPath()+" --help", "%s: standard input: %w", cmd.CommandPath(), err)
		}
		if len(text) > maxPayload {
			return nil, usageFailure(cmd, "%s: standard input has more than %d bytes", cmd.CommandPath(), maxPayload)
		}
	}
	out := &structpb.Struct{}
	if err := out.UnmarshalJSON(text); err != nil {
		if !json.Valid(text) {
			return nil, usageFailure(cmd, "%s: %s is not JSON", cmd.CommandPath(), shellQuote(clipText(string(text))))
		}
		return nil, usageFailure(cmd, "%s: %s is not a JSON object", cmd.CommandPath(), shellQuote(clipText(string(text))))
	}
	return out, nil
}

func clipText(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// askJSON is the form of a reply under -o json.
type askJSON struct {
	Grain     string          `json:"grain"`
	ID        string          `json:"id"`
	Seq       uint64          `json:"seq"`
	Position  string          `json:"position"`
	Duplicate bool            `json:"duplicate"`
	ReplyType string          `json:"replyType,omitempty"`
	Reply     json.RawMessage `json:"reply,omitempty"`
}

func (a *app) ask(ctx context.Context, t *target, event *granaryv1.Event, wait time.Duration) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, wait+conn.timeout)
	defer cancel()
	got, err := granaryv1.NewEventServiceClient(conn).Ask(ctx, &granaryv1.AskRequest{Event: event, Wait: durationpb.New(wait)})
	if err != nil {
		return conn.askFailure(event, err)
	}
	r := got.GetResult()
	if a.format == formatJSON {
		out := askJSON{Grain: event.GetGrain(), ID: event.GetId(), Seq: r.GetSeq(), Position: r.GetPosition(), Duplicate: r.GetDuplicate()}
		if got.GetReply() != nil {
			out.ReplyType, out.Reply = typeName(got.GetReply().GetTypeUrl()), object(got.GetJson())
		}
		return a.printJSON(out)
	}
	fmt.Fprintf(a.Out, "%s  %s\n", a.screen.out.bold("seq   "), fmt.Sprint(r.GetSeq())+map[bool]string{true: " (asked before)"}[r.GetDuplicate()])
	if got.GetReply() == nil {
		_, err = fmt.Fprintf(a.Out, "%s  none\n", a.screen.out.bold("reply "))
		return err
	}
	return a.showReply("reply ", typeName(got.GetReply().GetTypeUrl()), got.GetJson())
}

// showReply shows a message to a person.
func (a *app) showReply(what, typ string, msg *structpb.Struct) error {
	fmt.Fprintf(a.Out, "%s  %s\n", a.screen.out.bold(what), plain(typ))
	text, err := jsonText(object(msg), "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, text)
	return err
}

// askFailure says how to ask again without publishing again.
func (n *nodeConn) askFailure(event *granaryv1.Event, err error) error {
	f := n.callFailure("ask "+event.GetGrain(), err)
	grain := shellQuote(event.GetGrain())
	switch f.reason {
	case "REJECTED":
		f.next = "granary grain history " + grain
	case deadLettered:
		if seq, err := strconv.ParseUint(f.values["seq"], 10, 64); err == nil {
			f.next = "granary deadletter show " + letterName{event.GetGrain(), seq}.arguments()
		}
	case "INVALID_PAYLOAD":
		kind, _, _ := cutGrain(event.GetGrain())
		f.next = "granary kind show " + shellQuote(kind)
	}
	switch f.code {
	case codeName(int32(codes.DeadlineExceeded)), codeName(int32(codes.Unavailable)), codeName(int32(codes.ResourceExhausted)):
		again := "ask again with --id " + shellQuote(event.GetId()) + ": the event does not count twice"
		if f.exit == ExitUnreachable {
			again = f.next + "; then " + again
		}
		f.next = again
	}
	return f
}
