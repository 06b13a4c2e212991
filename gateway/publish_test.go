package gateway_test

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func TestPublishAnswersInOrder(t *testing.T) {
	n := start(t)
	var events []*granaryv1.Event
	for i := range 100 {
		events = append(events, charged(fmt.Sprintf("box/%d", i%10), fmt.Sprint(i), int64(i)))
	}
	events[33] = charged("box/3", "33", -1)
	res, err := n.events.Publish(t.Context(), &granaryv1.PublishRequest{Events: events})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Results) != 100 {
		t.Fatalf("%d results", len(res.Results))
	}
	for i, r := range res.Results {
		if want := uint64(i/10 + 1); r.Seq != want || r.Position == "" || !r.Deduplicated || r.Duplicate {
			t.Errorf("result %d: %v", i, r)
		}
		f := failureOf(r.Status)
		if want := i == 33; (f.code != codes.OK) != want || want && (f.code != codes.FailedPrecondition || f.reason != "REJECTED") {
			t.Errorf("result %d: %+v", i, f)
		}
	}
}
