// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// logger is a logging program as containerd's binary scheme wants it: stdout at descriptor 3, stderr at 4, and 5 is
// closed when it is ready.
const logger = `#!/bin/sh
[ "$1" = dir ] || exit 1
trap '' TERM # containerd's shim sends it, to make sure
exec >"$2/said" 2>&1
echo "$CONTAINER_NAMESPACE/$CONTAINER_ID"
cat <&3 >"$2/out" 5>&- &
cat <&4 >"$2/err" 5>&- &
exec 3<&- 4<&- 5>&-
wait
echo end
`

func TestLogURI(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		program := filepath.Join(d.dir, "logger")
		if err := os.WriteFile(program, []byte(logger), 0o755); err != nil {
			t.Fatal(err)
		}
		const script = "echo to stdout; echo to stderr >&2; seq 1 10000; exit 4"
		d.background(t, "binary", script, "--log-uri", "binary://"+program+"?dir="+d.dir)
		d.background(t, "file", script, "--log-uri", "file://"+filepath.Join(d.dir, "new/dir/file"))
		for _, id := range []string{"binary", "file"} {
			d.awaitStatus(t, id, "STOPPED")
			d.remove(t, id)
		}
		for name, want := range map[string]int{"out": 48894 + 10, "err": 10, "new/dir/file": 48894 + 20} {
			until(t, name+" has everything", func() error {
				if text, err := os.ReadFile(filepath.Join(d.dir, name)); len(text) != want {
					return fmt.Errorf("%d bytes, want %d, %v", len(text), want, err)
				}
				return nil
			})
		}
		until(t, "the logger has ended", func() error {
			if text, err := os.ReadFile(filepath.Join(d.dir, "said")); string(text) != d.namespace+"/binary\nend\n" {
				return fmt.Errorf("it says %q, %v", text, err)
			}
			return nil
		})
		if r := d.run(t, "-d", "--log-uri", "binary:///no/such/program?a=b", busybox, "none", "true"); r.status == 0 {
			t.Errorf("without its logger: %s", r)
		}
		d.remove(t, "none")

		d.background(t, "host", "sleep 1000")
		d.must(t, "task", "exec", "-d", "--exec-id", "x", "--log-uri", "file://"+filepath.Join(d.dir, "exec"), "host", "echo", "from exec")
		until(t, "the exec's log is there", func() error {
			if text, err := os.ReadFile(filepath.Join(d.dir, "exec")); string(text) != "from exec\n" {
				return fmt.Errorf("%q, %v", text, err)
			}
			return nil
		})
		d.remove(t, "host")
	})
}
