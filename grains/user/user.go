// Package user is the kind "user": what one user rated and viewed, what it seems to like, and what may come next.
//
// Here lives what is known from the user's own ratings and views, and what products answered to it: totals, a memory of
// what the user knows, its latest interests, and a ranking of what they suggest, with the reason of each. Here never live
// other users: who likes what together is for the products to learn, and they learn it from what users tell them. Integers
// only, so that no compiler and no machine can round differently.
//
// Invariant: count and half_stars equal a recount of the ratings that hold, where of several ratings of one product the
// one with the latest event time holds (of equal ones the last to arrive), as far as the memory reaches; nothing that the
// memory holds is suggested; and the state has an upper size, whatever comes.
package user

import (
	"slices"

	"github.com/granary-dev/granary/grains"
	productv1 "github.com/granary-dev/granary/proto/granary/product/v1"
	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
)

const (
	maxProductBytes = 128
	maxHalfStars    = 10
	// liked is the least rating that shows an interest: four stars, as is usual for data with five.
	liked = 8
	// maxTogether bounds what one interest costs: it is told together with so many interests before it, and each of them
	// is two sends between products.
	maxTogether = 8
)

// Kind is the declaration of the kind.
var Kind = grains.Kind[*userv1.User]{
	Name:    "user",
	Version: 1,
	Doc:     "somebody who rates and views products: what they know and like, and what may come next",
	Handlers: grains.Handlers[*userv1.User]{
		grains.On(rated), grains.On(viewed), grains.On(suggested),
		grains.Query(recommend),
	},
}

// rated folds a rating, tells the product, and takes it for an interest, or for the end of one.
func rated(t *grains.Turn, s *userv1.User, e *userv1.Rated) error {
	at := t.EventTime().UnixMicro()
	if err := check(e.Product, at); err != nil {
		return err
	}
	if e.HalfStars < 1 || e.HalfStars > maxHalfStars {
		return grains.Rejectf("half_stars is %d; a rating has 1 to %d", e.HalfStars, maxHalfStars)
	}

	clock(s, at)
	k, before := recall(s, e.Product)
	if before.halfStars > 0 && before.at > at {
		s.OutdatedCount++
		return nil
	}
	told := &productv1.Rated{User: t.Key(), HalfStars: e.HalfStars}
	if before.halfStars > 0 {
		s.ChangedCount++
		s.HalfStars -= uint64(before.halfStars)
		told.PreviousHalfStars, told.PreviousAtMicros = before.halfStars, before.at
	} else {
		s.Count++
	}
	s.HalfStars += uint64(e.HalfStars)
	now := memory{at: at, halfStars: e.HalfStars, interested: before.interested || e.HalfStars >= liked}
	t.Send("product/"+e.Product, told)

	remember(s, k, now)
	forgetSuggestion(s, e.Product)
	if e.HalfStars >= liked {
		interested(t, s, e.Product, at, before.interested)
	} else {
		dropInterest(s, e.Product)
	}
	rank(s)
	return nil
}

// viewed counts a view, tells the product, and takes it for an interest, unless the user has said otherwise.
func viewed(t *grains.Turn, s *userv1.User, e *userv1.Viewed) error {
	at := t.EventTime().UnixMicro()
	if err := check(e.Product, at); err != nil {
		return err
	}

	clock(s, at)
	s.ViewCount++
	t.Send("product/"+e.Product, &productv1.Viewed{User: t.Key()})

	k, before := recall(s, e.Product)
	if before.halfStars > 0 && before.halfStars < liked {
		return nil
	}
	now := memory{at: before.at, halfStars: before.halfStars, interested: true}
	if !before.known {
		now.at = at
	}
	remember(s, k, now)
	forgetSuggestion(s, e.Product)
	interested(t, s, e.Product, at, before.interested)
	rank(s)
	return nil
}

// suggested takes in what a product answers, if it is still among the interests.
func suggested(_ *grains.Turn, s *userv1.User, e *userv1.Suggested) error {
	if err := checkProduct("product", e.Product); err != nil {
		return err
	}
	if len(e.Others) > maxSuggestions || len(e.Others) != len(e.Similarities) {
		return grains.Rejectf("%d others with %d similarities; want as many, and at most %d", len(e.Others), len(e.Similarities), maxSuggestions)
	}
	for i, other := range e.Others {
		if err := checkProduct("others", other); err != nil {
			return err
		}
		if slices.Contains(e.Others[:i], other) {
			return grains.Reject("others has a product twice")
		}
		if e.Similarities[i] < 1 || e.Similarities[i] > maxSimilarity {
			return grains.Rejectf("similarities has a %d; want 1 to %d", e.Similarities[i], maxSimilarity)
		}
	}
	takeSuggestions(s, e)
	rank(s)
	return nil
}

// check checks what ratings and views have in common.
func check(product string, atMicros int64) error {
	if err := checkProduct("product", product); err != nil {
		return err
	}
	if atMicros < 0 {
		return grains.Reject("it took place before 1970")
	}
	return nil
}

func checkProduct(field, key string) error {
	if key == "" {
		return grains.Rejectf("%s is empty", field)
	}
	if len(key) > maxProductBytes {
		return grains.Rejectf("%s has %d bytes; at most %d are taken", field, len(key), maxProductBytes)
	}
	if err := grains.CheckKey(key); err != nil {
		return grains.Rejectf("%s: %v", field, err)
	}
	return nil
}

// clock moves the first and the newest time.
func clock(s *userv1.User, at int64) {
	if s.Count == 0 && s.ViewCount == 0 {
		s.FirstAtMicros, s.LastAtMicros = at, at
	}
	s.FirstAtMicros, s.LastAtMicros = min(s.FirstAtMicros, at), max(s.LastAtMicros, at)
}
