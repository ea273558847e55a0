// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Absent explains options that a command does not have and that a person may expect, because docker,
// podman or nerdctl have them. Keys are names without dashes, long and short ones; values say what to do
// instead, as a hint.
type Absent map[string]string

// absent holds what each command said of options that it does not have.
var absent = map[*cobra.Command]Absent{}

// ExplainAbsent adds explanations to a command. It panics when the command has such an option.
func ExplainAbsent(cmd *cobra.Command, options Absent) {
	if absent[cmd] == nil {
		absent[cmd] = Absent{}
	}
	for name, text := range options {
		if cmd.Flags().Lookup(name) != nil || len(name) == 1 && cmd.Flags().ShorthandLookup(name) != nil {
			panic("cli: " + cmd.Name() + " has the option " + dashes(name))
		}
		absent[cmd][name] = text
	}
}

// flagError words an error of the option parser. An option that does not exist is answered with the
// explanation that the command has for it, else with the nearest name.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var noValue *pflag.ValueRequiredError
	var badValue *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown) && cmd.HasSubCommands() && cmd.Flags().NArg() > 0:
		return unknownVerb(cmd, cmd.Flags().Args()) // whose option it may be
	case errors.As(err, &unknown):
		return unknownOption(cmd, unknown)
	case errors.As(err, &noValue):
		f, name := noValue.GetFlag(), dashes(noValue.GetSpecifiedName())
		if name == "-h" {
			return Hint(fmt.Errorf("-h is --%s here and needs a value", f.Name), "--help shows the help")
		}
		return fmt.Errorf("option %s needs a value", name)
	case errors.As(err, &badValue):
		return fmt.Errorf("--%s %q: %w", badValue.GetFlag().Name, badValue.GetValue(), cause(badValue.Unwrap()))
	}
	return err
}

// cause takes the words of package strconv, which repeat the value and name a Go function, out of an error.
func cause(err error) error {
	if err == nil {
		return errors.New("no value for it")
	}
	if text := err.Error(); strings.HasPrefix(text, "strconv.") {
		return errors.New(text[strings.LastIndex(text, ": ")+2:])
	}
	return err
}

func unknownOption(cmd *cobra.Command, e *pflag.NotExistError) error {
	name := e.GetSpecifiedName()
	err := fmt.Errorf("unknown option %s", dashes(name))
	if text := absent[cmd][name]; text != "" {
		return Hint(err, "%s", text)
	}
	// One dash before a long name: the parser has stopped at a letter of it.
	group := e.GetSpecifiedShortnames()
	if long, _, _ := strings.Cut(group, "="); len(long) > 2 {
		name = long
		err = fmt.Errorf("unknown option -%s", long)
		if cmd.Flags().Lookup(long) != nil {
			return fmt.Errorf("%w; did you mean --%s?", err, long)
		}
	} else if group != "" {
		return err
	}
	if near := nearestOption(cmd, name); near != "" {
		return fmt.Errorf("%w; did you mean --%s?", err, near)
	}
	return err
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// nearestOption gives the visible option whose name takes the fewest edits to become name, or "" where none is
// near: a third of its letters may be wrong. One that begins with name counts as near.
func nearestOption(cmd *cobra.Command, name string) string {
	name = strings.ToLower(name)
	best, edits := "", 0
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		n := distance(name, f.Name)
		if len(name) >= 3 && strings.HasPrefix(f.Name, name) {
			n = 1
		}
		if n <= max(1, len(name)/3) && (best == "" || n < edits) {
			best, edits = f.Name, n
		}
	})
	return best
}

// distance counts the bytes to insert, delete, replace or swap with the next one to make b of a.
func distance(a, b string) int {
	const far = 1 << 20
	if len(a) > 64 { // no option is that long
		return far
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
