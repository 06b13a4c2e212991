package commands

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// grainHistory holds the flags of `granary grain history`.
type grainHistory struct {
	limit   uint64
	newest  bool
	fromSeq uint64
	diff    bool
}

func (a *app) grainHistoryCommand(t *target) *cobra.Command {
	var h grainHistory
	cmd := &cobra.Command{
		Use:   "history KIND/KEY",
		Short: "show the records of a grain: its events and what came of each",
		Long: `Shows the records of a grain, oldest first or, with --newest, newest first: number, journal time, type, outcome
(folded, rejected with its reason, or dead-lettered), who it came from, its id, what it sent, and its payload.

With --diff, what each record changed in the state is shown below it: the fields with their values before and after,
and of lists the elements that went (-) and came (+). The node folds the state for each record, so ask for few.

With -o json: one object a line, with seq, position, time, eventTime, type, id, source, producer,
producerSequence, sender, cause, hops, headers, outcome ("folded", "rejected", "dead-lettered"), reason,
effects ([{"send": {"grain", "type", "payload"}}]), payload and logicVersion; with --diff also changes ([{"path",
"before", "after"}]). What a record does not have is left out.`,
		Example: `  granary grain history account/42
  granary grain history account/42 --newest --limit 5
  granary grain history account/42 --newest --limit 1 --diff
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
	cmd.Flags().BoolVar(&h.diff, "diff", false, "show what each record changed in the state")
	return cmd
}

func (a *app) history(ctx context.Context, t *target, grain string, h grainHistory) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := granaryv1.NewGrainServiceClient(conn)
	past := &pastStates{grain: grain, client: client, conn: conn}
	table := a.newTable(">SEQ", "TIME", "TYPE", "OUTCOME", "FROM", "ID", "DID", "PAYLOAD")
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
			var changed []change
			if h.diff {
				if changed, err = past.changes(ctx, r.GetSeq()); err != nil {
					return 0, "", err
				}
			}
			switch {
			case a.format == formatJSON:
				line := recordOf(r)
				if h.diff {
					line.Changes = changesOf(changed)
				}
				err = a.printJSONLine(line)
			case h.diff:
				err = a.showChanges(r, changed)
			default:
				err = table.row(recordRow(r)...)
			}
			if err != nil {
				return 0, "", err
			}
		}
		return len(page.GetRecords()), page.GetNextPageToken(), nil
	})
}

// pastStates are the states of a grain that were asked for last: the state before a record is that after another.
type pastStates struct {
	grain  string
	client granaryv1.GrainServiceClient
	conn   *nodeConn
	states map[uint64]*structpb.Struct
}

// changes are what a record changed in the state.
func (p *pastStates) changes(ctx context.Context, seq uint64) ([]change, error) {
	asked := map[uint64]*structpb.Struct{}
	for _, at := range []uint64{seq - 1, seq} {
		if state, known := p.states[at]; known {
			asked[at] = state
			continue
		}
		req := &granaryv1.GetRequest{Grain: p.grain, Stale: true, Format: granaryv1.StateFormat_STATE_FORMAT_JSON}
		if req.At = (&granaryv1.GetRequest_AtSeq{AtSeq: at}); at == 0 {
			req.At = &granaryv1.GetRequest_AtTime{AtTime: &timestamppb.Timestamp{}} // before everything
		}
		ctx, cancel := p.conn.call(ctx)
		got, err := p.client.Get(ctx, req)
		cancel()
		if err != nil {
			return nil, p.conn.grainFailure("grain history "+p.grain+" --diff", p.grain, err)
		}
		asked[at] = got.GetJson()
	}
	p.states = asked
	return stateChanges(asked[seq-1], asked[seq]), nil
}

// showChanges is a record, and below it what it changed.
func (a *app) showChanges(r *granaryv1.HistoryRecord, changed []change) error {
	row := recordRow(r)
	fmt.Fprintf(a.Out, "%s  %s  %s  %s\n", a.screen.out.bold("#"+plain(row[0])), plain(row[1]), plain(row[2]), plain(row[3]))
	fmt.Fprintf(a.Out, "  from %s, id %s, did %s, payload %s\n", plain(row[4]), plain(row[5]), plain(row[6]), plain(row[7]))
	if len(changed) == 0 {
		_, err := fmt.Fprintln(a.Out, "  changed nothing")
		return err
	}
	width := 0
	for _, c := range changed {
		width = max(width, len(c.Path))
	}
	for _, c := range changed {
		if _, err := fmt.Fprintf(a.Out, "  %-*s  %s\n", width, plain(c.Path), plain(c.line())); err != nil {
			return err
		}
	}
	return nil
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
	Reminder         uint64            `json:"reminder,omitempty"`
	Reply            *messageJSON      `json:"reply,omitempty"`
	Changes          []changeJSON      `json:"changes,omitempty"`
}

func recordOf(r *granaryv1.HistoryRecord) recordJSON {
	out := recordJSON{
		Seq: r.GetSeq(), Position: r.GetPosition(), Time: jsonTime(r.GetTime()), EventTime: jsonTime(r.GetEventTime()),
		Type: r.GetType(), ID: r.GetId(), Source: r.GetSource(), Producer: r.GetProducer(),
		ProducerSequence: r.GetProducerSequence(), Sender: r.GetSender(), Cause: r.GetCause(), Hops: r.GetHops(),
		Headers: r.GetHeaders(), Outcome: outcomeName(r.GetOutcome()), Reason: r.GetReason(), LogicVersion: r.GetLogicVersion(),
		Reminder: r.GetReminder(),
	}
	if r.GetPayload() != nil {
		out.Payload = object(r.GetPayload())
	}
	if reply := r.GetReply(); reply != nil {
		out.Reply = &messageJSON{Type: reply.GetType(), Payload: payloadOf(reply.GetPayload())}
	}
	for _, e := range r.GetEffects() {
		out.Effects = append(out.Effects, effectOf(e))
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
		sent = append(sent, effectText(e))
	}
	if reply := r.GetReply(); reply != nil {
		sent = append(sent, "reply "+lastPart(reply.GetType()))
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
	if r.GetReminder() != 0 {
		return fmt.Sprintf("reminder %d", r.GetReminder())
	}
	return cmp.Or(r.GetSender(), r.GetSource(), "-")
}

// lastPart is the name of a message without its package.
func lastPart(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }
