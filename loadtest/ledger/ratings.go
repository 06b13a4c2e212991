package ledger

import (
	"fmt"

	"github.com/granary-dev/granary/loadtest/ratings"
	productv1 "github.com/granary-dev/granary/proto/granary/product/v1"
	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

const viewedType = "granary.user.v1.Viewed"

// maxKnown is how many products a user promises to remember. What a user who knows more forgets, and rates again, cannot
// be recounted.
const maxKnown = 4096

// starsBits is how far the time of a rating is shifted in its note, to make room for its half stars.
const starsBits = 4

// NoteRating is the note of a rating. Its value is the time in Unix seconds and the half stars.
func NoteRating(r ratings.Rating) Note {
	return Note{
		key: r.ID & (1<<numberBits - 1), value: r.Time.Unix()<<starsBits | int64(r.HalfStars), owner: r.User, other: r.Product,
	}
}

func (n *Note) rating() (seconds int64, halfStars uint32) {
	return n.value >> starsBits, uint32(n.value & (1<<starsBits - 1))
}

// tasteWorkload is ratings, told to users and passed on to products.
type tasteWorkload struct {
	// holding is what the ratings that hold add up to, by the key of the product, of all users looked at.
	holding map[string]holding
	// forgetful is true if a user knows more than is remembered: then products cannot be recounted from users.
	forgetful bool
}

// holding is a number of ratings and their sum.
type holding struct {
	count     uint64
	halfStars uint64
}

func (*tasteWorkload) words() words {
	return words{
		owner: ratings.UserKind, partner: ratings.ProductKind, things: "ratings", unit: "half stars", passedType: ratings.PassedType,
	}
}

func (*tasteWorkload) identify(r *granaryv1.HistoryRecord) (uint64, bool) {
	number, ok := ratings.ParseEventID(r.GetId())
	return number, ok && r.GetType() == ratings.RatedType
}

func (*tasteWorkload) describe(n *Note) string {
	number, _ := n.event()
	return fmt.Sprintf("rating %d", number)
}

func (w *tasteWorkload) newOwner() ownerRecount {
	return &user{w: w, rated: map[string]rated{}, viewed: map[string]bool{}}
}

func (w *tasteWorkload) newPartner(key string) partnerRecount {
	return &product{w: w, want: w.holding[key]}
}

func (*tasteWorkload) numbers(r *Report, owners, partners int) {
	r.Users, r.Products = owners, partners
}

// user is the recount of a user: of each product, the rating with the latest time holds.
type user struct {
	w    *tasteWorkload
	tell userv1.Rated
	view userv1.Viewed
	held userv1.User

	rated  map[string]rated
	viewed map[string]bool
	views  uint64
}

type rated struct {
	micros    int64
	halfStars uint32
}

func (u *user) read(r *granaryv1.HistoryRecord) error {
	u.tell.Reset()
	u.view.Reset()
	switch r.GetType() {
	case ratings.RatedType:
		return u.tell.UnmarshalVT(r.GetPayloadProtobuf())
	case viewedType:
		return u.view.UnmarshalVT(r.GetPayloadProtobuf())
	}
	return nil
}

func (u *user) altered(sent *Note) string {
	_, halfStars := sent.rating()
	if product := ratings.Key(sent.other); u.tell.GetProduct() != product || u.tell.GetHalfStars() != halfStars {
		return fmt.Sprintf("it says %d half stars for product %q, and %d for %s were sent",
			u.tell.GetHalfStars(), u.tell.GetProduct(), halfStars, product)
	}
	return ""
}

func (u *user) fold(r *granaryv1.HistoryRecord, sent *Note) (product string, halfStars int64, ok bool) {
	switch r.GetType() {
	case viewedType:
		u.views++
		u.viewed[u.view.GetProduct()] = true
	case ratings.RatedType:
		now := rated{micros: r.GetTime().AsTime().UnixMicro(), halfStars: u.tell.GetHalfStars()}
		if r.GetEventTime() != nil {
			now.micros = r.GetEventTime().AsTime().UnixMicro()
		}
		if sent != nil {
			var seconds int64
			seconds, now.halfStars = sent.rating()
			now.micros = seconds * 1_000_000
		}
		if before, again := u.rated[u.tell.GetProduct()]; again && before.micros > now.micros {
			return "", 0, false
		}
		u.rated[u.tell.GetProduct()] = now
		return u.tell.GetProduct(), int64(now.halfStars), true
	}
	return "", 0, false
}

func (u *user) settle() {
	for product, r := range u.rated {
		h := u.w.holding[product]
		h.count++
		h.halfStars += uint64(r.halfStars)
		u.w.holding[product] = h
	}
	if u.forgetful() {
		u.w.forgetful = true
	}
}

func (u *user) forgetful() bool {
	known := len(u.rated)
	for product := range u.viewed {
		if _, both := u.rated[product]; !both {
			known++
		}
	}
	return known > maxKnown
}

func (u *user) state() unmarshaler { return &u.held }

func (u *user) wrong() string {
	want := holding{count: uint64(len(u.rated))}
	for _, r := range u.rated {
		want.halfStars += uint64(r.halfStars)
	}
	if u.held.GetViewCount() == u.views && (u.forgetful() || want == holding{u.held.GetCount(), u.held.GetHalfStars()}) {
		return ""
	}
	return fmt.Sprintf("%d ratings of %d half stars and %d views; recounted: %d of %d and %d",
		u.held.GetCount(), u.held.GetHalfStars(), u.held.GetViewCount(), want.count, want.halfStars, u.views)
}

// product is the recount of a product: the ratings that hold at the users looked at, and of others those that they
// passed on.
type product struct {
	w    *tasteWorkload
	tell productv1.Rated
	held productv1.Product
	want holding
}

func (p *product) read(r *granaryv1.HistoryRecord) error {
	p.tell.Reset()
	return p.tell.UnmarshalVT(r.GetPayloadProtobuf())
}

func (p *product) fold(looked bool) int64 {
	if !looked {
		if p.tell.GetPreviousHalfStars() == 0 {
			p.want.count++
		}
		p.want.halfStars += uint64(p.tell.GetHalfStars()) - uint64(p.tell.GetPreviousHalfStars())
	}
	return int64(p.tell.GetHalfStars())
}

func (p *product) state() unmarshaler { return &p.held }

func (p *product) wrong() string {
	if p.w.forgetful || p.want == (holding{p.held.GetCount(), p.held.GetHalfStars()}) {
		return ""
	}
	return fmt.Sprintf("%d ratings of %d half stars; recounted: %d of %d",
		p.held.GetCount(), p.held.GetHalfStars(), p.want.count, p.want.halfStars)
}
