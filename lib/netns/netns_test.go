// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
)

// TestNew: fn is in a namespace of its own with a loopback that is up, which another thread may enter, and the caller's thread and
// the process's first one stay where they are.
func TestNew(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	read := func(path string) string {
		name, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	before, first := read(Own()), read("/proc/self/ns/net")
	for range 20 { // threads, of which one may be the first
		var made, entered string
		err := New(func() error {
			made = read(Own())
			lo, err := net.InterfaceByName("lo")
			if err == nil && lo.Flags&net.FlagUp == 0 {
				err = errors.New("the loopback is down")
			}
			if err != nil {
				return err
			}
			return In(Own(), func() error { entered = read(Own()); return nil })
		})
		if err != nil || made == before || entered != made {
			t.Fatalf("%q, made %q, entered %q: %v", before, made, entered, err)
		}
	}
	if read(Own()) != before || read("/proc/self/ns/net") != first {
		t.Error("the caller or the process is in another namespace")
	}
	if err := In("/proc/self/ns/nosuch", func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := In("/proc/self/ns/uts", func() error { return nil }); err == nil {
		t.Error("a namespace of another kind was entered")
	}
}
