// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ctrd.dev/ctrd/lib/cdi"
	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/tail"
	"ctrd.dev/ctrd/lib/task"
)

// containerFlags are the options that run and create share. What their text means is decided where it is used,
// by lib/spec and lib/container.
type containerFlags struct {
	task.CreateOptions
	entrypoint, logMaxSize, restart string
	userns                          string
	uidMaps, gidMaps                []string
	oomScoreAdj, stopTimeout        int
	labels, labelFiles              []string
	cidfile                         string
	limits                          limitFlags
}

// add declares the options.
func (c *containerFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	// Nobody asks for help with -h and an image: it is docker's hostname.
	f.Bool("help", false, "show this help")
	f.StringVar(&c.ID, "name", "", "give the container this `NAME`, which is its id (default: a random one)")
	f.StringVar(&c.Platform, "platform", "", "use the image for `OS/ARCH` instead of this machine's")
	cli.SnapshotterFlag(cmd, f, &c.Snapshotter)
	f.StringVar(&c.Runtime, "runtime", "", "run it with this `RUNTIME`: ctr, runc, crun, youki, a shim as containerd names it, or a path (default: ctr)")
	f.StringArrayVar(&c.Spec.Annotations, "annotation", nil, "give the runtime the annotation `KEY=VALUE`")
	f.StringArrayVarP(&c.labels, "label", "l", nil, "give the container the label `KEY[=VALUE]`")
	f.StringArrayVar(&c.labelFiles, "label-file", nil, "give it the labels that `FILE` lists")
	f.StringVar(&c.StopSignal, "stop-signal", "", "stop it with this `SIGNAL` (default: the image's, or TERM)")
	f.IntVar(&c.stopTimeout, "stop-timeout", 0, "wait this many `SECONDS` before a stop kills it; -1 waits for ever (default: 10)")
	f.StringVar(&c.restart, "restart", "no", "run it again when it has ended: `no|always|on-failure[:MAX]|unless-stopped`")
	f.StringVar(&c.CgroupParent, "cgroup-parent", "", "make its cgroup below `CGROUP`; with the systemd driver a slice, such as machine.slice")
	f.StringVar(&c.CgroupDriver, "cgroup-driver", "", "who makes its cgroup: `cgroupfs|systemd` (default: cgroupfs)")
	f.StringVar(&c.logMaxSize, "log-max-size", "", "rotate the log at this `SIZE` (default: never); a client that is attached misses what is removed before it has come to it")
	f.IntVar(&c.LogMaxFiles, "log-max-files", stdio.DefaultFiles, "keep this `NUMBER` of log files when it is rotated, the one that is written included")
	f.StringVar(&c.cidfile, "cidfile", "", "write the container's id to `FILE`, which must not exist")
	c.addProgram(f)
	c.addFiles(f)
	c.addNamespaces(f)
	c.addSecurity(f)
	c.limits.add(f, &c.Spec.Limits)
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if other, ok := dockerNames[name]; ok {
			name = other
		}
		return pflag.NormalizedName(name)
	})
	c.complete(cmd)
	cli.ExplainAbsent(cmd, absentOptions)
}

// dockerNames are further names of options.
var dockerNames = map[string]string{"network": "net", "ip6": "ip", "dns-opt": "dns-option"}

// addProgram declares what the program gets.
func (c *containerFlags) addProgram(f *pflag.FlagSet) {
	s := &c.Spec
	f.BoolVarP(&c.Stdin, "interactive", "i", false, "keep stdin open; run passes its own on")
	f.BoolVarP(&s.TTY, "tty", "t", false, "give the program a terminal")
	f.BoolVar(&s.Init, "init", false, "run a first process that passes signals on to the program and reaps what it leaves")
	f.StringVar(&c.entrypoint, "entrypoint", "", "run this `PROGRAM` instead of the image's entrypoint")
	f.StringArrayVarP(&s.Env, "env", "e", nil, "set `NAME=VALUE` in the environment; NAME alone copies the variable")
	f.StringArrayVar(&s.EnvFiles, "env-file", nil, "set the variables that `FILE` lists")
	f.StringVarP(&s.Workdir, "workdir", "w", "", "start the program in `DIR`")
	f.StringVarP(&s.User, "user", "u", "", "run it as `USER[:GROUP]`, names of the image or numbers")
	f.StringSliceVar(&s.GroupAdd, "group-add", nil, "run it with these `GROUPS` besides")
	f.StringArrayVar(&s.Ulimits, "ulimit", nil, "set a resource limit: `NAME=SOFT[:HARD]`")
	f.IntVar(&c.oomScoreAdj, "oom-score-adj", 0, "how readily the kernel kills it when memory is out: `-1000..1000`")
}

// addFiles declares what the program sees of files and devices.
func (c *containerFlags) addFiles(f *pflag.FlagSet) {
	s := &c.Spec
	f.StringArrayVarP(&s.Volumes, "volume", "v", nil, "show a directory or file of the host: `SOURCE:TARGET[:OPTIONS]`; TARGET alone is a new directory, removed with the container")
	f.StringArrayVar(&s.Mounts, "mount", nil, "mount: `type=bind|tmpfs|volume,source=…,target=…`")
	f.StringArrayVar(&s.Tmpfs, "tmpfs", nil, "mount a tmpfs at `TARGET[:OPTIONS]`")
	f.BoolVar(&s.ReadOnly, "read-only", false, "mount the root filesystem read-only")
	f.StringVar(&s.ShmSize, "shm-size", "", "give /dev/shm this `SIZE` (default: 64m)")
	f.StringArrayVar(&s.Devices, "device", nil, "allow and show a device: `SOURCE[:TARGET[:rwm]]`, or give one that a CDI spec describes: VENDOR/CLASS=NAME")
	f.StringArrayVar(&s.CDIDirs, "cdi-spec-dir", nil, "look for CDI specs in `DIR`, of several in the last first (default: "+strings.Join(cdi.Dirs(), " and ")+")")
	f.StringArrayVar(&s.DeviceRules, "device-cgroup-rule", nil, "allow devices by number: `RULE` such as \"c 1:3 mr\"")
}

// addNamespaces declares what the container shares with others, and its names.
func (c *containerFlags) addNamespaces(f *pflag.FlagSet) {
	s := &c.Spec
	c.addNetworks(f)
	f.StringVarP(&s.Hostname, "hostname", "h", "", "set the host `NAME` (default: the container's id)")
	f.StringVar(&s.Domainname, "domainname", "", "set the domain `NAME`")
	f.StringArrayVar(&s.AddHosts, "add-host", nil, "add a line to /etc/hosts: `NAME:ADDRESS`")
	f.StringArrayVar(&s.DNS, "dns", nil, "ask the name server at this `ADDRESS` (default: the host's)")
	f.StringArrayVar(&s.DNSSearch, "dns-search", nil, "look for short names in this `DOMAIN`; . is none")
	f.StringArrayVar(&s.DNSOptions, "dns-option", nil, "set an `OPTION` of resolv.conf(5)")
	f.StringVar(&s.PID, "pid", "", "share the process ids of the host or a container: `host|private|container:NAME`")
	f.StringVar(&s.IPC, "ipc", "", "share System V IPC and message queues, and with host /dev/shm: `host|private|none|container:NAME`")
	f.StringVar(&s.UTS, "uts", "", "share the host's name: `host|private|container:NAME`")
	f.StringVar(&s.Cgroupns, "cgroupns", "", "cgroup namespace: `host|private`")
	f.StringVar(&c.userns, "userns", "", "map its users to others of the host: `host|auto|FIRST-LAST[:FIRST-LAST]`, users and groups")
	f.StringArrayVar(&c.uidMaps, "uidmap", nil, "map users: `CONTAINER:HOST:SIZE`")
	f.StringArrayVar(&c.gidMaps, "gidmap", nil, "map groups: `CONTAINER:HOST:SIZE` (default: as the users)")
}

// addNetworks declares what it is attached to.
func (c *containerFlags) addNetworks(f *pflag.FlagSet) {
	f.StringArrayVar(&c.Networks, "net", nil, "attach it to the `NETWORK`, more than one in turn; bridge is the default one, host shares the host's, container:NAME another container's, none has only a loopback (default: none)")
	f.StringArrayVarP(&c.Publish, "publish", "p", nil, "publish a port on the host: `[[IP:][HOSTPORT]:]PORT[/PROTOCOL]`, ranges too; without --net on the network bridge")
	f.BoolVarP(&c.PublishAll, "publish-all", "P", false, "publish each port that the image or --expose names, on a free port of the host")
	f.StringArrayVar(&c.Expose, "expose", nil, "name a `PORT[/PROTOCOL]` for --publish-all")
	f.StringArrayVar(&c.IPs, "ip", nil, "give it this `ADDRESS` in the first network; one IPv4 and one IPv6 address")
	f.StringVar(&c.MAC, "mac-address", "", "give its first interface this `ADDRESS`")
}

// addSecurity declares what the program may do.
func (c *containerFlags) addSecurity(f *pflag.FlagSet) {
	s := &c.Spec
	f.BoolVar(&s.Privileged, "privileged", false, "all capabilities, all devices, nothing hidden or read-only")
	f.StringSliceVar(&s.CapAdd, "cap-add", nil, "add the `CAPABILITIES`; ALL is every one")
	f.StringSliceVar(&s.CapDrop, "cap-drop", nil, "drop the `CAPABILITIES`; ALL is every one")
	f.StringArrayVar(&s.SecurityOpt, "security-opt", nil, "`OPTION`: seccomp=unconfined, seccomp=FILE, no-new-privileges, systempaths=unconfined")
	f.StringArrayVar(&s.Sysctls, "sysctl", nil, "set the kernel parameter `NAME=VALUE` in the container's namespaces")
}

// limitFlags are the options that bound what a container uses.
type limitFlags struct {
	swappiness int64
}

// add declares the options; they fill in l.
func (x *limitFlags) add(f *pflag.FlagSet, l *spec.Limits) {
	f.StringVarP(&l.Memory, "memory", "m", "", "limit memory to `SIZE` (64m, 2g)")
	f.StringVar(&l.MemorySwap, "memory-swap", "", "limit memory and swap together to `SIZE`; -1 is no limit")
	f.StringVar(&l.MemoryReservation, "memory-reservation", "", "aim at this `SIZE` when memory is short")
	f.Int64Var(&x.swappiness, "memory-swappiness", -1, "how readily its memory is swapped out, cgroup v1 alone: `0..100`")
	f.BoolVar(&l.OOMKillDisable, "oom-kill-disable", false, "stop it instead of killing it when its memory is out, cgroup v1 alone")
	f.StringVar(&l.CPUs, "cpus", "", "limit to this `NUMBER` of processors (1.5)")
	f.Int64VarP(&l.CPUShares, "cpu-shares", "c", 0, "relative `WEIGHT`, 1024 is usual")
	f.Int64Var(&l.CPUQuota, "cpu-quota", 0, "limit to these `MICROSECONDS` of processor time a period; -1 is no limit")
	f.Int64Var(&l.CPUPeriod, "cpu-period", 0, "the period of --cpu-quota in `MICROSECONDS` (default: 100000)")
	f.Int64Var(&l.CPURtRuntime, "cpu-rt-runtime", 0, "let it run in real time for these `MICROSECONDS` a period")
	f.Int64Var(&l.CPURtPeriod, "cpu-rt-period", 0, "the period of --cpu-rt-runtime in `MICROSECONDS`")
	f.StringVar(&l.CpusetCPUs, "cpuset-cpus", "", "run on these `CPUS` alone (0-2,4)")
	f.StringVar(&l.CpusetMems, "cpuset-mems", "", "use these memory `NODES` alone")
	f.Int64Var(&l.PidsLimit, "pids-limit", 0, "limit the `NUMBER` of processes and threads; 0 is no limit")
	f.Int64Var(&l.BlkioWeight, "blkio-weight", 0, "relative `WEIGHT` of its block input and output: 10 to 1000")
	f.StringArrayVar(&l.BlkioWeightDevice, "blkio-weight-device", nil, "the same for one device: `DEVICE:WEIGHT`")
	f.StringArrayVar(&l.DeviceReadBps, "device-read-bps", nil, "limit reading from a device: `DEVICE:SIZE` a second")
	f.StringArrayVar(&l.DeviceWriteBps, "device-write-bps", nil, "limit writing to a device: `DEVICE:SIZE` a second")
	f.StringArrayVar(&l.DeviceReadIOps, "device-read-iops", nil, "limit reading from a device: `DEVICE:NUMBER` of operations a second")
	f.StringArrayVar(&l.DeviceWriteIOps, "device-write-iops", nil, "limit writing to a device: `DEVICE:NUMBER` of operations a second")
}

// limitNames are the options that limitFlags declares and whose values completion knows nothing of.
var limitNames = []string{
	"memory", "memory-swap", "memory-reservation", "memory-swappiness", "cpus", "cpu-shares", "cpu-quota", "cpu-period", "cpu-rt-runtime",
	"cpu-rt-period", "cpuset-cpus", "cpuset-mems", "pids-limit", "blkio-weight", "blkio-weight-device", "device-read-bps",
	"device-write-bps", "device-read-iops", "device-write-iops",
}

// finish takes over what only says something when it was given.
func (x *limitFlags) finish(f *pflag.FlagSet, l *spec.Limits) {
	if f.Changed("memory-swappiness") {
		l.MemorySwappiness = &x.swappiness
	}
}

func (c *containerFlags) complete(cmd *cobra.Command) {
	cli.CompleteOption(cmd, "net", completeNetworks)
	none := []string{"name", "env", "workdir", "user", "group-add", "mount", "tmpfs", "shm-size", "hostname", "domainname", "add-host", "dns", "dns-search",
		"dns-option", "cap-add", "cap-drop", "sysctl", "ulimit", "oom-score-adj", "publish", "expose", "ip", "mac-address", "label", "annotation", "cgroup-parent", "log-max-size", "log-max-files",
		"entrypoint", "stop-timeout", "uidmap", "gidmap", "device-cgroup-rule"}
	for _, name := range append(none, limitNames...) {
		cli.CompleteOption(cmd, name, cobra.NoFileCompletions)
	}
	for name, values := range map[string][]string{
		"pid": {"host", "private", "container:"}, "ipc": {"host", "private", "none", "container:"},
		"uts": {"host", "private", "container:"}, "cgroupns": {"host", "private"}, "userns": {"host", "auto"},
		"cgroup-driver": {"cgroupfs", "systemd"},
		"platform":      {"linux/amd64", "linux/arm64"}, "stop-signal": signalNames, "runtime": {"ctr", "runc", "crun", "youki", "io.containerd.runc.v2"},
		"security-opt": {"seccomp=unconfined", "no-new-privileges", "systempaths=unconfined"},
		"restart":      {"no", "always", "on-failure", "unless-stopped"},
	} {
		cli.CompleteOption(cmd, name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
}

// options finishes what was parsed: args are the image and the program with its arguments. Everything that
// can be checked without the image is checked here, before anything is made.
func (c *containerFlags) options(cmd *cobra.Command, args []string) (task.CreateOptions, error) {
	o := c.CreateOptions
	f := cmd.Flags()
	if keys := f.Lookup("detach-keys"); keys != nil {
		if _, err := stdio.ParseDetachKeys(keys.Value.String()); err != nil {
			return o, cli.Usagef("--detach-keys: %w", err)
		}
	}
	if f.Changed("entrypoint") {
		o.Spec.Entrypoint = &c.entrypoint
	}
	if f.Changed("oom-score-adj") {
		o.Spec.OOMScoreAdj = &c.oomScoreAdj
	}
	if f.Changed("stop-timeout") {
		if c.stopTimeout < -1 {
			return o, cli.Usagef("--stop-timeout %d: want seconds, or -1 for no bound", c.stopTimeout)
		}
		o.StopTimeout = &c.stopTimeout
	}
	c.limits.finish(f, &o.Spec.Limits)
	if c.logMaxSize != "" {
		n, err := units.RAMInBytes(c.logMaxSize)
		if err != nil || n <= 0 {
			return o, cli.Usagef("--log-max-size: %q is no size such as 10m", c.logMaxSize)
		}
		o.LogMaxSize = n
	}
	if c.LogMaxFiles < 1 {
		return o, cli.Usagef("--log-max-files %d: want a number from 1: the file that is written is one", c.LogMaxFiles)
	}
	var err error
	if o.Restart, err = container.ParseRestart(c.restart); err != nil {
		return o, err
	}
	if o.Restart.Policy != "" && o.Transient {
		return o, cli.Usagef("--restart %s makes no sense with --rm", c.restart)
	}
	if o.Runtime != "" {
		if err := container.CheckRuntime(o.Runtime); err != nil {
			return o, err
		}
	}
	if o.Spec.UserNS, o.UserNSAuto, err = c.userNS(); err != nil {
		return o, err
	}
	if o.Labels, err = c.labelSet(cmd.Context()); err != nil {
		return o, err
	}
	o.Image, o.Spec.Args = args[0], args[1:]
	if o.Image == "-" {
		o.Image, err = cli.ReadName(os.Stdin)
	}
	return o, err
}

// userNS joins --userns with the mappings; auto is how many users are to be found.
func (c *containerFlags) userNS() (u spec.UserNS, auto uint32, err error) {
	u, auto, err = spec.ParseUserNS(c.userns)
	if err != nil || len(c.uidMaps)+len(c.gidMaps) == 0 {
		return u, auto, err
	}
	if c.userns != "" {
		return u, 0, cli.Usagef("--userns %s makes no sense with --uidmap or --gidmap", c.userns)
	}
	for _, text := range c.uidMaps {
		m, err := spec.ParseIDMap("uidmap", text)
		if err != nil {
			return u, 0, err
		}
		u.UIDs = append(u.UIDs, m)
	}
	for _, text := range c.gidMaps {
		m, err := spec.ParseIDMap("gidmap", text)
		if err != nil {
			return u, 0, err
		}
		u.GIDs = append(u.GIDs, m)
	}
	if len(u.GIDs) == 0 {
		u.GIDs = u.UIDs
	}
	if len(u.UIDs) == 0 {
		u.UIDs = u.GIDs
	}
	return u, 0, nil
}

// Bounds of containerd on a label, and ours on a file of them.
const (
	maxLabel     = 4096
	maxLabelFile = 1 << 20
)

// labelSet gives the labels of the files, then those of --label.
func (c *containerFlags) labelSet(ctx context.Context) (map[string]string, error) {
	set := map[string]string{}
	for _, name := range c.labelFiles {
		text, err := tail.ReadFile(ctx, name, maxLabelFile)
		if err != nil {
			return nil, fmt.Errorf("--label-file: %w", err)
		}
		labels, err := parseLabels(text)
		if err != nil {
			return nil, cli.Usagef("--label-file %s: %w", name, err)
		}
		maps.Copy(set, labels)
	}
	for _, l := range c.labels {
		key, value, err := parseLabel(l)
		if err != nil {
			return nil, cli.Usagef("--label: %w", err)
		}
		set[key] = value
	}
	if len(set) == 0 {
		return nil, nil
	}
	return set, nil
}

// parseLabels reads docker's --label-file: KEY[=VALUE] a line; empty lines and lines that start with # are passed
// over.
func parseLabels(text []byte) (map[string]string, error) {
	set := map[string]string{}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimLeft(strings.TrimRight(line, "\r\n"), " \t"); line == "" || line[0] == '#' {
			continue
		}
		key, value, err := parseLabel(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		set[key] = value
	}
	return set, nil
}

func parseLabel(text string) (key, value string, err error) {
	key, value, _ = strings.Cut(text, "=")
	switch {
	case len(text) > maxLabel:
		return "", "", fmt.Errorf("%.32q... is longer than %d bytes", text, maxLabel)
	case key == "":
		return "", "", fmt.Errorf("%q has no key", text)
	case !utf8.ValidString(text):
		return "", "", fmt.Errorf("%q is not UTF-8", text)
	}
	return key, value, nil
}
