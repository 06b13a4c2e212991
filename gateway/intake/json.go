package intake

import (
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/granary-dev/granary/gateway/answer"
)

// maxExact is the largest integer up to which a JSON number, which is a float64, has all integers.
const maxExact = 1 << 53

// fromJSON decodes a payload from JSON: it is journaled as if it had come as protobuf, in deterministic wire form.
func fromJSON(s *structpb.Struct, t decoder, k *check) (msg proto.Message, payload []byte, bad *fault) {
	if bad := structure(s, t.Descriptor(), 1); bad != nil {
		return nil, nil, bad
	}
	text, err := protojson.Marshal(s)
	if err != nil {
		return nil, nil, &fault{what: clean(err)}
	}
	msg = t.New()
	if err := (protojson.UnmarshalOptions{RecursionLimit: 2 * MaxNesting}).Unmarshal(text, msg); err != nil {
		return nil, nil, &fault{what: clean(err)}
	}
	if payload, err = t.Append(nil, msg); err != nil {
		return nil, nil, &fault{what: clean(err)}
	}
	// JSON has ways to say NaN, too.
	return msg, payload, k.run(payload, 1)
}

// structure checks a JSON object that stands for a message: its depth, and what the JSON form of a number loses. d is nil
// where the JSON does not follow the fields of a message.
func structure(s *structpb.Struct, d protoreflect.MessageDescriptor, depth int) *fault {
	if depth > MaxNesting {
		return &fault{reason: answer.NestedTooDeep}
	}
	return members(s, depth, func(name string) protoreflect.FieldDescriptor { return fieldOf(d, name) })
}

// members checks the members of an object in the order of their names, so that the same mistake gets the same answer.
func members(s *structpb.Struct, depth int, field func(name string) protoreflect.FieldDescriptor) *fault {
	for _, name := range slices.Sorted(maps.Keys(s.GetFields())) {
		if bad := value(s.GetFields()[name], field(name), depth); bad != nil {
			return bad.in(answer.Text(name, 64))
		}
	}
	return nil
}

func fieldOf(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if d == nil {
		return nil
	}
	if f := d.Fields().ByJSONName(name); f != nil {
		return f
	}
	return d.Fields().ByTextName(name)
}

func value(v *structpb.Value, f protoreflect.FieldDescriptor, depth int) *fault {
	switch v := v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		if bad := finite(v.NumberValue); bad != nil {
			return bad
		}
		if f != nil && integer(f.Kind()) && math.Abs(v.NumberValue) > maxExact {
			return &fault{what: "integers beyond 2^53 lose digits as JSON numbers; write them as strings"}
		}
	case *structpb.Value_StructValue:
		switch {
		case f != nil && f.IsMap():
			return mapping(v.StructValue, f.MapValue(), depth+1)
		case f != nil && f.Message() != nil:
			return structure(v.StructValue, f.Message(), depth+1)
		}
		return structure(v.StructValue, nil, depth+1)
	case *structpb.Value_ListValue:
		if depth+1 > MaxNesting {
			return &fault{reason: answer.NestedTooDeep}
		}
		for _, item := range v.ListValue.GetValues() {
			if bad := value(item, f, depth+1); bad != nil {
				return bad
			}
		}
	}
	return nil
}

func mapping(s *structpb.Struct, f protoreflect.FieldDescriptor, depth int) *fault {
	if depth > MaxNesting {
		return &fault{reason: answer.NestedTooDeep}
	}
	return members(s, depth, func(string) protoreflect.FieldDescriptor { return f })
}

func integer(k protoreflect.Kind) bool {
	switch k {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind, protoreflect.Uint32Kind,
		protoreflect.Fixed32Kind, protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind,
		protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return true
	}
	return false
}
