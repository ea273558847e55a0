// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"ctrd.dev/ctrd/lib/tail"
)

// defaultPath is the PATH of a container whose image sets none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const (
	maxEnvFile = 16 << 20
	maxEnvLine = 1 << 20
)

// ParseEnvFile reads the format of docker's --env-file: one KEY=VALUE or KEY a line, the latter taken from
// lookup (os.LookupEnv, say) and left out when it is not there; empty lines and lines that start with #
// are passed over; nothing is unquoted, and blanks after the = belong to the value. The error names the
// line.
func ParseEnvFile(r io.Reader, lookup func(string) (string, bool)) ([]string, error) {
	var env []string
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxEnvLine)
	n := 0
	for in.Scan() {
		n++
		b := in.Bytes()
		if n == 1 {
			b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
		}
		if !utf8.Valid(b) {
			return nil, fmt.Errorf("line %d: not UTF-8", n)
		}
		line := strings.TrimLeftFunc(string(b), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		switch {
		case key == "":
			return nil, fmt.Errorf("line %d: no name before the =", n)
		case strings.ContainsAny(key, " \t"):
			return nil, fmt.Errorf("line %d: the name %q has a blank in it", n, key)
		case strings.ContainsRune(line, 0):
			return nil, fmt.Errorf("line %d: a NUL byte", n)
		case !ok:
			if value, ok = lookup(key); !ok {
				continue
			}
		}
		env = append(env, key+"="+value)
	}
	if err := in.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d: longer than %d bytes", n+1, maxEnvLine)
	} else if err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return env, nil
}

// readEnvFile takes /dev/stdin and pipes (<(...) of a shell) too.
func readEnvFile(ctx context.Context, name string) ([]string, error) {
	env, err := tail.Until(ctx, func() ([]string, error) {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return ParseEnvFile(io.LimitReader(f, maxEnvFile), os.LookupEnv)
	})
	if ctx.Err() != nil {
		return nil, fmt.Errorf("read env-file %q: %w", name, context.Cause(ctx))
	}
	if err != nil {
		return nil, invalid("env-file", name, "%v", errOnly(err))
	}
	return env, nil
}

// Env is the environment of a process: base, then what the files say, then the values of --env. KEY
// alone takes the value that the calling process has, and removes KEY when it has none. A later value
// replaces an earlier one in its place. The files are read until ctx ends.
func Env(ctx context.Context, base, files, values []string) ([]string, error) {
	env := merge(nil, base)
	for _, name := range files {
		more, err := readEnvFile(ctx, name)
		if err != nil {
			return nil, err
		}
		env = merge(env, more)
	}
	for _, v := range values {
		key, _, ok := strings.Cut(v, "=")
		if key == "" || strings.ContainsRune(v, 0) {
			return nil, invalid("env", v, "want KEY=VALUE, or KEY to pass the caller's on")
		}
		if !ok {
			value, there := os.LookupEnv(key)
			if !there {
				env = without(env, key)
				continue
			}
			v = key + "=" + value
		}
		if !utf8.ValidString(v) {
			return nil, invalid("env", v, "not UTF-8, which is all that an OCI specification can hold")
		}
		env = merge(env, []string{v})
	}
	return env, nil
}

// merge sets each of more in env. An entry without = is no variable and is left out.
func merge(env, more []string) []string {
	at := make(map[string]int, len(env)+len(more))
	for i, e := range env {
		key, _, _ := strings.Cut(e, "=")
		at[key] = i
	}
	for _, e := range more {
		key, _, ok := strings.Cut(e, "=")
		if !ok || key == "" {
			continue
		}
		if i, there := at[key]; there {
			env[i] = e
			continue
		}
		at[key] = len(env)
		env = append(env, e)
	}
	return env
}

func without(env []string, key string) []string {
	var kept []string
	for _, e := range env {
		if !strings.HasPrefix(e, key+"=") {
			kept = append(kept, e)
		}
	}
	return kept
}

func hasKey(env []string, key string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, key+"=") {
			return true
		}
	}
	return false
}
