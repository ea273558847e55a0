// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
)

func infoVerb(o *options) *cobra.Command {
	var out output
	var quiet bool
	cmd := cli.New("info [OPTION]...", "show whether the runtime and its network are ready", cli.About{
		Long:     "Prints the runtime's conditions, its handlers, its features and its configuration.",
		Stdout:   "a JSON value",
		Examples: []cli.Example{{Note: "print why the network is not ready", Text: "ctr-cri info -q | jq -r '.status.conditions[] | select(.type == \"NetworkReady\").message'"}},
		SeeAlso:  []string{"ctr-cri-version", "ctrd-config"},
	}, func(cmd *cobra.Command, _ []string) error {
		return o.do(cmd, &out, func(ctx context.Context, r *runtimeClient) error {
			answer, err := r.Status(ctx, &runtime.StatusRequest{Verbose: !quiet})
			if err != nil {
				return fmt.Errorf("status of the runtime: %w", err)
			}
			var b bytes.Buffer
			status, err := messageJSON(answer.GetStatus())
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, `{"status":%s`, status)
			// These two have the names of the protocol, as crictl prints them.
			for _, part := range []struct {
				name  string
				value any
			}{{"runtimeHandlers", answer.RuntimeHandlers}, {"features", answer.Features}} {
				data, err := json.Marshal(part.value)
				if err != nil {
					return err
				}
				if string(data) != "null" {
					fmt.Fprintf(&b, `,%q:%s`, part.name, data)
				}
			}
			if err := writeInfo(&b, answer.Info); err != nil {
				return err
			}
			b.WriteByte('}')
			return out.value(os.Stdout, b.Bytes())
		})
	})
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "leave out what is special to the runtime")
	out.add(cmd, asJSON, asYAML, asTemplate)
	return cmd
}

func versionVerb(o *options) *cobra.Command {
	return cli.New("version [OPTION]...", "show the runtime's version", cli.About{
		Long:     "Prints the name and the version of the runtime and of the CRI that it speaks.",
		Stdout:   "four lines: a name and a value each",
		Examples: []cli.Example{{Note: "ask whoever listens on a socket", Text: "ctr-cri -r /run/containerd/containerd.sock version"}},
	}, func(cmd *cobra.Command, _ []string) error {
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			answer, err := r.Version(ctx, &runtime.VersionRequest{Version: "v1"})
			if err != nil {
				return fmt.Errorf("version of the runtime: %w", err)
			}
			_, err = fmt.Printf("Version:  %s\nRuntimeName:  %s\nRuntimeVersion:  %s\nRuntimeApiVersion:  %s\n", answer.Version, answer.RuntimeName, answer.RuntimeVersion, answer.RuntimeApiVersion)
			return err
		})
	})
}

func runtimeConfigVerb(o *options) *cobra.Command {
	return cli.New("runtime-config [OPTION]...", "show what the kubelet has to know of the runtime", cli.About{
		Long:     "Prints the cgroup driver that the runtime uses, which must be the kubelet's.",
		Stdout:   "a line: a name and a value",
		Examples: []cli.Example{{Note: "show the cgroup driver", Text: "ctr-cri runtime-config"}},
	}, func(cmd *cobra.Command, _ []string) error {
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			answer, err := r.RuntimeConfig(ctx, &runtime.RuntimeConfigRequest{})
			if err != nil {
				return fmt.Errorf("configuration of the runtime: %w", err)
			}
			if linux := answer.GetLinux(); linux != nil {
				_, err = fmt.Printf("cgroup driver:   %s\n", linux.CgroupDriver)
			}
			return err
		})
	})
}

func updateRuntimeConfigVerb(o *options) *cobra.Command {
	var cidr string
	cmd := cli.New("update-runtime-config [OPTION]...", "tell the runtime what the kubelet would", cli.About{
		Long:     "Tells the runtime the range of addresses of pods on this node, from which it makes a network where it was told to.",
		Examples: []cli.Example{{Note: "set the range", Text: "ctr-cri update-runtime-config --pod-cidr 10.88.0.0/16"}},
	}, func(cmd *cobra.Command, _ []string) error {
		if cidr == "" {
			return cli.Usagef("nothing to tell: give --pod-cidr")
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			_, err := r.UpdateRuntimeConfig(ctx, &runtime.UpdateRuntimeConfigRequest{RuntimeConfig: &runtime.RuntimeConfig{NetworkConfig: &runtime.NetworkConfig{PodCidr: cidr}}})
			if err != nil {
				return fmt.Errorf("update the configuration of the runtime: %w", err)
			}
			return nil
		})
	})
	cmd.Flags().StringVarP(&cidr, "pod-cidr", "p", "", "addresses of pods, a `RANGE` such as 10.88.0.0/16, or two separated by a comma")
	cli.CompleteOption(cmd, "pod-cidr", cobra.NoFileCompletions)
	return cmd
}

func eventsVerb(o *options) *cobra.Command {
	var out output
	cmd := cli.New("events [OPTION]...", "show what happens to containers of pods", cli.About{
		Long:     "Prints each event as it comes: a container was created, started, stopped or deleted. It goes on until it is ended.",
		Stdout:   "a JSON value for each event",
		Examples: []cli.Example{{Note: "tell what happens in few words", Text: "ctr-cri events -o go-template --template '{{.containerEventType}} {{.containerId}}'"}},
		SeeAlso:  []string{"ctrd-events"},
	}, func(cmd *cobra.Command, _ []string) error {
		return o.do(cmd, &out, func(ctx context.Context, r *runtimeClient) error {
			stream, err := r.GetContainerEvents(ctx, &runtime.GetEventsRequest{})
			if err != nil {
				return fmt.Errorf("events: %w", plain(err))
			}
			for {
				var e proto.Message
				e, err = stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return fmt.Errorf("events: %w", plain(err))
				}
				if err := out.message(os.Stdout, e); err != nil {
					return err
				}
			}
		})
	})
	out.add(cmd, asJSON, asYAML, asTemplate)
	return cmd
}
