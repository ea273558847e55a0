// SPDX-License-Identifier: Apache-2.0

package registry

import "strings"

// challenge is one way to log in that a server offers in WWW-Authenticate (RFC 9110 section 11.6.1).
type challenge struct {
	scheme string            // in lower case
	params map[string]string // by lower case name
}

// maxChallenges bounds the challenges that are read of one answer, and the parameters of each.
const maxChallenges = 32

// parseChallenges reads all challenges of all WWW-Authenticate headers, in order. One header may have
// several, separated by commas as their own parameters are. What cannot be read is left out.
func parseChallenges(headers []string) []challenge {
	var all []challenge
	for _, h := range headers {
		for s := (&scanner{rest: h}); len(all) < maxChallenges; {
			c, ok := s.challenge()
			if !ok {
				break
			}
			all = append(all, c)
		}
	}
	return all
}

// scanner reads the grammar of RFC 9110 sections 5.6 and 11.
type scanner struct{ rest string }

func (s *scanner) blanks() { s.rest = strings.TrimLeft(s.rest, " \t") }

func (s *scanner) commas() { s.rest = strings.TrimLeft(s.rest, " \t,") }

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

func (s *scanner) token() string {
	n := 0
	for n < len(s.rest) && isTokenByte(s.rest[n]) {
		n++
	}
	t := s.rest[:n]
	s.rest = s.rest[n:]
	return t
}

// challenge reads the next one: a scheme, and then parameters, a single word (as Negotiate has), or nothing.
func (s *scanner) challenge() (challenge, bool) {
	s.commas()
	scheme := s.token()
	if scheme == "" {
		return challenge{}, false
	}
	c := challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
	for range maxChallenges {
		before := s.rest
		s.commas()
		name := s.token()
		s.blanks()
		value, isParam := strings.CutPrefix(s.rest, "=")
		if name == "" || !isParam {
			// The name was the scheme of the next challenge, or a single word of this one.
			if s.rest = before; !s.word() {
				return c, true
			}
			continue
		}
		s.rest = value
		s.blanks()
		if v, ok := s.value(); ok {
			if name = strings.ToLower(name); c.params[name] == "" {
				c.params[name] = v
			}
		}
	}
	return c, true
}

// word skips what stands alone behind a scheme, up to the next comma: "Negotiate YII=".
func (s *scanner) word() bool {
	blank := strings.TrimLeft(s.rest, " \t")
	if blank == s.rest || blank == "" || blank[0] == ',' {
		return false
	}
	i := strings.IndexByte(blank, ',')
	if i < 0 {
		i = len(blank)
	}
	s.rest = blank[i:]
	return true
}

// value reads a word or a quoted string.
func (s *scanner) value() (string, bool) {
	quoted, ok := strings.CutPrefix(s.rest, `"`)
	if !ok {
		// Servers leave out the quotes of addresses, too.
		i := strings.IndexAny(s.rest, ", \t")
		if i < 0 {
			i = len(s.rest)
		}
		v := s.rest[:i]
		s.rest = s.rest[i:]
		return v, v != ""
	}
	var b strings.Builder
	for i := 0; i < len(quoted); i++ {
		switch c := quoted[i]; {
		case c == '"':
			s.rest = quoted[i+1:]
			return b.String(), true
		case c == '\\' && i+1 < len(quoted):
			i++
			b.WriteByte(quoted[i])
		default:
			b.WriteByte(c)
		}
	}
	s.rest = ""
	return "", false
}
