package grainstest

import (
	"bytes"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/grains"
)

// ask puts a question to the grain as it is, with a copy of its state, twice. It fails where the kind breaks a promise:
// where the answers differ, or the state or the question is changed.
func (g *grain) ask(q *grains.QueryType, question proto.Message, now time.Time) (reply proto.Message, refused error, err error) {
	asked, err := q.Append(nil, question)
	if err != nil {
		return nil, nil, err
	}
	var first []byte
	for again := range 2 {
		state, err := g.kind.DecodeState(g.wire)
		if err != nil {
			return nil, nil, err
		}
		msg, err := q.Decode(asked)
		if err != nil {
			return nil, nil, err
		}
		before := reply
		was := refused
		reply, refused = q.Ask(&grains.View{Grain: g.ref, Seq: g.seq, Now: now.UTC()}, state, msg)
		var wire []byte
		if refused == nil {
			if wire, err = q.Reply.Append(nil, reply); err != nil {
				return nil, nil, fmt.Errorf("the answer to %s cannot be encoded: %w", q.Name, err)
			}
		} else if _, rejected := grains.Rejection(refused); !rejected {
			return nil, nil, fmt.Errorf("the query %s fails: %w", q.Name, refused)
		}
		if kept, err := g.kind.AppendState(nil, state); err != nil || !bytes.Equal(kept, g.wire) {
			return nil, nil, fmt.Errorf("the query %s changes the state", q.Name)
		}
		if kept, err := q.Append(nil, msg); err != nil || !bytes.Equal(kept, asked) {
			return nil, nil, fmt.Errorf("the query %s changes the question", q.Name)
		}
		if again == 0 {
			first = wire
			continue
		}
		if verdict(was) != verdict(refused) || !bytes.Equal(first, wire) {
			return nil, nil, fmt.Errorf("the query %s gives two answers to one question:\n  %s\n  %s", q.Name, answerText(before, was), answerText(reply, refused))
		}
	}
	return reply, refused, nil
}

func answerText(reply proto.Message, refused error) string {
	if refused != nil {
		return verdict(refused)
	}
	return string(jsonText(reply))
}

// checkQueries puts every question of the suite, and the empty one of each query, to the grain after each event.
func checkQueries(s Suite, events []Event) error {
	questions := s.Questions
	for _, q := range s.Kind.Queries() {
		questions = append(questions, q.New())
	}
	if len(questions) == 0 {
		return nil
	}
	g := s.newGrain()
	ask := func(after string) error {
		for _, question := range questions {
			name := string(question.ProtoReflect().Descriptor().FullName())
			q, ok := s.Kind.Query(name)
			if !ok {
				return fmt.Errorf("the kind %q has no query %s", s.Kind.Name, name)
			}
			if _, _, err := g.ask(q, question, g.now.Add(time.Minute)); err != nil {
				return fmt.Errorf("%s: %w", after, err)
			}
		}
		return nil
	}
	if err := ask("before the first event"); err != nil {
		return err
	}
	for i, e := range events {
		if _, err := g.turn(e); err != nil {
			return err
		}
		if err := ask(fmt.Sprintf("after event %d", i+1)); err != nil {
			return err
		}
	}
	return nil
}
