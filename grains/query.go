package grains

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
)

// View is what a query sees of the world beside the state. It is valid during the call only.
type View struct {
	// Grain that is asked.
	Grain Ref
	// Seq of its last record that is in the state; 0 if it has none.
	Seq uint64
	// Now is the node's clock when the state was read or, for a state of the past, the moment that was asked for.
	Now time.Time
}

// Query makes a handler out of a function that answers a question Q about a state S with R. It is pure: it changes
// nothing, sends nothing, and nothing of it is journaled; it gets a copy of the state. It refuses a question by returning
// [Reject].
func Query[S, Q, R proto.Message](fn func(v *View, s S, q Q) (R, error)) Handler[S] {
	var q Q
	var r R
	return Handler[S]{
		event: q.ProtoReflect().Type(), reply: r.ProtoReflect().Type(),
		query: func(v *View, state, query proto.Message) (proto.Message, error) {
			return fn(v, state.(S), query.(Q))
		},
	}
}

// QueryType is one question that a kind answers.
type QueryType struct {
	messageType
	// Reply describes the answer.
	Reply messageType
	ask   func(v *View, state, query proto.Message) (proto.Message, error)
}

// short is the last part of the name.
func (q *QueryType) short() string { return string(q.Descriptor().Name()) }

// Ask runs the query. A panic of its handler is returned as [*Panicked].
func (q *QueryType) Ask(v *View, state, query proto.Message) (reply proto.Message, err error) {
	defer func() {
		if p := recover(); p != nil {
			reply, err = nil, &Panicked{p}
		}
	}()
	if reply, err = q.ask(v, state, query); err != nil {
		return nil, err
	}
	if reply == nil || !reply.ProtoReflect().IsValid() {
		return nil, fmt.Errorf("the query %s has no answer", q.Name)
	}
	return reply, nil
}

// Queries are the questions that the kind answers, in the order of their full names.
func (d *Definition) Queries() []*QueryType { return d.queries }

// Query finds a query by its full name or by its last part.
func (d *Definition) Query(name string) (*QueryType, bool) {
	for _, q := range d.queries {
		if q.Name == name || q.short() == name {
			return q, true
		}
	}
	return nil, false
}
