// Package crash runs a whole node, from the gateway to Pebble, on a file system that crashes: what was not synced is
// lost at random. Clients publish, repeat and reconnect all the while, and in the end every acknowledgement is held
// against the journal.
//
// Here live the world of one seed and its judgement. Here never live rules of the node itself: what is judged comes from
// the public API alone, and from the independent reader of the data folder.
//
// Invariant: what a client counts as acknowledged was answered before the moment of the crash; what came later proves
// nothing.
package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Host can start a node again and again on one data folder.
type Host interface {
	// Start starts the node on what the last crash left.
	Start(ctx context.Context) (Life, error)
}

// Life is one run of a node, from its start to its crash.
type Life interface {
	// Conn leads to its gateway.
	Conn() *grpc.ClientConn
	// Crash is the moment of the crash: what was answered before it counts, nothing that happens after it does.
	Crash() error
	// Bury cleans up behind the crash.
	Bury() error
	// Stop lets everything come to its end and stops the node cleanly.
	Stop(ctx context.Context) error
	// Settle waits until every send has arrived.
	Settle(ctx context.Context) error
}

// Options of a run. The zero value of a field means its default.
type Options struct {
	// Seed of everything that is drawn. Goroutines still race, so a seed names a family of runs.
	Seed uint64
	// Crashes in the run; 3 by default.
	Crashes int
	// Life is how long a life is at least and at most; 5 to 45 ms by default.
	Shortest, Longest time.Duration
	// Host of the node.
	Host Host
	// Check is called at the end, after a clean stop; for the independent reader of the data folder.
	Check func() error
}

// Report is what a run did.
type Report struct {
	Acknowledged, Unknown, Duplicates, Folded, Crashes int
}

// world is one run.
type world struct {
	mu         sync.Mutex // held while the crash is taken
	changed    *sync.Cond
	generation int
	conn       *grpc.ClientConn // nil between a crash and the restart
	over       bool

	acked map[string]ack  // by event id
	sent  map[string]bool // all ids ever sent
	dups  int
}

// ack is what a client was told of an event.
type ack struct {
	grain string
	seq   uint64 // 0: not told
}

// Run runs one seed.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Crashes == 0 {
		o.Crashes = 3
	}
	if o.Longest == 0 {
		o.Shortest, o.Longest = 5*time.Millisecond, 45*time.Millisecond
	}
	w := &world{acked: map[string]ack{}, sent: map[string]bool{}}
	w.changed = sync.NewCond(&w.mu)
	rnd := rand.New(rand.NewPCG(o.Seed, 0))
	var clients sync.WaitGroup
	for i := range 3 {
		clients.Go(func() { w.producer(i, rand.New(rand.NewPCG(o.Seed, uint64(100+i)))) })
		clients.Go(func() { w.unary(i, rand.New(rand.NewPCG(o.Seed, uint64(200+i)))) })
	}
	stop := func() {
		w.mu.Lock()
		w.over = true
		w.changed.Broadcast()
		w.mu.Unlock()
		clients.Wait()
	}
	for range o.Crashes {
		if err := w.live(ctx, o, rnd); err != nil {
			stop()
			return nil, err
		}
	}
	life, err := w.start(ctx, o.Host)
	if err != nil {
		stop()
		return nil, err
	}
	time.Sleep(o.Shortest)
	stop()
	report := &Report{}
	if err = life.Settle(ctx); err == nil {
		report, err = w.judge(ctx, life.Conn())
	}
	report.Crashes = o.Crashes
	err = errors.Join(err, life.Stop(ctx))
	if err == nil && o.Check != nil {
		err = o.Check()
	}
	return report, err
}

// live is one life, up to its crash.
func (w *world) live(ctx context.Context, o Options, rnd *rand.Rand) error {
	life, err := w.start(ctx, o.Host)
	if err != nil {
		return err
	}
	time.Sleep(o.Shortest + time.Duration(rnd.Int64N(int64(o.Longest-o.Shortest))))
	w.mu.Lock()
	err = life.Crash()
	w.generation++
	w.conn = nil
	w.mu.Unlock()
	return errors.Join(err, life.Bury())
}

// start starts the node and lets the clients at it.
func (w *world) start(ctx context.Context, host Host) (Life, error) {
	life, err := host.Start(ctx)
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	w.mu.Lock()
	w.conn = life.Conn()
	w.changed.Broadcast()
	w.mu.Unlock()
	return life, nil
}

// up waits for a connection; false when the run is over.
func (w *world) up() (*grpc.ClientConn, int, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.conn == nil && !w.over {
		w.changed.Wait()
	}
	return w.conn, w.generation, !w.over
}

// sending notes that events are about to be sent.
func (w *world) sending(events []*granaryv1.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		w.sent[e.Id] = true
	}
}

// answered notes acknowledgements that came in a life. It tells whether that life is still on: an answer that arrives
// after the crash was taken proves nothing.
func (w *world) answered(generation int, events []*granaryv1.Event, seq func(i int) (uint64, bool)) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if generation != w.generation {
		return false
	}
	for i, e := range events {
		if n, ok := seq(i); ok {
			w.acked[e.Id] = ack{grain: e.Grain, seq: n}
		}
	}
	return true
}

// event draws a card transaction. Few accounts and merchants, so that grains are contended.
func event(rnd *rand.Rand, id string) *granaryv1.Event {
	msg := &accountv1.Charged{TransactionId: id, Merchant: fmt.Sprintf("m%d", rnd.IntN(12)), AmountCents: 1 + rnd.Int64N(100000)}
	payload, err := msg.MarshalVT()
	if err != nil {
		panic(err)
	}
	return &granaryv1.Event{Grain: fmt.Sprintf("account/a%d", rnd.IntN(40)), Type: "Charged", Id: id, Source: "crash",
		Payload: &granaryv1.Event_Protobuf{Protobuf: payload}}
}

// unary publishes small calls and repeats each until it is answered, now and then once more than needed.
func (w *world) unary(n int, rnd *rand.Rand) {
	for call := 0; ; call++ {
		var events []*granaryv1.Event
		for i := range 1 + rnd.IntN(5) {
			events = append(events, event(rnd, fmt.Sprintf("u%d-%d-%d", n, call, i)))
		}
		w.sending(events)
		for again := 0; ; {
			conn, generation, ok := w.up()
			if !ok {
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			res, err := granaryv1.NewEventServiceClient(conn).Publish(ctx, &granaryv1.PublishRequest{Events: events})
			cancel()
			if err == nil {
				sure := true
				w.answered(generation, events, func(i int) (uint64, bool) {
					r := res.Results[i]
					if r.Duplicate {
						w.dups++
					}
					ok := r.GetStatus().GetCode() == 0
					sure = sure && ok
					return r.Seq, ok
				})
				if again++; sure && (again > 1 || rnd.IntN(4) > 0) {
					break
				}
				continue
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// producer publishes numbered batches over a stream, and takes a larger epoch and repeats what is unanswered whenever
// the stream ends.
func (w *world) producer(n int, rnd *rand.Rand) {
	type batch struct {
		number, first uint64
		events        []*granaryv1.Event
	}
	var (
		epoch, number uint64
		sequence      uint64 = 1
		unanswered    []*batch
	)
	for {
		conn, generation, ok := w.up()
		if !ok {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		stream, err := granaryv1.NewEventServiceClient(conn).PublishStream(ctx)
		if err != nil {
			cancel()
			continue
		}
		epoch++
		open := &granaryv1.PublishStreamRequest{Producer: &granaryv1.Producer{Id: fmt.Sprintf("p%d", n), Epoch: epoch}}
		send := func(b *batch) error {
			req := &granaryv1.PublishStreamRequest{Producer: open.Producer, Batch: b.number, FirstSequence: b.first, Events: b.events}
			open.Producer = nil
			return stream.Send(req)
		}
		// the numbers of the batches belong to the stream, the sequences to the producer
		number = 0
		for _, b := range unanswered {
			number++
			b.number = number
			if err = send(b); err != nil {
				break
			}
		}
		for err == nil {
			if _, now, ok := w.up(); !ok || now != generation {
				break
			}
			for len(unanswered) < 1+rnd.IntN(8) && err == nil {
				number++
				b := &batch{number: number, first: sequence}
				for range 1 + rnd.IntN(20) {
					b.events = append(b.events, event(rnd, fmt.Sprintf("p%d-%d", n, sequence)))
					sequence++
				}
				w.sending(b.events)
				unanswered = append(unanswered, b)
				err = send(b)
			}
			if err != nil {
				break
			}
			var res *granaryv1.PublishStreamResponse
			if res, err = stream.Recv(); err != nil {
				break
			}
			for _, r := range res.Batches {
				for _, x := range r.Exceptions {
					err = errors.Join(err, fmt.Errorf("batch %d event %d: %v", r.Batch, x.Index, x.Result))
				}
			}
			if err != nil {
				break
			}
			for len(unanswered) > 0 && unanswered[0].number <= res.Floor {
				if !w.answered(generation, unanswered[0].events, func(int) (uint64, bool) { return 0, true }) {
					break
				}
				unanswered = unanswered[1:]
			}
		}
		cancel()
		time.Sleep(time.Millisecond)
	}
}

// judge holds what clients were told against what the journal says.
func (w *world) judge(ctx context.Context, conn *grpc.ClientConn) (*Report, error) {
	r := &Report{Acknowledged: len(w.acked), Duplicates: w.dups}
	client := granaryv1.NewGrainServiceClient(conn)
	var wrong []string
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	found := map[string]bool{}
	charged := map[string]string{} // position → merchant
	spent := map[string]int64{}
	for i := range 40 {
		grain := fmt.Sprintf("account/a%d", i)
		last := map[string]uint64{}
		var count uint64
		var cents int64
		err := history(ctx, client, grain, func(h *granaryv1.HistoryRecord) error {
			var e accountv1.Charged
			if err := e.UnmarshalVT(h.PayloadProtobuf); err != nil {
				return err
			}
			id := e.TransactionId
			if count++; h.Seq != count {
				bad("%s: seq %d stands at place %d", grain, h.Seq, count)
			}
			if found[id] {
				bad("%s: %s is there twice", grain, id)
			}
			found[id] = true
			if !w.sent[id] {
				bad("%s: %s was never sent", grain, id)
			}
			if a, ok := w.acked[id]; ok && (a.grain != grain || a.seq != 0 && a.seq != h.Seq) {
				bad("%s: %s has seq %d, its publisher was told %s seq %d", grain, id, h.Seq, a.grain, a.seq)
			}
			if h.Producer != "" {
				if h.ProducerSequence <= last[h.Producer] {
					bad("%s: sequence %d of %s stands behind %d", grain, h.ProducerSequence, h.Producer, last[h.Producer])
				}
				last[h.Producer] = h.ProducerSequence
			}
			if h.Outcome != granaryv1.RecordOutcome_RECORD_OUTCOME_FOLDED {
				bad("%s: %s was not folded: %v %s", grain, id, h.Outcome, h.Reason)
			}
			charged[h.Position] = e.Merchant
			cents += e.AmountCents
			spent[e.Merchant] += e.AmountCents
			return nil
		})
		if err != nil {
			return r, fmt.Errorf("%s: %w", grain, err)
		}
		g, err := client.Get(ctx, &granaryv1.GetRequest{Grain: grain})
		if err != nil {
			return r, fmt.Errorf("%s: %w", grain, err)
		}
		var state accountv1.Account
		if err := g.State.UnmarshalTo(&state); err != nil {
			return r, err
		}
		if state.Count != count || state.Cents != cents || g.Seq != count {
			bad("%s: state has %d transactions of %d cents at seq %d, its history %d of %d", grain, state.Count, state.Cents, g.Seq, count, cents)
		}
		r.Folded += int(count)
	}
	for id, a := range w.acked {
		if !found[id] {
			bad("%s: %s was acknowledged and is not there", a.grain, id)
		}
	}
	r.Unknown = len(w.sent) - len(w.acked)
	for i := range 12 {
		grain := fmt.Sprintf("merchant/m%d", i)
		err := history(ctx, client, grain, func(h *granaryv1.HistoryRecord) error {
			if charged[h.Cause] != strings.TrimPrefix(grain, "merchant/") {
				bad("%s: seq %d was caused by %q, which no account has, or a second time", grain, h.Seq, h.Cause)
			}
			delete(charged, h.Cause)
			return nil
		})
		if err != nil {
			return r, fmt.Errorf("%s: %w", grain, err)
		}
	}
	for position, merchant := range charged {
		bad("merchant/%s: the send of the record at %s never arrived", merchant, position)
	}
	if len(wrong) > 0 {
		return r, fmt.Errorf("%d violations:\n%s", len(wrong), strings.Join(wrong[:min(len(wrong), 10)], "\n"))
	}
	return r, nil
}

// history calls fn for each record of a grain, oldest first.
func history(ctx context.Context, client granaryv1.GrainServiceClient, grain string, fn func(*granaryv1.HistoryRecord) error) error {
	for token := ""; ; {
		res, err := client.History(ctx, &granaryv1.HistoryRequest{Grain: grain, PageSize: 1000, PageToken: token, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF})
		if err != nil {
			return err
		}
		for _, h := range res.Records {
			if err := fn(h); err != nil {
				return err
			}
		}
		if token = res.NextPageToken; token == "" {
			return nil
		}
	}
}
