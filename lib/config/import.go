// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// Import makes a configuration of the text of containerd's config.toml of version 2, 3 or 4. text has the settings alone that the
// other one has; left are those that have no equal here, as FILE:LINE: KEY: why. A setting that says what ctrd does anyway is in
// neither. What is no such file is errdefs.ErrInvalidArgument.
func Import(data []byte, file string) (text []byte, left []string, err error) {
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		return nil, nil, mistakes(file, err)
	}
	version, _ := tree["version"].(int64)
	if version < 2 || version > 4 {
		return nil, nil, fmt.Errorf("%s: want version = 2, 3 or 4 (containerd config migrate writes one that is older anew): %w", file, errdefs.ErrInvalidArgument)
	}
	lines := map[string]int{}
	if err := keys(data, func(key []string, line int) { lines[keyText(key)] = line }); err != nil {
		return nil, nil, mistakes(file, err)
	}
	m := &importer{file: file, lines: lines, out: map[string]any{}, all: tree, rules: rules()}
	leaves(tree, nil, m.leaf)
	var usual map[string]any
	if err := toml.Unmarshal([]byte(DefaultText), &usual); err != nil {
		return nil, nil, err
	}
	prune(m.out, usual)
	if text, err = toml.Marshal(m.out); err != nil {
		return nil, nil, fmt.Errorf("%s: %w: %w", file, err, errdefs.ErrInvalidArgument)
	}
	text = append(fmt.Appendf(nil, "# What %s (containerd, version %d) says, as ctrd has it.\n", oneLine(file), version), text...)
	if _, err := Parse(text, file); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(m.left, func(a, b remark) int { return a.line - b.line })
	for _, r := range m.left {
		left = append(left, fmt.Sprintf("%s:%d: %s", file, r.line, r.text))
	}
	return text, left, nil
}

// prune takes out of a tree what a tree of defaults says too.
func prune(tree, usual map[string]any) {
	for name, value := range tree {
		was, ok := usual[name]
		sub, isTable := value.(map[string]any)
		if known, _ := was.(map[string]any); isTable && known != nil {
			prune(sub, known)
			if len(sub) == 0 {
				delete(tree, name)
			}
		} else if ok && fmt.Sprint(was) == fmt.Sprint(value) {
			delete(tree, name)
		}
	}
}

// leaves tells each key whose value is no table, in the order of names.
func leaves(tree map[string]any, above []string, tell func(key []string, value any)) {
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		key := append(slices.Clip(above), name)
		if t, ok := tree[name].(map[string]any); ok {
			leaves(t, key, tell)
		} else {
			tell(key, tree[name])
		}
	}
}

// remark is what is said of a line of the file.
type remark struct {
	line int
	text string
}

type importer struct {
	file  string
	lines map[string]int
	all   map[string]any // what is imported
	rules []rule
	out   map[string]any
	left  []remark
}

// leaf takes a setting over, or says why not.
func (m *importer) leaf(key []string, value any) {
	if key[0] == "version" && len(key) == 1 {
		return
	}
	for _, r := range m.rules {
		names, rest, ok := match(r.from, key)
		if !ok {
			continue
		}
		switch {
		case r.usual != nil && fmt.Sprint(value) == fmt.Sprint(r.usual):
		case r.take != nil:
			if why := r.take(m, key, value); why != "" {
				m.leave(key, why)
			}
		case r.to == "":
			if !isZero(value) {
				m.leave(key, r.why)
			}
		default:
			m.set(append(fill(r.to, names), rest...), key, value)
		}
		return
	}
	if !isZero(value) {
		m.leave(key, "it has no equal")
	}
}

func (m *importer) leave(key []string, why string) {
	line := 0
	for n := len(key); n > 0 && line == 0; n-- {
		line = m.lines[keyText(key[:n])]
	}
	m.left = append(m.left, remark{line, keyText(key) + ": " + why})
}

// set takes a value over, if the setting can have it by its type.
func (m *importer) set(to, from []string, value any) {
	one := map[string]any{}
	put(one, to, value)
	text, err := toml.Marshal(one)
	if err == nil {
		if wrong := Default().parse(text, "", where{}); len(wrong) > 0 {
			err = wrong
		}
	}
	if err != nil {
		m.leave(from, "its value cannot be that of "+keyText(to))
		return
	}
	put(m.out, to, value)
}

// put sets a key in a tree of tables.
func put(tree map[string]any, key []string, value any) {
	for _, name := range key[:len(key)-1] {
		sub, ok := tree[name].(map[string]any)
		if !ok {
			sub = map[string]any{}
			tree[name] = sub
		}
		tree = sub
	}
	tree[key[len(key)-1]] = value
}

// find reads a key of the file that is imported.
func (m *importer) find(key ...string) any {
	var at any = m.all
	for _, name := range key {
		t, _ := at.(map[string]any)
		at = t[name]
	}
	return at
}

// match compares a key with a pattern of words that are separated by spaces. * is one part of a key,
// ... any further ones, and a|b one of several.
func match(pattern string, key []string) (names, rest []string, ok bool) {
	words := strings.Fields(pattern)
	for i, word := range words {
		if word == "..." {
			return names, key[i:], len(key) > i
		}
		if i >= len(key) {
			return nil, nil, false
		}
		if word == "*" {
			names = append(names, key[i])
		} else if !slices.Contains(strings.Split(word, "|"), key[i]) {
			return nil, nil, false
		}
	}
	return names, nil, len(words) == len(key)
}

// fill puts names for the stars of a pattern.
func fill(pattern string, names []string) (key []string) {
	for _, word := range strings.Fields(pattern) {
		if word == "*" {
			word, names = names[0], names[1:]
		}
		key = append(key, word)
	}
	return key
}

func isZero(v any) bool {
	switch v := v.(type) {
	case []any:
		return len(v) == 0
	case string:
		return v == "" || v == "0s"
	}
	return v == nil || v == false || v == int64(0) || v == float64(0)
}
