// Package granary_test holds the module to the pictures drawn in ARCHITECTURE.md: who may import whom, which packages
// are pure, and how packages and files are called.
package granary_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/granary-dev/granary"

// goPackage is what `go list` tells of a package. Imports leaves out what only tests import.
type goPackage struct {
	ImportPath string
	Name       string
	Dir        string
	Standard   bool
	GoFiles    []string
	Imports    []string
}

// path is the package's folder below the module, "." for the root, or "" for packages from elsewhere.
func (p goPackage) path() string { return modulePath(p.ImportPath) }

func modulePath(importPath string) string {
	if importPath == module {
		return "."
	}
	path, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return path
}

func listPackages(t *testing.T, args ...string) []goPackage {
	t.Helper()
	// -e: what does not compile yet is for the compiler to tell.
	args = append([]string{"list", "-e", "-pgo=off", "-json=ImportPath,Name,Dir,Standard,GoFiles,Imports"}, args...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	var packages []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// block returns the lines of the fenced block of ARCHITECTURE.md that is marked with the word.
func block(t *testing.T, word string) []string {
	t.Helper()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n```"+word+"\n")
	body, _, closed := strings.Cut(rest, "\n```")
	if !ok || !closed {
		t.Fatalf("ARCHITECTURE.md has no block marked %q", word)
	}
	return strings.Split(body, "\n")
}

// A part is one line of the import picture: a package, or a set of packages, and what it may import. The name is a
// folder; "x/*" stands for every folder directly in x that has no line of its own, each apart from the others;
// "x/..." for x and all below it, taken as one.
type part struct {
	name    string
	imports []string
}

// covers says how well the part fits a package: 0 not at all, then the longer the better, an exact name best.
func (p part) covers(path string) int {
	if p.name == path {
		return 1 << 20
	}
	if root, ok := strings.CutSuffix(p.name, "/..."); ok && (path == root || strings.HasPrefix(path, root+"/")) {
		return 2 * len(root)
	}
	if root, ok := strings.CutSuffix(p.name, "/*"); ok {
		if rest, ok := strings.CutPrefix(path, root+"/"); ok && !strings.Contains(rest, "/") {
			return 2*len(root) + 1
		}
	}
	return 0
}

// picture is all parts, highest layer first.
type picture []part

func parsePicture(lines []string) (picture, error) {
	var pic picture
	for _, line := range lines {
		if strings.TrimSpace(line) == "" {
			continue
		}
		name, imports, ok := strings.Cut(line, "->")
		if !ok {
			return nil, fmt.Errorf("no arrow in %q", line)
		}
		p := part{name: strings.TrimSpace(name)}
		for _, to := range strings.Split(imports, ",") {
			if to = strings.TrimSpace(to); to != "" {
				p.imports = append(p.imports, to)
			}
		}
		pic = append(pic, p)
	}
	for i, p := range pic {
		for _, to := range p.imports {
			down := func(below part) bool { return below.name == to }
			if !slices.ContainsFunc(pic[i+1:], down) {
				return nil, fmt.Errorf("%s -> %s does not point to a line further down", p.name, to)
			}
		}
	}
	return pic, nil
}

// partOf finds the part that a package belongs to.
func (pic picture) partOf(path string) (part, bool) {
	best, fit := part{}, 0
	for _, p := range pic {
		if f := p.covers(path); f > fit {
			best, fit = p, f
		}
	}
	return best, fit > 0
}

// complaints are the places where picture and code differ: packages that no line covers, imports that no arrow allows,
// and arrows that no import stands for although both ends have code.
func (pic picture) complaints(packages []goPackage) []string {
	var wrong []string
	exists, used := map[string]bool{}, map[string]bool{}
	for _, p := range packages {
		if p.path() == "" || len(p.GoFiles) == 0 {
			continue
		}
		from, ok := pic.partOf(p.path())
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s is in no line of the picture", p.path()))
			continue
		}
		exists[from.name] = true
		for _, imported := range p.Imports {
			path := modulePath(imported)
			if path == "" {
				continue
			}
			to, _ := pic.partOf(path)
			if to.name == from.name && strings.HasSuffix(to.name, "/...") {
				continue
			}
			used[from.name+" -> "+to.name] = true
			if !slices.Contains(from.imports, to.name) {
				wrong = append(wrong, fmt.Sprintf("%s imports %s: no arrow %s -> %s", p.path(), path, from.name, to.name))
			}
		}
	}
	for _, p := range pic {
		for _, to := range p.imports {
			if arrow := p.name + " -> " + to; exists[p.name] && exists[to] && !used[arrow] {
				wrong = append(wrong, fmt.Sprintf("%s: no import stands for this arrow", arrow))
			}
		}
	}
	return wrong
}

// TestImportPicture holds the code to the picture, and the picture to the code.
func TestImportPicture(t *testing.T) {
	pic, err := parsePicture(block(t, "imports"))
	if err != nil {
		t.Fatal(err)
	}
	for _, complaint := range pic.complaints(listPackages(t, "./...")) {
		t.Error(complaint)
	}
}

// TestImportPictureBites shows that each way to leave the picture is noticed.
func TestImportPictureBites(t *testing.T) {
	lines := []string{"top -> kinds/*, mid", "kinds/* -> low/...", "mid -> low/...", "low/... ->"}
	pkg := func(path string, imports ...string) goPackage {
		p := goPackage{ImportPath: module + "/" + path, GoFiles: []string{"x.go"}, Imports: []string{"fmt"}}
		for _, i := range imports {
			p.Imports = append(p.Imports, module+"/"+i)
		}
		return p
	}
	right := []goPackage{
		pkg("top", "mid", "kinds/a"), pkg("kinds/a", "low"), pkg("mid", "low/x"), pkg("low/x", "low"), pkg("low"),
	}
	for _, test := range []struct {
		name   string
		change func([]goPackage) []goPackage
		want   string
	}{
		{"as drawn", func(p []goPackage) []goPackage { return p }, ""},
		{"new package", func(p []goPackage) []goPackage { return append(p, pkg("attic")) },
			"attic is in no line of the picture"},
		{"upwards", func(p []goPackage) []goPackage { p[4] = pkg("low", "mid"); return p },
			"low imports mid: no arrow low/... -> mid"},
		{"skips a layer", func(p []goPackage) []goPackage { p[0] = pkg("top", "mid", "kinds/a", "low"); return p },
			"top imports low: no arrow top -> low/..."},
		{"kind to kind", func(p []goPackage) []goPackage { return append(p, pkg("kinds/b", "kinds/a")) },
			"kinds/b imports kinds/a: no arrow kinds/* -> kinds/*"},
		{"arrow out of use", func(p []goPackage) []goPackage { p[0] = pkg("top", "mid"); return p },
			"top -> kinds/*: no import stands for this arrow"},
		{"end not written yet", func(p []goPackage) []goPackage { p[0] = pkg("top", "mid"); return append(p[:1], p[2:]...) }, ""},
	} {
		pic, err := parsePicture(lines)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(pic.complaints(test.change(slices.Clone(right))), "; "); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	if _, err := parsePicture([]string{"low ->", "top -> low"}); err == nil {
		t.Error("an arrow that points up was taken")
	}
}

// TestGrainsStandAlone: who writes a grain needs the standard library and protobuf, and downloads nothing else.
func TestGrainsStandAlone(t *testing.T) {
	for _, p := range listPackages(t, "-deps", "./grains") {
		if !p.Standard && !strings.HasPrefix(p.ImportPath, "google.golang.org/protobuf/") && p.path() != "grains" {
			t.Errorf("grains depends on %s", p.ImportPath)
		}
	}
}

// TestPackageNames refuses names that say nothing, and packages whose main file cannot be guessed from their name.
func TestPackageNames(t *testing.T) {
	banned := map[string]string{
		"util": "what it does", "utils": "what it does", "common": "what it holds", "helpers": "whom they help",
		"helper": "whom it helps", "types": "the nouns it holds",
	}
	for _, p := range listPackages(t, "./...") {
		if name, ok := banned[p.Name]; ok {
			t.Errorf("%s: name the package after %s", p.ImportPath, name)
		}
		generated := strings.HasPrefix(p.path(), "proto/")
		if !generated && len(p.GoFiles) > 0 && !slices.Contains(p.GoFiles, p.Name+".go") {
			t.Errorf("%s: a package begins in a file of its name, but there is no %s.go", p.ImportPath, p.Name)
		}
	}
}

// TestPurePackages: what a simulation must be able to repeat starts no goroutine. The linter (forbidigo) keeps clocks
// and randomness out of the same packages.
func TestPurePackages(t *testing.T) {
	var pure picture
	var folders []string
	for _, line := range block(t, "pure") {
		pure = append(pure, part{name: line})
		folders = append(folders, strings.TrimSuffix(line, "/..."))
	}
	config, err := os.ReadFile(".golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	if rule := "path-except: ^(" + strings.Join(folders, "|") + ")/\n"; !strings.Contains(string(config), rule) {
		t.Errorf("the linter is to look at the same packages: .golangci.yml needs %s", rule)
	}
	for _, p := range listPackages(t, "./...") {
		if _, ok := pure.partOf(p.path()); !ok {
			continue
		}
		for _, file := range p.GoFiles {
			checkNoGoroutine(t, filepath.Join(p.Dir, file))
		}
	}
}

func checkNoGoroutine(t *testing.T, file string) {
	t.Helper()
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if n, ok := n.(*ast.GoStmt); ok {
			t.Errorf("%s: a pure package starts a goroutine; let cluster/node own it", fset.Position(n.Pos()))
		}
		return true
	})
}
