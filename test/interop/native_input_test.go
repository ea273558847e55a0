// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
)

// ending is an input that calls atEnd, once, when it has been read.
type ending struct {
	io.Reader
	atEnd func()
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err == io.EOF && e.atEnd != nil {
		e.atEnd()
		e.atEnd = nil
	}
	return n, err
}

// TestNativeInputEndsAtOnce: nerdctl run -i has the input of a task closed when its own has ended. It looks for the task once,
// and with an input that is short it does so before its Create is answered.
func TestNativeInputEndsAtOnce(t *testing.T) {
	withTasks(t, func(t *testing.T, n *tasker) {
		for i := range 5 {
			var out output
			c := n.container(t, fmt.Sprint("c", i), []string{"cat"})
			closed := make(chan error, 1)
			in := &ending{strings.NewReader("piped\n"), func() {
				task, err := c.Task(n.ctx, nil)
				if err == nil {
					err = task.CloseIO(n.ctx, containerd.WithStdinCloser)
				}
				closed <- err
			}}
			task, err := c.NewTask(n.ctx, cio.NewCreator(cio.WithStreams(in, &out, &out), cio.WithFIFODir(n.State+"-fifo")), containerd.WithRootFS(n.rootfs(t, c.ID())))
			if err != nil {
				t.Fatal(err)
			}
			ended, err := task.Wait(n.ctx)
			if err == nil {
				err = task.Start(n.ctx)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := <-closed; err != nil {
				t.Errorf("close the input of a task that was being created: %v", err)
			}
			select {
			case s := <-ended:
				if s.ExitCode() != 0 {
					t.Errorf("wait: %+v", s)
				}
			case <-time.After(patience):
				t.Fatal("the input has ended, and the task goes on")
			}
			if _, err := task.Delete(n.ctx); err != nil {
				t.Error(err)
			}
			if out.String() != "piped\n" {
				t.Errorf("output: %q", out.String())
			}
			n.remove(t, c)
		}
	})
}
