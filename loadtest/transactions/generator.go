package transactions

import (
	"io"
	"math"
	"math/rand/v2"
	"time"
)

// Parameters of the generator. The defaults are those that the handbook published for its data.
type Parameters struct {
	// Customers to begin with, default 5,000. Those without a terminal near them never pay.
	Customers int
	// Terminals, default 10,000.
	Terminals int
	// Radius within which a customer uses terminals, on a plane of 100 by 100. Default 5.
	Radius float64
	// Start is midnight of the first day, default 2018-04-01 UTC.
	Start time.Time
	// Days to generate; 0 means without end.
	Days int
	// Seed of all randomness: the same parameters give the same transactions.
	Seed uint64
}

// What the handbook fixes.
const (
	plane         = 100.0 // side of the square on which customers and terminals lie
	minMean       = 5.0   // a customer's mean amount is uniform between these
	maxMean       = 100.0
	maxPerDay     = 4.0 // a customer's mean number of transactions a day is uniform between 0 and this
	secondsADay   = 86_400
	middaySpread  = 20_000.0 // standard deviation of the time of day around noon, in seconds
	largeAmount   = 220_00   // scenario 1: anything above is fraud
	terminalsLost = 2        // scenario 2: terminals compromised each day …
	terminalDays  = 28       // … and for how many days all they take is fraud
	cardsLost     = 3        // scenario 3: customers compromised each day …
	cardDays      = 14       // … for how many days …
	cardShare     = 3        // … one in how many transactions is fraud …
	cardFactor    = 5        // … and how much larger it is
)

// Generator makes transactions as the handbook's do, day by day, without end if so asked. It is a [Source]. Its memory
// is that of the customers and of one day.
type Generator struct {
	p         Parameters
	customers []customer
	day       int
	id        uint64
	today     []Transaction
	at        int
	spare     []Transaction // of the day before, to be used again
	// terminals and cards are the compromised ones, with the first day on which they are no longer so.
	terminals, cards map[uint32]int
}

type customer struct {
	mean, perDay float64
	terminals    []uint32
}

// Streams of randomness, so that the number of days does not change the customers.
const (
	worldStream = 1 << 32
	dayStream   = 2 << 32
)

// Generate makes a generator.
func Generate(p Parameters) *Generator {
	if p.Customers == 0 {
		p.Customers = 5_000
	}
	if p.Terminals == 0 {
		p.Terminals = 10_000
	}
	if p.Radius == 0 {
		p.Radius = 5
	}
	if p.Start.IsZero() {
		p.Start = time.Date(2018, time.April, 1, 0, 0, 0, 0, time.UTC)
	}
	g := &Generator{p: p, terminals: map[uint32]int{}, cards: map[uint32]int{}}
	r := rand.New(rand.NewPCG(p.Seed, worldStream))
	near := placeTerminals(r, p)
	g.customers = make([]customer, p.Customers)
	for i := range g.customers {
		x, y := r.Float64()*plane, r.Float64()*plane
		g.customers[i] = customer{
			mean: minMean + r.Float64()*(maxMean-minMean), perDay: r.Float64() * maxPerDay, terminals: near.within(x, y),
		}
	}
	return g
}

// Next returns the next transaction, or [io.EOF] after the last day.
func (g *Generator) Next() (Transaction, error) {
	for g.at == len(g.today) {
		if g.p.Days > 0 && g.day == g.p.Days {
			return Transaction{}, io.EOF
		}
		g.generateDay()
	}
	t := g.today[g.at]
	g.at++
	return t, nil
}

func (g *Generator) generateDay() {
	r := rand.New(rand.NewPCG(g.p.Seed, dayStream+uint64(g.day)))
	g.compromise(r)
	midnight := g.p.Start.AddDate(0, 0, g.day)
	g.today, g.at = g.today[:0], 0
	for i := range g.customers {
		c := &g.customers[i]
		for range poisson(r, c.perDay) {
			second := math.Floor(r.NormFloat64()*middaySpread + secondsADay/2)
			if second <= 0 || second >= secondsADay || len(c.terminals) == 0 {
				continue
			}
			t := Transaction{
				Time: midnight.Add(time.Duration(second) * time.Second), Customer: uint32(i),
				Terminal: c.terminals[r.IntN(len(c.terminals))], Cents: amount(r, c.mean),
			}
			g.defraud(r, &t)
			g.today = append(g.today, t)
		}
	}
	g.sortDay(midnight)
	for i := range g.today {
		g.today[i].ID = g.id
		g.id++
	}
	g.day++
}

// sortDay puts the transactions in the order of their times. Counting them by the second takes a fifth of the time that
// comparing them would.
func (g *Generator) sortDay(midnight time.Time) {
	var places [secondsADay + 1]int
	second := func(t *Transaction) int { return int(t.Time.Sub(midnight) / time.Second) }
	for i := range g.today {
		places[second(&g.today[i])+1]++
	}
	for s := range secondsADay {
		places[s+1] += places[s]
	}
	sorted := append(g.spare[:0], g.today...)
	for i := range g.today {
		s := second(&g.today[i])
		sorted[places[s]] = g.today[i]
		places[s]++
	}
	g.today, g.spare = sorted, g.today
}

// compromise draws the terminals and cards that fall into wrong hands today, and forgets those that are safe again.
func (g *Generator) compromise(r *rand.Rand) {
	for _, lost := range []map[uint32]int{g.terminals, g.cards} {
		for who, until := range lost {
			if until <= g.day {
				delete(lost, who)
			}
		}
	}
	for range terminalsLost {
		g.terminals[uint32(r.IntN(g.p.Terminals))] = g.day + terminalDays
	}
	for range cardsLost {
		g.cards[uint32(r.IntN(g.p.Customers))] = g.day + cardDays
	}
}

// defraud applies the three scenarios. A later one takes the name from an earlier one.
func (g *Generator) defraud(r *rand.Rand, t *Transaction) {
	if t.Cents > largeAmount {
		t.Fraud, t.Scenario = true, 1
	}
	if _, lost := g.terminals[t.Terminal]; lost {
		t.Fraud, t.Scenario = true, 2
	}
	if _, lost := g.cards[t.Customer]; lost && r.IntN(cardShare) == 0 {
		t.Cents *= cardFactor
		t.Fraud, t.Scenario = true, 3
	}
}

// amount draws around the customer's mean; what would be negative is drawn evenly up to twice the mean.
func amount(r *rand.Rand, mean float64) int64 {
	a := r.NormFloat64()*mean/2 + mean
	if a < 0 {
		a = r.Float64() * 2 * mean
	}
	return int64(math.Round(a * 100))
}

// poisson draws by multiplying uniform numbers, which is quick for the small means used here.
func poisson(r *rand.Rand, mean float64) int {
	limit, n := math.Exp(-mean), 0
	for p := r.Float64(); p > limit; p *= r.Float64() {
		n++
	}
	return n
}

// grid finds the terminals near a place without looking at all of them.
type grid struct {
	radius float64
	side   int
	cells  [][]uint32
	x, y   []float64
}

func placeTerminals(r *rand.Rand, p Parameters) *grid {
	g := &grid{
		radius: p.Radius, side: max(1, int(plane/p.Radius)),
		x: make([]float64, p.Terminals), y: make([]float64, p.Terminals),
	}
	g.cells = make([][]uint32, g.side*g.side)
	for i := range p.Terminals {
		g.x[i], g.y[i] = r.Float64()*plane, r.Float64()*plane
		c := g.cell(g.y[i])*g.side + g.cell(g.x[i])
		g.cells[c] = append(g.cells[c], uint32(i))
	}
	return g
}

// cell is the row or column of a coordinate. A cell is at least one radius wide.
func (g *grid) cell(v float64) int { return min(g.side-1, int(v/plane*float64(g.side))) }

func (g *grid) within(x, y float64) []uint32 {
	var found []uint32
	for row := max(0, g.cell(y)-1); row <= min(g.side-1, g.cell(y)+1); row++ {
		for column := max(0, g.cell(x)-1); column <= min(g.side-1, g.cell(x)+1); column++ {
			for _, t := range g.cells[row*g.side+column] {
				if math.Hypot(g.x[t]-x, g.y[t]-y) < g.radius {
					found = append(found, t)
				}
			}
		}
	}
	return found
}
