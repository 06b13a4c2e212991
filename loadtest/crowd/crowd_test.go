package crowd

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/gateway"
	"github.com/granary-dev/granary/grains/catalog"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startNode runs a whole node in memory and returns a connection to it.
func startNode(t *testing.T) *grpc.ClientConn {
	t.Helper()
	n, err := node.Start(context.Background(), node.Options{DataDir: "data", FS: vfs.NewMem(), Catalog: catalog.Builtin(), Shards: 8})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Catalog: catalog.Builtin(), Router: n, Logger: slog.New(slog.DiscardHandler)})
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- g.Serve(listener) }()
	conn, err := Dial("passthrough:node", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		g.Stop(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// run lets a crowd work on a connection for a while.
func run(t *testing.T, conn grpc.ClientConnInterface, seed uint64, work time.Duration) *Report {
	t.Helper()
	c, err := New(Options{Conns: []grpc.ClientConnInterface{conn}, Seed: seed, Pause: time.Millisecond,
		MinBackoff: time.Millisecond, Patience: 500 * time.Millisecond, Settle: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), work)
	defer cancel()
	if err := c.Work(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := c.Finish(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCorrectNode: a node that does its work is found to, two runs after each other on the same one as well.
func TestCorrectNode(t *testing.T) {
	conn := startNode(t)
	for seed := range uint64(2) {
		r := run(t, conn, seed, 500*time.Millisecond)
		if !r.Clean() || r.OK < 200 || r.OK+r.Failed+r.Unknown != r.Operations || r.Unknown > 0 {
			t.Errorf("%+v", r)
		}
		if r.Known == 0 || r.Received == 0 || r.Values < 100 || r.SecondOpinions == 0 || r.Contended < r.Operations/5 {
			t.Errorf("it proves little: %+v", r)
		}
	}
}

// liar stands between a crowd and a correct node, and plays a node that is not.
type liar struct {
	grpc.ClientConnInterface

	mu     sync.Mutex
	calls  int
	former map[string]proto.Message // the first answers to reads, by grain

	publish func(l *liar, n int, in *granaryv1.PublishRequest, out *granaryv1.PublishResponse, call func() error) error
	get     func(l *liar, n int, in *granaryv1.GetRequest, out *granaryv1.GetResponse, call func() error) error
}

// Invoke is one unary call, the nth of those that can be lied about.
func (l *liar) Invoke(ctx context.Context, method string, in, out any, o ...grpc.CallOption) error {
	call := func() error { return l.ClientConnInterface.Invoke(ctx, method, in, out, o...) }
	l.mu.Lock()
	l.calls++
	n := l.calls
	l.mu.Unlock()
	switch in := in.(type) {
	case *granaryv1.PublishRequest:
		if l.publish != nil {
			return l.publish(l, n, in, out.(*granaryv1.PublishResponse), call)
		}
	case *granaryv1.GetRequest:
		if l.get != nil {
			return l.get(l, n, in, out.(*granaryv1.GetResponse), call)
		}
	}
	return call()
}

// TestLiesAreFound: each kind of wrong answer is found, by the rule that is there for it.
func TestLiesAreFound(t *testing.T) {
	conn := startNode(t)
	folded := &granaryv1.Result{Seq: 1, Position: "somewhere", Deduplicated: true}
	for name, test := range map[string]struct {
		liar *liar
		want string
	}{
		"acknowledged and not done": {&liar{publish: func(_ *liar, n int, _ *granaryv1.PublishRequest, out *granaryv1.PublishResponse, call func() error) error {
			if n%20 == 0 {
				out.Results = []*granaryv1.Result{folded}
				return nil
			}
			return call()
		}}, "lost: "},
		"ids are forgotten": {&liar{publish: func(_ *liar, n int, in *granaryv1.PublishRequest, _ *granaryv1.PublishResponse, call func() error) error {
			in.Events[0].Id += strings.Repeat("x", n%200)
			return call()
		}}, "twice: "},
		"done and said to have failed": {&liar{publish: func(_ *liar, n int, _ *granaryv1.PublishRequest, out *granaryv1.PublishResponse, call func() error) error {
			err := call()
			if n%20 == 0 {
				out.Results = []*granaryv1.Result{{Status: status.New(codes.NotFound, "no such kind").Proto()}}
			}
			return err
		}}, "was refused: NotFound"},
		"another place": {&liar{publish: func(_ *liar, n int, _ *granaryv1.PublishRequest, out *granaryv1.PublishResponse, call func() error) error {
			err := call()
			if err == nil && n%20 == 0 {
				out.Results[0].Seq++
			}
			return err
		}}, "its publisher was told"},
		"old reads": {&liar{former: map[string]proto.Message{}, get: func(l *liar, n int, in *granaryv1.GetRequest, out *granaryv1.GetResponse, call func() error) error {
			if err := call(); err != nil || in.GetStale() {
				return err
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if before := l.former[in.GetGrain()]; before == nil {
				l.former[in.GetGrain()] = proto.Clone(out)
			} else if n%10 == 0 && strings.Contains(in.GetGrain(), "hot") {
				proto.Reset(out)
				proto.Merge(out, before)
			}
			return nil
		}}, "lost: "},
	} {
		t.Run(name, func(t *testing.T) {
			l := test.liar
			l.ClientConnInterface = conn
			r := run(t, l, 1, 300*time.Millisecond)
			if text := strings.Join(r.Violations, "\n"); !strings.Contains(text, test.want) {
				t.Errorf("no %q in %d violations:\n%s", test.want, r.Found, text)
			}
			if strings.HasSuffix(test.want, ": ") && !strings.Contains(r.Story, "probe/"+r.Run) {
				t.Errorf("the story is %q", r.Story)
			}
		})
	}
}

// TestCutAndDown: connections that break and a node that is away for a while leave things unknown, and nothing wrong.
func TestCutAndDown(t *testing.T) {
	conn := startNode(t)
	down := &liar{publish: func(_ *liar, n int, _ *granaryv1.PublishRequest, out *granaryv1.PublishResponse, call func() error) error {
		err := call()
		if n%10 == 0 { // the answer is lost
			proto.Reset(out)
			return status.Error(codes.Unavailable, "connection reset")
		}
		return err
	}}
	down.ClientConnInterface = conn
	r := run(t, down, 3, 500*time.Millisecond)
	if !r.Clean() || r.Unknown == 0 || r.Known < r.Unknown/2 || r.Refusals["Unavailable"] != r.Unknown {
		t.Errorf("%+v", r)
	}
}

func TestOptions(t *testing.T) {
	conns := []grpc.ClientConnInterface{&liar{}}
	for _, o := range []Options{{}, {Conns: conns, Clients: -1}, {Conns: conns, Pause: -1}, {Conns: conns, MinBackoff: 2, MaxBackoff: 1}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		r    refusal
		want meaning
	}{
		{refusal{code: codes.ResourceExhausted, reason: "DISK_FULL"}, nothingHappened},
		{refusal{code: codes.ResourceExhausted, reason: "SHARD_OVERLOADED"}, nothingHappened},
		{refusal{code: codes.Unavailable, reason: "SHARD_UNAVAILABLE"}, nobodyKnows},
		{refusal{code: codes.Unavailable}, nobodyKnows},
		{refusal{code: codes.DeadlineExceeded}, nobodyKnows},
		{refusal{code: codes.ResourceExhausted}, notAllowed},
		{refusal{code: codes.Internal, reason: "INTERNAL_ERROR"}, notAllowed},
		{refusal{code: codes.DataLoss, reason: "JOURNAL_CORRUPT"}, notAllowed},
		{refusal{code: codes.AlreadyExists, reason: "ID_CONFLICT"}, notAllowed},
	} {
		if got := test.r.meaning(); got != test.want {
			t.Errorf("%v means %d, want %d", test.r, got, test.want)
		}
	}
}
