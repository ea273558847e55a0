// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// What peek gives instead of a character.
const (
	end rune = -1
	bad rune = -2 // NUL, U+FFFD, or no UTF-8
)

// parser reads one filter. White space is passed over before a field, an operator and a value, and nowhere else.
type parser struct {
	text string
	at   int // bytes that have been read
}

func parse(text string) ([]selector, error) {
	if text == "" {
		return nil, nil
	}
	p := parser{text: text}
	var all []selector
	for {
		s, err := p.selector()
		if err != nil {
			return nil, err
		}
		all = append(all, s)
		switch r, size := p.peek(); r {
		case end:
			return all, nil
		case ',':
			p.at += size
		default:
			return nil, p.wrong(p.at, `a "," or the end is expected`)
		}
	}
}

func (p *parser) selector() (selector, error) {
	var s selector
	for {
		f, err := p.field()
		if err != nil {
			return s, err
		}
		s.path = append(s.path, f)
		r, size := p.peek()
		if r != '.' {
			break
		}
		p.at += size
	}
	if r, _ := p.peek(); r == ',' || r == end {
		return s, nil
	}
	var err error
	if s.op, err = p.operator(); err != nil {
		return s, err
	}
	if s.value, err = p.value(s.op == "~="); err != nil {
		return s, err
	}
	if s.op == "~=" {
		s.pattern = compile(s.value)
	}
	return s, nil
}

func (p *parser) field() (string, error) {
	p.space()
	begin := p.at
	switch r, _ := p.peek(); {
	case r == '"':
		return p.quoted()
	case isField(r):
		p.run(isField)
		return p.text[begin:p.at], nil
	}
	return "", p.wrong(begin, "the name of a field is expected, such as id, or one in double quotes")
}

func (p *parser) operator() (string, error) {
	p.space()
	begin := p.at
	p.run(isOperator)
	switch op := p.text[begin:p.at]; op {
	case "==", "!=", "~=":
		return op, nil
	case "":
		return "", p.wrong(begin, "an operator is expected: ==, != or ~=")
	default:
		return "", p.wrong(begin, fmt.Sprintf("%q is no operator: there are ==, != and ~=", op))
	}
}

// value reads a value; that of a pattern may be delimited by slashes or bars.
func (p *parser) value(pattern bool) (string, error) {
	p.space()
	begin := p.at
	r, size := p.peek()
	switch {
	case r == '"', pattern && (r == '/' || r == '|'):
		return p.quoted()
	case r == '/' || r == '|':
		return "", p.wrong(begin, fmt.Sprintf("a value that begins with %q must stand in double quotes", r))
	case r == end, r == bad, r == ',', r == '.', isOperator(r):
		return "", p.wrong(begin, "a value is expected, such as web, or one in double quotes")
	}
	p.at += size // the first character may be one that would end a value
	p.run(isValue)
	return p.text[begin:p.at], nil
}

// quoted reads a text and the delimiters around it, of which the first is next.
func (p *parser) quoted() (string, error) {
	begin := p.at
	delimiter, _ := p.peek()
	p.at++
	var b strings.Builder
	for {
		r, size := p.peek()
		switch {
		case r == end, r == bad, r == '\n':
			return "", p.wrong(begin, "a quoted text that does not end")
		case r == delimiter:
			p.at++
			return b.String(), nil
		case r != '\\':
			p.at += size
			b.WriteRune(r)
			continue
		}
		if err := p.escape(&b, byte(delimiter)); err != nil {
			return "", err
		}
	}
}

// simple are the escapes of one letter.
var simple = map[byte]byte{'a': '\a', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t', 'v': '\v', '\\': '\\'}

// escape reads what begins with a backslash, as in a Go string.
func (p *parser) escape(b *strings.Builder, delimiter byte) error {
	begin := p.at
	p.at++
	if p.at == len(p.text) {
		return p.wrong(begin, "a quoted text that does not end")
	}
	c := p.text[p.at]
	if plain, ok := simple[c]; ok || c == delimiter {
		if !ok {
			plain = c
		}
		p.at++
		return b.WriteByte(plain)
	}
	base, digits := rune(16), 0
	switch {
	case c == 'x':
		digits = 2
	case c == 'u':
		digits = 4
	case c == 'U':
		digits = 8
	case c >= '0' && c <= '7':
		base, digits = 8, 3
	}
	if base == 16 {
		p.at++
	}
	n, ok := p.number(base, digits)
	switch {
	case !ok, (c == 'u' || c == 'U') && n > unicode.MaxRune, base == 8 && n > 0xff:
		return p.wrong(begin, "no escape of a Go string")
	case c == 'u' || c == 'U':
		b.WriteRune(rune(n))
		return nil
	}
	return b.WriteByte(byte(n))
}

// number reads so many digits, which are at least one.
func (p *parser) number(base rune, digits int) (n uint32, ok bool) {
	for range digits {
		if p.at == len(p.text) {
			return 0, false
		}
		v := strings.IndexByte("0123456789abcdef", p.text[p.at]|0x20)
		if c := p.text[p.at]; v < 0 || v >= int(base) || c < '0' {
			return 0, false
		}
		n = n*uint32(base) + uint32(v)
		p.at++
	}
	return n, digits > 0
}

// peek gives the next character and its length, without reading it.
func (p *parser) peek() (rune, int) {
	if p.at == len(p.text) {
		return end, 0
	}
	r, size := utf8.DecodeRuneInString(p.text[p.at:])
	if r == 0 || r == utf8.RuneError {
		return bad, size
	}
	return r, size
}

// run reads on while the characters are of a kind.
func (p *parser) run(is func(rune) bool) {
	for {
		r, size := p.peek()
		if r < 0 || !is(r) {
			return
		}
		p.at += size
	}
}

func (p *parser) space() { p.run(unicode.IsSpace) }

// maxShown bounds what an error repeats of a filter, in bytes.
const maxShown = 200

func (p *parser) wrong(at int, what string) error {
	return fmt.Errorf("filter %.*q: byte %d: %s: %w", maxShown, p.text, at+1, what, errdefs.ErrInvalidArgument)
}

func isField(r rune) bool {
	return r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
}

func isOperator(r rune) bool { return r == '=' || r == '!' || r == '~' }

func isValue(r rune) bool {
	return r != ',' && !unicode.IsSpace(r) && (unicode.IsGraphic(r) || unicode.IsDigit(r) || unicode.IsNumber(r))
}
