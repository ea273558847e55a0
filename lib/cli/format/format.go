// SPDX-License-Identifier: Apache-2.0

// Package format applies Go templates to JSON values.
//
// The language is that of text/template, parsed by its own parser; the evaluation is ours and knows JSON
// values alone. text/template finds methods by name, which keeps the linker from leaving out unused ones:
// that makes a small command half as large again (3.0 MB -> 4.6 MB).
package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/template/parse"
)

// Template is a parsed template.
type Template struct {
	trees map[string]*parse.Tree
}

const top = "format"

// Parse parses a template. Besides the functions of text/template (and, or, not, eq, ne, lt, le, gt, ge,
// index, slice, len, print, printf, println, html, js, urlquery) there are json, join, split, lower and upper.
func Parse(text string) (*Template, error) {
	names := map[string]any{"and": true, "or": true}
	for name := range functions {
		names[name] = true
	}
	trees, err := parse.Parse(top, text, "", "", names)
	if err != nil {
		return nil, err
	}
	return &Template{trees}, nil
}

// Execute applies the template to a JSON value. A field that the value does not have is empty.
func (t *Template) Execute(w io.Writer, value []byte) error {
	var v any
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return err
	}
	tree := t.trees[top]
	if tree == nil || tree.Root == nil {
		return nil
	}
	e := &evaluation{w: w, t: t, vars: []variable{{"$", v}}, steps: new(int)}
	err := e.walk(v, tree.Root)
	if errors.Is(err, errBreak) || errors.Is(err, errContinue) {
		return fmt.Errorf("%w outside of range", err)
	}
	return err
}

type variable struct {
	name  string
	value any
}

type evaluation struct {
	w     io.Writer
	t     *Template
	vars  []variable
	depth int
	steps *int
}

// Bounds of templates that call themselves.
const (
	maxDepth = 1000
	maxSteps = 10e6
)

var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

func (e *evaluation) walk(dot any, node parse.Node) error {
	if *e.steps++; *e.steps > maxSteps {
		return errors.New("the template does not come to an end")
	}
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, c := range n.Nodes {
			if err := e.walk(dot, c); err != nil {
				return err
			}
		}
		return nil
	case *parse.TextNode:
		_, err := e.w.Write(n.Text)
		return err
	case *parse.CommentNode:
		return nil
	case *parse.ActionNode:
		v, err := e.pipe(dot, n.Pipe)
		if err != nil || len(n.Pipe.Decl) > 0 {
			return err
		}
		_, err = io.WriteString(e.w, text(v))
		return err
	case *parse.IfNode:
		return e.branch(dot, &n.BranchNode, false)
	case *parse.WithNode:
		return e.branch(dot, &n.BranchNode, true)
	case *parse.RangeNode:
		return e.loop(dot, n)
	case *parse.BreakNode:
		return errBreak
	case *parse.ContinueNode:
		return errContinue
	case *parse.TemplateNode:
		return e.call(dot, n)
	}
	return fmt.Errorf("%s is not supported", node)
}

// scope forgets the variables that fn declares.
func (e *evaluation) scope(fn func() error) error {
	mark := len(e.vars)
	defer func() { e.vars = e.vars[:mark] }()
	return fn()
}

func (e *evaluation) branch(dot any, n *parse.BranchNode, with bool) error {
	return e.scope(func() error {
		v, err := e.pipe(dot, n.Pipe)
		switch {
		case err != nil:
			return err
		case !truth(v):
			return e.walk(dot, n.ElseList)
		case with:
			return e.walk(v, n.List)
		}
		return e.walk(dot, n.List)
	})
}

func (e *evaluation) call(dot any, n *parse.TemplateNode) error {
	tree := e.t.trees[n.Name]
	if tree == nil {
		return fmt.Errorf("there is no template %q", n.Name)
	}
	if e.depth++; e.depth > maxDepth {
		return fmt.Errorf("template %q calls itself without end", n.Name)
	}
	defer func() { e.depth-- }()
	var v any
	if n.Pipe != nil {
		var err error
		if v, err = e.pipe(dot, n.Pipe); err != nil {
			return err
		}
	}
	inner := &evaluation{w: e.w, t: e.t, vars: []variable{{"$", v}}, depth: e.depth, steps: e.steps}
	return inner.walk(v, tree.Root)
}

func (e *evaluation) loop(dot any, n *parse.RangeNode) error {
	return e.scope(func() error {
		decl := n.Pipe.Decl
		bare := *n.Pipe
		bare.Decl = nil
		v, err := e.pipe(dot, &bare)
		if err != nil {
			return err
		}
		var keys, values []any
		switch v := v.(type) {
		case []any:
			for i, item := range v {
				keys, values = append(keys, number(int64(i))), append(values, item)
			}
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				keys, values = append(keys, k), append(values, v[k])
			}
		case nil:
		default:
			return fmt.Errorf("range over %s: it is neither list nor object", text(v))
		}
		if len(values) == 0 {
			return e.walk(dot, n.ElseList)
		}
		for i := range values {
			err := e.scope(func() error {
				e.declare(n.Pipe.IsAssign, decl, keys[i], values[i])
				return e.walk(values[i], n.List)
			})
			if errors.Is(err, errBreak) {
				return nil
			}
			if err != nil && !errors.Is(err, errContinue) {
				return err
			}
		}
		return nil
	})
}

// declare sets the variables of a range: the item, or the key and the item.
func (e *evaluation) declare(assign bool, decl []*parse.VariableNode, key, item any) {
	switch len(decl) {
	case 1:
		e.set(assign, decl[0].Ident[0], item)
	case 2:
		e.set(assign, decl[0].Ident[0], key)
		e.set(assign, decl[1].Ident[0], item)
	}
}

func (e *evaluation) set(assign bool, name string, v any) {
	if assign {
		for i := len(e.vars) - 1; i >= 0; i-- {
			if e.vars[i].name == name {
				e.vars[i].value = v
				return
			}
		}
	}
	e.vars = append(e.vars, variable{name, v})
}

func (e *evaluation) pipe(dot any, p *parse.PipeNode) (any, error) {
	if p == nil {
		return nil, nil
	}
	var v any
	for i, cmd := range p.Cmds {
		var last []any
		if i > 0 {
			last = []any{v}
		}
		var err error
		if v, err = e.command(dot, cmd, last); err != nil {
			return nil, err
		}
	}
	for _, d := range p.Decl {
		e.set(p.IsAssign, d.Ident[0], v)
	}
	return v, nil
}

// command evaluates one part of a pipe; last is the value before the |.
func (e *evaluation) command(dot any, cmd *parse.CommandNode, last []any) (any, error) {
	if id, ok := cmd.Args[0].(*parse.IdentifierNode); ok {
		return e.function(dot, id.Ident, cmd.Args[1:], last)
	}
	if len(cmd.Args) > 1 || len(last) > 0 {
		return nil, fmt.Errorf("%s is a value and takes no argument", cmd.Args[0])
	}
	return e.value(dot, cmd.Args[0])
}

func (e *evaluation) function(dot any, name string, nodes []parse.Node, last []any) (any, error) {
	if name == "and" || name == "or" {
		return e.logic(dot, name == "and", nodes, last)
	}
	var args []any
	for _, n := range nodes {
		v, err := e.value(dot, n)
		if err != nil {
			return nil, err
		}
		args = append(args, v)
	}
	v, err := functions[name](append(args, last...))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

// logic evaluates no further than it must, as text/template does.
func (e *evaluation) logic(dot any, and bool, nodes []parse.Node, last []any) (v any, err error) {
	for _, n := range nodes {
		if v, err = e.value(dot, n); err != nil || truth(v) != and {
			return v, err
		}
	}
	if len(last) > 0 {
		v = last[0]
	}
	return v, nil
}

func (e *evaluation) value(dot any, node parse.Node) (any, error) {
	switch n := node.(type) {
	case *parse.DotNode:
		return dot, nil
	case *parse.NilNode:
		return nil, nil
	case *parse.BoolNode:
		return n.True, nil
	case *parse.StringNode:
		return n.Text, nil
	case *parse.NumberNode:
		if n.IsInt {
			return number(n.Int64), nil
		}
		return json.Number(n.Text), nil
	case *parse.FieldNode:
		return fields(dot, n.Ident)
	case *parse.ChainNode:
		v, err := e.value(dot, n.Node)
		if err != nil {
			return nil, err
		}
		return fields(v, n.Field)
	case *parse.VariableNode:
		for i := len(e.vars) - 1; i >= 0; i-- {
			if e.vars[i].name == n.Ident[0] {
				return fields(e.vars[i].value, n.Ident[1:])
			}
		}
		return nil, fmt.Errorf("there is no variable %s", n.Ident[0])
	case *parse.PipeNode:
		return e.pipe(dot, n)
	case *parse.IdentifierNode:
		return e.function(dot, n.Ident, nil, nil)
	}
	return nil, fmt.Errorf("%s is not supported", node)
}

func fields(v any, names []string) (any, error) {
	for _, name := range names {
		switch m := v.(type) {
		case map[string]any:
			v = m[name]
		case nil:
			return nil, nil
		default:
			return nil, fmt.Errorf("%s has no field %q", text(v), name)
		}
	}
	return v, nil
}
