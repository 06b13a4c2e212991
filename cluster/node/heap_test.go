//go:build !cgo && !race

package node_test

const (
	// storeInHeap: without cgo the store has its tables in memory and its cache from the Go heap.
	storeInHeap = true
	heapCounts  = true
)
