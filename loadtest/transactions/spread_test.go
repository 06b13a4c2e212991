package transactions

import (
	"errors"
	"io"
	"testing"
)

// TestSpread: a filling touches each customer once; even access is even; Zipf is not; and a seed repeats itself.
func TestSpread(t *testing.T) {
	const customers, draws = 1000, 200_000
	p := Parameters{Customers: customers, Terminals: 10, Seed: 3}
	fill := Spread(p, Access{Fill: true})
	for i := range uint32(customers) {
		if got, err := fill.Next(); err != nil || got.Customer != i || got.Cents <= 0 || got.Terminal >= 10 {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if _, err := fill.Next(); !errors.Is(err, io.EOF) {
		t.Fatalf("behind the last: %v", err)
	}
	most := func(a Access) (most int) {
		counts, again := make([]int, customers), Spread(p, a)
		source := Spread(p, a)
		for range draws {
			x, err := source.Next()
			if y, _ := again.Next(); err != nil || x != y {
				t.Fatalf("%+v and %+v, %v", x, y, err)
			}
			counts[x.Customer]++
			most = max(most, counts[x.Customer])
		}
		return most
	}
	if n := most(Access{Even: true}); n > 300 { // 200 on average
		t.Errorf("even access: %d of %d for one", n, draws)
	}
	if n := most(Access{Zipf: 1.1}); n < draws/10 {
		t.Errorf("Zipf: only %d of %d for the first", n, draws)
	}
	for _, zipf := range []float64{1, -2, 11} {
		if (Access{Zipf: zipf}).Check() == nil {
			t.Errorf("exponent %v is taken", zipf)
		}
	}
}
