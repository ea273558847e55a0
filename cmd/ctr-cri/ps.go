// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/manifest"
)

// containerFilter are the options that pick containers.
type containerFilter struct {
	id, name, namespace, pod, image, state string
	labels                                 []string
	all                                    bool
	recent
}

func (c *containerFilter) add(cmd *cobra.Command) {
	c.addShared(cmd)
	cmd.Flags().StringVarP(&c.state, "state", "s", "", "take only containers in this `STATE`: created, running, exited, unknown")
	c.completeState(cmd)
}

// addExec is add for exec, where -s is --sync.
func (c *containerFilter) addExec(cmd *cobra.Command) {
	c.addShared(cmd)
	cmd.Flags().StringVar(&c.state, "state", "", "take only containers in this `STATE`: created, running, exited, unknown")
	c.completeState(cmd)
}

func (c *containerFilter) completeState(cmd *cobra.Command) {
	cli.CompleteOption(cmd, "state", cobra.FixedCompletions([]string{"created", "running", "exited", "unknown"}, cobra.ShellCompDirectiveNoFileComp))
}

func (c *containerFilter) addShared(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.name, "name", "", "take only containers whose name fits the regular expression `PATTERN`")
	f.StringVarP(&c.pod, "pod", "p", "", "take only containers of the pod with this `ID`")
	f.StringVar(&c.image, "image", "", "take only containers of this `IMAGE`, by whichever name")
	f.StringArrayVar(&c.labels, "label", nil, "take only containers with the label `KEY=VALUE`; each --label must fit")
	for _, name := range []string{"name", "pod", "image", "label"} {
		cli.CompleteOption(cmd, name, cobra.NoFileCompletions)
	}
	c.recent.add(cmd, "containers")
}

// addList adds the options that only lists have.
func (c *containerFilter) addList(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.namespace, "namespace", "", "take only containers of pods whose Kubernetes namespace fits the regular expression `PATTERN`")
	cmd.Flags().BoolVarP(&c.all, "all", "a", false, "take containers in any state, not only those that run")
	cli.CompleteOption(cmd, "namespace", cobra.NoFileCompletions)
}

// given tells whether the user has picked containers by an option.
func (c *containerFilter) given() bool {
	return c.name != "" || c.pod != "" || c.image != "" || c.state != "" || len(c.labels) > 0 || c.latest || c.last > 0
}

// list asks for the containers that fit, the newest first.
func (c *containerFilter) list(ctx context.Context, r *runtimeClient) ([]*runtime.Container, error) {
	filter := &runtime.ContainerFilter{Id: c.id, PodSandboxId: c.pod}
	var err error
	if filter.LabelSelector, err = labels(c.labels); err != nil {
		return nil, err
	}
	if filter.State, err = c.wanted(); err != nil {
		return nil, err
	}
	fits, err := patterns(pattern{"--name", c.name}, pattern{"--namespace", c.namespace})
	if err != nil {
		return nil, err
	}
	image, err := r.imageID(ctx, c.image)
	if err != nil {
		return nil, err
	}
	answer, err := r.ListContainers(ctx, &runtime.ListContainersRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	known := map[string]string{}
	var all []*runtime.Container
	for _, v := range answer.Containers {
		if !fits(v.GetMetadata().GetName(), v.Labels[manifest.LabelPodNamespace]) {
			continue
		}
		if c.image != "" {
			its, ok := known[v.ImageRef]
			if !ok {
				if its, err = r.imageID(ctx, v.ImageRef); err != nil && !errdefs.IsNotFound(err) {
					return nil, err
				}
				known[v.ImageRef] = its
			}
			if its != image {
				continue
			}
		}
		all = append(all, v)
	}
	slices.SortStableFunc(all, func(a, b *runtime.Container) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	return all[:c.count(len(all))], nil
}

// wanted is the state that is asked for, nil for any.
func (c *containerFilter) wanted() (*runtime.ContainerStateValue, error) {
	state, ok := runtime.ContainerState_value["CONTAINER_"+strings.ToUpper(c.state)]
	switch {
	case c.state != "" && !ok:
		return nil, cli.Usagef("--state: %q is none of created, running, exited and unknown", c.state)
	case c.latest, c.last > 0, c.all && c.state == "":
		return nil, nil
	case c.state == "":
		return &runtime.ContainerStateValue{State: runtime.ContainerState_CONTAINER_RUNNING}, nil
	}
	return &runtime.ContainerStateValue{State: runtime.ContainerState(state)}, nil
}

// imageID is the id of an image by whichever name, empty for none; one that is not there is errdefs.ErrNotFound.
func (r *runtimeClient) imageID(ctx context.Context, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	answer, err := r.imageStatus(ctx, name, false)
	return answer.GetImage().GetId(), err
}

func psVerb(o *options) *cobra.Command {
	var c containerFilter
	var l listing
	var path bool
	cmd := cli.New("ps [OPTION]...", "list containers of pods", cli.About{
		Long:   "Lists the containers of pods that run, with -a in any state, the newest first.",
		Stdout: "a container a line, below the names of the columns",
		Examples: []cli.Example{
			{Note: "list what a pod holds", Text: "ctr-cri ps -a --pod 3f1c2a9d04b7e"},
			{Note: "remove what has ended", Text: "ctr-cri ps -q --state exited | ctr-cri rm -"},
		},
		SeeAlso: []string{"ctr-cri-pods", "ctr-cri-inspect"},
	}, func(cmd *cobra.Command, _ []string) error {
		return o.do(cmd, &l.output, func(ctx context.Context, r *runtimeClient) error {
			all, err := c.list(ctx, r)
			if err != nil {
				return err
			}
			return printList(&l, all, &runtime.ListContainersResponse{Containers: all}, containerDetails, func() error { return r.printContainers(ctx, all, l.whole, path) })
		})
	})
	cmd.Flags().StringVar(&c.id, "id", "", "take only the container with this `ID`")
	cmd.Flags().BoolVarP(&path, "resolve-image-path", "r", false, "print a name of the image instead of its id")
	cli.CompleteOption(cmd, "id", cobra.NoFileCompletions)
	c.add(cmd)
	c.addList(cmd)
	l.add(cmd)
	return cmd
}

// printContainers prints a table; with path it has a name of each image instead of its id.
func (r *runtimeClient) printContainers(ctx context.Context, all []*runtime.Container, whole, path bool) error {
	t := newTable("CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE")
	for _, v := range all {
		image := v.GetImage().GetImage()
		if path {
			image = r.firstTag(ctx, image)
		} else if strings.HasPrefix(image, "sha256:") {
			image = shortID(image, whole)
		}
		m := v.GetMetadata()
		t.row(shortID(v.Id, whole), image, ago(v.CreatedAt), containerState(v.State), m.GetName(), strconv.FormatUint(uint64(m.GetAttempt()), 10),
			shortID(v.PodSandboxId, whole), cmp.Or(v.Labels[manifest.LabelPodName], "unknown"), cmp.Or(v.Labels[manifest.LabelPodNamespace], "unknown"))
	}
	return t.flush()
}

// firstTag is a name of the image, or what it was called where it has none.
func (r *runtimeClient) firstTag(ctx context.Context, image string) string {
	answer, err := r.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: image}})
	if err != nil || len(answer.GetImage().GetRepoTags()) == 0 {
		return image
	}
	return answer.Image.RepoTags[0]
}

// containerState is the state as crictl shows it: Created, Running, Exited, Unknown.
func containerState(s runtime.ContainerState) string {
	name := strings.ToLower(strings.TrimPrefix(s.String(), "CONTAINER_"))
	return strings.ToUpper(name[:1]) + name[1:]
}

func containerDetails(c *runtime.Container) {
	d := details{os.Stdout}
	d.fact("ID", c.Id)
	d.fact("PodID", c.PodSandboxId)
	d.fact("Namespace", c.Labels[manifest.LabelPodNamespace])
	d.fact("Name", c.GetMetadata().GetName())
	d.fact("Attempt", c.GetMetadata().GetAttempt())
	d.fact("Image", c.GetImage().GetImage())
	d.fact("State", containerState(c.State))
	d.fact("Created", time.Unix(0, c.CreatedAt))
	d.pairs("Labels", c.Labels)
	d.pairs("Annotations", c.Annotations)
	fmt.Println()
}
