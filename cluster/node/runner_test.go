package node

import (
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/routing"
	"github.com/granary-dev/granary/grains"
)

// TestClosedRunnerTakesNothing: a call that passed the node's door just before it closed finds the next one closed, and
// does not wait in a queue that nobody reads.
func TestClosedRunnerTakesNothing(t *testing.T) {
	catalog, err := grains.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	n, err := Start(context.Background(), Options{DataDir: "data", FS: vfs.NewMem(), Shards: 1, Catalog: catalog})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	answered := func(*actors.Batch) { t.Error("answered") }
	for _, wait := range []bool{false, true} {
		if err := n.shards[0].publish(context.Background(), &actors.Batch{Events: make([]actors.Event, 1), Done: answered}, wait); !errors.Is(err, routing.ErrStopping) {
			t.Errorf("publish, wait=%t: %v", wait, err)
		}
	}
	if err := n.shards[0].ask(&actors.Read{List: &actors.List{}}); !errors.Is(err, routing.ErrStopping) {
		t.Errorf("read: %v", err)
	}
}
