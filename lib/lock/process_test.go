// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestMain makes this binary the other process: CTRD_TEST_DIR is its lock directory, its first argument
// what it does.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CTRD_TEST_DIR"); dir != "" {
		role(Dir{Path: dir, Wait: -1}, os.Args[1], os.Args[2:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// until the test closes our stdin.
func told() { io.Copy(io.Discard, os.Stdin) }

func role(d Dir, what string, args []string) {
	take := func(rank Rank, name string, mode Mode) *Lock {
		l, err := d.Acquire(context.Background(), nil, rank, name, mode)
		must(err)
		return l
	}
	hold := func(l *Lock) {
		fmt.Println("held")
		told()
		must(l.Release())
	}
	switch what {
	case "shared":
		hold(take(Image, args[0], Shared))
	case "exclusive":
		hold(take(Image, args[0], Exclusive))
	case "exclusive-container":
		hold(take(Container, args[0], Exclusive))
	case "once":
		for r := Pod; r <= Database; r++ {
			if r.String() == args[0] {
				must(take(r, args[1], Exclusive).Release())
			}
		}
	case "count":
		for range counts {
			count(take(Image, "counter", Exclusive), args[0])
		}
	case "callers":
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() {
				d := d
				if i%2 == 0 {
					d.Wait = time.Duration(i) * time.Millisecond
				}
				for n := 0; n < callerCounts; {
					l, err := d.Acquire(context.Background(), nil, Image, "counter", Exclusive)
					if isAborted(err) {
						continue
					}
					must(err)
					count(l, args[0])
					n++
				}
			})
		}
		all.Wait()
	case "many":
		var all []*Lock
		for i := range many {
			all = append(all, take(Container, strconv.Itoa(i), Exclusive))
		}
		fmt.Println("held")
		told()
		for _, l := range all {
			must(l.Release())
		}
	case "churn":
		for i := range 150 {
			churn(take, i, args[0])
		}
	case "churn-live":
		churnLive(args[0], args[1])
	case "twice":
		l := take(Image, "x", Exclusive)
		must(l.Release())
		l.Release()
	case "lost":
		take(Image, "x", Exclusive)
		for range 100 {
			runtime.GC()
		}
	case "live":
		h, err := Hold(args[0])
		must(err)
		fmt.Println("held")
		told()
		must(h.Release())
	case "ask":
		fmt.Println("asking")
		for {
			_, err := IsHeld(args[0])
			must(err)
		}
	case "pass-on":
		h, err := Hold(args[0])
		must(err)
		c := exec.Command("cat")
		c.Stdin = os.Stdin
		c.ExtraFiles = []*os.File{h.File()}
		must(c.Start())
		fmt.Println(c.Process.Pid)
	}
}

const (
	counts       = 100
	callers      = 12
	callerCounts = 10
)

func count(l *Lock, path string) {
	data, err := os.ReadFile(path)
	must(err)
	n, err := strconv.Atoi(string(data))
	must(err)
	must(os.WriteFile(path, []byte(strconv.Itoa(n+1)), 0o600))
	must(l.Release())
}

// churn is alone in the exclusive lock, and not with an exclusive holder in the shared one.
func churn(take func(Rank, string, Mode) *Lock, i int, inside string) {
	if i%3 == 0 {
		l := take(Image, "x", Shared)
		if _, err := os.Stat(inside); err == nil {
			must(errors.New("shared while one holds it exclusively"))
		}
		must(l.Release())
		return
	}
	l := take(Image, "x", Exclusive)
	must(os.Mkdir(inside, 0o700))
	must(os.Remove(inside))
	must(l.Release())
}

// churnLive is alone in the liveness lock whenever it gets it.
func churnLive(path, inside string) {
	for got := 0; got < 100; {
		h, err := Hold(path)
		if err != nil {
			if !isAborted(err) {
				must(err)
			}
			continue
		}
		got++
		must(os.Mkdir(inside, 0o700))
		must(os.Remove(inside))
		if got%2 == 0 {
			must(h.Remove())
		} else {
			must(h.Release())
		}
	}
}

// process is another run of this binary.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	errs *bytes.Buffer
}

func start(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command("/proc/self/exe", args...), errs: &bytes.Buffer{}}
	p.cmd.Env = append(os.Environ(), "CTRD_TEST_DIR="+dir)
	p.cmd.Stderr = p.errs
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// line waits for the next line that the process prints.
func (p *process) line(t *testing.T) string {
	t.Helper()
	if !p.out.Scan() {
		t.Fatalf("process ended: %s", p.errs.Bytes())
	}
	return p.out.Text()
}

// end tells the process to go on to its end.
func (p *process) end(t *testing.T) {
	t.Helper()
	p.in.Close()
	p.wait(t)
}

func (p *process) wait(t *testing.T) {
	t.Helper()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("process: %v: %s", err, p.errs.Bytes())
	}
}
