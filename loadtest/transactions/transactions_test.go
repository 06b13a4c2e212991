package transactions

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

const header = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD,TX_FRAUD_SCENARIO\n"

func TestEvents(t *testing.T) {
	at := time.Date(2018, 4, 1, 0, 0, 31, 0, time.UTC)
	tx := Transaction{ID: 7, Time: at, Customer: 596, Terminal: 3156, Cents: 5716, Fraud: true, Scenario: 1}
	events := Events("here", []Happening{
		{Transaction: tx, At: at}, {Transaction: tx, Label: true, At: at.Add(LabelDelay)},
	})
	charged, labelled := events[0], events[1]
	for _, e := range events {
		if e.Grain != "account/596" || e.Source != "here" {
			t.Errorf("%v", e)
		}
	}
	if charged.Id != "7" || charged.Type != ChargedType || !charged.Time.AsTime().Equal(at) {
		t.Errorf("%v", charged)
	}
	if labelled.Id != "7/label" || labelled.Type != LabelledType || !labelled.Time.AsTime().Equal(at.Add(LabelDelay)) {
		t.Errorf("%v", labelled)
	}
	wantCharged := &accountv1.Charged{TransactionId: "7", Merchant: "3156", AmountCents: 5716}
	wantLabelled := &accountv1.Labelled{TransactionId: "7", Merchant: "3156", ChargedAtMicros: at.UnixMicro(), Fraud: true}
	for want, payload := range map[proto.Message][]byte{wantCharged: charged.GetProtobuf(), wantLabelled: labelled.GetProtobuf()} {
		got := want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(payload, got); err != nil || !proto.Equal(got, want) {
			t.Errorf("got %v, want %v (%v)", got, want, err)
		}
	}
	if name := string(wantCharged.ProtoReflect().Descriptor().FullName()); name != ChargedType {
		t.Errorf("the type is called %s", name)
	}
	if name := string(wantLabelled.ProtoReflect().Descriptor().FullName()); name != LabelledType {
		t.Errorf("the type is called %s", name)
	}
	if tx.Merchant() != "merchant/3156" {
		t.Error(tx.Merchant())
	}
}

func TestParseEventID(t *testing.T) {
	for id, want := range map[string]struct {
		n         uint64
		label, ok bool
	}{
		"0": {0, false, true}, "17": {17, false, true}, "17/label": {17, true, true},
		"": {}, "/label": {}, "x": {}, "017": {}, "+1": {}, "1/label/label": {},
	} {
		n, label, ok := ParseEventID(id)
		if ok != want.ok || ok && (n != want.n || label != want.label) {
			t.Errorf("%q: got %d, %v, %v", id, n, label, ok)
		}
	}
}

func TestRead(t *testing.T) {
	f, err := Read("test.csv", strings.NewReader(header+
		"0,2018-04-01 00:00:31,596,3156,57.16,0,0\n"+
		"11724,2018-04-02 08:25:22,3814,6013,85.64999999999999,1,3\n"+
		"129590,2018-04-02 08:25:22,4741,2134,0.0,0,0\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Transaction{
		{ID: 0, Time: time.Date(2018, 4, 1, 0, 0, 31, 0, time.UTC), Customer: 596, Terminal: 3156, Cents: 5716},
		{ID: 11724, Time: time.Date(2018, 4, 2, 8, 25, 22, 0, time.UTC), Customer: 3814, Terminal: 6013, Cents: 8565, Fraud: true, Scenario: 3},
		{ID: 129590, Time: time.Date(2018, 4, 2, 8, 25, 22, 0, time.UTC), Customer: 4741, Terminal: 2134},
	}
	for _, w := range want {
		if got, err := f.Next(); err != nil || got != w {
			t.Errorf("got %+v, %v, want %+v", got, err, w)
		}
	}
	if _, err := f.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestReadRefuses(t *testing.T) {
	const good = "0,2018-04-01 00:00:31,596,3156,57.16,0,0\n"
	for name, test := range map[string]struct{ text, want string }{
		"empty":         {"", "test.csv: empty"},
		"columns":       {"a,b,c,d,e,f,g\n", "the columns are a,b,c,d,e,f,g"},
		"fewer columns": {header + "1,2\n", "line 2"},
		"number":        {header + good + "x,2018-04-01 00:00:31,596,3156,57.16,0,0\n", "line 3: TRANSACTION_ID"},
		"time":          {header + "0,1st of April,596,3156,57.16,0,0\n", "line 2"},
		"order":         {header + good + "1,2018-04-01 00:00:30,596,3156,57.16,0,0\n", "line 3: 2018-04-01 00:00:30 is before"},
		"negative":      {header + "0,2018-04-01 00:00:31,596,3156,-1,0,0\n", "between 0 and"},
		"not a number":  {header + "0,2018-04-01 00:00:31,596,3156,NaN,0,0\n", "between 0 and"},
		"infinite":      {header + "0,2018-04-01 00:00:31,596,3156,Inf,0,0\n", "between 0 and"},
		"fraud of two":  {header + "0,2018-04-01 00:00:31,596,3156,1,2,0\n", "TX_FRAUD"},
	} {
		f, err := Read("test.csv", strings.NewReader(test.text))
		for err == nil {
			_, err = f.Next()
		}
		if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want something with %q", name, err, test.want)
		}
	}
	if _, err := Open("no-such-file.csv.gz"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Open("transactions_test.go"); err == nil {
		t.Error("a program was taken for transactions")
	}
}

// some transactions, a day apart, every third a fraud.
type some struct{ n, end int }

func (s *some) Next() (Transaction, error) {
	if s.n == s.end {
		return Transaction{}, io.EOF
	}
	s.n++
	return Transaction{ID: uint64(s.n), Time: time.Unix(0, 0).AddDate(0, 0, s.n), Fraud: s.n%3 == 0}, nil
}

func collect(t *testing.T, feed Feed) []Happening {
	t.Helper()
	var all []Happening
	for {
		h, err := feed.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
}

// TestLabelled: labels come their delay later, in the order of time, also after the last transaction.
func TestLabelled(t *testing.T) {
	for name, test := range map[string]struct {
		labels Labels
		want   int
	}{
		"frauds": {Labels{}, 30 + 10}, "all": {Labels{Genuine: true, Delay: 36 * time.Hour}, 30 + 30},
	} {
		all := collect(t, Labelled(&some{end: 30}, test.labels))
		if len(all) != test.want {
			t.Errorf("%s: %d happenings, want %d", name, len(all), test.want)
		}
		if !slices.IsSortedFunc(all, func(a, b Happening) int { return a.At.Compare(b.At) }) {
			t.Errorf("%s: not in the order of time", name)
		}
		delay := test.labels.Delay
		if delay == 0 {
			delay = 7 * 24 * time.Hour
		}
		told := map[uint64]bool{}
		for _, h := range all {
			if h.Label && (!told[h.Transaction.ID] || h.At.Sub(h.Transaction.Time) != delay || !h.Transaction.Fraud && !test.labels.Genuine) {
				t.Errorf("%s: %+v", name, h)
			}
			told[h.Transaction.ID] = true
		}
	}
	if all := collect(t, Plain(&some{end: 30})); len(all) != 30 || all[2].Label {
		t.Errorf("plain: %d happenings", len(all))
	}
}

// TestHandbook reads the handbook's file, if the environment variable GRANARY_HANDBOOK says where it is, and compares it
// with what the handbook prints.
func TestHandbook(t *testing.T) {
	path := os.Getenv("GRANARY_HANDBOOK")
	if path == "" {
		t.Skip("GRANARY_HANDBOOK is not set")
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := survey(t, f)
	if w.transactions != 1_754_155 || w.scenarios != [4]int{1_739_474, 973, 9_077, 4_631} || len(w.customers) != 4_990 {
		t.Errorf("%d transactions by %d customers, scenarios %v", w.transactions, len(w.customers), w.scenarios)
	}
}

// TestAhead: what was read ahead comes first, and nothing is left out, doubled or made up at the end.
func TestAhead(t *testing.T) {
	for _, n := range []int{0, 1, 3, 5, 9} {
		source := &few{left: 5}
		ahead := Ahead(source, n)
		if want := max(0, 5-n); source.left != want {
			t.Errorf("%d ahead: %d are left in the source", n, source.left)
		}
		for i := range 5 {
			if got, err := ahead.Next(); err != nil || got.ID != uint64(i) {
				t.Fatalf("%d ahead: transaction %d is %+v, %v", n, i, got, err)
			}
		}
		for range 2 {
			if _, err := ahead.Next(); !errors.Is(err, io.EOF) {
				t.Fatalf("%d ahead: behind the end: %v", n, err)
			}
		}
	}
}

type few struct {
	left int
	next uint64
}

func (f *few) Next() (Transaction, error) {
	if f.left == 0 {
		return Transaction{}, io.EOF
	}
	f.left--
	f.next++
	return Transaction{ID: f.next - 1}, nil
}
