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

// pipeline folds and commits, in the shape that a node has: a goroutine for each shard folds what comes for it, and one
// loop commits what all of them have folded, in one batch with one sync. What is folded while the loop waits for the disk
// is in its next batch.
type pipeline struct {
	db     *pebble.DB
	shards [shards]shard
	folded chan struct{} // holds a token while a shard may have something to commit

	stop     chan struct{}
	folders  sync.WaitGroup
	tasks    sync.WaitGroup
	failOnce sync.Once
	err      error         // of the first commit that failed; set before fail is closed
	fail     chan struct{} // closed when a commit has failed

	events, commits atomic.Uint64
}

// shard is the state of a shard's entities, and the two places where its work waits.
type shard struct {
	id       int
	entities map[uint64]*entity // of the shard's goroutine

	inbox    sync.Mutex
	parts    []part // what came and is not folded yet
	sleeping bool
	wake     chan struct{}

	outbox sync.Mutex
	batch  *pebble.Batch // what is folded and not committed yet: nil if there is nothing
	acks   []*request
	record []byte
	number uint64 // of the last record
}

// part is what one request has for one shard.
type part struct {
	events []*baselinev1.Measurement
	hashes []uint64
	of     *request
}

type entity struct{ count, sum uint64 }

// request is something to be answered when all its parts are durable.
type request struct {
	left  atomic.Int32
	batch uint64
	// one event is all of it: then count is that of the entity's events.
	one   bool
	count uint64
	// done is called once, by the committer.
	done func(*request)
}

func newPipeline(db *pebble.DB) *pipeline {
	p := &pipeline{db: db, folded: make(chan struct{}, 1), stop: make(chan struct{}), fail: make(chan struct{})}
	for i := range p.shards {
		s := &p.shards[i]
		s.id, s.entities, s.wake = i, map[uint64]*entity{}, make(chan struct{}, 1)
		p.folders.Go(func() { p.fold(s) })
	}
	p.tasks.Go(p.commit)
	return p
}

// close waits for the goroutines. Nothing may be put any more.
func (p *pipeline) close() error {
	close(p.stop)
	p.folders.Wait()
	close(p.folded)
	p.tasks.Wait()
	return p.err
}

// put hands the events of a request to their shards.
func (p *pipeline) put(events []*baselinev1.Measurement, of *request) {
	hashes := make([]uint64, len(events))
	var first, count [shards]int
	for i, e := range events {
		hashes[i] = xxhash.Sum64String(e.Entity)
		count[hashes[i]%shards]++
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

// hand gives a shard its part of a request.
func (p *pipeline) hand(to int, part part) {
	s := &p.shards[to]
	s.inbox.Lock()
	s.parts = append(s.parts, part)
	wake := s.sleeping
	s.sleeping = false
	s.inbox.Unlock()
	if wake {
		s.wake <- struct{}{}
	}
}

// fold takes what came for a shard and writes it as one record, over and over. It does not wait for the disk.
func (p *pipeline) fold(s *shard) {
	var spare []part
	for {
		s.inbox.Lock()
		if len(s.parts) == 0 {
			s.sleeping = true
			s.inbox.Unlock()
			select {
			case <-s.wake:
			case <-p.stop:
				return
			}
			s.inbox.Lock()
		}
		parts := s.parts
		s.parts = spare[:0]
		s.inbox.Unlock()
		s.outbox.Lock()
		if s.batch == nil {
			s.batch = p.db.NewBatch()
		}
		s.record = s.record[:0]
		for _, part := range parts {
			s.add(part)
			p.events.Add(uint64(len(part.events)))
		}
		s.number++
		var key [10]byte
		binary.BigEndian.PutUint16(key[:], uint16(s.id))
		binary.BigEndian.PutUint64(key[2:], s.number)
		// A batch in memory takes everything; the options are not used.
		_ = s.batch.Set(key[:], s.record, nil)
		s.outbox.Unlock()
		clear(parts)
		spare = parts
		signal(p.folded)
	}
}

// add folds events and adds them to the record: for each its entity's hash and count and its length, then the event.
func (s *shard) add(part part) {
	for i, e := range part.events {
		hash := part.hashes[i]
		state := s.entities[hash]
		if state == nil {
			state = &entity{}
			s.entities[hash] = state
		}
		state.count++
		if len(e.Payload) >= 8 {
			state.sum += binary.LittleEndian.Uint64(e.Payload)
		}
		if part.of.one { // others are in the hands of several shards at once
			part.of.count = state.count
		}
		s.record = appendEvent(s.record, hash, state.count, e)
	}
	s.acks = append(s.acks, part.of)
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

// commit gathers what the shards have folded into one batch, syncs it and answers, over and over.
func (p *pipeline) commit() {
	var acks []*request
	for range p.folded {
		batch := p.db.NewBatch()
		for i := range p.shards {
			acks = p.shards[i].collect(batch, acks)
		}
		if len(acks) > 0 {
			if err := batch.Commit(pebble.Sync); err != nil {
				p.failed(err)
				continue
			}
			p.commits.Add(1)
		}
		batch.Close()
		for _, r := range acks {
			if r.left.Add(-1) == 0 {
				r.done(r)
			}
		}
		clear(acks)
		acks = acks[:0]
	}
}

// collect moves what the shard has folded into a batch.
func (s *shard) collect(batch *pebble.Batch, acks []*request) []*request {
	s.outbox.Lock()
	defer s.outbox.Unlock()
	if s.batch == nil {
		return acks
	}
	_ = batch.Apply(s.batch, nil) // as above
	s.batch.Close()
	s.batch = nil
	acks = append(acks, s.acks...)
	clear(s.acks)
	s.acks = s.acks[:0]
	return acks
}

func (p *pipeline) failed(err error) {
	p.failOnce.Do(func() {
		p.err = err
		close(p.fail)
	})
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
