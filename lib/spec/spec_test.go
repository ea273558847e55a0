// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/profiles/seccomp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write testdata/*.json anew")

// files is an image in memory.
func files(m map[string]string) Opener {
	return func(name string) (io.ReadCloser, error) {
		text, ok := m[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}
}

var etc = files(map[string]string{
	"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nredis:x:999:1000::/home/redis:/bin/false\nwide:x:4294967296:0::/:\nneg:x:-1:0::/:\nnogid:x:7:99999999999::/:\n",
	"/etc/group":  "root:x:0:root\nredis:x:1000:\nadm:x:4:redis,root\ndisk:x:6:redis\ndocker:x:2000:\nhuge:x:4294967296:\n",
})

var redis = ocispec.ImageConfig{
	User: "redis", Env: []string{"PATH=/usr/local/bin:/bin", "REDIS_VERSION=7", "PLAIN"}, WorkingDir: "/data",
	Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"redis-server"},
}

func ptr[T any](v T) *T { return &v }

func TestGolden(t *testing.T) {
	t.Setenv("FROM_CALLER", "yes")
	for name, c := range map[string]struct {
		img ocispec.ImageConfig
		o   Options
	}{
		"default": {ocispec.ImageConfig{Cmd: []string{"sh"}}, Options{ID: "a1b2c3", Cgroupns: "host", CgroupsPath: "/ctrd--default--a1b2c3", Open: etc}},
		"redis": {redis, Options{
			ID: "r", Cgroupns: "private", Open: etc, TTY: true, Env: []string{"A=1", "FROM_CALLER", "UNSET_IN_CALLER", "REDIS_VERSION=8"},
			Volumes: []string{"/:/host:rshared"}, Tmpfs: []string{"/run:size=1m,mode=755,exec"}, ReadOnly: true,
			Limits:  Limits{Memory: "64m", MemorySwap: "-1", MemoryReservation: "32m", CPUs: "0.5", CPUShares: 512, CpusetCPUs: "0", PidsLimit: 100},
			Ulimits: []string{"nofile=10:20", "core=-1", "nofile=1024"}, CapAdd: []string{"net_admin"}, CapDrop: []string{"CAP_MKNOD"},
			Sysctls: []string{"net.core.somaxconn=1024"}, SecurityOpt: []string{"no-new-privileges"}, OOMScoreAdj: ptr(500),
			GroupAdd: []string{"docker", "77"},
		}},
		"host": {redis, Options{
			Cgroupns: "host", Net: "host", PID: "host", IPC: "host", UTS: "host", User: "0:0", Open: etc,
			Args: []string{"redis-cli"}, Entrypoint: ptr(""), SecurityOpt: []string{"seccomp=unconfined"},
			Devices: []string{"/dev/null:/dev/nil:r"}, CapDrop: []string{"ALL"}, CapAdd: []string{"chown"},
			Mounts: []string{"type=bind,src=/etc,dst=/etc/host", "type=tmpfs,dst=/dev/shm,tmpfs-size=8m,tmpfs-mode=1777"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "redis" {
				// What /:rshared says depends on the host's root mount; the rest is golden.
				if v, err := ParseVolume(c.o.Volumes[0]); err != nil || v.checkShared() != nil {
					c.o.Volumes = []string{"/:/host"}
				}
			}
			r, err := Generate(t.Context(), c.img, c.o)
			if err != nil {
				t.Fatal(err)
			}
			accepted(t, r.Spec)
			golden(t, name, r)
		})
	}
}

func golden(t *testing.T, name string, r Result) {
	t.Helper()
	// Of the host, not of the options.
	l := r.Spec.Linux
	l.MaskedPaths = slices.DeleteFunc(l.MaskedPaths, func(p string) bool { return strings.HasSuffix(p, "/thermal_throttle") })
	for i, m := range r.Spec.Mounts {
		if m.Destination == "/host" {
			l.RootfsPropagation = ""
			r.Spec.Mounts[i].Options = []string{"of the host"}
		}
	}
	got, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", name+".json")
	if *update {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got\n%s", file, got)
	}
}

// accepted asks the engine's own converter and validator.
func accepted(t *testing.T, s *specs.Spec) {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var again specs.Spec
	must(t, json.Unmarshal(b, &again))
	// The converter makes paths absolute and the validator looks at the root.
	again.Root.Path = t.TempDir()
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: "x", Spec: &again})
	if err != nil {
		t.Fatalf("the engine refuses it: %v", err)
	}
	if err := validate.Validate(config); err != nil {
		t.Fatalf("the engine refuses it: %v", err)
	}
	seen := map[string]bool{}
	for _, d := range config.Devices {
		if seen[d.Path] {
			t.Errorf("device %s is there twice", d.Path)
		}
		seen[d.Path] = true
	}
}

func TestPrivileged(t *testing.T) {
	r, err := Generate(t.Context(), redis, Options{Privileged: true, User: "root", Open: etc, Devices: []string{"/dev/null:/dev/nil"}})
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, r.Spec)
	s := r.Spec
	if r.DefaultSeccomp || s.Linux.Seccomp != nil || s.Linux.MaskedPaths != nil || s.Linux.ReadonlyPaths != nil {
		t.Errorf("confined: %+v", s.Linux)
	}
	if !slices.Contains(s.Process.Capabilities.Effective, "CAP_SYS_ADMIN") {
		t.Errorf("capabilities: %v", s.Process.Capabilities.Effective)
	}
	if want := []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}; !reflect.DeepEqual(s.Linux.Resources.Devices, want) {
		t.Errorf("device rules: %+v", s.Linux.Resources.Devices)
	}
	paths := map[string]int{}
	for _, d := range s.Linux.Devices {
		paths[d.Path]++
	}
	if paths["/dev/null"] != 1 || paths["/dev/nil"] != 1 || paths["/dev/console"] != 0 {
		t.Errorf("devices: %v", paths)
	}
	for _, m := range s.Mounts {
		if (m.Destination == "/sys" || m.Destination == "/sys/fs/cgroup") && !slices.Contains(m.Options, "rw") {
			t.Errorf("%s: %v", m.Destination, m.Options)
		}
	}
	// Read-only stays read-only.
	r, err = Generate(t.Context(), redis, Options{Privileged: true, ReadOnly: true, Open: etc})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Spec.Mounts {
		if m.Destination == "/sys" && !slices.Contains(m.Options, "ro") {
			t.Errorf("read-only: %v", m.Options)
		}
	}
}

func TestCommand(t *testing.T) {
	img := ocispec.ImageConfig{Entrypoint: []string{"e"}, Cmd: []string{"c", "d"}}
	for _, c := range []struct {
		entry *string
		args  []string
		want  string
	}{
		{nil, nil, "e c d"}, {nil, []string{"x"}, "e x"}, {ptr("f"), nil, "f"}, {ptr("f"), []string{"x"}, "f x"},
		{ptr(""), []string{"x", "y"}, "x y"},
	} {
		got, err := command(img, Options{Entrypoint: c.entry, Args: c.args})
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%v %v: %q, %v", c.entry, c.args, got, err)
		}
	}
	if _, err := command(img, Options{Entrypoint: ptr("")}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
}

// Every refusal names the flag and the value.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/profile", []byte("{"), 0o644))
	must(t, os.WriteFile(dir+"/empty", []byte("{}"), 0o644))
	must(t, os.WriteFile(dir+"/env", []byte("ok=1\na b=c\n"), 0o644))
	must(t, os.Symlink(dir+"/nothing", dir+"/dangling"))
	for _, c := range []struct {
		flag, value string
		o           Options
	}{
		{"memory", "5x", Options{Limits: Limits{Memory: "5x"}}},
		{"memory", "1m", Options{Limits: Limits{Memory: "1m"}}},
		{"memory", "-5m", Options{Limits: Limits{Memory: "-5m"}}},
		{"memory", "99999999999t", Options{Limits: Limits{Memory: "99999999999t"}}},
		{"memory", "nan", Options{Limits: Limits{Memory: "nan"}}},
		{"memory-swap", "32m", Options{Limits: Limits{Memory: "64m", MemorySwap: "32m"}}},
		{"memory-swap", "64m", Options{Limits: Limits{MemorySwap: "64m"}}},
		{"memory-reservation", "65m", Options{Limits: Limits{Memory: "64m", MemoryReservation: "65m"}}},
		{"cpus", "x", Options{Limits: Limits{CPUs: "x"}}},
		{"cpus", "NaN", Options{Limits: Limits{CPUs: "NaN"}}},
		{"cpus", "-1", Options{Limits: Limits{CPUs: "-1"}}},
		{"cpus", "0.001", Options{Limits: Limits{CPUs: "0.001"}}},
		{"cpus", "99999", Options{Limits: Limits{CPUs: "99999"}}},
		{"cpu-shares", "1", Options{Limits: Limits{CPUShares: 1}}},
		{"cpuset-cpus", "3-1", Options{Limits: Limits{CpusetCPUs: "3-1"}}},
		{"cpuset-cpus", "0,", Options{Limits: Limits{CpusetCPUs: "0,"}}},
		{"cpuset-mems", "a", Options{Limits: Limits{CpusetMems: "a"}}},
		{"pids-limit", "-2", Options{Limits: Limits{PidsLimit: -2}}},
		{"ulimit", "nofile", Options{Ulimits: []string{"nofile"}}},
		{"ulimit", "nofile=2:1", Options{Ulimits: []string{"nofile=2:1"}}},
		{"ulimit", "nofile=-5:-3", Options{Ulimits: []string{"nofile=-5:-3"}}},
		{"ulimit", "files=1", Options{Ulimits: []string{"files=1"}}},
		{"oom-score-adj", "1001", Options{OOMScoreAdj: ptr(1001)}},
		{"cap-add", "FLY", Options{CapAdd: []string{"FLY"}}},
		{"cap-drop", "", Options{CapDrop: []string{""}}},
		{"security-opt", "seccomp=" + dir + "/none", Options{SecurityOpt: []string{"seccomp=" + dir + "/none"}}},
		{"security-opt", "seccomp=" + dir + "/profile", Options{SecurityOpt: []string{"seccomp=" + dir + "/profile"}}},
		{"security-opt", "seccomp=" + dir + "/empty", Options{SecurityOpt: []string{"seccomp=" + dir + "/empty"}}},
		{"security-opt", "seccomp=" + dir, Options{SecurityOpt: []string{"seccomp=" + dir}}},
		{"security-opt", "seccomp=", Options{SecurityOpt: []string{"seccomp="}}},
		{"security-opt", "apparmor=x", Options{SecurityOpt: []string{"apparmor=x"}}},
		{"security-opt", "label=type:x", Options{SecurityOpt: []string{"label=type:x"}}},
		{"security-opt", "nonsense", Options{SecurityOpt: []string{"nonsense"}}},
		{"security-opt", "no-new-privileges=perhaps", Options{SecurityOpt: []string{"no-new-privileges=perhaps"}}},
		{"sysctl", "kernel.panic=1", Options{Sysctls: []string{"kernel.panic=1"}}},
		{"sysctl", "net.x", Options{Sysctls: []string{"net.x"}}},
		{"sysctl", "net/../kernel/panic=1", Options{Sysctls: []string{"net/../kernel/panic=1"}}},
		{"sysctl", "net.core.somaxconn=1", Options{Net: "host", Sysctls: []string{"net.core.somaxconn=1"}}},
		{"sysctl", "kernel.shmmax=1", Options{IPC: "host", Sysctls: []string{"kernel.shmmax=1"}}},
		{"sysctl", "kernel.domainname=x", Options{UTS: "host", Sysctls: []string{"kernel.domainname=x"}}},
		{"net", "bridge", Options{Net: "bridge"}},
		{"pid", "container:", Options{PID: "container:"}},
		{"cgroupns", "container:x", Options{Cgroupns: "container:x"}},
		{"hostname", "h", Options{Hostname: "h", UTS: "container:x"}},
		{"domainname", "a b", Options{Domainname: "a b"}},
		{"sysctl", "net.core.somaxconn=1", Options{Net: "container:x", Sysctls: []string{"net.core.somaxconn=1"}}},
		{"dns", "ns.org", Options{DNS: []string{"ns.org"}}},
		{"dns-search", "a b", Options{DNSSearch: []string{"a b"}}},
		{"dns-option", "a\nb", Options{DNSOptions: []string{"a\nb"}}},
		{"add-host", "a", Options{AddHosts: []string{"a"}}},
		{"add-host", "a:b", Options{AddHosts: []string{"a:b"}}},
		{"add-host", "a b:1.1.1.1", Options{AddHosts: []string{"a b:1.1.1.1"}}},
		{"add-host", "g:host-gateway", Options{AddHosts: []string{"g:host-gateway"}}},
		{"annotation", "a", Options{Annotations: []string{"a"}}},
		{"cpu-quota", "5", Options{Limits: Limits{CPUQuota: 5}}},
		{"cpu-period", "5", Options{Limits: Limits{CPUPeriod: 5}}},
		{"cpus", "1", Options{Limits: Limits{CPUs: "1", CPUQuota: 10000}}},
		{"cpuset-cpus", "0,4095", Options{Limits: Limits{CpusetCPUs: "0,4095"}}},
		{"cpuset-mems", "1023", Options{Limits: Limits{CpusetMems: "1023"}}},
		{"pids-limit", "4194305", Options{Limits: Limits{PidsLimit: 4194305}}},
		{"memory-swappiness", "101", Options{Limits: Limits{MemorySwappiness: ptr(int64(101))}}},
		{"oom-kill-disable", "true", Options{Limits: Limits{OOMKillDisable: true}}},
		{"blkio-weight", "5", Options{Limits: Limits{BlkioWeight: 5}}},
		{"blkio-weight-device", "/dev/null:100", Options{Limits: Limits{BlkioWeightDevice: []string{"/dev/null:100"}}}},
		{"device-read-bps", "/dev/none-such:1m", Options{Limits: Limits{DeviceReadBps: []string{"/dev/none-such:1m"}}}},
		{"device-write-iops", "/dev/null:1m", Options{Limits: Limits{DeviceWriteIOps: []string{"/dev/null:1m"}}}},
		{"device-read-iops", "sda:1", Options{Limits: Limits{DeviceReadIOps: []string{"sda:1"}}}},
		{"ulimit", "nofile=9999999999", Options{Ulimits: []string{"nofile=9999999999"}}},
		{"volume", "/tmp:/x:idmap", Options{Volumes: []string{"/tmp:/x:idmap"}}},
		{"volume", "/tmp:/" + strings.Repeat("x", 194) + "...", Options{Volumes: []string{"/tmp:/" + strings.Repeat("x", 300)}}},
		{"tmpfs", strings.Repeat("/abc", 50) + "...", Options{Tmpfs: []string{strings.Repeat("/abc", 2000)}}},
		{"uidmap", "1:5:10", Options{UserNS: UserNS{UIDs: []specs.LinuxIDMapping{{ContainerID: 1, HostID: 5, Size: 10}}, GIDs: []specs.LinuxIDMapping{{HostID: 5, Size: 10}}}}},
		{"uidmap", "0:5:10,5:100:1", Options{UserNS: UserNS{UIDs: []specs.LinuxIDMapping{{HostID: 5, Size: 10}, {ContainerID: 5, HostID: 100, Size: 1}}, GIDs: []specs.LinuxIDMapping{{HostID: 5, Size: 10}}}}},
		{"net", "host", Options{Net: "host", UserNS: UserNS{UIDs: []specs.LinuxIDMapping{{HostID: 5, Size: 10}}, GIDs: []specs.LinuxIDMapping{{HostID: 5, Size: 10}}}}},
		{"init", "true", Options{Init: true, Tmpfs: []string{InitPath}}},
		{"init", "true", Options{Init: true, Tmpfs: []string{"/sbin"}}},
		{"hostname", "h", Options{Hostname: "h", UTS: "host"}},
		{"hostname", strings.Repeat("h", 65), Options{Hostname: strings.Repeat("h", 65)}},
		{"workdir", "data", Options{Workdir: "data"}},
		{"user", "nobody", Options{User: "nobody"}},
		{"user", "root:nogroup", Options{User: "root:nogroup"}},
		{"user", "wide", Options{User: "wide"}},
		{"user", "neg", Options{User: "neg"}},
		{"user", "nogid", Options{User: "nogid"}},
		{"user", "4294967296", Options{User: "4294967296"}},
		{"user", "-1", Options{User: "-1"}},
		{"user", "root:huge", Options{User: "root:huge"}},
		{"group-add", "nogroup", Options{GroupAdd: []string{"nogroup"}}},
		{"env", "=x", Options{Env: []string{"=x"}}},
		{"env", "A=\x00", Options{Env: []string{"A=\x00"}}},
		{"env-file", dir + "/none", Options{EnvFiles: []string{dir + "/none"}}},
		{"env-file", dir + "/env", Options{EnvFiles: []string{dir + "/env"}}},
		{"shm-size", "0", Options{ShmSize: "0"}},
		{"shm-size", "big", Options{ShmSize: "big"}},
		{"device", "/dev/none-such", Options{Devices: []string{"/dev/none-such"}}},
		{"device", "/etc/passwd", Options{Devices: []string{"/etc/passwd"}}},
		{"device", "/dev/null:rwx", Options{Devices: []string{"/dev/null:rwx"}}},
		{"device-cgroup-rule", "x 1:3 r", Options{DeviceRules: []string{"x 1:3 r"}}},
		{"device-cgroup-rule", "c 1 r", Options{DeviceRules: []string{"c 1 r"}}},
		{"device-cgroup-rule", "c 1:9999999 r", Options{DeviceRules: []string{"c 1:9999999 r"}}},
		{"device", "null", Options{Devices: []string{"null"}}},
		{"volume", "data:/data", Options{Volumes: []string{"data:/data"}}},
		{"volume", "./data:/data", Options{Volumes: []string{"./data:/data"}}},
		{"volume", "data", Options{Volumes: []string{"data"}}},
		{"volume", "/", Options{Volumes: []string{"/"}}},
		{"mount", "type=volume,src=data,dst=/x", Options{Mounts: []string{"type=volume,src=data,dst=/x"}}},
		{"mount", "type=volume,dst=/x,ro", Options{Mounts: []string{"type=volume,dst=/x,ro"}}},
		{"mount", "type=volume,dst=/x,tmpfs-size=1m", Options{Mounts: []string{"type=volume,dst=/x,tmpfs-size=1m"}}},
		{"volume", "/x/", Options{Volumes: []string{"/x", "/x/"}}},
		{"volume", "/tmp:/", Options{Volumes: []string{"/tmp:/"}}},
		{"volume", "/tmp:x", Options{Volumes: []string{"/tmp:x"}}},
		{"volume", "/tmp:/x:ro,rw", Options{Volumes: []string{"/tmp:/x:ro,rw"}}},
		{"volume", "/tmp:/x:fast", Options{Volumes: []string{"/tmp:/x:fast"}}},
		{"volume", "/tmp:/x:", Options{Volumes: []string{"/tmp:/x:"}}},
		{"volume", "/tmp:/x:private,shared", Options{Volumes: []string{"/tmp:/x:private,shared"}}},
		{"volume", dir + "/dangling:/x", Options{Volumes: []string{dir + "/dangling:/x"}}},
		{"volume", dir + "/env/x:/x", Options{Volumes: []string{dir + "/env/x:/x"}}},
		{"volume", "/tmp:/x/", Options{Volumes: []string{"/etc:/x", "/tmp:/x/"}}},
		{"tmpfs", "/x", Options{Volumes: []string{"/etc:/x"}, Tmpfs: []string{"/x"}}},
		{"mount", "type=bind,src=" + dir + "/none,dst=/x", Options{Mounts: []string{"type=bind,src=" + dir + "/none,dst=/x"}}},
		{"mount", "src=/tmp,dst=/x", Options{Mounts: []string{"src=/tmp,dst=/x"}}},
		{"mount", "type=bind,src=tmp,dst=/x", Options{Mounts: []string{"type=bind,src=tmp,dst=/x"}}},
		{"mount", "type=bind,dst=/x", Options{Mounts: []string{"type=bind,dst=/x"}}},
		{"mount", "type=tmpfs", Options{Mounts: []string{"type=tmpfs"}}},
		{"mount", "type=tmpfs,dst=/x,src=/y", Options{Mounts: []string{"type=tmpfs,dst=/x,src=/y"}}},
		{"mount", "type=tmpfs,dst=/x,bind-propagation=shared", Options{Mounts: []string{"type=tmpfs,dst=/x,bind-propagation=shared"}}},
		{"mount", "type=bind,src=/tmp,dst=/x,tmpfs-size=1", Options{Mounts: []string{"type=bind,src=/tmp,dst=/x,tmpfs-size=1"}}},
		{"mount", "type=bind,src=/tmp,dst=/x,dst=/y", Options{Mounts: []string{"type=bind,src=/tmp,dst=/x,dst=/y"}}},
		{"mount", "type=bind,src=/tmp,dst=/x,ro=perhaps", Options{Mounts: []string{"type=bind,src=/tmp,dst=/x,ro=perhaps"}}},
		{"mount", "type=bind,src=/tmp,dst=/x,speed=1", Options{Mounts: []string{"type=bind,src=/tmp,dst=/x,speed=1"}}},
		{"mount", "type=tmpfs,dst=/x,tmpfs-size=x", Options{Mounts: []string{"type=tmpfs,dst=/x,tmpfs-size=x"}}},
		{"mount", "type=tmpfs,dst=/x,tmpfs-mode=9", Options{Mounts: []string{"type=tmpfs,dst=/x,tmpfs-mode=9"}}},
		{"mount", "", Options{Mounts: []string{""}}},
		{"tmpfs", "x", Options{Tmpfs: []string{"x"}}},
		{"tmpfs", "/x:fast", Options{Tmpfs: []string{"/x:fast"}}},
		{"tmpfs", "/x:size=x", Options{Tmpfs: []string{"/x:size=x"}}},
		{"tmpfs", "/x:mode=9", Options{Tmpfs: []string{"/x:mode=9"}}},
	} {
		c.o.Open = etc
		_, err := Generate(t.Context(), ocispec.ImageConfig{Cmd: []string{"sh"}}, c.o)
		if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("--%s %q: %v", c.flag, c.value, err)
			continue
		}
		if prefix := "--" + c.flag + " " + strconv.Quote(c.value) + ": "; !strings.HasPrefix(err.Error(), prefix) {
			t.Errorf("--%s %q is not named: %v", c.flag, c.value, err)
		}
	}
}

// A user that the mappings do not have may be the image's: no option is blamed.
func TestUserThatIsNotMapped(t *testing.T) {
	ten := []specs.LinuxIDMapping{{HostID: 5, Size: 10}}
	_, err := Generate(t.Context(), ocispec.ImageConfig{Cmd: []string{"sh"}, User: "100:1"}, Options{Open: etc, UserNS: UserNS{UIDs: ten, GIDs: ten}})
	if want := "(0:5:10) do not include 100, which"; !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

func TestMemorySwapDefault(t *testing.T) {
	r, err := Limits{Memory: "64m"}.Resources()
	if err != nil {
		t.Fatal(err)
	}
	if swapLimited() != (r.Memory.Swap != nil) {
		t.Errorf("%+v", r.Memory)
	}
	if r.Memory.Swap != nil && *r.Memory.Swap != 128<<20 {
		t.Errorf("swap %d", *r.Memory.Swap)
	}
	if r, err := (Limits{}).Resources(); err != nil || r.Memory != nil || r.CPU != nil || r.Pids != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestVolumes(t *testing.T) {
	dir := t.TempDir()
	missing := dir + "/a/b"
	r, err := Generate(t.Context(), redis, Options{Open: etc, Volumes: []string{missing + ":/deep/er", dir + ":/deep:ro", missing + ":/again"}})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Mkdir, []string{missing}) {
		t.Errorf("to make: %v", r.Mkdir)
	}
	if _, err := os.Stat(dir + "/a"); err == nil {
		t.Error("the source was made")
	}
	var order []string
	for _, m := range r.Spec.Mounts {
		if m.Type == "bind" && path.IsAbs(m.Source) {
			order = append(order, m.Destination)
		}
	}
	if !slices.Equal(order, []string{"/deep", "/again", "/deep/er"}) {
		t.Errorf("order: %v", order)
	}
	ro := []string{"rbind", "rprivate", "ro"}
	if recursiveReadOnly() {
		ro = append(ro, "rro")
	}
	if v, err := ParseVolume("/a/../b/:/c//d/:ro,z"); err != nil || v.Mount.Source != "/b" || v.Mount.Destination != "/c/d" || !slices.Equal(v.Mount.Options, ro) {
		t.Errorf("%+v, %v", v, err)
	}
	accepted(t, r.Spec)
}

func TestReplacedMounts(t *testing.T) {
	r, err := Generate(t.Context(), redis, Options{Open: etc, Volumes: []string{"/dev:/dev", "/proc:/proc/"}})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range r.Spec.Mounts {
		if m.Destination == "/proc" && m.Type != "bind" || strings.HasPrefix(m.Destination, "/dev/") {
			t.Errorf("a default is left: %+v", m)
		}
		if m.Destination == "/dev" || m.Destination == "/proc" {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d mounts", n)
	}
}

func TestShared(t *testing.T) {
	v, err := ParseVolume("/proc:/x:rshared")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	shared := false
	for line := range strings.Lines(string(self)) {
		if f := strings.Fields(line); f[4] == "/proc" {
			shared = strings.HasPrefix(f[6], "shared:")
		}
	}
	if err := v.checkShared(); shared != (err == nil) {
		t.Errorf("/proc shared is %v: %v", shared, err)
	}
	for _, c := range [][3]string{{"", "rshared", "shared"}, {"", "slave", "rslave"}, {"shared", "rslave", "shared"}, {"", "rprivate", ""}, {"rslave", "", "rslave"}} {
		if got := wider(c[0], c[1]); got != c[2] {
			t.Errorf("wider(%q, %q) is %q", c[0], c[1], got)
		}
	}
}

func TestTmpfs(t *testing.T) {
	for text, want := range map[string]string{
		"/x":                              "noexec nosuid nodev",
		"/x:exec,size=64k,size=1m,uid=10": "nosuid nodev exec size=1048576 uid=10",
		"/x:ro,rw,size=50%":               "noexec nosuid nodev rw size=50%",
		"/x:noexec":                       "nosuid nodev noexec",
		"/x:nr_inodes=1k,mode=1777":       "noexec nosuid nodev nr_inodes=1k mode=1777",
	} {
		v, err := ParseTmpfs(text)
		if got := strings.Join(v.Mount.Options, " "); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestCaps(t *testing.T) {
	for _, c := range []struct {
		add, drop []string
		has, not  string
	}{
		{nil, nil, "CAP_CHOWN", "CAP_SYS_ADMIN"},
		{[]string{"sys_admin"}, []string{"chown"}, "CAP_SYS_ADMIN", "CAP_CHOWN"},
		{[]string{"ALL"}, []string{"cap_net_admin"}, "CAP_SYS_ADMIN", "CAP_NET_ADMIN"},
		{[]string{"kill"}, []string{"all"}, "CAP_KILL", "CAP_CHOWN"},
	} {
		set, err := capSet(false, nil, c.add, c.drop)
		if err != nil || !slices.Contains(set, c.has) || slices.Contains(set, c.not) || !slices.IsSorted(set) {
			t.Errorf("+%v -%v: %v, %v", c.add, c.drop, set, err)
		}
	}
	for _, c := range defaultCaps {
		if !slices.Contains(knownCaps(), c) {
			t.Errorf("%s is no capability", c)
		}
	}
}

func TestUser(t *testing.T) {
	for who, want := range map[string]struct {
		uid, gid uint32
		groups   []uint32
		home     string
	}{
		"":           {0, 0, []uint32{0, 4}, "/root"},
		"redis":      {999, 1000, []uint32{1000, 4, 6}, "/home/redis"},
		"999":        {999, 1000, []uint32{1000, 4, 6}, "/home/redis"},
		"redis:disk": {999, 6, []uint32{6}, "/home/redis"},
		"redis:5":    {999, 5, []uint32{5}, "/home/redis"},
		"12345":      {12345, 0, []uint32{0}, "/"},
		"12345:9":    {12345, 9, []uint32{9}, "/"},
	} {
		u, home, err := User(who, nil, etc)
		if err != nil || u.UID != want.uid || u.GID != want.gid || !slices.Equal(u.AdditionalGids, want.groups) || home != want.home {
			t.Errorf("%q: %+v, %q, %v", who, u, home, err)
		}
	}
	if u, _, err := User("5", []string{"7"}, nil); err != nil || u.UID != 5 || !slices.Equal(u.AdditionalGids, []uint32{0, 7}) {
		t.Errorf("without files: %+v, %v", u, err)
	}
}

// Images that were made to harm.
func TestUserHostile(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/passwd", []byte("root:x:0:0::/leaked:\n"), 0o644))
	look := func(files map[string]string) (string, error) {
		_, home, err := User("root", nil, LayerFS(layers(t, files)).Open)
		return home, err
	}
	for name, target := range map[string]string{"absolute": outside + "/passwd", "relative": strings.Repeat("../", 30) + outside[1:] + "/passwd"} {
		if home, err := look(map[string]string{"etc/passwd": "-> " + target}); home == "/leaked" || err == nil {
			t.Errorf("%s link out of the image: home %q, %v", name, home, err)
		}
	}
	if home, err := look(map[string]string{"etc": "-> " + outside}); home == "/leaked" || err == nil {
		t.Errorf("directory link out of the image: %q, %v", home, err)
	}
	if _, err := look(map[string]string{"etc/passwd": "fifo"}); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "FIFO") {
		t.Errorf("FIFO: %v", err)
	}
	if _, err := look(map[string]string{"etc/passwd": "dir"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("directory: %v", err)
	}
	if _, err := look(map[string]string{"etc/group": "-> group"}); err == nil {
		t.Error("a loop of links went through")
	}
	if _, err := look(map[string]string{"etc/passwd": "root:x:0:0:" + strings.Repeat("x", 1<<20)}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a line of a megabyte: %v", err)
	}
	dirs := layers(t, map[string]string{"etc/passwd": "x"})
	must(t, os.Truncate(dirs[0]+"/etc/passwd", 1<<40))
	if _, _, err := User("root", nil, LayerFS(dirs).Open); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a terabyte: %v", err)
	}
	needRoot(t)
	// A device whose reading would never end.
	dirs = layers(t, map[string]string{"etc": "dir"})
	mknodZero(t, dirs[0]+"/etc/passwd")
	if _, _, err := User("root", nil, LayerFS(dirs).Open); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("/dev/zero: %v", err)
	}
}

func TestEnv(t *testing.T) {
	t.Setenv("CALLER", "c")
	file := t.TempDir() + "/env"
	must(t, os.WriteFile(file, []byte("\xef\xbb\xbf# comment\n\n  A= 1 \nB=x=y\r\nCALLER\nUNSET_IN_CALLER\n\tC=\n"), 0o644))
	got, err := Env(t.Context(), []string{"A=0", "Z=z"}, []string{file}, []string{"B=2", "D=#"})
	want := []string{"A= 1 ", "Z=z", "B=2", "CALLER=c", "C=", "D=#"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

// TestEnvFileWithoutWriter: a FIFO that nobody writes to does not hold a command that is told to end.
func TestEnvFileWithoutWriter(t *testing.T) {
	fifo := t.TempDir() + "/env"
	must(t, unix.Mkfifo(fifo, 0o600))
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("told to end")
	cancel(cause)
	if _, err := Env(ctx, nil, []string{fifo}, nil); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
	// What waits for a writer gets one, and ends.
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	must(t, err)
	f.Close()
}

func TestSeccomp(t *testing.T) {
	r, err := Generate(t.Context(), redis, Options{Open: etc})
	if err != nil {
		t.Fatal(err)
	}
	if !r.DefaultSeccomp || r.Spec.Linux.Seccomp != nil {
		t.Fatal("the default profile is not left for later")
	}
	small, err := json.Marshal(r.Spec)
	if err != nil || len(small) > 4096 {
		t.Errorf("the record is %d bytes, %v", len(small), err)
	}
	must(t, WithSeccomp(r.Spec))
	p := r.Spec.Linux.Seccomp
	if p == nil || p.DefaultAction != specs.ActErrno || len(p.Syscalls) == 0 {
		t.Fatalf("%+v", p)
	}
	if allows(p, "mount") || !allows(p, "openat") {
		t.Error("the profile does not follow the capabilities")
	}
	must(t, WithSeccomp(r.Spec))
	if r.Spec.Linux.Seccomp != p {
		t.Error("a profile that is there was replaced")
	}
	r, err = Generate(t.Context(), redis, Options{Open: etc, CapAdd: []string{"SYS_ADMIN"}})
	if err != nil {
		t.Fatal(err)
	}
	must(t, WithSeccomp(r.Spec))
	if !allows(r.Spec.Linux.Seccomp, "mount") {
		t.Error("the profile does not follow --cap-add")
	}
	if err := WithSeccomp(&specs.Spec{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
	accepted(t, r.Spec)
}

func allows(p *specs.LinuxSeccomp, name string) bool {
	return slices.ContainsFunc(p.Syscalls, func(c specs.LinuxSyscall) bool {
		return c.Action == specs.ActAllow && slices.Contains(c.Names, name)
	})
}

func TestFiles(t *testing.T) {
	host, err := os.Hostname()
	must(t, err)
	const local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for _, c := range []struct {
		o    Options
		want map[string]string
	}{
		{Options{ID: "web"}, map[string]string{"hostname": "web\n", "hosts": local + "127.0.0.1\tweb\n"}},
		{Options{ID: "web", Hostname: "localhost"}, map[string]string{"hostname": "localhost\n", "hosts": local}},
		{Options{ID: "web", Domainname: "d.org", AddHosts: []string{"db:10.0.0.1", "six=[fe80::1]"}, Net: "container:x"}, map[string]string{
			"hostname": "web\n", "hosts": local + "127.0.0.1\tweb.d.org web\n10.0.0.1\tdb\nfe80::1\tsix\n",
		}},
		{Options{ID: "web", DNS: []string{"10.0.0.53", "fe80::53"}, DNSSearch: []string{"a.org", "b.org"}, DNSOptions: []string{"ndots:2", "rotate"}, UTS: "container:x"}, map[string]string{
			"hosts": local + "127.0.0.1\t" + host + "\n", "resolv.conf": "search a.org b.org\nnameserver 10.0.0.53\nnameserver fe80::53\noptions ndots:2 rotate\n",
		}},
		{Options{ID: "web", Volumes: []string{"/tmp:/etc"}}, map[string]string{}},
	} {
		r, err := Generate(t.Context(), ocispec.ImageConfig{Cmd: []string{"sh"}}, c.o)
		if err != nil {
			t.Fatal(err)
		}
		got, err := contents(r.Spec, r.Etc)
		must(t, err)
		// Of the host's file what the options do not replace stays.
		own := ""
		for line := range strings.Lines(got[resolvFile]) {
			if word, _, _ := strings.Cut(line, " "); slices.Contains([]string{"search", "nameserver", "options"}, word) {
				own += line
			}
		}
		if _, ok := got[resolvFile]; ok {
			got[resolvFile] = own
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%+v: %q", c.o, got)
		}
	}
}

// TestLongValue: an error does not show ten thousand characters.
func TestLongValue(t *testing.T) {
	_, err := Generate(t.Context(), redis, Options{Open: etc, Workdir: strings.Repeat("x", 10000)})
	if err == nil || len(err.Error()) > 400 {
		t.Errorf("%v", err)
	}
}

func TestNotUTF8(t *testing.T) {
	for _, o := range []Options{{User: "0", Args: []string{"a\xff"}}, {User: "0", Args: []string{"a"}, Env: []string{"A=\xff"}}} {
		if _, err := Generate(t.Context(), redis, o); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", o.Args, err)
		}
	}
	if _, err := Exec(t.Context(), &specs.Spec{Process: &specs.Process{}}, ExecOptions{Args: []string{"a\xff"}}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
}

// The joined rules allow exactly what the profile's own allow, and are fewer.
func TestJoinRules(t *testing.T) {
	r, err := Generate(t.Context(), redis, Options{Open: etc})
	if err != nil {
		t.Fatal(err)
	}
	own, err := seccomp.GetDefaultProfile(r.Spec)
	must(t, err)
	joined := joinRules(own.Syscalls)
	for _, name := range []string{"socket", "personality"} {
		before, after := rulesOf(own.Syscalls, name), rulesOf(joined, name)
		if len(after) == 0 || len(after) >= len(before) {
			t.Errorf("%s: %d rules were %d", name, len(after), len(before))
		}
		var values []uint64
		for v := range uint64(1 << 7) {
			values = append(values, v, v<<32, v<<32|v, v|0x20000, ^v)
		}
		for _, v := range values {
			if allowed(t, before, v) != allowed(t, after, v) {
				t.Errorf("%s(%#x): allowed was %v", name, v, allowed(t, before, v))
			}
		}
	}
	for _, s := range joinRules(own.Syscalls) {
		if len(s.Args) == 0 && !slices.ContainsFunc(own.Syscalls, func(o specs.LinuxSyscall) bool { return slices.Equal(o.Names, s.Names) }) {
			t.Errorf("a rule for %v came from nowhere", s.Names)
		}
	}
	eq := func(action specs.LinuxSeccompAction, index uint, v uint64) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{"a"}, Action: action, Args: []specs.LinuxSeccompArg{{Index: index, Value: v, Op: specs.OpEqualTo}}}
	}
	apart := []specs.LinuxSyscall{eq(specs.ActAllow, 0, 0), eq(specs.ActErrno, 0, 1), eq(specs.ActAllow, 1, 1), eq(specs.ActAllow, 0, 3)}
	if got := joinRules(apart); !reflect.DeepEqual(got, apart) {
		t.Errorf("%+v", got)
	}
}

func rulesOf(all []specs.LinuxSyscall, name string) []specs.LinuxSyscall {
	var out []specs.LinuxSyscall
	for _, r := range all {
		if slices.Equal(r.Names, []string{name}) {
			out = append(out, r)
		}
	}
	return out
}

// allowed is seccomp's own decision about the first argument.
func allowed(t *testing.T, rules []specs.LinuxSyscall, v uint64) bool {
	return slices.ContainsFunc(rules, func(r specs.LinuxSyscall) bool {
		if r.Action != specs.ActAllow || len(r.Args) != 1 || r.Args[0].Index != 0 {
			t.Fatalf("%+v", r)
		}
		switch a := r.Args[0]; a.Op {
		case specs.OpEqualTo:
			return v == a.Value
		case specs.OpLessThan:
			return v < a.Value
		case specs.OpMaskedEqual:
			return v&a.Value == a.ValueTwo
		}
		t.Fatalf("%+v", r)
		return false
	})
}

func TestSeccompFile(t *testing.T) {
	file := t.TempDir() + "/p.json"
	must(t, os.WriteFile(file, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`), 0o644))
	r, err := Generate(t.Context(), redis, Options{Open: etc, SecurityOpt: []string{"seccomp=" + file}})
	if err != nil {
		t.Fatal(err)
	}
	if r.DefaultSeccomp || r.Spec.Linux.Seccomp == nil || r.Spec.Linux.Seccomp.DefaultAction != specs.ActAllow {
		t.Errorf("%+v", r)
	}
}

func TestHostname(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{ID: "abc"}, "abc"}, {Options{ID: "abc", Hostname: "h"}, "h"}, {Options{ID: "abc", Net: "host"}, host},
		{Options{ID: "abc", UTS: "host"}, ""}, {Options{ID: strings.Repeat("x", 70)}, strings.Repeat("x", 64)},
	} {
		r, err := Generate(t.Context(), ocispec.ImageConfig{Cmd: []string{"sh"}}, c.o)
		if err != nil || r.Spec.Hostname != c.want {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

func TestDevices(t *testing.T) {
	r, err := Generate(t.Context(), redis, Options{Open: etc, Devices: []string{"/dev/null:/dev/a:r", "/dev/zero", "/dev/null:/dev/a"}})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, d := range r.Spec.Linux.Devices {
		paths = append(paths, d.Path)
	}
	if !slices.Equal(paths, []string{"/dev/zero", "/dev/a"}) {
		t.Errorf("%v", paths)
	}
	if rules := r.Spec.Linux.Resources.Devices; len(rules) != 4 || rules[0].Allow || rules[1].Access != "r" {
		t.Errorf("%+v", rules)
	}
}

func TestCPUs(t *testing.T) {
	all := strconv.Itoa(runtime.NumCPU())
	r, err := Limits{CPUs: all}.Resources()
	if err != nil || *r.CPU.Quota != int64(runtime.NumCPU())*cpuPeriod {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := (Limits{CPUs: "0"}).Resources(); err != nil || r.CPU != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func BenchmarkGenerate(b *testing.B) {
	o := Options{ID: "x", Open: etc}
	for b.Loop() {
		if _, err := Generate(b.Context(), redis, o); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWithSeccomp(b *testing.B) {
	r, err := Generate(b.Context(), redis, Options{ID: "x", Open: etc})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		r.Spec.Linux.Seccomp = nil
		if err := WithSeccomp(r.Spec); err != nil {
			b.Fatal(err)
		}
		if _, err := json.Marshal(r.Spec); err != nil {
			b.Fatal(err)
		}
	}
}

func TestExec(t *testing.T) {
	r, err := Generate(t.Context(), redis, Options{ID: "r", Open: etc, Env: []string{"A=1"}, Ulimits: []string{"nofile=10"}})
	if err != nil {
		t.Fatal(err)
	}
	before, err := json.Marshal(r.Spec)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Exec(t.Context(), r.Spec, ExecOptions{Args: []string{"redis-cli"}, Open: etc, Env: []string{"A=2", "B=3"}})
	if err != nil {
		t.Fatal(err)
	}
	if p.User.UID != 999 || p.Cwd != "/data" || p.Terminal || len(p.Rlimits) != 1 || !slices.Contains(p.Env, "A=2") || !slices.Contains(p.Env, "HOME=/home/redis") || p.Capabilities.Effective != nil {
		t.Errorf("%+v", p)
	}
	p, err = Exec(t.Context(), r.Spec, ExecOptions{Args: []string{"sh"}, Open: etc, User: "root", Workdir: "/tmp/", TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.User.UID != 0 || p.Cwd != "/tmp" || !p.Terminal || !slices.Contains(p.Env, "HOME=/root") || !slices.Contains(p.Env, "TERM=xterm") || !slices.Equal(p.Capabilities.Effective, r.Spec.Process.Capabilities.Bounding) {
		t.Errorf("%+v", p)
	}
	if p, err = Exec(t.Context(), r.Spec, ExecOptions{Args: []string{"sh"}, Open: etc, User: "0", Privileged: true}); err != nil || !slices.Contains(p.Capabilities.Effective, "CAP_SYS_ADMIN") {
		t.Errorf("privileged: %+v, %v", p, err)
	}
	for _, o := range []ExecOptions{{}, {Args: []string{""}}, {Args: []string{"a\x00"}}, {Args: []string{"a"}, User: "nobody"}, {Args: []string{"a"}, Workdir: "x"}, {Args: []string{"a"}, Env: []string{"="}}} {
		o.Open = etc
		if _, err := Exec(t.Context(), r.Spec, o); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if after, err := json.Marshal(r.Spec); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the container's own specification changed: %s, %v", after, err)
	}
}

func TestAnonymousVolumes(t *testing.T) {
	img := ocispec.ImageConfig{Cmd: []string{"sh"}, Volumes: map[string]struct{}{
		"/data": {}, "/data/": {}, "data/deep": {}, "/etc": {}, "/proc/x": {}, "/given": {}, "/run": {},
	}}
	o := Options{Open: etc, Volumes: []string{"/own", "/tmp:/given"}, Mounts: []string{"type=volume,dst=/also"}, Tmpfs: []string{"/run"}}
	r, err := Generate(t.Context(), img, o)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/own", "/also", "/data", "/etc", "/data/deep"}; !slices.Equal(slices.Sorted(slices.Values(r.Volumes)), slices.Sorted(slices.Values(want))) {
		t.Fatalf("volumes %q, want %q", r.Volumes, want)
	}
	SetVolumes(r.Spec, "/v")
	at := map[string]int{}
	for i, m := range r.Spec.Mounts {
		at[m.Destination] = i
		if n := slices.Index(r.Volumes, m.Destination); n >= 0 && m.Source != "/v/"+strconv.Itoa(n) {
			t.Errorf("source of %s, volume %d, is %s", m.Destination, n, m.Source)
		}
	}
	for _, pair := range [][2]string{{"/etc", "/etc/hosts"}, {"/data", "/data/deep"}} {
		above, there := at[pair[0]]
		below, also := at[pair[1]]
		if !there || !also || above > below {
			t.Errorf("%s is mounted at %d, %s at %d", pair[0], above, pair[1], below)
		}
	}
	if m := r.Spec.Mounts[at["/given"]]; m.Source != "/tmp" {
		t.Errorf("the source of /given is %s", m.Source)
	}

	if _, err := Generate(t.Context(), ocispec.ImageConfig{Cmd: []string{"sh"}, Volumes: map[string]struct{}{"/": {}}}, Options{Open: etc}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a volume at /: %v", err)
	}
}

// TestVolumesOfAClient: only a source that Generate has named is an anonymous volume's.
func TestVolumesOfAClient(t *testing.T) {
	s := &specs.Spec{Mounts: []specs.Mount{{Type: "bind", Source: "volumes/0"}}}
	others := []string{"volumes/../../secret", "volumes/00", "volumes/-1", "volumes/+1", "volumes/0/x", "volumes/data", "volumes/", "volumes", "volumes/99999999999999999999"}
	for _, source := range others {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: source})
	}
	s.Mounts = append(s.Mounts, specs.Mount{Type: "ext4", Source: "volumes/1"})
	SetVolumes(s, "/of")
	if s.Mounts[0].Source != "/of/0" {
		t.Errorf("the volume has the source %q", s.Mounts[0].Source)
	}
	for i, source := range append(others, "volumes/1") {
		if got := s.Mounts[i+1].Source; got != source {
			t.Errorf("%q becomes %q", source, got)
		}
	}
}
