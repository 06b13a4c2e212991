package transactions

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Access is how transactions are spread over the customers: by what the handbook says, where everyone pays now and then
// (the zero value), or as asked for.
type Access struct {
	// Even draws each customer as often as any other.
	Even bool
	// Zipf is the exponent of a Zipf distribution, above 1: a few customers pay most.
	Zipf float64
	// Fill lets each customer pay once, in the order of their numbers, and then ends.
	Fill bool
}

// Check tells what is wrong with it.
func (a Access) Check() error {
	if a.Zipf != 0 && a.Zipf <= 1 || a.Zipf > 10 {
		return fmt.Errorf("the exponent of Zipf is %v; it must be above 1 and at most 10", a.Zipf)
	}
	return nil
}

// Spread generates transactions without end (unless it fills) that say nothing but who pays: it draws them without
// remembering anything of a customer, so that there can be many millions. Customers and terminals are those of the
// parameters; a transaction a millisecond takes place.
func Spread(p Parameters, a Access) Source {
	g := &spread{p: p, a: a, r: rand.New(rand.NewPCG(p.Seed, 0x5eed))}
	if g.p.Start.IsZero() {
		g.p.Start = time.Date(2018, time.April, 1, 0, 0, 0, 0, time.UTC)
	}
	if a.Zipf != 0 {
		g.zipf = rand.NewZipf(g.r, a.Zipf, 1, uint64(p.Customers-1))
	}
	return g
}

type spread struct {
	p    Parameters
	a    Access
	r    *rand.Rand
	zipf *rand.Zipf
	n    uint64
}

// Next returns the next transaction.
func (g *spread) Next() (Transaction, error) {
	var customer uint64
	switch {
	case g.a.Fill && g.n == uint64(g.p.Customers):
		return Transaction{}, io.EOF
	case g.a.Fill:
		customer = g.n
	case g.zipf != nil:
		// a prime, so that the busiest are not those with the lowest numbers, nor all in a few shards
		customer = g.zipf.Uint64() * 2_654_435_761 % uint64(g.p.Customers)
	default:
		customer = g.r.Uint64N(uint64(g.p.Customers))
	}
	t := Transaction{
		ID: g.n, Time: g.p.Start.Add(time.Duration(g.n) * time.Millisecond), Customer: uint32(customer),
		Terminal: uint32(g.r.IntN(g.p.Terminals)), Cents: 1 + g.r.Int64N(20_000),
	}
	g.n++
	return t, nil
}
