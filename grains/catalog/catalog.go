// Package catalog lists the kinds that come with Granary.
//
// Here lives the list and nothing else: to add a kind, write its folder under grains/ and its line in [Definitions]. Here
// never live handlers. Nothing under cluster/, actors/ or persistence/ imports this package: whoever wires a node hands
// the catalog in.
//
// Invariant: the list makes a catalog; [Builtin] cannot fail in a binary whose tests passed.
package catalog

import (
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/grains/account"
	"github.com/granary-dev/granary/grains/merchant"
	"github.com/granary-dev/granary/grains/probe"
	"github.com/granary-dev/granary/grains/product"
	"github.com/granary-dev/granary/grains/user"
)

// Definitions are the built-in kinds, to be combined with kinds of one's own.
func Definitions() []*grains.Definition {
	return []*grains.Definition{
		account.Kind.MustDefine(),
		merchant.Kind.MustDefine(),
		probe.Kind.MustDefine(),
		product.Kind.MustDefine(),
		user.Kind.MustDefine(),
	}
}

// Builtin is the catalog of the built-in kinds.
func Builtin() *grains.Catalog {
	c, err := grains.NewCatalog(Definitions()...)
	if err != nil {
		panic(err)
	}
	return c
}
