package commands

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/granary-dev/granary/persistence/entry"
)

// buildJSON is the form of the version under -o json.
type buildJSON struct {
	Version    string      `json:"version"`
	Commit     string      `json:"commit,omitempty"`
	CommitTime string      `json:"commitTime,omitempty"`
	Modified   bool        `json:"modified,omitempty"`
	Go         string      `json:"go"`
	Platform   string      `json:"platform"`
	Formats    formatsJSON `json:"formats"`
}

// formatsJSON are the formats that this build writes. It reads all up to them.
type formatsJSON struct {
	API          string `json:"api"`
	Frame        int    `json:"frame"`
	Entry        int    `json:"entry"`
	FeatureLevel int    `json:"featureLevel"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "show what was built, from what, and which formats it writes",
		Long: `Shows the version of this binary, the commit it was built from, the Go version and platform, and the formats of the
journal that it writes and up to which it reads.

With -o json: an object with version, commit, commitTime, modified, go, platform and formats ({"api", "frame",
"entry", "featureLevel"}).`,
		Example: "  granary version",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			return a.showVersion(readBuild())
		},
	}
}

func (a *app) showVersion(b buildJSON) error {
	if a.format == formatJSON {
		return a.printJSON(b)
	}
	commit := b.Commit
	if commit == "" {
		commit = "not known"
	}
	if b.CommitTime != "" {
		commit += " of " + b.CommitTime
	}
	if b.Modified {
		commit += ", with local changes"
	}
	f := b.Formats
	_, err := fmt.Fprintf(a.Out, "granary   %s\ncommit    %s\nbuilt by  %s for %s\nwrites    API %s, journal frame %d, entry %d, feature level %d\n",
		b.Version, commit, b.Go, b.Platform, f.API, f.Frame, f.Entry, f.FeatureLevel)
	return err
}

// readBuild tells what the Go toolchain noted in the binary.
func readBuild() buildJSON {
	b := buildJSON{
		Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Formats: formatsJSON{API: "granary.v1", Frame: entry.FrameFormat, Entry: entry.Format, FeatureLevel: entry.FeatureLevel},
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.CommitTime = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}
