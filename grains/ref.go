package grains

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxKeyBytes is the longest key of a grain.
const MaxKeyBytes = 512

// Ref names a grain.
type Ref struct {
	// Kind of the grain.
	Kind string
	// Key within the kind: 1 to 512 bytes of UTF-8 without control characters.
	Key string
}

// String is the form users see: "kind/key".
func (r Ref) String() string { return r.Kind + "/" + r.Key }

// ParseRef reads "kind/key". Everything behind the first slash is the key, so a key may hold slashes.
func ParseRef(s string) (Ref, error) {
	kind, key, ok := strings.Cut(s, "/")
	if !ok {
		return Ref{}, fmt.Errorf("%q is not a grain: want kind/key, for example account/42", clip(s))
	}
	if !validName(kind) {
		return Ref{}, fmt.Errorf("%q is not a grain: %q is not a kind's name", clip(s), clip(kind))
	}
	if err := CheckKey(key); err != nil {
		return Ref{}, err
	}
	return Ref{kind, key}, nil
}

// validName tells whether s has the form of a kind's name: ^[a-z][a-z0-9_-]{0,63}$. By hand, because every send asks, and
// a regular expression took half of a small turn.
func validName(s string) bool {
	if len(s) == 0 || len(s) > 64 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// CheckKey tells what is wrong with a key, or nil.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("the key is empty: want kind/key")
	case len(key) > MaxKeyBytes:
		return fmt.Errorf("the key has %d bytes; at most %d are allowed", len(key), MaxKeyBytes)
	case !utf8.ValidString(key):
		return fmt.Errorf("the key is not UTF-8")
	}
	for i, r := range key {
		if unicode.IsControl(r) {
			return fmt.Errorf("the key has a control character (%U) at byte %d", r, i)
		}
	}
	return nil
}

// clip keeps hostile input out of error texts.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "?") + "…"
	}
	return strings.ToValidUTF8(s, "?")
}
