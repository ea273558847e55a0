// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/task"
)

// containerFlags are the options that run and create share.
type containerFlags struct {
	task.CreateOptions
	entrypoint, logMaxSize string
	oomScoreAdj            int
	labels                 []string
	cidfile                string
}

// add declares the options.
func (c *containerFlags) add(cmd *cobra.Command) {
	f, s := cmd.Flags(), &c.Spec
	f.StringVar(&c.ID, "name", "", "give the container this `NAME`, which is its id (default: a random one)")
	f.StringVar(&c.Platform, "platform", "", "use the image for `OS/ARCH` instead of this machine's")
	f.BoolVarP(&c.Stdin, "interactive", "i", false, "keep stdin open; run passes its own on")
	f.BoolVarP(&s.TTY, "tty", "t", false, "give the program a terminal")
	f.StringArrayVarP(&s.Env, "env", "e", nil, "set `NAME=VALUE` in the environment; NAME alone copies the variable")
	f.StringArrayVar(&s.EnvFiles, "env-file", nil, "set the variables that `FILE` lists")
	f.StringVarP(&s.Workdir, "workdir", "w", "", "start the program in `DIR`")
	f.StringVarP(&s.User, "user", "u", "", "run it as `USER[:GROUP]`, names of the image or numbers")
	f.StringSliceVar(&s.GroupAdd, "group-add", nil, "run it with these `GROUPS` besides")
	f.StringArrayVarP(&s.Volumes, "volume", "v", nil, "show a directory or file of the host: `SOURCE:TARGET[:OPTIONS]`")
	f.StringArrayVar(&s.Mounts, "mount", nil, "mount: `type=bind|tmpfs,source=…,target=…`")
	f.StringArrayVar(&s.Tmpfs, "tmpfs", nil, "mount a tmpfs at `TARGET[:OPTIONS]`")
	f.BoolVar(&s.ReadOnly, "read-only", false, "mount the root filesystem read-only")
	f.StringVar(&s.ShmSize, "shm-size", "", "give /dev/shm this `SIZE` (default: 64m)")
	f.StringArrayVar(&s.Devices, "device", nil, "allow and show a device: `SOURCE[:TARGET[:rwm]]`")
	f.StringVar(&s.Net, "net", "none", "network: `host` shares the host's, none has only a loopback")
	f.StringVar(&s.Hostname, "hostname", "", "set the host `NAME` (default: the container's id)")
	f.StringVar(&s.PID, "pid", "", "host shares the host's process ids: `host|private`")
	f.StringVar(&s.IPC, "ipc", "", "host shares the host's System V IPC and /dev/shm: `host|private|none`")
	f.StringVar(&s.UTS, "uts", "", "host shares the host's name: `host|private`")
	f.StringVar(&s.Cgroupns, "cgroupns", "", "cgroup namespace: `host|private`")
	f.StringVar(&c.entrypoint, "entrypoint", "", "run this `PROGRAM` instead of the image's entrypoint")
	f.BoolVar(&s.Privileged, "privileged", false, "all capabilities, all devices, nothing hidden or read-only")
	f.StringSliceVar(&s.CapAdd, "cap-add", nil, "add the `CAPABILITIES`; ALL is every one")
	f.StringSliceVar(&s.CapDrop, "cap-drop", nil, "drop the `CAPABILITIES`; ALL is every one")
	f.StringArrayVar(&s.SecurityOpt, "security-opt", nil, "`OPTION`: seccomp=unconfined, seccomp=FILE, no-new-privileges")
	f.StringArrayVar(&s.Sysctls, "sysctl", nil, "set the kernel parameter `NAME=VALUE` in the container's namespaces")
	f.StringVarP(&s.Memory, "memory", "m", "", "limit memory to `SIZE` (64m, 2g)")
	f.StringVar(&s.MemorySwap, "memory-swap", "", "limit memory and swap together to `SIZE`; -1 is no limit")
	f.StringVar(&s.MemoryReservation, "memory-reservation", "", "aim at this `SIZE` when memory is short")
	f.StringVar(&s.CPUs, "cpus", "", "limit to this `NUMBER` of processors (1.5)")
	f.Int64Var(&s.CPUShares, "cpu-shares", 0, "relative `WEIGHT`, 1024 is usual")
	f.StringVar(&s.CpusetCPUs, "cpuset-cpus", "", "run on these `CPUS` alone (0-2,4)")
	f.StringVar(&s.CpusetMems, "cpuset-mems", "", "use these memory `NODES` alone")
	f.Int64Var(&s.PidsLimit, "pids-limit", 0, "limit the `NUMBER` of processes and threads; 0 is no limit")
	f.StringArrayVar(&s.Ulimits, "ulimit", nil, "set a resource limit: `NAME=SOFT[:HARD]`")
	f.IntVar(&c.oomScoreAdj, "oom-score-adj", 0, "how readily the kernel kills it when memory is out: `-1000..1000`")
	f.StringArrayVarP(&c.labels, "label", "l", nil, "give the container the label `KEY[=VALUE]`")
	f.StringVar(&c.StopSignal, "stop-signal", "", "stop it with this `SIGNAL` (default: the image's, or TERM)")
	f.StringVar(&c.CgroupParent, "cgroup-parent", "", "make its cgroup below `CGROUP`")
	f.StringVar(&c.logMaxSize, "log-max-size", "", "rotate the log at this `SIZE` (default: never); a client that is attached misses what is removed before it has come to it")
	f.IntVar(&c.LogMaxFiles, "log-max-files", stdio.DefaultFiles, "keep this `NUMBER` of log files when it is rotated, the one that is written included")
	f.StringVar(&c.cidfile, "cidfile", "", "write the container's id to `FILE`, which must not exist")
	// docker's name for it
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "network" {
			name = "net"
		}
		return pflag.NormalizedName(name)
	})
	c.complete(cmd)
}

func (c *containerFlags) complete(cmd *cobra.Command) {
	none := cobra.NoFileCompletions
	for _, name := range []string{"name", "env", "workdir", "user", "group-add", "mount", "tmpfs", "shm-size", "hostname", "cap-add", "cap-drop", "sysctl",
		"memory", "memory-swap", "memory-reservation", "cpus", "cpu-shares", "cpuset-cpus", "cpuset-mems", "pids-limit", "ulimit", "oom-score-adj", "label",
		"cgroup-parent", "log-max-size", "log-max-files", "entrypoint"} {
		cli.CompleteOption(cmd, name, none)
	}
	for name, values := range map[string][]string{
		"net": {"host", "none"}, "pid": {"host", "private"}, "ipc": {"host", "private", "none"}, "uts": {"host", "private"}, "cgroupns": {"host", "private"},
		"platform": {"linux/amd64", "linux/arm64"}, "security-opt": {"seccomp=unconfined", "no-new-privileges"}, "stop-signal": signalNames,
	} {
		cli.CompleteOption(cmd, name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
}

// options finishes what was parsed: args are the image and the program with its arguments.
func (c *containerFlags) options(cmd *cobra.Command, args []string) (task.CreateOptions, error) {
	o := c.CreateOptions
	o.Image, o.Spec.Args = args[0], args[1:]
	if o.Image == "-" {
		name, err := cli.ReadName(os.Stdin)
		if err != nil {
			return o, err
		}
		o.Image = name
	}
	if cmd.Flags().Changed("entrypoint") {
		o.Spec.Entrypoint = &c.entrypoint
	}
	if cmd.Flags().Changed("oom-score-adj") {
		o.Spec.OOMScoreAdj = &c.oomScoreAdj
	}
	if c.logMaxSize != "" {
		n, err := units.RAMInBytes(c.logMaxSize)
		if err != nil || n <= 0 {
			return o, cli.Usagef("--log-max-size: %q is no size such as 10m", c.logMaxSize)
		}
		o.LogMaxSize = n
	}
	for _, l := range c.labels {
		key, value, _ := strings.Cut(l, "=")
		if key == "" {
			return o, cli.Usagef("--label: %q has no key", l)
		}
		if !utf8.ValidString(l) {
			return o, cli.Usagef("--label: %q is not UTF-8", l)
		}
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[key] = value
	}
	return o, nil
}

// newFile is a file that an option names and that must not exist: it appears whole or not at all.
type newFile struct {
	option, path string
	temp         *os.File
}

type newFileList []newFile

// newFiles sees to it that the files can be written; each is an option and its value, empty ones are left out.
func newFiles(options ...[2]string) (list newFileList, err error) {
	for _, o := range options {
		f := newFile{option: o[0], path: o[1]}
		if f.path != "" {
			if _, err := os.Lstat(f.path); err == nil {
				list.discard()
				return nil, cli.Hint(fmt.Errorf("%s: %s: %w", f.option, f.path, errdefs.ErrAlreadyExists), "it may be of another container: remove the file when that is gone")
			}
			if f.temp, err = os.CreateTemp(filepath.Dir(f.path), ".ctr-task-"); err != nil {
				list.discard()
				var path *os.PathError
				if errors.As(err, &path) {
					err = path.Err
				}
				return nil, fmt.Errorf("%s: %s: %w", f.option, f.path, err)
			}
		}
		list = append(list, f)
	}
	return list, nil
}

// write puts the files in place, with a text and a line break each.
func (l newFileList) write(texts ...string) error {
	for i, f := range l {
		if f.temp == nil {
			continue
		}
		_, err := f.temp.WriteString(texts[i] + "\n")
		if err == nil {
			err = f.temp.Chmod(0o644)
		}
		if err == nil {
			err = os.Link(f.temp.Name(), f.path)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.option, err)
		}
	}
	return nil
}

// discard removes what is not in place.
func (l newFileList) discard() {
	for _, f := range l {
		if f.temp != nil {
			f.temp.Close()
			os.Remove(f.temp.Name())
		}
	}
}
