package catalog

import "testing"

func TestBuiltin(t *testing.T) {
	c := Builtin()
	for _, name := range []string{"account", "merchant", "probe", "product", "user"} {
		if _, ok := c.Kind(name); !ok {
			t.Errorf("no kind %q", name)
		}
	}
	for _, k := range c.Kinds() {
		if k.Doc == "" {
			t.Errorf("kind %q has no sentence for `granary kind ls`", k.Name)
		}
	}
}
