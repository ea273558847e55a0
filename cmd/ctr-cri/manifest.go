// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/manifest"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// manifestOptions are the options about manifests.
type manifestOptions struct {
	files, configMaps []string
	replace, ready    bool
}

func (m *manifestOptions) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&m.files, "filename", "f", nil, "read the Kubernetes manifest in `FILE`; - is stdin")
	cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
}

func (m *manifestOptions) addRun(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&m.configMaps, "configmap", nil, "with -f, take ConfigMaps and Secrets from `FILE` too")
	f.BoolVar(&m.replace, "replace", false, "with -f, end a pod of the same name that was made from another manifest")
	f.BoolVar(&m.ready, "wait-ready", false, "with -f, wait until all containers are ready, as their probes say")
	cmd.MarkFlagFilename("configmap", "yaml", "yml", "json")
}

// read reads the manifests.
func (m *manifestOptions) read() ([]*manifest.Pod, error) {
	var all [][]byte
	for _, path := range append(append([]string{}, m.files...), m.configMaps...) {
		data, err := readFile(path)
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	pods, err := manifest.Read(all...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(m.files, ", "), err)
	}
	return pods, nil
}

// homes is where the pods of manifests live.
func homes(d *state.Dir) string { return d.Path("manifests") }

func (o *options) runManifest(cmd *cobra.Command, m *manifestOptions, handler string) error {
	pods, err := m.read()
	if err != nil {
		return err
	}
	return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
		d, err := o.g.Open()
		if err != nil {
			return err
		}
		for _, p := range pods {
			if m.replace {
				if err := replace(ctx, r, d, p); err != nil {
					return err
				}
			}
			h, held, err := manifest.Start(ctx, r, homes(d), handler, p)
			if errdefs.IsAlreadyExists(err) {
				return cli.Hint(err, "ctr-cri run --replace -f ends that one first")
			}
			if err != nil {
				return err
			}
			if held != nil {
				if err = o.leave(ctx, d, h, held, m.ready); err != nil {
					err = cli.Hint(err, "ctr-cri logs may say more; ctr-cri down -f ends the pod")
				}
			}
			id, found := r.sandboxOf(ctx, h)
			if e := errors.Join(err, printed(id, found)); e != nil {
				return fmt.Errorf("pod %s: %w", p.Key(), e)
			}
		}
		return nil
	})
}

// replace ends the pods of a name that were made from another manifest.
func replace(ctx context.Context, r *runtimeClient, d *state.Dir, p *manifest.Pod) error {
	all, err := manifest.Find(homes(d), p.Key())
	for _, h := range all {
		old, e := h.Load()
		if e == nil && !manifest.Same(old, p) {
			e = manifest.End(ctx, r, h)
		}
		err = errors.Join(err, e)
	}
	return err
}

// sandboxOf is the id of the sandbox that a home's pod has.
func (r *runtimeClient) sandboxOf(ctx context.Context, h manifest.Home) (string, error) {
	all, err := (&podFilter{labels: []string{manifest.LabelPodUID + "=" + h.UID()}}).list(ctx, r)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "", fmt.Errorf("it has been removed meanwhile: %w", errdefs.ErrNotFound)
	}
	return all[0].Id, nil
}

// leave starts the process that keeps the pod, gives it the lock, and returns when the pod has been started, or is ready.
func (o *options) leave(ctx context.Context, d *state.Dir, h manifest.Home, held *lock.Held, ready bool) error {
	defer held.File().Close() // not Release, which would let go for the keeper, too
	self, err := os.Executable()
	if err != nil {
		return err
	}
	said, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	args := []string{"--root", d.Path(), "--state", d.Run(), "--endpoint", o.endpoint, "keep", h.UID()}
	if o.image != "" {
		args = append([]string{"--image-endpoint", o.image}, args...)
	}
	if o.snapshotter != "" {
		args = append([]string{"--snapshotter", o.snapshotter}, args...)
	}
	// What a crash of the program prints is found beside what it says.
	crashes, err := os.OpenFile(filepath.Join(string(h), keeperLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	cmd := exec.Command(self, args...)
	cmd.Dir, cmd.ExtraFiles, cmd.SysProcAttr = string(h), []*os.File{held.File(), w}, &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = crashes
	err = errors.Join(task.StartOut(d, cmd), crashes.Close())
	w.Close()
	if err != nil {
		return fmt.Errorf("start what keeps the pod: %w", err)
	}
	go cmd.Wait()
	stop := context.AfterFunc(ctx, func() { said.Close() })
	defer stop()
	want := manifest.Started
	if ready {
		want = manifest.Ready
	}
	for lines := bufio.NewScanner(said); lines.Scan(); {
		event, problem, failed := strings.Cut(lines.Text(), " ")
		if failed {
			return errors.New(problem)
		}
		if event == want {
			return nil
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("what keeps it has ended; %s may say why: %w", filepath.Join(string(h), keeperLog), errdefs.ErrAborted)
}

// keeperLog is where a keeper says what it does, in a pod's home.
const keeperLog = "keeper.log"

// The files that a keeper inherits.
const (
	keeperLock = 3
	keeperSays = 4
)

// keepVerb is the process that stays beside a pod.
func keepVerb(o *options) *cobra.Command {
	cmd := cli.New("keep UID", "keep a pod of a manifest; run -f starts it", cli.About{
		Long:     "Carries out the probes of a pod and starts its containers again as its manifest says. run -f starts it, with the lock of the pod.",
		Examples: []cli.Example{{Note: "it is started by", Text: "ctr-cri run -f pod.yaml"}},
		Args:     cli.Count(1, 1),
	}, func(cmd *cobra.Command, args []string) error {
		says := os.NewFile(keeperSays, "pipe")
		if _, err := says.Stat(); err != nil || !filepath.IsLocal(args[0]) {
			return cli.Usagef("run -f starts this")
		}
		defer os.NewFile(keeperLock, "lock").Close()
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			d, err := o.g.Open()
			if err != nil {
				return err
			}
			h := manifest.Home(filepath.Join(homes(d), args[0]))
			out := &turning{path: filepath.Join(string(h), keeperLog)}
			defer out.Close()
			log := slog.New(slog.NewTextHandler(out, nil))
			err = manifest.Keep(ctx, r, h, log, func(event string, err error) {
				if err != nil {
					event += " " + strings.ReplaceAll(err.Error(), "\n", "; ")
				}
				fmt.Fprintln(says, event)
			})
			if err != nil && ctx.Err() == nil {
				fmt.Fprintln(says, "failed", strings.ReplaceAll(err.Error(), "\n", "; "))
			}
			log.Info("the pod is kept no more", "because", err)
			return err
		})
	})
	cmd.Hidden = true
	return cmd
}

func downVerb(o *options) *cobra.Command {
	var m manifestOptions
	var force bool
	cmd := cli.New("down -f FILE", "end and remove the pods of a Kubernetes manifest", cli.About{
		Long: "Ends the containers of each pod of the manifest within its time of grace, and removes the pod with its volumes and logs. " +
			"What hostPath volumes name stays.",
		Stdin: "with -f -, the manifest", Stdout: "the name of each pod that was removed",
		Examples: []cli.Example{{Note: "undo run -f", Text: "ctr-cri down -f pod.yaml"}},
		Exit:     []int{cli.ExitNotFound, cli.ExitSome}, SeeAlso: []string{"ctr-cri-run", "ctr-cri-rmp"},
	}, func(cmd *cobra.Command, _ []string) error {
		if len(m.files) == 0 {
			return cli.Usagef("no manifest given: want -f FILE")
		}
		pods, err := m.read()
		if err != nil {
			return err
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			d, err := o.g.Open()
			if err != nil {
				return err
			}
			var keys []string
			for _, p := range pods {
				keys = append(keys, p.Key())
			}
			_, err = cli.Remove(cli.Operands(keys, nil), force, func(key string) error { return down(ctx, r, d, key) })
			return errors.Join(err, manifest.Sweep(ctx, r, homes(d)))
		})
	})
	m.add(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "a pod that is not here is no failure")
	o.timeout(cmd)
	return cmd
}

func down(ctx context.Context, r *runtimeClient, d *state.Dir, key string) error {
	all, err := manifest.Find(homes(d), key)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("pod %s: no manifest of that name is running: %w", key, errdefs.ErrNotFound)
	}
	for _, h := range all {
		if err := manifest.End(ctx, r, h); err != nil {
			return fmt.Errorf("pod %s: %w", key, err)
		}
	}
	_, err = fmt.Println(key)
	return err
}

// maxLog bounds a keeper's log, in bytes; as much is kept once more under another name.
const maxLog = 1 << 20

// turning is a file that is renamed to PATH.1 when it is full. It is stderr as well.
type turning struct {
	path string
	f    *os.File
	size int64
}

// Write implements [io.Writer].
func (t *turning) Write(p []byte) (int, error) {
	if t.f != nil && t.size+int64(len(p)) > maxLog {
		t.Close()
		if err := os.Rename(t.path, t.path+".1"); err != nil {
			return 0, err
		}
	}
	if t.f == nil {
		f, err := os.OpenFile(t.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return 0, err
		}
		t.f, t.size = f, 0
		_ = unix.Dup3(int(f.Fd()), 2, 0) // what a crash prints
		if st, err := f.Stat(); err == nil {
			t.size = st.Size()
		}
	}
	n, err := t.f.Write(p)
	t.size += int64(n)
	return n, err
}

// Close closes the file, which the next Write opens again.
func (t *turning) Close() error {
	f := t.f
	t.f = nil
	if f == nil {
		return nil
	}
	return f.Close()
}
