// Package product is the kind "product": one thing that users rate and view, how it is received, and what goes with it.
//
// Here lives what is known from the ratings, views and interests that users' grains pass on, and from the other products
// that have fans in common with this one: totals, windows, and a list of similar products that is learnt as they come.
// Here never lives what clients say: they publish to users. Integers only, so that no compiler and no machine can round
// differently.
//
// Invariant: count, half_stars and the windows equal a recount of the ratings that hold and of the views (package window
// says which of them a window holds), whatever the order of their arrival; and the state has an upper size, whatever
// comes.
package product

import (
	"math"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/window"
	productv1 "github.com/granary-dev/granary/proto/granary/product/v1"
	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
)

const (
	maxProductBytes = 128
	maxHalfStars    = 10
	// maxOthers is part of what [productv1.Interested] promises.
	maxOthers = 8
	// maxSuggestions is how many similar products a user is told of.
	maxSuggestions = 20
)

// Kind is the declaration of the kind.
var Kind = grains.Kind[*productv1.Product]{
	Name:    "product",
	Version: 1,
	Doc:     "a thing that users rate and view: how it is received, and which others go with it",
	Handlers: grains.Handlers[*productv1.Product]{
		grains.On(rated), grains.On(viewed), grains.On(interested), grains.On(together),
	},
}

// rated folds a rating, and takes out the one that it replaces.
func rated(t *grains.Turn, s *productv1.Product, e *productv1.Rated) error {
	at := t.EventTime().UnixMicro()
	if err := check(e.User, at); err != nil {
		return err
	}
	switch again := e.PreviousHalfStars > 0; {
	case e.HalfStars < 1 || e.HalfStars > maxHalfStars:
		return grains.Rejectf("half_stars is %d; a rating has 1 to %d", e.HalfStars, maxHalfStars)
	case e.PreviousHalfStars > maxHalfStars:
		return grains.Rejectf("previous_half_stars is %d; a rating has 1 to %d", e.PreviousHalfStars, maxHalfStars)
	case e.PreviousAtMicros < 0:
		return grains.Reject("the rating replaced took place before 1970")
	case again && e.PreviousAtMicros > at:
		return grains.Reject("the rating replaced is the later one")
	case again && (s.Count == 0 || s.HalfStars < uint64(e.PreviousHalfStars)+s.Count-1): // the others have one at least
		return grains.Rejectf("there is no rating of %d half stars to replace", e.PreviousHalfStars)
	}

	newest := advance(s, at)
	w := ratings(s)
	if e.PreviousHalfStars > 0 {
		s.ChangedCount++
		s.Count--
		s.HalfStars -= uint64(e.PreviousHalfStars)
		w.Remove(newest, window.Hour(e.PreviousAtMicros), int64(e.PreviousHalfStars))
	}
	s.Count++
	s.HalfStars += uint64(e.HalfStars)
	w.Add(newest, window.Hour(at), int64(e.HalfStars))
	s.MeanCentistars = uint32(s.HalfStars * 50 / s.Count)
	return nil
}

// viewed counts a view.
func viewed(t *grains.Turn, s *productv1.Product, e *productv1.Viewed) error {
	at := t.EventTime().UnixMicro()
	if err := check(e.User, at); err != nil {
		return err
	}
	newest := advance(s, at)
	w := views(s)
	w.Add(newest, window.Hour(at), 0)
	s.ViewCount++
	return nil
}

// interested counts a fan, tells the other products that they have this fan in common, and answers with what goes with
// this one.
func interested(t *grains.Turn, s *productv1.Product, e *productv1.Interested) error {
	if err := checkUser(e.User); err != nil {
		return err
	}
	if len(e.Others) > maxOthers {
		return grains.Rejectf("%d others; at most %d are taken", len(e.Others), maxOthers)
	}
	for _, other := range e.Others {
		if err := checkOther(t, "others", other); err != nil {
			return err
		}
	}

	if !e.Again && s.Fans < math.MaxUint32 {
		s.Fans++
		compareAll(s)
		for _, other := range e.Others {
			t.Send("product/"+other, &productv1.Together{Other: t.Key(), Fans: s.Fans})
		}
	}
	answer := &userv1.Suggested{Product: t.Key()}
	for i, other := range s.Similar {
		if i == maxSuggestions || s.Similarities[i] == 0 {
			break
		}
		answer.Others = append(answer.Others, other)
		answer.Similarities = append(answer.Similarities, s.Similarities[i])
	}
	t.Send("user/"+e.User, answer)
	return nil
}

// together learns of a fan in common, and lets the other product learn it too.
func together(t *grains.Turn, s *productv1.Product, e *productv1.Together) error {
	if err := checkOther(t, "other", e.Other); err != nil {
		return err
	}
	if e.Fans > math.MaxUint32 {
		return grains.Rejectf("fans is %d; at most %d are taken", e.Fans, uint32(math.MaxUint32))
	}
	learn(s, e.Other, e.Fans)
	if !e.Answer {
		t.Send("product/"+e.Other, &productv1.Together{Other: t.Key(), Fans: s.Fans, Answer: true})
	}
	return nil
}

// check checks what ratings and views have in common.
func check(user string, atMicros int64) error {
	if err := checkUser(user); err != nil {
		return err
	}
	if atMicros < 0 {
		return grains.Reject("it took place before 1970")
	}
	return nil
}

func checkUser(user string) error {
	if user == "" {
		return grains.Reject("user is empty")
	}
	if err := grains.CheckKey(user); err != nil {
		return grains.Rejectf("user: %v", err)
	}
	return nil
}

// checkOther checks the key of another product.
func checkOther(t *grains.Turn, field, other string) error {
	switch {
	case other == "":
		return grains.Rejectf("%s is empty", field)
	case len(other) > maxProductBytes:
		return grains.Rejectf("%s has %d bytes; at most %d are taken", field, len(other), maxProductBytes)
	case other == t.Key():
		return grains.Rejectf("%s is this product itself", field)
	}
	if err := grains.CheckKey(other); err != nil {
		return grains.Rejectf("%s: %v", field, err)
	}
	return nil
}

// advance moves all windows on to a time, and returns the newest hour.
func advance(s *productv1.Product, at int64) (newest uint32) {
	from := window.Hour(s.LastAtMicros)
	s.LastAtMicros = max(s.LastAtMicros, at)
	newest = window.Hour(s.LastAtMicros)
	r, v := ratings(s), views(s)
	r.Advance(from, newest)
	v.Advance(from, newest)
	return newest
}

// ratings is the product's row of hours with ratings, and the windows over it. Its sums are of half stars.
func ratings(s *productv1.Product) window.Series {
	return window.Series{
		Hours: &s.Hours, Counts: &s.HourCounts, Cents: &s.HourHalfStars,
		Spans: [window.MaxSpans]window.Span{
			{Length: window.Day, Count: &s.DayCount, Cents: &s.DayHalfStars},
			{Length: window.Week, Count: &s.WeekCount, Cents: &s.WeekHalfStars},
			{Length: window.Month, Count: &s.MonthCount, Cents: &s.MonthHalfStars},
		},
	}
}

// views is the product's row of hours with views, and the windows over it.
func views(s *productv1.Product) window.Series {
	return window.Series{
		Hours: &s.ViewHours, Counts: &s.ViewHourCounts,
		Spans: [window.MaxSpans]window.Span{
			{Length: window.Day, Count: &s.DayViews},
			{Length: window.Week, Count: &s.WeekViews},
			{Length: window.Month, Count: &s.MonthViews},
		},
	}
}
