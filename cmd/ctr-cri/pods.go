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

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
)

// podFilter are the options that pick pods.
type podFilter struct {
	id, name, namespace, state string
	labels                     []string
	recent
}

func (p *podFilter) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.name, "name", "", "take only pods whose name fits the regular expression `PATTERN`")
	f.StringVar(&p.namespace, "namespace", "", "take only pods whose Kubernetes namespace fits the regular expression `PATTERN`")
	f.StringVarP(&p.state, "state", "s", "", "take only pods in this `STATE`: ready, notready")
	f.StringArrayVar(&p.labels, "label", nil, "take only pods with the label `KEY=VALUE`; each --label must fit")
	cli.CompleteOption(cmd, "state", cobra.FixedCompletions([]string{"ready", "notready"}, cobra.ShellCompDirectiveNoFileComp))
	for _, name := range []string{"name", "namespace", "label"} {
		cli.CompleteOption(cmd, name, cobra.NoFileCompletions)
	}
	p.recent.add(cmd, "pods")
}

// list asks for the pods that fit, the newest first.
func (p *podFilter) list(ctx context.Context, r *runtimeClient) ([]*runtime.PodSandbox, error) {
	filter := &runtime.PodSandboxFilter{Id: p.id}
	var err error
	if filter.LabelSelector, err = labels(p.labels); err != nil {
		return nil, err
	}
	switch strings.ToLower(p.state) {
	case "":
	case "ready":
		filter.State = &runtime.PodSandboxStateValue{State: runtime.PodSandboxState_SANDBOX_READY}
	case "notready":
		filter.State = &runtime.PodSandboxStateValue{State: runtime.PodSandboxState_SANDBOX_NOTREADY}
	default:
		return nil, cli.Usagef("--state: %q is neither ready nor notready", p.state)
	}
	fits, err := patterns(pattern{"--name", p.name}, pattern{"--namespace", p.namespace})
	if err != nil {
		return nil, err
	}
	answer, err := r.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	all := slices.DeleteFunc(answer.Items, func(s *runtime.PodSandbox) bool {
		return !fits(s.GetMetadata().GetName(), s.GetMetadata().GetNamespace())
	})
	slices.SortStableFunc(all, func(a, b *runtime.PodSandbox) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	return all[:p.count(len(all))], nil
}

func podsVerb(o *options) *cobra.Command {
	var p podFilter
	var l listing
	cmd := cli.New("pods [OPTION]...", "list pods", cli.About{
		Long:   "Lists the pods, the newest first, also those that have been stopped.",
		Stdout: "a pod a line, below the names of the columns",
		Examples: []cli.Example{
			{Note: "list what runs in a namespace", Text: "ctr-cri pods --namespace '^kube-system$' --state ready"},
			{Note: "stop and remove all pods", Text: "ctr-cri pods -q | ctr-cri rmp -f -"},
		},
		SeeAlso: []string{"ctr-cri-ps", "ctr-cri-inspectp"},
	}, func(cmd *cobra.Command, _ []string) error {
		return o.do(cmd, &l.output, func(ctx context.Context, r *runtimeClient) error {
			all, err := p.list(ctx, r)
			if err != nil {
				return err
			}
			return printList(&l, all, &runtime.ListPodSandboxResponse{Items: all}, podDetails, func() error { return printPods(all, l.whole) })
		})
	})
	cmd.Flags().StringVar(&p.id, "id", "", "take only the pod with this `ID`")
	cli.CompleteOption(cmd, "id", cobra.NoFileCompletions)
	p.add(cmd)
	l.add(cmd)
	return cmd
}

func printPods(all []*runtime.PodSandbox, whole bool) error {
	t := newTable("POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME")
	for _, s := range all {
		m := s.GetMetadata()
		t.row(shortID(s.Id, whole), ago(s.CreatedAt), podState(s.State), m.GetName(), m.GetNamespace(), strconv.FormatUint(uint64(m.GetAttempt()), 10), handler(s.RuntimeHandler))
	}
	return t.flush()
}

func podState(s runtime.PodSandboxState) string {
	if s == runtime.PodSandboxState_SANDBOX_READY {
		return "Ready"
	}
	return "NotReady"
}

func handler(name string) string { return cmp.Or(name, "(default)") }

func podDetails(s *runtime.PodSandbox) {
	d := details{os.Stdout}
	d.fact("ID", s.Id)
	d.fact("Name", s.GetMetadata().GetName())
	d.fact("UID", s.GetMetadata().GetUid())
	d.fact("Namespace", s.GetMetadata().GetNamespace())
	d.fact("Attempt", s.GetMetadata().GetAttempt())
	d.fact("Status", podState(s.State))
	d.fact("Created", time.Unix(0, s.CreatedAt))
	d.pairs("Labels", s.Labels)
	d.pairs("Annotations", s.Annotations)
	d.fact("Runtime", handler(s.RuntimeHandler))
	fmt.Println()
}

func runpVerb(o *options) *cobra.Command {
	var runtimeHandler string
	cmd := cli.New("runp [OPTION]... POD-CONFIG", "run a pod that has no containers yet", cli.About{
		Long: "Makes the pod that the file describes, a PodSandboxConfig of the CRI as JSON or YAML, and runs it: its " +
			"namespaces, its cgroup and its network. Containers are added by create. The operand - reads stdin.",
		Stdin: "with the operand -, the configuration", Stdout: "the pod's id",
		Examples: []cli.Example{{Note: "run a pod and a container in it", Text: "pod=$(ctr-cri runp pod.json)\nc=$(ctr-cri create $pod container.json pod.json)\nctr-cri start $c"}},
		Args:     cli.Count(1, 1), Complete: configFiles, SeeAlso: []string{"ctr-cri-create", "ctr-cri-stopp", "ctr-cri-rmp"},
	}, func(cmd *cobra.Command, args []string) error {
		config, err := readPod(args[0])
		if err != nil {
			return err
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			answer, err := r.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config, RuntimeHandler: runtimeHandler})
			if err != nil {
				return about("run pod", config.GetMetadata().GetName(), err)
			}
			_, err = fmt.Println(answer.PodSandboxId)
			return err
		})
	})
	handlerOption(cmd, &runtimeHandler)
	o.timeout(cmd)
	return cmd
}

// podOperands is what the verbs say of names on stdin.
const podOperands = "with the operand -, ids of pods, one a line"

func stoppVerb(o *options) *cobra.Command {
	cmd := cli.New("stopp [OPTION]... POD...", "stop pods", cli.About{
		Long:  "Stops the containers of each pod and gives up its network. A pod that is stopped already is no failure.",
		Stdin: podOperands, Stdout: "a line for each pod that was stopped",
		Examples: []cli.Example{{Note: "stop one", Text: "ctr-cri stopp 3f1c2a9d04b7e"}},
		Args:     cli.Count(1, -1), Complete: o.completePods, Exit: []int{cli.ExitNotFound, cli.ExitSome},
		SeeAlso: []string{"ctr-cri-rmp"},
	}, func(cmd *cobra.Command, args []string) error {
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			return cli.Each(cli.Operands(args, os.Stdin), func(id string) error { return r.stopPod(ctx, id) })
		})
	})
	return cmd
}

func (r *runtimeClient) stopPod(ctx context.Context, id string) error {
	if _, err := r.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return about("stop pod", id, err)
	}
	_, err := fmt.Printf("Stopped sandbox %s\n", id)
	return err
}

func rmpVerb(o *options) *cobra.Command {
	var force, all bool
	cmd := cli.New("rmp [OPTION]... [POD]...", "remove pods", cli.About{
		Long:  "Removes each pod, and its containers with it. One that is ready is refused without -f, which stops it first.",
		Stdin: podOperands, Stdout: "a line for each pod that was removed",
		Examples: []cli.Example{
			{Note: "remove one, whether it runs or not", Text: "ctr-cri rmp -f 3f1c2a9d04b7e"},
			{Note: "remove all", Text: "ctr-cri rmp -fa"},
		},
		Args: cli.Count(0, -1), Complete: o.completePods, Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome},
		SeeAlso: []string{"ctr-cri-stopp"},
	}, func(cmd *cobra.Command, args []string) error {
		if err := someOrAll(all, args, "POD"); err != nil {
			return err
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			if all {
				pods, err := (&podFilter{}).list(ctx, r)
				if err != nil {
					return err
				}
				args = idsOf(pods)
			}
			return cli.Each(cli.Operands(args, os.Stdin), func(id string) error { return r.removePod(ctx, id, force) })
		})
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "stop a pod that is ready, and then remove it")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "remove all pods")
	return cmd
}

func (r *runtimeClient) removePod(ctx context.Context, id string, force bool) error {
	status, err := r.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return about("remove pod", id, err)
	}
	if status.GetStatus().GetState() == runtime.PodSandboxState_SANDBOX_READY {
		if !force {
			return cli.Hint(cli.WithStatus(fmt.Errorf("remove pod %q: it is ready", id), cli.ExitBusy), "ctr-cri rmp -f %s stops it first", id)
		}
		if err := r.stopPod(ctx, id); err != nil {
			return err
		}
	}
	if _, err := r.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return about("remove pod", id, err)
	}
	_, err = fmt.Printf("Removed sandbox %s\n", id)
	return err
}
