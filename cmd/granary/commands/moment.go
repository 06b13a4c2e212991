package commands

import (
	"fmt"
	"time"
)

// momentLayouts are the forms of a moment beside RFC 3339. They are in UTC, as all output is.
var momentLayouts = []string{time.RFC3339Nano, "2006-01-02", "2006-01-02 15:04", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15:04:05.999999999"}

// parseMoment reads a point in time as people write it: absolute, or how long before now.
func parseMoment(text string, now time.Time) (time.Time, error) {
	for _, layout := range momentLayouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago.Abs()).UTC(), nil
	}
	return time.Time{}, fmt.Errorf("%q is no time: want 2026-03-01T12:00:00Z, 2026-03-01, or how long ago, as 10m", text)
}
