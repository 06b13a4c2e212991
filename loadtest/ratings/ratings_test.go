package ratings

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	productv1 "github.com/granary-dev/granary/proto/granary/product/v1"
	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
)

const header = "userId,movieId,rating,timestamp\n"

func TestRead(t *testing.T) {
	got, err := Read("test.csv", strings.NewReader(header+"1,10,4.0,2000\n1,11,0.5,1000\n2,10,5.0,1000\n1,9,3.5,1000\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Rating{
		{ID: 0, Time: time.Unix(1000, 0).UTC(), User: 1, Product: 9, HalfStars: 7},
		{ID: 1, Time: time.Unix(1000, 0).UTC(), User: 1, Product: 11, HalfStars: 1},
		{ID: 2, Time: time.Unix(1000, 0).UTC(), User: 2, Product: 10, HalfStars: 10},
		{ID: 3, Time: time.Unix(2000, 0).UTC(), User: 1, Product: 10, HalfStars: 8},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	feed := NewFeed(got)
	for _, w := range want {
		if r, err := feed.Next(); err != nil || r != w {
			t.Errorf("got %v, %v, want %v", r, err, w)
		}
	}
	if _, err := feed.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	const good = "1,10,4.0,2000\n"
	for name, test := range map[string]struct{ text, want string }{
		"empty":         {"", "test.csv: empty"},
		"columns":       {"a,b,c,d\n", "the columns are a,b,c,d"},
		"fewer columns": {header + "1,2\n", "line 2"},
		"user":          {header + good + "x,10,4.0,2000\n", "line 3: userId"},
		"product":       {header + "1,-1,4.0,2000\n", "movieId"},
		"time":          {header + "1,10,4.0,-5\n", "timestamp"},
		"far time":      {header + "1,10,4.0,9999999999999\n", "timestamp"},
		"no number":     {header + "1,10,good,2000\n", "rating"},
		"zero":          {header + "1,10,0,2000\n", "rating 0 is not"},
		"six":           {header + "1,10,6,2000\n", "rating 6 is not"},
		"quarter":       {header + "1,10,4.25,2000\n", "rating 4.25 is not"},
		"not a number":  {header + "1,10,NaN,2000\n", "rating NaN is not"},
		"infinite":      {header + "1,10,Inf,2000\n", "rating Inf is not"},
	} {
		if _, err := Read("test.csv", strings.NewReader(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want something with %q", name, err, test.want)
		}
	}
	if _, err := Open("no-such-file.csv.gz"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Open("ratings_test.go"); err == nil {
		t.Error("a program was taken for ratings")
	}
}

func TestEvents(t *testing.T) {
	r := Rating{ID: 7, Time: time.Unix(1000, 0), User: 3, Product: 12, HalfStars: 9}
	e := Events("here", []Rating{r})[0]
	if e.Grain != "user/3" || e.Id != "7" || e.Source != "here" || e.Type != RatedType || !e.Time.AsTime().Equal(r.Time) {
		t.Errorf("%v", e)
	}
	want, got := &userv1.Rated{Product: "12", HalfStars: 9}, &userv1.Rated{}
	if err := proto.Unmarshal(e.GetProtobuf(), got); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if name := string(want.ProtoReflect().Descriptor().FullName()); name != RatedType {
		t.Errorf("the type is called %s", name)
	}
	if name := string((&productv1.Rated{}).ProtoReflect().Descriptor().FullName()); name != PassedType {
		t.Errorf("the type is called %s", name)
	}
	for id, ok := range map[string]bool{"0": true, "17": true, "": false, "017": false, "+1": false, "1/x": false} {
		if _, got := ParseEventID(id); got != ok {
			t.Errorf("%q: %v", id, got)
		}
	}
}

// looks is what can be said of many ratings.
type looks struct {
	ratings, users, products, liked int
	fewest                          int
	topShare                        float64 // of the hundredth of products that are rated most
}

func survey(t *testing.T, all []Rating) looks {
	t.Helper()
	users, products, pairs := map[uint32]int{}, map[uint32]int{}, map[[2]uint32]bool{}
	l := looks{ratings: len(all)}
	for i, r := range all {
		if r.ID != uint64(i) || i > 0 && r.Time.Before(all[i-1].Time) || r.HalfStars < 1 || r.HalfStars > 10 {
			t.Fatalf("rating %d is %+v", i, r)
		}
		pair := [2]uint32{r.User, r.Product}
		if pairs[pair] {
			t.Fatalf("user %d rates product %d twice", r.User, r.Product)
		}
		pairs[pair] = true
		users[r.User]++
		products[r.Product]++
		if r.Liked() {
			l.liked++
		}
	}
	l.users, l.products, l.fewest = len(users), len(products), len(all)
	for _, n := range users {
		l.fewest = min(l.fewest, n)
	}
	var counts []int
	for _, n := range products {
		counts = append(counts, n)
	}
	slices.Sort(counts)
	for _, n := range counts[len(counts)-len(counts)/100:] {
		l.topShare += float64(n) / float64(len(all))
	}
	return l
}

// TestGeneratedLooksAlike compares with the figures that are published.
func TestGeneratedLooksAlike(t *testing.T) {
	l := survey(t, Generate(Parameters{}))
	if l.users != 610 || l.fewest < 20 || l.ratings < 99_000 || l.ratings > 100_836 || l.products < 8_000 || l.products > 9_724 {
		t.Errorf("%+v", l)
	}
	if share := float64(l.liked) / float64(l.ratings); share < 0.40 || share > 0.56 {
		t.Errorf("%.2f of the ratings are four stars or more", share)
	}
	if l.topShare < 0.08 || l.topShare > 0.4 {
		t.Errorf("the most rated hundredth of products has %.2f of the ratings", l.topShare)
	}
}

// TestMovieLens reads the file of the small data set, if the environment variable GRANARY_MOVIELENS says where it is, and
// compares it with what is published of it.
func TestMovieLens(t *testing.T) {
	path := os.Getenv("GRANARY_MOVIELENS")
	if path == "" {
		t.Skip("GRANARY_MOVIELENS is not set")
	}
	all, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if l := survey(t, all); l.ratings != 100_836 || l.users != 610 || l.products != 9_724 || l.liked != 48_580 || l.fewest != 20 {
		t.Errorf("%+v", l)
	}
}

// TestSameSeedSameRatings, and others with another seed; small worlds end.
func TestSameSeedSameRatings(t *testing.T) {
	p := Parameters{Users: 30, Products: 200, Ratings: 2_000, Seed: 4}
	a, b := Generate(p), Generate(p)
	p.Seed = 5
	if c := Generate(p); !slices.Equal(a, b) || slices.Equal(a, c) || len(c) == 0 {
		t.Error("the seed does not decide")
	}
	for _, p := range []Parameters{{Users: 5, Products: 1, Ratings: 3}, {Users: 3, Products: 13, Ratings: 1_000}, {Users: 1, Products: 40, Ratings: 20}} {
		if l := survey(t, Generate(p)); l.users != p.Users || l.products > p.Products {
			t.Errorf("%+v gives %+v", p, l)
		}
	}
	for _, p := range []Parameters{{Users: -1}, {Users: 6_000_000}, {Products: 1 << 40}, {Ratings: 1 << 40}} {
		if p.Check() == nil {
			t.Errorf("%+v was taken", p)
		}
	}
	if err := (Parameters{Users: 5}).Check(); err != nil {
		t.Error(err)
	}
}

// TestHoldOut: the last rating that each user liked is kept back, and only that.
func TestHoldOut(t *testing.T) {
	all := Generate(Parameters{Users: 40, Products: 300, Ratings: 1_500})
	s := HoldOut(all)
	if len(s.Rest)+len(s.Held) != len(all) || len(s.Held) == 0 {
		t.Fatalf("%d and %d of %d", len(s.Rest), len(s.Held), len(all))
	}
	for _, r := range s.Rest {
		held, ok := s.Held[r.User]
		if ok && (r.ID == held.ID || r.Liked() && r.ID > held.ID) || !ok && r.Liked() {
			t.Fatalf("%+v was sent and %+v held out", r, held)
		}
	}
	if users := s.Users(); len(users) != len(s.Held) || !slices.IsSorted(users) {
		t.Errorf("%v", users)
	}
	none := HoldOut([]Rating{{User: 1, HalfStars: 7}})
	if len(none.Rest) != 1 || len(none.Held) != 0 || none.Judge(nil).Users != 0 {
		t.Errorf("%+v", none)
	}
}

// TestJudge counts by hand. Products 1 to 12 are liked by 12, 11, … users; who is user 100 knows 1 and 2.
func TestJudge(t *testing.T) {
	var all []Rating
	for product := range uint32(12) {
		for user := range 12 - product {
			all = append(all, Rating{User: 1000 + user, Product: product + 1, HalfStars: 10})
		}
	}
	all = append(all, Rating{User: 100, Product: 1, HalfStars: 2}, Rating{User: 100, Product: 2, HalfStars: 8}, Rating{User: 101, Product: 3, HalfStars: 8})
	s := Split{Rest: all, Held: map[uint32]Rating{}}
	for _, test := range []struct {
		name string
		held uint32
		next []string
		want Quality
	}{
		{"first", 9, []string{"9"}, Quality{Hits: 1, PopularHits: 1, ByChance: 1}},
		{"tenth", 12, []string{"20", "21", "22", "23", "24", "25", "26", "27", "28", "12"}, Quality{Hits: 1, PopularHits: 1, ByChance: 1}},
		{"eleventh", 12, []string{"20", "21", "22", "23", "24", "25", "26", "27", "28", "29", "12"}, Quality{PopularHits: 1, ByChance: 1}},
		{"nothing", 3, nil, Quality{PopularHits: 1, ByChance: 1, Empty: 1}},
		{"never seen", 77, []string{"1"}, Quality{}},
	} {
		s.Held = map[uint32]Rating{100: {User: 100, Product: test.held, HalfStars: 8}}
		test.want.Users = 1
		if got := s.Judge(map[uint32][]string{100: test.next}); got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
	// User 101 knows one product of twelve: eleven are left, ten are shown, and the least popular is not among them.
	s.Held = map[uint32]Rating{101: {User: 101, Product: 12, HalfStars: 8}}
	if got, want := s.Judge(nil), (Quality{Users: 1, Empty: 1, ByChance: 10.0 / 11}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
