// Package ledger is the proof at the end of a run: what was sent, and what of it is in the journal.
//
// While a run goes on, [Sent] notes every event and what its publisher was told. Afterwards [Check] reads the history of
// every grain that was touched and holds it against the notes: each acknowledged event is there exactly once, in the
// order sent, with the content sent; one whose outcome stayed unknown is there at most once; each is passed on to its
// merchant or product exactly once; and the state of every grain holds the very count and sum that a recount gives. What
// differs between workloads is in a file for each. The package may import proto, the workloads and grpc. It never imports
// anything that the cluster itself is made of, so a mistake there cannot hide itself here.
//
// Invariant: nothing is taken from the cluster that the verdict is about. What should be there comes from the notes
// alone; only events that others published (another source) are taken from history, and they are counted apart.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"google.golang.org/grpc"
)

// Options of a check.
type Options struct {
	// Sample is the share of accounts and of merchants, or of users and of products, to look at, above 0 and up to 1.
	// Which ones depends on their numbers alone. 0 means all.
	Sample float64
	// Parallel is how many grains are read at once, default 8.
	Parallel int
	// Settle is how long to wait for what grains sent to each other to arrive, default 30 s.
	Settle time.Duration
	// MaxFindings is how many differences are described in words, default 20. All are counted.
	MaxFindings int
	// Progress is called now and then with the number of grains read and to be read. May be nil.
	Progress func(done, total int)
}

// Report is the verdict on a run. The first four figures are of all events, those below of the events looked at, which
// are all unless a sample was asked for or [SentOptions.MaxEvents] was reached.
type Report struct {
	// Sent is the number of events given to the producer.
	Sent uint64 `json:"sent"`
	// Acknowledged is how many of them the cluster said it had folded.
	Acknowledged uint64 `json:"acknowledged"`
	// Refused is how many it said it had not folded: rejected, dead-lettered or never journaled.
	Refused uint64 `json:"refused"`
	// Unknown is how many were never answered.
	Unknown uint64 `json:"unknown"`

	// Checked is the number of events looked at.
	Checked uint64 `json:"checked"`
	// Folded is how many of them are in the journal as folded.
	Folded uint64 `json:"folded"`
	// Missing is how many were acknowledged and are not in the journal as folded.
	Missing uint64 `json:"missing"`
	// Twice is how many additional times an event was folded.
	Twice uint64 `json:"twice"`
	// OutOfOrder is how many were folded after an event that was sent later to the same grain.
	OutOfOrder uint64 `json:"out_of_order"`
	// Altered is how many have other content, or another outcome, than was sent or told.
	Altered uint64 `json:"altered"`
	// Uninvited is how many records carry the run's source although the run never sent them.
	Uninvited uint64 `json:"uninvited"`

	// Passed is how many transactions merchants got from the accounts looked at, or products ratings from users.
	Passed uint64 `json:"passed"`
	// PassedMissing is how many of these did not arrive although the account or user folded them.
	PassedMissing uint64 `json:"passed_missing"`
	// PassedTwice is how many arrived again.
	PassedTwice uint64 `json:"passed_twice"`

	// Accounts and Merchants are the numbers of grains looked at after transactions.
	Accounts  int `json:"accounts,omitempty"`
	Merchants int `json:"merchants,omitempty"`
	// Users and Products are the numbers of grains looked at after ratings.
	Users    int `json:"users,omitempty"`
	Products int `json:"products,omitempty"`
	// WrongStates is how many grains hold a count or sum other than the recount.
	WrongStates uint64 `json:"wrong_states"`
	// BrokenHistories is how many grains have records that are not numbered 1, 2, 3 … up to the state's seq.
	BrokenHistories uint64 `json:"broken_histories"`
	// Foreign is the number of records that others published to these grains. They are part of the recount.
	Foreign uint64 `json:"foreign"`
	// Seconds that the check took.
	Seconds float64 `json:"seconds"`
	// Findings describe the first differences, one a line.
	Findings []string `json:"findings,omitempty"`
}

// OK is true when nothing is missing, twice, out of order, altered or wrongly summed.
func (r *Report) OK() bool {
	return r.Missing+r.Twice+r.OutOfOrder+r.Altered+r.Uninvited+
		r.PassedMissing+r.PassedTwice+r.WrongStates+r.BrokenHistories == 0
}

// Check reads what became of the transactions and labels sent. The run must be over. An error means that the check could
// not be made; a check that was made and found something wrong returns a report that is not OK.
func Check(ctx context.Context, conn grpc.ClientConnInterface, sent *Sent, o Options) (*Report, error) {
	return run(ctx, conn, cardWorkload{}, sent, o)
}

// CheckRatings is [Check] for ratings.
func CheckRatings(ctx context.Context, conn grpc.ClientConnInterface, sent *Sent, o Options) (*Report, error) {
	return run(ctx, conn, &tasteWorkload{holding: map[string]holding{}}, sent, o)
}

func run(ctx context.Context, conn grpc.ClientConnInterface, w workload, sent *Sent, o Options) (*Report, error) {
	if sent == nil {
		return nil, errors.New("ledger: nothing was noted of this run")
	}
	if o.Sample < 0 || o.Sample > 1 || math.IsNaN(o.Sample) {
		return nil, fmt.Errorf("ledger: a sample of %v is not a share between 0 and 1", o.Sample)
	}
	setDefault(&o.Sample, 1)
	setDefault(&o.Parallel, 8)
	setDefault(&o.Settle, 30*time.Second)
	setDefault(&o.MaxFindings, 20)
	begin := time.Now()
	c := &check{
		o: o, sent: sent, grains: granaryv1.NewGrainServiceClient(conn), w: w,
		owners: sent.owners(o.Sample), partners: map[string]*passed{},
	}
	c.report.Sent, c.report.Acknowledged, c.report.Refused, c.report.Unknown = sent.Totals()
	if err := c.checkOwners(ctx); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if err := c.checkPartners(ctx); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	c.report.Seconds = time.Since(begin).Seconds()
	return &c.report, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}
