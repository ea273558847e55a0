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
	var pull, noPull bool
	var runtimeHandler string
	cmd := cli.New("run [OPTION]... CONTAINER-CONFIG POD-CONFIG", "run a pod with one container", cli.About{
		Long: "Runs the pod, pulls the container's image, and makes and starts the container in the pod. What was made is removed " +
			"again where a later step fails.",
		Stdout:   "the container's id",
		Examples: []cli.Example{{Note: "run a container in a pod of its own", Text: "ctr-cri run container.json pod.json"}},
		Args:     cli.Count(2, 2), Complete: configFiles, Exit: []int{cli.ExitNotFound, cli.ExitRegistry}, SeeAlso: []string{"ctr-cri-runp", "ctr-cri-create"},
	}, func(cmd *cobra.Command, args []string) error {
		config, err := readContainer(args[0])
		if err != nil {
			return err
		}
		pod, err := readPod(args[1])
		if err != nil {
			return err
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) (err error) {
			answer, err := r.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: pod, RuntimeHandler: runtimeHandler})
			if err != nil {
				return fmt.Errorf("run pod %q: %w", pod.GetMetadata().GetName(), err)
			}
			id, err := r.create(ctx, answer.PodSandboxId, config, pod, !noPull, &p)
			if err == nil {
				err = start(ctx, r, id)
			}
			if err != nil {
				r.undo(ctx, answer.PodSandboxId)
			}
			return printed(id, err)
		})
	})
	cmd.Flags().BoolVar(&pull, "with-pull", true, "pull the image first, and those of image volumes")
	cmd.Flags().BoolVar(&noPull, "no-pull", false, "pull nothing")
	cmd.MarkFlagsMutuallyExclusive("with-pull", "no-pull")
	handlerOption(cmd, &runtimeHandler)
	p.add(cmd)
	o.timeout(cmd)
	return cmd
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
