package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMutantsFit: the lines that each bug replaces stand in the code, once. A change of the code that moves them away has to
// take the bug along.
func TestMutantsFit(t *testing.T) {
	mutants, err := parse(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		files := map[string]string{}
		for _, e := range m.edits {
			if files[e.file] == "" {
				code, err := os.ReadFile(filepath.Join("..", "..", e.file))
				if err != nil {
					t.Fatal(err)
				}
				files[e.file] = string(code)
			}
			if n := strings.Count(files[e.file], e.old); n != 1 {
				t.Errorf("%s: the lines to replace stand in %s %d times, not once:\n%s", m.name, e.file, n, e.old)
			}
			files[e.file] = strings.Replace(files[e.file], e.old, e.new, 1)
		}
	}
}
