// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// TestBadShims: a shim that fails, in whatever way and at whatever step, is a clear error within a bound, and nothing
// is left of it.
func TestBadShims(t *testing.T) {
	program := filepath.Join(t.TempDir(), "badshim")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", program, "./badshim").CombinedOutput(); err != nil {
		t.Fatalf("build badshim: %v: %s", err, out)
	}
	tests := []struct {
		mode    string
		script  string // the shim, where it is none of badshim's
		status  int
		problem string
	}{
		{mode: "absent", status: 125, problem: "no such program"},
		{mode: "no-program", script: "\x00\x01\x02", status: 125, problem: "exec format error"},
		{mode: "rubbish-said", script: "#!/bin/sh\necho this is no address", status: 125, problem: "this is no address"},
		{mode: "nothing-said", script: "#!/bin/sh\n", status: 125, problem: "shim"},
		{mode: "killed", script: "#!/bin/sh\nkill -9 $$", status: 125, problem: "containerd-shim-bad-v2: it was killed by signal 9 (killed)"},
		{mode: "reason-said", script: "#!/bin/sh\necho the moon is full >&2; exit 1", status: 125, problem: "the moon is full"},
		{mode: "hangs-at-first", script: "#!/bin/sh\nexec sleep 1000", status: 125, problem: "has not said where it listens"},
		{mode: "nobody-listens", script: `#!/bin/sh` + "\n" + `echo '{"version":3,"address":"unix:///no/such/socket","protocol":"ttrpc"}'`, status: 125, problem: "/no/such/socket"},
		{mode: "grpc", script: `#!/bin/sh` + "\n" + `echo '{"version":3,"address":"unix:///no/such/socket","protocol":"grpc"}'`, status: 125, problem: "grpc"},
		{mode: "too-new", script: `#!/bin/sh` + "\n" + `echo '{"version":99,"address":"unix:///no/such/socket","protocol":"ttrpc"}'`, status: 125, problem: "99"},
		{mode: "endless", script: "#!/bin/sh\nexec yes", status: 125, problem: "shim"},
		{mode: "deaf", status: 125, problem: "has not answered"},
		{mode: "rubbish", status: 125, problem: "shim"},
		{mode: "refuses", status: 125, problem: "no luck today"},
		{mode: "dies-at-create", status: 125, problem: "closed"},
		{mode: "hangs-at-create", status: 125, problem: "has not answered"},
		{mode: "no-pid", status: 125, problem: "pid"},
		{mode: "dies-at-start", status: 125, problem: "closed"},
		{mode: "refuses-start", status: 125, problem: "not like this"},
		{mode: "hangs-at-start", status: 125, problem: "has not answered"},
		{mode: "dies-running", status: 137},
	}
	for _, test := range tests {
		t.Run(test.mode, func(t *testing.T) {
			t.Parallel() // most of them are waited for
			w := world.New(t, bin)
			w.Must(t, "ctr-pull", "-q", busybox)
			shim := filepath.Join(w.Dir, "containerd-shim-bad-v2")
			var err error
			switch {
			case test.script != "":
				err = os.WriteFile(shim, []byte(test.script), 0o755)
			case test.mode != "absent":
				err = os.Symlink(program, shim)
			}
			if err != nil {
				t.Fatal(err)
			}
			env := []string{"BADSHIM=" + test.mode, "BADSHIM_SOCKET=" + filepath.Join(w.Dir, "sock")}
			r := w.Run(t, env, "ctr-task", "run", "--rm", "--wait", "2s", "--runtime", shim, busybox, "true")
			if r.Status != test.status || !strings.Contains(r.Stderr, test.problem) {
				t.Errorf("want status %d and %q: %s", test.status, test.problem, r)
			}
			if strings.Count(r.Stderr, "\n") > 3 || len(r.Stderr) > 1000 {
				t.Errorf("that is no clear error: %s", r)
			}
			if strings.Contains(r.Stderr, "pid 0") || strings.Contains(r.Stderr, "hint: ctr-task") {
				t.Errorf("it tells of what is not there any more: %s", r)
			}
			if r.Took > patience {
				t.Errorf("it took %s", r.Took.Round(time.Second))
			}
			if left := w.Must(t, "ctr-task", "ls", "-q"); left != "" {
				t.Errorf("the container %s is left", left)
			}
			os.Remove(filepath.Join(w.Dir, "sock"))
			w.Empty(t)
		})
	}
}
