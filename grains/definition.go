package grains

import (
	"fmt"
	"reflect"
	"sort"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoimpl"
)

// recursionLimit is how deep the messages of events and states may nest. Deeper input is refused, not followed.
const recursionLimit = 64

// Definition is a kind as the runtime sees it: the types are erased, the handlers are kept.
type Definition struct {
	// Name, Version, Doc, SnapshotEvery and IDWindow as in [Kind], defaults filled in.
	Name          string
	Version       uint32
	Doc           string
	SnapshotEvery int
	IDWindow      time.Duration

	state   messageType
	events  []*EventType
	byName  map[string]*EventType
	queries []*QueryType
	streams []string

	earlier []*Definition // by version; none in those themselves
}

// At is the kind as it was in a version: itself in the present one, or the handlers kept of an earlier one.
func (d *Definition) At(version uint32) (*Definition, bool) {
	if version == d.Version {
		return d, true
	}
	for _, e := range d.earlier {
		if e.Version == version {
			return e, true
		}
	}
	return nil, false
}

// Earlier are the versions before the present one whose logic is kept, oldest first.
func (d *Definition) Earlier() []*Definition { return d.earlier }

// Events are the event types of the kind in the order of their full names.
func (d *Definition) Events() []*EventType { return d.events }

// Event finds an event type by its full name or by its last part. A leading URL of the Any form
// ("type.googleapis.com/…") is not taken.
func (d *Definition) Event(name string) (*EventType, bool) {
	e, ok := d.byName[name]
	return e, ok
}

// StateDescriptor describes the state's message.
func (d *Definition) StateDescriptor() protoreflect.MessageDescriptor { return d.state.Descriptor() }

// NewState returns the state of a grain that never had an event: the empty message.
func (d *Definition) NewState() proto.Message { return d.state.New() }

// AppendState appends the deterministic wire form of a state of this kind to dst.
func (d *Definition) AppendState(dst []byte, state proto.Message) ([]byte, error) {
	return d.state.Append(dst, state)
}

// DecodeState reads what [Definition.AppendState] wrote.
func (d *Definition) DecodeState(data []byte) (proto.Message, error) { return d.state.Decode(data) }

// EventType is one event message of a kind, with its handler.
type EventType struct {
	messageType
	kind   *Definition
	handle func(t *Turn, state, event proto.Message) error
}

// messageType makes, reads and writes messages of one protobuf type by the fastest way the type offers.
type messageType struct {
	// Name is the full name of the message.
	Name string
	typ  protoreflect.MessageType
	// elem is the struct type of a generated message, nil for others.
	elem reflect.Type
	// flat messages hold no message fields and no maps: their generated code is deterministic and cannot recurse.
	flat bool
	// texts are the numbers of the string fields of a flat message: the fast decoder does not check that they are UTF-8.
	texts map[protowire.Number]bool
}

func newMessageType(t protoreflect.MessageType) messageType {
	m := messageType{Name: string(t.Descriptor().FullName()), typ: t, flat: flat(t.Descriptor()), texts: map[protowire.Number]bool{}}
	if generated, ok := t.(*protoimpl.MessageInfo); ok {
		m.elem = generated.GoReflectType.Elem()
	}
	for i := range t.Descriptor().Fields().Len() {
		if f := t.Descriptor().Fields().Get(i); f.Kind() == protoreflect.StringKind {
			m.texts[f.Number()] = true
		}
	}
	return m
}

// checkTexts tells which string field is not UTF-8, in data that was decoded before.
func (m *messageType) checkTexts(data []byte) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		size := protowire.ConsumeFieldValue(num, typ, data)
		if size < 0 {
			return protowire.ParseError(size)
		}
		if typ == protowire.BytesType && m.texts[num] {
			if v, _ := protowire.ConsumeBytes(data); !utf8.Valid(v) {
				return fmt.Errorf("field %d is not UTF-8", num)
			}
		}
		data = data[size:]
	}
	return nil
}

func flat(d protoreflect.MessageDescriptor) bool {
	for i := range d.Fields().Len() {
		if f := d.Fields().Get(i); f.IsMap() || f.Message() != nil {
			return false
		}
	}
	return true
}

// Descriptor describes the message.
func (m *messageType) Descriptor() protoreflect.MessageDescriptor { return m.typ.Descriptor() }

// New returns an empty message. One that nobody reflects on does without what reflection would store in it.
func (m *messageType) New() proto.Message {
	if m.elem != nil {
		return reflect.New(m.elem).Interface().(proto.Message) //nolint:forcetypeassert // pointers to generated structs are messages
	}
	return m.typ.New().Interface()
}

type fastAppender interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}

// Append appends the deterministic wire form of msg to dst.
func (m *messageType) Append(dst []byte, msg proto.Message) ([]byte, error) {
	if f, ok := msg.(fastAppender); ok && m.flat {
		return appendFast(dst, f)
	}
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, msg)
}

func appendFast(dst []byte, f fastAppender) ([]byte, error) {
	n, at := f.SizeVT(), len(dst)
	if cap(dst)-at < n {
		grown := make([]byte, at, 2*cap(dst)+n)
		copy(grown, dst)
		dst = grown
	}
	dst = dst[:at+n]
	if _, err := f.MarshalToSizedBufferVT(dst[at:]); err != nil {
		return dst[:at], err
	}
	return dst, nil
}

// Decode reads a message. The result does not alias data.
func (m *messageType) Decode(data []byte) (proto.Message, error) {
	msg := m.New()
	if f, ok := msg.(interface{ UnmarshalVT([]byte) error }); ok && m.flat {
		err := f.UnmarshalVT(data)
		if err == nil && len(m.texts) > 0 {
			err = m.checkTexts(data)
		}
		if err != nil {
			return nil, fmt.Errorf("not a %s: %w", m.Name, err)
		}
		return msg, nil
	}
	if err := (proto.UnmarshalOptions{RecursionLimit: recursionLimit}).Unmarshal(data, msg); err != nil {
		return nil, fmt.Errorf("not a %s: %w", m.Name, err)
	}
	return msg, nil
}

// Catalog is the set of kinds that a node runs.
type Catalog struct {
	kinds  []*Definition
	byName map[string]*Definition
}

// NewCatalog makes a catalog. Two kinds of one name are an error.
func NewCatalog(kinds ...*Definition) (*Catalog, error) {
	c := &Catalog{byName: map[string]*Definition{}}
	for _, k := range kinds {
		if _, twice := c.byName[k.Name]; twice {
			return nil, fmt.Errorf("two kinds are called %q", k.Name)
		}
		c.byName[k.Name] = k
		c.kinds = append(c.kinds, k)
	}
	sort.Slice(c.kinds, func(i, j int) bool { return c.kinds[i].Name < c.kinds[j].Name })
	return c, nil
}

// Kinds are the kinds in the order of their names.
func (c *Catalog) Kinds() []*Definition { return c.kinds }

// Kind finds a kind by name.
func (c *Catalog) Kind(name string) (*Definition, bool) {
	d, ok := c.byName[name]
	return d, ok
}
