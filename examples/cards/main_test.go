package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/granary-dev/granary/client"
	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/grains/catalog"
)

// TestRun runs the example against a node.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := node.Serve(ctx, node.ProcessOptions{Options: node.Options{DataDir: t.TempDir(), Catalog: catalog.Builtin(), Shards: 4}, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Shutdown(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	conn, err := client.Dial(p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var out strings.Builder
	if err := run(ctx, &out, conn); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"are durable, 0 refused", "approved true", "it paid 31 times", "alert: t-30", "1 in all"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, &out)
		}
	}
}
