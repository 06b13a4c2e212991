package commands

import (
	"os"
	"unicode"

	"golang.org/x/term"
)

// screen is what is known of the terminals behind the standard streams.
type screen struct {
	// in, outTerminal and errTerminal tell whether a person is at the other end.
	inTerminal, errTerminal bool
	// out and err paint text for standard output and standard error.
	out, err paint
}

func newScreen(env Environment) screen {
	colour := env.Getenv("NO_COLOR") == "" && env.Getenv("TERM") != "dumb"
	errTerminal := isTerminal(env.Err)
	return screen{
		inTerminal:  isTerminal(env.In),
		errTerminal: errTerminal,
		out:         paint(colour && isTerminal(env.Out)),
		err:         paint(colour && errTerminal),
	}
}

// isTerminal tells whether a stream, an io.Reader or io.Writer, is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// paint is whether text gets colours.
type paint bool

func (p paint) bold(s string) string  { return p.with("1", s) }
func (p paint) red(s string) string   { return p.with("1;31", s) }
func (p paint) green(s string) string { return p.with("32", s) }

func (p paint) with(code, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// isPrintable tells whether a rune may go to a terminal as it is. Controls could move the cursor or lie about the text,
// and so could the marks that turn the direction of writing.
func isPrintable(r rune) bool {
	return unicode.IsPrint(r) || r == '\t'
}
