// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/test/world"
)

// stormPods are the pods that all commands of a storm are about.
const stormPods = 3

// storm is what TestStorm counts.
type storm struct {
	*host
	commands, killed, supervisors atomic.Int32
}

// Commands work on a few pods at once while they, ctrd and the supervisors of the pods are killed at random moments. Whatever was killed, the
// same pods are made afterwards by the same commands, and nothing is left in the end. CTRD_STORM says how many seconds it lasts, which are 5 else.
func TestStorm(t *testing.T) {
	seconds := asked(t, "CTRD_STORM", 5)
	h := newHost(t)
	h.pull(t)
	h.Env = append(h.Env, "NETCONFPATH="+filepath.Join(h.Dir, "nets"))
	interfaces := links(t)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(h.Dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range stormPods {
		write(fmt.Sprintf("pod%d.json", i), fmt.Sprintf(`{"metadata":{"name":"p%d","uid":"u%d","namespace":"n"},"log_directory":%q,"port_mappings":[{"container_port":80,"host_port":%d}],"linux":{}}`,
			i, i, filepath.Join(h.logs, strconv.Itoa(i)), 31980+i))
	}
	write("container.json", fmt.Sprintf(`{"metadata":{"name":"c"},"image":{"image":%q},"command":["sleep","1000"],"log_path":"c.log"}`, busybox()))

	s := &storm{host: h}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil && !t.Failed() {
				s.step(t)
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(rand.N(time.Second))
			s.killSupervisor()
		}
	})
	kills := 0
	for ctx.Err() == nil {
		time.Sleep(rand.N(2 * time.Second))
		h.kill(t)
		kills++
	}
	all.Wait()
	t.Logf("%d commands, of which %d were killed; %d supervisors and %d times ctrd were killed", s.commands.Load(), s.killed.Load(), s.supervisors.Load(), kills)
	for i := range stormPods {
		pod, container := filepath.Join(h.Dir, fmt.Sprintf("pod%d.json", i)), filepath.Join(h.Dir, "container.json")
		id := strings.TrimSpace(h.Must(t, "ctr-cri", "runp", pod))
		c := strings.TrimSpace(h.Must(t, "ctr-cri", "create", id, container, pod))
		if state := h.Must(t, "ctr-cri", "ps", "-a", "-q", "--id", c, "--state", "created"); state != "" {
			h.Must(t, "ctr-cri", "start", c)
			h.Must(t, "ctr-cri", "exec", "-s", c, "true")
		}
	}
	h.Must(t, "ctr-cri", "rmp", "-f", "-a")
	h.nothingLeft(t, interfaces)
}

// step runs a command about a pod, or about a container of any, and kills it after a while or not.
func (s *storm) step(t *testing.T) {
	i := rand.N(stormPods)
	pod := filepath.Join(s.Dir, fmt.Sprintf("pod%d.json", i))
	one := func(args ...string) string { // a line of what a list prints
		all := strings.Fields(s.run(t, 0, args...))
		if len(all) == 0 {
			return "none"
		}
		return all[rand.N(len(all))]
	}
	aPod := func() string { return one("pods", "-q", "--name", fmt.Sprintf("^p%d$", i)) }
	aContainer := func() string { return one("ps", "-a", "-q") }
	var args []string
	switch rand.N(12) {
	case 0, 1:
		args = []string{"runp", pod}
	case 2, 3:
		args = []string{"create", aPod(), filepath.Join(s.Dir, "container.json"), pod}
	case 4:
		args = []string{"run", "--no-pull", filepath.Join(s.Dir, "container.json"), pod}
	case 5, 6:
		args = []string{"start", aContainer()}
	case 7:
		args = []string{"exec", "-s", aContainer(), "true"}
	case 8:
		args = []string{"stop", aContainer()}
	case 9:
		args = []string{"rm", "-f", aContainer()}
	case 10:
		args = []string{"stopp", aPod()}
	case 11:
		args = []string{"rmp", "-f", aPod()}
	}
	var after time.Duration // 0: it is not killed
	if rand.N(4) > 0 {
		after = 1 + rand.N(500*time.Millisecond)
	}
	s.run(t, after, args...)
}

// run runs ctr-cri, and kills it after a while unless that is 0. It may fail, for others kill what it needs, but it ends, and finds nothing damaged.
func (s *storm) run(t *testing.T, after time.Duration, args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), world.Patience)
	defer cancel()
	if after > 0 {
		ctx, cancel = context.WithTimeout(ctx, after)
		defer cancel()
	}
	cmd := s.Command(ctx, nil, append([]string{"ctr-cri"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	s.commands.Add(1)
	switch {
	case ctx.Err() != nil && after > 0:
		s.killed.Add(1)
	case ctx.Err() != nil:
		t.Errorf("ctr-cri %q hangs", args)
	case cmd.ProcessState.ExitCode() == 8 || strings.Contains(errs.String(), "panic") || strings.Contains(errs.String(), "reserved"):
		t.Errorf("ctr-cri %q: %v: %s", args, err, errs.String())
	}
	return out.String()
}

// killSupervisor kills a supervisor, if there is one.
func (s *storm) killSupervisor() {
	pids := s.Processes()
	for _, n := range rand.Perm(len(pids)) {
		name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pids[n]), "comm"))
		if err != nil || strings.TrimSpace(string(name)) != "ctr-shim" {
			continue
		}
		if fd, err := unix.PidfdOpen(pids[n], 0); err == nil {
			if unix.PidfdSendSignal(fd, syscall.SIGKILL, nil, 0) == nil {
				s.supervisors.Add(1)
			}
			unix.Close(fd)
		}
		return
	}
}
