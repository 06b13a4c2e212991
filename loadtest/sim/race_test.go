//go:build race

package sim

// The race detector makes a seed many times slower, and looks for something else.
func init() { usualSeeds = 3 }
