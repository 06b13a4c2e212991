package commands

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// byteSize is the value of a flag for an amount of memory.
type byteSize int64

var byteUnits = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}}

// String is part of pflag.Value.
func (b *byteSize) String() string {
	for _, u := range []int{2, 1, 0} {
		if unit := byteUnits[u]; *b > 0 && int64(*b)%unit.bytes == 0 {
			return fmt.Sprintf("%d%s", int64(*b)/unit.bytes, unit.suffix)
		}
	}
	return fmt.Sprintf("%dB", int64(*b))
}

// Type is part of pflag.Value.
func (b *byteSize) Type() string { return "size" }

// Set is part of pflag.Value.
func (b *byteSize) Set(text string) error {
	for _, u := range byteUnits {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
		if err != nil || n == 0 || n > uint64(1<<62)/uint64(u.bytes) {
			break
		}
		*b = byteSize(int64(n) * u.bytes)
		return nil
	}
	return errors.New("want a number with its unit, for example 256MiB or 1GiB")
}
