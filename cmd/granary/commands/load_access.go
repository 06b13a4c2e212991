package commands

import (
	"errors"
	"strconv"
	"strings"

	"github.com/granary-dev/granary/loadtest/transactions"
)

// accessMode is the value of --access.
type accessMode struct {
	transactions.Access
	text string
}

// String is part of pflag.Value.
func (m *accessMode) String() string { return m.text }

// Type is part of pflag.Value.
func (m *accessMode) Type() string { return "form" }

// Set is part of pflag.Value.
func (m *accessMode) Set(text string) error {
	m.Even, m.Zipf, m.text = false, 0, text
	exponent, zipf := strings.CutPrefix(text, "zipf:")
	switch {
	case text == "handbook":
		return nil
	case text == "uniform":
		m.Even = true
		return nil
	case zipf:
		var err error
		if m.Zipf, err = strconv.ParseFloat(exponent, 64); err == nil && m.Zipf != 0 {
			return m.Check()
		}
	}
	return errors.New("want handbook, uniform, or zipf:1.1 with any exponent above 1")
}

// own tells whether the handbook's way is not wanted.
func (m *accessMode) own() bool { return m.Even || m.Zipf != 0 || m.Fill }
