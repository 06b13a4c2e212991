package workload

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// lastShown is how many values of a list are printed: the last ones, because what is wrong is mostly there.
const lastShown = 8

// Timeline tells people what the clients did with a grain: a line for each beginning (>) and each end (<), with the
// number of the operation, in the order in which they came. Appends to other grains that sent to this one are there too.
func (h *History) Timeline(key string) string {
	type line struct {
		order, at int64
		mark      byte
		record    int
	}
	var lines []line
	var start int64
	for i := range h.records {
		r := &h.records[i]
		if i == 0 {
			start = r.BeganAt
		}
		if r.Key != key && r.To != key {
			continue
		}
		lines = append(lines, line{r.Began, r.BeganAt, '>', i})
		if r.Ended != 0 {
			lines = append(lines, line{r.Ended, r.EndedAt, '<', i})
		}
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.order, b.order) })
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s\n", Kind, key)
	for _, l := range lines {
		r := &h.records[l.record]
		fmt.Fprintf(&b, "%14s %c %-6s client %-3d %s", time.Duration(l.at-start), l.mark, fmt.Sprintf("#%d", l.record), r.Client, &r.Operation)
		if r.Key != key {
			fmt.Fprintf(&b, ", by %s", r.Key)
		}
		if l.mark == '<' {
			fmt.Fprintf(&b, ": %s", r.Outcome)
			switch {
			case r.Outcome == OK && r.Action.Reads():
				fmt.Fprintf(&b, ", %s", FormatList(r.Values))
			case r.Outcome == OK && r.Action == Ask:
				fmt.Fprintf(&b, ", reply %d of %s", r.Reply.Count, r.Reply.By)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Around is the part of a grain's timeline around the given operations: so many lines before and after each.
func (h *History) Around(key string, operations []int, lines int) string {
	all := strings.SplitAfter(h.Timeline(key), "\n")
	shown := make([]bool, len(all))
	for i, line := range all {
		for _, op := range operations {
			if strings.Contains(line, fmt.Sprintf("#%d ", op)) {
				for j := max(0, i-lines); j <= min(len(all)-1, i+lines); j++ {
					shown[j] = true
				}
			}
		}
	}
	if !slices.Contains(shown, true) { // nothing that could be pointed at: the end
		for j := max(0, len(all)-1-2*lines); j < len(all); j++ {
			shown[j] = true
		}
	}
	shown[0] = true
	var b strings.Builder
	for i, line := range all {
		switch {
		case shown[i]:
			b.WriteString(line)
		case shown[i-1] && line != "":
			b.WriteString("…\n")
		}
	}
	return b.String()
}

// FormatList writes a list for people: how long it is, and its last values.
func FormatList(values []uint64) string {
	text := fmt.Sprintf("%d values", len(values))
	if len(values) == 1 {
		text = "1 value"
	}
	if len(values) == 0 {
		return text
	}
	text += ":"
	if len(values) > lastShown {
		values = values[len(values)-lastShown:]
		text += " …"
	}
	for _, v := range values {
		text += " " + FormatValue(v)
	}
	return text
}
