package grainstest

import (
	"testing"

	"pgregory.net/rapid"
)

func TestEvenly(t *testing.T) {
	const draws = 2000
	g := Evenly("a", "b", "c", "d", "e")
	count := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		for range draws / 100 {
			count[g.Draw(rt, "letter")]++
		}
	})
	total := 0
	for _, n := range count {
		total += n
	}
	for letter, n := range count {
		if 5*n < total*8/10 || 5*n > total*12/10 {
			t.Errorf("%s was drawn %d times of %d: %v", letter, n, total, count)
		}
	}
	if len(count) != 5 {
		t.Errorf("drawn: %v", count)
	}
}
