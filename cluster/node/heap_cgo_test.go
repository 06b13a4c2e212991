//go:build cgo

package node_test

// storeInHeap: with cgo the store has its tables in memory and its cache from the C library.
const storeInHeap = false
