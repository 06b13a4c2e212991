package node

import "github.com/prometheus/client_golang/prometheus"

// collector shows the counters of a node and its store. It reads them when it is asked; the path of an event knows no
// metric.
type collector struct{ node *Node }

type figure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*reading) float64
}

// reading is one look at a node.
type reading struct {
	stats                                     Stats
	diskBytes, walBytes, flushes, compactions float64
	full, damaged                             bool
}

func counter(name, help string, value func(*reading) float64) figure {
	return figure{prometheus.NewDesc("granary_"+name, help, nil, nil), prometheus.CounterValue, value}
}

func gauge(name, help string, value func(*reading) float64) figure {
	return figure{prometheus.NewDesc("granary_"+name, help, nil, nil), prometheus.GaugeValue, value}
}

var figures = []figure{
	counter("turns_total", "Turns run, of clients' events, of sends and of reminders.", func(r *reading) float64 { return float64(r.stats.Turns) }),
	counter("rejected_total", "Events that their grain rejected.", func(r *reading) float64 { return float64(r.stats.Rejected) }),
	counter("dead_letters_total", "Events whose turn failed.", func(r *reading) float64 { return float64(r.stats.DeadLetters) }),
	counter("abandoned_turns_total", "Turns given up because they ran longer than they may.", func(r *reading) float64 { return float64(r.stats.Abandoned) }),
	gauge("open_dead_letters", "Dead letters that nobody retried or dropped yet.", func(r *reading) float64 { return float64(r.stats.OpenDeadLetters) }),
	counter("duplicates_total", "Events that were published before.", func(r *reading) float64 { return float64(r.stats.Duplicates) }),
	counter("sends_total", "Sends handed to their target shard.", func(r *reading) float64 { return float64(r.stats.Sends) }),
	counter("answers_total", "Deferred replies that came.", func(r *reading) float64 { return float64(r.stats.Answers) }),
	gauge("asking", "Callers who wait for a deferred reply.", func(r *reading) float64 { return float64(r.stats.Asking) }),
	counter("reminders_total", "Reminders that fired.", func(r *reading) float64 { return float64(r.stats.Reminders) }),
	counter("snapshots_total", "Snapshots of grains taken.", func(r *reading) float64 { return float64(r.stats.Snapshots) }),
	counter("activations_total", "Grains loaded.", func(r *reading) float64 { return float64(r.stats.Activations) }),
	counter("passivations_total", "Grains dropped from memory.", func(r *reading) float64 { return float64(r.stats.Passivations) }),
	counter("entries_total", "Entries proposed.", func(r *reading) float64 { return float64(r.stats.Entries) }),
	counter("checkpoints_total", "Checkpoints of derived keys.", func(r *reading) float64 { return float64(r.stats.Checkpoints) }),
	gauge("resident_grains", "Grains in memory.", func(r *reading) float64 { return float64(r.stats.Resident) }),
	gauge("resident_bytes", "Estimated memory of the grains in memory.", func(r *reading) float64 { return float64(r.stats.Bytes) }),
	counter("cut_grains_total", "Grains snapshotted because the version of their logic was raised.", func(r *reading) float64 { return float64(r.stats.Cut) }),
	gauge("unfit_shards", "Shards that do not lead because this binary lacks logic that their journal needs.", func(r *reading) float64 { return float64(r.stats.Unfit) }),
	gauge("quarantined_shards", "Shards that answer nothing because their journal is corrupt.", func(r *reading) float64 { return float64(r.stats.Quarantined) }),
	gauge("disk_full", "1 while new events are refused because the disk is down to its reserve.", func(r *reading) float64 { return one(r.full) }),
	gauge("store_damaged", "1 while new events are refused because a table of the store is damaged.", func(r *reading) float64 { return one(r.damaged) }),
	gauge("store_disk_bytes", "Bytes that the store takes on disk.", func(r *reading) float64 { return r.diskBytes }),
	counter("store_wal_bytes_total", "Bytes written to the write-ahead log.", func(r *reading) float64 { return r.walBytes }),
	counter("store_flushes_total", "Flushes of the store.", func(r *reading) float64 { return r.flushes }),
	counter("store_compactions_total", "Compactions of the store.", func(r *reading) float64 { return r.compactions }),
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// Describe implements [prometheus.Collector].
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range figures {
		ch <- f.desc
	}
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	m := c.node.store.Metrics()
	r := &reading{stats: c.node.Stats(), diskBytes: float64(m.DiskSpaceUsage()), walBytes: float64(m.WAL.BytesWritten),
		flushes: float64(m.Flush.Count), compactions: float64(m.Compact.Count), full: c.node.store.Full(), damaged: c.node.store.Damaged() != nil}
	for _, f := range figures {
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(r))
	}
}

// Collector of the node's metrics.
func (n *Node) Collector() prometheus.Collector { return collector{n} }
