// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
)

// containerOperands is what the verbs say of names on stdin.
const containerOperands = "with the operand -, ids of containers, one a line"

// each makes a verb that does one thing to each container and prints its id.
func (o *options) each(use, short string, about cli.About, deed func(ctx context.Context, r *runtimeClient, id string) error) *cobra.Command {
	about.Stdin, about.Stdout = containerOperands, "the id of each container for which it is done"
	about.Args, about.Complete = cli.Count(1, -1), o.completeContainers
	about.Exit = append(about.Exit, cli.ExitNotFound, cli.ExitSome)
	return cli.New(use, short, about, func(cmd *cobra.Command, args []string) error {
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			return cli.Each(cli.Operands(args, os.Stdin), func(id string) error { return printed(id, deed(ctx, r, id)) })
		})
	})
}

// printed prints the id where nothing went wrong.
func printed(id string, err error) error {
	if err == nil {
		_, err = fmt.Println(id)
	}
	return err
}

func createVerb(o *options) *cobra.Command {
	var p pullOptions
	var pull, noPull bool
	cmd := cli.New("create [OPTION]... POD CONTAINER-CONFIG [POD-CONFIG]", "make a container in a pod", cli.About{
		Long: "Makes the container that the file describes, a ContainerConfig of the CRI as JSON or YAML, in the pod. The pod's own " +
			"configuration is the one that runp was given. start runs the container. An image that is not here is pulled with --with-pull alone.",
		Stdout:   "the container's id",
		Examples: []cli.Example{{Note: "make a container", Text: "ctr-cri create 3f1c2a9d04b7e container.json pod.json"}},
		Args:     cli.Count(2, 3), Complete: cli.InTurn(o.completePods, configFiles, configFiles), Exit: []int{cli.ExitNotFound, cli.ExitRegistry},
		SeeAlso: []string{"ctr-cri-start", "ctr-cri-run"},
	}, func(cmd *cobra.Command, args []string) error {
		config, err := readContainer(args[1])
		if err != nil {
			return err
		}
		var pod *runtime.PodSandboxConfig
		if len(args) == 3 {
			if pod, err = readPod(args[2]); err != nil {
				return err
			}
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			id, err := r.create(ctx, args[0], config, pod, pull, &p)
			return printed(id, err)
		})
	})
	cmd.Flags().BoolVar(&pull, "with-pull", false, "pull the image first, and those of image volumes")
	cmd.Flags().BoolVar(&noPull, "no-pull", true, "pull nothing")
	cmd.MarkFlagsMutuallyExclusive("with-pull", "no-pull")
	p.add(cmd)
	o.timeout(cmd)
	return cmd
}

// create makes a container, for which images are pulled if pull is set. A pod configuration that is nil is asked of nobody: the runtime
// knows the one that the pod was run with.
func (r *runtimeClient) create(ctx context.Context, pod string, config *runtime.ContainerConfig, podConfig *runtime.PodSandboxConfig, pull bool, p *pullOptions) (string, error) {
	if pull {
		images := []*runtime.ImageSpec{config.Image}
		for _, m := range config.Mounts {
			if m.GetImage().GetImage() != "" {
				images = append(images, m.Image)
			}
		}
		for _, image := range images {
			if _, err := r.pull(ctx, image, podConfig, p); err != nil {
				return "", err
			}
		}
	}
	if config.Image.UserSpecifiedImage == "" {
		config.Image.UserSpecifiedImage = config.Image.Image
	}
	answer, err := r.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: podConfig})
	if err != nil {
		return "", about("create container", config.GetMetadata().GetName(), err)
	}
	return answer.ContainerId, nil
}

func startVerb(o *options) *cobra.Command {
	return o.each("start [OPTION]... CONTAINER...", "start containers that were created", cli.About{
		Long:     "Runs the program of each container.",
		Examples: []cli.Example{{Note: "make a container and start it", Text: "ctr-cri create 3f1c2a9d04b7e container.json pod.json | ctr-cri start -"}},
		SeeAlso:  []string{"ctr-cri-create", "ctr-cri-stop"},
	}, start)
}

func start(ctx context.Context, r *runtimeClient, id string) error {
	if _, err := r.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id}); err != nil {
		return about("start container", id, err)
	}
	return nil
}

func stopVerb(o *options) *cobra.Command {
	var all bool
	var grace int64
	cmd := cli.New("stop [OPTION]... [CONTAINER]...", "stop containers", cli.About{
		Long:  "Ends the program of each container: with its stop signal, and with SIGKILL when the time is over. One that has ended is no failure.",
		Stdin: containerOperands, Stdout: "the id of each container that was stopped",
		Examples: []cli.Example{{Note: "stop one within ten seconds", Text: "ctr-cri stop -t 10 8c0de7a1f3b52"}},
		Args:     cli.Count(0, -1), Complete: o.completeContainers, Exit: []int{cli.ExitNotFound, cli.ExitSome},
		SeeAlso: []string{"ctr-cri-rm", "ctr-cri-stopp"},
	}, func(cmd *cobra.Command, args []string) error {
		if err := someOrAll(all, args, "CONTAINER"); err != nil {
			return err
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			if all {
				running, err := (&containerFilter{}).list(ctx, r)
				if err != nil {
					return err
				}
				args = idsOf(running)
			}
			return cli.Each(cli.Operands(args, os.Stdin), func(id string) error { return printed(id, r.stop(ctx, id, grace)) })
		})
	})
	cmd.Flags().Int64VarP(&grace, "timeout", "t", 0, "wait `SECONDS` before the kill")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "stop all containers that run")
	cli.CompleteOption(cmd, "timeout", cobra.NoFileCompletions)
	return cmd
}

func (r *runtimeClient) stop(ctx context.Context, id string, grace int64) error {
	if _, err := r.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: id, Timeout: grace}); err != nil {
		return about("stop container", id, err)
	}
	return nil
}

func rmVerb(o *options) *cobra.Command {
	var force, all, keepLogs bool
	cmd := cli.New("rm [OPTION]... [CONTAINER]...", "remove containers of pods", cli.About{
		Long:  "Removes each container with its log files. One that runs is refused without -f, which kills it first.",
		Stdin: containerOperands, Stdout: "the id of each container that was removed",
		Examples: []cli.Example{{Note: "remove all that have ended", Text: "ctr-cri ps -q --state exited | ctr-cri rm -"}},
		Args:     cli.Count(0, -1), Complete: o.completeContainers, Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome},
		SeeAlso: []string{"ctr-cri-stop"},
	}, func(cmd *cobra.Command, args []string) error {
		if err := someOrAll(all, args, "CONTAINER"); err != nil {
			return err
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			if all {
				every, err := (&containerFilter{all: true}).list(ctx, r)
				if err != nil {
					return err
				}
				args = idsOf(every)
			}
			return cli.Each(cli.Operands(args, os.Stdin), func(id string) error { return printed(id, r.remove(ctx, id, force, keepLogs)) })
		})
	})
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "kill a container that runs, and then remove it")
	f.BoolVarP(&all, "all", "a", false, "remove all containers")
	f.BoolVarP(&keepLogs, "keep-logs", "k", false, "leave the log files where they are")
	return cmd
}

func (r *runtimeClient) remove(ctx context.Context, id string, force, keepLogs bool) error {
	status, err := r.status(ctx, id)
	if err != nil {
		return fmt.Errorf("remove %w", err)
	}
	if status.GetState() == runtime.ContainerState_CONTAINER_RUNNING {
		if !force {
			return cli.Hint(cli.WithStatus(fmt.Errorf("remove container %q: it is running", id), cli.ExitBusy), "ctr-cri rm -f %s kills it first", id)
		}
		if err := r.stop(ctx, id, 0); err != nil {
			return err
		}
	}
	if _, err := r.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id}); err != nil {
		return about("remove container", id, err)
	}
	log := status.GetLogPath()
	if keepLogs || log == "" {
		return nil
	}
	rotated, _ := fs.Glob(os.DirFS(filepath.Dir(log)), pathPattern.Replace(filepath.Base(log))+".*")
	for _, name := range append(rotated, filepath.Base(log)) {
		if err := os.Remove(filepath.Join(filepath.Dir(log), name)); err != nil && !os.IsNotExist(err) {
			cli.Warn(about("log of container", id, err))
		}
	}
	return nil
}

// pathPattern makes of a name a pattern that only it fits.
var pathPattern = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

func updateVerb(o *options) *cobra.Command {
	var res runtime.LinuxContainerResources
	cmd := o.each("update [OPTION]... CONTAINER...", "change the limits of containers that run", cli.About{
		Long:     "Changes the limits that are given; the others stay.",
		Examples: []cli.Example{{Note: "allow half a processor", Text: "ctr-cri update --cpu-period 100000 --cpu-quota 50000 8c0de7a1f3b52"}},
		Exit:     []int{cli.ExitBusy}, SeeAlso: []string{"ctr-cri-inspect"},
	}, func(ctx context.Context, r *runtimeClient, id string) error {
		if _, err := r.UpdateContainerResources(ctx, &runtime.UpdateContainerResourcesRequest{ContainerId: id, Linux: &res}); err != nil {
			return about("update container", id, err)
		}
		return nil
	})
	f := cmd.Flags()
	f.Int64Var(&res.CpuPeriod, "cpu-period", 0, "length of a period of the CPU limit, in `MICROSECONDS`")
	f.Int64Var(&res.CpuQuota, "cpu-quota", 0, "CPU time within a period, in `MICROSECONDS`")
	f.Int64Var(&res.CpuShares, "cpu-share", 0, "relative `WEIGHT` where processors are scarce")
	f.Int64Var(&res.MemoryLimitInBytes, "memory", 0, "limit of memory in `BYTES`")
	f.StringVar(&res.CpusetCpus, "cpuset-cpus", "", "processors to run on, a `LIST` such as 0-2,7")
	f.StringVar(&res.CpusetMems, "cpuset-mems", "", "memory nodes to use, a `LIST` such as 0")
	f.Int64Var(&res.OomScoreAdj, "oom-score-adj", 0, "adjust the `SCORE` by which the kernel chooses whom to kill, from -1000 to 1000")
	f.VisitAll(func(v *pflag.Flag) { cli.CompleteOption(cmd, v.Name, cobra.NoFileCompletions) })
	return cmd
}

func checkpointVerb(o *options) *cobra.Command {
	var location string
	var limit time.Duration
	written := false
	cmd := o.each("checkpoint [OPTION]... CONTAINER...", "write the state of containers that run to an archive", cli.About{
		Long: "Writes the container's memory, what it has changed of its files, its configuration and its log to a tar archive, in the form of containerd and CRI-O. " +
			"The container runs on. The runtime needs criu.\n\nWhere --export names a directory, each container has a file CONTAINER.tar there, with its whole id; " +
			"several containers need that.",
		Examples: []cli.Example{
			{Note: "take a checkpoint", Text: "ctr-cri checkpoint --export /var/tmp/c.tar 8c0de7a1f3b52"},
			{Note: "one of each container that runs", Text: "ctr-cri ps -q | ctr-cri checkpoint --export /var/tmp/checkpoints -"},
		},
	}, func(ctx context.Context, r *runtimeClient, id string) error {
		if location == "" {
			return cli.Usagef("no --export names the archive")
		}
		path, err := filepath.Abs(location)
		if err != nil {
			return err
		}
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			answer, err := r.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
			if err != nil {
				return about("checkpoint container", id, err)
			}
			path = filepath.Join(path, filepath.Base(answer.GetStatus().GetId())+".tar")
		} else if written {
			return cli.Usagef("--export names the file of one container: want a directory for several")
		}
		written = true
		seconds := int64(math.Ceil(limit.Seconds()))
		if _, err := r.CheckpointContainer(ctx, &runtime.CheckpointContainerRequest{ContainerId: id, Location: path, Timeout: seconds}); err != nil {
			if errdefs.IsNotImplemented(err) {
				return fmt.Errorf("checkpoint container %q: the runtime has no checkpoints: %w", id, err)
			}
			return about("checkpoint container", id, err)
		}
		return nil
	})
	cmd.Flags().StringVarP(&location, "export", "e", "", "write the archive to `FILE`, or to a file in that directory")
	cmd.Flags().DurationVar(&limit, "timeout", 0, "give up after `DURATION`; 0 takes the runtime's own limit")
	cli.CompleteOption(cmd, "timeout", cobra.NoFileCompletions)
	return cmd
}
