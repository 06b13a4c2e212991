package grainstest

import (
	"math/bits"

	"pgregory.net/rapid"
)

// Evenly draws one of the values, each as often as the others. (All that rapid itself offers, SampledFrom included, draws
// the first ones more often, and long sequences hardly ever.) It shrinks towards the first.
func Evenly[T any](values ...T) *rapid.Generator[T] {
	bit := rapid.Bool()
	return rapid.Custom(func(rt *rapid.T) T {
		// Five bits more than needed, so that the remainder favours nobody by more than a few percent.
		i := 0
		for range bits.Len(uint(len(values)-1)) + 5 {
			i *= 2
			if bit.Draw(rt, "bit") {
				i++
			}
		}
		return values[i%len(values)]
	})
}
