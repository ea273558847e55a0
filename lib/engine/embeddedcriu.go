// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/system"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/engine/criu"
	"ctrd.dev/ctrd/lib/netns"
)

// The embedded engine drives criu itself. The files beside criu's images are those of runc, so that each restores what the other has
// written down.
const (
	dumpLog    = "dump.log"
	restoreLog = "restore.log"
	// descriptorsFile says what stdin, stdout and stderr of the first process were.
	descriptorsFile = "descriptors.json"
	// pipePrefix begins the text of a descriptor that a restore replaces. So does filePrefix, which runc has not: its shims
	// give no process a FIFO.
	pipePrefix, filePrefix = "pipe:", "file["
	// criuRoot is where the root is mounted for criu, which wants a mount point that nothing is mounted over.
	criuRoot = "criu-root"
	// stateFile is what libcontainer knows of a container.
	stateFile = "state.json"
	// criuConfig is a file with options of criu's; an annotation names another one, or none.
	criuConfig, criuConfigKey = "/etc/criu/runc.conf", "org.criu.config"
)

// criuOptions gives what a checkpoint and a restore have in common. done closes what it has opened. At a restore the checkpoint decides
// of what it has: what was not to be in it is not.
func criuOptions(c *ask.Checkpoint, config *configs.Config, restore bool) (o *criu.Options, done func(), err error) {
	mode, ok := criu.Modes[c.Cgroups]
	if !ok {
		return nil, nil, fmt.Errorf("checkpoint: cgroups mode %q: %w", c.Cgroups, errdefs.ErrInvalidArgument)
	}
	o = &criu.Options{
		Parent: c.Parent, LeaveRunning: !c.Exit && !restore, TCP: c.TCP || restore, Unix: c.Unix || restore,
		FileLocks: c.FileLocks || restore, ShellJob: c.ShellJob, Cgroups: mode, Config: criuConfig,
		// Interfaces and addresses are not criu's but ours.
		EmptyNamespaces: unix.CLONE_NEWNET,
	}
	for _, l := range config.Labels {
		if value, found := strings.CutPrefix(l, criuConfigKey+"="); found {
			o.Config = value
		}
	}
	done = func() {
		for _, f := range []*os.File{o.Images, o.Work} {
			if f != nil {
				f.Close()
			}
		}
	}
	if o.Images, err = os.Open(c.Dir); err == nil && c.Work != "" {
		if err = os.Mkdir(c.Work, 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			o.Work, err = os.Open(c.Work)
		}
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return o, done, nil
}

func (e *embedded) checkpoint(_ context.Context, c *ask.Checkpoint) error {
	lc, err := libcontainer.Load(e.root, e.id)
	if err != nil {
		return err
	}
	state, err := lc.State()
	if err != nil {
		return err
	}
	config := &state.Config
	o, done, err := criuOptions(c, config, false)
	if err != nil {
		return err
	}
	defer done()
	o.Log, o.Root, o.Pid = dumpLog, config.Rootfs, state.InitProcessPid
	if o.Freezer = state.CgroupPaths["freezer"]; cgroups.IsCgroup2UnifiedMode() {
		o.Freezer = state.CgroupPaths[""]
	}
	// Namespaces of others are left out, as runc does.
	for _, t := range []configs.NamespaceType{configs.NEWNET, configs.NEWPID} {
		if path := config.Namespaces.PathOf(t); err == nil && path != "" {
			err = external(o, t, path)
		}
	}
	if err == nil && (c.PreDump || c.Parent != "") {
		err = checkTracking()
	}
	verb := criu.Dump
	if c.PreDump {
		verb = criu.PreDump
	} else if err == nil {
		err = dumpOutside(o, c.Dir, state)
	}
	if err != nil {
		return err
	}
	p, err := criu.Start([3]*os.File{})
	if err != nil {
		return err
	}
	return p.Do(verb, o, func(criu.Notice) error { return nil })
}

// checkTracking wants what a checkpoint needs that adds to another one.
func checkTracking() error {
	tracks, err := criu.TracksMemory()
	if err == nil && !tracks {
		err = fmt.Errorf("this kernel does not tell which memory has changed (CONFIG_MEM_SOFT_DIRTY), so that no checkpoint can add to another one: %w", errdefs.ErrNotImplemented)
	}
	return err
}

// external has criu leave a namespace out.
func external(o *criu.Options, t configs.NamespaceType, path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	o.External = append(o.External, fmt.Sprintf("%s[%d]:%s", configs.NsName(t), st.Ino, namespaceKey(t)))
	return nil
}

// namespaceKey is runc's name of a namespace that comes from outside: extRootNetNS.
func namespaceKey(t configs.NamespaceType) string {
	name := configs.NsName(t)
	return "extRoot" + strings.ToUpper(name[:1]) + name[1:] + "NS"
}

// dumpOutside names to criu what a container has from outside: mounts, devices, and its streams.
func dumpOutside(o *criu.Options, dir string, state *libcontainer.State) error {
	all, err := outside(&state.Config)
	if err != nil {
		return err
	}
	for _, m := range all {
		o.Mounts = append(o.Mounts, criu.Mount{Inside: m.Inside, Outside: m.Inside})
	}
	for _, path := range state.Config.MaskPaths {
		// Directories are masked by file systems of their own.
		if st, err := os.Stat(fmt.Sprintf("/proc/%d/root/%s", o.Pid, path)); err == nil && !st.IsDir() {
			o.Mounts = append(o.Mounts, criu.Mount{Inside: path, Outside: os.DevNull})
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	streams := slices.Clone(state.ExternalDescriptors)
	for i := range streams {
		key, err := fifoKey(o.Pid, i)
		if err != nil {
			return err
		}
		if key != "" {
			o.External = append(o.External, key)
			streams[i] = key
		}
	}
	data, err := json.Marshal(streams)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, descriptorsFile), data, 0o600)
}

// fifoKey is criu's name of a FIFO that a descriptor of a process is of, which lies outside: file[MOUNT:INODE]. Of any other
// descriptor it is empty.
func fifoKey(pid, fd int) (string, error) {
	var st unix.Stat_t
	name := fmt.Sprintf("/proc/%d/fd/%d", pid, fd)
	link, err := os.Readlink(name)
	if err == nil {
		err = unix.Stat(name, &st)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // it has closed it
	}
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO || strings.HasPrefix(link, pipePrefix) {
		return "", err
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		if id, found := strings.CutPrefix(line, "mnt_id:"); found {
			mount, err := strconv.Atoi(strings.TrimSpace(id))
			return fmt.Sprintf("%s%x:%x]", filePrefix, mount, st.Ino), err
		}
	}
	return "", fmt.Errorf("%s: the kernel does not tell its mount", name)
}

// outside lists what is bound into a container, and from where. Outside is the source here and now.
func outside(config *configs.Config) (all []criu.Mount, err error) {
	add := func(source, destination string) error {
		at, err := securejoin.SecureJoin(config.Rootfs, strings.TrimPrefix(destination, config.Rootfs))
		if err == nil {
			all = append(all, criu.Mount{Inside: strings.TrimPrefix(at, config.Rootfs), Outside: source})
		}
		return err
	}
	for _, m := range config.Mounts {
		switch {
		case m.Device == "bind":
			err = add(m.Source, m.Destination)
		case m.Device == "cgroup" && !cgroups.IsCgroup2UnifiedMode() && !config.Namespaces.Contains(configs.NEWCGROUP):
			// Without a cgroup namespace it is a bind mount of each hierarchy.
			var sources []hierarchy
			sources, err = hierarchies()
			for _, source := range sources {
				if err == nil {
					err = add(source.path, filepath.Join(m.Destination, source.name))
				}
			}
		}
		if err != nil {
			return nil, err
		}
	}
	for _, d := range config.Devices {
		if err := add(d.Path, d.Path); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// hierarchy is one of cgroup v1: the name of its mount point, and the directory of our own cgroup in it.
type hierarchy struct{ name, path string }

func hierarchies() (all []hierarchy, err error) {
	mounts, err := cgroups.GetCgroupMounts(false)
	if err != nil {
		return nil, err
	}
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		dir, err := m.GetOwnCgroup(own)
		if err == nil {
			dir, err = filepath.Rel(m.Root, dir)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, hierarchy{filepath.Base(m.Mountpoint), filepath.Join(m.Mountpoint, dir)})
	}
	return all, nil
}

func (e *embedded) restore(_ context.Context, spec *specs.Spec, c *ask.Checkpoint, st stdio) (m made, err error) {
	if e.err != nil {
		return m, e.err
	}
	e.config.NoNewKeyring, e.config.NoPivotRoot = e.noNewKeyring, e.noPivotRoot
	// criu is told of a directory in it, and works in another one.
	root, err := filepath.Abs(e.root)
	if err != nil {
		return m, err
	}
	lc, err := libcontainer.Create(root, e.id, e.config)
	if err != nil {
		os.Remove(e.root)
		return m, err
	}
	r := &restoring{lc: lc, config: e.config, dir: filepath.Join(root, e.id), st: st}
	if err = r.run(c); err != nil {
		if derr := lc.Destroy(); derr != nil {
			logrus.Warn(derr)
		}
		os.Remove(e.root)
		return m, err
	}
	return made{
		pid:    r.pid,
		delete: e.root != stateDir || hasPoststop(spec) || cgroup.UsesSystemd(spec.Linux.CgroupsPath) || spec.Linux.IntelRdt != nil,
	}, nil
}

// restoring is a container that is being made from a checkpoint.
type restoring struct {
	lc     *libcontainer.Container
	config *configs.Config
	dir    string // of what libcontainer knows
	st     stdio
	files  []*os.File // for criu
	pid    int        // of the first process
}

func (r *restoring) run(c *ask.Checkpoint) (err error) {
	o, done, err := criuOptions(c, r.config, true)
	if err != nil {
		return err
	}
	defer done()
	defer func() {
		for _, f := range r.files {
			f.Close()
		}
	}()
	o.Log, o.EvasiveDevices, o.Sibling = restoreLog, true, true
	unmount, err := r.mountRoot(o)
	if err != nil {
		return err
	}
	defer unmount()
	if err := r.namespaces(o); err != nil {
		return err
	}
	if err := makeMountpoints(r.config); err != nil {
		return err
	}
	if o.Mounts, err = outside(r.config); err != nil {
		return err
	}
	if len(r.config.MaskPaths) > 0 {
		o.Mounts = append(o.Mounts, criu.Mount{Inside: os.DevNull, Outside: os.DevNull})
	}
	var were []string
	data, err := readSome(filepath.Join(c.Dir, descriptorsFile))
	if err == nil {
		err = json.Unmarshal(data, &were)
	}
	if err != nil {
		return fmt.Errorf("checkpoint: %s: %w", descriptorsFile, err)
	}
	if err := r.inherit(o, were); err != nil {
		return err
	}
	var streams [3]*os.File
	copy(streams[:], r.st.files)
	p, err := criu.Start(streams, r.files...)
	if err != nil {
		return err
	}
	if err := r.enterCgroups(o, p.Pid()); err != nil {
		p.Close()
		return err
	}
	return p.Do(criu.Restore, o, r.notice)
}

// inherit gives criu the streams for what they were. criu wants a file of the same kind.
func (r *restoring) inherit(o *criu.Options, were []string) error {
	for i, was := range were[:min(len(were), 3)] {
		fifo := strings.HasPrefix(was, filePrefix)
		if !fifo && !strings.HasPrefix(was, pipePrefix) {
			continue
		}
		o.Inherit = append(o.Inherit, criu.Inherit{Key: was, Fd: i})
		o.AnyMode = o.AnyMode || fifo // a pipe has other permissions than a FIFO with a name
		if i >= len(r.st.files) {
			return fmt.Errorf("restore: its streams were pipes, and are to be a terminal: %w", errdefs.ErrInvalidArgument)
		}
		if st, err := r.st.files[i].Stat(); err != nil || fifo && st.Mode()&fs.ModeNamedPipe == 0 {
			return errors.Join(err, fmt.Errorf("restore: descriptor %d was a FIFO, and is to be %s: %w", i, r.st.files[i].Name(), errdefs.ErrInvalidArgument))
		}
	}
	return nil
}

// mountRoot mounts the root where criu wants it.
func (r *restoring) mountRoot(o *criu.Options) (undo func(), err error) {
	at := filepath.Join(r.dir, criuRoot)
	if err := os.Mkdir(at, 0o755); err != nil {
		return nil, err
	}
	if o.Root, err = filepath.EvalSymlinks(at); err == nil {
		err = unix.Mount(r.config.Rootfs, o.Root, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		os.Remove(at)
		return nil, fmt.Errorf("mount %s: %w", at, err)
	}
	return func() {
		unix.Unmount(o.Root, unix.MNT_DETACH)
		os.Remove(at)
	}, nil
}

// namespaces gives criu those that the container has from outside. A network namespace of its own is for a checkpoint of a
// container that had one from outside; of any other it is not used.
func (r *restoring) namespaces(o *criu.Options) error {
	for _, n := range r.config.Namespaces {
		switch {
		case n.Type == configs.NEWNET || n.Type == configs.NEWPID && n.Path != "":
			var f *os.File
			var err error
			if n.Path != "" {
				f, err = os.Open(n.Path)
			} else {
				err = netns.New(func() (err error) { f, err = os.Open(netns.Own()); return err })
			}
			if err != nil {
				return err
			}
			o.Inherit = append(o.Inherit, criu.Inherit{Key: namespaceKey(n.Type), Fd: criu.FirstFile + len(r.files)})
			r.files = append(r.files, f)
		case n.Path == "":
		case n.Type == configs.NEWCGROUP:
			return fmt.Errorf("restore into the cgroup namespace %q: criu cannot: %w", n.Path, errdefs.ErrNotImplemented)
		default:
			o.Join = append(o.Join, criu.Namespace{Type: configs.NsName(n.Type), Path: n.Path})
		}
	}
	return nil
}

// enterCgroups makes the container's cgroups, with their limits. The processes are restored into them, as criu is in them.
func (r *restoring) enterCgroups(o *criu.Options, pid int) error {
	m, err := manager.New(r.config.Cgroups)
	if err == nil {
		err = m.Apply(pid)
	}
	if err == nil {
		err = m.Set(r.config.Cgroups.Resources)
	}
	if err != nil {
		return err
	}
	paths, err := cgroups.ParseCgroupFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	for controller, path := range paths {
		o.CgroupRoots = append(o.CgroupRoots, criu.CgroupRoot{Controller: controller, Path: path})
	}
	return err
}

// notice does what has to be done while criu waits: its processes do not run yet.
func (r *restoring) notice(n criu.Notice) error {
	switch n.Name {
	case "setup-namespaces":
		// Sockets are bound to its address next.
		if r.config.Namespaces.Contains(configs.NEWNET) {
			if err := netns.In(fmt.Sprintf("/proc/%d/ns/net", n.Pid), netns.LoopbackUp); err != nil {
				return err
			}
		}
		return r.hooks(n.Pid)
	case "orphan-pts-master":
		if n.File == nil || r.st.terminal == nil {
			return errors.New("restore: a terminal, where there is to be none")
		}
		return ask.Send(r.st.terminal, struct{}{}, n.File)
	case "post-restore":
		r.pid = n.Pid
		return r.record()
	}
	return nil
}

func (r *restoring) hooks(pid int) error {
	if !r.config.HasHook(configs.Prestart, configs.CreateRuntime) {
		return nil
	}
	s, err := r.lc.OCIState()
	if err != nil {
		return err
	}
	s.Pid = pid
	if err := r.config.Hooks.Run(configs.Prestart, s); err != nil {
		return err
	}
	return r.config.Hooks.Run(configs.CreateRuntime, s)
}

// record writes down what libcontainer wants to know of a container that it has started itself.
func (r *restoring) record() error {
	s, err := r.lc.State()
	if err != nil {
		return err
	}
	stat, err := system.Stat(r.pid)
	if err != nil {
		return err
	}
	s.InitProcessPid, s.InitProcessStartTime, s.Created = r.pid, stat.StartTime, time.Now().UTC()
	if !s.Config.Namespaces.Contains(configs.NEWTIME) && configs.IsNamespaceSupported(configs.NEWTIME) {
		// criu restores into one.
		s.Config.Namespaces = append(slices.Clone(s.Config.Namespaces), configs.Namespace{Type: configs.NEWTIME})
	}
	for _, t := range configs.NamespaceTypes() {
		if configs.IsNamespaceSupported(t) {
			s.NamespacePaths[t] = (&configs.Namespace{Type: t}).GetPath(r.pid)
		}
	}
	s.ExternalDescriptors = make([]string, 3)
	for i, f := range r.st.files {
		if s.ExternalDescriptors[i], err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil {
			return err
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, stateFile)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// makeMountpoints makes what the container's mounts are mounted on, as its first start did. One may lie in another, so each
// is mounted for the time being.
func makeMountpoints(config *configs.Config) (err error) {
	var mounted []string
	defer func() {
		for _, at := range slices.Backward(mounted) {
			err = errors.Join(err, os.NewSyscallError("unmount", unix.Unmount(at, unix.MNT_DETACH)))
		}
	}()
	if config.Readonlyfs {
		// criu keeps the old root there while it changes to the new one, or wants to make a directory.
		if err := os.Mkdir(filepath.Join(config.Rootfs, "tmp"), 0o1777); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, m := range config.Mounts {
		// The mount points in a tmpfs are in the checkpoint; so is that of the hierarchies of cgroups.
		if m.Device == "cgroup" || inTmpfs(m.Destination, config.Mounts) {
			continue
		}
		at, err := makeMountpoint(config.Rootfs, m)
		if err != nil {
			return fmt.Errorf("mount point %q: %w", m.Destination, err)
		}
		if m.Device == "bind" {
			if err := unix.Mount(m.Source, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				return &os.PathError{Op: "bind", Path: m.Source, Err: err}
			}
			mounted = append(mounted, at)
		}
	}
	return nil
}

func inTmpfs(path string, mounts []*configs.Mount) bool {
	return slices.ContainsFunc(mounts, func(m *configs.Mount) bool {
		return m.Device == "tmpfs" && strings.HasPrefix(path, m.Destination+"/")
	})
}

// makeMountpoint makes a file for what is a file, and a directory for anything else. Links are followed within the root; nothing
// that changes them runs.
func makeMountpoint(root string, m *configs.Mount) (at string, err error) {
	at, err = securejoin.SecureJoin(root, strings.TrimPrefix(m.Destination, root))
	if err != nil {
		return "", err
	}
	if m.Device == "bind" {
		st, err := os.Stat(m.Source)
		if err != nil {
			return "", err
		}
		if !st.IsDir() {
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				return "", err
			}
			f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if errors.Is(err, fs.ErrExist) {
				return at, nil
			}
			if err != nil {
				return "", err
			}
			return at, f.Close()
		}
	}
	return at, os.MkdirAll(at, 0o755)
}
