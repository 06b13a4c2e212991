package gateway

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/entry"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// historyEffect is an effect of a turn of a kind as the API of this version knows it, or nil.
func (g *Gateway) historyEffect(kind *grains.Definition, e *entry.Effect, format granaryv1.StateFormat) *granaryv1.HistoryEffect {
	switch e.Type {
	case entry.Send:
		if len(e.Token) > 0 {
			return g.answerEffect(e, format)
		}
		send := &granaryv1.SendEffect{Grain: e.Kind + "/" + string(e.Key), Type: e.Event}
		if format != granaryv1.StateFormat_STATE_FORMAT_JSON {
			send.PayloadProtobuf = e.Payload
		}
		if to, ok := g.opts.Catalog.Kind(e.Kind); ok && format != granaryv1.StateFormat_STATE_FORMAT_PROTOBUF {
			send.Payload = g.payloadJSON(to, e.Event, e.Payload)
		}
		return &granaryv1.HistoryEffect{Effect: &granaryv1.HistoryEffect_Send{Send: send}}
	case entry.Remind:
		remind := &granaryv1.RemindEffect{Id: e.Timer, Due: moment(e.Due), Every: apart(e.Every), Type: e.Event}
		if format != granaryv1.StateFormat_STATE_FORMAT_JSON {
			remind.PayloadProtobuf = e.Payload
		}
		if format != granaryv1.StateFormat_STATE_FORMAT_PROTOBUF {
			remind.Payload = g.payloadJSON(kind, e.Event, e.Payload)
		}
		return &granaryv1.HistoryEffect{Effect: &granaryv1.HistoryEffect_Remind{Remind: remind}}
	case entry.Cancel:
		return &granaryv1.HistoryEffect{Effect: &granaryv1.HistoryEffect_Cancel{Cancel: &granaryv1.CancelEffect{Id: e.Timer}}}
	case entry.Publish:
		publish := &granaryv1.PublishEffect{Stream: e.Stream, Type: e.Event}
		publish.Payload, publish.PayloadProtobuf = inFormat(e.Event, e.Payload, format)
		return &granaryv1.HistoryEffect{Effect: &granaryv1.HistoryEffect_Publish{Publish: publish}}
	case entry.Defer:
		return &granaryv1.HistoryEffect{Effect: &granaryv1.HistoryEffect_Defer{Defer: &granaryv1.DeferEffect{}}}
	}
	return nil
}

func (g *Gateway) answerEffect(e *entry.Effect, format granaryv1.StateFormat) *granaryv1.HistoryEffect {
	a := &granaryv1.AnswerEffect{Grain: e.Kind + "/" + string(e.Key), Type: e.Event}
	_, a.Seq, _ = grains.ParseToken(string(e.Token))
	a.Payload, a.PayloadProtobuf = inFormat(e.Event, e.Payload, format)
	return &granaryv1.HistoryEffect{Effect: &granaryv1.HistoryEffect_Answer{Answer: a}}
}

// apart is the time between the firings of a reminder, in microseconds; nil for one that fires once.
func apart(every int64) *durationpb.Duration {
	if every == 0 {
		return nil
	}
	return durationpb.New(time.Duration(every) * time.Microsecond)
}

// historyReply is a journaled reply; nil where there is none.
func historyReply(reply []byte, format granaryv1.StateFormat) *granaryv1.HistoryReply {
	a := replyAny(reply)
	if a == nil {
		return nil
	}
	out := &granaryv1.HistoryReply{Type: string(a.MessageName())}
	out.Payload, out.PayloadProtobuf = inFormat(out.Type, a.GetValue(), format)
	return out
}

// replyAny decodes a journaled reply; nil where there is none.
func replyAny(reply []byte) *anypb.Any {
	if len(reply) == 0 {
		return nil
	}
	a := &anypb.Any{}
	if proto.Unmarshal(reply, a) != nil {
		return nil
	}
	return a
}

// inFormat is a message that is no event of a kind, as it was asked for.
func inFormat(name string, payload []byte, format granaryv1.StateFormat) (asJSON *structpb.Struct, asProtobuf []byte) {
	if format != granaryv1.StateFormat_STATE_FORMAT_JSON {
		asProtobuf = payload
	}
	if format != granaryv1.StateFormat_STATE_FORMAT_PROTOBUF {
		asJSON = messageJSON(name, payload)
	}
	return asJSON, asProtobuf
}

// messageJSON is a message of any type that is compiled in, as JSON; nil for others.
func messageJSON(name string, payload []byte) *structpb.Struct {
	t, err := protoregistry.GlobalTypes.FindMessageByURL(name)
	if err != nil {
		return nil
	}
	m := t.New().Interface()
	if (proto.UnmarshalOptions{RecursionLimit: 64}).Unmarshal(payload, m) != nil {
		return nil
	}
	return toJSON(m)
}
