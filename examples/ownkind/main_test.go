package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain makes this test's binary the node itself when it is started as one.
func TestMain(m *testing.M) {
	if os.Getenv("OWNKIND_NODE") != "" {
		main()
	}
	os.Exit(m.Run())
}

// command runs the binary's own command line.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "OWNKIND_NODE=1")
	return cmd
}

// TestNode starts a node with the parcel kind, publishes to it, and looks at what it knows: a binary of ten lines is a
// whole Granary.
func TestNode(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dev := command(ctx, "dev", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "-o", "json")
	out, err := dev.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = dev.Process.Signal(os.Interrupt)
		if err := dev.Wait(); err != nil {
			t.Errorf("the node: %v", err)
		}
	}()
	var ready struct{ Listen string }
	if err := json.NewDecoder(out).Decode(&ready); err != nil {
		t.Fatal(err)
	}
	run := func(stdin string, args ...string) string {
		t.Helper()
		cmd := command(ctx, append(args, "--target", ready.Listen)...)
		cmd.Stdin = strings.NewReader(stdin)
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, text)
		}
		return string(text)
	}
	if kinds := run("", "kind", "ls"); !strings.Contains(kinds, "parcel") || strings.Contains(kinds, "account") {
		t.Errorf("the node runs\n%s", kinds)
	}
	run(`{"specversion":"1.0","id":"1","source":"/lyon","type":"Scanned","subject":"parcel/JD014","data":{"place":"lyon"}}`, "publish")
	if state := run("", "grain", "get", "parcel/JD014"); !strings.Contains(state, `"lyon"`) {
		t.Errorf("the state is\n%s", state)
	}
}
