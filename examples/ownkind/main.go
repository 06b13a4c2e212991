// Command ownkind is a Granary node with a kind of its own.
package main

import (
	"github.com/granary-dev/granary"

	"example.com/ownkind/parcel"
)

func main() { granary.Main(parcel.Kind.MustDefine()) }
