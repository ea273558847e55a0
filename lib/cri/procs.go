// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// processes is what /proc tells of the processes of a container.
type processes struct {
	count, files, sockets uint64
	maxFiles              uint64 // soft limit of the first process; 0 is none
}

// countProcesses looks at processes. Those that have ended meanwhile are left out.
func countProcesses(pids []int, first int) (p processes) {
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		p.count++
		p.files += uint64(len(entries))
		for _, e := range entries {
			if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(to, "socket:") {
				p.sockets++
			}
		}
	}
	var l unix.Rlimit
	if first > 0 && unix.Prlimit(first, unix.RLIMIT_NOFILE, nil, &l) == nil && l.Cur != unix.RLIM_INFINITY {
		p.maxFiles = l.Cur
	}
	return p
}

// deviceOf names the device that a directory is on.
func deviceOf(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return ""
	}
	return deviceName(unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
}

// deviceName is the path of a block device; of one that has none its numbers.
func deviceName(major, minor uint32) string {
	numbers := fmt.Sprintf("%d:%d", major, minor)
	text, err := os.ReadFile("/sys/dev/block/" + numbers + "/uevent")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
				return "/dev/" + name
			}
		}
	}
	return numbers
}
