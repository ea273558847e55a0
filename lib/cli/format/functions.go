// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"text/template"
	"unicode/utf8"
)

func number(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

// text is how a value is printed: strings bare, nothing for null, the rest as JSON.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return string(v)
	case bool:
		return strconv.FormatBool(v)
	}
	s, _ := encode(v)
	return s
}

func encode(v any) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// truth is false for null, false, 0, and what is empty.
func truth(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case json.Number:
		r, ok := rational(v)
		return !ok || r.Sign() != 0
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}

// rational compares numbers without rounding. An exponent of more than a few digits is refused: it would
// cost memory without bound.
func rational(n json.Number) (*big.Rat, bool) {
	if i := strings.IndexAny(string(n), "eEpP"); i >= 0 && len(n)-i > 5 || len(n) > 100 {
		return nil, false
	}
	return new(big.Rat).SetString(string(n))
}

var errCount = errors.New("wrong number of arguments")

var functions = map[string]func(args []any) (any, error){
	"not":     one(func(v any) (any, error) { return !truth(v), nil }),
	"len":     one(length),
	"json":    one(func(v any) (any, error) { return encode(v) }),
	"lower":   one(func(v any) (any, error) { return strings.ToLower(text(v)), nil }),
	"upper":   one(func(v any) (any, error) { return strings.ToUpper(text(v)), nil }),
	"index":   index,
	"join":    join,
	"split":   split,
	"print":   func(args []any) (any, error) { return words(args, ""), nil },
	"println": func(args []any) (any, error) { return words(args, " ") + "\n", nil },
	"printf":  printf,
	"slice":   slice,
	// These alone of text/template: they find no methods by name.
	"html":     escaper(template.HTMLEscapeString),
	"js":       escaper(template.JSEscapeString),
	"urlquery": escaper(func(s string) string { return template.URLQueryEscaper(s) }),
	"eq":       equal,
	"ne": func(args []any) (any, error) {
		if len(args) != 2 {
			return nil, errCount
		}
		v, err := equal(args)
		return v == false, err
	},
	"lt": order(func(c int) bool { return c < 0 }),
	"le": order(func(c int) bool { return c <= 0 }),
	"gt": order(func(c int) bool { return c > 0 }),
	"ge": order(func(c int) bool { return c >= 0 }),
}

func one(fn func(any) (any, error)) func([]any) (any, error) {
	return func(args []any) (any, error) {
		if len(args) != 1 {
			return nil, errCount
		}
		return fn(args[0])
	}
}

func length(v any) (any, error) {
	switch v := v.(type) {
	case nil:
		return number(0), nil
	case string:
		return number(int64(utf8.RuneCountInString(v))), nil
	case []any:
		return number(int64(len(v))), nil
	case map[string]any:
		return number(int64(len(v))), nil
	}
	return nil, fmt.Errorf("%s has no length", text(v))
}

func index(args []any) (any, error) {
	if len(args) == 0 {
		return nil, errCount
	}
	v := args[0]
	for _, key := range args[1:] {
		switch c := v.(type) {
		case nil:
			return nil, nil
		case map[string]any:
			v = c[text(key)]
		case []any:
			i, err := strconv.Atoi(text(key))
			if err != nil || i < 0 || i >= len(c) {
				return nil, fmt.Errorf("a list of %d has no item %s", len(c), text(key))
			}
			v = c[i]
		default:
			return nil, fmt.Errorf("%s is neither list nor object", text(v))
		}
	}
	return v, nil
}

// slice cuts a string or a list as Go does: from the first index, to the second.
func slice(args []any) (any, error) {
	if len(args) == 0 || len(args) > 3 {
		return nil, errCount
	}
	length := 0
	switch v := args[0].(type) {
	case string:
		length = len(v)
	case []any:
		length = len(v)
	default:
		return nil, fmt.Errorf("%s is neither string nor list", text(v))
	}
	bounds := [2]int{0, length}
	for i, arg := range args[1:] {
		n, err := strconv.Atoi(text(arg))
		if err != nil || n < 0 || n > length {
			return nil, fmt.Errorf("%s is no index from 0 to %d", text(arg), length)
		}
		bounds[i] = n
	}
	if bounds[0] > bounds[1] {
		return nil, fmt.Errorf("the index %d is after %d", bounds[0], bounds[1])
	}
	if s, ok := args[0].(string); ok {
		return s[bounds[0]:bounds[1]], nil
	}
	return args[0].([]any)[bounds[0]:bounds[1]], nil
}

// escaper joins its arguments as print does.
func escaper(escape func(string) string) func([]any) (any, error) {
	return func(args []any) (any, error) { return escape(words(args, "")), nil }
}

// join takes a list and a separator, in either order, so that a list may come through a pipe.
func join(args []any) (any, error) {
	if len(args) != 2 {
		return nil, errCount
	}
	list, sep := args[0], args[1]
	if _, ok := sep.([]any); ok {
		list, sep = sep, list
	}
	if list == nil {
		return "", nil
	}
	items, ok := list.([]any)
	if !ok {
		return nil, fmt.Errorf("%s is no list", text(list))
	}
	return words(items, text(sep)), nil
}

func split(args []any) (any, error) {
	if len(args) != 2 {
		return nil, errCount
	}
	var list []any
	for part := range strings.SplitSeq(text(args[0]), text(args[1])) {
		list = append(list, part)
	}
	return list, nil
}

func words(args []any, sep string) string {
	s := make([]string, len(args))
	for i, a := range args {
		s[i] = text(a)
	}
	return strings.Join(s, sep)
}

// maxWidth bounds the width and precision that printf pads to.
const maxWidth = 4096

func printf(args []any) (any, error) {
	if len(args) == 0 {
		return nil, errCount
	}
	form, ok := args[0].(string)
	if !ok {
		return nil, errors.New("the first argument is the form, a string")
	}
	digits := 0
	for _, r := range form {
		if digits = digits*10 + int(r-'0'); r < '0' || r > '9' {
			digits = 0
		}
		if digits > maxWidth || r == '*' {
			return nil, fmt.Errorf("%q pads too far", form)
		}
	}
	var values []any
	for _, a := range args[1:] {
		if n, ok := a.(json.Number); ok {
			if i, err := n.Int64(); err == nil {
				a = i
			} else if f, err := n.Float64(); err == nil {
				a = f
			}
		} else if _, isBool := a.(bool); !isBool {
			a = text(a)
		}
		values = append(values, a)
	}
	return fmt.Sprintf(form, values...), nil
}

// equal compares the first argument with each other one; one equal is enough.
func equal(args []any) (any, error) {
	if len(args) < 2 {
		return nil, errCount
	}
	for _, b := range args[1:] {
		if c, err := compare(args[0], b); err == nil && c == 0 {
			return true, nil
		} else if err != nil && text(args[0]) == text(b) {
			return true, nil
		}
	}
	return false, nil
}

func order(is func(int) bool) func([]any) (any, error) {
	return func(args []any) (any, error) {
		if len(args) != 2 {
			return nil, errCount
		}
		c, err := compare(args[0], args[1])
		return err == nil && is(c), err
	}
}

func compare(a, b any) (int, error) {
	x, ok1 := a.(json.Number)
	y, ok2 := b.(json.Number)
	if ok1 && ok2 {
		p, ok1 := rational(x)
		q, ok2 := rational(y)
		if ok1 && ok2 {
			return p.Cmp(q), nil
		}
	}
	s, ok1 := a.(string)
	t, ok2 := b.(string)
	if ok1 && ok2 {
		return strings.Compare(s, t), nil
	}
	return 0, fmt.Errorf("%s and %s cannot be compared", text(a), text(b))
}
