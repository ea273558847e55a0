// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
)

// Setup pins the network namespace and attaches it to the networks. When it fails, nothing of it is left. An id that is
// attached already gives its result again, and one whose Setup was cut short is attached anew; so a Setup may be called
// again at any time, by one caller at a time. A [Host.Teardown] meanwhile makes it errdefs.ErrAborted. outer is the
// innermost lock that the caller holds, or nil.
func (h Host) Setup(ctx context.Context, outer *lock.Lock, r Request) (Result, error) {
	res, err := h.setup(ctx, outer, r)
	if err != nil {
		return Result{}, fmt.Errorf("attach to the network: %w", err)
	}
	return res, nil
}

func (h Host) setup(ctx context.Context, outer *lock.Lock, r Request) (res Result, err error) {
	all, err := h.choose(r)
	if err != nil {
		return res, err
	}
	if err := h.replay(ctx, outer); err != nil {
		return res, err
	}
	old, ok, err := h.read(r.ID)
	if err != nil {
		return res, err
	}
	if ok && old.whole() && old.Boot == h.Boot && !h.isRemoving(r.ID) {
		if pinned, err := IsNetns(h.Netns(r.ID)); err == nil && pinned {
			return old.result()
		}
	}
	if ok && (h.touched(old) || h.isRemoving(r.ID)) {
		if err := h.detach(ctx, outer, old, r.From != ""); err != nil {
			return res, err
		}
	}
	rec, err := h.record(ctx, outer, r, all)
	if err != nil {
		return res, err
	}
	crash.Point("network.recorded")
	if r.From != "" {
		err = h.PinNetns(r.ID, r.From)
	} else if pinned, e := IsNetns(h.Netns(r.ID)); e != nil || !pinned {
		err = errors.Join(fmt.Errorf("no network namespace is pinned at %s: %w", h.Netns(r.ID), errdefs.ErrFailedPrecondition), e)
	}
	crash.Point("network.pinned")
	for i := range all {
		if err == nil {
			err = h.add(ctx, outer, &rec, i)
		}
	}
	if err == nil {
		res, err = rec.result()
	}
	if err == nil {
		err = r.satisfied(res)
	}
	if err != nil {
		return res, errors.Join(err, h.detach(context.WithoutCancel(ctx), outer, rec, r.From != ""))
	}
	crash.Point("network.added")
	return res, nil
}

// choose finds the networks of a request, and sees what can be seen before anything is made.
func (h Host) choose(r Request) (all []Network, err error) {
	names := r.Networks
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		n, err := h.Find(name)
		if err == nil {
			err = h.checkPlugins(n)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, r.check(all)
}

// Usable tells whether the networks of a request are there with their plugins, and do what it asks for. It makes nothing.
func (h Host) Usable(r Request) error {
	r.ID = "usable"
	_, err := h.choose(r)
	return err
}

// record writes down what is going to be attached, and chooses host ports.
func (h Host) record(ctx context.Context, outer *lock.Lock, r Request, all []Network) (rec record, err error) {
	rec = record{ID: r.ID, Boot: h.Boot, Owner: r.Owner}
	if rec.Host, err = thisNetns(); err != nil {
		return rec, err
	}
	if err := h.makeDirs(r.ID); err != nil {
		return rec, err
	}
	if all[0].has("portMappings") && len(r.Ports) > 0 {
		// Two that choose at once must not choose the same.
		l, err := h.lock(ctx, outer, "ports")
		if err != nil {
			return rec, err
		}
		defer func() { err = errors.Join(err, l.Release()) }()
		if r.Ports, err = h.choosePorts(r); err != nil {
			return rec, errors.Join(err, h.forget(r.ID))
		}
		rec.Ports = r.Ports
	} else {
		r.Ports = nil
	}
	for i, n := range all {
		if n, err = n.trimmed(r, i == 0); err != nil {
			return rec, err
		}
		caps, args := r.capabilities(n, i == 0)
		rec.Networks = append(rec.Networks, joined{
			Name: n.Name, Interface: "eth" + strconv.Itoa(i), Config: n.list.Bytes, Args: args, Capabilities: caps, Waits: true,
		})
	}
	return rec, h.writeFirst(rec)
}

// add attaches one network of a record.
func (h Host) add(ctx context.Context, outer *lock.Lock, rec *record, i int) (err error) {
	j := &rec.Networks[i]
	l, err := h.lock(ctx, outer, j.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if h.isRemoving(rec.ID) {
		return fmt.Errorf("somebody has taken it off meanwhile: %w", errdefs.ErrAborted)
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	list, err := parse(j.Config, true)
	if err != nil {
		return err
	}
	if err := h.prepare(rec.ID, j.Name); err != nil {
		return err
	}
	j.Waits = false
	if err := h.writeNow(*rec); err != nil {
		return err
	}
	left := len(list.Plugins)
	results := &chain{keep: func(answer json.RawMessage) error {
		var compact bytes.Buffer
		if err := json.Compact(&compact, answer); err != nil {
			return err
		}
		j.Result = compact.Bytes()
		crash.Point("network.plugin-added")
		left--
		j.Added = left == 0
		return h.writeNow(*rec)
	}}
	result, err := h.cni(plugins{held: l, chain: results}).AddNetworkList(ctx, list, h.runtimeConf(rec.ID, *j, h.Netns(rec.ID)))
	if err != nil {
		return named(j.Name, err)
	}
	last, err := json.Marshal(result)
	if err != nil || bytes.Equal(last, j.Result) {
		return err
	}
	j.Result = last // as libcni understands it
	return h.writeNow(*rec)
}

// named says of which network an error is, once.
func named(name string, err error) error {
	if p, ok := errors.AsType[*PluginError](err); ok {
		return &PluginError{name, p.Plugin, p.Bin}
	}
	return fmt.Errorf("network %q: %w", name, err)
}

func (h Host) runtimeConf(id string, j joined, netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: j.Interface, Args: j.Args, CapabilityArgs: j.Capabilities}
}

// result says what an attachment has, by what plugins have answered.
func (r record) result() (res Result, err error) {
	res.Ports = r.Ports
	for _, j := range r.Networks {
		if len(j.Result) == 0 {
			continue
		}
		i, dns, err := readResult(j.Result, j.Interface)
		if err != nil {
			return res, named(j.Name, err)
		}
		i.Network = j.Name
		res.Interfaces = append(res.Interfaces, i)
		res.DNS.Servers = append(res.DNS.Servers, dns.Servers...)
		res.DNS.Searches = append(res.DNS.Searches, dns.Searches...)
		res.DNS.Options = append(res.DNS.Options, dns.Options...)
	}
	return res, nil
}

// readResult reads a plugin's answer to ADD, of any version of the specification.
func readResult(answer []byte, name string) (i Interface, dns DNS, err error) {
	version := struct {
		CNIVersion string `json:"cniVersion"`
	}{}
	if err := json.Unmarshal(answer, &version); err != nil {
		return i, dns, err
	}
	any, err := create.Create(cmp.Or(version.CNIVersion, "0.1.0"), answer)
	if err != nil {
		return i, dns, err
	}
	res, err := types100.NewResultFromResult(any)
	if err != nil {
		return i, dns, err
	}
	i.Name = name
	for _, one := range res.Interfaces {
		if one != nil && one.Name == name && one.Sandbox != "" {
			i.MAC = one.Mac
		}
	}
	for _, ip := range res.IPs {
		if ip == nil {
			continue
		}
		if n := ip.Interface; n != nil && (*n < 0 || *n >= len(res.Interfaces) || res.Interfaces[*n] == nil || res.Interfaces[*n].Sandbox == "") {
			continue // an address of the host's side
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		bits, _ := ip.Address.Mask.Size()
		if !ok {
			return i, dns, fmt.Errorf("the answer has the address %q", ip.Address.String())
		}
		i.Addresses = append(i.Addresses, netip.PrefixFrom(addr.Unmap(), bits))
		if gw, ok := netip.AddrFromSlice(ip.Gateway); ok {
			i.Gateways = append(i.Gateways, gw.Unmap())
		}
	}
	dns = DNS{Servers: res.DNS.Nameservers, Searches: res.DNS.Search, Options: res.DNS.Options}
	if res.DNS.Domain != "" {
		dns.Searches = append([]string{res.DNS.Domain}, dns.Searches...)
	}
	return i, dns, nil
}

// satisfied tells whether plugins have done what they cannot have overlooked: given the addresses that were asked for.
func (r Request) satisfied(res Result) error {
	for _, want := range r.IPs {
		if !slices.Contains(res.IPs(), want) && !r.Lenient {
			return fmt.Errorf("network %q gives no static address: asked for %s, it gave %v: %w", res.Interfaces[0].Network, want, res.IPs(), errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// Teardown takes the attachment off all its networks, by what was recorded when it was made, and takes its network
// namespace's pin away. What is not there is success. When a plugin fails, the record stays and the other networks are
// taken off all the same; [Host.GC] tries again. outer is the innermost lock that the caller holds, or nil.
func (h Host) Teardown(ctx context.Context, outer *lock.Lock, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	rec, ok, err := h.read(id)
	if err == nil && !ok {
		return errors.Join(h.forget(id), h.RemoveNetns(id))
	}
	if err == nil {
		err = h.detach(ctx, outer, rec, true)
	}
	if err != nil {
		return fmt.Errorf("take %s off the network: %w", cmp.Or(rec.Owner.ID, id), err)
	}
	return nil
}

// detach is Teardown of a record. With unpin the namespace goes, too.
func (h Host) detach(ctx context.Context, outer *lock.Lock, rec record, unpin bool) error {
	h.markRemoving(rec.ID)
	crash.Point("network.removing")
	var errs []error
	for i := range slices.Backward(rec.Networks) {
		errs = append(errs, h.del(ctx, outer, rec.ID, i))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	crash.Point("network.deleted")
	if unpin {
		if err := h.RemoveNetns(rec.ID); err != nil {
			return err
		}
	}
	crash.Point("network.unpinned")
	return h.forget(rec.ID)
}

// del takes one network of an attachment off. The record is read under the network's lock: the ADD before may just have
// ended, or another teardown may have come first.
func (h Host) del(ctx context.Context, outer *lock.Lock, id string, i int) (err error) {
	rec, ok, err := h.read(id)
	if err != nil || !ok || i >= len(rec.Networks) {
		return err
	}
	l, err := h.lock(ctx, outer, rec.Networks[i].Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if rec, ok, err = h.read(id); err != nil || !ok || i >= len(rec.Networks) {
		return err
	}
	j := rec.Networks[i]
	if j.Waits && rec.Boot == h.Boot {
		return nil
	}
	list, err := parse(j.Config, true)
	if err != nil {
		return named(j.Name, err)
	}
	enter, gone, err := h.place(rec)
	if err != nil {
		return err
	}
	netns := h.Netns(id)
	if pinned, err := IsNetns(netns); err != nil || !pinned || gone {
		netns = "" // as the specification wants it for one that is gone
	}
	conf := h.runtimeConf(id, j, netns)
	cni := h.cni(plugins{held: l, enter: enter, chain: &chain{last: j.Result}})
	if err := cni.DelNetworkList(ctx, list, conf); err != nil {
		return named(j.Name, err)
	}
	return nil
}

// Check asks the plugins whether the attachment is still as it was made. One that is not there is errdefs.ErrNotFound, one
// that is not whole or whose namespace is gone errdefs.ErrFailedPrecondition.
func (h Host) Check(ctx context.Context, outer *lock.Lock, id string) error {
	rec, ok, err := h.read(id)
	switch pinned, e := IsNetns(h.Netns(id)); {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("network attachment %q: %w", id, errdefs.ErrNotFound)
	case !rec.whole() || h.isRemoving(id) || e != nil || !pinned:
		return fmt.Errorf("network attachment %q is not whole: %w", id, errdefs.ErrFailedPrecondition)
	}
	for _, j := range rec.Networks {
		if err := h.check(ctx, outer, rec, j); err != nil {
			return fmt.Errorf("check attachment %q: %w", id, named(j.Name, err))
		}
	}
	return nil
}

func (h Host) check(ctx context.Context, outer *lock.Lock, rec record, j joined) (err error) {
	id := rec.ID
	enter, gone, err := h.place(rec)
	if err == nil && gone {
		err = fmt.Errorf("the network namespace that it was attached from has ended: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return err
	}
	l, err := h.lock(ctx, outer, j.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	list, err := parse(j.Config, true)
	if err != nil {
		return err
	}
	err = h.cni(plugins{held: l, enter: enter, chain: &chain{last: j.Result}}).CheckNetworkList(ctx, list, h.runtimeConf(id, j, h.Netns(id)))
	if errors.Is(err, libcni.ErrorCheckNotSupp) {
		return nil // a configuration of before there was CHECK
	}
	var said *types.Error
	if errors.As(err, &said) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return err
}
