// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
)

// Log names a log file and how it rotates.
type Log struct {
	Path     string // absolute
	MaxSize  int64  // bytes at which a file is rotated; 0 is never
	MaxFiles int    // files kept, the one that is written included; 0 is DefaultFiles
	MaxLine  int    // bytes of output in one record; a longer line is several partial ones; 0 is DefaultLine
	// Shared says that somebody else rotates the file: as soon as another file has the path, the writer goes on in that one.
	// While no file has it, the writer goes on in the one that it has.
	Shared bool
}

// DefaultFiles is the number of files of a log that rotates, when no other is asked for.
const DefaultFiles = 5

// DefaultLine is how many bytes of output a record has at most, when no other bound is asked for.
const DefaultLine = 8 << 10

// maxFiles and maxRecord bound what an address may ask for.
const (
	maxFiles  = 1000
	maxRecord = 512 << 10
)

// ParseLog reads an address of the form log:///path?max-size=BYTES&max-files=N&max-line=BYTES&shared=1.
// Anything else is errdefs.ErrInvalidArgument.
func ParseLog(uri string) (Log, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "log" || u.Host != "" || u.User != nil || u.Fragment != "" || !filepath.IsAbs(u.Path) {
		return Log{}, fmt.Errorf("log address %q: %w", uri, errdefs.ErrInvalidArgument)
	}
	l := Log{Path: filepath.Clean(u.Path)}
	for key, v := range u.Query() {
		n, err := strconv.ParseInt(v[len(v)-1], 10, 64)
		switch {
		case err != nil || n < 0:
			return Log{}, fmt.Errorf("log address %q: %s: %w", uri, key, errdefs.ErrInvalidArgument)
		case key == "max-size":
			l.MaxSize = n
		case key == "max-files" && n <= maxFiles:
			l.MaxFiles = int(n)
		case key == "max-line" && n <= maxRecord:
			l.MaxLine = int(n)
		case key == "shared" && n <= 1:
			l.Shared = n == 1
		default:
			return Log{}, fmt.Errorf("log address %q: %s: %w", uri, key, errdefs.ErrInvalidArgument)
		}
	}
	return l, nil
}

// String is the address that ParseLog reads.
func (l Log) String() string {
	u := url.URL{Scheme: "log", Path: l.Path}
	q := url.Values{}
	if l.MaxSize > 0 {
		q.Set("max-size", strconv.FormatInt(l.MaxSize, 10))
	}
	if l.MaxFiles > 0 {
		q.Set("max-files", strconv.Itoa(l.MaxFiles))
	}
	if l.MaxLine > 0 {
		q.Set("max-line", strconv.Itoa(l.MaxLine))
	}
	if l.Shared {
		q.Set("shared", "1")
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func (l Log) files() int {
	if l.MaxFiles > 0 {
		return l.MaxFiles
	}
	return DefaultFiles
}

// name is the path of the file that was rotated i times.
func (l Log) name(i int) string {
	if i == 0 {
		return l.Path
	}
	return l.Path + "." + strconv.Itoa(i)
}

// Stream is one of a process's two outputs.
type Stream byte

// The streams.
const (
	Stdout Stream = iota
	Stderr
)

// String is the stream's name in a log.
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}
