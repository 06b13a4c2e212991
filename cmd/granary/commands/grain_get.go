package commands

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// grainGet holds the flags of `granary grain get`.
type grainGet struct {
	atSeq uint64
	at    string
	stale bool
}

func (a *app) grainGetCommand(t *target) *cobra.Command {
	var g grainGet
	cmd := &cobra.Command{
		Use:   "get KIND/KEY",
		Short: "show the state of a grain, now or at any moment of its past",
		Long: `Shows what a grain knows: now, after its record with a given number (--at-seq), or after the last record
that was journaled by a given time (--at). A grain without records has the empty state and seq 0.

The answer holds every event that was acknowledged before the question, unless --stale allows it to be old.

--at takes a time of RFC 3339 (2026-03-01T12:00:00Z), a day or minute in UTC (2026-03-01, "2026-03-01 12:00"), or
how long ago (10m, 1h30m).

With -o json: an object with grain, seq, position, time, logicVersion, stateType and state. The state is in the JSON
form of protobuf, in which 64-bit numbers are strings.`,
		Example: `  granary grain get account/42
  granary grain get account/42 --at-seq 17
  granary grain get account/42 --at 2026-03-01T12:00:00Z
  granary grain get account/42 -o json | jq .state`,
		Args:              oneGrain,
		ValidArgsFunction: a.completeGrain(t),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := g.request(cmd, args[0])
			if err != nil {
				return err
			}
			return a.getGrain(cmd.Context(), t, req)
		},
	}
	cmd.Flags().Uint64Var(&g.atSeq, "at-seq", 0, "the state after the record with this `number`")
	cmd.Flags().StringVar(&g.at, "at", "", "the state at this `time`")
	cmd.Flags().BoolVar(&g.stale, "stale", false, "do not wait for the confirmation that the answer is the newest")
	return cmd
}

func (g *grainGet) request(cmd *cobra.Command, grain string) (*granaryv1.GetRequest, error) {
	req := &granaryv1.GetRequest{Grain: grain, Stale: g.stale, Format: granaryv1.StateFormat_STATE_FORMAT_UNSPECIFIED}
	bySeq, byTime := cmd.Flags().Changed("at-seq"), cmd.Flags().Changed("at")
	switch {
	case bySeq && byTime:
		return nil, usageFailure(cmd, "%s: --at-seq and --at both choose the moment; give one of them", cmd.CommandPath())
	case bySeq && g.atSeq == 0:
		return nil, usageFailure(cmd, "%s: --at-seq: the first record has the number 1", cmd.CommandPath())
	case bySeq:
		req.At = &granaryv1.GetRequest_AtSeq{AtSeq: g.atSeq}
	case byTime:
		at, err := parseMoment(g.at, time.Now())
		if err != nil {
			return nil, usageFailure(cmd, "%s: --at: %w", cmd.CommandPath(), err)
		}
		req.At = &granaryv1.GetRequest_AtTime{AtTime: timestamppb.New(at)}
	}
	return req, nil
}

// stateJSON is the form of a state under -o json.
type stateJSON struct {
	Grain        string          `json:"grain"`
	Seq          uint64          `json:"seq"`
	Position     string          `json:"position,omitempty"`
	Time         string          `json:"time,omitempty"`
	LogicVersion uint32          `json:"logicVersion,omitempty"`
	StateType    string          `json:"stateType,omitempty"`
	State        json.RawMessage `json:"state"`
}

func (a *app) getGrain(ctx context.Context, t *target, req *granaryv1.GetRequest) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := conn.call(ctx)
	defer cancel()
	got, err := granaryv1.NewGrainServiceClient(conn).Get(ctx, req)
	if err != nil {
		return conn.grainFailure("grain get "+req.GetGrain(), req.GetGrain(), err)
	}
	if a.format == formatJSON {
		return a.printJSON(stateJSON{
			Grain: got.GetGrain(), Seq: got.GetSeq(), Position: got.GetPosition(), Time: jsonTime(got.GetTime()),
			LogicVersion: got.GetLogicVersion(), StateType: typeName(got.GetState().GetTypeUrl()), State: object(got.GetJson()),
		})
	}
	return a.showState(got)
}

func (a *app) showState(got *granaryv1.GetResponse) error {
	line := func(name, value string) {
		fmt.Fprintf(a.Out, "%s  %s\n", a.screen.out.bold(fmt.Sprintf("%-8s", name)), plain(value))
	}
	line("grain", got.GetGrain())
	if got.GetSeq() == 0 {
		line("seq", "0 (no record)")
	} else {
		line("seq", fmt.Sprint(got.GetSeq()))
		line("time", timeText(got.GetTime()))
		line("logic", fmt.Sprint(got.GetLogicVersion()))
		line("position", got.GetPosition())
	}
	if got.GetState() != nil {
		line("state", typeName(got.GetState().GetTypeUrl()))
	}
	text, err := jsonText(object(got.GetJson()), "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, text)
	return err
}

// typeName is the full name of a message in the URL of an Any.
func typeName(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }
