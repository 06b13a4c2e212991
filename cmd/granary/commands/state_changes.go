package commands

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// change is one place in a state that a record changed.
type change struct {
	// Path to the place, as "windows[3].count".
	Path string
	// Before and After are its values; nil where there was none, or is none any more.
	Before, After *structpb.Value
}

// stateChanges are the places in which two states differ, in the order of their paths. Of a list it tells which elements
// went and came, by their places in the list before and after.
func stateChanges(before, after *structpb.Struct) (all []change) {
	structChanges("", before, after, &all)
	return all
}

func structChanges(path string, before, after *structpb.Struct, all *[]change) {
	names := map[string]bool{}
	for name := range before.GetFields() {
		names[name] = true
	}
	for name := range after.GetFields() {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		at := name
		if path != "" {
			at = path + "." + name
		}
		valueChanges(at, before.GetFields()[name], after.GetFields()[name], all)
	}
}

func valueChanges(path string, before, after *structpb.Value, all *[]change) {
	if proto.Equal(before, after) {
		return
	}
	if b, a := before.GetStructValue(), after.GetStructValue(); b != nil && a != nil {
		structChanges(path, b, a, all)
		return
	}
	b, a := before.GetListValue(), after.GetListValue()
	switch {
	case b != nil && a != nil:
	case b != nil && after == nil, a != nil && before == nil: // an empty list is left out of the JSON of a state
	default:
		*all = append(*all, change{path, before, after})
		return
	}
	listChanges(path, b.GetValues(), a.GetValues(), all)
}

// listChanges pairs what stayed, and of what is between pairs takes as many as there are on both sides for changed.
func listChanges(path string, before, after []*structpb.Value, all *[]change) {
	i, j := 0, 0
	for _, pair := range append(kept(before, after), [2]int{len(before), len(after)}) {
		for ; i < pair[0] && j < pair[1]; i, j = i+1, j+1 {
			valueChanges(fmt.Sprintf("%s[%d]", path, j), before[i], after[j], all)
		}
		for ; i < pair[0]; i++ {
			*all = append(*all, change{fmt.Sprintf("%s[%d]", path, i), before[i], nil})
		}
		for ; j < pair[1]; j++ {
			*all = append(*all, change{fmt.Sprintf("%s[%d]", path, j), nil, after[j]})
		}
		i, j = pair[0]+1, pair[1]+1
	}
}

// longList is from how many elements on only the equal beginning and end of two lists are looked for: the time for more
// grows with the square.
const longList = 2000

// kept are the places of a longest common subsequence of two lists (by the textbook table of lengths, from the end).
func kept(before, after []*structpb.Value) (pairs [][2]int) {
	n := 0
	for n < len(before) && n < len(after) && proto.Equal(before[n], after[n]) {
		pairs = append(pairs, [2]int{n, n})
		n++
	}
	before, after = before[n:], after[n:]
	var behind [][2]int
	for len(before) > 0 && len(after) > 0 && proto.Equal(before[len(before)-1], after[len(after)-1]) {
		before, after = before[:len(before)-1], after[:len(after)-1]
		behind = append(behind, [2]int{n + len(before), n + len(after)})
	}
	slices.Reverse(behind)
	if len(before)*len(after) > longList*longList {
		return append(pairs, behind...)
	}
	lengths := make([][]int, len(before)+1)
	for i := range lengths {
		lengths[i] = make([]int, len(after)+1)
	}
	for i := len(before) - 1; i >= 0; i-- {
		for j := len(after) - 1; j >= 0; j-- {
			if proto.Equal(before[i], after[j]) {
				lengths[i][j] = lengths[i+1][j+1] + 1
			} else {
				lengths[i][j] = max(lengths[i+1][j], lengths[i][j+1])
			}
		}
	}
	for i, j := 0, 0; i < len(before) && j < len(after); {
		switch {
		case proto.Equal(before[i], after[j]):
			pairs = append(pairs, [2]int{n + i, n + j})
			i, j = i+1, j+1
		case lengths[i+1][j] >= lengths[i][j+1]:
			i++
		default:
			j++
		}
	}
	return append(pairs, behind...)
}

// changeJSON is the form of a change under -o json.
type changeJSON struct {
	Path   string          `json:"path"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

func changesOf(all []change) []changeJSON {
	out := make([]changeJSON, 0, len(all))
	for _, c := range all {
		out = append(out, changeJSON{c.Path, valueJSON(c.Before), valueJSON(c.After)})
	}
	return out
}

// line is a change for people.
func (c change) line() string {
	const most = 60
	before, after := clip(string(valueJSON(c.Before)), most), clip(string(valueJSON(c.After)), most)
	switch {
	case c.Before == nil:
		return "+ " + after
	case c.After == nil:
		return "- " + before
	}
	return before + " → " + after
}

func valueJSON(v *structpb.Value) json.RawMessage {
	if v == nil {
		return nil
	}
	text, err := jsonText(v.AsInterface(), "")
	if err != nil { // NaN or Inf, which no node of ours makes
		return json.RawMessage("null")
	}
	return json.RawMessage(text)
}
