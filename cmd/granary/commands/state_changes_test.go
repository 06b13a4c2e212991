package commands

import (
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func parseState(t *testing.T, text string) *structpb.Struct {
	t.Helper()
	if text == "" {
		return nil
	}
	s := &structpb.Struct{}
	if err := s.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStateChanges(t *testing.T) {
	for _, test := range []struct{ before, after, want string }{
		{`{"a":1}`, `{"a":1}`, ``},
		{``, `{"a":1,"b":[]}`, `a: + 1`},
		{`{"a":1,"b":"x"}`, `{"a":2}`, `a: 1 → 2, b: - "x"`},
		{`{"a":{"b":{"c":1}},"z":null}`, `{"a":{"b":{"c":null}},"z":null}`, `a.b.c: 1 → null`},
		{`{"a":{"b":1}}`, `{"a":[1]}`, `a: {"b":1} → [1]`},
		{`{"l":[1,2,3]}`, `{"l":[2,3,4]}`, `l[0]: - 1, l[2]: + 4`},
		{`{"l":[1,2,3]}`, `{"l":[1,5,3]}`, `l[1]: 2 → 5`},
		{`{"l":[1,2,3]}`, `{}`, `l[0]: - 1, l[1]: - 2, l[2]: - 3`},
		{`{"l":[{"n":1,"v":"a"},{"n":2}]}`, `{"l":[{"n":1,"v":"b"},{"n":2}]}`, `l[0].v: "a" → "b"`},
		{`{"l":[1,2,3,4]}`, `{"l":[9,3,1,4]}`, `l[0]: 1 → 9, l[1]: - 2, l[2]: + 1`},
		{`{"l":[[1],[2]]}`, `{"l":[[1],[2,3]]}`, `l[1][1]: + 3`},
	} {
		var got []string
		for _, c := range stateChanges(parseState(t, test.before), parseState(t, test.after)) {
			got = append(got, c.Path+": "+c.line())
		}
		if text := strings.Join(got, ", "); text != test.want {
			t.Errorf("%s to %s: %s\nwant %s", test.before, test.after, text, test.want)
		}
	}
}

// TestKept: what two lists have in common is paired in order, and there is no longer way to do that.
func TestKept(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 0))
	for range 2000 {
		draw := func() (list []*structpb.Value) {
			for range rnd.IntN(8) {
				list = append(list, structpb.NewNumberValue(float64(rnd.IntN(3))))
			}
			return list
		}
		before, after := draw(), draw()
		pairs := kept(before, after)
		i, j := -1, -1
		for _, p := range pairs {
			if p[0] <= i || p[1] <= j || !proto.Equal(before[p[0]], after[p[1]]) {
				t.Fatalf("%v and %v: the pairs are %v", before, after, pairs)
			}
			i, j = p[0], p[1]
		}
		if want := common(before, after); len(pairs) != want {
			t.Fatalf("%v and %v: %d pairs %v, want %d", before, after, len(pairs), pairs, want)
		}
	}
}

// common is the length of a longest common subsequence, by trying all.
func common(a, b []*structpb.Value) int {
	if len(a) == 0 || len(b) == 0 {
		return 0
	}
	if proto.Equal(a[0], b[0]) {
		return 1 + common(a[1:], b[1:])
	}
	return max(common(a[1:], b), common(a, b[1:]))
}
