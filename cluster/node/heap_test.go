//go:build !cgo

package node_test

// storeInHeap: without cgo the store has its tables in memory and its cache from the Go heap.
const storeInHeap = true
