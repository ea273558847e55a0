// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// ProcessInfo is one process of a container, as the host sees it.
type ProcessInfo struct {
	PID     int           `json:"pid"`
	Parent  int           `json:"ppid"`
	UID     int           `json:"uid"`            // effective
	State   string        `json:"state"`          // the letter of proc(5)
	RSS     uint64        `json:"rss"`            // bytes
	CPU     time.Duration `json:"cpu"`            // nanoseconds, user and system
	Exec    string        `json:"exec,omitempty"` // id of the exec whose first process it is
	Command []string      `json:"command"`
}

// Top describes the processes of a running container. One that ends meanwhile is left out.
func (t *Task) Top(ctx context.Context) ([]ProcessInfo, error) {
	pids, err := t.Processes(ctx)
	if err != nil {
		return nil, err
	}
	execs := t.execs(ctx)
	var all []ProcessInfo
	for _, pid := range pids {
		if p, err := describeProcess(pid); err == nil {
			p.Exec = execs[pid]
			all = append(all, p)
		}
	}
	return all, nil
}

// execs asks the supervisor which processes are those of execs. One that does not answer soon tells of none.
func (t *Task) execs(ctx context.Context) map[int]string {
	ids := map[int]string{}
	_ = t.call(ctx, silentAfter, func(ctx context.Context, c *taskapi.Client) error {
		r, err := c.Pids(ctx, &taskapi.PidsRequest{ID: t.ID()})
		if err != nil {
			return err
		}
		for _, p := range r.Processes {
			if id := p.ExecID(); id != "" {
				ids[int(p.Pid)] = id
			}
		}
		return nil
	})
	return ids
}

// clockTick is USER_HZ, which is 100 on every architecture that Linux containers run on.
const clockTick = time.Second / 100

// describeProcess reads /proc/<pid> (proc(5)).
func describeProcess(pid int) (ProcessInfo, error) {
	p := ProcessInfo{PID: pid}
	name, f, err := taskdir.Stat(pid)
	if err != nil {
		return p, err
	}
	p.State = f[0]
	p.Parent, _ = strconv.Atoi(f[1])
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	p.CPU = time.Duration(user+system) * clockTick
	pages, _ := strconv.ParseUint(f[21], 10, 64)
	p.RSS = pages * uint64(os.Getpagesize())
	p.UID = effectiveUID(pid)
	if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(cmdline) > 0 {
		p.Command = strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	} else {
		p.Command = []string{"[" + name + "]"}
	}
	return p, nil
}

func effectiveUID(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			if f := strings.Fields(rest); len(f) == 4 {
				uid, _ := strconv.Atoi(f[1])
				return uid
			}
		}
	}
	return -1
}
