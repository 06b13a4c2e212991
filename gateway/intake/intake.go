// Package intake turns what clients send into what shards take: it checks every event, decodes its payload, and sorts a
// batch by shard.
//
// Here live all limits on events ([MaxEvents], [MaxBytes], …), the check of payloads on the wire, and the form a batch has
// between the gateway and the shards ([Group], [Part]). Here never live calls, streams, clocks or goroutines: a request
// and the time go in, a group comes out.
//
// Invariant: what comes out can be journaled and shown again. Its payload decodes by the type's own rules, every string
// in it is UTF-8, no number in it is NaN or infinite, and it nests at most 64 levels; so no turn, replay or history page
// ever meets bytes that a client should have been told about. What does not come out gets a refusal that names the field.
package intake

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/entry"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Limits on events. They are part of the public API.
const (
	// MaxEvents of one batch.
	MaxEvents = 1000
	// MaxBytes of the events of one batch, on the wire.
	MaxBytes = 4 << 20
	// MaxIDBytes of an id, MaxSourceBytes of a source.
	MaxIDBytes     = 256
	MaxSourceBytes = 256
	// MaxHeaders of one event, and the bytes of their names and values.
	MaxHeaders          = 32
	MaxHeaderNameBytes  = 128
	MaxHeaderValueBytes = 1 << 10
	// MaxAhead is how far in the future an event's time may be, for clocks that go wrong a little.
	MaxAhead = 5 * time.Minute
	// MaxNesting is how many levels the messages of a payload may nest.
	MaxNesting = 64
)

// Intake checks and sorts. It is immutable and safe for concurrent use.
type Intake struct {
	catalog   *grains.Catalog
	table     routing.Table
	checks    map[*grains.EventType]*check
	questions map[*grains.QueryType]*check
}

// New returns the intake of a cluster's kinds and shards.
func New(catalog *grains.Catalog, table routing.Table) *Intake {
	in := &Intake{catalog: catalog, table: table, checks: map[*grains.EventType]*check{}, questions: map[*grains.QueryType]*check{}}
	c := compiler{}
	for _, k := range catalog.Kinds() {
		for _, e := range k.Events() {
			in.checks[e] = c.compile(e.Descriptor())
		}
		for _, q := range k.Queries() {
			in.questions[q] = c.compile(q.Descriptor())
		}
	}
	return in
}

// Request is a batch as it came from a client.
type Request struct {
	// Events in order. They are not kept, but their strings and bytes are: nobody may change those any more.
	Events []*granaryv1.Event
	// Bytes is the size of the message they came in.
	Bytes int
	// Deep are the places of the events whose JSON payload was cut out by [CutDeep], in order.
	Deep []int32
	// FirstSequence is the producer's sequence of the first event; 0 outside a session.
	FirstSequence uint64
}

// Take fills an empty group with a request. It returns a refusal, and leaves the group empty, when the batch as a whole
// is not acceptable. Otherwise each event is either in a part of the group or among its refused.
func (in *Intake) Take(req *Request, now time.Time, g *Group) *answer.Refusal {
	if r := checkBatch(req); r != nil {
		return r
	}
	horizon := now.Add(MaxAhead)
	g.begin(len(req.Events), in.table.Len(), func(i int) uint64 {
		// Not checked yet: what is no grain has a shard too, and is refused below.
		kind, key, _ := strings.Cut(req.Events[i].GetGrain(), "/")
		return in.table.Shard("", kind, key)
	})
	deep := req.Deep
	for i, e := range req.Events {
		at, out := g.slot(i)
		var r *answer.Refusal
		if len(deep) > 0 && deep[0] == int32(i) {
			deep = deep[1:]
			r = tooDeep("payload")
		} else {
			r = in.event(e, horizon, out)
		}
		if r != nil {
			g.refuse(i, at, r)
		} else if req.FirstSequence != 0 {
			out.Sequence = req.FirstSequence + uint64(i)
		}
	}
	g.divide()
	return nil
}

func checkBatch(req *Request) *answer.Refusal {
	switch n := len(req.Events); {
	case n == 0:
		return answer.Invalid(answer.EmptyBatch, "events", "there are none; want 1 to %d", MaxEvents)
	case n > MaxEvents:
		return answer.Invalid(answer.TooManyEvents, "events", "there are %d; at most %d are allowed in one batch", n, MaxEvents)
	}
	if req.Bytes <= MaxBytes {
		return nil
	}
	size := 0
	for _, e := range req.Events {
		size += e.SizeVT()
	}
	if size <= MaxBytes {
		return nil
	}
	return TooLarge("events", size)
}

// TooLarge is the refusal of a batch of too many bytes.
func TooLarge(field string, bytes int) *answer.Refusal {
	return answer.Invalid(answer.RequestTooLarge, field, "they take %d bytes; at most %d are allowed in one batch", bytes, MaxBytes)
}

func tooDeep(field string) *answer.Refusal {
	return answer.Invalid(answer.NestedTooDeep, field, "it nests deeper than %d levels", MaxNesting)
}

// event checks one event and writes it to out. The fields of a refusal are relative to the event.
func (in *Intake) event(e *granaryv1.Event, horizon time.Time, out *actors.Event) *answer.Refusal {
	if e.GetTenant() != "" {
		return answer.Invalid(answer.TenantNotSupported, "tenant", "tenants are not supported yet; leave it empty")
	}
	kind, key, r := in.Grain("grain", e.GetGrain())
	if r != nil {
		return r
	}
	typ, ok := kind.Event(e.GetType())
	if !ok {
		return unknownType(kind, e.GetType())
	}
	if !Plain(e.GetId(), MaxIDBytes) {
		return answer.Invalid(answer.InvalidID, "id", "%s", notPlain(e.GetId(), MaxIDBytes))
	}
	if !Plain(e.GetSource(), MaxSourceBytes) {
		return answer.Invalid(answer.InvalidSource, "source", "%s", notPlain(e.GetSource(), MaxSourceBytes))
	}
	*out = actors.Event{Kind: kind, Type: typ, ID: e.GetId(), Source: e.GetSource()}
	if t := e.GetTime(); t != nil {
		if out.Time, r = eventTime(t, horizon); r != nil {
			return r
		}
	}
	if len(e.GetHeaders()) > 0 {
		if out.Headers, r = headers(e.GetHeaders()); r != nil {
			return r
		}
	}
	if r := in.payload(e, out); r != nil {
		return r
	}
	// The grain stays in memory under this name, and must not keep the whole request there with it.
	out.Key = strings.Clone(key)
	return nil
}

// Grain checks the name of a grain and finds its kind. field is where the name stands in the request.
func (in *Intake) Grain(field, name string) (*grains.Definition, string, *answer.Refusal) {
	kindName, key, ok := strings.Cut(name, "/")
	if kind, known := in.catalog.Kind(kindName); ok && known {
		if key != "" && Plain(key, grains.MaxKeyBytes) {
			return kind, key, nil
		}
	}
	// Now it takes longer: something is wrong, and the text has to say what.
	if _, err := grains.ParseRef(name); err != nil {
		return nil, "", answer.Invalid(answer.InvalidGrain, field, "%v", err)
	}
	_, r := in.Kind(field, kindName)
	return nil, "", r
}

// Kind finds a kind. field is where its name stands in the request.
func (in *Intake) Kind(field, name string) (*grains.Definition, *answer.Refusal) {
	if kind, ok := in.catalog.Kind(name); ok {
		return kind, nil
	}
	var known []string
	for _, k := range in.catalog.Kinds() {
		known = append(known, k.Name)
	}
	list := strings.Join(known, ", ")
	return nil, answer.InvalidCode(codes.NotFound, answer.UnknownKind, field, "this cluster runs no kind %q; it runs %s",
		answer.Text(name, 64), list).With("kind", answer.Text(name, 64)).With("kinds", list)
}

func unknownType(kind *grains.Definition, name string) *answer.Refusal {
	var known []string
	for _, e := range kind.Events() {
		known = append(known, e.Name)
	}
	list := strings.Join(known, ", ")
	return answer.Invalid(answer.UnknownEventType, "type", "kind %q takes no event %q; it takes %s", kind.Name,
		answer.Text(name, 64), list).With("kind", kind.Name).With("type", answer.Text(name, 64)).With("types", list)
}

// Plain tells whether s is at most max bytes of UTF-8 without control characters.
func Plain(s string, max int) bool {
	if len(s) > max {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f {
			return plainUnicode(s)
		}
	}
	return true
}

func plainUnicode(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// notPlain says in words why a string is not plain.
func notPlain(s string, max int) string {
	switch {
	case len(s) > max:
		return "it is too long; at most " + decimal(max) + " bytes are allowed"
	case !utf8.ValidString(s):
		return "it is not UTF-8"
	default:
		return "it has a control character at byte " + decimal(strings.IndexFunc(s, unicode.IsControl))
	}
}

// eventTime returns a time in Unix nanoseconds. The shard takes 0 for "not given", so the epoch itself becomes the
// nanosecond after it.
func eventTime(t *timestamppb.Timestamp, horizon time.Time) (int64, *answer.Refusal) {
	if t.GetNanos() < 0 || t.GetNanos() >= 1e9 {
		return 0, answer.Invalid(answer.InvalidTime, "time", "nanos must be 0 to 999999999, not %d", t.GetNanos())
	}
	if t.GetSeconds() < 0 {
		return 0, answer.Invalid(answer.InvalidTime, "time", "it is before 1970")
	}
	if s := t.GetSeconds(); s > horizon.Unix() || s == horizon.Unix() && int(t.GetNanos()) > horizon.Nanosecond() {
		return 0, answer.Invalid(answer.InvalidTime, "time", "it is more than %v in the future; compare the publisher's clock with this node's", MaxAhead)
	}
	return max(t.GetSeconds()*1e9+int64(t.GetNanos()), 1), nil
}

// headers returns the headers in the order of their names, so that the same event is journaled as the same bytes.
func headers(h map[string]string) ([]entry.Attribute, *answer.Refusal) {
	if len(h) > MaxHeaders {
		return nil, answer.Invalid(answer.InvalidHeaders, "headers", "there are %d; at most %d are allowed", len(h), MaxHeaders)
	}
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make([]entry.Attribute, 0, len(h))
	for _, name := range names {
		value := h[name]
		switch {
		case name == "" || !Plain(name, MaxHeaderNameBytes):
			return nil, answer.Invalid(answer.InvalidHeaders, "headers", "the name %q is not 1 to %d bytes of UTF-8 without control characters",
				answer.Text(name, 64), MaxHeaderNameBytes)
		case len(value) > MaxHeaderValueBytes:
			return nil, answer.Invalid(answer.InvalidHeaders, "headers["+name+"]", "it has %d bytes; at most %d are allowed", len(value), MaxHeaderValueBytes)
		case !utf8.ValidString(value):
			return nil, answer.Invalid(answer.InvalidHeaders, "headers["+name+"]", "it is not UTF-8")
		}
		out = append(out, entry.Attribute{Name: []byte(name), Value: []byte(value)})
	}
	return out, nil
}

// payload decodes the payload of an event.
func (in *Intake) payload(e *granaryv1.Event, out *actors.Event) *answer.Refusal {
	var bad *fault
	switch p := e.GetPayload().(type) {
	case *granaryv1.Event_Protobuf:
		out.Message, bad = fromProtobuf(p.Protobuf, out.Type, out.Type.Name, in.checks[out.Type])
		out.Payload = p.Protobuf
	case *granaryv1.Event_Json:
		out.Message, out.Payload, bad = fromJSON(p.Json, out.Type, in.checks[out.Type])
	default:
		return answer.Invalid(answer.PayloadMissing, "payload", "it is missing; set protobuf or json, to an empty value if the event has no fields")
	}
	if bad == nil {
		return nil
	}
	return bad.refusal("payload", out.Type.Name)
}

// decoder is a type of message, of an event or a question.
type decoder interface {
	Descriptor() protoreflect.MessageDescriptor
	New() proto.Message
	Append(dst []byte, msg proto.Message) ([]byte, error)
	Decode(data []byte) (proto.Message, error)
}

// fromProtobuf decodes a payload from its wire form.
func fromProtobuf(data []byte, t decoder, name string, k *check) (proto.Message, *fault) {
	if bad := k.run(data, 1); bad != nil {
		return nil, bad
	}
	msg, err := t.Decode(data)
	if err != nil {
		return nil, &fault{what: strings.TrimPrefix(clean(err), "not a "+name+": ")}
	}
	return msg, nil
}
