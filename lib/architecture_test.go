// SPDX-License-Identifier: Apache-2.0

package lib_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ctrd.dev/ctrd/lib/lock"
)

// top is the directory of the module, seen from this package.
const top = ".."

func document(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// code finds functions by the names that ARCHITECTURE.md gives them: lib/task/create.go:Run, or with the
// type of the receiver, lib/state/dir.go:Dir.Trash.
type code struct {
	fset  *token.FileSet
	files map[string]*ast.File
}

func (c *code) find(t *testing.T, file, name string) *ast.FuncDecl {
	t.Helper()
	f, ok := c.files[file]
	if !ok {
		var err error
		if f, err = parser.ParseFile(c.fset, filepath.Join(top, file), nil, parser.SkipObjectResolution); err != nil {
			t.Errorf("%s:%s: %v", file, name, err)
			f = nil
		}
		c.files[file] = f
	}
	if f == nil {
		return nil
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && receiver(fn)+fn.Name.Name == name {
			return fn
		}
	}
	t.Errorf("%s has no function %s", file, name)
	return nil
}

// receiver is the type that a method belongs to, with a point behind it; empty for a function.
func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	typ := fn.Recv.List[0].Type
	if p, ok := typ.(*ast.StarExpr); ok {
		typ = p.X
	}
	if g, ok := typ.(*ast.IndexExpr); ok {
		typ = g.X
	}
	return typ.(*ast.Ident).Name + "."
}

// mentions tells whether the body of a function has the name in it.
func mentions(fn *ast.FuncDecl, name string) bool {
	found := false
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		found = found || ok && id.Name == name
		return !found
	})
	return found
}

var (
	reference = regexp.MustCompile(`\b([a-z][\w./-]*\.go):([A-Za-z_][\w.]*\w)`)
	traced    = regexp.MustCompile(`^( *)(~> )?([a-z][\w./-]*\.go):([\w.]+)(?: .*)?$`)
)

// TestArchitecture: every function that ARCHITECTURE.md names is there.
func TestArchitecture(t *testing.T) {
	c := &code{token.NewFileSet(), map[string]*ast.File{}}
	all := reference.FindAllStringSubmatch(document(t, "ARCHITECTURE.md"), -1)
	if len(all) < 50 {
		t.Errorf("only %d functions are named", len(all))
	}
	for _, r := range all {
		c.find(t, r[1], r[2])
	}
}

// TestTraces: in the traces of ARCHITECTURE.md, blocks marked "trace", each step is in the body of the step
// above that is less indented. Steps after ~> are in another process, reached by a call or a signal.
func TestTraces(t *testing.T) {
	c := &code{token.NewFileSet(), map[string]*ast.File{}}
	type step struct {
		indent int
		fn     *ast.FuncDecl
	}
	blocks := regexp.MustCompile("(?s)\n```trace\n(.*?)```\n").FindAllStringSubmatch(document(t, "ARCHITECTURE.md"), -1)
	if len(blocks) < 2 {
		t.Fatalf("%d traces, want a pull and a start", len(blocks))
	}
	for _, b := range blocks {
		var above []step
		for line := range strings.Lines(b[1]) {
			line = strings.TrimRight(line, "\n")
			m := traced.FindStringSubmatch(line)
			if m == nil {
				t.Errorf("no step: %q", line)
				continue
			}
			s := step{len(m[1]), c.find(t, m[3], m[4])}
			for len(above) > 0 && above[len(above)-1].indent >= s.indent {
				above = above[:len(above)-1]
			}
			switch {
			case s.fn == nil || m[2] != "":
			case len(above) == 0:
				if s.indent > 0 {
					t.Errorf("nothing above %q", line)
				}
			case above[len(above)-1].fn != nil && !mentions(above[len(above)-1].fn, s.fn.Name.Name):
				t.Errorf("%s does not call %s", above[len(above)-1].fn.Name.Name, strings.TrimSpace(line))
			}
			above = append(above, s)
		}
	}
}

// TestArchitectureWhole: ARCHITECTURE.md says of every package what it is, names the locks in their order,
// and names only files and crash points that are there.
func TestArchitectureWhole(t *testing.T) {
	doc := document(t, "ARCHITECTURE.md")
	for _, floor := range floors {
		for _, p := range floor.packages {
			if !strings.Contains(doc, "\n**`lib/"+p+"`**") {
				t.Errorf("the code map lacks lib/%s", p)
			}
		}
	}
	var order []string
	for r := lock.Pod; r <= lock.Database; r++ {
		order = append(order, r.String())
	}
	if want := strings.Join(order, " < "); !strings.Contains(doc, want) {
		t.Errorf("the order of locks is not there: %s", want)
	}
	for _, m := range regexp.MustCompile("`((?:lib|cmd|scripts|test)/[a-z][a-z0-9_./-]*)`").FindAllStringSubmatch(doc, -1) {
		if _, err := os.Stat(filepath.Join(top, m[1])); err != nil {
			t.Error(err)
		}
	}
	points := crashPoints(t)
	_, kills, _ := strings.Cut(doc, "\n## What a kill leaves\n")
	kills, _, _ = strings.Cut(kills, "\n## ")
	killed := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(kills, -1)
	if len(killed) == 0 {
		t.Error("no crash point is named")
	}
	for _, m := range killed {
		if !points[m[1]] {
			t.Errorf("there is no crash point %s", m[1])
		}
	}
}

func crashPoints(t *testing.T) map[string]bool {
	t.Helper()
	points := map[string]bool{}
	call := regexp.MustCompile(`crash\.Point\("([^"]+)"\)`)
	err := filepath.WalkDir(".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".go" {
			return err
		}
		text, err := os.ReadFile(name)
		for _, m := range call.FindAllSubmatch(text, -1) {
			points[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return points
}

// TestLinked: the commands stay light, as ARCHITECTURE.md says.
func TestLinked(t *testing.T) {
	commands, err := filepath.Glob(filepath.Join(top, "cmd/*/main.go"))
	if err != nil || len(commands) == 0 {
		t.Fatal(commands, err)
	}
	for _, c := range commands {
		name := filepath.Base(filepath.Dir(c))
		for _, p := range list(t, "-deps", module+"cmd/"+name) {
			switch {
			case name == "ctr-cri", name == "ctrd" && !strings.HasPrefix(p.ImportPath, "github.com/godbus/"): // they speak gRPC
			case strings.HasPrefix(p.ImportPath, "google.golang.org/grpc"), p.ImportPath == "google.golang.org/protobuf/proto",
				p.ImportPath == "net/http" && name != "ctr-pull" && name != "ctr-push",
				strings.HasPrefix(p.ImportPath, "github.com/godbus/") && name != "ctr-shim":
				t.Errorf("%s links %s", name, p.ImportPath)
			}
		}
	}
}

// TestReadme: README.md names every command that a person starts, every common exit status with its
// meaning, and links only to files that are there.
func TestReadme(t *testing.T) {
	doc := document(t, "README.md")
	commands, err := filepath.Glob(filepath.Join(top, "cmd/*/main.go"))
	if err != nil || len(commands) == 0 {
		t.Fatal(commands, err)
	}
	for _, c := range commands {
		if name := filepath.Base(filepath.Dir(c)); !strings.Contains(doc, "**"+name+"**") && name != "ctr-shim" {
			t.Errorf("the tour leaves out %s", name)
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(doc, -1) {
		if _, err := os.Stat(filepath.Join(top, m[1])); err != nil {
			t.Error(err)
		}
	}
	meaning := regexp.MustCompile(`(?m)^\t(?:Exit\w+|0):\s+"(.*)",$`).FindAllStringSubmatch(document(t, "lib/cli/errors.go"), -1)
	if len(meaning) < 5 {
		t.Fatalf("%d meanings of exit statuses", len(meaning))
	}
	for _, m := range meaning {
		if !strings.Contains(doc, "| "+m[1]+" |") {
			t.Errorf("the exit statuses lack %q", m[1])
		}
	}
}
