// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// where has the place of each key that was read, FILE:LINE, by the key with its tables; a later file goes before an earlier one.
type where map[string]string

// add notes the keys of a text that has been parsed without an error.
func (w where) add(data []byte, file string) error {
	return keys(data, func(key []string, line int) { w[keyText(key)] = fmt.Sprintf("%s:%d", file, line) })
}

// keys tells each key of a text, with its tables, and its line. Keys in inline tables count; those in arrays do not.
func keys(data []byte, tell func(key []string, line int)) error {
	return walk(data, func(e entry) { tell(e.key, e.line) })
}

// entry is a key of a text.
type entry struct {
	key   []string // with its tables
	table int      // how many parts of key are the table that it stands in
	line  int
	value *unstable.Node // of the header of a table nil
	list  bool           // the header is of a list of tables
}

// walk tells each entry of a text as [keys] does.
func walk(data []byte, tell func(entry)) error {
	var p unstable.Parser
	p.Reset(data)
	var table []string
	line, at := 1, 0
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.ArrayTable && e.Kind != unstable.KeyValue {
			continue
		}
		it := e.Key()
		it.Next()
		if start := int(it.Node().Raw.Offset); start > at {
			line += strings.Count(string(data[at:start]), "\n")
			at = start
		}
		key := parts(e)
		if e.Kind != unstable.KeyValue {
			table = key
			tell(entry{key: key, line: line, list: e.Kind == unstable.ArrayTable})
			continue
		}
		tellValue(entry{append(append([]string{}, table...), key...), len(table), line, e.Value(), false}, tell)
	}
	var wrong *unstable.ParserError
	if err := p.Error(); errors.As(err, &wrong) {
		if line = 1 + bytes.Count(data, []byte("\n")); len(wrong.Highlight) > 0 {
			line = p.Shape(p.Range(wrong.Highlight)).Start.Line
		}
		return syntaxError{line, wrong.Message}
	}
	return p.Error()
}

// syntaxError is what is no TOML.
type syntaxError struct {
	line int
	text string
}

func (e syntaxError) Error() string { return e.text }

// tellValue tells a key and, if its value is an inline table, those in it.
func tellValue(e entry, tell func(entry)) {
	tell(e)
	if e.value.Kind != unstable.InlineTable {
		return
	}
	for it := e.value.Children(); it.Next(); {
		kv := it.Node()
		if kv.Kind == unstable.KeyValue {
			tellValue(entry{append(append([]string{}, e.key...), parts(kv)...), len(e.key), e.line, kv.Value(), false}, tell)
		}
	}
}

func parts(e *unstable.Node) (all []string) {
	for k := e.Key(); k.Next(); {
		all = append(all, string(k.Node().Data))
	}
	return all
}

// keyText writes a key as TOML has it.
func keyText(key []string) string {
	quoted := make([]string, len(key))
	for i, part := range key {
		quoted[i] = part
		if part == "" || strings.ContainsFunc(part, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) {
			quoted[i] = fmt.Sprintf("%q", part)
		}
	}
	return strings.Join(quoted, ".")
}

// nearest says which key may have been meant by one that is unknown: the same name elsewhere, or a similar one at its place.
func nearest(key []string) string {
	var best string
	visit(reflect.TypeFor[Config](), nil, func(known []string) {
		last, want := known[len(known)-1], key[len(key)-1]
		same := last == want
		close := len(known) == len(key) && similar(last, want)
		if same || close && best == "" {
			best = keyText(known)
		}
	})
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (is %s meant?)", best)
}

// visit tells the keys that there are; the names in a map are NAME.
func visit(t reflect.Type, above []string, tell func([]string)) {
	for f := range fields(t) {
		key := append(append([]string{}, above...), f.name)
		switch elem := f.Type; {
		case elem.Kind() == reflect.Struct:
			visit(elem, key, tell)
		case elem.Kind() == reflect.Map && elem.Elem().Kind() == reflect.Struct:
			visit(elem.Elem(), append(key, "NAME"), tell)
		default:
			tell(key)
		}
	}
}

type field struct {
	reflect.StructField
	name string // in TOML
}

func fields(t reflect.Type) func(func(field) bool) {
	return func(yield func(field) bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
			if !yield(field{f, name}) {
				return
			}
		}
	}
}

// similar tells whether two names differ in one or two letters that were added, left out or mistaken at one place.
func similar(a, b string) bool {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return len(a) <= 2 && len(b) <= 2
}
