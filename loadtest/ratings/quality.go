package ratings

import (
	"cmp"
	"maps"
	"slices"
)

// Split is ratings of which the last that each user liked is held out: what is learnt from the rest should foretell it.
type Split struct {
	// Rest of the ratings, in the order of their times.
	Rest []Rating
	// Held is the rating held out of each user who liked something.
	Held map[uint32]Rating
}

// HoldOut splits ratings that are in the order of their times.
func HoldOut(all []Rating) Split {
	s := Split{Held: map[uint32]Rating{}}
	for _, r := range all {
		if r.Liked() {
			s.Held[r.User] = r
		}
	}
	for _, r := range all {
		if held, ok := s.Held[r.User]; !ok || held.ID != r.ID {
			s.Rest = append(s.Rest, r)
		}
	}
	return s
}

// Users whose ratings are held out, in order.
func (s Split) Users() []uint32 { return slices.Sorted(maps.Keys(s.Held)) }

// TopN is how many products a user is shown.
const TopN = 10

// Quality is how often what was held out stood among the first [TopN] that were foretold.
type Quality struct {
	// Users asked for.
	Users int `json:"users"`
	// Hits of what the users' grains say comes next.
	Hits int `json:"hits"`
	// PopularHits are the hits of a list that is the same for all, but for what a user knows: the products that most
	// users liked.
	PopularHits int `json:"popular_hits"`
	// ByChance is the number of hits to be expected of ten products drawn from those that the user does not know.
	ByChance float64 `json:"hits_by_chance"`
	// Empty is how many users were foretold nothing.
	Empty int `json:"empty"`
}

// Judge compares what was foretold, by product keys, best first, with what was held out.
func (s Split) Judge(next map[uint32][]string) Quality {
	likes, known := map[uint32]int{}, map[uint32]map[uint32]bool{}
	for _, r := range s.Rest {
		n := likes[r.Product] // also those that nobody liked are products
		if r.Liked() {
			n++
		}
		likes[r.Product] = n
		if known[r.User] == nil {
			known[r.User] = map[uint32]bool{}
		}
		known[r.User][r.Product] = true
	}
	popular := slices.SortedFunc(maps.Keys(likes), func(a, b uint32) int {
		return cmp.Or(cmp.Compare(likes[b], likes[a]), cmp.Compare(a, b))
	})
	q := Quality{Users: len(s.Held)}
	for _, user := range s.Users() {
		held := s.Held[user]
		list := next[user][:min(TopN, len(next[user]))]
		if len(list) == 0 {
			q.Empty++
		}
		if slices.Contains(list, Key(held.Product)) {
			q.Hits++
		}
		left := TopN
		for _, product := range popular {
			if known[user][product] {
				continue
			}
			if product == held.Product {
				q.PopularHits++
			}
			if left--; left == 0 || product == held.Product {
				break
			}
		}
		if _, exists := likes[held.Product]; exists {
			q.ByChance += min(1, TopN/float64(len(likes)-len(known[user])))
		}
	}
	return q
}
