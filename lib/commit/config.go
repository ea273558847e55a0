// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Change is one instruction that changes an image's configuration, in the language of Dockerfiles
// (https://docs.docker.com/reference/dockerfile).
type Change struct {
	instruction string // upper case
	list        []string
	pairs       [][2]string
}

// instructions are those that a Change may have.
var instructions = []string{"CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}

// ParseChange reads one instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR. Variables
// are not replaced. What is wrong is errdefs.ErrInvalidArgument.
func ParseChange(text string) (c Change, err error) {
	name, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	c.instruction, rest = strings.ToUpper(name), strings.TrimSpace(rest)
	bad := func(format string, args ...any) (Change, error) {
		return Change{}, fmt.Errorf("change %q: "+format+": %w", append(append([]any{text}, args...), errdefs.ErrInvalidArgument)...)
	}
	if !slices.Contains(instructions, c.instruction) {
		return bad("want one of %s", strings.Join(instructions, ", "))
	}
	if strings.ContainsAny(rest, "\x00\n\r") {
		return bad("it has a line break or a NUL")
	}
	if rest == "" && c.instruction != "CMD" && c.instruction != "ENTRYPOINT" {
		return bad("it has no value")
	}
	switch c.instruction {
	case "CMD", "ENTRYPOINT":
		if c.list, err = exec(rest); err != nil {
			return bad("%v", err)
		}
	case "ENV", "LABEL":
		if c.pairs, err = pairs(rest); err != nil {
			return bad("%v", err)
		}
	case "EXPOSE":
		for _, p := range strings.Fields(rest) {
			port, err := portOf(p)
			if err != nil {
				return bad("%v", err)
			}
			c.list = append(c.list, port)
		}
	case "VOLUME":
		if c.list, err = volumes(rest); err != nil {
			return bad("%v", err)
		}
	default:
		if c.list, err = split(rest); err != nil || len(c.list) != 1 {
			return bad("want one value")
		}
	}
	return c, nil
}

// exec reads a command: a JSON array, or a line for the shell. An empty one is none.
func exec(s string) ([]string, error) {
	if strings.HasPrefix(s, "[") {
		var list []string
		if err := json.Unmarshal([]byte(s), &list); err != nil {
			return nil, fmt.Errorf("want a JSON array of strings")
		}
		return list, nil
	}
	if s == "" {
		return nil, nil
	}
	return []string{"/bin/sh", "-c", s}, nil
}

func volumes(s string) (list []string, err error) {
	if strings.HasPrefix(s, "[") {
		if list, err = exec(s); err != nil {
			return nil, err
		}
	} else if list, err = split(s); err != nil {
		return nil, err
	}
	for i, v := range list {
		if list[i] = path.Clean("/" + v); list[i] == "/" {
			return nil, fmt.Errorf("%q is no place for a volume", v)
		}
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
func pairs(s string) (all [][2]string, err error) {
	first, rest, _ := strings.Cut(s, " ")
	if !strings.Contains(first, "=") && first != s {
		return [][2]string{{first, strings.TrimSpace(rest)}}, nil
	}
	list, err := split(s)
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

// split gives the words of a line. Blanks count where they are quoted or behind a backslash.
func split(s string) (words []string, err error) {
	var b strings.Builder
	quote, in := byte(0), false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && (c == ' ' || c == '\t'):
			if in {
				words = append(words, b.String())
				b.Reset()
				in = false
			}
			continue
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
			continue
		case c == quote && quote != 0:
			quote = 0
			continue
		case c == '\\' && quote != '\'' && i+1 < len(s):
			i++
			c = s[i]
		}
		b.WriteByte(c)
		in = true
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote is not closed")
	}
	if in {
		words = append(words, b.String())
	}
	return words, nil
}

// clean makes a path one from the root, without a leading slash.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// configOf is the configuration of a base with one more layer. Fields that are not known here stay as they are.
func configOf(base []byte, diffID digest.Digest, opt Options) ([]byte, error) {
	var all map[string]json.RawMessage
	var known ocispec.Image
	var inner map[string]json.RawMessage
	for _, into := range []any{&all, &known} {
		if err := json.Unmarshal(base, into); err != nil {
			return nil, fmt.Errorf("configuration: %w: %w", err, errdefs.ErrDataLoss)
		}
	}
	if raw := all["config"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &inner); err != nil {
			return nil, fmt.Errorf("configuration: %w: %w", err, errdefs.ErrDataLoss)
		}
	}
	if inner == nil {
		inner = map[string]json.RawMessage{}
	}
	change(&known.Config, opt.Changes)
	created := opt.Time
	if created.IsZero() {
		created = time.Now()
	}
	created = created.UTC()
	known.RootFS.DiffIDs = append(known.RootFS.DiffIDs, diffID)
	known.History = append(known.History, ocispec.History{Created: &created, CreatedBy: "ctr-image commit", Author: opt.Author, Comment: opt.Message})
	set := func(in map[string]json.RawMessage, key string, value any, there bool) {
		if !there {
			delete(in, key)
			return
		}
		in[key], _ = json.Marshal(value) // of strings and numbers
	}
	c := known.Config
	set(inner, "Cmd", c.Cmd, len(c.Cmd) > 0)
	set(inner, "Entrypoint", c.Entrypoint, len(c.Entrypoint) > 0)
	set(inner, "Env", c.Env, len(c.Env) > 0)
	set(inner, "ExposedPorts", c.ExposedPorts, len(c.ExposedPorts) > 0)
	set(inner, "Labels", c.Labels, len(c.Labels) > 0)
	set(inner, "StopSignal", c.StopSignal, c.StopSignal != "")
	set(inner, "User", c.User, c.User != "")
	set(inner, "Volumes", c.Volumes, len(c.Volumes) > 0)
	set(inner, "WorkingDir", c.WorkingDir, c.WorkingDir != "")
	set(all, "config", inner, true)
	set(all, "created", created, true)
	if opt.Author != "" {
		set(all, "author", opt.Author, true)
	}
	set(all, "rootfs", known.RootFS, true)
	set(all, "history", known.History, true)
	// What docker kept of the container that the base was made of is not so of this image.
	delete(all, "container")
	delete(all, "container_config")
	return json.Marshal(all)
}

// change makes the changes in their order. As in a Dockerfile, a new entrypoint takes away a command that was
// for the old one.
func change(c *ocispec.ImageConfig, all []Change) {
	command := false
	for _, ch := range all {
		switch ch.instruction {
		case "CMD":
			c.Cmd, command = ch.list, true
		case "ENTRYPOINT":
			c.Entrypoint = ch.list
			if !command {
				c.Cmd = nil
			}
		case "ENV":
			for _, p := range ch.pairs {
				c.Env = setEnv(c.Env, p[0], p[1])
			}
		case "LABEL":
			c.Labels = maps.Clone(c.Labels)
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			for _, p := range ch.pairs {
				c.Labels[p[0]] = p[1]
			}
		case "EXPOSE":
			c.ExposedPorts = with(c.ExposedPorts, ch.list)
		case "VOLUME":
			c.Volumes = with(c.Volumes, ch.list)
		case "STOPSIGNAL":
			c.StopSignal = ch.list[0]
		case "USER":
			c.User = ch.list[0]
		case "WORKDIR":
			if c.WorkingDir = path.Join("/", c.WorkingDir, ch.list[0]); path.IsAbs(ch.list[0]) {
				c.WorkingDir = path.Clean(ch.list[0])
			}
		}
	}
}

// setEnv gives a variable its value, where it stands if it is there.
func setEnv(env []string, key, value string) []string {
	env = slices.Clone(env)
	for i, v := range env {
		if strings.HasPrefix(v, key+"=") {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

func with(set map[string]struct{}, names []string) map[string]struct{} {
	set = maps.Clone(set)
	if set == nil {
		set = map[string]struct{}{}
	}
	for _, n := range names {
		set[n] = struct{}{}
	}
	return set
}
