// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/filter"
)

// FilterOption adds the option --filter to a command that lists things, such as "containers". fields are those that
// the things have, in the form of [filter.ContainerFields]. The function that it returns gives the filter that was
// given, and refuses one that can fit nothing: with a field that there is not, or with a wrong regular expression.
func FilterOption(cmd *cobra.Command, things string, fields []string) func() (filter.Filter, error) {
	var given []string
	cmd.Flags().StringArrayVar(&given, "filter", nil, "list only "+things+" that fit `EXPRESSION`, such as "+fields[0]+"==VALUE; "+
		"with several --filter, one of them must fit")
	CompleteOption(cmd, "filter", cobra.FixedCompletions(fields, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return func() (filter.Filter, error) {
		f, err := filter.Parse(given...)
		if err == nil {
			err = f.Check()
		}
		if err != nil {
			return f, Hint(err, "an EXPRESSION is FIELD, FIELD==VALUE, FIELD!=VALUE or FIELD~=REGEXP, or several joined by commas")
		}
		for _, path := range f.Paths() {
			if !isField(fields, path) {
				return f, Usagef("--filter: %s have no field %q: there are %s", things, strings.Join(path, "."), shown(fields))
			}
		}
		return f, nil
	}
}

func isField(fields, path []string) bool {
	return slices.ContainsFunc(fields, func(f string) bool {
		part, open := strings.CutSuffix(f, ".")
		return open && path[0] == part && len(path) > 1 || strings.Join(path, ".") == f
	})
}

// FilterHelp is what the description of a verb with [FilterOption] says of the fields and the grammar.
func FilterHelp(fields []string) string {
	return "--filter takes the expressions that containerd's API has: FIELD (it is there), FIELD==VALUE, FIELD!=VALUE or " +
		"FIELD~=REGEXP, and several joined by commas, which must all fit. The fields are " + shown(fields) + ". A VALUE or a KEY " +
		"with spaces, commas or the like stands in double quotes."
}

func shown(fields []string) string {
	text := strings.Join(fields, ", ") + ","
	return strings.TrimSuffix(strings.ReplaceAll(text, ".,", ".KEY,"), ",")
}
