//go:build race

package sim

// The race detector makes a seed many times slower, and looks for something else; the seeds that once failed are run with
// it too.
func init() { usualSeeds = 1 }
