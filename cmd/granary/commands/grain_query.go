package commands

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func (a *app) grainQueryCommand(t *target) *cobra.Command {
	var g grainGet // it has the same flags
	cmd := &cobra.Command{
		Use:   "query KIND/KEY TYPE [JSON|-]",
		Short: "put a question to a grain, about now or any moment of its past",
		Long: `Puts a question of a type that the grain's kind answers, see: granary kind show KIND. It changes nothing and is not
journaled. The question is JSON; - reads it from standard input, and nothing stands for {}.

The answer rests on every event that was acknowledged before the question, unless --stale allows it to be old;
--at-seq and --at ask the state of a past moment, as granary grain get shows it.

With -o json: an object with grain, seq, position (left out if seq is 0), logicVersion, replyType and reply.`,
		Example: `  granary grain query account/42 Profile
  granary grain query account/42 Profile '{"merchant":"7"}' --at 1h
  granary grain query user/1 Recommend '{"limit":3}' -o json | jq .reply`,
		Args:              grainAndType,
		ValidArgsFunction: a.completeGrain(t),
		RunE: func(cmd *cobra.Command, args []string) error {
			get, err := g.request(cmd, args[0])
			if err != nil {
				return err
			}
			question, err := a.payload(cmd, args)
			if err != nil {
				return err
			}
			req := &granaryv1.QueryRequest{Grain: args[0], Type: args[1], Query: &granaryv1.QueryRequest_Json{Json: question}, Stale: get.GetStale()}
			switch at := get.GetAt().(type) {
			case *granaryv1.GetRequest_AtSeq:
				req.At = &granaryv1.QueryRequest_AtSeq{AtSeq: at.AtSeq}
			case *granaryv1.GetRequest_AtTime:
				req.At = &granaryv1.QueryRequest_AtTime{AtTime: at.AtTime}
			}
			return a.queryGrain(cmd.Context(), t, req)
		},
	}
	cmd.Flags().Uint64Var(&g.atSeq, "at-seq", 0, "ask the state after the record with this `number`")
	cmd.Flags().StringVar(&g.at, "at", "", "ask the state at this `time`")
	cmd.Flags().BoolVar(&g.stale, "stale", false, "do not wait for the confirmation that the answer is the newest")
	return cmd
}

// queryJSON is the form of an answer under -o json.
type queryJSON struct {
	Grain        string          `json:"grain"`
	Seq          uint64          `json:"seq"`
	Position     string          `json:"position,omitempty"`
	LogicVersion uint32          `json:"logicVersion"`
	ReplyType    string          `json:"replyType"`
	Reply        json.RawMessage `json:"reply"`
}

func (a *app) queryGrain(ctx context.Context, t *target, req *granaryv1.QueryRequest) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := conn.call(ctx)
	defer cancel()
	got, err := granaryv1.NewGrainServiceClient(conn).Query(ctx, req)
	if err != nil {
		f := conn.callFailure("grain query "+req.GetGrain(), err)
		kind, _, _ := cutGrain(req.GetGrain())
		switch {
		case f.reason == "UNKNOWN_QUERY", f.reason == "INVALID_PAYLOAD":
			f.next = "granary kind show " + shellQuote(kind)
		case f.reason == "REJECTED":
			f.next = "granary grain get " + shellQuote(req.GetGrain()) + " shows the state that was asked"
		case f.code == codeName(int32(codes.OutOfRange)):
			f.next = "granary grain history " + shellQuote(req.GetGrain()) + " --newest --limit 1"
		}
		return f
	}
	if a.format == formatJSON {
		return a.printJSON(queryJSON{Grain: got.GetGrain(), Seq: got.GetSeq(), Position: got.GetPosition(), LogicVersion: got.GetLogicVersion(),
			ReplyType: typeName(got.GetReply().GetTypeUrl()), Reply: object(got.GetJson())})
	}
	seq := fmt.Sprint(got.GetSeq())
	if got.GetSeq() == 0 {
		seq = "0 (no record)"
	}
	fmt.Fprintf(a.Out, "%s  %s\n%s  %s\n", a.screen.out.bold("grain "), plain(got.GetGrain()), a.screen.out.bold("seq   "), seq)
	return a.showReply("answer", typeName(got.GetReply().GetTypeUrl()), got.GetJson())
}

// queryExample is a command that puts a query's example to a grain.
func queryExample(grain string, q queryTypeJSON, address string) string {
	command := "granary grain query"
	if address != defaultTarget {
		command += " --target " + address
	}
	return command + " " + shellQuote(grain) + " " + lastPart(q.Name) + " " + shellQuote(string(q.Example))
}
