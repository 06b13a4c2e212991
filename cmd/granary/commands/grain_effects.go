package commands

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/types/known/structpb"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// effectJSON is the form of an effect under -o json: one of these.
type effectJSON struct {
	Send    *sendJSON   `json:"send,omitempty"`
	Remind  *remindJSON `json:"remind,omitempty"`
	Cancel  *cancelJSON `json:"cancel,omitempty"`
	Publish *streamJSON `json:"publish,omitempty"`
	Defer   *struct{}   `json:"defer,omitempty"`
	Answer  *answerJSON `json:"answer,omitempty"`
}

type messageJSON struct {
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

type sendJSON struct {
	Grain string `json:"grain"`
	messageJSON
}

type remindJSON struct {
	ID    uint64 `json:"id"`
	Due   string `json:"due"`
	Every string `json:"every,omitempty"`
	messageJSON
}

type cancelJSON struct {
	ID uint64 `json:"id"`
}

type streamJSON struct {
	Stream string `json:"stream"`
	messageJSON
}

type answerJSON struct {
	Grain string `json:"grain"`
	Seq   uint64 `json:"seq"`
	messageJSON
}

func payloadOf(s *structpb.Struct) json.RawMessage {
	if s == nil {
		return nil
	}
	return object(s)
}

func effectOf(e *granaryv1.HistoryEffect) (out effectJSON) {
	switch e := e.GetEffect().(type) {
	case *granaryv1.HistoryEffect_Send:
		out.Send = &sendJSON{e.Send.GetGrain(), messageJSON{e.Send.GetType(), payloadOf(e.Send.GetPayload())}}
	case *granaryv1.HistoryEffect_Remind:
		out.Remind = &remindJSON{ID: e.Remind.GetId(), Due: jsonTime(e.Remind.GetDue()), messageJSON: messageJSON{e.Remind.GetType(), payloadOf(e.Remind.GetPayload())}}
		if every := e.Remind.GetEvery(); every != nil {
			out.Remind.Every = every.AsDuration().String()
		}
	case *granaryv1.HistoryEffect_Cancel:
		out.Cancel = &cancelJSON{e.Cancel.GetId()}
	case *granaryv1.HistoryEffect_Publish:
		out.Publish = &streamJSON{e.Publish.GetStream(), messageJSON{e.Publish.GetType(), payloadOf(e.Publish.GetPayload())}}
	case *granaryv1.HistoryEffect_Defer:
		out.Defer = &struct{}{}
	case *granaryv1.HistoryEffect_Answer:
		out.Answer = &answerJSON{e.Answer.GetGrain(), e.Answer.GetSeq(), messageJSON{e.Answer.GetType(), payloadOf(e.Answer.GetPayload())}}
	}
	return out
}

// effectText is an effect in a few words.
func effectText(e *granaryv1.HistoryEffect) string {
	switch e := e.GetEffect().(type) {
	case *granaryv1.HistoryEffect_Send:
		return lastPart(e.Send.GetType()) + " to " + e.Send.GetGrain()
	case *granaryv1.HistoryEffect_Remind:
		text := fmt.Sprintf("remind %d: %s at %s", e.Remind.GetId(), lastPart(e.Remind.GetType()), timeText(e.Remind.GetDue()))
		if every := e.Remind.GetEvery(); every != nil {
			text += " every " + every.AsDuration().String()
		}
		return text
	case *granaryv1.HistoryEffect_Cancel:
		return fmt.Sprintf("cancel %d", e.Cancel.GetId())
	case *granaryv1.HistoryEffect_Publish:
		return lastPart(e.Publish.GetType()) + " into " + e.Publish.GetStream()
	case *granaryv1.HistoryEffect_Defer:
		return "defer"
	case *granaryv1.HistoryEffect_Answer:
		return fmt.Sprintf("answer %s to %s #%d", lastPart(e.Answer.GetType()), e.Answer.GetGrain(), e.Answer.GetSeq())
	}
	return "something that this version does not know"
}
