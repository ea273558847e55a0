// SPDX-License-Identifier: Apache-2.0

// Package filter picks records by an expression, in the grammar that containerd's API has for its lists:
//
//	selectors = selector { "," selector }        all must fit
//	selector  = path [ operator value ]          without an operator: the field is there
//	path      = field { "." field }
//	field     = letters, digits and "_", or a quoted text
//	operator  = "==" | "!=" | "~="
//	value     = a quoted text, or all up to a space or ","
//
// A quoted text is between double quotes and has the escapes of a Go string. After ~= it is a regular expression of
// package regexp, and may also stand between slashes or bars; there, too, a backslash begins an escape of a Go string.
// The keys of labels may be written unquoted: labels.a.b is the label "a.b".
//
// A record gives its fields through a function of type [Fields]. This file has the grammar and its meaning; fields.go
// has the names that containerd gives to the fields of its records.
package filter

import (
	"fmt"
	"regexp"
	"sync"

	"github.com/containerd/errdefs"
)

// Fields gives the value of a record's field, and whether the record has it. A path of several names leads into
// a part of the record.
type Fields func(path []string) (value string, ok bool)

// Filter is what Parse has read. The zero value fits every record. It may be used by several goroutines.
type Filter struct {
	any [][]selector // one of these, of which all
}

type selector struct {
	path    []string
	op      string // "" asks only whether the field is there
	value   string
	pattern func() (*regexp.Regexp, error) // compiles value at the first call; of the operator ~= alone
}

// Parse reads filters, of which a record must fit one; without any, each record fits, and so it does for an empty
// one. A text that is no filter is errdefs.ErrInvalidArgument, and the error names the byte. As in containerd, a
// regular expression is not looked into: see [Filter.Check].
func Parse(filters ...string) (Filter, error) {
	var f Filter
	for _, text := range filters {
		all, err := parse(text)
		if err != nil {
			return Filter{}, err
		}
		f.any = append(f.any, all)
	}
	return f, nil
}

// Match tells whether a record fits. A field that the record does not have is unequal to every value, and is an empty
// text to a regular expression. A regular expression that cannot be compiled fits nothing.
func (f Filter) Match(fields Fields) bool {
	for _, all := range f.any {
		if matchAll(all, fields) {
			return true
		}
	}
	return len(f.any) == 0
}

func matchAll(all []selector, fields Fields) bool {
	for _, s := range all {
		if !s.match(fields) {
			return false
		}
	}
	return true
}

func (s selector) match(fields Fields) bool {
	value, ok := fields(s.path)
	switch s.op {
	case "==":
		return ok && value == s.value
	case "!=":
		return value != s.value
	case "~=":
		re, err := s.pattern()
		return err == nil && re.MatchString(value)
	}
	return ok
}

// Check compiles the regular expressions. One that is wrong is errdefs.ErrInvalidArgument, for callers that would
// rather say so than find nothing.
func (f Filter) Check() error {
	for _, all := range f.any {
		for _, s := range all {
			if s.pattern == nil {
				continue
			}
			if _, err := s.pattern(); err != nil {
				return fmt.Errorf("filter: %w: %w", err, errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

// Paths gives the path of each selector, in the order in which they were written.
func (f Filter) Paths() [][]string {
	var paths [][]string
	for _, all := range f.any {
		for _, s := range all {
			paths = append(paths, s.path)
		}
	}
	return paths
}

func compile(pattern string) func() (*regexp.Regexp, error) {
	return sync.OnceValues(func() (*regexp.Regexp, error) { return regexp.Compile(pattern) })
}
