// SPDX-License-Identifier: Apache-2.0

// Command plugin is a plugin of NRI for the tests of the CRI. It writes what it is told to a file, a line each; changes
// containers whose annotation change is set; and does not answer what the option hang names.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// settings are given by options, or to a plugin that the server starts by its configuration.
type settings struct {
	File string `json:"file"`
	Hang string `json:"hang"`
	Deny string `json:"deny"`
}

type plugin struct {
	settings
	mu   sync.Mutex
	stub stub.Stub
}

func main() {
	p := &plugin{}
	socket := flag.String("socket", "", "of the server; empty: it has started this")
	index := flag.String("index", "10", "order of this plugin")
	flag.StringVar(&p.File, "file", "", "write events here")
	flag.StringVar(&p.Hang, "hang", "", "never answer this event")
	flag.StringVar(&p.Deny, "deny", "", "object to this event")
	flag.Parse()
	var o []stub.Option
	if *socket != "" {
		o = append(o, stub.WithSocketPath(*socket), stub.WithPluginName("test"), stub.WithPluginIdx(*index))
	}
	err := func() (err error) {
		if p.stub, err = stub.New(p, o...); err != nil {
			return err
		}
		return p.stub.Run(context.Background())
	}()
	fmt.Fprintln(os.Stderr, "plugin:", err)
	p.event("end", "", "")
	if err != nil {
		os.Exit(1)
	}
}

// event writes an event, and hangs or objects where it is to.
func (p *plugin) event(name, pod, container string) error {
	p.mu.Lock()
	f, err := os.OpenFile(p.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err == nil {
		_, err = fmt.Fprintln(f, strings.TrimSpace(strings.Join([]string{name, pod, container}, " ")))
		err = errors.Join(err, f.Close())
	}
	p.mu.Unlock()
	switch name {
	case p.Hang:
		select {}
	case p.Deny:
		return fmt.Errorf("%s is not allowed", name)
	}
	return err
}

func (p *plugin) Configure(_ context.Context, config, _, _ string) (stub.EventMask, error) {
	if config == "" {
		return 0, nil
	}
	return 0, json.Unmarshal([]byte(config), &p.settings)
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	for _, pod := range pods {
		p.event("has-pod", pod.GetName(), "")
	}
	for _, c := range containers {
		p.event("has-container", c.GetName(), c.GetState().String())
	}
	return nil, p.event("synchronize", "", "")
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.event("run-pod", pod.GetName(), strings.Join(pod.GetIps(), ","))
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, r *api.LinuxResources) error {
	return p.event("update-pod", pod.GetName(), fmt.Sprint(r.GetMemory().GetLimit().GetValue()))
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.event("updated-pod", pod.GetName(), "")
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.event("stop-pod", pod.GetName(), "")
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.event("remove-pod", pod.GetName(), "")
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	err := p.event("create", pod.GetName(), c.GetName())
	for _, m := range c.GetMounts() {
		if m.GetDestination() == "/etc/hosts" {
			if _, e := os.Stat(m.GetSource()); e != nil {
				p.event("bad-source", pod.GetName(), m.GetSource())
			}
		}
	}
	to := &api.ContainerAdjustment{}
	dir := c.GetAnnotations()["test/change"]
	if dir == "" {
		return to, nil, err
	}
	to.AddEnv("FROM_PLUGIN", "yes")
	to.RemoveEnv("UNWANTED")
	to.AddAnnotation("from", "plugin")
	to.AddMount(&api.Mount{Destination: "/from-plugin", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
	to.AddRlimit("RLIMIT_NOFILE", 4321, 1234)
	to.AddDevice(&api.LinuxDevice{Path: "/dev/from-plugin", Type: "c", Major: 1, Minor: 5, FileMode: api.FileMode(os.FileMode(0o666))})
	to.SetLinuxMemoryLimit(64 << 20)
	to.SetLinuxCPUShares(77)
	to.SetLinuxOomScoreAdj(ptr(512))
	to.SetLinuxSysctl("net.ipv4.ip_default_ttl", "77")
	to.AddHooks(&api.Hooks{CreateContainer: []*api.Hook{{Path: "/bin/touch", Args: []string{"touch", dir + "/hook"}}}})
	var others []*api.ContainerUpdate
	if id := c.GetAnnotations()["test/other"]; id != "" {
		other := &api.ContainerUpdate{}
		other.SetContainerId(id)
		other.SetLinuxMemoryLimit(80 << 20)
		others = append(others, other)
	}
	return to, others, err
}

func ptr(n int) *int { return &n }

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.event("created", pod.GetName(), c.GetName())
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.event("start", pod.GetName(), c.GetName())
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.event("started", pod.GetName(), c.GetName()+" "+c.GetState().String())
}

// UpdateContainer lets no container have less than 100 shares, and changes the one in unasked by itself.
func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	err := p.event("update", pod.GetName(), c.GetName())
	if r.GetCpu().GetShares().GetValue() >= 100 {
		return nil, err
	}
	to := &api.ContainerUpdate{}
	to.SetContainerId(c.GetId())
	to.SetLinuxCPUShares(100)
	return []*api.ContainerUpdate{to}, err
}

// PostUpdateContainer changes the container once more, by itself.
func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	to := &api.ContainerUpdate{}
	to.SetContainerId(c.GetId())
	to.SetLinuxMemoryLimit(96 << 20)
	missing := &api.ContainerUpdate{}
	missing.SetContainerId("no-such-container")
	missing.SetLinuxCPUShares(5)
	missing.SetIgnoreFailure()
	go func() {
		failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{to, missing})
		p.event("unasked", fmt.Sprint(len(failed)), fmt.Sprint(err))
	}()
	return p.event("updated", pod.GetName(), c.GetName())
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	return nil, p.event("stop", pod.GetName(), fmt.Sprintf("%s %s %d", c.GetName(), c.GetState(), c.GetExitCode()))
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.event("remove", pod.GetName(), c.GetName())
}
