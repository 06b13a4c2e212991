package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// kindTable is what KindService answers. Kinds are compiled in, so it is made once.
type kindTable struct {
	list   *granaryv1.KindServiceListResponse
	byName map[string]*granaryv1.DescribeResponse
}

func describeKinds(c *grains.Catalog) *kindTable {
	t := &kindTable{list: &granaryv1.KindServiceListResponse{}, byName: map[string]*granaryv1.DescribeResponse{}}
	for _, d := range c.Kinds() {
		k := &granaryv1.Kind{
			Name: d.Name, Version: d.Version, Description: d.Doc, State: string(d.StateDescriptor().FullName()),
			IdWindow: durationpb.New(d.IDWindow),
		}
		for _, e := range d.Earlier() {
			k.EarlierVersions = append(k.EarlierVersions, e.Version)
		}
		for _, e := range d.Events() {
			k.Events = append(k.Events, describeEvent(e))
		}
		for _, q := range d.Queries() {
			k.Queries = append(k.Queries, &granaryv1.QueryType{Name: q.Name, Fields: fieldsOf(q.Descriptor()), Example: example(q.New()), Reply: q.Reply.Name})
		}
		k.Streams = d.Streams()
		t.list.Kinds = append(t.list.Kinds, k)
		t.byName[d.Name] = &granaryv1.DescribeResponse{Kind: k, FileDescriptorSet: descriptors(d)}
	}
	return t
}

// listKinds is KindService.List.
func (g *Gateway) listKinds(context.Context, *granaryv1.KindServiceListRequest) (*granaryv1.KindServiceListResponse, error) {
	return g.kinds.list, nil
}

// describe is KindService.Describe.
func (g *Gateway) describe(_ context.Context, req *granaryv1.DescribeRequest) (*granaryv1.DescribeResponse, error) {
	if _, r := g.intake.Kind("kind", req.GetKind()); r != nil {
		return nil, r
	}
	return g.kinds.byName[req.GetKind()], nil
}

func describeEvent(e *grains.EventType) *granaryv1.EventType {
	return &granaryv1.EventType{Name: e.Name, Example: example(e.New()), Fields: fieldsOf(e.Descriptor())}
}

func fieldsOf(d protoreflect.MessageDescriptor) (fields []*granaryv1.Field) {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		fields = append(fields, &granaryv1.Field{Name: f.JSONName(), Type: fieldType(f)})
	}
	return fields
}

// fieldType is the type of a field as one would say it.
func fieldType(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return fmt.Sprintf("map<%s, %s>", fieldType(f.MapKey()), fieldType(f.MapValue()))
	case f.IsList():
		return "repeated " + singleType(f)
	}
	return singleType(f)
}

func singleType(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Message() != nil:
		return string(f.Message().FullName())
	case f.Enum() != nil:
		return string(f.Enum().FullName())
	}
	return f.Kind().String()
}

// descriptors is a FileDescriptorSet with the files of a kind and all that they import, each behind those it imports.
func descriptors(d *grains.Definition) []byte {
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	add(d.StateDescriptor().ParentFile())
	for _, e := range d.Events() {
		add(e.Descriptor().ParentFile())
	}
	for _, q := range d.Queries() {
		add(q.Descriptor().ParentFile())
		add(q.Reply.Descriptor().ParentFile())
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		panic(err) // descriptors came from the protobuf runtime
	}
	return b
}

// maxExampleDepth is where the example of a message that can hold itself ends.
const maxExampleDepth = 4

// example is a message in JSON with every field set; of a oneof its first member.
func example(empty proto.Message) string {
	m := empty.ProtoReflect()
	fill(m, 1)
	text, err := protojson.Marshal(m.Interface())
	if err != nil {
		return "{}"
	}
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil { // protojson varies its spaces
		return "{}"
	}
	return out.String()
}

func fill(m protoreflect.Message, depth int) {
	if fillKnown(m) {
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() && o.Fields().Get(0) != f {
			continue
		}
		if depth > maxExampleDepth && f.Message() != nil {
			continue
		}
		switch {
		case f.IsMap():
			entries := m.Mutable(f).Map()
			v := entries.NewValue()
			entries.Set(sample(f.MapKey()).MapKey(), filled(f.MapValue(), v, depth))
		case f.IsList():
			list := m.Mutable(f).List()
			list.Append(filled(f, list.NewElement(), depth))
		default:
			m.Set(f, filled(f, m.NewField(f), depth))
		}
	}
}

// fillKnown sets messages whose fields have to fit together.
func fillKnown(m protoreflect.Message) bool {
	set := func(name protoreflect.Name, v protoreflect.Value) { m.Set(m.Descriptor().Fields().ByName(name), v) }
	switch m.Descriptor().FullName() {
	case "google.protobuf.Timestamp":
		set("seconds", protoreflect.ValueOfInt64(1767225600)) // the first second of 2026
	case "google.protobuf.Duration":
		set("seconds", protoreflect.ValueOfInt64(90))
	case "google.protobuf.Value":
		set("string_value", protoreflect.ValueOfString("text"))
	case "google.protobuf.Any", "google.protobuf.FieldMask":
	default:
		return false
	}
	return true
}

func filled(f protoreflect.FieldDescriptor, empty protoreflect.Value, depth int) protoreflect.Value {
	if f.Message() != nil {
		fill(empty.Message(), depth+1)
		return empty
	}
	return sample(f)
}

// sample is a value that says something of its type and is not the default.
func sample(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(min(1, f.Enum().Values().Len()-1)).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(42)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(42)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(42)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(42)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(1.5)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(1.5)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("bytes"))
	}
	return protoreflect.ValueOfString(string(f.Name()))
}
