// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/netns"
	"ctrd.dev/ctrd/lib/pod"
	"ctrd.dev/ctrd/lib/smallfile"
	"ctrd.dev/ctrd/lib/taskdir"
)

// link is a network interface and its traffic.
type link struct {
	name   string
	rx, tx traffic
}

type traffic struct{ bytes, packets, errors, dropped uint64 }

// interfaces reads the interfaces of the network namespace at path, but the loopback one. A process that is in it, if there is one,
// saves a thread of ours the way there.
func interfaces(path string, inside int) (links []link, err error) {
	if text, ok := netDevOf(inside, path); ok {
		return parseNetDev(text), nil
	}
	err = netns.In(path, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		links = parseNetDev(string(text))
		return err
	})
	return links, err
}

// linksOf reads the interfaces of a pod, through one of its containers if that is there. It tells whether the pod has a network of
// its own that could be read: it may be ending.
func linksOf(st *pod.Status, containers []*pod.ContainerStatus) (links []link, ok bool) {
	path := st.Paths[taskdir.NetNS]
	if path == "" {
		return nil, false
	}
	inside := 0
	for _, c := range containers {
		if c.State == pod.Running {
			inside = c.PID
		}
	}
	links, err := interfaces(path, inside)
	return links, err == nil
}

// netDevOf reads the table through a process, if that is in the network namespace at path.
func netDevOf(pid int, path string) (text string, ok bool) {
	proc, err := unix.Open(fmt.Sprintf("/proc/%d", pid), unix.O_PATH|unix.O_CLOEXEC, 0) // of this process, whoever has the pid next
	if err != nil {
		return "", false
	}
	defer unix.Close(proc)
	var is, wanted unix.Stat_t
	if unix.Fstatat(proc, "ns/net", &is, 0) != nil || unix.Stat(path, &wanted) != nil || is.Dev != wanted.Dev || is.Ino != wanted.Ino {
		return "", false
	}
	all, err := smallfile.ReadAt(proc, "net/dev")
	return string(all), err == nil
}

// parseNetDev reads the table of proc_net(5), "net/dev": a name, a colon, eight figures of what was received and eight of
// what was sent.
func parseNetDev(text string) (links []link) {
	for line := range strings.Lines(text) {
		i := strings.LastIndexByte(line, ':')
		if i < 0 {
			continue // a heading
		}
		name, f := strings.TrimSpace(line[:i]), strings.Fields(line[i+1:])
		if len(f) < 16 || name == "" || name == "lo" {
			continue
		}
		var n [16]uint64
		for k := range n {
			n[k], _ = strconv.ParseUint(f[k], 10, 64)
		}
		links = append(links, link{name, traffic{n[0], n[1], n[2], n[3]}, traffic{n[8], n[9], n[10], n[11]}})
	}
	return links
}
