// Package grains is what the author of a kind writes against: typed, deterministic handlers over protobuf state.
//
// Here live the declaration of a kind ([Kind], [On]), the turn a handler sees ([Turn]), the error that refuses an event
// ([Reject]), and the type-erased form the runtime works with ([Definition], [Runner]). Here never live I/O, clocks,
// goroutines, stores or loggers: this package imports the standard library and protobuf only, and so may be used
// outside a cluster, in a test or a notebook.
//
// Invariant: a handler's outcome (new state, effects, error) is a function of the state, the event and the turn alone.
// Whatever a handler may look at comes from the [Turn]; replaying a journal through the same handlers gives the same
// state, byte for byte.
//
// # Raising a version
//
// Records keep the version that ran, and are folded by it for ever. So when a handler is to compute something else:
//
//  1. copy the handlers that change and give the copies the name of their version: charged becomes chargedV2;
//  2. list them, with the unchanged ones, under Earlier: {Version: 2, Handlers: {On(chargedV2), On(labelled)}};
//  3. change charged, and raise Version to 3;
//  4. start the new binary: each grain is snapshotted by the logic it had, before it runs under the new one;
//  5. keep the old logic until every node has logged that the cut is done; longer, if somebody reads states of the past
//     (at_seq, at_time) from before it.
//
// The state stays the same protobuf message through all versions: fields are added, never given another meaning. A node
// that meets records of a version it lacks, with no snapshot behind them, does not lead their shard; nor does one whose
// version is below the journal's.
package grains

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Defaults of a kind's settings.
const (
	// DefaultSnapshotEvery is after how many records since the last snapshot a grain is snapshotted again.
	DefaultSnapshotEvery = 64
	// DefaultIDWindow is how long event ids are remembered, in journal time.
	DefaultIDWindow = 24 * time.Hour
)

// Kind declares one sort of grain: its name, its state S and what it does with each event. The zero values of the
// optional fields mean the defaults. A Kind is a value without behaviour; [Kind.Define] turns it into what the runtime
// runs.
type Kind[S proto.Message] struct {
	// Name of the kind, as in "name/key": a lower-case letter, then lower-case letters, digits, '-' or '_'; at most 64.
	Name string
	// Version of the logic, from 1. Raise it when a handler computes something else than before.
	Version uint32
	// Doc is one sentence for `granary kind ls`.
	Doc string
	// SnapshotEvery is the number of records after which a snapshot is taken. 0 means [DefaultSnapshotEvery].
	SnapshotEvery int
	// IDWindow is how long event ids are remembered, in journal time. 0 means [DefaultIDWindow].
	IDWindow time.Duration
	// Handlers, one for each type of event or query.
	Handlers Handlers[S]
	// Streams that turns of the kind may publish to, by name: 1 to 128 of a-z, 0-9, '.', '-' and '_', beginning with a
	// letter. Kinds may share a stream. A name stays as long as earlier versions publish to it.
	Streams []string
	// Earlier versions of the logic, each beside the handlers it had. They fold the records that they made, and nothing
	// else: see "Raising a version".
	Earlier []Logic[S]
}

// Logic is the logic of a kind as it was in an earlier version: for replay only.
type Logic[S proto.Message] struct {
	// Version that it was, below the kind's present one.
	Version uint32
	// Handlers of that version. Those that did not change may be shared with other versions.
	Handlers Handlers[S]
}

// Handlers are the handlers of one kind.
type Handlers[S proto.Message] []Handler[S]

// Handler is one typed handler, made by [On] or [Query].
type Handler[S proto.Message] struct {
	event  protoreflect.MessageType
	handle func(t *Turn, state, event proto.Message) error // nil for a query
	query  func(v *View, state, query proto.Message) (proto.Message, error)
	reply  protoreflect.MessageType // of a query
}

// On makes a handler out of a function over the kind's state S and one event message E.
//
// The function folds e into s. It refuses the event by returning [Reject] before it changes s. Any other error, or a
// panic, dead-letters the event: the state is restored and the publisher is told.
func On[S, E proto.Message](fn func(t *Turn, s S, e E) error) Handler[S] {
	var e E
	return Handler[S]{
		event: e.ProtoReflect().Type(),
		handle: func(t *Turn, state, event proto.Message) error {
			return fn(t, state.(S), event.(E))
		},
	}
}

// Define checks the declaration and returns what the runtime runs. It fails when the name is not well-formed, the
// version is 0, two handlers of a version take the same message, a stream has no proper name, or the earlier versions are not distinct and below the
// present one.
func (k Kind[S]) Define() (*Definition, error) {
	if !validName(k.Name) {
		return nil, fmt.Errorf("kind %q: the name must be a lower-case letter followed by up to 63 of a-z, 0-9, '-' and '_'", k.Name)
	}
	if k.Version == 0 {
		return nil, fmt.Errorf("kind %q: the version starts at 1", k.Name)
	}
	if k.SnapshotEvery < 0 || k.IDWindow < 0 {
		return nil, fmt.Errorf("kind %q: SnapshotEvery and IDWindow must not be negative", k.Name)
	}
	var s S
	d := &Definition{
		Name: k.Name, Version: k.Version, Doc: k.Doc,
		SnapshotEvery: k.SnapshotEvery, IDWindow: k.IDWindow,
		state: newMessageType(s.ProtoReflect().Type()),
	}
	if d.SnapshotEvery == 0 {
		d.SnapshotEvery = DefaultSnapshotEvery
	}
	if d.IDWindow == 0 {
		d.IDWindow = DefaultIDWindow
	}
	if err := k.Handlers.define(d); err != nil {
		return nil, err
	}
	for _, name := range k.Streams {
		if !validStream(name) || slices.Contains(d.streams, name) {
			return nil, fmt.Errorf("kind %q: %q is no name for a stream, or is there twice: want 1 to 128 of a-z, 0-9, '.', '-' and '_', beginning with a letter", k.Name, clip(name))
		}
		d.streams = append(d.streams, name)
	}
	slices.Sort(d.streams)
	for _, l := range k.Earlier {
		if l.Version == 0 || l.Version >= k.Version {
			return nil, fmt.Errorf("kind %q: an earlier version is %d; it must be from 1 to %d, below the present one", k.Name, l.Version, k.Version-1)
		}
		if _, twice := d.At(l.Version); twice {
			return nil, fmt.Errorf("kind %q: version %d is there twice", k.Name, l.Version)
		}
		old := *d
		old.Version, old.earlier = l.Version, nil
		if err := l.Handlers.define(&old); err != nil {
			return nil, fmt.Errorf("version %d of %w", l.Version, err)
		}
		d.earlier = append(d.earlier, &old)
	}
	sort.Slice(d.earlier, func(i, j int) bool { return d.earlier[i].Version < d.earlier[j].Version })
	return d, nil
}

// define makes these the handlers of a definition.
func (hs Handlers[S]) define(d *Definition) error {
	if len(hs) == 0 {
		return fmt.Errorf("kind %q: no handlers", d.Name)
	}
	d.events, d.byName, d.queries = nil, map[string]*EventType{}, nil
	for _, h := range hs {
		if h.query != nil {
			q := &QueryType{messageType: newMessageType(h.event), Reply: newMessageType(h.reply), ask: h.query}
			for _, other := range d.queries {
				if other.Name == q.Name || other.short() == q.short() {
					return fmt.Errorf("kind %q: two queries are called %s", d.Name, q.short())
				}
			}
			d.queries = append(d.queries, q)
			continue
		}
		e := &EventType{messageType: newMessageType(h.event), handle: h.handle, kind: d}
		if _, twice := d.byName[e.Name]; twice {
			return fmt.Errorf("kind %q: two handlers for %s", d.Name, e.Name)
		}
		d.events = append(d.events, e)
		d.byName[e.Name] = e
	}
	if len(d.events) == 0 {
		return fmt.Errorf("kind %q: no handlers of events", d.Name)
	}
	sort.Slice(d.queries, func(i, j int) bool { return d.queries[i].Name < d.queries[j].Name })
	sort.Slice(d.events, func(i, j int) bool { return d.events[i].Name < d.events[j].Name })
	for _, e := range d.events {
		short := string(e.Descriptor().Name())
		if _, taken := d.byName[short]; taken {
			return fmt.Errorf("kind %q: two events are called %s", d.Name, short)
		}
		d.byName[short] = e
	}
	return nil
}

// MustDefine is [Kind.Define] for package variables: it panics where Define fails.
func (k Kind[S]) MustDefine() *Definition {
	d, err := k.Define()
	if err != nil {
		panic(err)
	}
	return d
}

// rejection is the error of [Reject].
type rejection struct{ reason string }

func (r *rejection) Error() string { return r.reason }

// Reject is the error by which a handler refuses an event. It must be returned before the state is changed and before
// anything is sent. The refusal is journaled, so that a retry of the event gets the same answer.
func Reject(reason string) error { return &rejection{reason} }

// Rejectf is [Reject] with a format.
func Rejectf(format string, args ...any) error { return &rejection{fmt.Sprintf(format, args...)} }

// Rejection tells whether err is a [Reject], and its reason.
func Rejection(err error) (reason string, ok bool) {
	if err == nil {
		return "", false // the usual case, on the path of every event
	}
	var r *rejection
	if errors.As(err, &r) {
		return r.reason, true
	}
	return "", false
}
