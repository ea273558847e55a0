// SPDX-License-Identifier: Apache-2.0

// Package footprint has a process that lives long and does little take less memory.
package footprint

import (
	"bufio"
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ForgetCode takes the program's file out of the memory of this process, of which a start has touched a half. The pages stay in
// the page cache, and those that are used come back. What differs from the file stays.
func ForgetCode() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer maps.Close()
	var from, to uint64 // of a mapping of the file that cannot be written to
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Bytes()
		switch {
		case bytes.HasPrefix(line, []byte("Anonymous:")):
			// Relocations may have changed a page before it became read-only.
			if to > from && bytes.HasSuffix(line, []byte(" 0 kB")) {
				if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_DONTNEED); errno != 0 {
					return os.NewSyscallError("madvise", errno)
				}
			}
		case line[0] < 'A' || line[0] > 'Z': // FROM-TO PERMISSIONS OFFSET DEVICE INODE PATH
			from, to = 0, 0
			if f := bytes.Fields(line); len(f) == 6 && string(f[5]) == self && f[1][1] == '-' {
				a, b, _ := bytes.Cut(f[0], []byte("-"))
				from, _ = strconv.ParseUint(string(a), 16, 64)
				to, _ = strconv.ParseUint(string(b), 16, 64)
			}
		}
	}
	return nil
}
