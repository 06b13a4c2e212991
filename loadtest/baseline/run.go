package baseline

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/cespare/xxhash/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"

	baselinev1 "github.com/granary-dev/granary/proto/granary/baseline/v1"
)

const (
	warmUp      = 700 * time.Millisecond
	connections = 4
	// payloadBytes make an event about as large as a card transaction with its envelope.
	payloadBytes = 108
	// distinctUnary is how many different events unary callers send, over and over.
	distinctUnary = 20_000
)

// Run starts the server, sends as asked, and reports.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	o = o.withDefaults()
	if o.Accounts < shards || o.Batch < 1 || o.Streams < 1 || o.Window < 1 || o.Unary < 0 || o.For < 0 {
		return nil, fmt.Errorf("baseline: want at least %d accounts, and a batch, stream and window of at least 1", shards)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server, err := startServer(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("baseline: %w", err)
	}
	defer func() {
		if problem := server.stop(); problem != nil && err == nil {
			report, err = nil, fmt.Errorf("baseline: the server: %w", problem)
		}
	}()
	l, err := newLoad(o, server.address)
	if err != nil {
		return nil, fmt.Errorf("baseline: %w", err)
	}
	defer l.close()
	report, err = l.run(ctx, server)
	if err != nil {
		return nil, fmt.Errorf("baseline: %w", err)
	}
	return report, nil
}

// server is the other process, or what stands for it in tests.
type server struct {
	address string
	apart   bool // a process of its own
	in      io.WriteCloser
	out     *bufio.Reader
	wait    func() error
	dir     string // to remove
}

func startServer(ctx context.Context, o Options) (*server, error) {
	s := &server{}
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "granary-baseline-")
		if err != nil {
			return nil, err
		}
		s.dir, o.Dir = dir, dir
	}
	var err error
	if len(o.Server) == 0 {
		s.startHere(ctx, o.Dir)
	} else {
		err = s.startProcess(ctx, o)
	}
	if err == nil {
		var line string
		if line, err = s.out.ReadString('\n'); err != nil {
			err = fmt.Errorf("the server did not say where it listens: %w", errors.Join(err, s.stop()))
		}
		s.address = strings.TrimSpace(line)
	}
	if err != nil {
		return nil, errors.Join(err, s.removeDir())
	}
	return s, nil
}

func (s *server) removeDir() error {
	if s.dir == "" {
		return nil
	}
	return os.RemoveAll(s.dir)
}

func (s *server) startProcess(ctx context.Context, o Options) error {
	cmd := exec.CommandContext(ctx, o.Server[0], append(o.Server[1:len(o.Server):len(o.Server)], o.Dir)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.apart, s.in, s.out, s.wait = true, in, bufio.NewReader(out), cmd.Wait
	return nil
}

func (s *server) startHere(ctx context.Context, dir string) {
	inRead, inWrite := io.Pipe()
	outRead, outWrite := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := Serve(ctx, ServeOptions{Dir: dir}, inRead, outWrite)
		inRead.CloseWithError(io.ErrClosedPipe)
		outWrite.CloseWithError(io.EOF)
		ended <- err
	}()
	s.in, s.out, s.wait = inWrite, bufio.NewReader(outRead), func() error { return <-ended }
}

// stop ends the server's input and waits for the server.
func (s *server) stop() error {
	s.in.Close()
	return errors.Join(s.wait(), s.removeDir())
}

func (s *server) counters() (c counters, err error) {
	if _, err := fmt.Fprintln(s.in, "counters"); err != nil {
		return c, err
	}
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(line, &c)
}

// load is the client's side: requests made beforehand, and what comes of sending them.
type load struct {
	o        Options
	conns    []*grpc.ClientConn
	requests [][]byte
	bytes    float64 // mean size of an event

	measureFrom, stopAt time.Time

	answered atomic.Uint64
	mu       sync.Mutex
	latency  *hdrhistogram.Histogram
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 3)
}

func newLoad(o Options, address string) (*load, error) {
	l := &load{o: o, latency: newHistogram()}
	l.makeRequests()
	for range connections {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})))
		if err != nil {
			l.close()
			return nil, err
		}
		l.conns = append(l.conns, conn)
	}
	return l, nil
}

func (l *load) close() {
	for _, c := range l.conns {
		c.Close()
	}
}

// makeRequests encodes enough requests that every account has its turn. Each gets its batch number when it is sent.
func (l *load) makeRequests() {
	r := rand.New(rand.NewPCG(5, 6))
	names, byShard := make([]string, l.o.Accounts), [shards][]int{}
	order := r.Perm(l.o.Accounts)
	for _, n := range order {
		names[n] = fmt.Sprintf("account/%010d", n)
		s := xxhash.Sum64String(names[n]) % shards
		byShard[s] = append(byShard[s], n)
	}
	size, requests := l.o.Batch, max(l.o.Accounts/l.o.Batch, 1_000)
	if l.o.Unary > 0 {
		size, requests = 1, max(l.o.Accounts, distinctUnary)
	}
	bytes, sequence := 0, uint64(0)
	next := func(request int) *baselinev1.Measurement {
		n := order[int(sequence)%len(order)]
		if s := byShard[request%shards]; !l.o.Scatter && len(s) > 0 {
			n = s[int(sequence)%len(s)]
		}
		payload := make([]byte, payloadBytes)
		for i := 0; i < len(payload)-7; i += 8 {
			binary.LittleEndian.PutUint64(payload[i:], r.Uint64())
		}
		m := &baselinev1.Measurement{
			Entity: names[n], Type: "measured", AtMicros: 1_700_000_000_000_000 + int64(sequence), Sequence: sequence, Payload: payload,
		}
		sequence++
		bytes += m.SizeVT()
		return m
	}
	for i := range requests {
		var m message
		if l.o.Unary > 0 {
			m = &baselinev1.PutRequest{Measurement: next(i)}
		} else {
			batch := &baselinev1.PutStreamRequest{}
			for range size {
				batch.Measurements = append(batch.Measurements, next(i))
			}
			m = batch
		}
		buf := make([]byte, m.SizeVT())
		// Encoding into a buffer of the right size cannot fail.
		_, _ = m.MarshalToSizedBufferVT(buf)
		l.requests = append(l.requests, buf)
	}
	l.bytes = float64(bytes) / float64(requests*size)
}

// run sends, and measures once the warm-up is over.
func (l *load) run(ctx context.Context, s *server) (*Report, error) {
	l.measureFrom = time.Now().Add(warmUp)
	l.stopAt = l.measureFrom.Add(l.o.For)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var senders sync.WaitGroup
	send := func(sender func(context.Context, int) error, n int) {
		for i := range n {
			senders.Go(func() {
				if err := sender(ctx, i); err != nil {
					cancel(err)
				}
			})
		}
	}
	if l.o.Unary > 0 {
		send(l.call, l.o.Unary)
	} else {
		send(l.stream, l.o.Streams)
	}
	begin, err := l.snapshot(ctx, s, l.measureFrom)
	var end snapshot
	if err == nil {
		end, err = l.snapshot(ctx, s, l.stopAt)
	}
	if err != nil {
		cancel(err)
	}
	senders.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	r := &Report{
		Events: end.answered - begin.answered, Seconds: end.at.Sub(begin.at).Seconds(),
		P50: millis(l.latency.ValueAtPercentile(50)), P99: millis(l.latency.ValueAtPercentile(99)),
		Commits: end.server.Commits - begin.server.Commits, EventBytes: l.bytes,
	}
	r.Rate = float64(r.Events) / r.Seconds
	if s.apart && r.Events > 0 {
		r.ServerMicros = float64(end.server.Processor-begin.server.Processor) / float64(r.Events)
		r.ClientMicros = float64(end.client-begin.client) / float64(r.Events)
	}
	return r, nil
}

func millis(micros int64) float64 { return float64(micros) / 1000 }

type snapshot struct {
	at       time.Time
	answered uint64
	client   int64
	server   counters
}

// snapshot waits and then looks at all counters.
func (l *load) snapshot(ctx context.Context, s *server, at time.Time) (snap snapshot, err error) {
	select {
	case <-time.After(time.Until(at)):
	case <-ctx.Done():
		return snap, context.Cause(ctx)
	}
	snap.at, snap.answered, snap.client = time.Now(), l.answered.Load(), processorTime()
	snap.server, err = s.counters()
	return snap, err
}

// call is one unary caller.
func (l *load) call(ctx context.Context, caller int) error {
	latency := newHistogram()
	defer l.merge(latency)
	conn := l.conns[caller%len(l.conns)]
	var answer baselinev1.PutResponse
	for i := caller; ; i += l.o.Unary {
		begin := time.Now()
		if begin.After(l.stopAt) {
			return nil
		}
		request := encoded{l.requests[i%len(l.requests)]}
		if err := conn.Invoke(ctx, baselinev1.BaselineService_Put_FullMethodName, request, &answer); err != nil {
			return err
		}
		l.answered.Add(1)
		if begin.After(l.measureFrom) {
			// Nothing takes as long as the histogram's limit.
			_ = latency.RecordValue(time.Since(begin).Microseconds())
		}
	}
}

func (l *load) merge(latency *hdrhistogram.Histogram) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latency.Merge(latency)
}

// stream is one stream of batches with its window.
func (l *load) stream(ctx context.Context, number int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, err := l.conns[number%len(l.conns)].NewStream(ctx, &baselinev1.BaselineService_ServiceDesc.Streams[0],
		baselinev1.BaselineService_PutStream_FullMethodName)
	if err != nil {
		return err
	}
	window := make(chan struct{}, l.o.Window)
	// sentAt holds the times of the batches in flight, by their number modulo its length. Batches are answered nearly in
	// order, so those in flight are never that far apart.
	sentAt := make([]atomic.Int64, 1<<14+l.o.Window)
	var sent atomic.Int64
	sent.Store(-1)
	var receiver sync.WaitGroup
	var received error
	receiver.Go(func() {
		defer cancel()
		received = l.receive(call, window, sentAt, &sent)
	})
	err = l.send(ctx, call, number, window, sentAt, &sent)
	receiver.Wait()
	if received != nil {
		return received
	}
	return err
}

func (l *load) send(
	ctx context.Context, call grpc.ClientStream, number int,
	window chan struct{}, sentAt []atomic.Int64, sent *atomic.Int64,
) error {
	from := number * len(l.requests) / l.o.Streams
	for batch := int64(1); ; batch++ {
		now := time.Now()
		if now.After(l.stopAt) {
			// One batch beyond the end tells the receiver, in order, that it was the last.
			sent.Store(batch)
		}
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			return nil // the receiver knows why
		}
		sentAt[int(batch)%len(sentAt)].Store(time.Now().UnixNano())
		head := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(batch))
		request := encoded{l.requests[(from+int(batch))%len(l.requests)], head}
		if err := call.SendMsg(request); err != nil {
			return nil // the receiver knows why
		}
		// The stream stays open until the receiver has seen the last answer.
		if sent.Load() == batch {
			return nil
		}
	}
}

// receive takes answers until the last batch sent has been answered and all before it.
func (l *load) receive(call grpc.ClientStream, window chan struct{}, sentAt []atomic.Int64, sent *atomic.Int64) error {
	latency := newHistogram()
	defer l.merge(latency)
	var answer baselinev1.PutStreamResponse
	for got := int64(0); got != sent.Load(); {
		if err := call.RecvMsg(&answer); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		now := time.Now().UnixNano()
		for _, batch := range answer.Batches {
			if at := sentAt[int(batch)%len(sentAt)].Load(); at > l.measureFrom.UnixNano() {
				// Nothing takes as long as the histogram's limit.
				_ = latency.RecordValue((now - at) / 1000)
			}
			<-window
		}
		got += int64(len(answer.Batches))
		l.answered.Add(uint64(len(answer.Batches) * l.o.Batch))
	}
	return nil
}
