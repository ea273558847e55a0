// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/task"
)

// Change is one instruction that changes an image's configuration, in the language of Dockerfiles
// (https://docs.docker.com/reference/dockerfile).
type Change struct {
	text        string
	instruction string // upper case
	rest        string // what follows it
}

// values are what an instruction says: pairs of ENV and LABEL, a list of all others.
type values struct {
	list  []string
	pairs [][2]string
}

// instructions are those that a Change may have.
var instructions = []string{"CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}

// ParseChange reads one instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR. But for
// CMD and ENTRYPOINT, a variable ($NAME, ${NAME}, ${NAME:-WORD}, ${NAME:+WORD}) stands for its value in the image that
// is changed; an instruction with one is checked when the change is made. What is wrong is errdefs.ErrInvalidArgument.
func ParseChange(text string) (Change, error) {
	text = strings.TrimSpace(text)
	name, rest := text, ""
	if i := strings.IndexAny(text, " \t"); i > 0 {
		name, rest = text[:i], text[i:]
	}
	c := Change{text: text, instruction: strings.ToUpper(name), rest: strings.TrimSpace(rest)}
	switch {
	case !slices.Contains(instructions, c.instruction):
		return Change{}, c.bad(fmt.Errorf("want one of %s", strings.Join(instructions, ", ")))
	case strings.ContainsAny(c.rest, "\x00\n\r"):
		return Change{}, c.bad(errors.New("it has a line break or a NUL"))
	case c.rest == "" && !c.isCommand():
		return Change{}, c.bad(errors.New("it has no value"))
	case strings.Contains(c.rest, "$") && !c.isCommand():
		return c, nil
	}
	if _, err := c.read(nil); err != nil {
		return Change{}, err
	}
	return c, nil
}

func (c Change) isCommand() bool { return c.instruction == "CMD" || c.instruction == "ENTRYPOINT" }

func (c Change) bad(why error) error {
	return fmt.Errorf("change %q: %w: %w", c.text, why, errdefs.ErrInvalidArgument)
}

// read gives what the instruction says where variables have the values that env gives.
func (c Change) read(env func(name string) string) (v values, err error) {
	switch c.instruction {
	case "CMD", "ENTRYPOINT":
		v.list, err = exec(c.rest)
	case "ENV", "LABEL":
		v.pairs, err = pairs(c.rest, env)
	case "EXPOSE":
		v.list, err = ports(c.rest, env)
	case "VOLUME":
		v.list, err = volumes(c.rest, env)
	default:
		if v.list, err = split(c.rest, env); err == nil && (len(v.list) != 1 || v.list[0] == "") {
			err = errors.New("want one value")
		}
		if err == nil && c.instruction == "STOPSIGNAL" {
			_, err = task.ParseSignal(v.list[0])
		}
	}
	if err != nil {
		return values{}, c.bad(err)
	}
	return v, nil
}

// exec reads a command: a JSON array, or a line for the shell. An empty one is none.
func exec(s string) ([]string, error) {
	if strings.HasPrefix(s, "[") {
		var list []string
		if err := json.Unmarshal([]byte(s), &list); err != nil {
			return nil, errors.New("want a JSON array of strings")
		}
		return list, nil
	}
	if s == "" {
		return nil, nil
	}
	return []string{"/bin/sh", "-c", s}, nil
}

func volumes(s string, env func(string) string) (list []string, err error) {
	if strings.HasPrefix(s, "[") {
		if list, err = exec(s); err != nil {
			return nil, err
		}
		for i, v := range list {
			if list[i], err = replace(v, env); err != nil {
				return nil, err
			}
		}
	} else if list, err = split(s, env); err != nil {
		return nil, err
	}
	for i, v := range list {
		if list[i] = path.Clean("/" + v); list[i] == "/" {
			return nil, fmt.Errorf("%q is no place for a volume", v)
		}
	}
	return list, nil
}

func ports(s string, env func(string) string) (list []string, err error) {
	if s, err = replace(s, env); err != nil {
		return nil, err
	}
	for _, p := range strings.Fields(s) {
		port, err := portOf(p)
		if err != nil {
			return nil, err
		}
		list = append(list, port)
	}
	return list, nil
}

func portOf(s string) (string, error) {
	number, proto, has := strings.Cut(s, "/")
	if !has {
		proto = "tcp"
	}
	first, last, isRange := strings.Cut(number, "-")
	n, err := strconv.ParseUint(first, 10, 16)
	m := n
	if isRange && err == nil {
		m, err = strconv.ParseUint(last, 10, 16)
	}
	proto = strings.ToLower(proto)
	if err != nil || n == 0 || m < n || proto != "tcp" && proto != "udp" && proto != "sctp" {
		return "", fmt.Errorf("%q is no port", s)
	}
	return number + "/" + proto, nil
}

// pairs reads KEY=VALUE..., or the older form KEY VALUE with one key.
func pairs(s string, env func(string) string) (all [][2]string, err error) {
	if first := wordLength(s); first < len(s) && !strings.Contains(s[:first], "=") {
		key, err := replace(s[:first], env)
		if err != nil {
			return nil, err
		}
		value, err := replace(strings.TrimSpace(s[first:]), env)
		return [][2]string{{key, value}}, err
	}
	list, err := split(s, env)
	if err != nil {
		return nil, err
	}
	for _, word := range list {
		key, value, ok := strings.Cut(word, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("want KEY=VALUE, not %q", word)
		}
		all = append(all, [2]string{key, value})
	}
	return all, nil
}

// wordLength is how much of s is its first word, with its quotes.
func wordLength(s string) int {
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote == 0 && isBlank(c):
			return i
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == quote:
			quote = 0
		case c == '\\' && quote != '\'':
			i++
		}
	}
	return len(s)
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// split gives the words of a line, each as [replace] gives it. Blanks count where they are quoted or behind a backslash, or come
// from a variable.
func split(s string, env func(string) string) (words []string, err error) {
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			return words, nil
		}
		n := wordLength(s)
		word, err := replace(s[:n], env)
		if err != nil {
			return nil, err
		}
		words = append(words, word)
		s = s[n:]
	}
}

// replace gives a text without its quotes, and with its variables replaced but in single quotes. A backslash makes of what follows a
// plain character; in single quotes it does not, and in double ones only of a quote, a dollar sign and a backslash.
func replace(s string, env func(string) string) (string, error) {
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
			continue
		case c == quote && quote != 0:
			quote = 0
			continue
		case c == '$' && quote != '\'':
			value, n, err := variable(s[i:], env)
			if err != nil {
				return "", err
			}
			b.WriteString(value)
			i += n - 1
			continue
		case c == '\\' && quote != '\'' && i+1 < len(s) && (quote == 0 || strings.IndexByte(`"$\`, s[i+1]) >= 0):
			i++
			c = s[i]
		}
		b.WriteByte(c)
	}
	if quote != 0 {
		return "", errors.New("a quote is not closed")
	}
	return b.String(), nil
}

// variable gives the value of the variable with which s begins, and its length there. A dollar sign before anything
// else is one.
func variable(s string, env func(string) string) (value string, n int, err error) {
	if !strings.HasPrefix(s, "${") {
		n = 1 + nameLength(s[1:])
		if n == 1 {
			return "$", 1, nil
		}
		return env(s[1:n]), n, nil
	}
	end := closing(s)
	if end < 0 {
		return "", 0, fmt.Errorf("%q is not closed", s)
	}
	inner := s[2:end]
	length := nameLength(inner)
	value = env(inner[:length])
	switch word := inner[length:]; {
	case length == 0:
		return "", 0, fmt.Errorf("%q has no name", s[:end+1])
	case word == "":
		return value, end + 1, nil
	case strings.HasPrefix(word, ":-"):
		if value == "" {
			value, err = replace(word[2:], env)
		}
	case strings.HasPrefix(word, ":+"):
		if value != "" {
			value, err = replace(word[2:], env)
		}
	default:
		return "", 0, fmt.Errorf("%q: want ${NAME}, ${NAME:-WORD} or ${NAME:+WORD}", s[:end+1])
	}
	return value, end + 1, err
}

// closing is where the brace ends that s[1] opens; -1: nowhere.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// nameLength is how much of s is the name of a variable.
func nameLength(s string) int {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}
