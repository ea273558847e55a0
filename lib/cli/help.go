// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// synopsis is the usage line of a command, with the command's own name before the verb.
func synopsis(cmd *cobra.Command) string {
	if cmd.HasParent() {
		return cmd.Parent().CommandPath() + " " + cmd.Use
	}
	return cmd.Use
}

func usagePointer(cmd *cobra.Command) {
	if cmd == nil {
		cmd = current.root
	}
	fmt.Fprintf(os.Stderr, "hint: %s --help shows how it is used\n", cmd.CommandPath())
}

// help prints what --help shows.
func help(w io.Writer, cmd *cobra.Command) error {
	a := abouts[cmd]
	if a == nil {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s\n\n%s\n", synopsis(cmd), strings.TrimSpace(strings.ReplaceAll(a.Long, "\t", "    ")))
	if verbs := visibleVerbs(cmd); len(verbs) > 0 {
		b.WriteString("\nverbs:\n")
		rows := [][2]string{}
		for _, v := range verbs {
			rows = append(rows, [2]string{v.Name(), v.Short})
		}
		twoColumns(&b, rows)
	}
	section := func(title string, fs *pflag.FlagSet) {
		if rows := flagRows(fs); len(rows) > 0 {
			fmt.Fprintf(&b, "\n%s:\n", title)
			twoColumns(&b, rows)
		}
	}
	if cmd.HasParent() {
		section("options", cmd.LocalFlags())
		section("options of every verb", cmd.InheritedFlags())
	} else {
		section("options", cmd.Flags())
	}
	if len(a.Examples) > 0 {
		b.WriteString("\nexamples:\n")
		for i, e := range a.Examples {
			if i > 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "  %s:\n", e.Note)
			for line := range strings.Lines(strings.TrimSpace(e.Text)) {
				fmt.Fprintf(&b, "    %s\n", strings.TrimRight(line, "\n"))
			}
		}
	}
	b.WriteString("\nexit status:\n")
	rows := [][2]string{}
	for _, s := range exitStatus(cmd) {
		rows = append(rows, [2]string{s.Code, s.Meaning})
	}
	twoColumns(&b, rows)
	_, err := io.WriteString(w, b.String())
	return err
}

func visibleVerbs(cmd *cobra.Command) []*cobra.Command {
	var verbs []*cobra.Command
	for _, c := range cmd.Commands() {
		if !c.Hidden && abouts[c] != nil {
			verbs = append(verbs, c)
		}
	}
	return verbs
}

func flagRows(fs *pflag.FlagSet) [][2]string {
	var rows [][2]string
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		left := "    --" + f.Name
		if f.Shorthand != "" {
			left = "-" + f.Shorthand + ", --" + f.Name
		}
		name, usage := pflag.UnquoteUsage(f)
		if name != "" {
			left += " " + name
		}
		if d := defaultOf(f); d != "" {
			usage += " (default: " + d + ")"
		}
		rows = append(rows, [2]string{left, usage})
	})
	return rows
}

// defaultOf is the default of an option as a person wants to see it: nothing where it is nothing.
func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "0", "[]", "0s", "-1":
		return ""
	}
	return f.DefValue
}

// width is where help texts are folded.
const width = 80

func twoColumns(b *strings.Builder, rows [][2]string) {
	left := 0
	for _, r := range rows {
		left = max(left, len(r[0]))
	}
	left = min(left, 26)
	for _, r := range rows {
		fmt.Fprintf(b, "  %-*s", left, r[0])
		col := 0
		if len(r[0]) > left {
			col = width
		}
		for word := range strings.FieldsSeq(r[1]) {
			if col > 0 && left+4+col+1+len(word) > width {
				fmt.Fprintf(b, "\n%*s", left+4, "")
				col = 0
			} else if col > 0 {
				b.WriteString(" ")
				col++
			} else {
				b.WriteString("  ")
			}
			b.WriteString(word)
			col += len(word)
		}
		b.WriteString("\n")
	}
}

// exitStatus lists what a command can end with.
func exitStatus(cmd *cobra.Command) []ExitStatus {
	a := abouts[cmd]
	if a.Failure != 0 {
		own := ExitStatus{strconv.Itoa(a.Failure), "a failure of the command itself, wrong usage included"}
		return append(slices.Clone(a.Status), own)
	}
	codes := append([]int{0, ExitOther, ExitUsage}, a.Exit...)
	slices.Sort(codes)
	var all []ExitStatus
	for _, c := range slices.Compact(codes) {
		if meanings[c] == "" {
			panic(fmt.Sprintf("cli: %s: %d is no common exit status", cmd.Name(), c))
		}
		all = append(all, ExitStatus{strconv.Itoa(c), meanings[c]})
	}
	return append(all, a.Status...)
}
