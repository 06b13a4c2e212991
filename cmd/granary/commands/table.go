package commands

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// table prints rows in columns. Long lists are printed in parts, so that memory stays bounded: the columns of a later
// part are at least as wide as those of an earlier one.
type table struct {
	out    io.Writer
	paint  paint
	header []string
	// right marks the columns of numbers.
	right  []bool
	widths []int
	rows   [][]string
	begun  bool
}

// newTable makes a table. A title that begins with ">" is of a column of numbers.
func (a *app) newTable(titles ...string) *table {
	t := &table{out: a.Out, paint: a.screen.out, widths: make([]int, len(titles))}
	for _, title := range titles {
		name, number := strings.CutPrefix(title, ">")
		t.header = append(t.header, name)
		t.right = append(t.right, number)
	}
	t.measure(t.header)
	return t
}

// row adds a row.
func (t *table) row(cells ...string) error {
	for i := range cells {
		cells[i] = plain(cells[i])
	}
	t.measure(cells)
	t.rows = append(t.rows, cells)
	const part = 2000
	if len(t.rows) < part {
		return nil
	}
	return t.flush()
}

func (t *table) measure(cells []string) {
	for i, cell := range cells {
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
	}
}

// flush prints what is left. A table without rows prints nothing.
func (t *table) flush() error {
	if len(t.rows) == 0 {
		return nil
	}
	if !t.begun {
		t.begun = true
		if _, err := fmt.Fprintln(t.out, t.paint.bold(t.line(t.header))); err != nil {
			return err
		}
	}
	for _, row := range t.rows {
		if _, err := fmt.Fprintln(t.out, t.line(row)); err != nil {
			return err
		}
	}
	t.rows = t.rows[:0]
	return nil
}

func (t *table) line(cells []string) string {
	var b strings.Builder
	for i, cell := range cells {
		gap := strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell))
		if t.right[i] {
			b.WriteString(gap + cell)
		} else {
			b.WriteString(cell + gap)
		}
		b.WriteString("  ")
	}
	return strings.TrimRight(b.String(), " ")
}
