package transactions

import (
	"errors"
	"io"
	"math"
	"testing"
)

// surveyed is what can be said of many transactions.
type surveyed struct {
	transactions int
	scenarios    [4]int
	customers    map[uint32]bool
	terminals    map[uint32]bool
	cents        int64
}

func survey(t *testing.T, source Source) surveyed {
	t.Helper()
	w := surveyed{customers: map[uint32]bool{}, terminals: map[uint32]bool{}}
	var before Transaction
	for {
		tx, err := source.Next()
		if errors.Is(err, io.EOF) {
			return w
		}
		if err != nil {
			t.Fatal(err)
		}
		if w.transactions > 0 && (tx.Time.Before(before.Time) || tx.ID <= before.ID) {
			t.Fatalf("%+v comes after %+v", tx, before)
		}
		if tx.Fraud != (tx.Scenario > 0) || tx.Cents < 0 {
			t.Fatalf("%+v", tx)
		}
		before = tx
		w.transactions++
		w.scenarios[tx.Scenario]++
		w.customers[tx.Customer] = true
		w.terminals[tx.Terminal] = true
		w.cents += tx.Cents
	}
}

// TestLooksAlike: the handbook's parameters give what the handbook got: 1,754,155 transactions in 183 days, of which
// 973, 9,077 and 4,631 are frauds of the three scenarios, by 4,990 customers, of 53.63 on average.
func TestLooksAlike(t *testing.T) {
	w := survey(t, Generate(Parameters{Days: 183, Seed: 1}))
	near := func(what string, got, want, tolerance float64) {
		if math.Abs(got-want) > tolerance*want {
			t.Errorf("%s: %.0f; the handbook has %.0f", what, got, want)
		}
	}
	near("transactions", float64(w.transactions), 1_754_155, 0.03)
	near("scenario 1", float64(w.scenarios[1]), 973, 0.3)
	near("scenario 2", float64(w.scenarios[2]), 9_077, 0.3)
	near("scenario 3", float64(w.scenarios[3]), 4_631, 0.3)
	near("customers", float64(len(w.customers)), 4_990, 0.01)
	near("terminals", float64(len(w.terminals)), 10_000, 0.01)
	near("mean cents", float64(w.cents)/float64(w.transactions), 5_363, 0.05)
}

// TestSameSeedSameTransactions, for as long as wanted, and others with another seed.
func TestSameSeedSameTransactions(t *testing.T) {
	p := Parameters{Customers: 50, Terminals: 100, Radius: 30, Seed: 4}
	endless, again := Generate(p), Generate(p)
	p.Days = 10
	short := Generate(p)
	p.Seed = 5
	other := Generate(p)
	different := false
	for n := 0; ; n++ {
		a, errA := endless.Next()
		b, errB := again.Next()
		if a != b || errA != nil || errB != nil {
			t.Fatalf("%+v, %v and %+v, %v", a, errA, b, errB)
		}
		c, err := short.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 || !different {
				t.Errorf("%d transactions; different from another seed: %v", n, different)
			}
			return
		}
		if a != c {
			t.Fatalf("ten days begin otherwise than all days: %+v and %+v", a, c)
		}
		if d, err := other.Next(); err != nil || d.Cents != a.Cents {
			different = true
		}
	}
}

func BenchmarkGenerate(b *testing.B) {
	g := Generate(Parameters{Customers: 10_000})
	b.ResetTimer()
	for range b.N {
		if _, err := g.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEvents(b *testing.B) {
	g := Generate(Parameters{Customers: 10_000})
	batch := make([]Happening, 100)
	for i := range batch {
		tx, err := g.Next()
		if err != nil {
			b.Fatal(err)
		}
		batch[i] = Happening{Transaction: tx, At: tx.Time}
	}
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(batch) {
		Events("loadtest/x", batch)
	}
}
