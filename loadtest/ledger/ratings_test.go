package ledger

import (
	"reflect"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/loadtest/ratings"
	productv1 "github.com/granary-dev/granary/proto/granary/product/v1"
	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// rate does with a rating what the cluster is to do. previous is the one that it replaces, if there is one.
func (f *fakeGrains) rate(source string, sequence uint64, r ratings.Rating, previous *ratings.Rating) {
	e := ratings.Events(source, []ratings.Rating{r})[0]
	record := f.record(e.Grain, &granaryv1.HistoryRecord{
		Type: e.Type, Id: e.Id, Source: source, Producer: "p", ProducerSequence: sequence, EventTime: e.Time,
		PayloadProtobuf: e.GetProtobuf(), Outcome: granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED,
	})
	passed := &productv1.Rated{User: ratings.Key(r.User), HalfStars: uint32(r.HalfStars)}
	if previous != nil {
		passed.PreviousHalfStars, passed.PreviousAtMicros = uint32(previous.HalfStars), previous.Time.UnixMicro()
	}
	payload, err := proto.Marshal(passed)
	if err != nil {
		panic(err)
	}
	name := "product/" + ratings.Key(r.Product)
	f.record(name, &granaryv1.HistoryRecord{
		Type: ratings.PassedType, Sender: e.Grain, Cause: record.Position, Hops: 1, PayloadProtobuf: payload,
		Outcome: granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED,
	})
	user, _ := f.states[e.Grain].(*userv1.User)
	product, _ := f.states[name].(*productv1.Product)
	if user == nil {
		user = &userv1.User{}
		f.states[e.Grain] = user
	}
	if product == nil {
		product = &productv1.Product{}
		f.states[name] = product
	}
	if previous == nil {
		user.Count++
		product.Count++
	} else {
		user.HalfStars -= uint64(previous.HalfStars)
		product.HalfStars -= uint64(previous.HalfStars)
	}
	user.HalfStars += uint64(r.HalfStars)
	product.HalfStars += uint64(r.HalfStars)
}

// someRatings are those of a small world: users 1 and 2 rate products 10 to 14.
func someRatings() []ratings.Rating {
	var all []ratings.Rating
	for n := range 10 {
		all = append(all, ratings.Rating{
			ID: uint64(n), Time: time.Unix(int64(1000+n), 0), User: uint32(1 + n%2), Product: uint32(10 + n/2), HalfStars: uint8(1 + n),
		})
	}
	return all
}

func noteRatings(all ...ratings.Rating) []Note {
	var notes []Note
	for _, r := range all {
		notes = append(notes, NoteRating(r))
	}
	return notes
}

// TestRatingFindings: what is particular to ratings. What is not, TestFindings shows.
func TestRatingFindings(t *testing.T) {
	const one, ten = "user/1", "product/10"
	all := someRatings()
	user := func(f *fakeGrains) *userv1.User { return f.states[one].(*userv1.User) }
	again := func(r ratings.Rating, id uint64, seconds int64, halfStars uint8) ratings.Rating {
		r.ID, r.Time, r.HalfStars = id, r.Time.Add(time.Duration(seconds)*time.Second), halfStars
		return r
	}
	for _, test := range []struct {
		name   string
		change func(*fakeGrains, *Lane)
		want   Report // beside the figures of a good run
	}{
		{"all well", func(*fakeGrains, *Lane) {}, Report{}},
		{"rated again", func(f *fakeGrains, l *Lane) {
			r := again(all[0], 50, 5, 9)
			l.Note(noteRatings(r)).Answer(nil)
			f.rate(source, 50, r, &all[0])
		}, Report{Sent: 1, Acknowledged: 1, Checked: 1, Folded: 1, Passed: 1}},
		{"rated again at the same time", func(f *fakeGrains, l *Lane) {
			r := again(all[0], 50, 0, 9)
			l.Note(noteRatings(r)).Answer(nil)
			f.rate(source, 50, r, &all[0])
		}, Report{Sent: 1, Acknowledged: 1, Checked: 1, Folded: 1, Passed: 1}},
		{"rated again and counted twice", func(f *fakeGrains, l *Lane) {
			r := again(all[0], 50, 5, 9)
			l.Note(noteRatings(r)).Answer(nil)
			f.rate(source, 50, r, nil)
		}, Report{Sent: 1, Acknowledged: 1, Checked: 1, Folded: 1, Passed: 1, WrongStates: 2}},
		{"late, and passed on", func(f *fakeGrains, l *Lane) {
			r := again(all[0], 50, -5, 9)
			l.Note(noteRatings(r)).Answer(nil)
			f.rate(source, 50, r, &all[0])
		}, Report{Sent: 1, Acknowledged: 1, Checked: 1, Folded: 1, PassedTwice: 1, WrongStates: 2}},
		{"lost", func(f *fakeGrains, _ *Lane) {
			f.remove(one, 0)
			user(f).Count--
			user(f).HalfStars--
			f.remove(ten, 0)
			f.states[ten].(*productv1.Product).Count--
			f.states[ten].(*productv1.Product).HalfStars--
		}, Report{Missing: 1}},
		{"other stars", func(f *fakeGrains, _ *Lane) {
			f.histories[one][0].PayloadProtobuf, _ = proto.Marshal(&userv1.Rated{Product: "10", HalfStars: 7})
		}, Report{Altered: 1}},
		{"other product", func(f *fakeGrains, _ *Lane) {
			f.histories[one][0].PayloadProtobuf, _ = proto.Marshal(&userv1.Rated{Product: "11", HalfStars: 1})
		}, Report{Altered: 1, PassedMissing: 1, PassedTwice: 1, WrongStates: 2}},
		{"another type", func(f *fakeGrains, _ *Lane) {
			f.histories[one][0].Type = viewedType
		}, Report{Uninvited: 1, Missing: 1, PassedTwice: 1, WrongStates: 2}},
		{"user's sum", func(f *fakeGrains, _ *Lane) { user(f).HalfStars++ }, Report{WrongStates: 1}},
		{"user's views", func(f *fakeGrains, _ *Lane) { user(f).ViewCount++ }, Report{WrongStates: 1}},
		{"product's count", func(f *fakeGrains, _ *Lane) { f.states[ten].(*productv1.Product).Count++ }, Report{WrongStates: 1}},
		{"product's sum", func(f *fakeGrains, _ *Lane) { f.states[ten].(*productv1.Product).HalfStars-- }, Report{WrongStates: 1}},
		{"passed on twice", func(f *fakeGrains, _ *Lane) {
			r := proto.CloneOf(f.histories[ten][0])
			f.insert(ten, 1, r)
		}, Report{PassedTwice: 1}},
		{"answers are nobody's events", func(f *fakeGrains, _ *Lane) {
			f.record(one, &granaryv1.HistoryRecord{Type: "granary.user.v1.Suggested", Sender: ten, Outcome: granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED})
		}, Report{}},
		{"an answer arrives behind the history and before the state", func(f *fakeGrains, _ *Lane) {
			for grain, sender := range map[string]string{one: ten, ten: "product/11"} {
				f.record(grain, &granaryv1.HistoryRecord{Type: "granary.user.v1.Suggested", Sender: sender, Outcome: granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED})
				f.late[grain] = true
			}
		}, Report{}},
		{"a rating arrives there", func(f *fakeGrains, _ *Lane) {
			f.rate("someone", 1, ratings.Rating{ID: 1, User: 1, Product: 99, HalfStars: 4, Time: time.Unix(5000, 0)}, nil)
			f.late[one] = true
		}, Report{Foreign: 1, Passed: 1, Products: 1}},
		{"the history ends before the state", func(f *fakeGrains, _ *Lane) {
			f.record(one, &granaryv1.HistoryRecord{})
			f.record(one, &granaryv1.HistoryRecord{})
			f.cut = one // of the two, one is foreign and the other is lost
		}, Report{BrokenHistories: 1, Foreign: 1}},
		{"more and more arrives", func(f *fakeGrains, _ *Lane) {
			for range 2 {
				f.record(one, &granaryv1.HistoryRecord{Type: "granary.user.v1.Suggested", Sender: ten, Outcome: granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED})
			}
			f.grows = one
		}, Report{}},
		{"others view and rate", func(f *fakeGrains, _ *Lane) {
			view, _ := proto.Marshal(&userv1.Viewed{Product: "99"})
			f.record(one, &granaryv1.HistoryRecord{Type: viewedType, PayloadProtobuf: view, Outcome: granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED})
			user(f).ViewCount++
			f.rate("someone", 1, ratings.Rating{ID: 1, User: 1, Product: 10, HalfStars: 4, Time: time.Unix(5000, 0)}, &all[0])
			f.rate("someone", 2, ratings.Rating{ID: 2, User: 7, Product: 10, HalfStars: 3, Time: time.Unix(5000, 0)}, nil) // not looked at
		}, Report{Foreign: 2, Passed: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f, sent := newFakeGrains(), NewSent(source, SentOptions{})
			lane := sent.Lane()
			for i, r := range all {
				f.rate(source, uint64(i+1), r, nil)
			}
			lane.Note(noteRatings(all...)).Answer(nil)
			test.change(f, lane)
			got, err := CheckRatings(t.Context(), f.serve(t), sent, Options{Settle: 10 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			want := test.want
			want.Sent, want.Acknowledged, want.Checked = want.Sent+10, want.Acknowledged+10, want.Checked+10
			want.Users, want.Products = 2, want.Products+5
			if want.OK() != got.OK() || want.OK() != (len(got.Findings) == 0) {
				t.Errorf("OK is %v: %v", got.OK(), got.Findings)
			}
			got.Seconds, got.Findings = 0, nil
			got.Folded, got.Passed, want.Folded, want.Passed = 0, 0, 0, 0 // TestFindings does that arithmetic
			if !reflect.DeepEqual(*got, want) {
				t.Errorf("got  %+v\nwant %+v", *got, want)
			}
		})
	}
}

// TestForgetfulUser: a user who knows more than is remembered is not held to what cannot be known; views and what was
// passed on still count.
func TestForgetfulUser(t *testing.T) {
	f, sent := newFakeGrains(), NewSent(source, SentOptions{})
	var all []ratings.Rating
	for n := range maxKnown + 1 {
		all = append(all, ratings.Rating{ID: uint64(n), Time: time.Unix(int64(1000+n), 0), User: 1, Product: uint32(n % maxKnown), HalfStars: 5})
	}
	all[maxKnown].Product = maxKnown
	for i, r := range all {
		f.rate(source, uint64(i+1), r, nil)
	}
	sent.Lane().Note(noteRatings(all...)).Answer(nil)
	f.states["user/1"].(*userv1.User).Count++ // as if one had been forgotten and rated again
	f.states["product/"+strconv.Itoa(0)].(*productv1.Product).Count++
	got, err := CheckRatings(t.Context(), f.serve(t), sent, Options{Settle: 10 * time.Millisecond})
	if err != nil || !got.OK() || got.Passed != maxKnown+1 {
		t.Errorf("%v %+v", err, got)
	}
	f.states["user/1"].(*userv1.User).ViewCount++
	if got, err := CheckRatings(t.Context(), f.serve(t), sent, Options{Settle: 10 * time.Millisecond}); err != nil || got.WrongStates != 1 {
		t.Errorf("%v %+v", err, got)
	}
}
