// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
)

// inspection is what is printed of one thing: its status, and what the runtime tells besides.
type inspection struct {
	status []byte            // JSON
	info   map[string]string // the values are JSON, or texts
	table  func()            // prints it for -o table
}

// inspector prints things as inspect, inspectp and inspecti do: the value of one thing, the list of several.
type inspector struct {
	output
	quiet bool
}

func (i *inspector) add(cmd *cobra.Command) {
	i.output.add(cmd, asJSON, asYAML, asTemplate, asTable)
	cmd.Flags().BoolVarP(&i.quiet, "quiet", "q", false, "leave out what is special to the runtime")
}

func (i *inspector) print(operands iter.Seq2[string, error], get func(id string) (inspection, error)) error {
	var all []json.RawMessage
	err := cli.Each(operands, func(id string) error {
		one, err := get(id)
		switch {
		case err != nil:
			return err
		case i.form == asTable:
			one.table()
			if !i.quiet && len(one.info) > 0 {
				details{os.Stdout}.fact("Info", one.info)
			}
			return nil
		}
		v, err := one.value()
		all = append(all, v)
		return err
	})
	if len(all) == 0 {
		return err
	}
	data := all[0]
	if len(all) > 1 {
		if data, err = joined(err, all); err != nil {
			return err
		}
	}
	if e := i.output.value(os.Stdout, data); e != nil {
		return e
	}
	return err
}

// joined is a list of values; err, of the values that are missing in it, is passed on.
func joined(err error, all []json.RawMessage) (json.RawMessage, error) {
	data, e := json.Marshal(all)
	if e != nil {
		return nil, e
	}
	return data, err
}

// value is {"status": ..., "KEY": ...} with the keys of the information, in order.
func (i inspection) value() (json.RawMessage, error) {
	var b bytes.Buffer
	b.WriteString(`{"status":`)
	b.Write(i.status)
	if err := writeInfo(&b, i.info); err != nil {
		return nil, err
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// writeInfo adds a member to a JSON object for each key; what is no JSON value is a text.
func writeInfo(b *bytes.Buffer, info map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(info)) {
		name, err := json.Marshal(k)
		if err != nil {
			return err
		}
		value := []byte(info[k])
		if !json.Valid(value) {
			if value, err = json.Marshal(info[k]); err != nil {
				return err
			}
		}
		fmt.Fprintf(b, ",%s:%s", name, value)
	}
	return nil
}

// withTimes replaces times, which the protocol has in nanoseconds since 1970, with texts.
func withTimes(status []byte, times map[string]int64) ([]byte, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(status, &m); err != nil {
		return nil, err
	}
	for name, t := range times {
		var at time.Time
		if t != 0 {
			at = time.Unix(0, t)
		}
		text, err := json.Marshal(at)
		if err != nil {
			return nil, err
		}
		m[name] = text
	}
	return json.Marshal(m)
}

// picked are the ids that are given, or those that the options pick.
func picked[T identified](args []string, list func() ([]T, error)) (iter.Seq2[string, error], error) {
	if len(args) == 0 {
		all, err := list()
		if err != nil {
			return nil, err
		}
		if args = idsOf(all); len(args) == 0 {
			return nil, fmt.Errorf("nothing fits: %w", errdefs.ErrNotFound)
		}
	}
	return cli.Operands(args, os.Stdin), nil
}

func inspectpVerb(o *options) *cobra.Command {
	var i inspector
	var p podFilter
	cmd := cli.New("inspectp [OPTION]... [POD]...", "show all that is known of pods", cli.About{
		Long:  "Prints the status of each pod, of those that the options pick where none is given.",
		Stdin: podOperands, Stdout: "a JSON value, for several pods a list",
		Examples: []cli.Example{{Note: "print a pod's address", Text: "ctr-cri inspectp -o go-template --template '{{.status.network.ip}}' 3f1c2a9d04b7e"}},
		Args:     cli.Count(0, -1), Complete: o.completePods, Exit: []int{cli.ExitNotFound, cli.ExitSome}, SeeAlso: []string{"ctr-cri-pods"},
	}, func(cmd *cobra.Command, args []string) error {
		return o.do(cmd, &i.output, func(ctx context.Context, r *runtimeClient) error {
			operands, err := picked(args, func() ([]*runtime.PodSandbox, error) { return p.list(ctx, r) })
			if err != nil {
				return err
			}
			return i.print(operands, func(id string) (inspection, error) { return r.inspectPod(ctx, id, !i.quiet) })
		})
	})
	p.add(cmd)
	i.add(cmd)
	return cmd
}

func (r *runtimeClient) inspectPod(ctx context.Context, id string, verbose bool) (one inspection, err error) {
	answer, err := r.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: id, Verbose: verbose})
	if err != nil {
		return one, about("pod", id, err)
	}
	s := answer.GetStatus()
	one.info = answer.Info
	if one.status, err = messageJSON(s); err != nil {
		return one, err
	}
	if one.status, err = withTimes(one.status, map[string]int64{"createdAt": s.GetCreatedAt()}); err != nil {
		return one, err
	}
	one.table = func() {
		d := details{os.Stdout}
		d.fact("ID", s.GetId())
		d.fact("Name", s.GetMetadata().GetName())
		d.fact("UID", s.GetMetadata().GetUid())
		d.fact("Namespace", s.GetMetadata().GetNamespace())
		d.fact("Attempt", s.GetMetadata().GetAttempt())
		d.fact("Status", s.GetState())
		d.fact("Created", time.Unix(0, s.GetCreatedAt()))
		d.fact("IP Addresses", s.GetNetwork().GetIp())
		for _, ip := range s.GetNetwork().GetAdditionalIps() {
			d.fact("Additional IP", ip.Ip)
		}
		d.pairs("Labels", s.GetLabels())
		d.pairs("Annotations", s.GetAnnotations())
	}
	return one, nil
}

func inspectVerb(o *options) *cobra.Command {
	var i inspector
	var c containerFilter
	cmd := cli.New("inspect [OPTION]... [CONTAINER]...", "show all that is known of containers of pods", cli.About{
		Long:  "Prints the status of each container, of those that the options pick where none is given.",
		Stdin: containerOperands, Stdout: "a JSON value, for several containers a list",
		Examples: []cli.Example{{Note: "print how a container ended", Text: "ctr-cri inspect -o go-template --template '{{.status.exitCode}} {{.status.reason}}' 8c0de7a1f3b52"}},
		Args:     cli.Count(0, -1), Complete: o.completeContainers, Exit: []int{cli.ExitNotFound, cli.ExitSome}, SeeAlso: []string{"ctr-cri-ps", "ctr-task-inspect"},
	}, func(cmd *cobra.Command, args []string) error {
		return o.do(cmd, &i.output, func(ctx context.Context, r *runtimeClient) error {
			operands, err := picked(args, func() ([]*runtime.Container, error) { return c.list(ctx, r) })
			if err != nil {
				return err
			}
			return i.print(operands, func(id string) (inspection, error) { return r.inspect(ctx, id, !i.quiet) })
		})
	})
	c.add(cmd)
	c.addList(cmd)
	i.add(cmd)
	return cmd
}

func (r *runtimeClient) inspect(ctx context.Context, id string, verbose bool) (one inspection, err error) {
	answer, err := r.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
	if err != nil {
		return one, about("container", id, err)
	}
	s := answer.GetStatus()
	one.info = answer.Info
	if one.status, err = messageJSON(s); err != nil {
		return one, err
	}
	times := map[string]int64{"createdAt": s.GetCreatedAt(), "startedAt": s.GetStartedAt(), "finishedAt": s.GetFinishedAt()}
	if one.status, err = withTimes(one.status, times); err != nil {
		return one, err
	}
	one.table = func() {
		d := details{os.Stdout}
		d.fact("ID", s.GetId())
		d.fact("Name", s.GetMetadata().GetName())
		d.fact("Attempt", s.GetMetadata().GetAttempt())
		d.fact("State", s.GetState())
		d.fact("Created", ago(s.GetCreatedAt()))
		if s.GetStartedAt() != 0 {
			d.fact("Started", ago(s.GetStartedAt()))
		}
		if s.GetFinishedAt() != 0 {
			d.fact("Finished", ago(s.GetFinishedAt()))
			d.fact("Exit Code", s.GetExitCode())
		}
		d.pairs("Labels", s.GetLabels())
		d.pairs("Annotations", s.GetAnnotations())
	}
	return one, nil
}

func inspectiVerb(o *options) *cobra.Command {
	var i inspector
	cmd := cli.New("inspecti [OPTION]... IMAGE...", "show all that is known of images", cli.About{
		Long:  "Prints what is known of each image.",
		Stdin: "with the operand -, images, one a line", Stdout: "a JSON value, for several images a list",
		Examples: []cli.Example{{Note: "print an image's id", Text: "ctr-cri inspecti -o go-template --template '{{.status.id}}' redis:7"}},
		Args:     cli.Count(1, -1), Complete: o.completeImages, Exit: []int{cli.ExitNotFound, cli.ExitSome}, SeeAlso: []string{"ctr-cri-images", "ctr-image-inspect"},
	}, func(cmd *cobra.Command, args []string) error {
		return o.do(cmd, &i.output, func(ctx context.Context, r *runtimeClient) error {
			return i.print(cli.Operands(args, os.Stdin), func(name string) (inspection, error) { return r.inspectImage(ctx, name, !i.quiet) })
		})
	})
	i.add(cmd)
	return cmd
}

func (r *runtimeClient) inspectImage(ctx context.Context, name string, verbose bool) (one inspection, err error) {
	answer, err := r.imageStatus(ctx, name, verbose)
	if err != nil {
		return one, err
	}
	image := answer.Image
	one.info = answer.Info
	one.status, err = messageJSON(image)
	one.table = func() {
		d := details{os.Stdout}
		d.fact("ID", image.Id)
		d.fact("Tag", strings.Join(image.RepoTags, "\nTag: "))
		d.fact("Digest", strings.Join(image.RepoDigests, "\nDigest: "))
		d.fact("Size", units.HumanSizeWithPrecision(float64(image.Size), 3))
	}
	return one, err
}
