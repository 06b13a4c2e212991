package product

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	productv1 "github.com/granary-dev/granary/proto/granary/product/v1"
)

// TestSimilarity holds the formula in integers to the one in the books, by exact arithmetic.
func TestSimilarity(t *testing.T) {
	number := rapid.OneOf(rapid.Uint64Range(0, 50), rapid.Uint64Range(0, math.MaxUint32))
	rapid.Check(t, func(rt *rapid.T) {
		common := max(1, number.Draw(rt, "common"))
		a, b := number.Draw(rt, "a"), number.Draw(rt, "b")
		got := similarity(common, a, b)
		if again := similarity(common, b, a); again != got {
			rt.Fatalf("%d one way and %d the other", got, again)
		}
		// The cosine in thousandths, rounded down: the root of common²·10^6 / (a·b), which big integers have exactly.
		a, b = max(a, common), max(b, common)
		c := new(big.Int).SetUint64(common)
		square := new(big.Int).Mul(new(big.Int).Mul(c, c), big.NewInt(1_000_000))
		square.Div(square, new(big.Int).Mul(new(big.Int).SetUint64(a), new(big.Int).SetUint64(b)))
		want := new(big.Int).Sqrt(square)
		want.Mul(want, c).Div(want, new(big.Int).Add(c, big.NewInt(5)))
		if uint64(got) != want.Uint64() || got > 1000 {
			rt.Fatalf("similarity(%d, %d, %d) = %d, want %v", common, a, b, got, want)
		}
		real := 1000 * float64(common) / (math.Sqrt(float64(a)) * math.Sqrt(float64(b))) * float64(common) / float64(common+5)
		if math.Abs(float64(got)-real) > 2 {
			rt.Fatalf("similarity(%d, %d, %d) = %d, the formula gives %f", common, a, b, got, real)
		}
	})
	for _, known := range []struct{ common, a, b, want uint64 }{
		{1, 1, 1, 166}, {5, 5, 5, 500}, {45, 50, 50, 810}, {95, 95, 380, 475}, {1, 1000, 1000, 0},
	} {
		if got := similarity(known.common, known.a, known.b); uint64(got) != known.want {
			t.Errorf("similarity(%d, %d, %d) = %d, want %d", known.common, known.a, known.b, got, known.want)
		}
	}
}

// TestLearn: with room for all, counts are exact; without, no count is above the truth. The list is always in order, and
// says of each what the formula says.
func TestLearn(t *testing.T) {
	for _, others := range []int{20, maxSimilar, maxSimilar + 6, 200} {
		t.Run(fmt.Sprint(others), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				s := &productv1.Product{}
				truth := map[string]uint64{}
				for range rapid.IntRange(0, 400).Draw(rt, "events") {
					if rapid.IntRange(0, 3).Draw(rt, "turn") == 0 {
						s.Fans++
						compareAll(s)
						continue
					}
					other := fmt.Sprint(rapid.IntRange(1, others).Draw(rt, "other"))
					truth[other]++
					learn(s, other, rapid.Uint64Range(1, 20).Draw(rt, "fans"))
				}
				for i, other := range s.Similar {
					switch n := s.SimilarCounts[i]; {
					case n < 1 || n > truth[other] || len(truth) <= maxSimilar && n != truth[other]:
						rt.Fatalf("%s has %d, really %d", other, n, truth[other])
					case s.Similarities[i] != similarity(n, s.Fans, s.SimilarFans[i]):
						rt.Fatalf("%s: similarity %d", other, s.Similarities[i])
					case i > 0 && s.Similarities[i-1] < s.Similarities[i]:
						rt.Fatalf("not in order: %v", s.Similarities)
					case slices.Index(s.Similar, other) != i:
						rt.Fatalf("%s is there twice", other)
					}
				}
				if want := min(maxSimilar, len(truth)); len(s.Similar) > maxSimilar || len(truth) <= maxSimilar && len(s.Similar) != want {
					rt.Fatalf("%d are similar, of %d", len(s.Similar), len(truth))
				}
				if n := len(s.Similar); len(s.Similarities) != n || len(s.SimilarCounts) != n || len(s.SimilarFans) != n {
					rt.Fatal("the lists are not in parallel")
				}
			})
		})
	}
}

// TestNewcomers: what comes once contends for the last place only, and does not drive out what was learnt; what comes
// often gets in.
func TestNewcomers(t *testing.T) {
	s := &productv1.Product{Fans: 100}
	for i := range maxSimilar {
		for range 20 {
			learn(s, fmt.Sprint("old", i), 50)
		}
	}
	for i := range 300 {
		learn(s, fmt.Sprint("once", i), 50)
	}
	if slices.ContainsFunc(s.Similar[:maxSimilar-1], func(k string) bool { return k[:3] != "old" }) {
		t.Errorf("driven out: %v", s.Similar)
	}
	for range 3_000 {
		learn(s, "new", 50)
	}
	if s.Similar[0] != "new" {
		t.Errorf("not let in: %v, %v", s.Similar, s.SimilarCounts)
	}
}

// TestCountsEnd: a count at its highest stays there, and can still be compared.
func TestCountsEnd(t *testing.T) {
	h := newHost()
	h.state.Fans = math.MaxUint32
	h.state.Similar, h.state.SimilarCounts = []string{"p"}, []uint64{math.MaxUint32}
	h.state.SimilarFans, h.state.Similarities = []uint64{math.MaxUint32}, []uint32{999}
	for _, m := range []*productv1.Together{{Other: "p", Fans: math.MaxUint32}, {Other: "p", Fans: 1}} {
		if out := h.turn(time.Unix(1, 0), m); out.Err != nil || h.state.SimilarCounts[0] != math.MaxUint32 || h.state.Similarities[0] != 999 {
			t.Errorf("%v, %v", out.Err, h.state)
		}
	}
	if out := h.turn(time.Unix(1, 0), &productv1.Interested{User: "u"}); out.Err != nil || h.state.Fans != math.MaxUint32 {
		t.Errorf("%v, %v", out.Err, h.state)
	}
}
