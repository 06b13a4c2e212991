package commands

import (
	"encoding/json"
	"strings"
)

// exampleLine is a command that publishes an event's example to a grain.
func exampleLine(grain string, e eventTypeJSON, address string) string {
	line := eventLine(grain, e)
	command := "granary publish"
	if address != defaultTarget {
		command += " --target " + address
	}
	return "echo " + shellQuote(line) + " | " + command
}

// eventLine is an event's example as a CloudEvent.
func eventLine(grain string, e eventTypeJSON) string {
	line, err := jsonText(struct {
		Version string          `json:"specversion"`
		ID      string          `json:"id"`
		Source  string          `json:"source"`
		Type    string          `json:"type"`
		Subject string          `json:"subject"`
		Data    json.RawMessage `json:"data"`
	}{"1.0", "try-1", "/try", lastPart(e.Name), grain, e.Example}, "")
	if err != nil {
		return ""
	}
	return line
}

// shellQuote quotes text for a POSIX shell, if it needs that.
func shellQuote(s string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
