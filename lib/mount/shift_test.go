// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// TestOverlayShifted: where ids cannot be mapped, an upper directory gets copies with other owners, once.
func TestOverlayShifted(t *testing.T) {
	defer func() { mapMount = mapped }()
	mapMount = func(string, idMaps) (int, error) { return -1, errdefs.ErrNotImplemented }
	for name, layers := range map[string]int{"one layer": 1, "two layers": 2} {
		t.Run(name, func(t *testing.T) {
			d := tmp(t)
			a, b, upper, work, to := mk(t, d+"/a"), mk(t, d+"/b"), mk(t, d+"/u"), mk(t, d+"/w"), mk(t, d+"/to")
			put(t, a+"/dir/file")
			put(t, a+"/gone")
			put(t, b+"/below")
			put(t, a+"/suid")
			put(t, a+"/caps")
			put(t, a+"/unmapped")
			os.Symlink("/nowhere", a+"/link")
			for path, id := range map[string]int{a + "/dir/file": 7, a + "/unmapped": 70000} {
				if err := os.Lchown(path, id, id); err != nil {
					t.Fatal(err)
				}
			}
			os.Chmod(a+"/suid", 0o755|os.ModeSetuid)
			capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // vfs_cap_data, revision 2
			if err := unix.Setxattr(a+"/caps", "security.capability", capability, 0); err != nil {
				t.Fatal(err)
			}
			lower := strings.Join([]string{a, b}[:layers], ":")
			m := Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work, "uidmap=0:100000:65536", "gidmap=0:200000:65536"}}
			want := map[string]uint32{"/dir": 100000, "/dir/file": 100007, "/suid": 100000, "/caps": 100000, "/link": 100000, "/unmapped": 70000}
			if layers == 2 {
				want["/below"] = 100000
			}
			check := func() {
				t.Helper()
				for path, id := range want {
					if uid, _ := ownerOf(t, to+path); uid != id {
						t.Errorf("%s: %d, want %d", path, uid, id)
					}
				}
			}
			mountAll(t, to, m)
			check()
			if _, gid := ownerOf(t, to+"/dir/file"); gid != 200007 {
				t.Errorf("gid %d", gid)
			}
			if st, err := os.Stat(to + "/suid"); err != nil || st.Mode()&os.ModeSetuid == 0 {
				t.Errorf("%v, %v", st.Mode(), err)
			}
			if n, err := unix.Getxattr(to+"/caps", "security.capability", make([]byte, 64)); err != nil || n != len(capability) {
				t.Errorf("capabilities: %d, %v", n, err)
			}
			// What the container does stays, also when it was not finished.
			must(0, os.Remove(to+"/gone"))
			must(0, os.Chown(to+"/dir/file", 100009, 200009))
			want["/dir/file"] = 100009
			for range 2 {
				must(0, Unmount(to, 0))
				must(0, All([]Mount{m}, to))
				check()
				if exists(to + "/gone") {
					t.Error("what was removed is back")
				}
				must(0, unix.Removexattr(upper, shiftedBy))
			}
			if uid, _ := ownerOf(t, a+"/dir/file"); uid != 7 {
				t.Errorf("the layer has changed: %d", uid)
			}
		})
	}
	err := All([]Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/usr:/etc", "uidmap=0:100000:65536", "gidmap=0:100000:65536"}}}, mk(t, tmp(t)+"/to"))
	if !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("without an upper directory: %v", err)
	}
}

func TestHostID(t *testing.T) {
	list := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 10}}
	for id, want := range map[uint32]uint32{0: 1000, 1: 100000, 10: 100009, 11: 11, 1 << 31: 1 << 31} {
		if got := hostID(list, id); got != want {
			t.Errorf("%d: %d, want %d", id, got, want)
		}
	}
}
