package user

import (
	"cmp"
	"slices"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/window"
	productv1 "github.com/granary-dev/granary/proto/granary/product/v1"
	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
)

// What bounds interests and suggestions; part of what [userv1.User] and [userv1.Suggested] promise.
const (
	maxInterests   = 16
	maxSuggestions = 20
	maxNext        = 10
	maxSimilarity  = 1000
)

// interested notes an interest in a product and tells it to the product, unless it is noted already. The product learns
// of it once, however often it comes and goes.
func interested(t *grains.Turn, s *userv1.User, product string, at int64, again bool) {
	if i := slices.Index(s.Interests, product); i >= 0 {
		if at > s.InterestAtMicros[i] {
			own := slices.Clone(suggestionsOf(s, i))
			dropInterest(s, product)
			addInterest(s, product, at, own)
		}
		return
	}
	told := &productv1.Interested{User: t.Key(), Again: again}
	if !again {
		s.InterestCount++
		for i := len(s.Interests) - 1; i >= 0 && len(told.Others) < maxTogether; i-- {
			told.Others = append(told.Others, s.Interests[i])
		}
	}
	if !addInterest(s, product, at, nil) && again {
		return // older than all interests, and the product knows
	}
	t.Send("product/"+product, told)
}

// suggestion is a product that an interest suggests.
type suggestion struct {
	product    string
	similarity uint32
}

// addInterest puts an interest among the others, in the order of their times, and forgets the oldest if there are too
// many. It reports false if that is the new one.
func addInterest(s *userv1.User, product string, at int64, own []suggestion) bool {
	i, ok := window.Place(s.InterestAtMicros, at, maxInterests)
	if !ok {
		return false
	}
	if len(s.Interests) == maxInterests {
		setSuggestions(s, 0, nil)
	}
	s.Interests = window.Put(s.Interests, i, product, maxInterests)
	s.InterestAtMicros = window.Put(s.InterestAtMicros, i, at, maxInterests)
	s.InterestSuggestions = window.Put(s.InterestSuggestions, i, 0, maxInterests)
	setSuggestions(s, slices.Index(s.Interests, product), own)
	return true
}

// dropInterest forgets an interest, if it is one, and what it suggests.
func dropInterest(s *userv1.User, product string) {
	i := slices.Index(s.Interests, product)
	if i < 0 {
		return
	}
	setSuggestions(s, i, nil)
	s.Interests = slices.Delete(s.Interests, i, i+1)
	s.InterestAtMicros = slices.Delete(s.InterestAtMicros, i, i+1)
	s.InterestSuggestions = slices.Delete(s.InterestSuggestions, i, i+1)
}

// takeSuggestions replaces what an interest suggests, leaving out what the user knows.
func takeSuggestions(s *userv1.User, e *userv1.Suggested) {
	i := slices.Index(s.Interests, e.Product)
	if i < 0 {
		return
	}
	var own []suggestion
	for k, other := range e.Others {
		if _, m := recall(s, other); !m.known {
			own = append(own, suggestion{other, e.Similarities[k]})
		}
	}
	setSuggestions(s, i, own)
}

// forgetSuggestion takes out a product wherever it is suggested.
func forgetSuggestion(s *userv1.User, product string) {
	if !slices.Contains(s.Suggestions, product) {
		return
	}
	for i := range s.Interests {
		own := suggestionsOf(s, i)
		left := slices.DeleteFunc(own, func(x suggestion) bool { return x.product == product })
		setSuggestions(s, i, left)
	}
}

// span is where the suggestions of interest i begin and end.
func span(s *userv1.User, i int) (from, to int) {
	for _, n := range s.InterestSuggestions[:i] {
		from += int(n)
	}
	return from, from + int(s.InterestSuggestions[i])
}

// suggestionsOf is a copy of what interest i suggests.
func suggestionsOf(s *userv1.User, i int) []suggestion {
	from, to := span(s, i)
	own := make([]suggestion, 0, to-from)
	for k := from; k < to; k++ {
		own = append(own, suggestion{s.Suggestions[k], s.SuggestionSimilarities[k]})
	}
	return own
}

// setSuggestions replaces what interest i suggests.
func setSuggestions(s *userv1.User, i int, own []suggestion) {
	from, to := span(s, i)
	if from == to && len(own) == 0 {
		return
	}
	products, similarities := make([]string, len(own)), make([]uint32, len(own))
	for k, x := range own {
		products[k], similarities[k] = x.product, x.similarity
	}
	s.Suggestions = slices.Replace(s.Suggestions, from, to, products...)
	s.SuggestionSimilarities = slices.Replace(s.SuggestionSimilarities, from, to, similarities...)
	s.InterestSuggestions[i] = uint32(len(own))
}

// rank orders what comes next anew. A product's score is the sum of its similarities to the interests that suggest it:
// the item-based top-N scheme of Deshpande and Karypis (Item-Based Top-N Recommendation Algorithms, ACM Transactions on
// Information Systems 22(1), 2004) with the user's latest interests as the basket.
func rank(s *userv1.User) {
	type candidate struct {
		suggestion // the sum
		best       uint32
		because    string
	}
	var all []candidate
	places := make(map[string]int, len(s.Suggestions)) // looked up only, never walked
	for i := len(s.Interests) - 1; i >= 0; i-- {
		from, to := span(s, i)
		for k := from; k < to; k++ {
			product, similarity := s.Suggestions[k], s.SuggestionSimilarities[k]
			at, ok := places[product]
			if !ok {
				at = len(all)
				places[product] = at
				all = append(all, candidate{suggestion: suggestion{product: product}})
			}
			c := &all[at]
			c.similarity += similarity
			if similarity > c.best {
				c.best, c.because = similarity, s.Interests[i]
			}
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.similarity, a.similarity), cmp.Compare(a.product, b.product))
	})
	s.Next, s.NextScores, s.NextBecause = s.Next[:0], s.NextScores[:0], s.NextBecause[:0]
	for _, c := range all[:min(len(all), maxNext)] {
		s.Next = append(s.Next, c.product)
		s.NextScores = append(s.NextScores, c.similarity)
		s.NextBecause = append(s.NextBecause, c.because)
	}
}
