// SPDX-License-Identifier: Apache-2.0

package ask

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Unrunnable waits until a process has become its program, which closes f, or has said on f why it cannot.
// kind and text are those of a failed [Result]; text is empty when the program runs. A deadline that is set
// on f ends the wait with an error.
func Unrunnable(f *os.File) (kind Kind, text string, err error) {
	b, err := io.ReadAll(io.LimitReader(f, maxText))
	if err != nil {
		return Other, "", err
	}
	kind, text = execFailure(strings.TrimSpace(string(b)))
	return kind, text, nil
}

// execFailure sorts what libcontainer's init says when execve(2) fails: "exec PATH: ERROR". A file that init
// has found and the kernel has not is the interpreter of the program: shells have a status for that, 127.
func execFailure(text string) (Kind, string) {
	path, ok := strings.CutPrefix(text, "exec ")
	if !ok {
		return Other, text
	}
	kind := NotExecutable
	i := strings.LastIndex(path, ": ")
	if i < 0 {
		return Other, text
	}
	path, why := path[:i], path[i+2:]
	if why == unix.ENOENT.Error() {
		kind, why = NotFound, "its interpreter is not there"
	}
	return kind, fmt.Sprintf("exec: %q: %s", path, why)
}
