// Package baseline is the bare pipeline that Granary's speed is held against: a gRPC stream of batches, hashed to shards,
// folded into maps, written as one record for each shard that has something, in one synced Pebble commit over all shards,
// then answered. It has no grains, no consensus, no deduplication, no recovery: it is the least that a durable fold can
// cost, so Granary's distance from it is the price of everything else.
//
// The server runs in a process of its own ([Serve]), as a node does, so that the client's work is not hidden in it.
// The package may import its own proto, Pebble and grpc, and nothing else of Granary.
//
// Invariant: an event is answered only after the commit that holds it is on stable storage.
package baseline

import "time"

// Options of a run.
type Options struct {
	// For is how long is measured, default 5 s. Before that the pipeline runs 700 ms to warm up.
	For time.Duration
	// Unary is the number of concurrent callers that send one event a call; 0 sends batches over streams.
	Unary int
	// Accounts is the number of different entities, default 10,000.
	Accounts int
	// Batch is the number of events in a batch, default 100.
	Batch int
	// Streams is the number of streams, default 4.
	Streams int
	// Window is the number of unanswered batches a stream, default 64.
	Window int
	// Scatter spreads the events of a batch over all shards. Default: each batch is for one shard, which is the best case.
	Scatter bool
	// Dir is where the data goes: into a folder granary-baseline in it, removed before and after. Default: the system's
	// folder for temporary files.
	Dir string
	// Server is the command that calls [Serve], with the words before those that Run adds (a folder). Empty runs the
	// server in this process, which is good for tests only.
	Server []string
}

// Report is what a run measured.
type Report struct {
	// Events answered while measuring.
	Events uint64 `json:"events"`
	// Seconds measured.
	Seconds float64 `json:"seconds"`
	// Rate is Events by Seconds.
	Rate float64 `json:"events_per_second"`
	// P50 and P99 are latencies of batches (of calls, if unary) in milliseconds.
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	// ServerMicros and ClientMicros are processor time in microseconds an event; 0 where it cannot be told.
	ServerMicros float64 `json:"server_us_per_event"`
	ClientMicros float64 `json:"client_us_per_event"`
	// Commits while measuring.
	Commits uint64 `json:"commits"`
	// EventBytes is the mean size of an event on the wire.
	EventBytes float64 `json:"event_bytes"`
}

// withDefaults fills in what was left out.
func (o Options) withDefaults() Options {
	for _, d := range []struct {
		of *int
		to int
	}{{&o.Accounts, 10_000}, {&o.Batch, 100}, {&o.Streams, 4}, {&o.Window, 64}} {
		if *d.of == 0 {
			*d.of = d.to
		}
	}
	if o.For == 0 {
		o.For = 5 * time.Second
	}
	return o
}
