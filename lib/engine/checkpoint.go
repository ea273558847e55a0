// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/engine/criu"
	"ctrd.dev/ctrd/lib/mount"
)

const (
	// CriuEnv names the variable of the environment that has the path of criu.
	CriuEnv = "CTRD_CRIU"
	// madeFile is what checkpoint adds to criu's images: by whom and where they were made.
	madeFile = "checkpoint.json"
	// maxMade bounds that file, and what is looked at of an image of criu's.
	maxMade = 64 << 10
)

// provenance is what madeFile says.
type provenance struct {
	Criu     int    `json:"criu"` // its version as criu tells it: 40101 is 4.1.1
	Arch     string `json:"arch"` // as Go has it
	ShellJob bool   `json:"shell_job,omitempty"`
}

// needCriu puts the criu that is to be used first on PATH, where libcontainer and the OCI engines look for it, and gives
// its version.
func needCriu() (version int, err error) {
	if path := os.Getenv(CriuEnv); path != "" {
		if filepath.Base(path) != "criu" || !filepath.IsAbs(path) {
			return 0, fmt.Errorf("%s is %q, which is not the absolute path of a program named criu: %w", CriuEnv, path, errdefs.ErrInvalidArgument)
		}
		os.Setenv("PATH", filepath.Dir(path)+":"+os.Getenv("PATH"))
	}
	// A user's PATH may lack the directories of root's programs.
	os.Setenv("PATH", os.Getenv("PATH")+":"+defaultPath)
	if _, err := exec.LookPath("criu"); err != nil {
		return 0, fmt.Errorf("criu is not installed: %w; install the package criu (version 4 or later), or have %s name it", errors.Unwrap(err), CriuEnv)
	}
	if version, err = criu.Version(); err != nil {
		return 0, fmt.Errorf("criu does not run: %w; is it too old for this kernel? criu check tells more, and %s can name a newer one", err, CriuEnv)
	}
	return version, nil
}

// explainCriu adds to an error what criu has written into its log: the first line that is an error. A criu that does not know
// the kernel is told as such.
func explainCriu(err error, c *ask.Checkpoint, log string) error {
	if err == nil {
		return nil
	}
	dir := c.Work
	if dir == "" {
		dir = c.Dir
	}
	data, rerr := os.ReadFile(filepath.Join(dir, log))
	if rerr != nil {
		return err
	}
	text := ""
	for line := range strings.Lines(string(data)) {
		// "(00.110771)      1: Error (criu/mount-v2.c:464): mnt-v2: Unable to mount"
		_, said, found := strings.Cut(line, "Error (")
		if !found {
			continue
		}
		// That of a limit which only root with all capabilities may raise is there also when all goes well.
		if _, text, _ = strings.Cut(said, "): "); !strings.Contains(text, "RLIMIT_NOFILE") {
			break
		}
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return err
	}
	if bytes.Contains(data, []byte("vdso")) && strings.Contains(strings.ToLower(text), "vdso") {
		text += "; this criu is too old for the kernel, " + CriuEnv + " can name a newer one"
	}
	return fmt.Errorf("criu: %.400s: %w", text, err)
}

// recordMade says in the directory of a checkpoint who has made it.
func recordMade(c *ask.Checkpoint, version int) error {
	data, err := json.Marshal(provenance{Criu: version, Arch: runtime.GOARCH, ShellJob: c.ShellJob})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Dir, madeFile), append(data, '\n'), 0o600)
}

// checkMade refuses a checkpoint that cannot be restored here: of another architecture, or of a newer criu. One of another
// tool does not say who has made it, and is known by its images.
func checkMade(c *ask.Checkpoint, version int) error {
	data, err := readSome(filepath.Join(c.Dir, madeFile))
	if errors.Is(err, os.ErrNotExist) {
		return checkMachine(c.Dir)
	}
	var p provenance
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return fmt.Errorf("checkpoint: %s: %w", madeFile, err)
	}
	if p.Arch != runtime.GOARCH {
		return fmt.Errorf("checkpoint: it was made on %.20q and this is %s: %w", p.Arch, runtime.GOARCH, errdefs.ErrFailedPrecondition)
	}
	if p.Criu > version {
		return fmt.Errorf("checkpoint: it was made by criu %s, and the one here is %s; %s can name a newer one: %w",
			versionText(p.Criu), versionText(version), CriuEnv, errdefs.ErrFailedPrecondition)
	}
	c.ShellJob = c.ShellJob || p.ShellJob
	return checkMachine(c.Dir)
}

func versionText(v int) string {
	return strconv.Itoa(v/10000) + "." + strconv.Itoa(v/100%100) + "." + strconv.Itoa(v%100)
}

// architectures are the numbers by which criu's images (core.proto, mtype) name architectures.
var architectures = map[uint64]string{1: "amd64", 2: "arm", 3: "arm64", 4: "ppc64le", 5: "s390x", 6: "mips64le", 7: "loong64", 8: "riscv64"}

// criu's magic numbers of an image of a process's core (magic.h).
const (
	magicImage = 0x54564319
	magicCore  = 0x55053847
)

// checkMachine looks at the images of the processes' registers, of which a checkpoint has at least one.
func checkMachine(dir string) error {
	entries, err := os.ReadDir(dir) // whose path may have what is a pattern to others
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	var cores []string
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, "core-") && strings.HasSuffix(name, ".img") {
			cores = append(cores, filepath.Join(dir, name))
		}
	}
	if len(cores) == 0 {
		return fmt.Errorf("checkpoint: %s has no process: %w", dir, errdefs.ErrInvalidArgument)
	}
	for _, core := range cores {
		data, err := readSome(core)
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		m, ok := machineOf(data)
		if !ok {
			return fmt.Errorf("checkpoint: %s is no image of criu's: %w", filepath.Base(core), errdefs.ErrInvalidArgument)
		}
		if arch := architectures[m]; arch != runtime.GOARCH {
			return fmt.Errorf("checkpoint: it was made on architecture %q (%d) and this is %s: %w", arch, m, runtime.GOARCH, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// machineOf gives the architecture of a core image: two magic numbers, a size, and a message whose field 1 is mtype.
func machineOf(data []byte) (machine uint64, ok bool) {
	if len(data) < 14 || binary.LittleEndian.Uint32(data) != magicImage || binary.LittleEndian.Uint32(data[4:]) != magicCore {
		return 0, false
	}
	num, typ, n := protowire.ConsumeTag(data[12:])
	if n < 0 || num != 1 || typ != protowire.VarintType {
		return 0, false
	}
	machine, size := protowire.ConsumeVarint(data[12+n:])
	return machine, size > 0
}

// readSome reads the beginning of a file.
func readSome(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxMade))
}

// freeze makes a checkpoint, or a container from one.
func (j *job) freeze(ctx context.Context, e engine, st stdio) (m made, err error) {
	c := j.Checkpoint
	if c == nil || !filepath.IsAbs(c.Dir) {
		return m, fmt.Errorf("checkpoint: no directory: %w", errdefs.ErrInvalidArgument)
	}
	version, err := needCriu()
	if err != nil {
		return m, err
	}
	if c.Work == "" {
		// It has to be there beside the images, and is nobody's business when all goes well.
		if err := os.MkdirAll(stateDir, 0o711); err != nil {
			return m, err
		}
		if c.Work, err = os.MkdirTemp(stateDir, "criu-"); err != nil {
			return m, err
		}
		defer os.RemoveAll(c.Work)
		if c.Work, err = filepath.Abs(c.Work); err != nil {
			return m, err
		}
	}
	if j.verb == ask.Dump {
		// First, since a container that ends with a dump has ended when criu is done.
		if !c.PreDump {
			err = recordMade(c, version)
		}
		if err == nil {
			err = explainCriu(e.checkpoint(ctx, c), c, dumpLog)
		}
		crash.Point("engine.checkpoint.dumped")
		return m, err
	}
	if err := checkMade(c, version); err != nil {
		return m, err
	}
	if err := mountRootfs(j.Mounts, j.spec); err != nil {
		return m, err
	}
	// The engine mounts the root once more, for criu.
	here, err := os.Getwd()
	if err != nil {
		return m, err
	}
	err = mount.Unshared(here, nil, func() (err error) {
		m, err = e.restore(ctx, j.spec, c, st)
		return err
	})
	crash.Point("engine.restore.restored")
	return m, explainCriu(err, c, restoreLog)
}

// runcOptions gives those of an OCI engine.
func runcOptions(c *ask.Checkpoint, restore bool) runc.CheckpointOpts {
	return runc.CheckpointOpts{
		ImagePath: c.Dir, WorkDir: c.Work, ParentPath: c.Parent, AllowOpenTCP: c.TCP || restore, AllowExternalUnixSockets: c.Unix || restore,
		AllowTerminal: c.ShellJob, FileLocks: c.FileLocks || restore, Cgroups: runc.CgroupMode(c.Cgroups), EmptyNamespaces: c.Empty,
	}
}

// criuTime bounds a call of an OCI engine that writes or reads a container's whole memory.
const criuTime = 4 * time.Minute

func (o *oci) checkpoint(ctx context.Context, c *ask.Checkpoint) error {
	opts := runcOptions(c, false)
	var actions []runc.CheckpointAction
	if !c.Exit {
		actions = append(actions, runc.LeaveRunning)
	}
	if c.PreDump {
		actions = append(actions, runc.PreDump)
	}
	o.timeout = max(o.timeout, criuTime)
	return o.call(ctx, "checkpoint", func(ctx context.Context, r *runc.Runc) error {
		return r.Checkpoint(ctx, o.id, &opts, actions...)
	})
}

func (o *oci) restore(ctx context.Context, spec *specs.Spec, c *ask.Checkpoint, st stdio) (made, error) {
	pidFile := filepath.Join(o.bundle, initPid)
	unix.Unlink(pidFile)
	o.systemd = o.systemd || cgroup.UsesSystemd(spec.Linux.CgroupsPath)
	o.timeout = max(o.timeout, criuTime)
	err := o.withStreams(ctx, st, func(ctx context.Context, io runc.IO, socket runc.ConsoleSocket) error {
		return o.call(ctx, "restore", func(ctx context.Context, r *runc.Runc) error {
			_, err := r.Restore(ctx, o.id, o.bundle, &runc.RestoreOpts{
				CheckpointOpts: runcOptions(c, true), IO: io, Detach: true, PidFile: pidFile, NoPivot: o.noPivot, ConsoleSocket: socket,
			})
			return err
		})
	})
	var pid int
	if err == nil {
		pid, err = readPid(pidFile)
	}
	if err != nil {
		if rerr := o.remove(context.WithoutCancel(ctx)); rerr != nil {
			logrus.Warn(rerr)
		}
		return made{}, err
	}
	return made{pid: pid, delete: true}, nil
}
