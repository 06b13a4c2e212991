package cloudevents_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/granary-dev/granary/client/cloudevents"
)

// read returns what a reader makes of text, one word a line: an id, or the error.
func read(t *testing.T, in io.Reader) (got []string) {
	t.Helper()
	r := cloudevents.NewReader(in)
	for {
		event, err := r.Next()
		var bad *cloudevents.Error
		switch {
		case errors.Is(err, io.EOF):
			return got
		case errors.As(err, &bad):
			got = append(got, err.Error())
			if bad.Line != r.Line() {
				t.Errorf("the error names line %d, the reader is at %d", bad.Line, r.Line())
			}
		case err != nil:
			return append(got, "ended: "+err.Error())
		default:
			got = append(got, fmt.Sprintf("%d:%s", r.Line(), event.GetId()))
		}
	}
}

func line(id, filler string) string {
	return `{"specversion":"1.0","id":"` + id + `","source":"/s","type":"T","subject":"a/1","data":{"x":"` + filler + `"}}`
}

func TestReader(t *testing.T) {
	const empty = 87 // bytes of a line with an id of one byte and no filler
	if n := len(line("a", "")); n != empty {
		t.Fatalf("the empty line has %d bytes", n)
	}
	long := strings.Repeat("z", 300<<10)
	most := strings.Repeat("z", cloudevents.MaxLine-empty)
	const tooLong = "the line has more than 4194304 bytes; split its data or send it as several events"
	for _, test := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"no newline at the end", line("a", ""), "1:a"},
		{"newline at the end", line("a", "") + "\n", "1:a"},
		{"Windows", "\uFEFF" + line("a", "") + "\r\n" + line("b", "") + "\r\n", "1:a 2:b"},
		{"empty lines count", "\n  \n" + line("a", "") + "\n\n" + line("b", "") + "\n\n", "3:a 5:b"},
		{"bad line between good ones", line("a", "") + "\n{}\n" + line("b", ""), `1:a line 2: specversion: is missing; want "1.0" 3:b`},
		{"longer than the buffer", line("a", long) + "\n" + line("b", "") + "\n" + line("c", long), "1:a 2:b 3:c"},
		{"as long as may be", line("a", most) + "\n" + line("b", "") + "\n" + line("c", most), "1:a 2:b 3:c"},
		{"one byte too long", line("a", most+"z") + "\n" + line("b", ""), "line 1: " + tooLong + " 2:b"},
		{"far too long", line("a", most+most+most) + "\n" + line("b", ""), "line 1: " + tooLong + " 2:b"},
		{"far too long at the end", line("a", "") + "\n" + line("b", most+most), "1:a line 2: " + tooLong},
	} {
		t.Run(test.name, func(t *testing.T) {
			for how, in := range map[string]io.Reader{
				"whole":  strings.NewReader(test.in),
				"halves": iotest.HalfReader(strings.NewReader(test.in)),
			} {
				if got := strings.Join(read(t, in), " "); got != test.want {
					t.Errorf("%s: got  %s\nwant %s", how, got, test.want)
				}
			}
		})
	}
}

func TestReaderFails(t *testing.T) {
	in := io.MultiReader(strings.NewReader(line("a", "")+"\n"), iotest.ErrReader(errors.New("disk on fire")))
	if got := strings.Join(read(t, in), " "); got != "1:a ended: disk on fire" {
		t.Error(got)
	}
}
