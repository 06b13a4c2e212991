// Command granary runs a node with the built-in kinds, and talks to one.
package main

import (
	"github.com/granary-dev/granary"
	"github.com/granary-dev/granary/grains/catalog"
)

func main() { granary.Main(catalog.Definitions()...) }
