// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"ctrd.dev/ctrd/lib/cli"
)

// pageDate stands on every page; it is raised by hand when the pages have changed for the reader.
const pageDate = "2026-11-01"

// common is what every command heeds.
var (
	commonEnv = []cli.Note{
		{Name: cli.EnvRoot, Text: "the default of --root"},
		{Name: cli.EnvState, Text: "the default of --state"},
		{Name: cli.EnvNamespace, Text: "the default of --namespace"},
	}
	commonFiles = []cli.Note{
		{Name: "/var/lib/ctrd", Text: "what is durable: records, content, snapshots"},
		{Name: "/run/ctrd", Text: "what lives as long as this boot: tasks, locks, events"},
	}
)

// pages makes the page of a command and one for each of its verbs.
func pages(d cli.Description, all []cli.Description) map[string]string {
	out := map[string]string{d.Name + ".1": page(d.Name, d, nil, related(d, "", all))}
	verbs(out, d.Name, d, d)
	return out
}

// verbs makes the pages of the verbs of a command, or of one of its verbs, whose page has this name.
func verbs(out map[string]string, name string, of, command cli.Description) {
	for _, v := range of.Verbs {
		own := name + "-" + v.Name
		short := v.Name
		v.Name = own
		out[own+".1"] = page(own, v, &command, related(v, name, nil))
		v.Name = short
		verbs(out, own, v, command)
	}
}

// related lists the pages to see also: those that the command names, then its own verbs or its command,
// then, for a command, the other commands.
func related(d cli.Description, parent string, all []cli.Description) []string {
	var see []string
	add := func(name string) {
		if !strings.Contains(name, "(") {
			name += "(1)"
		}
		if !slices.Contains(see, name) {
			see = append(see, name)
		}
	}
	if parent != "" {
		add(parent)
	}
	for _, s := range d.SeeAlso {
		add(s)
	}
	for _, v := range d.Verbs {
		add(d.Name + "-" + v.Name)
	}
	if parent == "" {
		for _, o := range all {
			if o.Name != d.Name {
				add(o.Name)
			}
		}
	}
	return see
}

func page(name string, d cli.Description, parent *cli.Description, see []string) string {
	m := &roff{}
	m.line(".TH %s 1 %s ctrd", strings.ToUpper(name), pageDate)
	m.line(".SH NAME")
	m.line("%s \\- %s", escape(name), escape(d.Short))
	m.line(".SH SYNOPSIS")
	m.synopsis(d.Synopsis)
	m.line(".SH DESCRIPTION")
	m.prose(d.Long)
	if len(d.Verbs) > 0 {
		m.line(".SH VERBS")
		for _, v := range d.Verbs {
			m.item("\\fB"+escape(v.Name)+"\\fR", v.Short+"; see "+name+"-"+v.Name+"(1)")
		}
	}
	m.line(".SH OPTIONS")
	m.options(d.Options)
	if parent != nil {
		m.prose("Options of every verb:")
		var global []cli.Option
		for _, o := range parent.Options {
			if o.Global {
				global = append(global, o)
			}
		}
		m.options(global)
	}
	if len(d.Verbs) == 0 {
		m.line(".SH STDIN")
		m.prose(sentence(d.Stdin, "Not used."))
		m.line(".SH STDOUT")
		m.prose(sentence(d.Stdout, "Nothing."))
	}
	if len(d.Examples) > 0 {
		m.line(".SH EXAMPLES")
		for _, e := range d.Examples {
			m.prose(strings.TrimSuffix(sentence(e.Note, ""), ".") + ":")
			m.literal(e.Text)
		}
	}
	env := d.Env
	if name != "ctr-shim" {
		env = append(slices.Clone(commonEnv), d.Env...)
	}
	if len(env) > 0 {
		m.line(".SH ENVIRONMENT")
	}
	for _, n := range env {
		m.item("\\fB"+escape(n.Name)+"\\fR", n.Text)
	}
	m.line(".SH EXIT STATUS")
	for _, s := range d.Exit {
		m.item(escape(s.Code), s.Meaning)
	}
	m.line(".SH FILES")
	for _, n := range append(slices.Clone(commonFiles), d.Files...) {
		m.item("\\fI"+escape(n.Name)+"\\fR", n.Text)
	}
	if len(see) > 0 {
		m.line(".SH SEE ALSO")
		m.seeAlso(see)
	}
	return m.String()
}

// sentence begins with a capital and ends with a full stop.
func sentence(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return strings.ToUpper(s[:1]) + strings.TrimSuffix(s[1:], ".") + "."
}

// roff writes man(7).
type roff struct {
	strings.Builder
	filled bool // a paragraph macro is needed before the next text
}

func (m *roff) line(form string, args ...any) {
	fmt.Fprintf(m, form+"\n", args...)
	m.filled = !strings.HasPrefix(form, ".SH")
}

// escape makes text that roff prints as it is.
func escape(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	s = strings.ReplaceAll(s, "-", `\-`)
	s = strings.ReplaceAll(s, "`", `\(ga`)
	s = strings.ReplaceAll(s, "^", `\(ha`)
	s = strings.ReplaceAll(s, "~", `\(ti`)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return strings.ReplaceAll(s, "'", `\(aq`)
}

// prose writes paragraphs, one sentence's line after the other; lines that start with a TAB stay as they are.
func (m *roff) prose(text string) {
	for par := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if m.filled {
			m.line(".PP")
		}
		literal := false
		for line := range strings.Lines(par) {
			line = strings.TrimRight(line, "\n")
			tab := strings.HasPrefix(line, "\t")
			if tab != literal {
				if tab {
					m.line(".RS 4\n.nf")
				} else {
					m.line(".fi\n.RE")
				}
				literal = tab
			}
			m.line("%s", escape(strings.TrimSpace(line)))
		}
		if literal {
			m.line(".fi\n.RE")
		}
	}
}

func (m *roff) literal(text string) {
	m.line(".PP\n.RS 4\n.nf")
	for line := range strings.Lines(strings.TrimSpace(text)) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			m.line("\\&")
			continue
		}
		m.line("%s", escape(strings.ReplaceAll(line, "\t", "    ")))
	}
	m.line(".fi\n.RE")
}

func (m *roff) item(head, text string) {
	m.line(".TP\n%s", head)
	m.line("%s", escape(strings.Join(strings.Fields(text), " ")))
}

func (m *roff) options(options []cli.Option) {
	for _, o := range options {
		head := "\\fB" + escape("--"+o.Name) + "\\fR"
		if o.Shorthand != "" {
			head = "\\fB" + escape("-"+o.Shorthand) + "\\fR, " + head
		}
		if o.Value != "" {
			head += " \\fI" + escape(o.Value) + "\\fR"
		}
		usage := o.Usage
		if o.Default != "" {
			usage += " (default: " + o.Default + ")"
		}
		m.item(head, usage)
	}
}

// synopsis sets the command and its verb bold, what is to be replaced in italics.
func (m *roff) synopsis(s string) {
	var out []string
	for i, word := range strings.Fields(s) {
		bare := strings.Trim(word, "[].{}|")
		switch {
		case i == 0, bare == strings.ToLower(bare) && bare != "":
			word = strings.Replace(escape(word), escape(bare), "\\fB"+escape(bare)+"\\fR", 1)
		case bare != "":
			word = strings.Replace(escape(word), escape(bare), "\\fI"+escape(bare)+"\\fR", 1)
		default:
			word = escape(word)
		}
		out = append(out, word)
	}
	m.line("%s", strings.Join(out, " "))
}

func (m *roff) seeAlso(pages []string) {
	for i, p := range pages {
		name, section, _ := strings.Cut(strings.TrimSuffix(p, ")"), "(")
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		m.line(".BR %s (%s)%s", escape(name), section, comma)
	}
}
