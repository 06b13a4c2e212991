package intake

import (
	"encoding/binary"
	"math"
	"regexp"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/granary-dev/granary/gateway/answer"
)

// fault is what is wrong with a payload.
type fault struct {
	// path to the field inside the payload, outermost first; empty for the payload as a whole.
	path string
	what string
	// reason, if it is another than INVALID_PAYLOAD.
	reason string
}

func (f *fault) in(field string) *fault {
	if f.path == "" {
		f.path = field
	} else {
		f.path = field + "." + f.path
	}
	return f
}

// refusal is what is wrong with a message of a type, in a field of the request.
func (f *fault) refusal(field, typ string) *answer.Refusal {
	reason := f.reason
	if reason == "" {
		reason = answer.InvalidPayload
	}
	if reason == answer.NestedTooDeep {
		return tooDeep(field).With("type", typ)
	}
	r := answer.Invalid(reason, field, "not a %s: %s", typ, f.what)
	if f.path != "" {
		path := answer.Text(f.path, 96)
		r = answer.Invalid(reason, field, "not a %s: field %s: %s", typ, path, f.what).With("field", path)
	}
	return r.With("type", typ)
}

// place is where the JSON decoder was; it read a text that the client never saw.
var place = regexp.MustCompile(`\s*\(line \d+:\d+\):?\s*`)

// clean makes an error of the protobuf packages readable: they begin with their name and a no-break space.
func clean(err error) string {
	s := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	if _, rest, ok := strings.Cut(s, "proto: "); ok {
		s = rest
	}
	return strings.TrimSpace(place.ReplaceAllString(s, " "))
}

// A check looks at the wire form of one message type for what decoding lets pass: strings that are not UTF-8, numbers that
// are none, and nesting without end. It does so before anything is decoded, along a table made from the descriptor.
type check struct {
	fields []fieldCheck         // by number, as far as numbers are small
	far    map[int32]fieldCheck // the others
	// blind checks find nothing: the message holds only integers and bytes.
	blind bool
}

type fieldCheck struct {
	kind  checkKind
	group bool // a message in the old form with a tag at either end
	name  string
	sub   *check
}

type checkKind uint8

const (
	unchecked checkKind = iota
	checkText
	checkFloat
	checkDouble
	checkMessage
)

// near is the largest field number that is looked up by index.
const near = 31

// compiler makes checks; messages may contain each other.
type compiler map[protoreflect.FullName]*check

func (c compiler) compile(d protoreflect.MessageDescriptor) *check {
	if k, ok := c[d.FullName()]; ok {
		return k
	}
	k := &check{blind: true}
	c[d.FullName()] = k
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		fc := fieldCheck{name: f.TextName()}
		switch f.Kind() {
		case protoreflect.StringKind:
			fc.kind = checkText
		case protoreflect.FloatKind:
			fc.kind = checkFloat
		case protoreflect.DoubleKind:
			fc.kind = checkDouble
		case protoreflect.MessageKind, protoreflect.GroupKind:
			fc.kind, fc.sub, fc.group = checkMessage, c.compile(f.Message()), f.Kind() == protoreflect.GroupKind
		default:
			continue
		}
		k.blind = false
		if n := int(f.Number()); n <= near {
			if n >= len(k.fields) {
				k.fields = append(k.fields, make([]fieldCheck, n+1-len(k.fields))...)
			}
			k.fields[n] = fc
			continue
		}
		if k.far == nil {
			k.far = map[int32]fieldCheck{}
		}
		k.far[int32(f.Number())] = fc
	}
	return k
}

func (k *check) field(n protowire.Number) fieldCheck {
	if int(n) < len(k.fields) {
		return k.fields[n]
	}
	return k.far[int32(n)]
}

// run checks a message at a depth, 1 for the payload itself. What is no protobuf at all is left for the decoder to name.
func (k *check) run(data []byte, depth int) *fault {
	if k.blind {
		return nil
	}
	if depth > MaxNesting {
		return &fault{reason: answer.NestedTooDeep}
	}
	for len(data) > 0 {
		number, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return nil
		}
		data = data[n:]
		if n = protowire.ConsumeFieldValue(number, typ, data); n < 0 {
			return nil
		}
		value := data[:n]
		data = data[n:]
		f := k.field(number)
		if f.kind == unchecked {
			continue
		}
		var bad *fault
		switch typ {
		case protowire.BytesType:
			inner, _ := protowire.ConsumeBytes(value)
			bad = f.bytes(inner, depth)
		case protowire.StartGroupType:
			if f.group {
				inner, _ := protowire.ConsumeGroup(number, value)
				bad = f.sub.run(inner, depth+1)
			}
		case protowire.Fixed32Type:
			if f.kind == checkFloat {
				bad = float(value)
			}
		case protowire.Fixed64Type:
			if f.kind == checkDouble {
				bad = double(value)
			}
		}
		if bad != nil {
			return bad.in(f.name)
		}
	}
	return nil
}

// bytes checks a length-delimited value: a text, a message, or packed numbers.
func (f *fieldCheck) bytes(v []byte, depth int) *fault {
	switch f.kind {
	case checkText:
		if !utf8.Valid(v) {
			return &fault{what: "it is not UTF-8"}
		}
	case checkMessage:
		return f.sub.run(v, depth+1)
	case checkFloat:
		for ; len(v) >= 4; v = v[4:] {
			if bad := float(v); bad != nil {
				return bad
			}
		}
	case checkDouble:
		for ; len(v) >= 8; v = v[8:] {
			if bad := double(v); bad != nil {
				return bad
			}
		}
	}
	return nil
}

func float(v []byte) *fault {
	return finite(float64(math.Float32frombits(binary.LittleEndian.Uint32(v))))
}

func double(v []byte) *fault {
	return finite(math.Float64frombits(binary.LittleEndian.Uint64(v)))
}

func finite(v float64) *fault {
	switch {
	case math.IsNaN(v):
		return &fault{reason: answer.NotANumber, what: "NaN cannot be kept: sums with it are lost for ever"}
	case math.IsInf(v, 0):
		return &fault{reason: answer.NotANumber, what: "an infinity cannot be kept: sums with it are lost for ever"}
	}
	return nil
}

// Field numbers of google.protobuf.Struct and what it is made of, and of the JSON payload in an event.
const (
	eventJSON       = 9
	structFields    = 1
	mapValue        = 2
	valueStruct     = 5
	valueList       = 6
	listValues      = 1
	unusedTag       = 15<<3 | 2 // a field that events do not have
	continuationBit = 0x80
)

// CutDeep looks at the wire form of one event for a JSON payload that nests too deep, and makes it a field that nobody
// knows. The generated decoder follows any nesting to the end of the stack, and of the process; so this comes first.
func CutDeep(event []byte) (cut bool) {
	for at := 0; at < len(event); {
		number, typ, n := protowire.ConsumeTag(event[at:])
		if n < 0 {
			return cut
		}
		m := protowire.ConsumeFieldValue(number, typ, event[at+n:])
		if m < 0 {
			return cut
		}
		if number == eventJSON && typ == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(event[at+n : at+n+m])
			if deepStruct(inner, 1) {
				event[at] = event[at]&continuationBit | unusedTag
				cut = true
			}
		}
		at += n + m
	}
	return cut
}

// deepStruct, deepValue and deepList follow the three messages that JSON is made of.
func deepStruct(b []byte, depth int) bool {
	return depth > MaxNesting || each(b, func(n protowire.Number, entry []byte) bool {
		return n == structFields && each(entry, func(n protowire.Number, value []byte) bool {
			return n == mapValue && deepValue(value, depth)
		})
	})
}

func deepValue(b []byte, depth int) bool {
	return each(b, func(n protowire.Number, v []byte) bool {
		return n == valueStruct && deepStruct(v, depth+1) || n == valueList && deepList(v, depth+1)
	})
}

func deepList(b []byte, depth int) bool {
	return depth > MaxNesting || each(b, func(n protowire.Number, v []byte) bool {
		return n == listValues && deepValue(v, depth)
	})
}

// each calls f with every length-delimited field until it returns true, and returns that.
func each(b []byte, f func(protowire.Number, []byte) bool) bool {
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, typ, b); n < 0 {
			return false
		}
		if typ == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(b)
			if f(number, inner) {
				return true
			}
		}
		b = b[n:]
	}
	return false
}
