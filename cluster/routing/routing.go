// Package routing finds the shard of a grain and hands requests to its leader.
//
// Here live the table of shards and the interface by which the gateway reaches them. Here never live turns or storage.
//
// Invariant: the shard of a grain depends on the grain's name and the table alone.
package routing

import (
	"context"
	"errors"
	"math/bits"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/persistence"
	"github.com/granary-dev/granary/persistence/entry"
)

// Table is the division of the hash ring: shards 1 to n own equal parts of it, in order.
type Table struct {
	n     int
	shift uint
}

// NewTable returns the table of n shards; n is a power of two.
func NewTable(n int) Table { return Table{n: n, shift: uint(64 - bits.TrailingZeros(uint(n)))} }

// Len is the number of shards. Their ids are 1 to Len.
func (t Table) Len() int { return t.n }

// Shard is the id of the shard that owns a grain.
func (t Table) Shard(tenant, kind, key string) uint64 {
	return persistence.GrainHash(tenant, kind, key)>>t.shift + 1
}

// ShardOf is [Table.Shard] for a key in bytes.
func (t Table) ShardOf(tenant, kind string, key []byte) uint64 {
	return persistence.GrainHash(tenant, kind, key)>>t.shift + 1
}

// ErrOverloaded is returned by a Router whose shard has no room for more at the moment.
var ErrOverloaded = errors.New("the shard has no room for more events")

// ErrStopping is returned by a Router that takes no more events because its node stops.
var ErrStopping = errors.New("the node is stopping")

// ErrDiskFull is returned by a Router that takes no more events because its disk is down to the reserve.
var ErrDiskFull = errors.New("the disk is full up to its reserve")

// ErrDamaged is returned by a Router that takes no more events because a file of its store is damaged.
var ErrDamaged = errors.New("a file of this node's store is damaged, it takes no events until an operator has brought the file back")

// Takes tells why a node whose store is this takes no new events at the moment; nil if it does.
func Takes(store *persistence.Store) error {
	switch {
	case store.Full():
		return ErrDiskFull
	case store.Damaged() != nil:
		return ErrDamaged
	}
	return nil
}

// Router takes requests for shards. All methods may be called from any goroutine.
type Router interface {
	// Table of shards.
	Table() Table
	// Publish hands a batch to a shard. With wait it waits for room until ctx is done, else it returns ErrOverloaded when
	// there is none. When it returns nil, b.Done will be called; when it returns an error (ErrOverloaded, ErrStopping,
	// ErrDiskFull, ErrDamaged, or that of ctx) it will not, and nothing happened.
	Publish(ctx context.Context, shard uint64, b *actors.Batch, wait bool) error
	// GiveUp tells a shard that the reply to an ask, which it was given by Publish, is not waited for any more; see
	// [actors.GiveUp]. b.Done is still called, once.
	GiveUp(shard uint64, b *actors.Batch)
	// Read hands a read to a shard. When it returns nil, r.Done will be called.
	Read(shard uint64, r *actors.Read) error
	// GiveUpRead tells a shard that nobody waits any more for a read that it was handed; r.Done is called soon.
	GiveUpRead(shard uint64, r *actors.Read)
	// Entries reads the committed data entries of a shard behind a place up to index upto, which an [actors.Tail] told of,
	// without those that have no effect. It reads maxBytes or one entry more, at least one, and returns the place behind
	// them. What cannot be read is an [EntryError], with the entries before it; other errors are ErrStopping and that of ctx.
	Entries(ctx context.Context, shard uint64, after Place, upto uint64, maxBytes int) ([]*entry.Reader, Place, error)
	// Settle hands a settlement of a dead letter to a shard. When it returns nil, in.Done will be called; when it returns an
	// error (those of Publish), nothing happened.
	Settle(shard uint64, in *actors.Settle) error
}

// Place is a moment of a shard's journal.
type Place = persistence.Place

// EntryError tells which entry of a shard's journal could not be read.
type EntryError = persistence.EntryError
