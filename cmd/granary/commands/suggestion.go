package commands

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// noSubcommand refuses arguments of a command that only holds others: they were meant to name one.
func (a *app) noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	f := usageFailure(cmd, "%s has no command %q", cmd.CommandPath(), args[0])
	if name := nearest(args[0], commandNames(cmd.Commands())); name != "" {
		f.next = "did you mean: " + cmd.CommandPath() + " " + name
	}
	return f
}

// flagFailure is what is said about a flag that is unknown or has a wrong value.
func flagFailure(cmd *cobra.Command, err error) error {
	f := usageFailure(cmd, "%s: %w", cmd.CommandPath(), err)
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var names []string
		cmd.Flags().VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
		if name := nearest(unknown.GetSpecifiedName(), names); name != "" {
			f.next = "did you mean --" + name + "? all flags: " + f.next
		}
	}
	var wrong *pflag.InvalidValueError
	if errors.As(err, &wrong) {
		f.problem = cmd.CommandPath() + ": --" + wrong.GetFlag().Name + " " + strconv.Quote(wrong.GetValue()) + ": " + wanted(wrong)
	}
	return f
}

// wanted says which values a flag takes. Our own kinds of flags say so themselves.
func wanted(wrong *pflag.InvalidValueError) string {
	switch wrong.GetFlag().Value.Type() {
	case "int", "uint64":
		return "want a whole number"
	case "duration":
		return "want a time with its unit, for example 500ms, 30s or 5m"
	case "bool":
		return "want true or false"
	case "text":
		return "want " + wrong.GetFlag().Usage[strings.LastIndex(wrong.GetFlag().Usage, ":")+2:]
	}
	return wrong.Unwrap().Error()
}

func commandNames(commands []*cobra.Command) []string {
	var names []string
	for _, c := range commands {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

func joinNames(commands []*cobra.Command) string { return strings.Join(commandNames(commands), ", ") }

// nearest is the name that was probably meant by word, or "".
func nearest(word string, names []string) string {
	best, least := "", 100
	for _, name := range names {
		d := distance(word, name)
		if len(word) > 1 && strings.HasPrefix(name, word) {
			d = 1
		}
		if d < least && d <= max(1, len(name)/3) { // with more mistakes it is another word
			best, least = name, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace, or swap with the next, to make b out of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			d := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				d++
			}
			d = min(d, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
