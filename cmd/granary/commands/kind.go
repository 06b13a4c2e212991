package commands

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// kindCommand is `granary kind`.
func (a *app) kindCommand() *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:     "kind",
		Short:   "look at the kinds of grains that a node runs, and the events they take",
		Example: "  granary kind ls\n  granary kind show account",
	}
	t.addTo(cmd)
	return a.group(cmd, a.kindListCommand(t), a.kindShowCommand(t))
}

// kindJSON is the form of a kind under -o json.
type kindJSON struct {
	Name        string          `json:"name"`
	Version     uint32          `json:"version"`
	Earlier     []uint32        `json:"earlierVersions,omitempty"`
	Description string          `json:"description"`
	State       string          `json:"state"`
	IDWindow    string          `json:"idWindow"`
	Events      []eventTypeJSON `json:"events"`
	Queries     []queryTypeJSON `json:"queries,omitempty"`
	Streams     []string        `json:"streams,omitempty"`
}

type queryTypeJSON struct {
	eventTypeJSON
	Reply string `json:"reply"`
}

type eventTypeJSON struct {
	Name    string          `json:"name"`
	Fields  []fieldJSON     `json:"fields"`
	Example json.RawMessage `json:"example,omitempty"`
}

type fieldJSON struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

func kindOf(k *granaryv1.Kind) kindJSON {
	out := kindJSON{
		Name: k.GetName(), Version: k.GetVersion(), Earlier: k.GetEarlierVersions(), Description: k.GetDescription(), State: k.GetState(),
		IDWindow: k.GetIdWindow().AsDuration().String(), Events: []eventTypeJSON{},
	}
	for _, e := range k.GetEvents() {
		out.Events = append(out.Events, typeOf(e.GetName(), e.GetFields(), e.GetExample()))
	}
	for _, q := range k.GetQueries() {
		out.Queries = append(out.Queries, queryTypeJSON{typeOf(q.GetName(), q.GetFields(), q.GetExample()), q.GetReply()})
	}
	out.Streams = k.GetStreams()
	return out
}

func typeOf(name string, fields []*granaryv1.Field, example string) eventTypeJSON {
	out := eventTypeJSON{Name: name, Fields: []fieldJSON{}}
	for _, f := range fields {
		out.Fields = append(out.Fields, fieldJSON{f.GetName(), f.GetType()})
	}
	if json.Valid([]byte(example)) {
		out.Example = json.RawMessage(example)
	}
	return out
}

func (a *app) kindListCommand(t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "list the kinds",
		Long: `Lists the kinds that the node runs.

With -o json: one object a line, as granary kind show gives it.`,
		Example: "  granary kind ls",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.listKinds(cmd.Context(), t)
		},
	}
}

func (a *app) listKinds(ctx context.Context, t *target) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := conn.call(ctx)
	defer cancel()
	got, err := granaryv1.NewKindServiceClient(conn).List(ctx, &granaryv1.KindServiceListRequest{})
	if err != nil {
		return conn.callFailure("kind ls", err)
	}
	table := a.newTable("KIND", ">VERSION", "EVENTS", "DESCRIPTION")
	for _, k := range got.GetKinds() {
		if a.format == formatJSON {
			if err := a.printJSONLine(kindOf(k)); err != nil {
				return err
			}
			continue
		}
		if err := table.row(k.GetName(), fmt.Sprint(k.GetVersion()), eventNames(k), k.GetDescription()); err != nil {
			return err
		}
	}
	return table.flush()
}

func eventNames(k *granaryv1.Kind) string {
	var names []string
	for _, e := range k.GetEvents() {
		names = append(names, lastPart(e.GetName()))
	}
	return strings.Join(names, ", ")
}

func (a *app) kindShowCommand(t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "show KIND",
		Short: "show a kind: its state, its events and queries, their fields, and an example of each",
		Long: `Shows a kind: its state, each event that it takes and each query that it answers with its fields, and for each a line
that publishes or asks an example.

With -o json: an object with name, version, earlierVersions (whose logic is kept; may be left out), description,
state, idWindow (how long event ids are remembered), events ([{"name", "fields": [{"name", "type"}], "example"}]),
queries (as events, with the type of the answer in reply; may be left out) and streams (may be left out).`,
		Example: "  granary kind show account",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageFailure(cmd, "%s wants one kind, for example account", cmd.CommandPath())
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
			return kindNames(ctx, conn, ""), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.showKind(cmd.Context(), t, args[0])
		},
	}
}

func (a *app) showKind(ctx context.Context, t *target, name string) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := conn.call(ctx)
	defer cancel()
	got, err := granaryv1.NewKindServiceClient(conn).Describe(ctx, &granaryv1.DescribeRequest{Kind: name})
	if err != nil {
		f := conn.callFailure("kind show "+name, err)
		if f.code == codeName(int32(codes.NotFound)) {
			f.next = "granary kind ls"
		}
		return f
	}
	k := kindOf(got.GetKind())
	if a.format == formatJSON {
		return a.printJSON(k)
	}
	return a.describeKind(k, t)
}

// describeKind shows a kind to a person.
func (a *app) describeKind(k kindJSON, t *target) error {
	bold := a.screen.out.bold
	earlier := ""
	if len(k.Earlier) > 0 {
		earlier = fmt.Sprintf(" (keeps %s)", strings.ReplaceAll(strings.Trim(fmt.Sprint(k.Earlier), "[]"), " ", ", "))
	}
	fmt.Fprintf(a.Out, "%s version %d%s: %s\n", bold(plain(k.Name)), k.Version, earlier, plain(k.Description))
	fmt.Fprintf(a.Out, "state %s, event ids are remembered for %s\n", plain(k.State), k.IDWindow)
	if len(k.Streams) > 0 {
		fmt.Fprintf(a.Out, "publishes to %s\n", plain(strings.Join(k.Streams, ", ")))
	}
	fields := func(fields []fieldJSON) {
		width := 0
		for _, f := range fields {
			width = max(width, len(f.Name))
		}
		for _, f := range fields {
			fmt.Fprintf(a.Out, "  %-*s  %s\n", width, plain(f.Name), plain(f.Type))
		}
	}
	for _, e := range k.Events {
		fmt.Fprintf(a.Out, "\n%s\n", bold(plain(e.Name)))
		fields(e.Fields)
		if e.Example != nil {
			fmt.Fprintf(a.Out, "  %s\n", exampleLine(k.Name+"/1", e, string(t.address)))
		}
	}
	for _, q := range k.Queries {
		fmt.Fprintf(a.Out, "\n%s, a query answered with %s\n", bold(plain(q.Name)), plain(q.Reply))
		fields(q.Fields)
		if q.Example != nil {
			fmt.Fprintf(a.Out, "  %s\n", queryExample(k.Name+"/1", q, string(t.address)))
		}
	}
	return nil
}

// kindNames are the names of the kinds, each with a suffix; none if the node does not answer.
func kindNames(ctx context.Context, conn *nodeConn, suffix string) []string {
	got, err := granaryv1.NewKindServiceClient(conn).List(ctx, &granaryv1.KindServiceListRequest{})
	if err != nil {
		return nil
	}
	var names []string
	for _, k := range got.GetKinds() {
		names = append(names, k.GetName()+suffix)
	}
	return names
}

// noArguments is for commands without arguments.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageFailure(cmd, "%s takes no arguments; got %q", cmd.CommandPath(), args[0])
	}
	return nil
}
