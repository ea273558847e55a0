// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	_ "ctrd.dev/ctrd/lib/pid1" // the child is this program
	"ctrd.dev/ctrd/lib/taskdir"
)

// A child that does not come to its end, because somebody has stopped it, is not waited for without bound.
func TestPinStopped(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	defer func(d time.Duration) { pinTime = d }(pinTime)
	pinTime = time.Second
	s := newServer(Config{})
	pod := taskdir.Pod{Namespaces: []string{taskdir.NetNS}, Sysctls: map[string]string{}}
	for i := range 1000 { // so that it takes its time
		pod.Sysctls["net"+strings.Repeat("/", i)+"/ipv4/ip_forward"] = "1"
	}
	done := make(chan error)
	go func() { done <- s.pin(pod, &taskdir.Pinned{Paths: map[string]string{}}) }()
	child := 0
	for ; child == 0; time.Sleep(time.Millisecond / 10) {
		s.mu.Lock()
		for pid := range s.helpers {
			child = pid
		}
		s.mu.Unlock()
	}
	if err := unix.Kill(child, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(child, unix.SIGKILL)
	go func() { // only this child: others are of other tests
		var ws unix.WaitStatus
		if _, err := unix.Wait4(child, &ws, 0, nil); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reaped(child, ending{status: exitStatus(ws)})
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("the child was stopped, and it went well")
		}
	case <-time.After(10 * time.Second):
		t.Error("a child that is stopped is waited for")
	}
}
