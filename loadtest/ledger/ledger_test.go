package ledger

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/loadtest/transactions"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	merchantv1 "github.com/granary-dev/granary/proto/granary/merchant/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

const source = "loadtest/x"

func notes(happenings []transactions.Happening) []Note {
	var all []Note
	for _, h := range happenings {
		all = append(all, NoteTransaction(h))
	}
	return all
}

// world is a run that went well: everything sent, folded and acknowledged.
func world() (*fakeGrains, *Sent) {
	f, sent := newFakeGrains(), NewSent(source, SentOptions{})
	lane := sent.Lane()
	all := happenings()
	for i, h := range all {
		f.fold(source, "p", uint64(i+1), h)
	}
	for batch := range slices.Chunk(all, 6) {
		lane.Note(notes(batch)).Answer(nil)
	}
	return f, sent
}

const rejected = granaryv1.RecordOutcome_RECORD_OUTCOME_REJECTED

// TestFindings: everything that can be wrong is counted under its own name, and nothing else is.
func TestFindings(t *testing.T) {
	const one, ten, eleven = "account/1", "merchant/10", "merchant/11"
	account := func(f *fakeGrains) *accountv1.Account { return f.states[one].(*accountv1.Account) }
	for _, test := range []struct {
		name   string
		change func(*fakeGrains, *Sent)
		want   Report // beside the figures of a good run
	}{
		{"all well", func(*fakeGrains, *Sent) {}, Report{}},
		{"missing", func(f *fakeGrains, _ *Sent) {
			f.remove(one, 3) // transaction 6, of 106 cents, at merchant 10
			account(f).Count--
			account(f).Cents -= 106
			f.remove(ten, 4)
			m := f.states[ten].(*merchantv1.Merchant)
			m.Count--
			m.Cents -= 106
		}, Report{Missing: 1}},
		{"folded twice", func(f *fakeGrains, _ *Sent) {
			h := happenings()[6]
			f.fold(source, "p", 99, h)
		}, Report{Twice: 1}},
		{"order", func(f *fakeGrains, _ *Sent) {
			f.insert(one, 2, f.remove(one, 5))
		}, Report{OutOfOrder: 3}},
		{"order by sequence", func(f *fakeGrains, _ *Sent) {
			f.histories[one][4].ProducerSequence = 1
		}, Report{OutOfOrder: 1}},
		{"other amount", func(f *fakeGrains, _ *Sent) {
			r := f.histories[one][0]
			r.PayloadProtobuf, _ = proto.Marshal(&accountv1.Charged{TransactionId: "0", Merchant: "11", AmountCents: 7})
		}, Report{Altered: 1}},
		{"other merchant", func(f *fakeGrains, _ *Sent) {
			r := f.histories[one][0]
			r.PayloadProtobuf, _ = proto.Marshal(&accountv1.Charged{TransactionId: "0", Merchant: "10", AmountCents: 100})
		}, Report{Altered: 1, PassedMissing: 1, PassedTwice: 1}},
		{"other label", func(f *fakeGrains, _ *Sent) {
			r := f.histories[one][10]
			r.PayloadProtobuf, _ = proto.Marshal(&accountv1.Labelled{TransactionId: "4", Merchant: "11"})
		}, Report{Altered: 1}},
		{"rejected though acknowledged", func(f *fakeGrains, _ *Sent) {
			f.histories[one][10].Outcome = rejected
			account(f).LabelledCount--
		}, Report{Missing: 1}},
		{"uninvited", func(f *fakeGrains, _ *Sent) {
			r := proto.Clone(f.histories[one][10]).(*granaryv1.HistoryRecord)
			r.Id, r.Outcome = "77", rejected
			f.insert(one, 11, r)
		}, Report{Uninvited: 1}},
		{"state", func(f *fakeGrains, _ *Sent) {
			account(f).Cents++
			f.states[eleven].(*merchantv1.Merchant).Count--
		}, Report{WrongStates: 2}},
		{"label count", func(f *fakeGrains, _ *Sent) { account(f).LabelledCount = 0 }, Report{WrongStates: 1}},
		{"gap", func(f *fakeGrains, _ *Sent) {
			for _, r := range f.histories[one][5:] {
				r.Seq++
			}
		}, Report{BrokenHistories: 1}},
		{"passed on never", func(f *fakeGrains, _ *Sent) {
			f.remove(eleven, 0)
			m := f.states[eleven].(*merchantv1.Merchant)
			m.Count--
			m.Cents -= 100
		}, Report{PassedMissing: 1}},
		{"passed on late", func(f *fakeGrains, _ *Sent) { f.late[eleven] = true }, Report{}},
		{"passed on twice", func(f *fakeGrains, _ *Sent) {
			r := f.histories[eleven][0]
			f.pass(happenings()[0].Transaction, r.Cause)
		}, Report{PassedTwice: 1}},
		{"passed on from nowhere", func(f *fakeGrains, _ *Sent) {
			f.pass(happenings()[0].Transaction, "elsewhere")
		}, Report{PassedTwice: 1}},
		{"passed on with another cause", func(f *fakeGrains, _ *Sent) {
			f.histories[eleven][0].Cause = "elsewhere"
		}, Report{Altered: 1}},
		{"from others too", func(f *fakeGrains, _ *Sent) {
			h := happenings()[6]
			f.fold("someone", "q", 1, h)
			h.Transaction.Customer = 5 // an account that is not looked at
			f.fold("someone", "q", 2, h)
		}, Report{Foreign: 1, Passed: 1}},
		{"unknown and folded", func(f *fakeGrains, s *Sent) {
			h := happenings()[6]
			h.Transaction.ID = 50
			f.fold(source, "p", 50, h)
			s.lanes[0].Note(notes([]transactions.Happening{h}))
		}, Report{Sent: 1, Unknown: 1, Checked: 1, Folded: 1, Passed: 1}},
		{"unknown and not folded", func(_ *fakeGrains, s *Sent) {
			h := happenings()[6]
			h.Transaction.ID = 50
			s.lanes[0].Note(notes([]transactions.Happening{h})).Answer([]Exception{{0, Unknown}})
		}, Report{Sent: 1, Unknown: 1, Checked: 1}},
		{"unknown and twice", func(f *fakeGrains, s *Sent) {
			h := happenings()[6]
			h.Transaction.ID = 50
			f.fold(source, "p", 50, h)
			f.fold(source, "p", 51, h)
			s.lanes[0].Note(notes([]transactions.Happening{h}))
		}, Report{Sent: 1, Unknown: 1, Checked: 1, Folded: 1, Passed: 2, Twice: 1}},
		{"rejected as told", func(f *fakeGrains, s *Sent) {
			h := happenings()[6]
			h.Transaction.ID = 50
			s.lanes[0].Note(notes([]transactions.Happening{h})).Answer([]Exception{{0, Rejected}})
			e := transactions.Events(source, []transactions.Happening{h})[0]
			f.record(one, &granaryv1.HistoryRecord{
				Type: e.Type, Id: e.Id, Source: source, Producer: "p", ProducerSequence: 50,
				PayloadProtobuf: e.GetProtobuf(), Outcome: rejected,
			})
		}, Report{Sent: 1, Refused: 1, Checked: 1}},
		{"rejected without a record", func(_ *fakeGrains, s *Sent) {
			h := happenings()[6]
			h.Transaction.ID = 50
			s.lanes[0].Note(notes([]transactions.Happening{h})).Answer([]Exception{{0, Rejected}})
		}, Report{Sent: 1, Refused: 1, Checked: 1, Missing: 1}},
		{"refused and folded all the same", func(f *fakeGrains, s *Sent) {
			h := happenings()[6]
			h.Transaction.ID = 50
			s.lanes[0].Note(notes([]transactions.Happening{h})).Answer([]Exception{{0, Refused}})
			f.fold(source, "p", 50, h)
		}, Report{Sent: 1, Refused: 1, Checked: 1, Folded: 1, Passed: 1, Altered: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f, sent := world()
			test.change(f, sent)
			settle := 10 * time.Millisecond
			if len(f.late) > 0 {
				settle = 10 * time.Second
			}
			got, err := Check(t.Context(), f.serve(t), sent, Options{Settle: settle, Parallel: 3})
			if err != nil {
				t.Fatal(err)
			}
			want := test.want
			want.Sent += 21
			want.Acknowledged += 21
			want.Checked += 21
			want.Accounts, want.Merchants = 2, 2
			if want.OK() != got.OK() || want.OK() != (len(got.Findings) == 0) {
				t.Errorf("OK is %v", got.OK())
			}
			// Folded and passed on follow from what was done; spare the table the arithmetic.
			if want.Folded += 21 - want.Missing; test.name == "rejected without a record" {
				want.Folded++
			}
			got.Seconds, got.Findings, got.Passed, want.Passed = 0, nil, 0, 0
			if !reflect.DeepEqual(*got, want) {
				t.Errorf("got  %+v\nwant %+v", *got, want)
			}
		})
	}
}

// TestPassed: the number of transactions that merchants got.
func TestPassed(t *testing.T) {
	f, sent := world()
	var told []string
	got, err := Check(t.Context(), f.serve(t), sent, Options{Progress: func(done, total int) {
		told = append(told, fmt.Sprintf("%d/%d", done, total))
	}})
	if err != nil || got.Passed != 20 {
		t.Errorf("passed on: %d, want 20 (%v)", got.Passed, err)
	}
	if want := []string{"2/2", "4/4"}; !slices.Equal(told, want) {
		t.Errorf("progress %v, want %v", told, want)
	}
}

// TestMaxFindings: all differences are counted, some are described.
func TestMaxFindings(t *testing.T) {
	f, sent := world()
	for grain := range f.histories {
		if strings.HasPrefix(grain, "account/") {
			f.histories[grain] = nil
			f.states[grain] = &accountv1.Account{}
		}
	}
	got, err := Check(t.Context(), f.serve(t), sent, Options{MaxFindings: 3})
	if err != nil || got.Missing != 21 || len(got.Findings) != 3 {
		t.Errorf("%v %+v", err, got)
	}
}

// TestThinning: a run too long to be remembered keeps the whole story of some accounts, and all totals.
func TestThinning(t *testing.T) {
	const accounts, rounds, limit = 64, 100, 1_000
	sent := NewSent(source, SentOptions{MaxEvents: limit})
	lanes := []*Lane{sent.Lane(), sent.Lane()}
	var open []*Batch
	for n := range rounds {
		for i, lane := range lanes {
			var batch []transactions.Happening
			for c := range accounts / 2 {
				batch = append(batch, transactions.Happening{Transaction: transactions.Transaction{
					ID: uint64(n*accounts + 2*c + i), Customer: uint32(2*c + i), Cents: 5,
				}})
			}
			// Answers come late and in another order.
			open = append(open, lane.Note(notes(batch)))
			if len(open) == 4 {
				open[2].Answer(nil)
				open[0].Answer([]Exception{{Index: 3, Fate: Refused}})
				open = []*Batch{open[1], open[3]}
			}
		}
	}
	for _, b := range open {
		b.Answer(nil)
	}
	total, acknowledged, refused, unknown := sent.Totals()
	if total != rounds*accounts || acknowledged+refused != total || refused == 0 || unknown != 0 {
		t.Errorf("totals %d, %d, %d, %d", total, acknowledged, refused, unknown)
	}
	kept := sent.owners(1)
	if len(kept) == 0 || len(kept)*rounds > 2*limit {
		t.Errorf("%d accounts are followed", len(kept))
	}
	for c, rows := range kept {
		for n, r := range rows {
			if id, _ := r.event(); id != uint64(n*accounts+int(c)) || r.owner != c || r.fate() == Unknown {
				t.Fatalf("account %d, event %d is %d with fate %d", c, n, id, r.fate())
			}
		}
		if len(rows) != rounds {
			t.Errorf("%d events of account %d are remembered, want %d", len(rows), c, rounds)
		}
	}
	if n := sent.kept.Load(); n != int64(len(kept)*rounds) {
		t.Errorf("counted %d events as remembered; there are %d", n, len(kept)*rounds)
	}
}

// TestSample: a share of the accounts and of the merchants, and the same ones each time.
func TestSample(t *testing.T) {
	sent := NewSent(source, SentOptions{})
	f := newFakeGrains()
	lane := sent.Lane()
	for c := range 1_000 {
		h := transactions.Happening{Transaction: transactions.Transaction{ID: uint64(c), Customer: uint32(c), Terminal: uint32(c)}}
		lane.Note(notes([]transactions.Happening{h})).Answer(nil)
		f.fold(source, "p", uint64(c+1), h)
	}
	got, err := Check(t.Context(), f.serve(t), sent, Options{Sample: 0.1})
	if err != nil {
		t.Fatal(err)
	}
	if got.Accounts < 50 || got.Accounts > 150 || got.Merchants < 1 || got.Merchants > 40 || !got.OK() || got.Sent != 1_000 {
		t.Errorf("%+v", got)
	}
}

func TestRefusedChecks(t *testing.T) {
	f, sent := world()
	conn := f.serve(t)
	if _, err := Check(t.Context(), conn, nil, Options{}); err == nil {
		t.Error("nothing was checked")
	}
	if _, err := Check(t.Context(), conn, sent, Options{Sample: 1.5}); err == nil {
		t.Error("a sample of more than all was taken")
	}
	conn.Close()
	if _, err := Check(t.Context(), conn, sent, Options{}); err == nil || !strings.Contains(err.Error(), "account/") {
		t.Errorf("without a connection: %v", err)
	}
}
