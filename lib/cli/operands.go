// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"ctrd.dev/ctrd/lib/tail"
	"github.com/containerd/errdefs"
)

// Operands gives the operands one by one. For "-" it gives the names that stdin has, one a line, as they
// come. Of a line with TABs the first field is the name, so that what one command lists another can read.
// Empty lines are passed over.
func Operands(args []string, stdin io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, a := range args {
			if a != "-" {
				if !yield(a, nil) {
					return
				}
				continue
			}
			sc := bufio.NewScanner(patient(stdin))
			for sc.Scan() {
				name, err := nameOf(sc.Text())
				if err != nil {
					yield("", err)
					return
				}
				if name != "" && !yield(name, nil) {
					return
				}
			}
			if err := sc.Err(); err != nil && !yield("", fmt.Errorf("names from stdin: %w", err)) {
				return
			}
		}
	}
}

// patient gives what reads stdin, which may be a terminal at which nobody types, until the command is told to end.
func patient(stdin io.Reader) io.Reader {
	if current.ctx == nil { // Main does not run
		return stdin
	}
	return tail.Reader(current.ctx, stdin)
}

// nameOf gives the name that a line has. A NUL tells that stdin is something else, an archive for instance.
func nameOf(line string) (string, error) {
	name, _, _ := strings.Cut(line, "\t")
	if strings.ContainsRune(line, 0) {
		return "", Hint(fmt.Errorf("stdin has no names: it is binary: %w", errdefs.ErrInvalidArgument), "ctr-image import - reads an archive and prints the names of its images")
	}
	return strings.TrimSpace(name), nil
}

// Name is the one operand of a verb; for "-" it is the name that stdin's first line has, see [ReadName].
func Name(arg string) (string, error) {
	if arg == "-" {
		return ReadName(os.Stdin)
	}
	return arg, nil
}

// maxName bounds the line that ReadName takes.
const maxName = 4096

// ReadName reads exactly one line from r, byte by byte, so that what follows is left for whoever reads
// next, and gives its first field. No line, or an empty one, is an error of kind InvalidArgument.
func ReadName(r io.Reader) (string, error) {
	r = patient(r)
	var line []byte
	buf := make([]byte, 1)
	for {
		n, err := r.Read(buf)
		if n == 1 && buf[0] == '\n' || errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("a name from stdin: %w", err)
		}
		line = append(line, buf[:n]...)
		if n == 1 && buf[0] == 0 {
			break
		}
		if len(line) > maxName {
			return "", fmt.Errorf("a name from stdin: its line is longer than %d bytes: %w", maxName, errdefs.ErrInvalidArgument)
		}
	}
	name, err := nameOf(string(line))
	if err != nil {
		return "", err
	}
	if name == "" {
		return "", Hint(fmt.Errorf("stdin has no name: %w", errdefs.ErrInvalidArgument), "the command before the pipe may have failed")
	}
	return name, nil
}

// Each calls fn with every operand. A failure is reported at once and the next operand is tried. When some
// failed, the error that is returned has nothing more to say: its status is that of the failures when all
// operands failed alike, and 7 otherwise.
func Each(operands iter.Seq2[string, error], fn func(name string) error) error {
	n, failed, status := 0, 0, 0
	for name, err := range operands {
		n++
		if err == nil {
			err = fn(name)
		}
		if err == nil {
			continue
		}
		if canceled(err) {
			return err
		}
		failed++
		Warn(err)
		if s := Status(err); failed == 1 {
			status = s
		} else if s != status {
			status = ExitSome
		}
	}
	switch {
	case failed == 0:
		return nil
	case failed < n:
		status = ExitSome
	}
	return &statusError{status: status, kind: true}
}

// Remove is Each for a verb that removes things, and tells whether any was removed. With force, one that is not there
// ([errdefs.ErrNotFound]) is no failure.
func Remove(operands iter.Seq2[string, error], force bool, remove func(name string) error) (removed bool, err error) {
	err = Each(operands, func(name string) error {
		err := remove(name)
		if force && errdefs.IsNotFound(err) {
			return nil
		}
		removed = removed || err == nil
		return err
	})
	return removed, err
}

// After gives the failure of a verb that has removed things and then collected what nothing needs any more. What the
// collection says is a warning beside a failure of the removals.
func After(failed, collected error) error {
	switch {
	case collected == nil:
		return failed
	case failed == nil:
		return collected
	}
	Warn(collected)
	return failed
}
