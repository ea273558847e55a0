// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
)

// sampling are the options of what measures again and again.
type sampling struct {
	seconds int
	watch   bool
}

func (s *sampling) add(cmd *cobra.Command) {
	cmd.Flags().IntVarP(&s.seconds, "seconds", "s", 1, "measure the use of processors over `NUMBER` seconds")
	cli.CompleteOption(cmd, "seconds", cobra.NoFileCompletions)
	s.addWatch(cmd)
}

func (s *sampling) addWatch(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&s.watch, "watch", "w", false, "print it again and again until the command is ended")
}

// pause waits between two measurements.
func (s *sampling) pause(ctx context.Context) error {
	return sleep(ctx, time.Duration(max(1, s.seconds))*time.Second)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// used is the CPU time of one thing at a time, both in nanoseconds.
type used struct{ cpu, at int64 }

// percent is the use between two measurements, of one processor.
func percent(old, now used) string {
	if now.at <= old.at {
		return "0.00"
	}
	return strconv.FormatFloat(float64(now.cpu-old.cpu)/float64(now.at-old.at)*100, 'f', 2, 64)
}

// measured asks twice and prints the rows of what was there both times.
func measured[T any](ctx context.Context, s *sampling, columns []string, ask func() ([]T, error), of func(T) (id string, u used), row func(v T, cpu string) []string) error {
	old := map[string]used{}
	first := true
	for {
		all, err := ask()
		if err != nil {
			return err
		}
		if !first {
			if s.watch && cli.IsTerminal(os.Stdout) {
				fmt.Print("\x1b[H\x1b[2J")
			}
			t := newTable(columns...)
			for _, v := range all {
				id, u := of(v)
				before, ok := old[id]
				if fields := row(v, percent(before, u)); ok && fields != nil {
					t.row(fields...)
				}
			}
			if err := t.flush(); err != nil || !s.watch {
				return err
			}
		}
		clear(old)
		for _, v := range all {
			id, u := of(v)
			old[id] = u
		}
		first = false
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
}

// showUse asks for the use of things, and prints the answer, or the rows of what was there both times it asked.
func showUse[T any](ctx context.Context, s *sampling, out *output, columns []string, ask func() (proto.Message, []T, error), of func(T) (id string, u used), row func(v T, cpu string) []string) error {
	sorted := func() (proto.Message, []T, error) {
		answer, all, err := ask() // the message has the same list
		slices.SortFunc(all, func(a, b T) int {
			x, _ := of(a)
			y, _ := of(b)
			return cmp.Compare(x, y)
		})
		return answer, all, err
	}
	if out.form != asTable {
		return s.message(ctx, out, func() (proto.Message, error) {
			answer, _, err := sorted()
			return answer, err
		})
	}
	return measured(ctx, s, columns, func() ([]T, error) {
		_, all, err := sorted()
		return all, err
	}, of, row)
}

// message prints an answer, with --watch again and again.
func (s *sampling) message(ctx context.Context, out *output, ask func() (proto.Message, error)) error {
	for {
		m, err := ask()
		if err != nil {
			return err
		}
		if err := out.message(os.Stdout, m); err != nil || !s.watch {
			return err
		}
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
}

func statsVerb(o *options) *cobra.Command {
	var s sampling
	var out output
	var all bool
	var selected []string
	filter := &runtime.ContainerStatsFilter{}
	cmd := cli.New("stats [OPTION]... [CONTAINER]", "show what containers of pods use", cli.About{
		Long:     "Prints what each container uses: processors in percent of one, measured over a second; memory without what the kernel can give back at once; and what it has written to its own files.",
		Stdout:   "a container a line, below the names of the columns",
		Examples: []cli.Example{{Note: "watch a pod", Text: "ctr-cri stats -w --pod 3f1c2a9d04b7e"}},
		Args:     cli.Count(0, 1), Complete: o.completeContainers, SeeAlso: []string{"ctr-cri-statsp"},
	}, func(cmd *cobra.Command, args []string) (err error) {
		if filter.LabelSelector, err = labels(selected); err != nil {
			return err
		}
		if len(args) > 0 {
			filter.Id = args[0]
		}
		return o.do(cmd, &out, func(ctx context.Context, r *runtimeClient) error {
			return showUse(ctx, &s, &out, []string{"CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES", "SWAP"}, func() (proto.Message, []*runtime.ContainerStats, error) {
				answer, err := r.ListContainerStats(ctx, &runtime.ListContainerStatsRequest{Filter: filter})
				if err != nil {
					return nil, nil, fmt.Errorf("use of containers: %w", err)
				}
				return answer, answer.Stats, nil
			}, containerUse, func(v *runtime.ContainerStats, cpu string) []string { return containerRow(v, cpu, all) })
		})
	})
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "show containers that do not run, too")
	f.StringVar(&filter.Id, "id", "", "take only the container with this `ID`")
	f.StringVarP(&filter.PodSandboxId, "pod", "p", "", "take only containers of the pod with this `ID`")
	f.StringArrayVar(&selected, "label", nil, "take only containers with the label `KEY=VALUE`; each --label must fit")
	for _, name := range []string{"id", "pod", "label"} {
		cli.CompleteOption(cmd, name, cobra.NoFileCompletions)
	}
	s.add(cmd)
	out.add(cmd, asTable, asJSON, asYAML)
	return cmd
}

func containerUse(v *runtime.ContainerStats) (string, used) {
	return v.GetAttributes().GetId(), used{int64(v.GetCpu().GetUsageCoreNanoSeconds().GetValue()), v.GetCpu().GetTimestamp()}
}

// containerRow is nil for a container that uses nothing, unless all are to be shown.
func containerRow(v *runtime.ContainerStats, cpu string, all bool) []string {
	mem := v.GetMemory().GetWorkingSetBytes().GetValue()
	if !all && v.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 && mem == 0 {
		return nil
	}
	layer := v.GetWritableLayer()
	return []string{
		shortID(v.GetAttributes().GetId(), false), v.GetAttributes().GetMetadata().GetName(), cpu, units.HumanSize(float64(mem)),
		units.HumanSize(float64(layer.GetUsedBytes().GetValue())), strconv.FormatUint(layer.GetInodesUsed().GetValue(), 10), units.HumanSize(float64(v.GetSwap().GetSwapUsageBytes().GetValue())),
	}
}

func statspVerb(o *options) *cobra.Command {
	var s sampling
	var out output
	var selected []string
	filter := &runtime.PodSandboxStatsFilter{}
	cmd := cli.New("statsp [OPTION]... [POD]", "show what pods use", cli.About{
		Long:     "Prints what each pod uses, all its containers together: processors in percent of one, measured over a second, and memory.",
		Stdout:   "a pod a line, below the names of the columns",
		Examples: []cli.Example{{Note: "print all that is measured of a pod", Text: "ctr-cri statsp -o json 3f1c2a9d04b7e"}},
		Args:     cli.Count(0, 1), Complete: o.completePods, SeeAlso: []string{"ctr-cri-stats", "ctr-cri-metricsp"},
	}, func(cmd *cobra.Command, args []string) (err error) {
		if filter.LabelSelector, err = labels(selected); err != nil {
			return err
		}
		if len(args) > 0 {
			filter.Id = args[0]
		}
		return o.do(cmd, &out, func(ctx context.Context, r *runtimeClient) error {
			return showUse(ctx, &s, &out, []string{"POD", "POD ID", "CPU %", "MEM"}, func() (proto.Message, []*runtime.PodSandboxStats, error) {
				answer, err := r.ListPodSandboxStats(ctx, &runtime.ListPodSandboxStatsRequest{Filter: filter})
				if err != nil {
					return nil, nil, fmt.Errorf("use of pods: %w", err)
				}
				return answer, answer.Stats, nil
			}, func(v *runtime.PodSandboxStats) (string, used) {
				cpu := v.GetLinux().GetCpu()
				return v.GetAttributes().GetId(), used{int64(cpu.GetUsageCoreNanoSeconds().GetValue()), cpu.GetTimestamp()}
			}, func(v *runtime.PodSandboxStats, cpu string) []string {
				return []string{v.GetAttributes().GetMetadata().GetName(), shortID(v.GetAttributes().GetId(), false), cpu, units.HumanSize(float64(v.GetLinux().GetMemory().GetWorkingSetBytes().GetValue()))}
			})
		})
	})
	cmd.Flags().StringVar(&filter.Id, "id", "", "take only the pod with this `ID`")
	cmd.Flags().StringArrayVar(&selected, "label", nil, "take only pods with the label `KEY=VALUE`; each --label must fit")
	cli.CompleteOption(cmd, "id", cobra.NoFileCompletions)
	cli.CompleteOption(cmd, "label", cobra.NoFileCompletions)
	s.add(cmd)
	out.add(cmd, asTable, asJSON, asYAML)
	return cmd
}

func metricspVerb(o *options) *cobra.Command {
	var s sampling
	var out output
	cmd := cli.New("metricsp [OPTION]...", "show the metrics of pods", cli.About{
		Long:     "Prints the metrics that the kubelet passes on as /metrics/cadvisor.",
		Stdout:   "a JSON value",
		Examples: []cli.Example{{Note: "print all metrics", Text: "ctr-cri metricsp"}},
		SeeAlso:  []string{"ctr-cri-metricdescs"},
	}, func(cmd *cobra.Command, _ []string) error {
		return o.do(cmd, &out, func(ctx context.Context, r *runtimeClient) error {
			return s.message(ctx, &out, func() (proto.Message, error) {
				answer, err := r.ListPodSandboxMetrics(ctx, &runtime.ListPodSandboxMetricsRequest{})
				if err != nil {
					return nil, fmt.Errorf("metrics of pods: %w", err)
				}
				return answer, nil
			})
		})
	})
	s.addWatch(cmd)
	out.add(cmd, asJSON, asYAML)
	return cmd
}

func metricdescsVerb(o *options) *cobra.Command {
	var out output
	cmd := cli.New("metricdescs [OPTION]...", "show which metrics of pods there are", cli.About{
		Long:     "Prints the name, the meaning and the labels of each metric that metricsp can print.",
		Stdout:   "a JSON value",
		Examples: []cli.Example{{Note: "list the metrics", Text: "ctr-cri metricdescs -o yaml"}},
		SeeAlso:  []string{"ctr-cri-metricsp"},
	}, func(cmd *cobra.Command, _ []string) error {
		return o.do(cmd, &out, func(ctx context.Context, r *runtimeClient) error {
			answer, err := r.ListMetricDescriptors(ctx, &runtime.ListMetricDescriptorsRequest{})
			if err != nil {
				return fmt.Errorf("descriptions of metrics: %w", err)
			}
			return out.message(os.Stdout, answer)
		})
	})
	out.add(cmd, asJSON, asYAML)
	return cmd
}
