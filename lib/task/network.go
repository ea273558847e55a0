// SPDX-License-Identifier: Apache-2.0

package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/network"
	"ctrd.dev/ctrd/lib/network/port"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// NetworkOptions are those of ctr-task run and create that concern networks, as they are typed.
type NetworkOptions struct {
	// Networks are names of networks, or one of host, none and container:NAME alone. Empty: none, or with Publish, PublishAll, IPs
	// or MAC the default network.
	Networks   []string
	Publish    []string // as port.Parse takes it
	PublishAll bool     // publish the ports that the image, or Expose, names
	Expose     []string // PORT[-LAST][/PROTOCOL]
	IPs        []string // static addresses in the first network, one of each family at most
	MAC        string   // of the first interface
}

// NetworkGroup is the group of the attachments of this package.
const NetworkGroup = "tasks"

// Networks is the Host of a state directory for a group of attachments. The variables NETCONFPATH and CNI_PATH, which CNI's
// own tools have, name other directories of configuration and of plugins.
func Networks(d *state.Dir, group string) (network.Host, error) {
	boot, err := state.BootID()
	if err != nil {
		return network.Host{}, err
	}
	mark := strings.TrimPrefix(strings.TrimPrefix(cgroupPrefix(d), "ctrd"), "-")
	return network.Host{
		Conf: os.Getenv("NETCONFPATH"), Bin: filepath.SplitList(os.Getenv("CNI_PATH")), Group: group,
		Kept: d.Path("networks"), Pins: d.Run("netns"), IPAM: d.Run("ipam"), Locks: d.Locks(), Boot: boot,
		ReadyMade: true, Mark: mark, Warn: d.Warn,
	}, nil
}

// settle parses the options. It gives what the container's record says, nil without networks, and what --net means to the
// spec: host, none or container:NAME; empty when nothing is asked for.
func (o NetworkOptions) settle(image ocispec.ImageConfig) (n *container.Network, mode string, err error) {
	wanted := len(o.Publish) > 0 || o.PublishAll || len(o.IPs) > 0 || o.MAC != ""
	for _, name := range o.Networks {
		if !isMode(name) {
			continue
		}
		if len(o.Networks) > 1 {
			return nil, "", invalidNetwork("--net %q: it cannot be joined with other networks", name)
		}
		if wanted {
			return nil, "", invalidNetwork("--net %q: ports and addresses are those of a network, such as --net %s", name, network.BridgeName)
		}
		return nil, cmp.Or(name, "none"), nil
	}
	if len(o.Networks) == 0 && !wanted {
		return nil, "", nil
	}
	n = &container.Network{Names: o.Networks, MAC: o.MAC}
	if len(n.Names) == 0 {
		n.Names = []string{network.BridgeName}
	}
	if n.Ports, err = o.ports(image); err != nil {
		return nil, "", err
	}
	for _, text := range o.IPs {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return nil, "", invalidNetwork("--ip %q: it is no IP address", text)
		}
		if addr = addr.Unmap(); slices.ContainsFunc(n.IPs, func(o netip.Addr) bool { return o.Is4() == addr.Is4() }) {
			return nil, "", invalidNetwork("--ip %q: one address of a family can be asked for", text)
		}
		n.IPs = append(n.IPs, addr)
	}
	if o.MAC != "" {
		if mac, err := net.ParseMAC(o.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return nil, "", invalidNetwork("--mac-address %q: want six bytes such as 02:42:ac:11:00:02", o.MAC)
		}
	}
	return n, "none", nil
}

// isMode tells whether --net names no network.
func isMode(name string) bool {
	return name == "" || name == "none" || name == "host" || strings.HasPrefix(name, "container:")
}

func invalidNetwork(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// ports gives what is published.
func (o NetworkOptions) ports(image ocispec.ImageConfig) (all []port.Port, err error) {
	for _, text := range o.Publish {
		some, err := port.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("--publish: %w", err)
		}
		all = append(all, some...)
	}
	exposed := slices.Concat(slices.Sorted(maps.Keys(image.ExposedPorts)), o.Expose)
	for _, text := range exposed {
		some, err := port.Parse(text)
		if err == nil && strings.Contains(text, ":") {
			err = fmt.Errorf("port %q: want PORT or PORT/PROTOCOL: %w", text, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return nil, fmt.Errorf("--expose, or the image: %w", err)
		}
		for _, p := range some {
			published := slices.ContainsFunc(all, func(a port.Port) bool { return a.ContainerPort == p.ContainerPort && a.Protocol == p.Protocol })
			if o.PublishAll && !published {
				all = append(all, p)
			}
		}
	}
	return all, port.Check(all)
}

// checkNetworks tells whether the networks of a container are there, before it is made.
func checkNetworks(d *state.Dir, n *container.Network) error {
	if n == nil {
		return nil
	}
	h, err := Networks(d, NetworkGroup)
	if err != nil {
		return err
	}
	return h.Usable(network.Request{Networks: n.Names, Ports: n.Ports})
}

// attachment names the attachment of the task: it begins with the container's uid, and is nobody else's ever.
func (t *Task) attachment() string { return t.attachments() + string(t.inc) }

// attachments is the beginning of the names of all attachments of the container.
func (t *Task) attachments() string { return t.Container.UID + "-" }

// attach attaches the task to the container's networks: its init waits. Tasks before it are taken off first, so that a static
// address is free.
func (t *Task) attach(ctx context.Context) error {
	n := t.Container.Network
	if n == nil {
		return nil
	}
	if err := t.detachEnded(ctx); err != nil {
		t.d.Warn(err)
	}
	h, err := Networks(t.d, NetworkGroup)
	if err != nil {
		return err
	}
	var init taskdir.Process
	if _, err := taskdir.Read(t.Dir(), taskdir.Init, &init); err != nil {
		return err
	}
	mac, _ := net.ParseMAC(n.MAC) // it was checked when the record was made
	crash.Point("task.attach")
	res, err := h.Setup(ctx, nil, network.Request{
		ID: t.attachment(), From: fmt.Sprintf("/proc/%d/ns/net", init.PID), Networks: n.Names,
		Owner: network.Owner{Namespace: t.Namespace, ID: t.ID(), UID: t.Container.UID, Task: string(t.inc)},
		Ports: n.Ports, CheckPorts: true, IPs: n.IPs, MAC: mac,
	})
	if err != nil {
		return err
	}
	crash.Point("task.attached")
	if !init.Alive() { // what was pinned may be another process's
		return fmt.Errorf("its first process has ended while it was attached to the network: %w", errdefs.ErrAborted)
	}
	s, err := t.Spec(ctx)
	if err != nil {
		return err
	}
	return spec.WriteAddresses(t.bundleDir(), s, t.Container.Etc, spec.Addresses{
		IPs: res.IPs(), Servers: res.DNS.Servers, Search: res.DNS.Searches, Options: res.DNS.Options,
	})
}

// attached gives what the task has of its networks; nil when it has none, or not yet.
func (t *Task) attached() (*network.Result, error) {
	if t.Container.Network == nil || t.inc == "" {
		return nil, nil
	}
	h, err := Networks(t.d, NetworkGroup)
	if err != nil {
		return nil, err
	}
	a, err := h.Get(t.attachment())
	if errdefs.IsNotFound(err) || err == nil && !a.Whole {
		return nil, nil
	}
	return &a.Result, err
}

// detachEnded takes the tasks of the container that have ended off its networks. It needs no lock: a task that has ended stays so.
// What cannot be taken off stays recorded, for gc.
func (t *Task) detachEnded(ctx context.Context) error {
	if t.Container.Network == nil {
		return nil
	}
	h, err := Networks(t.d, NetworkGroup)
	if err != nil {
		return err
	}
	ids, err := h.Of(t.attachments())
	errs := []error{err}
	for _, id := range ids {
		inc := strings.TrimPrefix(id, t.attachments())
		if ended, err := hasEnded(filepath.Join(t.base(), inc)); err != nil || !ended {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, h.Teardown(ctx, nil, id))
	}
	return errors.Join(errs...)
}

// hasEnded tells whether nothing runs in a task directory any more, or it is not there.
func hasEnded(dir string) (bool, error) {
	v, err := taskdir.Look(dir)
	return err == nil && (v.State == taskdir.None || v.State == taskdir.Stopped), err
}

// Detach takes the tasks of the container that have ended off its networks. Whatever ends a task calls it; gc makes good
// what was left out.
func (t *Task) Detach(ctx context.Context) error {
	if err := t.detachEnded(ctx); err != nil {
		return fmt.Errorf("container %q: %w", t.ID(), err)
	}
	return nil
}

// detached is Detach where the deed goes on without: what it could not do is told, and left to gc.
func (t *Task) detached(ctx context.Context) { t.d.Warn(t.Detach(context.WithoutCancel(ctx))) }

// tidyNetworks takes off networks what nobody has any more: tasks that have ended, and those of containers that are gone.
func tidyNetworks(ctx context.Context, d *state.Dir) error {
	if _, err := os.Lstat(d.Path("networks")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	h, err := Networks(d, NetworkGroup)
	if err != nil {
		return err
	}
	return h.GC(ctx, nil, func(a network.Attachment) bool {
		if a.Owner.ID == "" {
			return false // a pin, or a record that was never written
		}
		ended, err := hasEnded(d.Run("tasks", a.Owner.Namespace, a.Owner.ID, a.Owner.Task))
		return err != nil || !ended
	})
}
