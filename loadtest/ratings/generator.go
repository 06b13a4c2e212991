package ratings

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Parameters of the generator. The defaults are the figures published with the small MovieLens data set (its README:
// users, ratings, at least twenty by each user, first and last day, half stars).
type Parameters struct {
	// Users, default 610.
	Users int
	// Products to choose from, default 9,724.
	Products int
	// Ratings in all, default 100,836, and at least twenty for each user. A user rates a product once, so users who want
	// more than half of all products do without the rest, and there are fewer.
	Ratings int
	// Seed of all randomness: the same parameters give the same ratings.
	Seed uint64
}

// Check tells what is wrong with the parameters, or nil.
func (p Parameters) Check() error {
	const most = 100_000_000
	switch {
	case p.Users < 0 || p.Products < 0 || p.Ratings < 0:
		return errors.New("a number of users, products or ratings is negative")
	case p.Users > most/leastRatings || p.Products > most || p.Ratings > most:
		return fmt.Errorf("more than %d ratings or products, or users with %d ratings each, are too many", most, leastRatings)
	}
	return nil
}

// What is not published is guessed: how much is rated by how busy a user, how popularity falls off, how tastes differ.
const (
	leastRatings = 20   // of a user; published
	tastes       = 12   // each product and each user has one …
	ownTaste     = 0.65 // … and so much of what a user rates is of the user's own
	zipf         = 0.9  // the n-th product of a taste is rated in proportion to n^-zipf
	secondsApart = 40   // between the ratings of one sitting
)

var (
	firstDay = time.Date(1996, time.March, 29, 0, 0, 0, 0, time.UTC)
	lastDay  = time.Date(2018, time.September, 24, 0, 0, 0, 0, time.UTC)
	// halfStars is how often each of 1 to 10 half stars is given, in percent: whole stars more often than half ones, four
	// the most, and nearly half of all four or more.
	halfStars = [10]float64{1, 3, 2, 8, 6, 20, 13, 26, 8, 13}
)

// Generate makes ratings as those of MovieLens look, in the order of their times.
func Generate(p Parameters) []Rating {
	p.Users, p.Products, p.Ratings = cmp.Or(p.Users, 610), cmp.Or(p.Products, 9_724), cmp.Or(p.Ratings, 100_836)
	r := rand.New(rand.NewPCG(p.Seed, 0))
	shelves := newShelves(p.Products)
	shares, total := make([]float64, p.Users), 0.0
	for u := range shares {
		shares[u] = math.Exp(1.2 * r.NormFloat64()) // a few are very busy
		total += shares[u]
	}
	more := max(0, p.Ratings-leastRatings*p.Users)
	var all []Rating
	var spread float64
	for u := range shares {
		// What is over from rounding goes to the next, so that the sum is right.
		spread += float64(more) * shares[u] / total
		n := int(math.Round(spread))
		spread -= float64(n)
		n = min(leastRatings+n, max(1, p.Products/2))
		taste := r.IntN(len(shelves.sums))
		at := firstDay.Add(time.Duration(r.Int64N(int64(lastDay.Sub(firstDay)/time.Second))) * time.Second)
		rated := map[uint32]bool{}
		for len(rated) < n {
			shelf := taste
			if r.Float64() > ownTaste {
				shelf = r.IntN(len(shelves.sums))
			}
			product := shelves.draw(r, shelf)
			for rated[product] { // popular ones run out: then take the next free one
				product = product%uint32(p.Products) + 1
			}
			rated[product] = true
			at = at.Add(time.Duration(r.ExpFloat64()*secondsApart) * time.Second)
			all = append(all, Rating{Time: at, User: uint32(u + 1), Product: product, HalfStars: stars(r, shelf == taste)})
		}
	}
	return sorted(all)
}

// stars draws a rating: of what is not to the user's taste the worse of two, of what is, every other time, the better.
func stars(r *rand.Rand, own bool) uint8 {
	draw := func() uint8 {
		x := r.Float64() * 100
		for i, percent := range halfStars {
			if x -= percent; x < 0 {
				return uint8(i + 1)
			}
		}
		return 10
	}
	s := draw()
	switch {
	case !own:
		return min(s, draw())
	case r.IntN(2) == 0:
		return max(s, draw())
	}
	return s
}

// shelves holds running sums over the products of each taste, in the order of their popularity: product n has taste n
// modulo their number.
type shelves struct{ sums [][]float64 }

func newShelves(products int) *shelves {
	s := &shelves{sums: make([][]float64, min(tastes, products))}
	for t := range s.sums {
		sum := 0.0
		for n := t; n < products; n += len(s.sums) {
			sum += math.Pow(float64(n/len(s.sums)+1), -zipf)
			s.sums[t] = append(s.sums[t], sum)
		}
	}
	return s
}

// draw takes a product of a taste, popular ones more often.
func (s *shelves) draw(r *rand.Rand, taste int) uint32 {
	sums := s.sums[taste]
	x := r.Float64() * sums[len(sums)-1]
	low, high := 0, len(sums)-1
	for low < high {
		if mid := (low + high) / 2; sums[mid] > x {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return uint32(low*len(s.sums) + taste + 1)
}
