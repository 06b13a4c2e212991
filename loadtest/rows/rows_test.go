package rows

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackedAndPlain: a file and its packed form say the same, and are let go at the end.
func TestPackedAndPlain(t *testing.T) {
	const text = "a,b\n1,2\nx,300\n"
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.WriteString(z, text); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"t.csv": []byte(text), "t.csv.gz": packed.Bytes()} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path, []string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		row, err := f.Next()
		if n, m := row.Number(0, 8), row.Number(1, 8); err != nil || n != 1 || m != 2 || row.Err() != nil {
			t.Errorf("%s: %d, %d, %v, %v", name, n, m, err, row.Err())
		}
		row, err = f.Next()
		row.Number(0, 8)
		row.Number(1, 8)
		if err != nil || row.Err() == nil || !strings.Contains(f.Wrong(row.Err()).Error(), name+": line 3: a: ") {
			t.Errorf("%s: %v, %v", name, err, row.Err())
		}
		if _, err := f.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: at the end: %v", name, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := Open(path, []string{"b", "a"}); err == nil || !strings.Contains(err.Error(), "the columns are a,b: want b,a") {
			t.Errorf("%s: other columns: %v", name, err)
		}
	}
}
