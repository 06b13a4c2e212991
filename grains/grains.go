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
package grains

import (
	"errors"
	"fmt"
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
	// Handlers, one for each event type.
	Handlers Handlers[S]
}

// Handlers are the handlers of one kind.
type Handlers[S proto.Message] []Handler[S]

// Handler is one typed event handler, made by [On].
type Handler[S proto.Message] struct {
	event  protoreflect.MessageType
	handle func(t *Turn, state, event proto.Message) error
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
// version is 0, or two handlers take the same event.
func (k Kind[S]) Define() (*Definition, error) {
	if !validName(k.Name) {
		return nil, fmt.Errorf("kind %q: the name must be a lower-case letter followed by up to 63 of a-z, 0-9, '-' and '_'", k.Name)
	}
	if k.Version == 0 {
		return nil, fmt.Errorf("kind %q: the version starts at 1", k.Name)
	}
	if len(k.Handlers) == 0 {
		return nil, fmt.Errorf("kind %q: no handlers", k.Name)
	}
	if k.SnapshotEvery < 0 || k.IDWindow < 0 {
		return nil, fmt.Errorf("kind %q: SnapshotEvery and IDWindow must not be negative", k.Name)
	}
	var s S
	d := &Definition{
		Name: k.Name, Version: k.Version, Doc: k.Doc,
		SnapshotEvery: k.SnapshotEvery, IDWindow: k.IDWindow,
		state:  newMessageType(s.ProtoReflect().Type()),
		byName: map[string]*EventType{},
	}
	if d.SnapshotEvery == 0 {
		d.SnapshotEvery = DefaultSnapshotEvery
	}
	if d.IDWindow == 0 {
		d.IDWindow = DefaultIDWindow
	}
	for _, h := range k.Handlers {
		e := &EventType{messageType: newMessageType(h.event), handle: h.handle}
		if _, twice := d.byName[e.Name]; twice {
			return nil, fmt.Errorf("kind %q: two handlers for %s", k.Name, e.Name)
		}
		d.events = append(d.events, e)
		d.byName[e.Name] = e
	}
	sort.Slice(d.events, func(i, j int) bool { return d.events[i].Name < d.events[j].Name })
	for _, e := range d.events {
		short := string(e.Descriptor().Name())
		if _, taken := d.byName[short]; taken {
			return nil, fmt.Errorf("kind %q: two events are called %s", k.Name, short)
		}
		d.byName[short] = e
	}
	return d, nil
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
