package commands

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// fakeStreams has a stream of three messages and a fourth that comes late, and the records of one grain. Its positions are
// how many items are behind them.
type fakeStreams struct {
	granaryv1.UnimplementedStreamServiceServer
	f *fakeNode
}

var broken atomic.Bool // one call was

func (fakeStreams) List(context.Context, *granaryv1.StreamServiceListRequest) (*granaryv1.StreamServiceListResponse, error) {
	return &granaryv1.StreamServiceListResponse{Streams: []*granaryv1.StreamInfo{{Name: "fraud.alerts", Kinds: []string{"account"}}}}, nil
}

func (s fakeStreams) items(req *granaryv1.SubscribeRequest) (items []*granaryv1.SubscribeItem) {
	if req.GetKind() == "account" {
		for _, r := range s.f.grains["account/42"] {
			items = append(items, &granaryv1.SubscribeItem{Grain: "account/42", Item: &granaryv1.SubscribeItem_Record{Record: r}})
		}
		return items
	}
	for i := range uint64(4) {
		payload, err := structpb.NewStruct(map[string]any{"number": i, "note": "\x1b[2J"})
		if err != nil {
			panic(err)
		}
		items = append(items, &granaryv1.SubscribeItem{Grain: "account/" + strconv.FormatUint(i%2, 10), Item: &granaryv1.SubscribeItem_Message{Message: &granaryv1.StreamMessage{
			Stream: "fraud.alerts", Seq: i + 1, Position: "pos", Type: "x.v1.Alert", Payload: payload,
		}}})
	}
	return items
}

func (s fakeStreams) Subscribe(req *granaryv1.SubscribeRequest, call grpc.ServerStreamingServer[granaryv1.SubscribeResponse]) error {
	s.f.mu.Lock()
	items, mode := s.items(req), s.f.mode
	s.f.mu.Unlock()
	at := 3
	if req.GetStart() == granaryv1.SubscribeStart_SUBSCRIBE_START_BEGINNING {
		at = 0
	}
	if p := req.GetPosition(); p != "" {
		var err error
		if at, err = strconv.Atoi(p); err != nil {
			return refusal(codes.InvalidArgument, "INVALID_POSITION", "position: it is not the position of a subscription", nil)
		}
	}
	if slices.Contains(req.GetTypes(), "Nothing") {
		return refusal(codes.NotFound, "UNKNOWN_EVENT_TYPE", "types: this node knows no message Nothing", nil)
	}
	send := func(to int, live bool) error {
		to = min(to, len(items))
		from := min(at, to)
		at = to
		return call.Send(&granaryv1.SubscribeResponse{Items: items[from:to], Position: strconv.Itoa(to), Live: live})
	}
	if err := send(at, false); err != nil {
		return err
	}
	if mode == "damaged" {
		if err := send(1, false); err != nil {
			return err
		}
		return refusal(codes.DataLoss, "JOURNAL_CORRUPT", "shard 1 index 3: corrupt", map[string]string{"shard": "1", "index": "3"})
	}
	if mode == "broken once" && !broken.Swap(true) {
		if err := send(2, false); err != nil {
			return err
		}
		return refusal(codes.Unavailable, "NODE_STOPPING", "the node is stopping", nil)
	}
	if err := send(3, true); err != nil || req.UntilLive {
		return err
	}
	if err := send(4, true); err != nil {
		return err
	}
	<-call.Context().Done()
	return nil
}

// runTail is `granary tail` until it has shown so much, and then Ctrl-C.
func runTail(t *testing.T, until string, args ...string) (out, errs string, code int) {
	t.Helper()
	var o, e lockedBuffer
	signals, done := make(chan os.Signal, 1), make(chan int, 1)
	go func() {
		done <- Run(context.Background(), Environment{Args: append([]string{"tail"}, args...), In: strings.NewReader(""), Out: &o, Err: &e,
			Getenv: func(string) string { return "" }, Signals: signals, Exit: func(int) { t.Error("ended at once") }})
	}()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(o.String(), until); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never showed %q:\n%s\n%s", until, o.String(), e.String())
		}
	}
	signals <- syscall.SIGINT
	code = wait(t, done)
	return o.String(), e.String(), code
}

// TestTailEndsAtCtrlC with exit 0 and the position, which is where another one goes on.
func TestTailEndsAtCtrlC(t *testing.T) {
	fake := startFake(t)
	out, errs, code := runTail(t, `"number":3`, "fraud.alerts", "--from", "beginning", "--target", fake.address)
	if code != ExitDone || strings.Count(out, "\n") != 4 || !strings.Contains(errs, "granary tail fraud.alerts --from 4\n") {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
	out, errs, code = runTail(t, `"number":3`, "fraud.alerts", "--from", "2", "--target", fake.address, "-o", "json")
	if code != ExitDone || strings.Count(out, `"message"`) != 2 || !strings.HasSuffix(out, `{"position":"4","live":true}`+"\n") || errs != "" {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
}

// TestTailOutlivesTheNode: a call that is lost is told of, made again, and nothing is shown twice.
func TestTailOutlivesTheNode(t *testing.T) {
	fake := startFake(t)
	broken.Store(false)
	fake.setMode("broken once")
	out, errs, code := runTail(t, `"number":3`, "fraud.alerts", "--from", "beginning", "--target", fake.address)
	if code != ExitDone || strings.Count(out, "\n") != 4 || !strings.Contains(errs, "the node is stopping; tail tries again until Ctrl-C") {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
}
