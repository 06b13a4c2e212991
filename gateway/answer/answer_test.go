package answer_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/persistence/entry"
)

func TestPositions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := entry.Position{
			Lineage: rapid.Uint64().Draw(t, "lineage"), Index: rapid.Uint64Min(1).Draw(t, "index"), Ordinal: rapid.Uint32().Draw(t, "ordinal"),
		}
		s := answer.Position(p)
		if got, err := answer.ParsePosition(s); err != nil || got != p {
			t.Fatalf("%q reads as %v, %v; was %v", s, got, err, p)
		}
	})
	if s := answer.Position(entry.Position{}); s != "" {
		t.Errorf("nothing has the position %q", s)
	}
	if p, err := answer.ParsePosition(""); err != nil || !p.IsZero() {
		t.Errorf("%v %v", p, err)
	}
	// Released positions are read for ever.
	if s := answer.Position(entry.Position{Lineage: 7, Index: 300, Ordinal: 5}); s != "AQesAgU" {
		t.Errorf("the form of positions has changed: %q", s)
	}
}

func TestBadPositions(t *testing.T) {
	for _, s := range []string{"A", "AQ", "!", "\n", "AQes\nAgU", "AQesAgU=", "AQesAg", "AQesAgUA", "AgesAgU", "AQcAAA", "AQeAAQCA", strings.Repeat("A", 1000), "AQesAgV",
		"\n", "AQesAgU\n", "AQeAgICAgICAgICAAgU", "AQes gU", "AQGshICAgICAgICAAf____8f"} {
		if p, err := answer.ParsePosition(s); !errors.Is(err, answer.ErrPosition) {
			t.Errorf("%q reads as %v, %v", s, p, err)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("AQesAgU")
	f.Add(answer.Position(entry.Position{Lineage: math.MaxUint64, Index: math.MaxUint64, Ordinal: math.MaxUint32}))
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := answer.ParsePosition(s); err == nil && answer.Position(p) != s {
			t.Errorf("%q is %v is %q", s, p, answer.Position(p))
		}
	})
}

// TestEveryOutcome: each that is not OK has one ErrorInfo, and says when to retry exactly where that helps.
func TestEveryOutcome(t *testing.T) {
	retryable := map[codes.Code]bool{codes.Unavailable: true, codes.ResourceExhausted: true}
	check := func(name string, r *answer.Refusal) {
		s := r.Proto()
		infos, retries := 0, 0
		for _, d := range s.Details {
			m, err := d.UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			switch m := m.(type) {
			case *errdetails.ErrorInfo:
				infos++
				if m.Domain != "granary.dev" || m.Reason == "" || m.Reason != strings.ToUpper(m.Reason) {
					t.Errorf("%s: %v", name, m)
				}
			case *errdetails.RetryInfo:
				retries++
			}
		}
		if s.Code == 0 || infos != 1 || (retries == 1) != retryable[codes.Code(s.Code)] {
			t.Errorf("%s: %v", name, s)
		}
	}
	for o := actors.Rejected; o <= actors.Overloaded+1; o++ {
		check(o.String(), answer.Outcome(o, "why"))
		check(o.String(), answer.Batch(&actors.Batch{Refused: o, Why: "why", Link: &actors.Link{Producer: "p"}}))
	}
	if r := answer.Outcome(actors.Folded, ""); r != nil {
		t.Errorf("%v", r)
	}
	lack := &actors.Lack{Kind: "book", Version: 3, Have: 2, Grains: 17}
	for _, r := range []*answer.Refusal{
		answer.Batch(&actors.Batch{Refused: actors.LogicMissing, Lack: lack}),
		answer.Batch(&actors.Batch{Refused: actors.LogicMissing, Lack: lack, Link: &actors.Link{Producer: "p"}}),
		answer.Read(&actors.Read{Failed: actors.LogicMissing, Lack: lack}),
	} {
		check("lack", r)
		if got := strings.Join(r.Metadata, " "); got != "kind book version_needed 3 version_had 2 grains 17" {
			t.Errorf("metadata %q", got)
		}
	}
	if r := answer.Read(&actors.Read{}); r != nil {
		t.Errorf("%v", r)
	}
	for _, err := range []error{
		routing.ErrOverloaded, routing.ErrStopping, routing.ErrDiskFull, routing.ErrDamaged, context.Canceled, context.DeadlineExceeded, errors.New("what?"),
		fmt.Errorf("shard 3: %w", routing.ErrDiskFull), answer.Stopping(), answer.Overloaded(),
	} {
		check(err.Error(), answer.Routing(err))
		if got, want := answer.Routing(err).Code, answer.Of(answer.Routing(err)).Code; got != want {
			t.Errorf("%v: %v, %v", err, got, want)
		}
	}
}

// TestHostileTexts: what came from a client, or from a handler, may stand in an answer, and the answer stays small and
// valid.
func TestHostileTexts(t *testing.T) {
	hostile := strings.Repeat("\xff\x00é", 100_000)
	r := answer.Invalid(answer.InvalidGrain, "grain", "%s", hostile).With("grain", hostile)
	for range 100 {
		r.Violations = append(r.Violations, answer.Violation{Field: "x", Description: hostile})
	}
	r.Message, r.RetryAfter = hostile, time.Second
	s := r.Proto()
	if size := proto.Size(s); size > 6<<10 {
		t.Errorf("a status of %d bytes does not fit into the trailers of every client", size)
	}
	if b, err := proto.Marshal(s); err != nil || !utf8.ValidString(s.Message) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if got := status.Code(r); got != codes.InvalidArgument {
		t.Errorf("gRPC takes it for %v", got)
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{"": "", "abc": "abc", "abcdef": "abcde…", "abcdé": "abcd…", "a\xff": "a?", "abcd\xff\xff": "abcd?…"} {
		if got := answer.Text(in, 5); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
