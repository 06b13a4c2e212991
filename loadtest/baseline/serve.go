package baseline

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	baselinev1 "github.com/granary-dev/granary/proto/granary/baseline/v1"
)

// ServeOptions of the server process.
type ServeOptions struct {
	// Dir is where the data goes: into a folder granary-baseline in it, removed before and after.
	Dir string
}

// counters are what the server says of itself.
type counters struct {
	Events  uint64 `json:"events"`
	Commits uint64 `json:"commits"`
	// Processor is the process's time on processors, in microseconds; 0 where it cannot be told.
	Processor int64 `json:"processor_us"`
}

// Serve is the server process. It prints its address as one line, then its counters as one line of JSON for every line it
// is sent. It ends when its input does, or ctx, or when a commit fails.
func Serve(ctx context.Context, o ServeOptions, in io.Reader, out io.Writer) error {
	dir := filepath.Join(o.Dir, "granary-baseline")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	db, err := openStore(dir)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, db.Close())
	}
	pipe := newPipeline(db)
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}), grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(4<<20),
	)
	service := &service{pipe: pipe, stop: make(chan struct{})}
	baselinev1.RegisterBaselineServiceServer(server, service)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	asked := make(chan error, 1)
	// Ends with the input. If something else ends the server first, the goroutine stays until then: reading a pipe cannot
	// be called off.
	go func() { asked <- service.answerLines(listener.Addr().String(), in, out) }()
	select {
	case err = <-asked:
	case err = <-served:
	case <-pipe.fail:
	case <-ctx.Done():
		err = ctx.Err()
	}
	close(service.stop)
	server.Stop()
	return errors.Join(err, pipe.close(), db.Close())
}

func openStore(dir string) (*pebble.DB, error) {
	cache := pebble.NewCache(64 << 20)
	defer cache.Unref()
	return pebble.Open(dir, &pebble.Options{
		FormatMajorVersion:          pebble.FormatNewest,
		Cache:                       cache,
		MemTableSize:                64 << 20,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       30,
		Logger:                      quiet{},
	})
}

// quiet keeps the store's chatter out of the pipe to the parent.
type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

type service struct {
	baselinev1.UnimplementedBaselineServiceServer
	pipe *pipeline
	stop chan struct{}
}

func (s *service) answerLines(address string, in io.Reader, out io.Writer) error {
	if _, err := fmt.Fprintln(out, address); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		c := counters{Events: s.pipe.events.Load(), Commits: s.pipe.commits.Load(), Processor: processorTime()}
		if err := json.NewEncoder(out).Encode(c); err != nil {
			return err
		}
	}
	return lines.Err()
}

var errStopping = status.Error(codes.Unavailable, "the server is stopping")

// Put takes one event.
func (s *service) Put(_ context.Context, r *baselinev1.PutRequest) (*baselinev1.PutResponse, error) {
	if r.GetMeasurement() == nil {
		return nil, status.Error(codes.InvalidArgument, "no measurement")
	}
	done := make(chan struct{})
	of := &request{one: true, done: func(*request) { close(done) }}
	s.pipe.put([]*baselinev1.Measurement{r.Measurement}, of)
	select {
	case <-done:
		return &baselinev1.PutResponse{Count: of.count}, nil
	case <-s.stop:
		return nil, errStopping
	}
}

// PutStream takes batches.
func (s *service) PutStream(stream grpc.BidiStreamingServer[baselinev1.PutStreamRequest, baselinev1.PutStreamResponse]) error {
	answers := &answers{ready: make(chan struct{}, 1), end: make(chan struct{})}
	var sender sync.WaitGroup
	sender.Go(func() { answers.send(stream) })
	defer sender.Wait()
	defer close(answers.end)
	for {
		r, err := stream.Recv()
		if err != nil {
			// The client is gone, or has sent everything and waits for no answer any more.
			return nil
		}
		if len(r.Measurements) == 0 {
			return status.Error(codes.InvalidArgument, "a batch without measurements")
		}
		s.pipe.put(r.Measurements, &request{batch: r.Batch, done: answers.add})
	}
}

// answers collects the batches of a stream that became durable, until the stream's sender takes them.
type answers struct {
	mu      sync.Mutex
	batches []uint64
	ready   chan struct{}
	end     chan struct{}
}

func (a *answers) add(r *request) {
	a.mu.Lock()
	a.batches = append(a.batches, r.batch)
	a.mu.Unlock()
	signal(a.ready)
}

func (a *answers) send(stream grpc.BidiStreamingServer[baselinev1.PutStreamRequest, baselinev1.PutStreamResponse]) {
	for {
		select {
		case <-a.ready:
		case <-a.end:
			return
		}
		a.mu.Lock()
		batches := a.batches
		a.batches = nil
		a.mu.Unlock()
		for i := range batches {
			if stream.Send(&baselinev1.PutStreamResponse{Batches: batches[i : i+1]}) != nil {
				return
			}
		}
	}
}
