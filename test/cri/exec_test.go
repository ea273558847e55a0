// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (h *host) exec(id string, timeout int64, args ...string) (*runtimeapi.ExecSyncResponse, error) {
	return h.ExecSync(h.ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: args, Timeout: timeout})
}

func TestExecSync(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "a")
	id := h.container(t, pod, config, "one", "sleep 1000", nil)
	r, err := h.exec(id, 0, "sh", "-c", "echo out; echo err >&2; exit 3")
	if err != nil || string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" || r.ExitCode != 3 {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := h.exec(id[:13], 5, "true"); err != nil || r.ExitCode != 0 {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := h.exec(id, 1, "sleep", "4321"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a program that takes too long: %v", err)
	}
	if r, err := h.exec(id, 0, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"); err != nil || strings.Contains(string(r.Stdout), "4321") {
		t.Errorf("it still runs: %s, %v", r.GetStdout(), err)
	}
	// What a program leaves behind with its output open is not waited for.
	if r, err := h.exec(id, 0, "sh", "-c", "sleep 1000 & echo done"); err != nil || string(r.Stdout) != "done\n" {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := h.exec(id, 0, "/no/such/program"); err == nil {
		t.Errorf("%v", r)
	}
	r, err = h.exec(id, 0, "sh", "-c", "head -c 20000000 /dev/zero")
	if err != nil || len(r.Stdout) < 16<<20-1<<17 || !strings.Contains(string(r.Stderr), "more bytes of output are left out") {
		t.Errorf("%d bytes, %s, %v", len(r.GetStdout()), r.GetStderr(), err)
	}
	if _, err := h.StopContainer(h.ctx, &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.exec(id, 0, "true"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("in a container that has ended: %v", err)
	}
}

// stream is a client of exec or attach over WebSocket, with version 5 of the protocol.
type stream struct {
	t  *testing.T
	ws *websocket.Conn
}

func dial(t *testing.T, url string) stream {
	t.Helper()
	c, err := websocket.NewConfig("ws"+strings.TrimPrefix(url, "http"), "http://localhost/")
	if err != nil {
		t.Fatal(err)
	}
	c.Protocol = []string{"v5.channel.k8s.io"}
	ws, err := websocket.DialConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	return stream{t, ws}
}

// Channels of the protocol.
const (
	stdin  = 0
	stdout = 1
	stderr = 2
	failed = 3
	resize = 4
	closed = 255
)

func (s stream) send(channel byte, text string) {
	s.t.Helper()
	if err := websocket.Message.Send(s.ws, append([]byte{channel}, text...)); err != nil {
		s.t.Fatal(err)
	}
}

// read gives what comes until the end, or until stdout has the text.
func (s stream) read(text string) (all [5]string) {
	s.t.Helper()
	for text == "" || !strings.Contains(all[stdout], text) {
		var frame []byte
		if err := websocket.Message.Receive(s.ws, &frame); err != nil {
			return all
		}
		if len(frame) > 0 && int(frame[0]) < len(all) {
			all[frame[0]] += string(frame[1:])
		}
	}
	return all
}

func (h *host) startExec(t *testing.T, r *runtimeapi.ExecRequest) stream {
	t.Helper()
	e, err := h.Exec(h.ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return dial(t, e.Url)
}

func TestExec(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "a")
	id := h.container(t, pod, config, "one", "sleep 1000", nil)
	s := h.startExec(t, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "cat; echo err >&2; exit 4"}, Stdin: true, Stdout: true, Stderr: true})
	s.send(stdin, "some ")
	s.send(stdin, "input")
	s.send(closed, "\x00")
	if got := s.read(""); got[stdout] != "some input" || got[stderr] != "err\n" || !strings.Contains(got[failed], `"message":"4"`) {
		t.Errorf("%q", got)
	}
	s = h.startExec(t, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "read x; stty size"}, Stdin: true, Stdout: true, Tty: true})
	s.send(resize, `{"Width":77,"Height":33}`)
	// The size is set by another call than the input's.
	until(t, "the size of the terminal", func() bool {
		r, err := h.exec(id, 0, "sh", "-c", "for t in /dev/pts/[0-9]*; do stty size < $t; done")
		return err == nil && strings.Contains(string(r.Stdout), "33 77")
	})
	s.send(stdin, "\n")
	if got := s.read(""); !strings.Contains(got[stdout], "33 77\r\n") || !strings.Contains(got[failed], "Success") {
		t.Errorf("%q", got)
	}
	// A client that goes ends its program, also one that is silent.
	for _, then := range []string{"while echo tick; do sleep 0.1; done", "echo tick; exec sleep 1234"} {
		s = h.startExec(t, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", then}, Stdout: true})
		s.read("tick")
		s.ws.Close()
		until(t, "the end of the program", func() bool {
			r, err := h.exec(id, 0, "sh", "-c", "cat /proc/[0-9]*/cmdline | grep -c -e ti[c]k -e 123[4]")
			return err == nil && r.ExitCode == 1
		})
	}
}

func TestAttach(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "a")
	script := "while read x; do echo got $x; done; echo end"
	for _, once := range []bool{false, true} {
		name := fmt.Sprint("once-", once)
		id := h.container(t, pod, config, name, script, func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, once })
		for _, word := range []string{"one", "two"} {
			r, err := h.Attach(h.ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
			if err != nil {
				t.Fatal(err)
			}
			s := dial(t, r.Url)
			s.send(stdin, word+"\n")
			got := s.read("got " + word + "\n")
			s.send(closed, "\x00")
			rest := s.read("")
			if got[stdout] != "got "+word+"\n" || !strings.Contains(rest[failed], "Success") || (rest[stdout] == "end\n") != once {
				t.Errorf("%s: %q, %q", name, got, rest)
			}
			if once {
				break
			}
		}
	}
	// An input that ends with its first client does so also when that one just goes.
	id := h.container(t, pod, config, "gone", script, func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	r, err := h.Attach(h.ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	s := dial(t, r.Url)
	s.send(stdin, "one\n")
	s.ws.Close()
	until(t, "the end", func() bool { return h.status(t, id).State == runtimeapi.ContainerState_CONTAINER_EXITED })
	if got := text(t, h.status(t, id).LogPath)["stdout"]; got != "got one\nend\n" {
		t.Errorf("%q", got)
	}
}

// A terminal is taken up again by the next client, also when its input is to end with the first one.
func TestAttachTerminal(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "a")
	id := h.container(t, pod, config, "terminal", "while read x; do echo got $x; done", func(c *runtimeapi.ContainerConfig) {
		c.Stdin, c.StdinOnce, c.Tty = true, true, true
	})
	for _, word := range []string{"one", "two", "three"} {
		r, err := h.Attach(h.ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Tty: true})
		if err != nil {
			t.Fatal(err)
		}
		s := dial(t, r.Url)
		s.ws.SetDeadline(time.Now().Add(20 * time.Second))
		s.send(stdin, word+"\n")
		if got := s.read("got " + word); !strings.Contains(got[stdout], "got "+word) {
			t.Fatalf("%s: %q", word, got)
		}
		s.ws.Close()
	}
}

// record is a line of a log of the CRI.
var record = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) (stdout|stderr) ([PF]) (.*)$`)

// text is what a log says of each stream.
func text(t *testing.T, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for line := range strings.Lines(string(data)) {
		f := record.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if f == nil {
			t.Fatalf("%s: not a record: %q", path, line)
		}
		if all[f[2]] += f[4]; f[3] == "F" {
			all[f[2]] += "\n"
		}
	}
	return all
}

// The log is where the kubelet wants it and in its form, and goes on in a new file when the kubelet has taken the old one away.
func TestLogs(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "a")
	script := "echo out; echo err >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf partial; while ! [ -e /tmp/go ]; do sleep 0.05; done; echo; echo more; sleep 1000"
	id := h.container(t, pod, config, "one", script, nil)
	path := filepath.Join(h.logs, "one.log")
	st, err := h.ContainerStatus(h.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil || st.Status.LogPath != path {
		t.Errorf("%v, %v", st, err)
	}
	until(t, "output", func() bool { return strings.HasSuffix(text(t, path)["stdout"], "partial") })
	if got := text(t, path); got["stdout"] != "out\n"+strings.Repeat("x", 40000)+"\npartial" || got["stderr"] != "err\n" {
		t.Errorf("%.100q", got)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ReopenContainerLog(h.ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 0 {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := h.exec(id, 0, "touch", "/tmp/go"); err != nil {
		t.Fatal(err)
	}
	until(t, "output in the new file", func() bool { return text(t, path)["stdout"] == "\nmore\n" })
	if _, err := h.StopContainer(h.ctx, &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ReopenContainerLog(h.ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("of a container that has ended: %v", err)
	}
	if _, err := h.RemoveContainer(h.ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the log is the kubelet's: %v", err)
	}
}
