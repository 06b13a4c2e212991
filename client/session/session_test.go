package session

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// script runs the commands of a file in testdata/scripts against one session. The clock stands at 0 and moves by +…ms.
type script struct {
	now     time.Time
	session *Session
	wake    time.Time // as drawn last
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := &script{now: time.Unix(0, 0)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "new" {
				s.start(t, d)
				return ""
			}
			if s.session == nil {
				t.Fatalf("%s: begin with new", d.Pos)
			}
			var out strings.Builder
			for _, in := range s.inputs(t, d) {
				out.WriteString(s.draw(s.session.Step(s.now, in)))
			}
			if out.Len() == 0 {
				return "nothing\n"
			}
			return out.String()
		})
	})
}

func (s *script) start(t *testing.T, d *datadriven.TestData) {
	cfg := Config{
		Producer: "p", Epoch: 1, FirstSequence: 1, Window: 2, MaxEvents: 3, MaxBytes: 1000,
		Linger: 5 * time.Millisecond, MinBackoff: 100 * time.Millisecond, MaxBackoff: time.Second,
		Jitter: func() float64 { return 1 },
	}
	for _, arg := range d.CmdArgs {
		switch arg.Key {
		case "window":
			arg.Scan(t, 0, &cfg.Window)
		case "linger":
			cfg.Linger = duration(t, arg.Vals[0])
		case "giveup":
			cfg.GiveUp = duration(t, arg.Vals[0])
		case "epoch":
			arg.Scan(t, 0, &cfg.Epoch)
		case "sequence":
			arg.Scan(t, 0, &cfg.FirstSequence)
		default:
			t.Fatalf("%s: unknown argument %s", d.Pos, arg.Key)
		}
	}
	s.session = New(cfg)
}

func duration(t *testing.T, text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *script) inputs(t *testing.T, d *datadriven.TestData) []Input {
	words := make([]string, 0, len(d.CmdArgs))
	for _, arg := range d.CmdArgs {
		words = append(words, arg.String())
	}
	switch d.Cmd {
	case "publish":
		var in []Input
		for _, w := range words {
			in = append(in, Event{Event: &granaryv1.Event{Id: w}, Bytes: len(w), Ref: w})
		}
		return in
	case "batch":
		b := Batch{Ref: strings.Join(words, "+")}
		for _, w := range words {
			b.Events = append(b.Events, &granaryv1.Event{Id: w})
		}
		return []Input{b}
	case "flush":
		return []Input{Flush{}}
	case "after":
		s.now = s.now.Add(duration(t, words[0]))
		return []Input{Tick{}}
	case "stop":
		return []Input{Stop{Err: io.ErrClosedPipe}}
	case "lost":
		epoch, _ := strconv.ParseUint(words[0], 10, 64)
		return []Input{Lost{Epoch: epoch, Err: parseStatus(words[1])}}
	case "answer":
		epoch, _ := strconv.ParseUint(words[0], 10, 64)
		floor, _ := strconv.ParseUint(words[1], 10, 64)
		r := &granaryv1.PublishStreamResponse{Floor: floor}
		for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
			r.Batches = append(r.Batches, parseAnswer(t, line))
		}
		return []Input{Received{Epoch: epoch, Response: r}}
	}
	t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	return nil
}

// parseAnswer reads "1 of 3 events, 2 duplicates, 1:UNAVAILABLE", where the last parts may be left out.
func parseAnswer(t *testing.T, line string) *granaryv1.BatchResult {
	parts := strings.Split(line, ", ")
	r := &granaryv1.BatchResult{}
	if _, err := fmt.Sscanf(parts[0], "%d of %d", &r.Batch, &r.Events); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	for _, p := range parts[1:] {
		if n, ok := strings.CutSuffix(p, " duplicates"); ok {
			if _, err := fmt.Sscan(n, &r.Duplicates); err != nil {
				t.Fatal(err)
			}
			continue
		}
		index, word, _ := strings.Cut(p, ":")
		e := &granaryv1.BatchException{Result: &granaryv1.Result{}}
		if _, err := fmt.Sscan(index, &e.Index); err != nil {
			t.Fatal(err)
		}
		e.Result.Status = status.Convert(parseStatus(word)).Proto()
		if word == "REJECTED" {
			e.Result.Position, e.Result.Seq = "pos", 7
		}
		r.Exceptions = append(r.Exceptions, e)
	}
	return r
}

// parseStatus makes an error from a code's or a reason's name.
func parseStatus(word string) error {
	withReason := func(c codes.Code) error {
		st, err := status.New(c, word).WithDetails(&errdetails.ErrorInfo{Reason: word})
		if err != nil {
			panic(err)
		}
		return st.Err()
	}
	switch word {
	case "EOF":
		return io.EOF
	case "PRODUCER_GAP", "PRODUCER_FENCED", "REJECTED":
		return withReason(codes.FailedPrecondition)
	case "DEAD_LETTERED":
		return withReason(codes.Internal)
	case "SLOW_DOWN":
		st, err := status.New(codes.ResourceExhausted, word).
			WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)})
		if err != nil {
			panic(err)
		}
		return st.Err()
	}
	var c codes.Code
	if err := c.UnmarshalJSON([]byte(strconv.Quote(word))); err != nil {
		panic(err)
	}
	return status.Error(c, "no")
}

func (s *script) draw(e *Effects) string {
	var out strings.Builder
	if e.Close {
		fmt.Fprintln(&out, "close")
	}
	if e.Open != 0 {
		fmt.Fprintf(&out, "open %d\n", e.Open)
	}
	for _, m := range e.Send {
		fmt.Fprintf(&out, "send %d:", m.Batch)
		for i, event := range m.Events {
			fmt.Fprintf(&out, " %s(%d)", event.Id, m.FirstSequence+uint64(i))
		}
		if m.Producer != nil {
			fmt.Fprintf(&out, " as %s/%d", m.Producer.Id, m.Producer.Epoch)
		}
		fmt.Fprintln(&out)
	}
	for _, d := range e.Done {
		ref := fmt.Sprint(d.Ref)
		if d.Refs != nil {
			ref = fmt.Sprint(d.Refs...)
		}
		fmt.Fprintf(&out, "done %s: %d from %d", ref, d.Events, d.First)
		if d.Duplicates > 0 {
			fmt.Fprintf(&out, ", %d duplicates", d.Duplicates)
		}
		for _, x := range d.Exceptions {
			fmt.Fprintf(&out, "\n  %d: %v", x.Index, x.Err)
			if x.Position != "" {
				fmt.Fprintf(&out, " at %s, seq %d", x.Position, x.Seq)
			}
		}
		fmt.Fprintln(&out)
	}
	if e.Stopped != nil {
		fmt.Fprintf(&out, "stopped: %v\n", e.Stopped)
	}
	if !e.Wake.IsZero() && !e.Wake.Equal(s.wake) {
		fmt.Fprintf(&out, "wake in %v\n", e.Wake.Sub(s.now))
	}
	s.wake = e.Wake
	return out.String()
}
