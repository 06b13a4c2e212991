package product

import (
	"math"
	"math/bits"
	"slices"

	productv1 "github.com/granary-dev/granary/proto/granary/product/v1"
)

// maxSimilar is part of what [productv1.Product] promises.
const maxSimilar = 64

// doubt is how many common fans it takes to be believed by half, so that two products with one fan, the same, are not
// taken for twins.
const doubt = 5

// learn counts a fan in common with another product. When the list is full, a newcomer takes one from the least count,
// and the place once that has nothing left: so those that come once contend for the last place and leave the others
// alone, and one that comes often gets in. It is the scheme of Misra and Gries (Finding Repeated Elements, Science of Computer
// Programming 2, 1982) with one counter lowered instead of all.
func learn(s *productv1.Product, other string, fans uint64) {
	i := slices.Index(s.Similar, other)
	if i < 0 && len(s.Similar) == maxSimilar {
		least := 0
		for k, n := range s.SimilarCounts {
			if n <= s.SimilarCounts[least] {
				least = k // of several, the least similar
			}
		}
		s.SimilarCounts[least]--
		if s.SimilarCounts[least] > 0 {
			settle(s, least)
			return
		}
		s.Similar = slices.Delete(s.Similar, least, least+1)
		s.SimilarCounts = slices.Delete(s.SimilarCounts, least, least+1)
		s.SimilarFans = slices.Delete(s.SimilarFans, least, least+1)
		s.Similarities = slices.Delete(s.Similarities, least, least+1)
	}
	if i < 0 {
		i = len(s.Similar)
		s.Similar = append(s.Similar, other)
		s.SimilarCounts = append(s.SimilarCounts, 0)
		s.SimilarFans = append(s.SimilarFans, 0)
		s.Similarities = append(s.Similarities, 0)
	}
	s.SimilarCounts[i] = min(s.SimilarCounts[i]+1, math.MaxUint32)
	s.SimilarFans[i] = max(s.SimilarFans[i], fans)
	settle(s, i)
}

// settle computes the similarity of the i-th of the list anew and moves it to where it belongs: behind those that are as
// similar.
func settle(s *productv1.Product, i int) {
	s.Similarities[i] = similarity(s.SimilarCounts[i], s.Fans, s.SimilarFans[i])
	for ; i > 0 && s.Similarities[i-1] < s.Similarities[i]; i-- {
		swap(s, i-1, i)
	}
	for ; i+1 < len(s.Similar) && s.Similarities[i+1] > s.Similarities[i]; i++ {
		swap(s, i, i+1)
	}
}

func swap(s *productv1.Product, i, k int) {
	s.Similar[i], s.Similar[k] = s.Similar[k], s.Similar[i]
	s.SimilarCounts[i], s.SimilarCounts[k] = s.SimilarCounts[k], s.SimilarCounts[i]
	s.SimilarFans[i], s.SimilarFans[k] = s.SimilarFans[k], s.SimilarFans[i]
	s.Similarities[i], s.Similarities[k] = s.Similarities[k], s.Similarities[i]
}

// compareAll computes all similarities anew, after the number of fans has changed. It is an insertion sort: the order
// hardly changes.
func compareAll(s *productv1.Product) {
	for i := range s.Similar {
		s.Similarities[i] = similarity(s.SimilarCounts[i], s.Fans, s.SimilarFans[i])
		for k := i; k > 0 && s.Similarities[k-1] < s.Similarities[k]; k-- {
			swap(s, k-1, k)
		}
	}
}

// similarity of two products with so many fans, of whom both have so many in common: the cosine of their columns in the
// table of who likes what, common / √(a·b) (Deshpande and Karypis, Item-Based Top-N Recommendation Algorithms, 2004),
// shrunk by common / (common + doubt) (Koren, Factorization Meets the Neighborhood, KDD 2008, section 2.2), in
// thousandths rounded down. Fans in common may be heard of before they are counted.
func similarity(common, a, b uint64) uint32 {
	a, b = max(a, common), max(b, common)
	// common² ≤ a·b, and all three are below 2^32, so the quotient is at most 10^6.
	high, low := bits.Mul64(common*common, 1_000_000)
	square, _ := bits.Div64(high, low, a*b)
	return uint32(root(square) * common / (common + doubt))
}

// root is the square root of n, at most 10^6, rounded down.
func root(n uint64) uint64 {
	low, high := uint64(0), uint64(1000)
	for low < high {
		if mid := (low + high + 1) / 2; mid*mid <= n {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}
