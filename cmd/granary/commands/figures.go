package commands

import (
	"fmt"
	"strconv"
)

// figure is a line of a summary. One without a name is an empty line.
type figure struct{ name, value string }

// figures prints a summary, the values under each other.
func (a *app) figures(figures ...figure) error {
	width := 0
	for _, f := range figures {
		width = max(width, len(f.name))
	}
	for _, f := range figures {
		line := ""
		if f.name != "" {
			line = a.screen.out.bold(fmt.Sprintf("%-*s", width, f.name)) + "  " + f.value
		}
		if _, err := fmt.Fprintln(a.Out, line); err != nil {
			return err
		}
	}
	return nil
}

// millis is a time in milliseconds with three digits.
func millis(ms float64) string { return digits(ms) + " ms" }

// micros is a time in microseconds with three digits.
func micros(us float64) string { return digits(us) + " µs" }

// digits is a number that is as exact as people want it.
func digits(f float64) string {
	switch {
	case f >= 100:
		return strconv.FormatFloat(f, 'f', 0, 64)
	case f >= 10:
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return strconv.FormatFloat(f, 'f', 2, 64)
}
