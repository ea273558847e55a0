// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"

	"ctrd.dev/ctrd/lib/engine/ask"
)

// frames are what engines put before the words that say something to the person who asked for a program
// to run.
var frames = []string{
	"runc create failed: ", "exec failed: ", "unable to start container process: ", "error during container init: ",
	"error executing setns process: ", "failed to create container: ", "creating container: ", "starting container: ",
}

// said is how engines say that a program is not there, and that it is there and cannot be run. The process
// in the container tells the engine by a pipe, as text. Each has all of the strings of one line.
var said = []struct {
	kind ask.Kind
	all  []string
}{
	// libcontainer, runc
	{ask.NotFound, []string{"exec: ", "executable file not found in $PATH"}},
	{ask.NotFound, []string{"exec: ", "no such file or directory"}},
	{ask.NotFound, []string{"exec: ", "not a directory"}},
	// crun
	{ask.NotFound, []string{"executable file `", "` not found"}},
	{ask.NotExecutable, []string{"the path `", "` exists but it is not executable"}},
	{ask.NotExecutable, []string{"the path `", "` is not a regular file"}},
	{ask.NotExecutable, []string{"exec container process `", "`: Exec format error"}},
	{ask.NotExecutable, []string{"exec container process `", "`: Permission denied"}},
	{ask.NotFound, []string{"exec container process", "(missing dynamic library?)"}},
	// youki
	{ask.NotFound, []string{"executable '", "' not found in $PATH"}},
	{ask.NotExecutable, []string{"executable '", "does not have correct permissions"}},
	// runsc
	{ask.NotFound, []string{"error finding executable ", "no such file or directory"}},
	{ask.NotFound, []string{"failed to load ", "no such file or directory"}},
	{ask.NotExecutable, []string{"failed to load ", "permission denied"}},
	{ask.NotExecutable, []string{"failed to load ", "exec format error"}},
	// libcontainer and runc, whatever else they say
	{ask.NotExecutable, []string{"exec: "}},
}

// explain gives a failure's kind and its text without the frames. One that is the program's begins with "exec: ",
// as those of os/exec do, whatever engine tells it.
func explain(err error) (ask.Kind, string) {
	if u := (*unrunnable)(nil); errors.As(err, &u) {
		return u.kind, u.text
	}
	text := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		return ask.TimedOut, text
	}
	for again := true; again; {
		again = false
		for _, frame := range frames {
			if rest, ok := strings.CutPrefix(text, frame); ok {
				text, again = rest, true
			}
		}
	}
	text = plainSysctl(text)
	kind := sort(text)
	if (kind == ask.NotFound || kind == ask.NotExecutable) && !strings.HasPrefix(text, "exec: ") {
		text = "exec: " + text
	}
	return kind, text
}

// plainSysctl gives the text of a failure to set a kernel parameter without the ways of libcontainer and runc to open
// it; any other text as it is.
func plainSysctl(text string) string {
	if rest, ok := strings.CutPrefix(text, "open sysctl "); ok && strings.HasSuffix(rest, ": no such file or directory") {
		name, _, _ := strings.Cut(rest, " file: ")
		return "sysctl " + name + ": the kernel has none of this name"
	}
	if rest, ok := strings.CutPrefix(text, "failed to write sysctl "); ok {
		what, why, _ := strings.Cut(rest, ": write ")
		return "sysctl " + what + why[max(0, strings.LastIndex(why, ": ")):]
	}
	return text
}

// sort gives the kind of a failure from an engine's words.
func sort(text string) ask.Kind {
	for _, s := range said {
		at, ok := text, true
		for i, part := range s.all {
			where := strings.Index(at, part)
			// The first part begins the message, or follows what the engine was doing.
			ok = ok && where >= 0 && (i > 0 || where == 0 || strings.HasSuffix(at[:where], ": "))
			if !ok {
				break
			}
			at = at[where+len(part):]
		}
		if ok {
			return s.kind
		}
	}
	return ask.Other
}

// maxSaid bounds what an engine's last words may be.
const maxSaid = 8 << 10

// lastError finds the last error in an engine's log (--log-format json): objects with level and msg, as
// runc, crun and runsc write them, or with youki's fields.message. crun's go over several lines. What is no
// JSON is passed over.
func lastError(log []byte) (text string) {
	for len(log) > 0 {
		var entry struct {
			Level   string
			Msg     string
			Message string
			Fields  struct{ Message string }
		}
		d := json.NewDecoder(bytes.NewReader(log))
		if d.Decode(&entry) != nil {
			_, log, _ = bytes.Cut(log, []byte("\n"))
			continue
		}
		log = log[d.InputOffset():]
		switch strings.ToLower(entry.Level) {
		case "error", "fatal", "panic":
		default:
			continue
		}
		for _, s := range []string{entry.Msg, entry.Message, entry.Fields.Message} {
			if s = strings.TrimSpace(s); s != "" {
				text = s
			}
		}
	}
	return text[:min(len(text), maxSaid)]
}

// lastLine is the last line of an engine's stderr that is not blank, without its time and level.
func lastLine(out []byte) (text string) {
	for line := range bytes.Lines(out) {
		if s := strings.TrimSpace(string(line)); s != "" {
			text = s
		}
	}
	if _, msg, ok := strings.Cut(text, `msg="`); ok && strings.HasPrefix(text, "time=") {
		var s string
		if json.Unmarshal([]byte(`"`+strings.TrimSuffix(msg, `"`)+`"`), &s) == nil {
			text = s
		}
	}
	return text[:min(len(text), maxSaid)]
}
