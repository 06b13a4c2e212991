package driver

import (
	"github.com/granary-dev/granary/loadtest/ledger"
	"github.com/granary-dev/granary/loadtest/ratings"
	"github.com/granary-dev/granary/loadtest/transactions"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Workload is what a run sends: things of the type T, each of which is told to one grain, its owner.
type Workload[T any] struct {
	// Feed yields what to send, and io.EOF after the last. It is read by one goroutine, ahead of its time by a few batches
	// a stream.
	Feed interface{ Next() (T, error) }
	// Owner is the number of the grain that is told. What one owner is told keeps its order.
	Owner func(T) uint32
	// Events makes events of some, in the same order. All carry the source.
	Events func(source string, some []T) []*granaryv1.Event
	// Note is what the ledger remembers.
	Note func(T) ledger.Note
}

// Transactions are told to accounts.
func Transactions(feed transactions.Feed) Workload[transactions.Happening] {
	return Workload[transactions.Happening]{
		Feed:   feed,
		Owner:  func(h transactions.Happening) uint32 { return h.Transaction.Customer },
		Events: transactions.Events,
		Note:   ledger.NoteTransaction,
	}
}

// Ratings are told to users.
func Ratings(feed *ratings.Feed) Workload[ratings.Rating] {
	return Workload[ratings.Rating]{
		Feed:   feed,
		Owner:  func(r ratings.Rating) uint32 { return r.User },
		Events: ratings.Events,
		Note:   ledger.NoteRating,
	}
}
