package main

import (
	"context"

	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/cmd/granary/commands"
)

// startNode starts a node with its gateway in this process.
func startNode(ctx context.Context, o commands.NodeOptions) (commands.Node, error) {
	return node.Serve(ctx, node.ProcessOptions{
		Options:  node.Options{DataDir: o.DataDir, Catalog: o.Catalog, Shards: o.Shards, MemoryBudget: o.Memory, Logger: o.Logger},
		Listen:   o.Listen,
		Metrics:  o.Metrics,
		Profiles: o.Profiles,
	})
}
