package verify

import (
	"fmt"
	"strings"
)

// None is the ordinal of a finding that is not about one record.
const None = -1

// Finding is one thing that is wrong. Fields that do not apply are empty.
type Finding struct {
	// Shard and Index of the entry; 0 where the finding is not about a shard or an entry.
	Shard, Index uint64
	// Ordinal of the record in the entry, or [None].
	Ordinal int
	// Key is a grain ("kind/key"), or a key of the store in words.
	Key string
	// File that holds the bytes.
	File string
	// What is wrong, in one line.
	What string
}

// String is the finding in one line.
func (f Finding) String() string {
	var at []string
	if f.File != "" {
		at = append(at, f.File)
	}
	if f.Shard != 0 {
		at = append(at, fmt.Sprintf("shard %d", f.Shard))
	}
	if f.Index != 0 {
		at = append(at, fmt.Sprintf("index %d", f.Index))
	}
	if f.Ordinal != None {
		at = append(at, fmt.Sprintf("record %d", f.Ordinal))
	}
	if f.Key != "" {
		at = append(at, f.Key)
	}
	if len(at) == 0 {
		return f.What
	}
	return strings.Join(at, ", ") + ": " + f.What
}

// Report is the outcome of a run.
type Report struct {
	Dir string
	// NodeID and Shards of the store.
	NodeID uint64
	Shards uint64
	// Files that were checked block by block or chunk by chunk, and their Bytes.
	Files, Bytes uint64
	// Entries of all logs. Of these, Empty are a leader's first entry, Changes are configuration changes, and Void have
	// no effect because their fence does not match.
	Entries, Empty, Changes, Void uint64
	// Records by type, of entries that are not void.
	Records map[string]uint64
	// Grains that have records.
	Grains uint64
	// Turns that were run again; Unrun are those that were not, by the reason.
	// UnrunGrains have such turns: they cannot be checked, or not from the beginning.
	Turns       uint64
	Unrun       map[string]uint64
	UnrunGrains uint64
	// Snapshots that were compared with the fold before them.
	Snapshots uint64
	// SendsMatched were taken in by their target, SendsPending were not yet.
	SendsMatched, SendsPending uint64
	// Keys beside the log that were compared with what the log gives.
	Keys uint64
	// Seconds that the run took.
	Seconds float64
	// Findings, the first ones; Total counts all.
	Findings []Finding
	Total    uint64
}

// OK tells whether nothing was found.
func (r *Report) OK() bool { return r.Total == 0 }

// Progress is how far a run is.
type Progress struct {
	// Stage in a word: files, tables, levels, shard or sends. Done of Of are finished (files, or shards).
	Stage    string
	Done, Of uint64
	// Entries read and Findings made so far.
	Entries, Findings uint64
}

// find keeps a finding, or counts it when there are too many.
func (v *verifier) find(f Finding) {
	v.report.Total++
	if len(v.report.Findings) < v.o.MaxFindings {
		f.What = oneLine(f.What)
		v.report.Findings = append(v.report.Findings, f)
	}
}

// oneLine keeps the texts of other packages' errors to one line, without what Pebble means for itself.
func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(s, "<corruption detail carrier>", "")), " ")
}
