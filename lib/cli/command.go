// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// About is what a command must say of itself. Help, man pages and completion are made from it.
type About struct {
	// Long is the description: paragraphs separated by empty lines. A line that starts with a TAB is
	// kept as it is.
	Long string
	// Stdin says what the command reads there, Stdout what it prints there; empty: nothing.
	Stdin, Stdout string
	// Examples: at least one (a command that has only verbs needs none).
	Examples []Example
	// Exit lists which of the common statuses (see [Status]) can be met, besides 0, 1 and 2.
	Exit []int
	// Status lists statuses of the command's own, such as those of the program it runs.
	Status []ExitStatus
	// Failure, when not 0, is the status of whatever goes wrong in the command itself, usage errors
	// included. It is 125 for the commands that otherwise end with their program's status.
	Failure int
	// Args checks the number of operands; nil: there are none. See [Count].
	Args cobra.PositionalArgs
	// Complete gives the operands that completion offers; nil: none. See [Images] and its like.
	Complete cobra.CompletionFunc
	// OneNamespace: the command works in one namespace and has no option to choose another.
	OneNamespace bool
	// Program: options end at the first operand, because the rest belongs to the program to run.
	Program bool
	// Env and Files are for the man page, besides those that every command has.
	Env, Files []Note
	// SeeAlso names other pages, as "ctr-task-run" or "containers.conf(5)"; its section is 1 if it names none.
	SeeAlso []string
}

// Example is a command line, or several, and what it is for. Lines may show output.
type Example struct {
	Note string `json:"note"` // what it does, as a sentence without a full stop
	Text string `json:"text"` // as typed, without a prompt
}

// ExitStatus is one line of EXIT STATUS. Code is a number or a range, such as "128+n".
type ExitStatus struct {
	Code    string `json:"code"`
	Meaning string `json:"meaning"`
}

// Note is a name and what it means.
type Note struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Run does a command's work. cmd.Context() is cancelled by SIGINT and SIGTERM. args are the operands.
type Run func(cmd *cobra.Command, args []string) error

// abouts holds what each command said of itself; cobra has no place for it.
var abouts = map[*cobra.Command]*About{}

// New makes a verb of a command. use is its synopsis without the command's name, such as
// "rm [OPTION]... IMAGE..."; short says what it does in a line, lower case, without a full stop. It
// panics when about leaves out what every command must say.
func New(use, short string, about About, run Run) *cobra.Command {
	cmd := newCommand(use, short, about)
	if run == nil {
		panic("cli: " + use + " does nothing")
	}
	if about.Long == "" || len(about.Examples) == 0 {
		panic("cli: " + use + " has no description or no example")
	}
	cmd.RunE = started(run)
	return cmd
}

// Root makes a command. run is nil for one that has verbs, which are then added to it with AddCommand.
// Every root has the flags of [Global]; the verbs inherit them.
func Root(use, short string, about About, run Run) (*cobra.Command, *Global) {
	var cmd *cobra.Command
	if run != nil {
		cmd = New(use, short, about, run)
	} else {
		if about.Long == "" {
			panic("cli: " + use + " has no description")
		}
		cmd = newCommand(use, short, about)
		cmd.RunE = needVerb
		cmd.Args = cobra.ArbitraryArgs
	}
	cmd.Version = version()
	cmd.SuggestionsMinimumDistance = 2
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetHelpCommand(helpVerb(cmd))
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) { current.helped = help(cmd.OutOrStdout(), cmd) })
	cmd.SetUsageFunc(func(*cobra.Command) error { return nil })
	cmd.SetFlagErrorFunc(flagError)
	return cmd, newGlobal(cmd, !about.OneNamespace)
}

// Group makes a verb that has verbs of its own, which are added to it with AddCommand. use is its name alone, such
// as "blob".
func Group(use, short string, about About) *cobra.Command {
	if about.Long == "" {
		panic("cli: " + use + " has no description")
	}
	cmd := newCommand(use+" VERB [OPTION]... [OPERAND]...", short, about)
	cmd.RunE = needVerb
	cmd.Args = cobra.ArbitraryArgs
	return cmd
}

func newCommand(use, short string, about About) *cobra.Command {
	if short == "" {
		panic("cli: " + use + " does not say what it is")
	}
	cmd := &cobra.Command{
		Use:                   use,
		Short:                 short,
		Long:                  about.Long,
		Args:                  about.Args,
		ValidArgsFunction:     about.Complete,
		DisableFlagsInUseLine: true,
		SilenceErrors:         true,
		SilenceUsage:          true,
	}
	if cmd.Args == nil {
		cmd.Args = Count(0, 0)
	}
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	cmd.Flags().SetInterspersed(!about.Program)
	abouts[cmd] = &about
	return cmd
}

// started marks the end of parsing: an error before it is the user's, see [Main].
func started(run Run) Run {
	return func(cmd *cobra.Command, args []string) error {
		current.running = true
		return run(cmd, args)
	}
}

func needVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no verb given")
	}
	return unknownVerb(cmd, args)
}

// helpVerb is "help VERB", as git has it; --help does the same and is what pages and completion show.
func helpVerb(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [VERB]", Short: "show how a verb is used", Hidden: true,
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(_ *cobra.Command, args []string) error {
			verb, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownVerb(root, args)
			}
			return help(root.OutOrStdout(), verb)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) (verbs []cobra.Completion, _ cobra.ShellCompDirective) {
			for _, c := range root.Commands() {
				if len(args) == 0 && !c.Hidden {
					verbs = append(verbs, cobra.CompletionWithDesc(c.Name(), c.Short))
				}
			}
			return verbs, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

func unknownVerb(cmd *cobra.Command, args []string) error {
	err := fmt.Errorf("unknown verb %q", args[0])
	var near []string
	for _, c := range cmd.Commands() {
		if slices.Contains(c.SuggestFor, args[0]) {
			near = append(near, c.Name())
		}
	}
	if near == nil {
		near = cmd.SuggestionsFor(args[0])
	}
	if len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	return err
}

// Count accepts from min to max operands; max < 0: any number.
func Count(min, max int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < min && len(args) == 0:
			return fmt.Errorf("missing operand")
		case len(args) < min:
			return fmt.Errorf("missing operand after %q", args[len(args)-1])
		case max >= 0 && len(args) > max:
			return fmt.Errorf("extra operand %q", args[max])
		}
		return nil
	}
}
