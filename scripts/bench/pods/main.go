// SPDX-License-Identifier: Apache-2.0

// Command pods is a client of the CRI that prints how long things take, in microseconds.
//
//	pods SOCKET pull IMAGE          pulls an image, and prints nothing
//	pods SOCKET start IMAGE N       N pods of one container, one after the other: the time of RunPodSandbox, CreateContainer and StartContainer
//	pods SOCKET at-once IMAGE N     N pods of one container at once: the time until all containers run; they stay
//	pods SOCKET lists N             the name and the time of each of N lists and stats of all pods and of all containers
//	pods SOCKET execs N WORKERS     N ExecSyncs of true in one of the containers by so many at once: the time of each, on average
//	pods SOCKET remove              removes all pods: the time that all took
//
// What start makes it removes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pods:", err)
		os.Exit(1)
	}
}

// client is a client of one server.
type client struct {
	runtimeapi.RuntimeServiceClient
	images runtimeapi.ImageServiceClient
	ctx    context.Context
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("want a socket, a load and its operands")
	}
	conn, err := grpc.NewClient("unix://"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c := client{runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn), ctx}
	what, rest := args[1], args[2:]
	image := ""
	if (what == "pull" || what == "start" || what == "at-once") && len(rest) > 0 {
		image, rest = rest[0], rest[1:]
	}
	numbers := make([]int, len(rest))
	for i, arg := range rest {
		if numbers[i], err = strconv.Atoi(arg); err != nil {
			return err
		}
	}
	switch {
	case what == "pull" && len(numbers) == 0:
		_, err := c.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
		return err
	case what == "start" && len(numbers) == 1:
		return c.starts(image, numbers[0])
	case what == "at-once" && len(numbers) == 1:
		return c.atOnce(image, numbers[0])
	case what == "lists" && len(numbers) == 1:
		return c.lists(numbers[0])
	case what == "execs" && len(numbers) == 2:
		return c.execs(numbers[0], numbers[1])
	case what == "remove" && len(numbers) == 0:
		return c.remove()
	}
	return fmt.Errorf("there is no load %q with such operands", args[1:])
}

// pod makes a pod of one container, and gives its id.
func (c client) pod(ctx context.Context, image, name string) (string, error) {
	// The kubelet gives each pod a cgroup of its own, too.
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Uid: name, Namespace: "bench"},
		Linux:    &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/" + os.Getenv("BENCH_ID") + "/" + name},
	}
	r, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "", fmt.Errorf("run pod %s: %w", name, err)
	}
	made, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: r.PodSandboxId, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: image}, Command: []string{"sleep", "1000"},
		Linux: &runtimeapi.LinuxContainerConfig{},
	}})
	if err != nil {
		return "", fmt.Errorf("create the container of pod %s: %w", name, err)
	}
	if _, err := c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return "", fmt.Errorf("start the container of pod %s: %w", name, err)
	}
	return r.PodSandboxId, nil
}

// end stops and removes a pod, as the kubelet does.
func (c client) end(ctx context.Context, id string) error {
	if _, err := c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	_, err := c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

func took(begin time.Time, name ...any) {
	fmt.Println(append(name, time.Since(begin).Microseconds())...)
}

func (c client) starts(image string, n int) error {
	for i := range n {
		begin := time.Now()
		id, err := c.pod(c.ctx, image, fmt.Sprintf("s%d-%d", begin.UnixNano(), i))
		if err != nil {
			return err
		}
		took(begin)
		if err := c.end(c.ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (c client) atOnce(image string, n int) error {
	g, ctx := errgroup.WithContext(c.ctx)
	begin := time.Now()
	for i := range n {
		g.Go(func() error {
			_, err := c.pod(ctx, image, fmt.Sprintf("p%d-%d", begin.UnixNano(), i))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	took(begin)
	return nil
}

func (c client) lists(n int) error {
	lists := []struct {
		name string
		call func() error
	}{
		{"ListPodSandbox", func() error { return second(c.ListPodSandbox(c.ctx, &runtimeapi.ListPodSandboxRequest{})) }},
		{"ListContainers", func() error { return second(c.ListContainers(c.ctx, &runtimeapi.ListContainersRequest{})) }},
		{"ListContainerStats", func() error { return second(c.ListContainerStats(c.ctx, &runtimeapi.ListContainerStatsRequest{})) }},
		{"ListPodSandboxStats", func() error { return second(c.ListPodSandboxStats(c.ctx, &runtimeapi.ListPodSandboxStatsRequest{})) }},
	}
	for range n {
		for _, list := range lists {
			begin := time.Now()
			if err := list.call(); err != nil {
				return fmt.Errorf("%s: %w", list.name, err)
			}
			took(begin, list.name)
		}
	}
	return nil
}

func second[T any](_ T, err error) error { return err }

func (c client) execs(n, workers int) error {
	r, err := c.ListContainers(c.ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return err
	}
	if len(r.Containers) == 0 {
		return errors.New("there is no container")
	}
	id := r.Containers[0].Id
	g, ctx := errgroup.WithContext(c.ctx)
	g.SetLimit(workers)
	begin := time.Now()
	for range n {
		g.Go(func() error {
			r, err := c.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 60})
			if err == nil && r.ExitCode != 0 {
				err = fmt.Errorf("true has exited with %d", r.ExitCode)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fmt.Println(time.Since(begin).Microseconds() / int64(n))
	return nil
}

func (c client) remove() error {
	r, err := c.ListPodSandbox(c.ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(c.ctx)
	g.SetLimit(16)
	begin := time.Now()
	for _, pod := range r.Items {
		g.Go(func() error { return c.end(ctx, pod.Id) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	took(begin)
	return nil
}
