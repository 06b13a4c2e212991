package grains

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseRef(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Ref
		says string // part of the error; empty for none
	}{
		{"account/42", Ref{"account", "42"}, ""},
		{"account/a/b/", Ref{"account", "a/b/"}, ""},
		{"a/ä", Ref{"a", "ä"}, ""},
		{"account/" + strings.Repeat("x", MaxKeyBytes), Ref{"account", strings.Repeat("x", MaxKeyBytes)}, ""},
		{"account/" + strings.Repeat("x", MaxKeyBytes+1), Ref{}, "at most 512"},
		{"account", Ref{}, "want kind/key"},
		{"", Ref{}, "want kind/key"},
		{"account/", Ref{}, "empty"},
		{"/42", Ref{}, "not a kind's name"},
		{"Account/42", Ref{}, "not a kind's name"},
		{"account/\xff", Ref{}, "not UTF-8"},
		{"account/a\nb", Ref{}, "U+000A"},
		{"account/a\u0085b", Ref{}, "U+0085"},
	} {
		got, err := ParseRef(tc.in)
		switch {
		case tc.says == "" && (err != nil || got != tc.want || got.String() != tc.in):
			t.Errorf("ParseRef(%q) = %v, %v", tc.in, got, err)
		case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says) || len(err.Error()) > 300):
			t.Errorf("ParseRef(%q): %v; want it to say %q", tc.in, err, tc.says)
		}
	}
}

// TestValidName compares the check by hand with the form that the documentation gives.
func TestValidName(t *testing.T) {
	form := regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)
	rapid.Check(t, func(rt *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-zA-Z0-9_/-]{0,70}`), rapid.StringMatching(`[a-z][a-z0-9_-]{0,64}\n?`)).Draw(rt, "name")
		if got, want := validName(s), form.MatchString(s); got != want {
			rt.Fatalf("validName(%q) = %v", s, got)
		}
	})
}
