// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
)

// screen is what a program on a terminal has written so far.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return escapes.ReplaceAllString(s.text.String(), "")
}

var escapes = regexp.MustCompile("\x1b(\\[[0-9;?<=>]*[A-Za-z]|[=>])|\x07")

// await waits until the screen matches from a place on, and gives the place after it.
func (s *screen) await(ts *testscript.TestScript, from int, want string) int {
	re, err := regexp.Compile(want)
	ts.Check(err)
	for range 1000 {
		text := s.String()
		if loc := re.FindStringIndex(text[min(from, len(text)):]); loc != nil {
			return from + loc[1]
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("the screen never showed %q; it shows:\n%s", want, s)
	return 0
}

// onTerminal runs a program on a terminal of 100 columns.
func onTerminal(ts *testscript.TestScript, cmd *exec.Cmd) (*os.File, *screen, func()) {
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 100})
	ts.Check(err)
	s := &screen{}
	done := make(chan struct{})
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			s.Write(buf[:n])
			if err != nil {
				close(done)
				return
			}
		}
	}()
	return f, s, func() {
		cmd.Process.Kill()
		cmd.Wait()
		f.Close()
		<-done
	}
}

// environment is the script's, for programs that are not run by exec.
func environment(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TERM", "CTRD_ROOT", "CTRD_STATE", "CTRD_NAMESPACE", "WORK"} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// tab SHELL TYPED WANT types into an interactive shell, presses TAB (twice when TYPED ends in "TAB") and waits until
// the screen matches WANT.
func tab(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: tab bash|zsh typed want")
	}
	home := ts.Getenv("HOME")
	completions := filepath.Join(top, "completions")
	var cmd *exec.Cmd
	switch args[0] {
	case "bash":
		rc := "PS1='ready> '\nsource /usr/share/bash-completion/bash_completion\nfor f in " + completions + "/bash/*; do source $f; done\n"
		ts.Check(os.WriteFile(filepath.Join(home, "rc"), []byte(rc), 0o644))
		cmd = exec.Command("bash", "--noprofile", "--rcfile", filepath.Join(home, "rc"), "-i")
	case "zsh":
		rc := "PS1='ready> '\nunsetopt PROMPT_SP\nfpath=(" + completions + "/zsh $fpath)\nautoload -Uz compinit\ncompinit -u -D\n"
		ts.Check(os.WriteFile(filepath.Join(home, ".zshrc"), []byte(rc), 0o644))
		cmd = exec.Command("zsh", "-i")
	default:
		ts.Fatalf("no such shell: %q", args[0])
	}
	cmd.Env = environment(ts)
	cmd.Dir = ts.Getenv("WORK")
	f, s, end := onTerminal(ts, cmd)
	defer end()
	at := s.await(ts, 0, "ready> ")
	typed, twice := strings.CutSuffix(args[1], "TAB")
	_, err := f.WriteString(typed + "\t")
	ts.Check(err)
	if twice {
		time.Sleep(300 * time.Millisecond) // the shell lists at the second press
		_, err := f.WriteString("\t")
		ts.Check(err)
	}
	s.await(ts, at, args[2])
}

// terminal DIALOGUE PROGRAM... runs a program on a terminal, as the file DIALOGUE says:
// "> text" types a line, "< pattern" waits for it on the screen.
func terminal(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: terminal DIALOGUE program [argument]...")
	}
	cmd := exec.Command(args[1], args[2:]...)
	if path, err := exec.LookPath(filepath.Join(bin, args[1])); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	cmd.Env, cmd.Dir = environment(ts), ts.Getenv("WORK")
	f, s, end := onTerminal(ts, cmd)
	defer end()
	at := 0
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "> "):
			_, err := f.WriteString(line[2:] + "\n")
			ts.Check(err)
		case strings.HasPrefix(line, "< "):
			at = s.await(ts, at, line[2:])
		case line != "":
			ts.Fatalf("what is %q?", line)
		}
	}
}
