// Package ratings is the workload of product ratings: where they come from, how they look as events, and how well what
// is learnt from them foretells one that was held out.
//
// They come from a file of the MovieLens form ([Open]) or from a generator of look-alikes that follows the published
// figures of its small data set ([Generate]). The package may import proto and rows and nothing else of Granary: it reads
// what users are foretold ([Foretold]), and does not publish or measure time.
//
// Invariant: what is held out is in no event of its user.
package ratings

import (
	"cmp"
	"io"
	"slices"
	"strconv"
	"time"

	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Rating is one rating of one product by one user.
type Rating struct {
	// ID of the rating, unique within its source: its number in the order of times, from 0.
	ID uint64
	// Time of the rating, to the second.
	Time time.Time
	// User who rated; the number is the key of the user's grain.
	User uint32
	// Product rated; the number is the key of the product's grain.
	Product uint32
	// HalfStars given, 1 to 10.
	HalfStars uint8
}

// Liked says whether the rating shows an interest in the product: four stars or more.
func (r Rating) Liked() bool { return r.HalfStars >= 8 }

// Names of what the events touch.
const (
	// UserKind is the kind of the grains that get the events.
	UserKind = "user"
	// ProductKind is the kind of the grains that users pass ratings on to.
	ProductKind = "product"
	// RatedType is the type of an event that tells a rating to its user.
	RatedType = "granary.user.v1.Rated"
	// PassedType is the type of the event by which a user passes a rating on.
	PassedType = "granary.product.v1.Rated"
)

// sorted puts ratings in the order of their times, then of users and products, and numbers them.
func sorted(all []Rating) []Rating {
	slices.SortFunc(all, func(a, b Rating) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.User, b.User), cmp.Compare(a.Product, b.Product))
	})
	for i := range all {
		all[i].ID = uint64(i)
	}
	return all
}

// Feed yields ratings one after the other.
type Feed struct{ rest []Rating }

// NewFeed yields the ratings given.
func NewFeed(all []Rating) *Feed { return &Feed{all} }

// Next returns the next rating, or [io.EOF] after the last one.
func (f *Feed) Next() (Rating, error) {
	if len(f.rest) == 0 {
		return Rating{}, io.EOF
	}
	r := f.rest[0]
	f.rest = f.rest[1:]
	return r, nil
}

// ParseEventID reads the id of an event back: the rating's number. It is false for ids that no rating has.
func ParseEventID(id string) (rating uint64, ok bool) {
	rating, err := strconv.ParseUint(id, 10, 56)
	return rating, err == nil && strconv.FormatUint(rating, 10) == id
}

// Key is the key of a user's or a product's grain.
func Key(number uint32) string { return strconv.FormatUint(uint64(number), 10) }

// Events are the ratings as events of their users, in the same order. All carry the source.
func Events(source string, all []Rating) []*granaryv1.Event {
	events := make([]*granaryv1.Event, len(all))
	var rated userv1.Rated
	for i, r := range all {
		rated.Product, rated.HalfStars = Key(r.Product), uint32(r.HalfStars)
		payload, err := rated.MarshalVT()
		if err != nil {
			panic(err) // the generated code of a flat message has no way to fail
		}
		events[i] = &granaryv1.Event{
			Grain: UserKind + "/" + Key(r.User), Id: strconv.FormatUint(r.ID, 10), Source: source, Type: RatedType,
			Time: timestamppb.New(r.Time), Payload: &granaryv1.Event_Protobuf{Protobuf: payload},
		}
	}
	return events
}
