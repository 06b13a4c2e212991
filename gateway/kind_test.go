package gateway_test

import (
	"encoding/json"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/granary-dev/granary/gateway"
	"github.com/granary-dev/granary/grains/catalog"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func TestKinds(t *testing.T) {
	n := start(t)
	res, err := n.kinds.List(t.Context(), &granaryv1.KindServiceListRequest{})
	if err != nil || len(res.Kinds) != 2 || res.Kinds[0].Name != "box" || res.Kinds[1].Name != "shelf" {
		t.Fatalf("%v %v", res, err)
	}
	k := res.Kinds[0]
	if k.Version != 3 || len(k.EarlierVersions) != 1 || k.EarlierVersions[0] != 2 || k.Description == "" || k.State != "granary.account.v1.Account" || k.IdWindow.AsDuration().Hours() != 24 || len(k.Events) != 5 {
		t.Errorf("%v", k)
	}
	fields := map[string]string{}
	for _, e := range k.Events {
		for _, f := range e.Fields {
			fields[e.Name+"."+f.Name] = f.Type
		}
	}
	for name, want := range map[string]string{
		"granary.account.v1.Charged.amountCents":     "int64",
		"google.protobuf.DoubleValue.value":          "double",
		"google.protobuf.Struct.fields":              "map<string, google.protobuf.Value>",
		"google.protobuf.DescriptorProto.nestedType": "repeated google.protobuf.DescriptorProto",
		"google.protobuf.DescriptorProto.visibility": "google.protobuf.SymbolVisibility",
	} {
		if fields[name] != want {
			t.Errorf("%s is a %q, want %q", name, fields[name], want)
		}
	}
	var web granaryv1.KindServiceListResponse
	if f := n.post(t, "/granary.v1.KindService/List", `{}`, &web); f.code != codes.OK || !proto.Equal(&web, res) {
		t.Errorf("by JSON: %+v", f)
	}
}

// TestDescribe: the descriptors stand alone, and the example of every event of the kinds that come with Granary sets every
// field and is taken.
func TestDescribe(t *testing.T) {
	n := start(t, func(o *gateway.Options) { o.Catalog = catalog.Builtin() })
	kinds, err := n.kinds.List(t.Context(), &granaryv1.KindServiceListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds.Kinds {
		res, err := n.kinds.Describe(t.Context(), &granaryv1.DescribeRequest{Kind: k.Name})
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(res.Kind, k) {
			t.Errorf("described %v, listed %v", res.Kind, k)
		}
		set := &descriptorpb.FileDescriptorSet{}
		if err := proto.Unmarshal(res.FileDescriptorSet, set); err != nil {
			t.Fatal(err)
		}
		files, err := protodesc.NewFiles(set)
		if err != nil {
			t.Fatalf("%s: %v", k.Name, err)
		}
		if _, err := files.FindDescriptorByName(protoreflect.FullName(k.State)); err != nil {
			t.Errorf("%s: %v", k.State, err)
		}
		for _, e := range k.Events {
			d, err := files.FindDescriptorByName(protoreflect.FullName(e.Name))
			if err != nil {
				t.Errorf("%s: %v", e.Name, err)
				continue
			}
			var example map[string]any
			if err := json.Unmarshal([]byte(e.Example), &example); err != nil {
				t.Fatal(err)
			}
			if want := d.(protoreflect.MessageDescriptor).Fields().Len(); len(example) != want || len(e.Fields) != want {
				t.Errorf("the example of %s has %d fields of %d: %s", e.Name, len(example), want, e.Example)
			}
			s := &structpb.Struct{}
			if err := s.UnmarshalJSON([]byte(e.Example)); err != nil {
				t.Fatal(err)
			}
			r := n.publish(t, &granaryv1.Event{Grain: k.Name + "/example", Type: e.Name, Payload: &granaryv1.Event_Json{Json: s}})[0]
			if r.Seq == 0 {
				t.Errorf("the example of %s was not taken: %v", e.Name, r)
			}
		}
	}
}
