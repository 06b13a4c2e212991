package grains

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// MaxReminder is the farthest that a reminder may be ahead, and the longest time between two firings.
const MaxReminder = 100 * 366 * 24 * time.Hour

// After lets the grain get the event msg itself, d from now in journal time, and returns the reminder's id for
// [Turn.Cancel]. It is kept in the journal, fires once across crashes and moves, never early, and some tenths of a second
// late. d is from 0 to [MaxReminder]. A message that the kind has no handler for is an error of the handler: it panics,
// and the event is dead-lettered.
func (t *Turn) After(d time.Duration, msg proto.Message) uint64 {
	return t.remind("After", t.in.Now+t.micros("After", d), 0, msg)
}

// At is [Turn.After] for a moment; one that is past fires at once.
func (t *Turn) At(at time.Time, msg proto.Message) uint64 {
	d := at.Sub(t.Now())
	if at.Before(t.Now()) {
		d = 0
	}
	return t.remind("At", t.in.Now+t.micros("At", d), 0, msg)
}

// Every is [Turn.After] again and again, d apart, until it is canceled. d is at least a second. When firings were missed,
// because no node was up, one makes up for all of them; the next is due at a multiple of d after the first.
func (t *Turn) Every(d time.Duration, msg proto.Message) uint64 {
	if d < time.Second {
		panic(fmt.Sprintf("Every: %v is less than a second", d))
	}
	every := t.micros("Every", d)
	return t.remind("Every", t.in.Now+every, every, msg)
}

// Cancel takes a reminder of this grain back. One that fired, was canceled or never was is not an error: the firing may
// have come first.
func (t *Turn) Cancel(id uint64) {
	e := t.effect("Cancel", nil)
	e.Kind, e.Timer = Cancel, id
}

func (t *Turn) micros(caller string, d time.Duration) int64 {
	if d < 0 || d > MaxReminder {
		panic(fmt.Sprintf("%s: %v is not from 0 to %v", caller, d, MaxReminder))
	}
	return int64(math.Ceil(float64(d) / float64(time.Microsecond))) // never early
}

func (t *Turn) remind(caller string, due, every int64, msg proto.Message) uint64 {
	if name := t.typeOf(msg).Name; t.kind != nil {
		if _, ok := t.kind.Event(name); !ok {
			panic(fmt.Sprintf("%s: kind %q has no handler for %s", caller, t.kind.Name, name))
		}
	}
	e := t.effect(caller, msg)
	// unique in the grain, and the same at every replay
	e.Kind, e.Due, e.Every, e.Timer = Remind, due, every, t.in.Seq*MaxEffects+uint64(len(t.effects)-1)
	return e.Timer
}

// Publish puts msg into a stream that the kind names in [Kind.Streams]; another one is an error of the handler. It gets
// there after this turn is committed, once, in the order of the shard's turns.
func (t *Turn) Publish(stream string, msg proto.Message) {
	if t.kind != nil && !slices.Contains(t.kind.streams, stream) {
		panic(fmt.Sprintf("Publish: kind %q does not name the stream %q", t.kind.Name, clip(stream)))
	}
	e := t.effect("Publish", msg)
	e.Kind, e.Stream = Publish, stream
}

// Reply answers the publisher of this event, if it asked for an answer; else the reply is kept and nobody hears it. A turn
// replies at most once, and not if it deferred.
func (t *Turn) Reply(msg proto.Message) {
	t.settle("Reply")
	a := &anypb.Any{TypeUrl: typeURL + t.typeOf(msg).Name}
	var err error
	if a.Value, err = t.typeOf(msg).Append(nil, msg); err == nil {
		t.reply, err = proto.MarshalOptions{Deterministic: true}.Marshal(a)
	}
	if err != nil {
		panic(fmt.Sprintf("Reply: %v", err))
	}
}

// typeURL is what precedes the name of a message in an Any.
const typeURL = "type.googleapis.com/"

func (t *Turn) settle(caller string) {
	if t.settled {
		panic(caller + ": the turn has replied or deferred before")
	}
	t.settled = true
}

// Defer leaves the reply to a later turn, of any grain: pass the token on in what is sent, and let that turn call
// [Turn.Answer].
func (t *Turn) Defer() (token string) {
	t.settle("Defer")
	t.effect("Defer", nil).Kind = Defer
	return t.in.Grain.String() + "#" + strconv.FormatUint(t.in.Seq, 10)
}

// Answer is the reply to the event whose turn deferred with this token. The first answer counts; later ones have no
// effect. A token that no [Turn.Defer] returned is an error of the handler.
func (t *Turn) Answer(token string, msg proto.Message) {
	to, _, err := ParseToken(token)
	if err != nil {
		panic(fmt.Sprintf("Answer: %v", err))
	}
	e := t.effect("Answer", msg)
	e.To, e.Token = to, token
}

// ParseToken reads what [Turn.Defer] returned: the grain whose event is to be answered, and the seq of that event.
func ParseToken(token string) (Ref, uint64, error) {
	i := strings.LastIndexByte(token, '#')
	if i < 0 {
		return Ref{}, 0, fmt.Errorf("%q is not a reply token", clip(token))
	}
	ref, err := ParseRef(token[:i])
	if err != nil {
		return Ref{}, 0, fmt.Errorf("%q is not a reply token: %w", clip(token), err)
	}
	seq, err := strconv.ParseUint(token[i+1:], 10, 64)
	if err != nil || seq == 0 || token[i+1] == '0' {
		return Ref{}, 0, fmt.Errorf("%q is not a reply token: %q is no seq", clip(token), clip(token[i+1:]))
	}
	return ref, seq, nil
}

// validStream tells whether s has the form of a stream's name: ^[a-z][a-z0-9._-]{0,127}$.
func validStream(s string) bool {
	if len(s) == 0 || len(s) > 128 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

// Streams that turns of the kind may publish to, in order.
func (d *Definition) Streams() []string { return d.streams }
