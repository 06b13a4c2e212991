package gateway

import (
	"encoding/base64"
	"encoding/binary"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/grains"
)

// Tokens of pages are base64url over a format byte, a check that ties them to the request they belong to, and where the
// next page begins. They are not secret: a client that forges one only turns to another page.
const (
	historyToken = 'h'
	listToken    = 'l'
	// of a list of reminders
	reminderToken = 'r'
)

var tokenText = base64.RawURLEncoding.Strict()

func seal(format byte, check uint64, place []byte) string {
	b := binary.LittleEndian.AppendUint32([]byte{format}, uint32(check))
	return tokenText.EncodeToString(append(b, place...))
}

func unseal(token string, format byte, check uint64) ([]byte, bool) {
	if len(token) > 2*grains.MaxKeyBytes {
		return nil, false
	}
	b, err := tokenText.DecodeString(token)
	if err != nil || len(b) < 5 || b[0] != format || binary.LittleEndian.Uint32(b[1:]) != uint32(check) {
		return nil, false
	}
	return b[5:], true
}

func badToken() error {
	return answer.Invalid(answer.InvalidPage, "page_token", "it is not of an answer to this request; page on with the other fields unchanged, or begin without it")
}

// historyPage is what the pages of one history have in common.
type historyPage struct {
	grain       string
	from        uint64
	newestFirst bool
}

func (p historyPage) check() uint64 {
	b := binary.AppendUvarint([]byte(p.grain+"\x00"), p.from)
	if p.newestFirst {
		b = append(b, 1)
	}
	return xxhash.Sum64(b)
}

// token of the page that begins with a seq.
func (p historyPage) token(next uint64) string {
	return seal(historyToken, p.check(), binary.AppendUvarint(nil, next))
}

func (p historyPage) parse(token string) (next uint64, err error) {
	place, ok := unseal(token, historyToken, p.check())
	if !ok {
		return 0, badToken()
	}
	next, n := binary.Uvarint(place)
	if n != len(place) || next == 0 || next < p.from {
		return 0, badToken()
	}
	return next, nil
}

// listPage is what the pages of one list have in common.
type listPage struct{ kind, prefix string }

func (p listPage) check() uint64 { return xxhash.Sum64String(p.kind + "\x00" + p.prefix) }

// token of the page behind a key.
func (p listPage) token(after string) string { return seal(listToken, p.check(), []byte(after)) }

func (p listPage) parse(token string) (after string, err error) {
	place, ok := unseal(token, listToken, p.check())
	if !ok || len(place) == 0 || !utf8.Valid(place) {
		return "", badToken()
	}
	return string(place), nil
}
