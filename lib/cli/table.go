// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli/format"
)

// Column is one column of a table.
type Column[T any] struct {
	Name   string         // lower case, as -o names it
	Value  func(T) string // TABs and line breaks in it are made visible, except with -z
	Help   string         // what it holds, for -o in the man page
	Right  bool           // aligned right, for numbers
	Hidden bool           // shown only when -o names it
}

// Table prints records of a type, each on a line (with -z: ended by NUL), the key first. On a terminal the
// columns are aligned below a header; elsewhere they are separated by TABs and there is no header.
type Table[T any] struct {
	// Columns: the first is the key, which is what -q prints.
	Columns []Column[T]
	// JSON gives the value that --json prints and --format is applied to; nil: the record itself.
	JSON func(T) any

	columns          []string
	quiet, json, nul bool
	format           string
}

// Flags adds -o, -q, -z, --json and --format to a command that prints the table.
func (t *Table[T]) Flags(cmd *cobra.Command) {
	f := cmd.Flags()
	var names, help []string
	for _, c := range t.Columns {
		names = append(names, c.Name)
		text := c.Name
		if c.Help != "" {
			text += " (" + c.Help + ")"
		}
		help = append(help, text)
	}
	f.StringSliceVarP(&t.columns, "columns", "o", nil, "print the `COLUMNS`, separated by commas, of "+strings.Join(help, ", "))
	f.BoolVarP(&t.quiet, "quiet", "q", false, "print the "+t.Columns[0].Name+" alone")
	f.BoolVarP(&t.nul, "null", "z", false, "end each record with NUL instead of a line break")
	f.BoolVar(&t.json, "json", false, "print one JSON value a line")
	f.StringVar(&t.format, "format", "", "print what the Go `TEMPLATE` makes of the JSON value, such as '{{.name}}'; json is --json")
	cmd.MarkFlagsMutuallyExclusive("columns", "quiet", "json", "format")
	CompleteOption(cmd, "format", cobra.NoFileCompletions)
	CompleteOption(cmd, "columns", func(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		done := ""
		if i := strings.LastIndexByte(typed, ','); i >= 0 {
			done = typed[:i+1]
		}
		var all []cobra.Completion
		for _, n := range names {
			if !slices.Contains(strings.Split(done, ","), n) {
				all = append(all, done+n)
			}
		}
		return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
}

// Print prints all records on stdout. An error among them ends the table and is returned; where it is the first, nothing is printed.
func (t *Table[T]) Print(records iter.Seq2[T, error]) error {
	p, err := t.Printer(os.Stdout)
	if err != nil {
		return err
	}
	begun := false
	for r, err := range records {
		if err == nil {
			err = p.Add(r)
		}
		if err != nil {
			if begun {
				p.Flush()
			}
			return err
		}
		begun = true
	}
	return p.Flush()
}

// PrintAll is Print for a slice.
func (t *Table[T]) PrintAll(records []T) error {
	return t.Print(func(yield func(T, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	})
}

// Printer prints records as they come.
type Printer[T any] struct {
	t        *Table[T]
	w        *bufio.Writer
	cols     []Column[T]
	end      byte
	template *format.Template
	checked  bool
	terminal bool
	rows     [][]string
	widths   []int
	headed   bool
}

// Printer checks the options and gives a printer on w.
func (t *Table[T]) Printer(w io.Writer) (*Printer[T], error) {
	p := &Printer[T]{t: t, w: bufio.NewWriterSize(w, 32<<10), end: '\n'}
	if t.nul {
		p.end = 0
	}
	var err error
	if p.template, err = t.parse(); err != nil {
		return nil, err
	}
	if p.cols, err = t.chosen(); err != nil {
		return nil, err
	}
	f, ok := w.(*os.File)
	p.terminal = ok && IsTerminal(f) && !t.nul && !t.quiet
	p.widths = make([]int, len(p.cols))
	return p, nil
}

// parse reads --format. What docker users write there beside templates is JSON as well, or an error: text that has
// no field in it would be printed again and again.
func (t *Table[T]) parse() (*format.Template, error) {
	table, _, _ := strings.Cut(t.format, " ")
	switch {
	case t.format == "":
		return nil, nil
	case t.format == "json":
		t.json = true
		return nil, nil
	case table == "table":
		return nil, Usagef("--format: %q is no template: tables are made by -o COLUMNS", t.format)
	case !strings.Contains(t.format, "{{"):
		return nil, Usagef("--format: %q is no template: it has no field such as {{.%s}}", t.format, t.Columns[0].Name)
	}
	template, err := format.Parse(t.format)
	if err != nil {
		return nil, Usagef("--format: %w", err)
	}
	return template, nil
}

func (t *Table[T]) chosen() ([]Column[T], error) {
	if t.quiet {
		return t.Columns[:1], nil
	}
	var cols []Column[T]
	if len(t.columns) == 0 {
		for _, c := range t.Columns {
			if !c.Hidden {
				cols = append(cols, c)
			}
		}
		return cols, nil
	}
	for _, name := range t.columns {
		i := slices.IndexFunc(t.Columns, func(c Column[T]) bool { return c.Name == strings.ToLower(strings.TrimSpace(name)) })
		if i < 0 {
			return nil, Usagef("-o: there is no column %q", name)
		}
		cols = append(cols, t.Columns[i])
	}
	return cols, nil
}

// Add prints one record; Flush makes it appear.
func (p *Printer[T]) Add(r T) error {
	if p.t.json || p.template != nil {
		return p.value(r)
	}
	row := make([]string, len(p.cols))
	for i, c := range p.cols {
		row[i] = c.Value(r)
		if !p.t.nul {
			row[i] = field(row[i])
		}
	}
	if !p.terminal {
		p.w.WriteString(strings.Join(row, "\t"))
		return p.w.WriteByte(p.end)
	}
	for i, s := range row {
		if s == "" {
			row[i] = "-"
		}
		p.widths[i] = max(p.widths[i], utf8.RuneCountInString(row[i]))
	}
	p.rows = append(p.rows, row)
	return nil
}

func (p *Printer[T]) value(r T) error {
	var v any = r
	if p.t.JSON != nil {
		v = p.t.JSON(r)
	}
	if p.template != nil && !p.checked {
		p.checked = true
		if err := p.template.Check(format.Fields(v)); err != nil {
			return Usagef("--format: %w", err)
		}
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("print a record as JSON: %w", err)
	}
	if p.template != nil {
		if err := p.template.Execute(p.w, data); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
	} else {
		p.w.Write(data)
	}
	return p.w.WriteByte(p.end)
}

// Flush writes what was added. Columns are aligned with what was printed before.
func (p *Printer[T]) Flush() error {
	if p.terminal && !p.t.json && p.template == nil {
		if !p.headed {
			p.headed = true
			head := make([]string, len(p.cols))
			for i, c := range p.cols {
				head[i] = strings.ToUpper(c.Name)
				p.widths[i] = max(p.widths[i], utf8.RuneCountInString(head[i]))
			}
			p.align(head)
		}
		for _, row := range p.rows {
			p.align(row)
		}
		p.rows = p.rows[:0]
	}
	return p.w.Flush()
}

func (p *Printer[T]) align(row []string) {
	for i, s := range row {
		pad := strings.Repeat(" ", p.widths[i]-utf8.RuneCountInString(s))
		switch {
		case p.cols[i].Right:
			p.w.WriteString(pad + s)
		case i == len(row)-1:
			p.w.WriteString(s)
		default:
			p.w.WriteString(s + pad)
		}
		if i < len(row)-1 {
			p.w.WriteString("  ")
		}
	}
	p.w.WriteByte('\n')
}

// field keeps a value from breaking its record.
func field(s string) string { return strings.ReplaceAll(visible(s), "\t", `\x09`) }

// IsTerminal tells whether f is a terminal.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
