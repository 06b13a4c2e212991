package commands

import "github.com/spf13/cobra"

// addCompletion adds `granary completion`, which cobra writes, in the manner of the other commands.
func (a *app) addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Short = "print the completion script for a shell"
		cmd.Long = `Prints a script that teaches a shell to complete granary's commands, flags, kinds and grains. Where to put it, the
help of each shell's command says.`
		cmd.Example = "  source <(granary completion bash)"
		for _, shell := range cmd.Commands() {
			shell.Short = "print the completion script for " + shell.Name()
		}
		a.group(cmd)
	}
}
