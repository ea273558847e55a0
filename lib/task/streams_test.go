// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"io"
	"strings"
	"testing"

	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskapi"
)

// lateShim copies an exec's streams as containerd's shim does: it opens stdin after it has answered Start, and writes
// the output after it has answered Wait.
type lateShim struct {
	taskapi.Server
	stdin  string
	heard  chan string
	closed chan struct{} // by CloseIO
}

func (s *lateShim) Wait(context.Context, *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	in, err := stdio.OpenReader(s.stdin)
	if err != nil {
		return nil, err
	}
	<-s.closed
	text, err := io.ReadAll(in)
	s.heard <- string(text)
	return new(taskapi.WaitResponse), err
}

func (s *lateShim) CloseIO(context.Context, *taskapi.CloseIORequest) error {
	close(s.closed)
	return nil
}

// TestExecOfLateShim: neither the input nor the output of an exec is lost when its shim copies them late.
func TestExecOfLateShim(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	c := found(t, d, "c")
	dir := t.TempDir()
	streams, err := openStreams(dir, ExecOptions{Stdin: strings.NewReader("")})
	if err != nil {
		t.Fatal(err)
	}
	defer streams.close()
	fw, err := stdio.OpenWriter(streams.stdout.Name())
	if err != nil {
		t.Fatal(err)
	}
	errw, err := stdio.OpenWriter(streams.stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer errw.Close()
	shim := &lateShim{stdin: streams.stdin, heard: make(chan string, 1), closed: make(chan struct{})}
	address := "unix://" + dir + "/socket"
	l, err := taskapi.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	life, end := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- taskapi.Serve(life, l, shim, nil) }()
	defer func() { end(); <-served }()
	if err := c.dial(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	if _, err := errw.WriteString("complaint"); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	p := &ExecProcess{ExecID: "x", t: c, dir: dir, foreign: true}
	exit, err := streams.run(t.Context(), p, ExecOptions{
		Stdin: strings.NewReader("input"), Stdout: &out, // and nobody wants what it says on stderr
		Ended: func() {
			// The copies have met the end of the exec before anything is there.
			go func() {
				errw.Close()
				fw.WriteString("output")
				fw.Close()
			}()
		},
	})
	if err != nil || exit.Status != 0 || out.String() != "output" {
		t.Errorf("exit %+v, output %q, %v", exit, out.String(), err)
	}
	if got := <-shim.heard; got != "input" {
		t.Errorf("input %q", got)
	}
}
