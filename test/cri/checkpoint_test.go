// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/test/world"
)

// entries reads a tar archive, compressed or not.
func entries(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(data)
	if bytes.HasPrefix(data, []byte("\x1f\x8b")) {
		var err error
		if r, err = gzip.NewReader(r); err != nil {
			t.Fatal(err)
		}
	}
	all := map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

// A checkpoint is an archive of what the container's processes are, of what it has changed of its files, and of what was said
// when it was made. The container runs on, and what is in the archive goes on in another one.
func TestCheckpoint(t *testing.T) {
	world.Criu(t)
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "p")
	id := h.container(t, pod, config, "one", "echo mine >/kept; n=0; while true; do n=$((n+1)); echo $n; sleep 0.1; done", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}
	})
	last := func() int {
		lines := strings.Fields(text(t, h.status(t, id).LogPath)["stdout"])
		if len(lines) == 0 {
			return 0
		}
		n, _ := strconv.Atoi(lines[len(lines)-1])
		return n
	}
	until(t, "the container to count", func() bool { return last() > 5 })
	location := filepath.Join(t.TempDir(), "one.tar")
	checkpoint := func(id, location string) error {
		_, err := h.CheckpointContainer(h.ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: location, Timeout: 60})
		return err
	}
	before := last()
	if err := checkpoint(id, location); err != nil {
		t.Fatal(err)
	}
	until(t, "the container to go on", func() bool { return last() > before+5 })
	if st, err := os.Stat(location); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	data, err := os.ReadFile(location)
	if err != nil {
		t.Fatal(err)
	}
	all := entries(t, data)
	var of struct {
		ID, Name, RootfsImage, Runtime string
		Restored                       bool
	}
	var st runtimeapi.ContainerStatus
	var spec specs.Spec
	err = errors.Join(json.Unmarshal(all["config.dump"], &of), json.Unmarshal(all["status.dump"], &st), json.Unmarshal(all["spec.dump"], &spec))
	if err != nil || of.ID != id || of.Name != "one" || of.RootfsImage != busybox() || st.Id != id || st.State != runtimeapi.ContainerState_CONTAINER_RUNNING ||
		spec.Process == nil || spec.Process.Args[0] != "sh" {
		t.Errorf("%v: %+v, %v, %v", err, of, &st, spec.Process)
	}
	if change := entries(t, all["rootfs-diff.tar"]); string(change["kept"]) != "mine\n" {
		t.Errorf("the files: %v", change)
	}
	if !strings.Contains(string(all["container.log"]), "stdout F 5\n") || len(all["dump.log"]) == 0 || len(all["checkpoint/inventory.img"]) == 0 {
		t.Error("the log or criu's files are missing")
	}
	if left, _ := filepath.Glob(filepath.Join(h.Root, "containers/*/*/dump-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	// criu's images are those of ctr-task, too. What is bound into a container of a pod is bound into this one.
	dir := t.TempDir()
	for name, data := range all {
		if file, ok := strings.CutPrefix(name, "checkpoint/"); ok && file != "" {
			if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.Must(t, "ctr-pull", "-q", busybox())
	h.Must(t, "ctr-task", "create", "--name", "again", "-v", t.TempDir()+":/dev/shm", "-v", "/etc/hosts:/etc/resolv.conf", busybox())
	h.Must(t, "ctr-task", "restore", "--dir", dir, "again")
	until(t, "the restored one to count", func() bool { return strings.Count(h.Must(t, "ctr-task", "logs", "again"), "\n") > 3 })
	first, _, _ := strings.Cut(h.Must(t, "ctr-task", "logs", "again"), "\n")
	if n, _ := strconv.Atoi(first); n < before {
		t.Errorf("it was at %d and goes on with %q", before, first)
	}
	h.Must(t, "ctr-task", "rm", "-f", "again")

	for name, c := range map[string]struct {
		id, location string
		want         codes.Code
	}{
		"no container":      {"nosuch", location, codes.NotFound},
		"without a name":    {"", location, codes.InvalidArgument},
		"a relative place":  {id, "x.tar", codes.InvalidArgument},
		"a place not there": {id, filepath.Join(dir, "none", "x.tar"), codes.Unknown},
	} {
		if err := checkpoint(c.id, c.location); status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.StopContainer(h.ctx, &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if err := checkpoint(id, filepath.Join(dir, "x.tar")); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("of one that has ended: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "x.tar")); err == nil {
		t.Error("a checkpoint that fails has left a file")
	}
}
