// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
)

// Network is a configuration that was found.
type Network struct {
	Name    string   `json:"name"`
	Version string   `json:"version"` // of the CNI specification that it is written for
	Plugins []string `json:"plugins"`
	File    string   `json:"file,omitempty"` // empty: the ready-made one
	// Capabilities are those that a plugin of it asks for, such as "portMappings"; sorted.
	Capabilities []string `json:"capabilities,omitempty"`

	list *libcni.NetworkConfigList
}

// has tells whether a plugin of the network takes what the capability gives.
func (n Network) has(capability string) bool { return slices.Contains(n.Capabilities, capability) }

// maxConf bounds a file of configuration, in bytes.
const maxConf = 1 << 20

// ConfError says that a file of configuration cannot be used. Its kind is errdefs.ErrFailedPrecondition.
type ConfError struct {
	File string
	Err  error
}

// Error names the file and what is wrong with it.
func (e *ConfError) Error() string {
	return fmt.Sprintf("network configuration %s: %v", e.File, e.Err)
}

// Unwrap gives the kind.
func (e *ConfError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *ConfError) Hint() string {
	return "correct the file, or move it out of " + filepath.Dir(e.File)
}

// files lists the files of configuration in the order of their names, which is the order of CNI networks.
func (h Host) files() ([]string, error) {
	entries, err := os.ReadDir(h.conf())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conf", ".conflist", ".json":
			if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
				all = append(all, filepath.Join(h.conf(), e.Name()))
			}
		}
	}
	return all, nil
}

// Networks lists the networks that there are: those of Conf by the names of their files, and last the ready-made one. A
// file that cannot be used is left out, and is a [*ConfError] in errs. Of two of one name the first counts.
func (h Host) Networks() (all []Network, errs []error) {
	files, err := h.files()
	if err != nil {
		errs = append(errs, err)
	}
	for _, file := range files {
		n, err := load(file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !slices.ContainsFunc(all, func(o Network) bool { return o.Name == n.Name }) {
			all = append(all, n)
		}
	}
	if h.ReadyMade && !slices.ContainsFunc(all, func(n Network) bool { return n.Name == OwnName }) {
		own, err := h.ownNetwork()
		if err != nil {
			errs = append(errs, err)
		} else {
			all = append(all, own)
		}
	}
	return all, errs
}

// load reads a file of configuration.
func load(file string) (Network, error) {
	data, err := readBounded(file)
	if err != nil {
		return Network{}, &ConfError{file, err}
	}
	list, err := parse(data, filepath.Ext(file) == ".conflist")
	if err == nil && filepath.Ext(file) == ".conflist" && !list.LoadOnlyInlinedPlugins {
		var more []*libcni.PluginConfig
		more, err = libcni.NetworkPluginConfsFromFiles(filepath.Dir(file), list.Name)
		list.Plugins = append(list.Plugins, more...)
	}
	if err == nil && len(list.Plugins) == 0 {
		err = errors.New("it has no plugins")
	}
	if err != nil {
		return Network{}, &ConfError{file, err}
	}
	n, err := describe(list)
	if err != nil {
		return Network{}, &ConfError{file, err}
	}
	n.File = file
	return n, nil
}

func readBounded(file string) ([]byte, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxConf {
		return nil, fmt.Errorf("it is no file of at most %d bytes", maxConf)
	}
	return os.ReadFile(file)
}

// parse reads a network configuration of the CNI specification: a list of plugins, or with list false the older
// form of a single one, unless it is a list for all that.
func parse(data []byte, list bool) (*libcni.NetworkConfigList, error) {
	if !list {
		var form struct {
			Plugins json.RawMessage `json:"plugins"`
		}
		list = json.Unmarshal(data, &form) == nil && form.Plugins != nil
	}
	if list {
		l, err := libcni.NetworkConfFromBytes(data)
		if err == nil {
			err = checkName(l.Name)
		}
		return l, err
	}
	single, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	if single.Network.Type == "" {
		return nil, errors.New("it has neither plugins nor a type")
	}
	if err := checkName(single.Network.Name); err != nil {
		return nil, err
	}
	//lint:ignore SA1019 hosts have such files, and containerd reads them
	return libcni.ConfListFromConf(single)
}

// checkName refuses a name of a network that could not be that of a lock or of a file of libcni.
func checkName(name string) error {
	if checkID(name) != nil {
		return fmt.Errorf("its name %.100q is none that CNI allows", name)
	}
	return nil
}

// describe gives the network of a configuration, whose Bytes hold all its plugins from then on.
func describe(list *libcni.NetworkConfigList) (Network, error) {
	n := Network{Name: list.Name, Version: list.CNIVersion, list: list}
	whole := map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}
	if list.DisableCheck {
		whole["disableCheck"] = true
	}
	if list.DisableGC {
		whole["disableGC"] = true
	}
	var plugins []json.RawMessage
	for _, p := range list.Plugins {
		if p.Network.Type == "" || strings.ContainsRune(p.Network.Type, '/') {
			return n, fmt.Errorf("%.100q is no type of a plugin", p.Network.Type)
		}
		n.Plugins = append(n.Plugins, p.Network.Type)
		for name, wanted := range p.Network.Capabilities {
			if wanted && !slices.Contains(n.Capabilities, name) {
				n.Capabilities = append(n.Capabilities, name)
			}
		}
		plugins = append(plugins, p.Bytes)
	}
	slices.Sort(n.Capabilities)
	whole["plugins"] = plugins
	var err error
	list.Bytes, err = json.Marshal(whole)
	return n, err
}

// MissingError says that there is no such network, or none at all. Its kind is errdefs.ErrNotFound.
type MissingError struct {
	Name string // empty: any
	Conf string
	// Broken are the files that may have been it.
	Broken []error
}

// Error says what was looked for and where.
func (e *MissingError) Error() string {
	text := fmt.Sprintf("network %q: there is none of that name in %s", e.Name, e.Conf)
	if e.Name == "" {
		text = "there is no network configuration in " + e.Conf
	}
	if len(e.Broken) > 0 {
		text += "; " + errors.Join(e.Broken...).Error()
	}
	return text
}

// Unwrap gives the kind.
func (e *MissingError) Unwrap() error { return errdefs.ErrNotFound }

// Hint names the next step.
func (e *MissingError) Hint() string {
	return "put a CNI configuration there, see ctr-task-run(1)"
}

// Find gives the network of that name. BridgeName is, where no configuration has that name, the default network.
func (h Host) Find(name string) (Network, error) {
	if name == "" {
		return h.Default()
	}
	all, errs := h.Networks()
	for _, n := range all {
		if n.Name == name {
			return n, nil
		}
	}
	if name == BridgeName {
		return h.Default()
	}
	return Network{}, &MissingError{name, h.conf(), errs}
}

// BridgeName is docker's name of the default network.
const BridgeName = "bridge"

// Default gives the network of the first file in Conf; a first file that cannot be used is an error, and no other file is
// taken in its place. Without any it is the ready-made network, if that is asked for, else a [*MissingError].
func (h Host) Default() (Network, error) {
	files, err := h.files()
	if err != nil {
		return Network{}, err
	}
	if len(files) > 0 {
		return load(files[0])
	}
	if h.ReadyMade {
		return h.ownNetwork()
	}
	return Network{}, &MissingError{Conf: h.conf()}
}

// First gives the names of the first networks in Conf, at most so many; 0: all of them. A file that cannot be used, and two of one
// name, are errors. Without any it is none, which stands for the default network.
func (h Host) First(most int) (names []string, err error) {
	files, err := h.files()
	if err != nil {
		return nil, err
	}
	if most > 0 {
		files = files[:min(most, len(files))]
	}
	for _, file := range files {
		n, err := load(file)
		if err == nil && slices.Contains(names, n.Name) {
			err = &ConfError{file, fmt.Errorf("another file has a network %q, too", n.Name)}
		}
		if err != nil {
			return nil, err
		}
		names = append(names, n.Name)
	}
	return names, nil
}

// PluginError says that a plugin is not installed. Its kind is errdefs.ErrFailedPrecondition.
type PluginError struct {
	Network, Plugin string
	Bin             []string
}

// Error names the plugin and where it was looked for.
func (e *PluginError) Error() string {
	return fmt.Sprintf("network %q: its plugin %q is not installed: it is in none of %s", e.Network, e.Plugin, strings.Join(e.Bin, ", "))
}

// Unwrap gives the kind.
func (e *PluginError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *PluginError) Hint() string {
	return "apt install containernetworking-plugins, or put the plugin into one of these directories; CNI_PATH names others"
}

// checkPlugins tells which plugin of a network is not installed.
func (h Host) checkPlugins(n Network) error {
	for _, p := range n.list.Plugins {
		if _, err := invoke.FindInPath(p.Network.Type, h.bin()); err != nil {
			return &PluginError{n.Name, p.Network.Type, h.bin()}
		}
		var with struct {
			IPAM struct {
				Type string `json:"type"`
			} `json:"ipam"`
		}
		if json.Unmarshal(p.Bytes, &with) != nil || with.IPAM.Type == "" {
			continue
		}
		if _, err := invoke.FindInPath(with.IPAM.Type, h.bin()); err != nil {
			return &PluginError{n.Name, with.IPAM.Type, h.bin()}
		}
	}
	return checkTools(n)
}
