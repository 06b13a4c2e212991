package commands

import (
	"cmp"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// exits is the last section of every help text.
const exits = `  0  done
  1  failed, or found something wrong
  2  not understood: nothing was tried
  3  no node answered at the target`

// help prints the help of a command in the order of a manual page. It is our own, because the help of cobra puts the
// examples before the commands and has no exit codes, and that of charm.land/fang cuts examples that are wider than the
// terminal, asks the terminal for its colours, and writes to os.Stdout whatever the command's output is.
func (a *app) help(cmd *cobra.Command, _ []string) {
	s := sections{paint: a.screen.out}
	s.WriteString(reflow(cmp.Or(cmd.Long, cmd.Short)))
	s.add("USAGE", "  "+usageLine(cmd))
	s.add("COMMANDS", commandList(cmd))
	s.add("EXAMPLES", strings.Trim(cmd.Example, "\n"))
	s.add("FLAGS", flagList(cmd.LocalFlags()))
	if cmd.HasParent() {
		s.add("FLAGS OF EVERY COMMAND", flagList(cmd.InheritedFlags()))
	}
	s.add("EXIT CODES", exits)
	fmt.Fprint(a.Out, s.String())
}

// helpCommand is `granary help COMMAND`, for those who ask that way.
func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "help [COMMAND]",
		Short:  "show the help of a command",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 && found.HasSubCommands() {
				return a.noSubcommand(found, rest)
			}
			a.help(found, nil)
			return nil
		},
	}
}

// sections is a help text in the making.
type sections struct {
	strings.Builder
	paint paint
}

func (s *sections) add(title, body string) {
	if body != "" {
		s.WriteString("\n" + s.paint.bold(title) + "\n" + body + "\n")
	}
}

func usageLine(cmd *cobra.Command) string {
	line := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		return cmd.CommandPath() + " COMMAND"
	}
	return line
}

func commandList(cmd *cobra.Command) string {
	width := 0
	for _, c := range cmd.Commands() {
		width = max(width, len(c.Name()))
	}
	var lines []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			lines = append(lines, fmt.Sprintf("  %-*s  %s", width, c.Name(), c.Short))
		}
	}
	return strings.Join(lines, "\n")
}

func flagList(flags *pflag.FlagSet) string {
	return strings.TrimRight(flags.FlagUsagesWrapped(helpWidth), "\n")
}

// helpWidth is how wide help texts are at most, examples apart: those must stay as they are to be copied.
const helpWidth = 80

// reflow breaks the lines of paragraphs anew. Lines that begin with a space stay as they are.
func reflow(text string) string {
	var b strings.Builder
	column := 0
	end := func() {
		if column > 0 {
			b.WriteString("\n")
		}
		column = 0
	}
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if line == "" || line[0] == ' ' {
			end()
			b.WriteString(line + "\n")
			continue
		}
		for word := range strings.FieldsSeq(line) {
			if width := utf8.RuneCountInString(word); column > 0 && column+1+width > helpWidth {
				end()
			}
			if column > 0 {
				b.WriteString(" ")
				column++
			}
			b.WriteString(word)
			column += utf8.RuneCountInString(word)
		}
	}
	end()
	return b.String()
}
