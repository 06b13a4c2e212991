package commands

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/client"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// positionEvery is how often at most -o json tells the position while items come.
const positionEvery = time.Second

// tail holds the flags of `granary tail`.
type tail struct {
	from      string
	types     []string
	untilLive bool
}

func (a *app) tailCommand() *cobra.Command {
	t, o := &target{}, &tail{}
	cmd := &cobra.Command{
		Use:   "tail STREAM|KIND[/PREFIX]",
		Short: "follow a stream, or the records of a kind, from any moment on",
		Long: `Shows what is published to a stream, or the records of the grains of a kind, one line each, and goes on with what is
committed until Ctrl-C: each item once, those of a grain in order. With /PREFIX only of grains whose keys begin so. A
stream goes before a kind of the same name. When the node goes away, tail waits for it and goes on where it was. At the
end it tells on standard error the position to go on from.

With -o json: one object a line. An item is {"grain", "record": {…}} with the fields of granary grain history, or
{"grain", "message": {"stream", "seq", "position", "effect", "time", "type", "payload"}}. Between items, at the beginning
and at the end stand objects {"position", "live"}: a position is behind all items above it, and live tells that
everything that was committed at the beginning is above.`,
		Example: `  granary tail fraud.alerts
  granary tail fraud.alerts --from beginning
  granary tail account/4 --type Charged
  granary tail account --from beginning --until-live -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" || args[0][0] == '/' {
				return usageFailure(cmd, "%s wants one stream or kind, for example fraud.alerts or account/4", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			conn, err := t.dial()
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			defer conn.Close()
			ctx, cancel := conn.call(cmd.Context())
			defer cancel()
			streams, _ := streamNames(ctx, conn)
			return append(streams, kindNames(ctx, conn, "")...), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.tail(cmd.Context(), t, args[0], o)
		},
	}
	t.addTo(cmd)
	cmd.Flags().StringVar(&o.from, "from", "now", "where to begin: beginning, now, or a `position` that tail told")
	cmd.Flags().StringArrayVar(&o.types, "type", nil, "only this `type` of event or message, by full name or last part; may be repeated")
	cmd.Flags().BoolVar(&o.untilLive, "until-live", false, "end when everything that was committed at the beginning is shown")
	return cmd
}

func streamNames(ctx context.Context, conn *nodeConn) ([]string, error) {
	got, err := granaryv1.NewStreamServiceClient(conn).List(ctx, &granaryv1.StreamServiceListRequest{})
	var names []string
	for _, s := range got.GetStreams() {
		names = append(names, s.GetName())
	}
	return names, err
}

func (a *app) tail(ctx context.Context, t *target, source string, o *tail) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	asked := "tail " + source
	req, err := a.tailRequest(ctx, conn, source, o)
	if err != nil {
		return err
	}
	sub := client.Subscribe(ctx, conn, req)
	defer sub.Close()
	sub.Retrying = func(err error, _ time.Duration) {
		fmt.Fprintf(a.Err, "%s; tail tries again until Ctrl-C\n", plain(conn.callFailure(asked, err).problem))
	}
	show := &tailOutput{a: a, out: bufio.NewWriter(a.Out)}
	for err == nil {
		var response *granaryv1.SubscribeResponse
		if response, err = sub.Next(); err == nil {
			err = show.response(response)
		}
	}
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		err = nil
	}
	if position := sub.Position(); position != "" && show.failed == nil {
		if a.format == formatJSON {
			show.failed = show.position(position)
		} else {
			fmt.Fprintf(a.Err, "to go on from here: granary tail %s --from %s\n", plain(source), position)
		}
	}
	switch {
	case show.failed != nil:
		return show.failed
	case err != nil:
		f := conn.callFailure(asked, err)
		if kind := req.GetKind(); kind != "" && f.reason == unknownEventType {
			f.next = "granary kind show " + kind
		}
		return f
	}
	return nil
}

// tailRequest asks the node whether the source is a stream or a kind.
func (a *app) tailRequest(ctx context.Context, conn *nodeConn, source string, o *tail) (*granaryv1.SubscribeRequest, error) {
	ctx, cancel := conn.call(ctx)
	defer cancel()
	name, prefix, _ := strings.Cut(source, "/")
	streams, err := streamNames(ctx, conn)
	if err != nil {
		return nil, conn.callFailure("tail "+source, err)
	}
	req := &granaryv1.SubscribeRequest{KeyPrefix: prefix, Types: o.types, UntilLive: o.untilLive, Format: granaryv1.StateFormat_STATE_FORMAT_JSON}
	kinds := kindNames(ctx, conn, "")
	switch {
	case slices.Contains(streams, name):
		req.Source = &granaryv1.SubscribeRequest_Stream{Stream: name}
	case slices.Contains(kinds, name):
		req.Source = &granaryv1.SubscribeRequest_Kind{Kind: name}
	default:
		return nil, failed("granary kind ls", "tail: the node at %s has neither a stream nor a kind %q; it has the streams %s and the kinds %s",
			conn.target, name, cmp.Or(strings.Join(streams, ", "), "(none)"), strings.Join(kinds, ", "))
	}
	switch o.from {
	case "now":
		req.From = &granaryv1.SubscribeRequest_Start{Start: granaryv1.SubscribeStart_SUBSCRIBE_START_NOW}
	case "beginning":
		req.From = &granaryv1.SubscribeRequest_Start{Start: granaryv1.SubscribeStart_SUBSCRIBE_START_BEGINNING}
	default:
		req.From = &granaryv1.SubscribeRequest_Position{Position: o.from}
	}
	return req, nil
}

// tailOutput shows items.
type tailOutput struct {
	a      *app
	out    *bufio.Writer
	told   time.Time // when a position was told last
	last   string    // that one
	live   bool
	turned bool  // and that was not told
	failed error // of the output
}

// response shows what came, at once.
func (o *tailOutput) response(r *granaryv1.SubscribeResponse) error {
	for _, item := range r.GetItems() {
		if o.a.format == formatJSON {
			o.json(itemOf(item))
		} else {
			o.line(itemLine(item))
		}
	}
	o.turned = o.turned || r.GetLive() != o.live
	o.live = r.GetLive()
	if o.a.format == formatJSON && (o.turned || time.Since(o.told) >= positionEvery) {
		return o.position(r.GetPosition())
	}
	return o.flush()
}

func (o *tailOutput) flush() error {
	if err := o.out.Flush(); o.failed == nil {
		o.failed = err
	}
	return o.failed
}

func (o *tailOutput) line(text string) {
	if _, err := fmt.Fprintln(o.out, text); o.failed == nil {
		o.failed = err
	}
}

func (o *tailOutput) json(v any) {
	text, err := jsonText(v, "")
	if err != nil {
		o.failed = err
		return
	}
	o.line(text)
}

func (o *tailOutput) position(position string) error {
	if position == o.last && !o.turned {
		return o.flush()
	}
	o.last, o.turned, o.told = position, false, time.Now()
	o.json(struct {
		Position string `json:"position"`
		Live     bool   `json:"live"`
	}{position, o.live})
	return o.flush()
}

// itemJSON is the form of an item under -o json.
type itemJSON struct {
	Grain   string             `json:"grain"`
	Record  *recordJSON        `json:"record,omitempty"`
	Message *streamMessageJSON `json:"message,omitempty"`
}

type streamMessageJSON struct {
	Stream   string          `json:"stream"`
	Seq      uint64          `json:"seq"`
	Position string          `json:"position"`
	Effect   uint32          `json:"effect"`
	Time     string          `json:"time"`
	Type     string          `json:"type"`
	Payload  json.RawMessage `json:"payload,omitempty"`
}

func itemOf(i *granaryv1.SubscribeItem) itemJSON {
	out := itemJSON{Grain: i.GetGrain()}
	if m := i.GetMessage(); m != nil {
		out.Message = &streamMessageJSON{Stream: m.GetStream(), Seq: m.GetSeq(), Position: m.GetPosition(), Effect: m.GetEffect(),
			Time: jsonTime(m.GetTime()), Type: m.GetType(), Payload: payloadOf(m.GetPayload())}
		return out
	}
	record := recordOf(i.GetRecord())
	out.Record = &record
	return out
}

// itemLine is an item as a line for people: time, grain, seq, type, what came of it, and the payload.
func itemLine(i *granaryv1.SubscribeItem) string {
	const most = 120
	if m := i.GetMessage(); m != nil {
		payload := ""
		if m.GetPayload() != nil {
			payload = string(object(m.GetPayload()))
		}
		return plain(fmt.Sprintf("%s  %s #%d  %s  %s", timeText(m.GetTime()), i.GetGrain(), m.GetSeq(), lastPart(m.GetType()), clip(payload, most)))
	}
	r := i.GetRecord()
	outcome := outcomeName(r.GetOutcome())
	if r.GetReason() != "" {
		outcome += ": " + clip(r.GetReason(), most)
	}
	payload := ""
	if r.GetPayload() != nil {
		payload = string(object(r.GetPayload()))
	}
	return plain(fmt.Sprintf("%s  %s #%d  %s  %s  %s", timeText(r.GetTime()), i.GetGrain(), r.GetSeq(), lastPart(r.GetType()), outcome, clip(payload, most)))
}
