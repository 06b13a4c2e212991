//go:build race

package node_test

const (
	storeInHeap = true
	// heapCounts: the race detector has the store's memory elsewhere, and keeps much of its own.
	heapCounts = false
)
