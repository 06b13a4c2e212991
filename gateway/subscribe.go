package gateway

import (
	"context"
	"errors"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/subscription"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/entry"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Pauses before a shard without a leader is asked again, and the most types of a filter.
const (
	askAgain     = 20 * time.Millisecond
	askAgainMost = time.Second
	maxTypes     = 64
)

// subscriber drives the machine of one call of Subscribe, on the goroutine of its handler. Shards tell it on theirs what
// they have committed; it reads entries and sends responses itself, one after the other, so that a client that does not
// read costs a page of entries and a response, and no shard anything but a place in its list of who waits.
type subscriber struct {
	g       *Gateway
	srv     grpc.ServerStream
	machine *subscription.Subscription
	reads   []*actors.Read // by shard id - 1; nil: none is out
	failed  []int          // how often in a row a shard could not be asked
	later   map[uint64]time.Time

	mu   sync.Mutex // guards told; shards take it, so nothing slow happens under it
	told []uint64   // shards whose read is done
	wake chan struct{}
}

// subscribe is StreamService.Subscribe.
func (g *Gateway) subscribe(srv grpc.ServerStream) (err error) {
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("a bug: a subscription panicked", "panic", p, "stack", string(debug.Stack()))
			err = bug()
		}
	}()
	var in request[granaryv1.SubscribeRequest, *granaryv1.SubscribeRequest]
	if bad, err := received(srv.Context(), &in, srv.RecvMsg); err != nil {
		return err
	} else if bad != nil {
		return bad
	}
	if in.refusal != nil {
		return in.refusal
	}
	cfg, refusal := g.subscriptionConfig(&in.msg)
	if refusal != nil {
		return refusal
	}
	machine, refusal := subscription.New(*cfg)
	if refusal != nil {
		return refusal
	}
	if n := g.subscriptions.Add(1); n > int64(g.opts.Limits.Subscriptions) {
		g.subscriptions.Add(-1)
		return &answer.Refusal{Code: codes.ResourceExhausted, Reason: answer.TooManySubscriptions, RetryAfter: time.Second,
			Message: "this node serves as many subscriptions as it may"}
	}
	defer g.subscriptions.Add(-1)
	g.metrics.subscriptions.Inc()
	defer g.metrics.subscriptions.Dec()
	s := &subscriber{g: g, srv: srv, machine: machine, reads: make([]*actors.Read, cfg.Shards), failed: make([]int, cfg.Shards),
		later: map[uint64]time.Time{}, wake: make(chan struct{}, 1)}
	defer s.giveUp()
	return s.run(srv.Context())
}

// subscriptionConfig checks a request.
func (g *Gateway) subscriptionConfig(req *granaryv1.SubscribeRequest) (*subscription.Config, *answer.Refusal) {
	cfg := &subscription.Config{Shards: g.router.Table().Len(), Prefix: req.GetKeyPrefix(), UntilLive: req.GetUntilLive()}
	var kind *grains.Definition
	var refusal *answer.Refusal
	switch from := req.GetSource().(type) {
	case *granaryv1.SubscribeRequest_Stream:
		cfg.Stream, refusal = from.Stream, g.outputs.check(from.Stream)
	case *granaryv1.SubscribeRequest_Kind:
		if kind, refusal = g.intake.Kind("kind", from.Kind); refusal == nil {
			cfg.Kind = kind.Name
		}
	default:
		refusal = answer.Invalid(answer.InvalidSubscription, "source", "name a stream or a kind to read")
	}
	if refusal != nil {
		return nil, refusal
	}
	format := req.GetFormat()
	if _, known := granaryv1.StateFormat_name[int32(format)]; !known {
		return nil, answer.Invalid(answer.InvalidFormat, "format", "%d is not a state format of this version", format)
	}
	if refusal := validPrefix("key_prefix", cfg.Prefix); refusal != nil {
		return nil, refusal
	}
	if cfg.Types, refusal = wantedTypes(kind, req.GetTypes()); refusal != nil {
		return nil, refusal
	}
	switch from := req.GetFrom().(type) {
	case *granaryv1.SubscribeRequest_Start:
		cfg.Beginning = from.Start == granaryv1.SubscribeStart_SUBSCRIBE_START_BEGINNING
		if _, known := granaryv1.SubscribeStart_name[int32(from.Start)]; !known {
			return nil, answer.Invalid(answer.InvalidSubscription, "start", "%d is not a start of this version", from.Start)
		}
	case *granaryv1.SubscribeRequest_Position:
		if cfg.Position = from.Position; cfg.Position == "" {
			return nil, answer.Invalid(answer.InvalidPosition, "position", "it is empty; take one as it came in a response, or a start")
		}
	}
	h := actors.History{Kind: kind}
	var one actors.HistoryRecord // used again: it is large
	cfg.Record = func(lineage, index uint64, r *entry.Record) *granaryv1.HistoryRecord {
		h.Lineage, one.Index, one.Record = lineage, index, *r
		out := g.historyRecord(&h, &one, format)
		if out.Payload != nil && len(out.PayloadProtobuf) > 0 && out.SizeVT() > maxPageBytes {
			out.Payload = nil // it is there as protobuf, which takes less
		}
		return out
	}
	cfg.Payload = func(name string, payload []byte) (*structpb.Struct, []byte) { return inFormat(name, payload, format) }
	return cfg, nil
}

// validPrefix refuses what no key can begin with.
func validPrefix(field, p string) *answer.Refusal {
	if len(p) > grains.MaxKeyBytes || !utf8.ValidString(p) || strings.IndexFunc(p, unicode.IsControl) >= 0 {
		return answer.Invalid(answer.InvalidPrefix, field, "it is not how a key can begin: at most %d bytes of UTF-8 without control characters", grains.MaxKeyBytes)
	}
	return nil
}

// wantedTypes are the full names of types of events of a kind, or of messages where there is none; nil for all.
func wantedTypes(kind *grains.Definition, names []string) (map[string]bool, *answer.Refusal) {
	if len(names) == 0 {
		return nil, nil
	}
	if len(names) > maxTypes {
		return nil, answer.Invalid(answer.InvalidType, "types", "there are %d; at most %d are allowed", len(names), maxTypes)
	}
	types := map[string]bool{}
	for i, name := range names {
		if !protoreflect.FullName(name).IsValid() {
			return nil, answer.Invalid(answer.InvalidType, "types", "number %d is not the name of a message", i)
		}
		full := messageTypes(name)
		if kind != nil {
			full = eventTypes(kind, name)
		}
		if len(full) == 0 && kind != nil {
			return nil, answer.InvalidCode(codes.NotFound, answer.UnknownEventType, "types", "the kind %s takes no event %s", kind.Name, answer.Text(name, 128))
		}
		if len(full) == 0 {
			return nil, answer.InvalidCode(codes.NotFound, answer.UnknownEventType, "types", "this node knows no message %s", answer.Text(name, 128))
		}
		for _, f := range full {
			types[f] = true
		}
	}
	return types, nil
}

// eventTypes are the full names that a name of an event may stand for, in any version of a kind.
func eventTypes(kind *grains.Definition, name string) (full []string) {
	for _, k := range append([]*grains.Definition{kind}, kind.Earlier()...) {
		if e, ok := k.Event(name); ok {
			full = append(full, e.Name)
		}
	}
	return full
}

// messageTypes are the full names of the messages that this binary knows by a name.
func messageTypes(name string) (full []string) {
	if strings.Contains(name, ".") {
		if _, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name)); err == nil {
			full = append(full, name)
		}
		return full
	}
	protoregistry.GlobalTypes.RangeMessages(func(t protoreflect.MessageType) bool {
		if string(t.Descriptor().Name()) == name {
			full = append(full, string(t.Descriptor().FullName()))
		}
		return true
	})
	return full
}

// run does what the machine wants until the call ends.
func (s *subscriber) run(ctx context.Context) error {
	for {
		if err := s.listen(); err != nil {
			return err
		}
		if err := s.askAll(); err != nil {
			return err
		}
		select {
		case <-s.g.stopping:
			return answer.Stopping()
		default:
		}
		a := s.machine.Next()
		switch {
		case a.Response != nil:
			s.g.metrics.subscriptionItems.Add(float64(len(a.Response.Items)))
			if err := s.srv.SendMsg(a.Response); err != nil {
				return answer.Routing(errors.Join(context.Canceled, err))
			}
		case a.Ended && a.Refusal != nil:
			return a.Refusal
		case a.Ended:
			return nil
		case a.Read != 0:
			if err := s.read(ctx, a); err != nil {
				return err
			}
		default:
			if err := s.askAll(); err != nil { // it may have come to the end of what is committed just now
				return err
			}
			if err := s.wait(ctx); err != nil {
				return err
			}
		}
	}
}

// listen tells the machine what shards said.
func (s *subscriber) listen() error {
	s.mu.Lock()
	told := s.told
	s.told = nil
	s.mu.Unlock()
	for _, shard := range told {
		r := s.reads[shard-1]
		s.reads[shard-1] = nil
		switch r.Failed {
		case actors.Folded:
			s.failed[shard-1] = 0
			s.machine.Committed(shard, r.Tail.Place)
		case actors.Unavailable: // it has no leader at the moment, and goes on where it was when it has one again
			n := s.failed[shard-1]
			s.failed[shard-1]++
			s.later[shard] = time.Now().Add(min(askAgain<<min(n, 10), askAgainMost))
		default:
			return answer.Outcome(r.Failed, r.Why).With("shard", strconv.FormatUint(shard, 10))
		}
	}
	return nil
}

// askAll asks the shards that the machine wants to hear of.
func (s *subscriber) askAll() error {
	for shard, when := range s.later {
		if !time.Now().Before(when) {
			delete(s.later, shard)
			if err := s.ask(shard); err != nil {
				return err
			}
		}
	}
	for _, shard := range s.machine.Asks() {
		if err := s.ask(shard); err != nil {
			return err
		}
	}
	return nil
}

// ask asks a shard how far it is committed. Where it was when the subscription began must be the latest; later, what one
// leader knew is enough.
func (s *subscriber) ask(shard uint64) error {
	r := &actors.Read{Stale: s.machine.Known(shard), Tail: &actors.Tail{After: s.machine.After(shard)}}
	r.Done = func(*actors.Read) {
		s.mu.Lock()
		s.told = append(s.told, shard)
		s.mu.Unlock()
		poke(s.wake)
	}
	s.reads[shard-1] = r
	if err := s.g.router.Read(shard, r); err != nil {
		s.reads[shard-1] = nil
		return answer.Routing(err)
	}
	return nil
}

// read reads entries for the machine.
func (s *subscriber) read(ctx context.Context, a subscription.Action) error {
	entries, behind, err := s.g.router.Entries(ctx, a.Read, a.After, a.Upto, subscription.PageBytes)
	var damaged *routing.EntryError
	switch {
	case errors.As(err, &damaged):
		s.g.log.Error("a subscription met an entry that cannot be read", "shard", damaged.Shard, "index", damaged.Index, "error", damaged.Err)
		s.machine.Took(a.Read, entries, behind, subscription.Damaged(damaged))
	case err != nil:
		return answer.Routing(err)
	default:
		s.machine.Took(a.Read, entries, behind, nil)
	}
	return nil
}

// wait waits until a shard tells something, or is to be asked again.
func (s *subscriber) wait(ctx context.Context) error {
	var again <-chan time.Time
	if len(s.later) > 0 {
		first := time.Now().Add(askAgainMost)
		for _, when := range s.later {
			if when.Before(first) {
				first = when
			}
		}
		t := time.NewTimer(time.Until(first))
		defer t.Stop()
		again = t.C
	}
	select {
	case <-s.wake:
	case <-again:
	case <-ctx.Done():
		return answer.Routing(ctx.Err())
	case <-s.g.stopping:
		return answer.Stopping()
	}
	return nil
}

// giveUp tells the shards that nobody waits any more.
func (s *subscriber) giveUp() {
	for i, r := range s.reads {
		if r != nil {
			s.g.router.GiveUpRead(uint64(i)+1, r)
		}
	}
}
