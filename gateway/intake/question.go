package intake

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Question finds the query that a request names, and decodes its question by the rules that events have.
func (in *Intake) Question(kind *grains.Definition, req *granaryv1.QueryRequest) (*grains.QueryType, proto.Message, *answer.Refusal) {
	q, ok := kind.Query(req.GetType())
	if !ok {
		return nil, nil, unknownQuery(kind, req.GetType())
	}
	var msg proto.Message
	var bad *fault
	switch p := req.GetQuery().(type) {
	case *granaryv1.QueryRequest_Protobuf:
		msg, bad = fromProtobuf(p.Protobuf, q, q.Name, in.questions[q])
	case *granaryv1.QueryRequest_Json:
		msg, _, bad = fromJSON(p.Json, q, in.questions[q])
	default:
		msg = q.New()
	}
	if bad != nil {
		return nil, nil, bad.refusal("query", q.Name)
	}
	return q, msg, nil
}

func unknownQuery(kind *grains.Definition, name string) *answer.Refusal {
	var known []string
	for _, q := range kind.Queries() {
		known = append(known, q.Name)
	}
	list := strings.Join(known, ", ")
	answers := "it answers " + list
	if list == "" {
		answers = "it answers none"
	}
	return answer.InvalidCode(codes.NotFound, answer.UnknownQuery, "type", "kind %q has no query %q; %s", kind.Name,
		answer.Text(name, 64), answers).With("kind", kind.Name).With("type", answer.Text(name, 64)).With("queries", list)
}

// DeepJSON tells whether a google.protobuf.Struct in wire form nests too deep. Like [CutDeep] it comes before anything is
// decoded.
func DeepJSON(data []byte) bool { return deepStruct(data, 1) }

// TooDeep is the refusal of it, in a field of the request.
func TooDeep(field string) *answer.Refusal { return tooDeep(field) }
