package replication

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/granary-dev/granary/persistence"
)

// Loop is the commit loop of a node, one round at a time: what all groups have to write goes into one batch with one sync.
// Whoever drives it owns the goroutine and the time.
type Loop struct {
	host  *Host
	store *persistence.Store
	batch *pebble.Batch
}

// NewLoop returns the commit loop of a host over its store.
func NewLoop(host *Host, store *persistence.Store) *Loop {
	return &Loop{host: host, store: store, batch: store.NewBatch()}
}

// Round writes what the groups have to write and tells what happened. What need not be durable waits in the batch for what
// must. An error is final: nobody knows what of the batch is on disk, and going on could acknowledge what is lost.
func (l *Loop) Round(tell func(Event)) error {
	sync, err := l.host.Collect(l.batch)
	if err != nil {
		return err
	}
	l.Tell(tell)
	if !sync {
		return nil
	}
	if err := l.batch.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("the journal could not be written: %w", err)
	}
	if err := l.batch.Close(); err != nil {
		return err
	}
	l.batch = l.store.NewBatch()
	return l.host.Persisted()
}

// Tell calls tell with each event since the last call.
func (l *Loop) Tell(tell func(Event)) {
	for _, e := range l.host.Events() {
		tell(e)
	}
}

// Close gives up the batch that waits.
func (l *Loop) Close() error { return l.batch.Close() }
