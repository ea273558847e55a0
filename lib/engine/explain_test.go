// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/engine/ask"
)

func TestExplain(t *testing.T) {
	const frames = "unable to start container process: error during container init: "
	for _, c := range []struct {
		in   string
		kind ask.Kind
		text string // empty: as it is
	}{
		{frames + `exec: "foo": executable file not found in $PATH`, ask.NotFound, `exec: "foo": executable file not found in $PATH`},
		{frames + `exec: "/foo": stat /foo: no such file or directory`, ask.NotFound, `exec: "/foo": stat /foo: no such file or directory`},
		{frames + `exec: "/a/b": stat /a/b: not a directory`, ask.NotFound, `exec: "/a/b": stat /a/b: not a directory`},
		{"unable to start container process: " + `exec: "/etc": is a directory`, ask.NotExecutable, `exec: "/etc": is a directory`},
		{frames + `exec: "/etc/passwd": permission denied`, ask.NotExecutable, `exec: "/etc/passwd": permission denied`},
		{frames + `chdir to cwd ("/x") set in config.json failed: no such file or directory`, ask.Other, `chdir to cwd ("/x") set in config.json failed: no such file or directory`},
		{"runc create failed: " + frames + `exec: "foo": executable file not found in $PATH`, ask.NotFound, `exec: "foo": executable file not found in $PATH`},
		{`error mounting "exec: x" to rootfs at "/x": no such file or directory`, ask.Other, ""},
		// crun 1.28
		{"executable file `foo` not found in $PATH: No such file or directory", ask.NotFound, ""},
		{"executable file `/foo` not found: No such file or directory", ask.NotFound, ""},
		{"the path `/etc/passwd` exists but it is not executable: Permission denied", ask.NotExecutable, ""},
		{"the path `/etc` is not a regular file: Operation not permitted", ask.NotExecutable, ""},
		{"cannot stat `executable file`: No such file or directory", ask.Other, ""},
		// youki
		{"failed to create container: executable 'foo' not found in $PATH", ask.NotFound, "executable 'foo' not found in $PATH"},
		{`executable '/x' at path '"/x"' does not have correct permissions`, ask.NotExecutable, ""},
		// runsc
		{`creating container: starting container: error finding executable "foo" in PATH [/bin]: no such file or directory`,
			ask.NotFound, `error finding executable "foo" in PATH [/bin]: no such file or directory`},
	} {
		if c.text == "" {
			c.text = c.in
		}
		if c.kind != ask.Other && !strings.HasPrefix(c.text, "exec: ") {
			c.text = "exec: " + c.text
		}
		kind, text := explain(errors.New(c.in))
		if kind != c.kind || text != c.text {
			t.Errorf("%s: %q, %s", c.in, kind, text)
		}
	}
}

// logs are of runc 1.5.2, crun 1.28 and, from its source, youki, with what is to be told of each.
var logs = []struct{ text, want string }{
	{`{"level":"warning","msg":"w","time":"2026-01-01T00:00:00Z"}` + "\n" + `{"level":"error","msg":"runc create failed: x","time":"2026-01-01T00:00:00Z"}` + "\n", "runc create failed: x"},
	{"{\n  \"msg\": \"a\",\n  \"level\": \"error\",\n  \"time\": \"t\"\n}\n{\n  \"msg\": \"b\",\n  \"level\": \"warning\"\n}\n", "a"},
	{`{"timestamp":"t","level":"ERROR","fields":{"message":"m"},"target":"x"}`, "m"},
	{"no JSON\n[1]\n{\"level\":\"error\",\"msg\":\" m \"}\n{\"level\":", "m"},
	{"", ""},
	{`{"level":"error","msg":""}`, ""},
}

func TestLastError(t *testing.T) {
	for _, c := range logs {
		if got := lastError([]byte(c.text)); got != c.want {
			t.Errorf("%s: %q", c.text, got)
		}
	}
	for in, want := range map[string]string{
		"":         "",
		"a\nb\n\n": "b",
		`time="2026-01-01T00:00:00Z" level=error msg="say \"x\""`: `say "x"`,
	} {
		if got := lastLine([]byte(in)); got != want {
			t.Errorf("%s: %q", in, got)
		}
	}
}

func FuzzLastError(f *testing.F) {
	for _, c := range logs {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		for _, text := range []string{lastError(log), lastLine(log)} {
			if len(text) > maxSaid {
				t.Errorf("%d bytes", len(text))
			}
			explain(errors.New(text))
		}
	})
}

func TestMergeLeavesWhatIsNotNamed(t *testing.T) {
	to := &cgroups.Resources{Memory: 5, CpuQuota: 7, CpusetCpus: "0", BlkioThrottleReadBpsDevice: []*cgroups.ThrottleDevice{
		cgroups.NewThrottleDevice(8, 0, 1), cgroups.NewThrottleDevice(8, 16, 2),
	}}
	shares, pids := uint64(1024), int64(9)
	td := specs.LinuxThrottleDevice{Rate: 3}
	td.Major, td.Minor = 8, 16
	merge(to, &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Shares: &shares},
		Pids:    &specs.LinuxPids{Limit: &pids},
		BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{td}},
	})
	if to.Memory != 5 || to.CpuQuota != 7 || to.CpusetCpus != "0" || to.CpuShares != 1024 || to.CpuWeight == 0 || *to.PidsLimit != 9 {
		t.Errorf("%+v", to)
	}
	if d := to.BlkioThrottleReadBpsDevice; len(d) != 2 || d[0].Rate != 1 || d[1].Rate != 3 {
		t.Errorf("throttle devices %v %v", d[0], d[1])
	}
}
