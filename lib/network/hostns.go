// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"ctrd.dev/ctrd/lib/netns"
)

// thisNetns names the network namespace of the calling thread as the kernel does: net:[4026531840]. The names last as long as
// the boot.
func thisNetns() (string, error) { return os.Readlink("/proc/thread-self/ns/net") }

// findNetns gives a path by which the network namespace of a name can be entered: of a process that is in it, or of a file
// where it is mounted. It reports false when there is none: then the namespace is gone, with its links and rules.
func findNetns(name string) (path string, ok bool) {
	table, err := os.Open("/proc/self/mountinfo")
	if err == nil {
		defer table.Close()
		for lines := bufio.NewScanner(table); lines.Scan(); {
			// proc(5): the fourth field is the root of the mount, of nsfs the namespace's name, the fifth where it is.
			if f := strings.Fields(lines.Text()); len(f) > 4 && f[3] == name {
				return f[4], true
			}
		}
	}
	all, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, path := range all {
		if link, err := os.Readlink(path); err == nil && link == name {
			return path, true
		}
	}
	return "", false
}

// place finds the network namespace in which an attachment was made, for its plugins: enter is its path, empty when it is the
// caller's. gone says that it has ended with all that was attached there; addresses on disk are still to be freed.
func (h Host) place(r record) (enter string, gone bool, err error) {
	if r.Boot != h.Boot {
		return "", true, nil
	}
	here, err := thisNetns()
	if err != nil || r.Host == "" || r.Host == here {
		return "", false, err
	}
	path, ok := findNetns(r.Host)
	if !ok {
		return "", true, nil
	}
	return path, false, nil
}

// in starts fn in the network namespace at path, or where the caller is when it is empty.
func in(path string, fn func() error) error {
	if path == "" {
		return fn()
	}
	err := netns.In(path, fn)
	if errors.Is(err, os.ErrNotExist) {
		return errors.Join(errors.New("the network namespace that it was attached from has just ended"), err)
	}
	return err
}
