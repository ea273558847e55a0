// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"text/template/parse"
)

// Fields lists the names that encoding/json gives the fields of a struct, those that it may leave out
// included. It is nil for what is no struct: any name may be there.
func Fields(v any) []string {
	t := reflect.TypeOf(v)
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() || f.Anonymous && name == "":
		case name == "":
			names = append(names, f.Name)
		default:
			names = append(names, name)
		}
	}
	return names
}

// Check tells of a field of the value itself, not of what is in it, that is none of names.
func (t *Template) Check(names []string) error {
	if tree := t.trees[top]; tree != nil && tree.Root != nil && names != nil {
		return check(tree.Root, names, true)
	}
	return nil
}

// check walks a node; own says that the dot is the value itself.
func check(node parse.Node, names []string, own bool) error {
	if v := reflect.ValueOf(node); !v.IsValid() || v.IsNil() {
		return nil
	}
	known := func(name string) error {
		if slices.Contains(names, name) {
			return nil
		}
		return fmt.Errorf("there is no field %q, only %s", name, strings.Join(slices.Sorted(slices.Values(names)), ", "))
	}
	all := func(own bool, nodes ...parse.Node) error {
		for _, n := range nodes {
			if err := check(n, names, own); err != nil {
				return err
			}
		}
		return nil
	}
	switch n := node.(type) {
	case *parse.ListNode:
		return all(own, n.Nodes...)
	case *parse.ActionNode:
		return check(n.Pipe, names, own)
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			if err := all(own, c.Args...); err != nil {
				return err
			}
		}
	case *parse.IfNode:
		return all(own, n.Pipe, n.List, n.ElseList)
	case *parse.WithNode:
		return firstOf(check(n.Pipe, names, own), check(n.List, names, false), check(n.ElseList, names, own))
	case *parse.RangeNode:
		return firstOf(check(n.Pipe, names, own), check(n.List, names, false), check(n.ElseList, names, own))
	case *parse.FieldNode:
		if own {
			return known(n.Ident[0])
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 {
			return known(n.Ident[1])
		}
	case *parse.ChainNode:
		return check(n.Node, names, own)
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
