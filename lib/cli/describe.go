// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Description is what a command says of itself: the JSON that "COMMAND __describe" prints. The man pages
// are made from it.
type Description struct {
	Name     string        `json:"name"` // ctr-task, or the verb's: run
	Synopsis string        `json:"synopsis"`
	Short    string        `json:"short"`
	Long     string        `json:"long"`
	Stdin    string        `json:"stdin,omitempty"`
	Stdout   string        `json:"stdout,omitempty"`
	Options  []Option      `json:"options"` // its own; a verb has those of its command besides
	Examples []Example     `json:"examples,omitempty"`
	Exit     []ExitStatus  `json:"exit_status"`
	Env      []Note        `json:"env,omitempty"`
	Files    []Note        `json:"files,omitempty"`
	SeeAlso  []string      `json:"see_also,omitempty"`
	Verbs    []Description `json:"verbs,omitempty"`
}

// Option is one option of a command.
type Option struct {
	Name      string `json:"name"`
	Shorthand string `json:"shorthand,omitempty"`
	Value     string `json:"value,omitempty"` // what its value is called; empty: it takes none
	Type      string `json:"type"`
	Default   string `json:"default,omitempty"`
	Usage     string `json:"usage"`
	Global    bool   `json:"global,omitempty"` // every verb has it
}

// Describe gives the description of a command and of its verbs. It does not depend on the environment.
func Describe(cmd *cobra.Command) Description {
	a := abouts[cmd]
	d := Description{
		Name: cmd.Name(), Synopsis: synopsis(cmd), Short: cmd.Short, Long: a.Long, Stdin: a.Stdin, Stdout: a.Stdout,
		Options: []Option{}, Examples: a.Examples, Exit: exitStatus(cmd), Env: a.Env, Files: a.Files, SeeAlso: a.SeeAlso,
	}
	own := cmd.LocalFlags()
	own.SortFlags = true
	own.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		d.Options = append(d.Options, Option{
			Name: f.Name, Shorthand: f.Shorthand, Value: value, Type: f.Value.Type(), Default: defaultOf(f), Usage: usage,
			Global: cmd.PersistentFlags().Lookup(f.Name) != nil,
		})
	})
	for _, v := range visibleVerbs(cmd) {
		d.Verbs = append(d.Verbs, Describe(v))
	}
	return d
}

// hidden does what only the build asks for: the description and the completion scripts. It tells whether
// that was asked.
func hidden(root *cobra.Command, args []string) bool {
	var err error
	switch {
	case len(args) == 1 && args[0] == "__describe":
		enc := json.NewEncoder(os.Stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "\t")
		err = enc.Encode(Describe(root))
	case len(args) == 2 && args[0] == "__completion" && args[1] == "bash":
		err = root.GenBashCompletionV2(os.Stdout, true)
	case len(args) == 2 && args[0] == "__completion" && args[1] == "zsh":
		err = root.GenZshCompletion(os.Stdout)
	default:
		return false
	}
	if err != nil {
		Warn(err)
		os.Exit(ExitOther)
	}
	return true
}

// brokenStdout tells whether the error is of a write to stdout.
func brokenStdout(err error) bool {
	var p *fs.PathError
	return errors.As(err, &p) && p.Path == os.Stdout.Name()
}
