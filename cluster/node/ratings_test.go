package node_test

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"

	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/grains/catalog"
	"github.com/granary-dev/granary/loadtest/driver"
	"github.com/granary-dev/granary/loadtest/ledger"
	"github.com/granary-dev/granary/loadtest/ratings"
)

// TestRatings streams generated ratings through a whole node, twice: the second time every user has said it all before.
// Counts and sums equal the recount, and what was held out is foretold far more often than by chance.
func TestRatings(t *testing.T) {
	p, err := node.Serve(t.Context(), node.ProcessOptions{
		Options: node.Options{DataDir: "data", FS: vfs.NewMem(), Catalog: catalog.Builtin(), Shards: 4}, Listen: "127.0.0.1:0",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	conn, err := client.Dial(p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	split := ratings.HoldOut(ratings.Generate(ratings.Parameters{Users: 100, Products: 1_000, Ratings: 5_000}))
	for _, round := range []string{"first", "again"} {
		user, records, err := ratings.Touched(t.Context(), conn, split.Users())
		if err != nil || (records > 0) != (round == "again") {
			t.Errorf("%s: user %d has %d records: %v", round, user, records, err)
		}
		report, err := driver.Run(t.Context(), driver.Ratings(ratings.NewFeed(split.Rest)), driver.Options{
			Conns: []grpc.ClientConnInterface{conn}, Batch: 20, Window: 2,
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.CheckRatings(t.Context(), conn, report.Ledger, ledger.Options{})
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(len(split.Rest))
		if !l.OK() || report.Acknowledged != want || l.Folded != want || l.Users != 100 || round == "first" && (l.Passed != want || l.Foreign != 0) {
			t.Errorf("%s: %+v", round, l)
		}
		next, err := ratings.Foretold(t.Context(), conn, split.Users())
		if err != nil {
			t.Fatal(err)
		}
		if q := split.Judge(next); round == "first" && (float64(q.Hits) < 3*q.ByChance || q.Empty > 50) {
			t.Errorf("%+v", q)
		}
	}
}
