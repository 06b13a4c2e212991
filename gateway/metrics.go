package gateway

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// method names a unary method in metrics and logs.
type method int

const (
	publishMethod method = iota
	getMethod
	historyMethod
	listMethod
	askMethod
	queryMethod
	listRemindersMethod
	listKindsMethod
	describeMethod
	listStreamsMethod
	listDeadLettersMethod
	getDeadLetterMethod
	retryMethod
	dropMethod
	methods
)

var methodNames = [methods]string{"Publish", "Get", "History", "List", "Ask", "Query", "ListReminders", "ListKinds", "Describe", "ListStreams",
	"ListDeadLetters", "GetDeadLetter", "RetryDeadLetter", "DropDeadLetter"}

// lastCode is the largest status code of gRPC.
const lastCode = codes.Unauthenticated

// metrics are the gateway's figures. They are taken once a call or a batch, never once an event; labels are resolved
// here, so that the hot path only adds.
type metrics struct {
	calls              [methods][lastCode + 1]prometheus.Counter
	callSeconds        [methods]prometheus.Observer
	events             prometheus.Counter
	exceptions         prometheus.Counter
	batches            prometheus.Counter
	batchSeconds       prometheus.Observer
	responses          prometheus.Counter
	streams            prometheus.Gauge
	openStreams        atomic.Int64
	cutStreams         prometheus.Counter
	subscriptions      prometheus.Gauge
	subscriptionItems  prometheus.Counter
	connections        prometheus.Gauge
	refusedConnections prometheus.Counter
	cutConnections     prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	const namespace, subsystem = "granary", "gateway"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	// From 100 µs to 26 s: below is a test double, above somebody has given up.
	buckets := prometheus.ExponentialBuckets(100e-6, 2, 19)
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "calls_total",
		Help: "Unary calls answered, by method and status code."}, []string{"method", "code"})
	callSeconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: "call_seconds",
		Help: "Time from a unary call's arrival to its answer.", Buckets: buckets}, []string{"method"})
	batchSeconds := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: "batch_seconds",
		Help: "Time from a streamed batch's arrival to its answer.", Buckets: buckets})
	m := &metrics{
		events:             counter("events_total", "Events that clients handed in, refused ones included."),
		exceptions:         counter("exceptions_total", "Events that were answered with a status other than OK."),
		batches:            counter("batches_total", "Batches that came by streams."),
		batchSeconds:       batchSeconds,
		responses:          counter("stream_responses_total", "Responses sent on streams; each answers one or more batches."),
		streams:            gauge("streams", "Publish streams that are open."),
		cutStreams:         counter("streams_cut_total", "Publish streams cut because their client did not read the responses."),
		subscriptions:      gauge("subscriptions", "Subscriptions that are open."),
		subscriptionItems:  counter("subscription_items_total", "Records and messages sent to subscribers."),
		connections:        gauge("connections", "Connections that are open."),
		refusedConnections: counter("connections_refused_total", "Connections closed at once because too many were open."),
		cutConnections:     counter("connections_cut_total", "Connections closed because their first bytes did not come in time."),
	}
	for i, name := range methodNames {
		m.callSeconds[i] = callSeconds.WithLabelValues(name)
		for code := range lastCode + 1 {
			m.calls[i][code] = calls.WithLabelValues(name, code.String())
		}
	}
	if r != nil {
		r.MustRegister(calls, callSeconds, batchSeconds, m.events, m.exceptions, m.batches, m.responses, m.streams,
			m.cutStreams, m.subscriptions, m.subscriptionItems, m.connections, m.refusedConnections, m.cutConnections)
	}
	return m
}

func (m *metrics) call(of method, code codes.Code, took time.Duration) {
	if code > lastCode {
		code = codes.Unknown
	}
	m.calls[of][code].Inc()
	m.callSeconds[of].Observe(took.Seconds())
}

func (m *metrics) streamsNow() int64 { return m.openStreams.Load() }

func (m *metrics) streamOpened() { m.openStreams.Add(1); m.streams.Inc() }
func (m *metrics) streamClosed() { m.openStreams.Add(-1); m.streams.Dec() }
