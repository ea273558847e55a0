// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli/format"
	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/state"
)

// RuntimeConfig tells which of the two makes cgroups, so that the kubelet names their parents in its way.
func (r runtimeService) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if r.s.pods().SystemdCgroups() {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// networkName is the file that a template makes in the directory of network configurations, as containerd calls it.
const networkName = "10-containerd-net.conflist"

// UpdateRuntimeConfig makes a network configuration of the template of the configuration and the addresses that the kubelet
// has for pods, unless there is one that somebody else has made. Without a template there is nothing to do.
func (r runtimeService) UpdateRuntimeConfig(_ context.Context, q *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	answer := &runtimeapi.UpdateRuntimeConfigResponse{}
	text := q.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	if text == "" {
		return answer, nil
	}
	ranges := strings.Split(text, ",")
	for i, one := range ranges {
		p, err := netip.ParsePrefix(strings.TrimSpace(one))
		if err != nil {
			return nil, invalid("runtime_config.network_config.pod_cidr", "%q is no range of addresses", one)
		}
		ranges[i] = p.String()
	}
	c := r.s.config().CRI.CNI
	if c.ConfTemplate == "" {
		return answer, nil
	}
	if others, err := networkFiles(c.ConfDir); err != nil || len(others) > 0 {
		return answer, err
	}
	return answer, writeNetwork(c, ranges)
}

// networkFiles lists the network configurations in a directory but that of the template.
func networkFiles(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) && e.Name() != networkName {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// addresses are what a template can name, as containerd gives it.
type addresses struct {
	PodCIDR               string
	PodCIDRRanges, Routes []string
}

// writeNetwork fills in the template.
func writeNetwork(c config.CNI, ranges []string) error {
	source, err := os.ReadFile(c.ConfTemplate)
	if err != nil {
		return err
	}
	t, err := format.Parse(string(source))
	if err == nil {
		err = t.Check(format.Fields(addresses{}))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.ConfTemplate, err)
	}
	var routes []string
	for _, one := range ranges {
		route := "0.0.0.0/0"
		if netip.MustParsePrefix(one).Addr().Is6() {
			route = "::/0"
		}
		if !slices.Contains(routes, route) {
			routes = append(routes, route)
		}
	}
	value, err := json.Marshal(addresses{ranges[0], ranges, routes})
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, value); err != nil {
		return fmt.Errorf("%s: %w", c.ConfTemplate, err)
	}
	if err := os.MkdirAll(c.ConfDir, 0o755); err != nil {
		return err
	}
	return replace(filepath.Join(c.ConfDir, networkName), text.Bytes())
}

// replace gives a file new content, whole or not at all.
func replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return state.SyncDir(filepath.Dir(path))
}

// UpdatePodSandboxResources records what a pod may use as a whole, after the kubelet has changed its cgroup.
func (r runtimeService) UpdatePodSandboxResources(ctx context.Context, q *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	if err := required("pod_sandbox_id", q.GetPodSandboxId()); err != nil {
		return nil, err
	}
	overhead, err := resources(q.GetOverhead())
	if err != nil {
		return nil, err
	}
	all, err := resources(q.GetResources())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, r.s.pods().Resize(ctx, q.GetPodSandboxId(), overhead, all)
}
