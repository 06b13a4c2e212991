package granary_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWalkThrough does in an empty folder what docs/kinds.md says: each command of the page, in its order, and the files
// that the page links to, each in its section. It takes modules from where go gets them, so it runs only when asked for
// by the environment variable GRANARY_WALKTHROUGH.
func TestWalkThrough(t *testing.T) {
	if os.Getenv("GRANARY_WALKTHROUGH") == "" {
		t.Skip("GRANARY_WALKTHROUGH is not set")
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("docs/kinds.md")
	if err != nil {
		t.Fatal(err)
	}
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listen.Addr().String()
	listen.Close() // so that the node may have it

	w := &walk{t: t, dir: t.TempDir()}
	release := "go get " + module
	clone := regexp.MustCompile(`(?m)^    (go mod edit .* -replace ` + module + `=)\S+$`).FindSubmatch(page)
	if clone == nil || !bytes.Contains(page, []byte("\n    "+release+"\n")) {
		t.Fatal("the page does not say how to use a release, or a clone")
	}
	link := regexp.MustCompile(`\.\./examples/ownkind/([\w./-]+\.\w+)`)
	for line := range strings.Lines(string(page)) {
		for _, file := range link.FindAllStringSubmatch(line, -1) {
			w.copy(filepath.Join(root, "examples/ownkind"), file[1])
		}
		command, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "    ")
		switch {
		case !ok || strings.HasPrefix(command, string(clone[1])):
		case command == release:
			w.run(string(clone[1]) + root)
		case strings.HasPrefix(command, "mkdir ownkind"):
			w.run(command)
			w.dir = filepath.Join(w.dir, "ownkind")
		case strings.HasPrefix(command, "go run github.com/bufbuild/buf"): // the same version, without building it once more
			w.run("go tool -modfile=" + root + "/tools/buf.mod buf generate")
			w.same(filepath.Join(root, "examples/ownkind"), "parcel/v1/parcel.pb.go")
		case strings.HasPrefix(command, "./ownkind dev"):
			w.serve(command, address)
		case strings.Contains(command, "./ownkind "):
			w.run(command + " --target " + address)
		default:
			w.run(command)
		}
	}
	w.same(filepath.Join(root, "examples/ownkind"), "parcel/testdata/story.txt")
	if !strings.Contains(w.said.String(), "1 published") || !strings.Contains(w.said.String(), `places[0]  + "lyon"`) {
		t.Errorf("the parcel was not scanned:\n%s", &w.said)
	}
}

// walk is a folder in which the commands of a page are run.
type walk struct {
	t    *testing.T
	dir  string
	said bytes.Buffer
}

func (w *walk) command(line string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = w.dir
	return cmd
}

// run runs a line of the page, which must succeed.
func (w *walk) run(line string) {
	w.t.Helper()
	out, err := w.command(line).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	w.said.Write(out)
}

// serve starts a node, waits until it listens, and stops it when the test ends.
func (w *walk) serve(line, address string) {
	w.t.Helper()
	var said bytes.Buffer
	cmd := w.command("exec " + line + " --listen " + address)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		err := cmd.Process.Signal(syscall.SIGTERM)
		if waited := cmd.Wait(); err != nil || waited != nil {
			w.t.Errorf("%s: %v, %v\n%s", line, err, waited, &said)
		}
	})
	for range 200 {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Fatalf("%s: nothing listens at %s", line, address)
}

// copy takes a file that the page links to.
func (w *walk) copy(from, name string) {
	w.t.Helper()
	content, err := os.ReadFile(filepath.Join(from, name))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(filepath.Join(w.dir, name)), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(w.dir, name), content, 0o644)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// same holds a file that came of the commands against the example.
func (w *walk) same(with, name string) {
	w.t.Helper()
	got, err := os.ReadFile(filepath.Join(w.dir, name))
	want, wantErr := os.ReadFile(filepath.Join(with, name))
	if err != nil || wantErr != nil || !bytes.Equal(got, want) {
		w.t.Errorf("%s is not as in the example: %v, %v", name, err, wantErr)
	}
}
