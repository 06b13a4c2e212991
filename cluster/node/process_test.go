package node

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/granary-dev/granary/grains/catalog"
)

// TestProfilesAreServedWhenAsked: what the runtime tells of the process is there with the option, and only then.
func TestProfilesAreServedWhenAsked(t *testing.T) {
	for _, asked := range []bool{true, false} {
		p, err := Serve(t.Context(), ProcessOptions{
			Options: Options{DataDir: "data", FS: vfs.NewMem(), Catalog: catalog.Builtin(), Shards: 2}, Listen: "127.0.0.1:0", Profiles: asked,
		})
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{"/debug/pprof/": "goroutine", "/debug/pprof/heap?debug=1": "heap profile", "/debug/pprof/cmdline": "\x00"} {
			got, body := fetch(t, "http://"+p.Addr()+path)
			served := asked && !strings.HasSuffix(path, "cmdline") // flags may hold what is nobody's business
			if (got == http.StatusOK) != served || served && !strings.Contains(body, want) {
				t.Errorf("asked for: %v; GET %s answers %d with\n%.200s", asked, path, got, body)
			}
		}
		if err := p.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

func fetch(t *testing.T, url string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}
