//go:build cgo && !race

package node_test

const (
	// storeInHeap: with cgo the store has its tables in memory and its cache from the C library.
	storeInHeap = false
	heapCounts  = true
)
