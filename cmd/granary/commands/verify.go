package commands

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/persistence/verify"
)

func (a *app) verifyCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "verify --data-dir DIR",
		Short: "check that a data folder is whole",
		Long: `Reads a whole data folder, while no node runs on it, with a reader that shares no code with the one that wrote it.
It checks every checksum, that the log of each shard is dense and its terms and fences right, that the turns run
again give what was recorded and every snapshot, that sends arrived once, and that all derived keys are those that
the log gives. It changes nothing. If something is wrong it says what and where, and the exit code is 1.

With -o json: an object with dir, nodeId, shards, files, bytes, entries, emptyEntries, changes, voidEntries, records
(by type), grains, turns, unrun (by reason), unrunGrains, snapshots, sendsMatched, sendsPending, keys, seconds, findings
([{"shard", "index", "ordinal", "key", "file", "what"}], what does not apply left out) and findingsTotal.`,
		Example: "  granary verify --data-dir ./data",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usageFailure(cmd, "%s needs the folder: --data-dir DIR", cmd.CommandPath())
			}
			return a.verify(cmd.Context(), dir)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "`folder` to check")
	_ = cmd.MarkFlagDirname("data-dir")
	return cmd
}

func (a *app) verify(ctx context.Context, dir string) error {
	live := a.newLiveLine()
	report, err := a.Verify(ctx, verify.Options{Dir: dir, Catalog: a.Catalog, Progress: func(p verify.Progress) {
		text := fmt.Sprintf("%s %d of %d, %s entries", p.Stage, p.Done, p.Of, count(p.Entries))
		if p.Findings > 0 {
			text += ", " + several(p.Findings, "finding")
		}
		live.show(text)
	}})
	live.clear()
	if err != nil {
		return failed("granary verify --data-dir DIR, with the folder of a node that has stopped", "verify: %w", err)
	}
	if err := a.showVerified(report); err != nil {
		return err
	}
	if !report.OK() {
		return failed("keep a copy of the folder before anything else, and start no node on it", "verify: %s is not whole: %s", dir, several(report.Total, "finding"))
	}
	return nil
}

// verifiedJSON is the form of a report under -o json.
type verifiedJSON struct {
	Dir           string            `json:"dir"`
	NodeID        uint64            `json:"nodeId"`
	Shards        uint64            `json:"shards"`
	Files         uint64            `json:"files"`
	Bytes         uint64            `json:"bytes"`
	Entries       uint64            `json:"entries"`
	EmptyEntries  uint64            `json:"emptyEntries"`
	Changes       uint64            `json:"changes"`
	VoidEntries   uint64            `json:"voidEntries"`
	Records       map[string]uint64 `json:"records"`
	Grains        uint64            `json:"grains"`
	Turns         uint64            `json:"turns"`
	Unrun         map[string]uint64 `json:"unrun"`
	UnrunGrains   uint64            `json:"unrunGrains"`
	Snapshots     uint64            `json:"snapshots"`
	SendsMatched  uint64            `json:"sendsMatched"`
	SendsPending  uint64            `json:"sendsPending"`
	Keys          uint64            `json:"keys"`
	Seconds       float64           `json:"seconds"`
	Findings      []findingJSON     `json:"findings"`
	FindingsTotal uint64            `json:"findingsTotal"`
}

type findingJSON struct {
	Shard   uint64 `json:"shard,omitempty"`
	Index   uint64 `json:"index,omitempty"`
	Ordinal *int   `json:"ordinal,omitempty"`
	Key     string `json:"key,omitempty"`
	File    string `json:"file,omitempty"`
	What    string `json:"what"`
}

func verifiedOf(r *verify.Report) verifiedJSON {
	out := verifiedJSON{
		Dir: r.Dir, NodeID: r.NodeID, Shards: r.Shards, Files: r.Files, Bytes: r.Bytes, Entries: r.Entries,
		EmptyEntries: r.Empty, Changes: r.Changes, VoidEntries: r.Void, Records: r.Records, Grains: r.Grains, Turns: r.Turns,
		Unrun: r.Unrun, UnrunGrains: r.UnrunGrains, Snapshots: r.Snapshots, SendsMatched: r.SendsMatched, SendsPending: r.SendsPending, Keys: r.Keys,
		Seconds: r.Seconds, Findings: []findingJSON{}, FindingsTotal: r.Total,
	}
	for _, f := range r.Findings {
		finding := findingJSON{Shard: f.Shard, Index: f.Index, Key: f.Key, File: f.File, What: f.What}
		if f.Ordinal != verify.None {
			finding.Ordinal = &f.Ordinal
		}
		out.Findings = append(out.Findings, finding)
	}
	return out
}

func (a *app) showVerified(r *verify.Report) error {
	if a.format == formatJSON {
		return a.printJSON(verifiedOf(r))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(a.Out, "%s %s\n", a.screen.out.red("wrong:"), plain(f.String()))
	}
	if more := r.Total - uint64(len(r.Findings)); more > 0 {
		fmt.Fprintf(a.Out, "… and %s\n", several(more, "further finding"))
	}
	verdict := a.screen.out.green("whole")
	if !r.OK() {
		verdict = a.screen.out.red("not whole")
	}
	figures := []figure{
		{"folder", r.Dir + " is " + verdict},
		{"log", fmt.Sprintf("%s entries in %s (%s empty, %s void)", count(r.Entries), several(r.Shards, "shard"), count(r.Empty), count(r.Void))},
		{"records", breakdown(r.Records)},
		{"turns", fmt.Sprintf("%s run again in %s, with %s", count(r.Turns), several(r.Grains, "grain"), several(r.Snapshots, "snapshot"))},
	}
	if len(r.Unrun) > 0 {
		figures = append(figures, figure{"not run", breakdown(r.Unrun) + "; cannot check " + several(r.UnrunGrains, "grain") + " from the beginning"})
	}
	figures = append(figures,
		figure{"sends", fmt.Sprintf("%s arrived, %s still under way", count(r.SendsMatched), count(r.SendsPending))},
		figure{"derived", several(r.Keys, "key") + " compared"},
		figure{"files", fmt.Sprintf("%s, %s MiB", several(r.Files, "file"), count(r.Bytes>>20))},
		figure{"took", time.Duration(r.Seconds * float64(time.Second)).Round(time.Millisecond).String()},
	)
	return a.figures(figures...)
}

// breakdown is a sum and what it is made of: "12 (10 input, 2 void)".
func breakdown(by map[string]uint64) string {
	sum := uint64(0)
	for _, n := range by {
		sum += n
	}
	return count(sum) + listed(by)
}

// listed is " (10 input, 2 void)", or nothing.
func listed(by map[string]uint64) string {
	if len(by) == 0 {
		return ""
	}
	text := ""
	for _, name := range sortedNames(by) {
		text += ", " + count(by[name]) + " " + plain(name)
	}
	return " (" + text[2:] + ")"
}
