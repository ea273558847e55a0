// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ctrd.dev/ctrd/lib/cli"
)

var sample = cli.Description{
	Name: "ctr-x", Synopsis: "ctr-x VERB [OPTION]... [OPERAND]...", Short: "try -- 'things' with \\ and .dots", Long: ".starts with a dot\n'and a quote\n\nA list:\n\n\tkept   as\n\tit is\n\nthe ~ end`^`.",
	Exit: []cli.ExitStatus{{Code: "0", Meaning: "done"}}, SeeAlso: []string{"proc(5)"},
	Options: []cli.Option{{Name: "root", Value: "DIR", Type: "string", Usage: "keep it in DIR", Default: "/var", Global: true}, {Name: "version", Type: "bool", Usage: "show it"}},
	Verbs: []cli.Description{{
		Name: "do", Synopsis: "ctr-x do [OPTION]... {a|b} THING...", Short: "do it", Long: "Does it.", Stdin: "names", Options: []cli.Option{{Name: "all", Shorthand: "a", Type: "bool", Usage: "all"}},
		Examples: []cli.Example{{Note: "do it", Text: "ctr-x do 'it' | wc -l\n\n.hidden\t$x"}}, Exit: []cli.ExitStatus{{Code: "128+n", Meaning: "by signal n"}},
	}},
}

func TestPages(t *testing.T) {
	dir := t.TempDir()
	made := pages(sample, []cli.Description{sample})
	if len(made) != 2 {
		t.Fatalf("%d pages", len(made))
	}
	for name, text := range made {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	verb := made["ctr-x-do.1"]
	for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "STDIN", "STDOUT", "EXAMPLES", "ENVIRONMENT", "EXIT STATUS", "FILES", "SEE ALSO"} {
		if !strings.Contains(verb, "\n.SH "+section+"\n") {
			t.Errorf("no section %s", section)
		}
	}
	if !strings.Contains(verb, "\\-\\-root") || strings.Contains(verb, "\\-\\-version") {
		t.Error("a verb has the options of every verb and no other of its command's")
	}
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("no mandoc here")
	}
	for name := range made {
		if out, err := exec.Command(mandoc, "-T", "lint", "-W", "warning", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Errorf("%s: %s", name, out)
		}
	}
	out, err := exec.Command(mandoc, "-T", "ascii", filepath.Join(dir, "ctr-x.1")).Output()
	if err != nil {
		t.Fatal(err)
	}
	plain := strings.ReplaceAll(string(out), "\x08", "")
	for _, want := range []string{".starts with a dot", "'and a quote", "kept   as", "~ end`^`"} {
		if !strings.Contains(plain, want) {
			t.Errorf("the page does not show %q:\n%s", want, plain)
		}
	}
}
