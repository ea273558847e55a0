// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/task"
)

type introspectionService struct {
	introspectionapi.UnimplementedIntrospectionServer
	s *Server
}

// Plugins gives those that a filter fits. There are no plugins here: each names what a client of containerd looks for.
func (i introspectionService) Plugins(_ context.Context, r *introspectionapi.PluginsRequest) (*introspectionapi.PluginsResponse, error) {
	f, err := filter.Parse(r.Filters...)
	if err != nil {
		return nil, err
	}
	answer := &introspectionapi.PluginsResponse{}
	for _, p := range i.s.plugins() {
		if f.Match(pluginFields(p)) {
			answer.Plugins = append(answer.Plugins, p)
		}
	}
	return answer, nil
}

// Server tells who answers.
func (i introspectionService) Server(context.Context, *emptypb.Empty) (*introspectionapi.ServerResponse, error) {
	uuid, err := i.s.d.UUID()
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return nil, err
	}
	return &introspectionapi.ServerResponse{UUID: uuid, Pid: uint64(os.Getpid()), Pidns: st.Ino}, nil
}

// PluginInfo tells of one plugin; of the runtime, with a request for that, also what the runtime's shim tells of itself.
func (i introspectionService) PluginInfo(ctx context.Context, r *introspectionapi.PluginInfoRequest) (*introspectionapi.PluginInfoResponse, error) {
	for _, p := range i.s.plugins() {
		if p.Type != r.Type || p.ID != r.ID {
			continue
		}
		answer := &introspectionapi.PluginInfoResponse{Plugin: p}
		if r.Options == nil || r.Type != runtimePlugin {
			return answer, nil
		}
		var request types.RuntimeRequest
		if err := r.Options.UnmarshalTo(&request); err != nil {
			return nil, fmt.Errorf("options %.200q of the runtime: %w: %w", r.Options.TypeUrl, err, errdefs.ErrInvalidArgument)
		}
		info, err := task.RuntimeInfo(ctx, request.RuntimePath, shimAny(request.Options))
		if err != nil {
			return nil, err
		}
		answer.Extra = &anypb.Any{TypeUrl: runtimeInfoType, Value: info}
		return answer, nil
	}
	return nil, fmt.Errorf("plugin %.200q of type %.200q: %w", r.ID, r.Type, errdefs.ErrNotFound)
}

// runtimeInfoType is the type of what a shim tells of itself.
const runtimeInfoType = "containerd.types.RuntimeInfo"

// The types of plugins that clients look for.
const (
	snapshotterPlugin = "io.containerd.snapshotter.v1"
	runtimePlugin     = "io.containerd.runtime.v2"
	monitorPlugin     = "io.containerd.monitor.container.v1"
	servicePlugin     = "io.containerd.grpc.v1"
	contentPlugin     = "io.containerd.content.v1"
	metadataPlugin    = "io.containerd.metadata.v1"
	gcPlugin          = "io.containerd.gc.v1"
	differPlugin      = "io.containerd.differ.v1"
)

func (s *Server) plugins() []*introspectionapi.Plugin {
	here := &types.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
	list := []*introspectionapi.Plugin{
		{Type: contentPlugin, ID: "content"},
		{Type: metadataPlugin, ID: "bolt"},
		{Type: gcPlugin, ID: "scheduler"},
		{Type: differPlugin, ID: "walking"},
		{Type: runtimePlugin, ID: "task", Exports: map[string]string{"log-uri-schemes": "fifo,binary,binary-v2,file"}},
		{Type: monitorPlugin, ID: "restart", Capabilities: []string{"no", "always", "on-failure", "unless-stopped"}},
	}
	for _, sn := range snapshot.Snapshotters() {
		p := &introspectionapi.Plugin{Type: snapshotterPlugin, ID: sn.Name(), Exports: map[string]string{"root": s.d.Path("snapshots", sn.Name())}}
		if sn.Maps(s.d) {
			p.Capabilities = append(p.Capabilities, "remap-ids", "only-remap-ids")
		}
		if sn.Late() {
			p.Capabilities = append(p.Capabilities, "rebase")
		}
		list = append(list, p)
	}
	for _, id := range []string{"containers", "content", "diff", "events", "healthcheck", "images", "introspection", "leases", "namespaces", "snapshots", "tasks", "version"} {
		list = append(list, &introspectionapi.Plugin{Type: servicePlugin, ID: id})
	}
	for _, p := range list {
		p.Platforms = []*types.Platform{here}
	}
	return list
}

func pluginFields(p *introspectionapi.Plugin) filter.Fields {
	return func(path []string) (string, bool) {
		switch strings.Join(path, ".") {
		case "type":
			return p.Type, true
		case "id":
			return p.ID, true
		case "platforms":
			// As in containerd, which cannot compare them.
			return "", len(p.Platforms) > 0
		case "capabilities":
			return "", len(p.Capabilities) > 0
		}
		return "", false
	}
}
