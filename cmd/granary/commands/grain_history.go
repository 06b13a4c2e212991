package commands

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// grainHistory holds the flags of `granary grain history`.
type grainHistory struct {
	limit   uint64
	newest  bool
	fromSeq uint64
}

func (a *app) grainHistoryCommand(t *target) *cobra.Command {
	var h grainHistory
	cmd := &cobra.Command{
		Use:   "history KIND/KEY",
		Short: "show the records of a grain: its events and what came of each",
		Long: `Shows the records of a grain, oldest first or, with --newest, newest first: number, journal time, type, outcome
(folded, rejected with its reason, or dead-lettered), who it came from, its id, what it sent, and its payload.

With -o json: one object a line, with seq, position, time, eventTime, type, id, source, producer,
producerSequence, sender, cause, hops, headers, outcome ("folded", "rejected", "dead-lettered"), reason,
effects ([{"send": {"grain", "type", "payload"}}]), payload and logicVersion. What a record does not have is left
out.`,
		Example: `  granary grain history account/42
  granary grain history account/42 --newest --limit 5
  granary grain history account/42 --from-seq 1000 --limit 0 -o json`,
		Args:              oneGrain,
		ValidArgsFunction: a.completeGrain(t),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.history(cmd.Context(), t, args[0], h)
		},
	}
	cmd.Flags().Uint64Var(&h.limit, "limit", 100, "at most this `number` of records; 0 for all")
	cmd.Flags().BoolVar(&h.newest, "newest", false, "newest first")
	cmd.Flags().Uint64Var(&h.fromSeq, "from-seq", 0, "begin with the record of this `number`, in either order")
	return cmd
}

func (a *app) history(ctx context.Context, t *target, grain string, h grainHistory) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := granaryv1.NewGrainServiceClient(conn)
	table := a.newTable(">SEQ", "TIME", "TYPE", "OUTCOME", "FROM", "ID", "SENT", "PAYLOAD")
	return a.pages(table, h.limit, "record", func(size uint32, token string) (int, string, error) {
		ctx, cancel := conn.call(ctx)
		defer cancel()
		page, err := client.History(ctx, &granaryv1.HistoryRequest{
			Grain: grain, PageSize: size, PageToken: token, NewestFirst: h.newest, FromSeq: h.fromSeq,
		})
		if err != nil {
			return 0, "", conn.grainFailure("grain history "+grain, grain, err)
		}
		for _, r := range page.GetRecords() {
			if a.format == formatJSON {
				if err := a.printJSONLine(recordOf(r)); err != nil {
					return 0, "", err
				}
				continue
			}
			if err := table.row(recordRow(r)...); err != nil {
				return 0, "", err
			}
		}
		return len(page.GetRecords()), page.GetNextPageToken(), nil
	})
}

// recordJSON is the form of a record under -o json.
type recordJSON struct {
	Seq              uint64            `json:"seq"`
	Position         string            `json:"position"`
	Time             string            `json:"time"`
	EventTime        string            `json:"eventTime,omitempty"`
	Type             string            `json:"type"`
	ID               string            `json:"id,omitempty"`
	Source           string            `json:"source,omitempty"`
	Producer         string            `json:"producer,omitempty"`
	ProducerSequence uint64            `json:"producerSequence,omitempty"`
	Sender           string            `json:"sender,omitempty"`
	Cause            string            `json:"cause,omitempty"`
	Hops             uint32            `json:"hops,omitempty"`
	Headers          map[string]string `json:"headers,omitempty"`
	Outcome          string            `json:"outcome"`
	Reason           string            `json:"reason,omitempty"`
	Effects          []effectJSON      `json:"effects,omitempty"`
	Payload          json.RawMessage   `json:"payload,omitempty"`
	LogicVersion     uint32            `json:"logicVersion"`
}

type effectJSON struct {
	Send *sendJSON `json:"send,omitempty"`
}

type sendJSON struct {
	Grain   string          `json:"grain"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

func recordOf(r *granaryv1.HistoryRecord) recordJSON {
	out := recordJSON{
		Seq: r.GetSeq(), Position: r.GetPosition(), Time: jsonTime(r.GetTime()), EventTime: jsonTime(r.GetEventTime()),
		Type: r.GetType(), ID: r.GetId(), Source: r.GetSource(), Producer: r.GetProducer(),
		ProducerSequence: r.GetProducerSequence(), Sender: r.GetSender(), Cause: r.GetCause(), Hops: r.GetHops(),
		Headers: r.GetHeaders(), Outcome: outcomeName(r.GetOutcome()), Reason: r.GetReason(), LogicVersion: r.GetLogicVersion(),
	}
	if r.GetPayload() != nil {
		out.Payload = object(r.GetPayload())
	}
	for _, e := range r.GetEffects() {
		var effect effectJSON
		if s := e.GetSend(); s != nil {
			effect.Send = &sendJSON{Grain: s.GetGrain(), Type: s.GetType()}
			if s.GetPayload() != nil {
				effect.Send.Payload = object(s.GetPayload())
			}
		}
		out.Effects = append(out.Effects, effect)
	}
	return out
}

func outcomeName(o granaryv1.RecordOutcome) string {
	switch o {
	case granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED:
		return "folded"
	case granaryv1.RecordOutcome_RECORD_OUTCOME_REJECTED:
		return "rejected"
	case granaryv1.RecordOutcome_RECORD_OUTCOME_DEAD_LETTERED:
		return "dead-lettered"
	}
	return "unknown"
}

// recordRow is a record as a row of the table: types by their last part, and long texts clipped.
func recordRow(r *granaryv1.HistoryRecord) []string {
	const most = 60
	outcome := outcomeName(r.GetOutcome())
	if r.GetReason() != "" {
		outcome += ": " + r.GetReason()
	}
	payload := ""
	if r.GetPayload() != nil {
		payload = string(object(r.GetPayload()))
	}
	var sent []string
	for _, e := range r.GetEffects() {
		if s := e.GetSend(); s != nil {
			sent = append(sent, lastPart(s.GetType())+" to "+s.GetGrain())
		}
	}
	return []string{
		fmt.Sprint(r.GetSeq()), timeText(r.GetTime()), lastPart(r.GetType()), clip(outcome, most), clip(cameFrom(r), most),
		clip(cmp.Or(r.GetId(), "-"), most), clip(cmp.Or(strings.Join(sent, ", "), "-"), most), clip(payload, most),
	}
}

func cameFrom(r *granaryv1.HistoryRecord) string {
	if r.GetProducer() != "" {
		return fmt.Sprintf("%s #%d", r.GetProducer(), r.GetProducerSequence())
	}
	return cmp.Or(r.GetSender(), r.GetSource(), "-")
}

// lastPart is the name of a message without its package.
func lastPart(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }
