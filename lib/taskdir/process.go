// SPDX-License-Identifier: Apache-2.0

package taskdir

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ProcessOf names a process that lives.
func ProcessOf(pid int) (Process, error) {
	_, f, err := Stat(pid)
	if err != nil {
		return Process{}, err
	}
	started, err := strconv.ParseUint(f[19], 10, 64)
	return Process{pid, started}, err
}

// Open gives a pidfd of the process, or -1 when it has ended.
func (p Process) Open() int {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return -1
	}
	if now, err := ProcessOf(p.PID); err != nil || now != p {
		unix.Close(fd)
		return -1
	}
	return fd
}

// Stat reads /proc/<pid>/stat (proc(5)): the command's name, and the fields from the third, the state, on;
// there are at least 22.
func Stat(pid int) (name string, fields []string, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", nil, err
	}
	// The name may hold blanks and parentheses.
	from, to := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if from >= 0 && to > from {
		name, fields = string(data[from+1:to]), strings.Fields(string(data[to+1:]))
	}
	if len(fields) < 22 {
		return "", nil, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	return name, fields, nil
}
