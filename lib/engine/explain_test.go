// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
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
		text string
	}{
		{frames + `exec: "foo": executable file not found in $PATH`, ask.NotFound, `exec: "foo": executable file not found in $PATH`},
		{frames + `exec: "/foo": stat /foo: no such file or directory`, ask.NotFound, `exec: "/foo": stat /foo: no such file or directory`},
		{frames + `exec: "/a/b": stat /a/b: not a directory`, ask.NotFound, `exec: "/a/b": stat /a/b: not a directory`},
		{"unable to start container process: " + `exec: "/etc": is a directory`, ask.NotExecutable, `exec: "/etc": is a directory`},
		{frames + `exec: "/etc/passwd": permission denied`, ask.NotExecutable, `exec: "/etc/passwd": permission denied`},
		{frames + `chdir to cwd ("/x") set in config.json failed: no such file or directory`, ask.Other, `chdir to cwd ("/x") set in config.json failed: no such file or directory`},
	} {
		kind, text := explain(errors.New(c.in))
		if kind != c.kind || text != c.text {
			t.Errorf("%s: %q, %s", c.in, kind, text)
		}
	}
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
