package gateway

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/grains"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// streamTable is what StreamService tells of the streams that kinds publish to. Kinds are compiled in, so it is made once.
type streamTable struct {
	list  *granaryv1.StreamServiceListResponse
	names []string
}

func listStreams(c *grains.Catalog) *streamTable {
	t := &streamTable{list: &granaryv1.StreamServiceListResponse{}}
	kinds := map[string][]string{}
	for _, k := range c.Kinds() {
		for _, name := range k.Streams() {
			if kinds[name] == nil {
				t.names = append(t.names, name)
			}
			kinds[name] = append(kinds[name], k.Name)
		}
	}
	slices.Sort(t.names)
	for _, name := range t.names {
		t.list.Streams = append(t.list.Streams, &granaryv1.StreamInfo{Name: name, Kinds: kinds[name]})
	}
	return t
}

// check refuses a stream that nobody publishes to.
func (t *streamTable) check(name string) *answer.Refusal {
	if _, known := slices.BinarySearch(t.names, name); known {
		return nil
	}
	return answer.InvalidCode(codes.NotFound, answer.UnknownStream, "stream", "no kind of this cluster publishes to a stream %q",
		answer.Text(name, 128)).With("streams", strings.Join(t.names, ","))
}

// listStreams is StreamService.List.
func (g *Gateway) listStreams(context.Context, *granaryv1.StreamServiceListRequest) (*granaryv1.StreamServiceListResponse, error) {
	return g.outputs.list, nil
}
