//go:build race

package crash_test

// The race detector makes a seed many times slower, and looks for something else.
func init() { usualSeeds = 10 }
