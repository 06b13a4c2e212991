package commands

import (
	"errors"
	"math"
	"strconv"
)

// ledgerMode is the value of --ledger.
type ledgerMode string

const (
	ledgerFull   ledgerMode = "full"
	ledgerSample ledgerMode = "sample"
	ledgerOff    ledgerMode = "off"
)

// String is part of pflag.Value.
func (l *ledgerMode) String() string { return string(*l) }

// Type is part of pflag.Value.
func (l *ledgerMode) Type() string { return "mode" }

// Set is part of pflag.Value.
func (l *ledgerMode) Set(text string) error {
	switch m := ledgerMode(text); m {
	case ledgerFull, ledgerSample, ledgerOff:
		*l = m
		return nil
	}
	return errors.New("want full, sample or off")
}

// eventRate is the value of --rate: events a second, 0 for as fast as possible.
type eventRate float64

// String is part of pflag.Value.
func (r *eventRate) String() string {
	if *r == 0 {
		return "max"
	}
	return strconv.FormatFloat(float64(*r), 'f', -1, 64)
}

// Type is part of pflag.Value.
func (r *eventRate) Type() string { return "events" }

// Set is part of pflag.Value.
func (r *eventRate) Set(text string) error {
	if text == "max" {
		*r = 0
		return nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n <= 0 || math.IsInf(n, 0) || math.IsNaN(n) {
		return errors.New("want a number of events a second, or max")
	}
	*r = eventRate(n)
	return nil
}
