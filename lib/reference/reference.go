// SPDX-License-Identifier: Apache-2.0

// Package reference reads what images are called. A reference is parsed once, where a person or a client typed it; from
// there to the registry and to the record it is one value.
package reference

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Reference is a normalised image reference: where an image comes from and what it is called.
type Reference struct {
	Domain string        // docker.io, localhost:5000
	Path   string        // library/redis
	Tag    string        // 7; empty only with a digest
	Digest digest.Digest // empty, or what the image must have
}

const (
	hub       = "docker.io"
	legacyHub = "index.docker.io"
	official  = "library/"
	latest    = "latest"
	maxPath   = 255
	maxTag    = 128
)

// Parse reads a reference as docker users write it and normalises it: redis is
// docker.io/library/redis:latest. The grammar is that of github.com/distribution/reference, written out
// here because compiling its expressions would cost every command half a millisecond.
func Parse(s string) (Reference, error) {
	r, why := parse(s)
	if why != "" {
		return Reference{}, fmt.Errorf("image reference %q: %s: %w", short(s), why, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

func parse(s string) (r Reference, why string) {
	if s == "" {
		return r, "it is empty"
	}
	if len(s) == 64 && isAll(s, isLowerHex) {
		return r, "64 hexadecimal digits are a digest without its sha256:"
	}
	if scheme, _, ok := strings.Cut(s, "://"); ok {
		return r, fmt.Sprintf("%q does not belong to it", short(scheme)+"://")
	}
	rest := r.splitDomain(s)
	rest, dg, hasDigest := strings.Cut(rest, "@")
	rest, tag, hasTag := strings.Cut(rest, ":")
	r.Path, r.Tag, r.Digest = rest, tag, digest.Digest(dg)
	switch {
	case !isDomain(r.Domain):
		return r, fmt.Sprintf("%q is no registry host", r.Domain)
	case strings.ToLower(r.Path) != r.Path:
		return r, "the repository must be lower case"
	case !isPath(r.Path):
		return r, fmt.Sprintf("%q is no repository name", short(r.Path))
	case len(r.Path) > maxPath:
		return r, fmt.Sprintf("the repository has more than %d characters", maxPath)
	case hasTag && !IsTag(tag):
		return r, fmt.Sprintf("%q is no tag", short(tag))
	case hasDigest && r.Digest.Validate() != nil:
		return r, fmt.Sprintf("%q is no digest", short(dg))
	}
	if !hasTag && !hasDigest {
		r.Tag = latest
	}
	return r, ""
}

// splitDomain sets the registry's host and gives what follows it.
func (r *Reference) splitDomain(s string) string {
	first, rest, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		r.Domain = hub
		return official + s
	case first == legacyHub:
		r.Domain = hub
	case first == "localhost", strings.ContainsAny(first, ".:"), strings.ToLower(first) != first:
		r.Domain = first
	default:
		r.Domain, rest = hub, s
	}
	if r.Domain == hub && !strings.Contains(rest, "/") {
		rest = official + rest
	}
	return rest
}

// Repository is the reference without tag and digest.
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

// String is the whole reference, and the name that an image's record has.
func (r Reference) String() string { return r.Repository() + r.suffix() }

// Familiar is the shortest form that means the same to docker users.
func (r Reference) Familiar() string {
	if r.Domain != hub {
		return r.String()
	}
	path := r.Path
	if p, ok := strings.CutPrefix(path, official); ok && !strings.Contains(p, "/") {
		path = p
	}
	return path + r.suffix()
}

func (r Reference) suffix() string {
	s := ""
	if r.Tag != "" {
		s = ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// Familiar shortens a record's name; a name that is no reference stays as it is.
func Familiar(name string) string {
	if r, err := Parse(name); err == nil && r.String() == name {
		return r.Familiar()
	}
	return name
}

func isAll(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool    { return '0' <= c && c <= '9' }
func isLowerHex(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' }
func isLower(c byte) bool    { return isDigit(c) || 'a' <= c && c <= 'z' }
func isAlnum(c byte) bool    { return isLower(c) || 'A' <= c && c <= 'Z' }

// isDomain: labels of letters, digits and inner dashes joined by dots, or an IPv6 address in brackets;
// then perhaps a port.
func isDomain(s string) bool {
	host := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		if !isAll(s[i+1:], isDigit) {
			return false
		}
		host = s[:i]
	}
	if in, ok := strings.CutPrefix(host, "["); ok {
		in, ok = strings.CutSuffix(in, "]")
		return ok && isAll(in, func(c byte) bool { return isLowerHex(c) || 'A' <= c && c <= 'F' || c == ':' })
	}
	for label := range strings.SplitSeq(host, ".") {
		if !isAll(label, func(c byte) bool { return isAlnum(c) || c == '-' }) || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// isPath: components of lower case letters and digits, joined inside by one dot, one or two underscores
// or any number of dashes.
func isPath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || !isLower(part[0]) || !isLower(part[len(part)-1]) {
			return false
		}
		for i := 0; i < len(part); {
			start := i
			for !isLower(part[i]) {
				i++
			}
			switch sep := part[start:i]; sep {
			case "", ".", "_", "__":
			default:
				if strings.Trim(sep, "-") != "" {
					return false
				}
			}
			i++
		}
	}
	return true
}

// IsTag tells whether s can be the tag of a reference.
func IsTag(s string) bool {
	return len(s) <= maxTag && isAll(s, func(c byte) bool { return isAlnum(c) || c == '_' || c == '.' || c == '-' }) &&
		s[0] != '.' && s[0] != '-'
}

func short(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}
