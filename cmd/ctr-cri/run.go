// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
)

func runVerb(o *options) *cobra.Command {
	var p pullOptions
	var m manifestOptions
	var pull, noPull bool
	var runtimeHandler string
	cmd := cli.New("run [OPTION]... {-f FILE | CONTAINER-CONFIG POD-CONFIG}", "run a pod: of a Kubernetes manifest, or with one container", cli.About{
		Long: "With -f, runs the pods of a Kubernetes manifest as a kubelet would: init containers first, then the sidecars, then the others. " +
			"A process stays beside each pod that carries out its probes and starts its containers again as its restartPolicy says; it ends " +
			"with the pod. ConfigMaps and Secrets that the pod refers to are in the manifest too, or in a file that --configmap names. Of a pod that runs " +
			"already nothing is changed. down -f ends and removes it.\n\n" +
			"With two operands, runs the pod of POD-CONFIG, pulls the container's image, and makes and starts the container of CONTAINER-CONFIG in the pod; " +
			"both are messages of the CRI. What was made is removed again where a later step fails.",
		Stdin: "with -f -, the manifest", Stdout: "the id of each pod, or of the container",
		Examples: []cli.Example{
			{Note: "run what a cluster would, and wait until it is ready", Text: "ctr-cri run --wait-ready -f pod.yaml"},
			{Note: "run a container in a pod of its own", Text: "ctr-cri run container.json pod.json"},
		},
		Args: cli.Count(0, 2), Complete: configFiles, Exit: []int{cli.ExitNotFound, cli.ExitExists, cli.ExitRegistry}, SeeAlso: []string{"ctr-cri-down", "ctr-cri-runp", "ctr-cri-create"},
		Files: []cli.Note{{Name: "/var/lib/ctrd/manifests/UID", Text: "a pod's manifest, volumes and logs; keeper.log tells of its restarts and probes"}},
	}, func(cmd *cobra.Command, args []string) error {
		if len(m.files) > 0 {
			if len(args) > 0 {
				return cli.Usagef("-f leaves no room for the operand %q", args[0])
			}
			return o.runManifest(cmd, &m, runtimeHandler)
		}
		if len(args) != 2 {
			return cli.Usagef("want -f FILE, or CONTAINER-CONFIG and POD-CONFIG")
		}
		config, err := readContainer(args[0])
		if err != nil {
			return err
		}
		pod, err := readPod(args[1])
		if err != nil {
			return err
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			id, err := r.runOne(ctx, config, pod, runtimeHandler, !noPull, &p)
			return printed(id, err)
		})
	})
	m.add(cmd)
	m.addRun(cmd)
	cmd.Flags().BoolVar(&pull, "with-pull", true, "pull the image first, and those of image volumes")
	cmd.Flags().BoolVar(&noPull, "no-pull", false, "pull nothing")
	cmd.MarkFlagsMutuallyExclusive("with-pull", "no-pull", "filename")
	handlerOption(cmd, &runtimeHandler)
	p.add(cmd)
	o.timeout(cmd)
	return cmd
}

// runOne runs a pod with one container.
func (r *runtimeClient) runOne(ctx context.Context, config *runtime.ContainerConfig, pod *runtime.PodSandboxConfig, handler string, pull bool, p *pullOptions) (string, error) {
	answer, err := r.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: pod, RuntimeHandler: handler})
	if err != nil {
		return "", about("run pod", pod.GetMetadata().GetName(), err)
	}
	id, err := r.create(ctx, answer.PodSandboxId, config, pod, pull, p)
	if err == nil {
		err = start(ctx, r, id)
	}
	if err != nil {
		r.undo(ctx, answer.PodSandboxId)
	}
	return id, err
}

// undo removes a pod that was run for a container which could not be, also when the command is being ended.
func (r *runtimeClient) undo(ctx context.Context, pod string) {
	ctx = context.WithoutCancel(ctx)
	_, err := r.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: pod})
	if err == nil {
		_, err = r.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: pod})
	}
	if err != nil {
		cli.Warn(fmt.Errorf("remove pod %q again: %w", pod, err))
	}
}
