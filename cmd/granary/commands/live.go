package commands

import (
	"fmt"
	"time"
)

// liveLine shows how a long command is going: one line that is written over on a terminal, else a line now and then.
type liveLine struct {
	app   *app
	shown time.Time
	drawn bool
}

func (a *app) newLiveLine() *liveLine { return &liveLine{app: a, shown: time.Now()} }

func (l *liveLine) show(text string) {
	const pause = 5 * time.Second
	switch {
	case l.app.format == formatJSON:
	case l.app.screen.errTerminal:
		fmt.Fprintf(l.app.Err, "\r%s\x1b[K", text) // to the line's begin, the text, and nothing of the last one behind it
		l.drawn = true
	case time.Since(l.shown) >= pause:
		l.shown = time.Now()
		fmt.Fprintln(l.app.Err, text)
	}
}

// clear takes the line away.
func (l *liveLine) clear() {
	if l.drawn {
		fmt.Fprint(l.app.Err, "\r\x1b[K")
		l.drawn = false
	}
}
