package baseline

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	baselinev1 "github.com/granary-dev/granary/proto/granary/baseline/v1"
)

// shards that entities are hashed to, as many as a cluster has at creation.
const shards = 64

// pipeline folds and commits. Two goroutines share the work, so that one batch is folded while the one before it is being
// synced: the folder drains all shards into a batch and hands it to the store, the syncer answers what is durable.
type pipeline struct {
	db     *pebble.DB
	inbox  [shards]inbox
	fold   [shards]folded
	toFold chan struct{} // holds a token while an inbox may have something

	// syncing passes on the batches handed to the store, in order. While the syncer waits for the disk and the folder for
	// the syncer, what comes waits in the inboxes, and the next batch is the larger.
	syncing chan commit

	stop     chan struct{}
	tasks    sync.WaitGroup
	failOnce sync.Once
	err      error         // of the first commit that failed; set before fail is closed
	fail     chan struct{} // closed when a commit has failed

	events, commits atomic.Uint64
}

// inbox holds what came for a shard and is not folded yet.
type inbox struct {
	mu    sync.Mutex
	parts []part
}

// part is what one request has for one shard.
type part struct {
	events []*baselinev1.Measurement
	hashes []uint64
	of     *request
}

// folded is the state of a shard's entities and the number of its last record.
type folded struct {
	entities map[uint64]*entity
	record   uint64
	buf      []byte
	spare    []part
}

type entity struct{ count, sum uint64 }

// request is something to be answered when all its parts are durable.
type request struct {
	left  atomic.Int32
	batch uint64
	// count of the entity's events, for a request of one.
	count uint64
	// done is called once, by the committer.
	done func(*request)
}

func newPipeline(db *pebble.DB) *pipeline {
	p := &pipeline{
		db: db, toFold: make(chan struct{}, 1), syncing: make(chan commit),
		stop: make(chan struct{}), fail: make(chan struct{}),
	}
	for i := range p.fold {
		p.fold[i].entities = map[uint64]*entity{}
	}
	p.tasks.Go(p.folder)
	p.tasks.Go(p.syncer)
	return p
}

// close waits for the goroutines. Nothing may be put any more.
func (p *pipeline) close() error {
	close(p.stop)
	p.tasks.Wait()
	return p.err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put hands the events of a request to their shards.
func (p *pipeline) put(events []*baselinev1.Measurement, of *request) {
	if len(events) == 1 {
		hash := xxhash.Sum64String(events[0].Entity)
		of.left.Store(1)
		p.hand(int(hash%shards), part{events, []uint64{hash}, of})
		return
	}
	hashes := make([]uint64, len(events))
	var first, count [shards]int
	together := true
	for i, e := range events {
		hashes[i] = xxhash.Sum64String(e.Entity)
		count[hashes[i]%shards]++
		together = together && hashes[i]%shards == hashes[0]%shards
	}
	if together {
		of.left.Store(1)
		p.hand(int(hashes[0]%shards), part{events, hashes, of})
		return
	}
	// Sort by shard, keeping the order within each.
	parts, at := 0, 0
	for s := range shards {
		first[s] = at
		at += count[s]
		if count[s] > 0 {
			parts++
		}
	}
	of.left.Store(int32(parts))
	sorted, sortedHashes, next := make([]*baselinev1.Measurement, at), make([]uint64, at), first
	for i, e := range events {
		s := hashes[i] % shards
		sorted[next[s]], sortedHashes[next[s]] = e, hashes[i]
		next[s]++
	}
	for s := range shards {
		if from, to := first[s], first[s]+count[s]; from < to {
			p.hand(s, part{sorted[from:to], sortedHashes[from:to], of})
		}
	}
}

func (p *pipeline) hand(shard int, part part) {
	in := &p.inbox[shard]
	in.mu.Lock()
	in.parts = append(in.parts, part)
	wake := len(in.parts) == 1
	in.mu.Unlock()
	if wake {
		signal(p.toFold)
	}
}

// commit is a batch that was handed to the store and is not known to be durable.
type commit struct {
	batch *pebble.Batch
	acks  []*request
}

// folder drains all shards into one batch and hands it to the store, over and over. It does not wait for the disk.
func (p *pipeline) folder() {
	defer close(p.syncing)
	for {
		select {
		case <-p.toFold:
		case <-p.stop:
			return
		}
		c := commit{batch: p.db.NewBatch()}
		for s := range shards {
			in, f := &p.inbox[s], &p.fold[s]
			in.mu.Lock()
			parts := in.parts
			if len(parts) > 0 {
				in.parts = f.spare[:0]
			}
			in.mu.Unlock()
			if len(parts) > 0 {
				p.drain(s, parts, &c)
				clear(parts)
				f.spare = parts
			}
		}
		if len(c.acks) == 0 {
			c.batch.Close()
			continue
		}
		if err := p.db.ApplyNoSyncWait(c.batch, pebble.Sync); err != nil {
			p.failed(err)
			return
		}
		p.syncing <- c
	}
}

// drain folds what came for a shard and adds it to the batch as one record: for each event its entity's hash and count
// and its length, then the event.
func (p *pipeline) drain(shard int, parts []part, c *commit) {
	f := &p.fold[shard]
	f.buf = f.buf[:0]
	for _, part := range parts {
		for i, e := range part.events {
			hash := part.hashes[i]
			state := f.entities[hash]
			if state == nil {
				state = &entity{}
				f.entities[hash] = state
			}
			state.count++
			if len(e.Payload) >= 8 {
				state.sum += binary.LittleEndian.Uint64(e.Payload)
			}
			part.of.count = state.count
			f.buf = appendEvent(f.buf, hash, state.count, e)
		}
		c.acks = append(c.acks, part.of)
		p.events.Add(uint64(len(part.events)))
	}
	f.record++
	var key [10]byte
	binary.BigEndian.PutUint16(key[:], uint16(shard))
	binary.BigEndian.PutUint64(key[2:], f.record)
	// A batch in memory takes everything; the options are not used.
	_ = c.batch.Set(key[:], f.buf, nil)
}

func appendEvent(buf []byte, hash, count uint64, e *baselinev1.Measurement) []byte {
	size := e.SizeVT()
	buf = binary.BigEndian.AppendUint64(buf, hash)
	buf = binary.BigEndian.AppendUint64(buf, count)
	buf = binary.AppendUvarint(buf, uint64(size))
	at := len(buf)
	if cap(buf)-at < size {
		buf = append(make([]byte, 0, 2*cap(buf)+size), buf...)
	}
	buf = buf[:at+size]
	// Encoding a flat message into a buffer of its size cannot fail.
	_, _ = e.MarshalToSizedBufferVT(buf[at:])
	return buf
}

// syncer waits for commits to be durable and answers, in their order.
func (p *pipeline) syncer() {
	for c := range p.syncing {
		if err := c.batch.SyncWait(); err != nil {
			p.failed(err)
			continue
		}
		c.batch.Close()
		p.commits.Add(1)
		for _, r := range c.acks {
			if r.left.Add(-1) == 0 {
				r.done(r)
			}
		}
	}
}

func (p *pipeline) failed(err error) {
	p.failOnce.Do(func() {
		p.err = err
		close(p.fail)
	})
}
