// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Names, relative to the bundle, of files that mounts of a specification refer to.
const (
	hostsFile    = "hosts"
	hostnameFile = "hostname"
	resolvFile   = "resolv.conf"
	initFile     = "init"
)

// InitPath is where a container with Options.Init has the first process, a ctr-shim.
const InitPath = "/sbin/ctr-init"

// Etc is what /etc/hosts and /etc/resolv.conf of a container say besides what follows from its
// specification and from the host's files. A record of a container keeps it.
type Etc struct {
	Hosts   []string `json:"hosts,omitempty"`   // lines: address, TAB, name
	Servers []string `json:"servers,omitempty"` // addresses of name servers; empty: the host's
	Search  []string `json:"search,omitempty"`  // search domains; empty: the host's, "." alone: none
	Options []string `json:"options,omitempty"` // options of resolv.conf(5); empty: the host's
	// Networked says that the container's name stands for addresses that networks give it.
	Networked bool `json:"networked,omitempty"`
}

func parseEtc(o Options) (e Etc, err error) {
	e.Networked = o.Networked
	for _, text := range o.AddHosts {
		name, addr, err := ParseAddHost(text)
		if err != nil {
			return e, err
		}
		e.Hosts = append(e.Hosts, addr.String()+"\t"+name)
	}
	for _, text := range o.DNS {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return e, invalid("dns", text, "want an IP address")
		}
		e.Servers = append(e.Servers, addr.String())
	}
	for _, text := range o.DNSSearch {
		if !validWord(text) {
			return e, invalid("dns-search", text, "want a domain, or . for none")
		}
		e.Search = append(e.Search, text)
	}
	for _, text := range o.DNSOptions {
		if !validWord(text) {
			return e, invalid("dns-option", text, "want an option of resolv.conf(5) such as ndots:2")
		}
		e.Options = append(e.Options, text)
	}
	return e, nil
}

// ParseAddHost parses docker's --add-host: NAME:ADDRESS or NAME=ADDRESS, the address IPv4 or IPv6, also in
// brackets.
func ParseAddHost(text string) (name string, addr netip.Addr, err error) {
	i := strings.IndexAny(text, ":=")
	if i < 0 || !validWord(text[:i]) {
		return "", addr, invalid("add-host", text, "want NAME:ADDRESS")
	}
	name, value := text[:i], text[i+1:]
	if value == "host-gateway" {
		return "", addr, invalid("add-host", text, "the host has no address in the networks that there are: --net host and none")
	}
	if strings.HasPrefix(value, "[") && strings.HasSuffix(value, "]") {
		value = value[1 : len(value)-1]
	}
	if addr, err = netip.ParseAddr(value); err != nil {
		return "", addr, invalid("add-host", text, "%q is no IP address", value)
	}
	return name, addr, nil
}

// validWord says whether text can stand in /etc/hosts or /etc/resolv.conf as one word: printable ASCII
// without blanks, and no start of a comment.
func validWord(text string) bool {
	for _, r := range text {
		if r <= ' ' || r >= 0x7f || r == '#' || r == ';' {
			return false
		}
	}
	return text != "" && len(text) <= 253
}

// etcMounts are the files of /etc that a container has of its own. As docker has it, it may write them.
func etcMounts(o Options, e Etc) []specs.Mount {
	var list []specs.Mount
	add := func(dst, src string) {
		list = append(list, specs.Mount{Destination: dst, Type: "bind", Source: src, Options: []string{"rbind", "rprivate"}})
	}
	if !joined(o.UTS) { // whose name is known at the start alone
		add("/etc/hostname", hostnameFile)
	}
	add("/etc/hosts", hostsFile)
	resolv := len(e.Servers)+len(e.Search)+len(e.Options) > 0
	if (o.Net == "host" || o.Networked) && !resolv {
		_, err := os.Stat(hostResolv)
		resolv = err == nil
	}
	if resolv {
		add("/etc/resolv.conf", resolvFile)
	}
	return list
}

const (
	hostHosts  = "/etc/hosts"
	hostResolv = "/etc/resolv.conf"
)

// contents gives what the files must hold that Generate has mounted from the bundle, by their names there. A
// container that shares the host's network begins with copies of the host's files.
func contents(s *specs.Spec, e Etc) (map[string]string, error) {
	files := map[string]string{}
	for _, m := range s.Mounts {
		var text string
		var err error
		switch m.Source {
		case hostsFile:
			text, err = hosts(s, e)
		case hostnameFile:
			text = hostname(s) + "\n"
		case resolvFile:
			text, err = hostServers(e.Networked)
			text = resolv(text, e)
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		files[m.Source] = text
	}
	return files, nil
}

// WriteFiles writes the files into the bundle that Generate has mounted from there, readable for every user of the container whatever
// the caller's umask. init is the path of ctr-shim, which becomes the first process where Options.Init
// asked for it.
func WriteFiles(bundle string, s *specs.Spec, e Etc, init string) error {
	files, err := contents(s, e)
	if err != nil {
		return err
	}
	for name, text := range files {
		path := filepath.Join(bundle, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
		if s.Linux == nil || len(s.Linux.UIDMappings) == 0 {
			continue
		}
		// The container's root may write them.
		if err := os.Lchown(path, hostID(s.Linux.UIDMappings), hostID(s.Linux.GIDMappings)); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Source == initFile }) {
		return os.Symlink(init, filepath.Join(bundle, initFile))
	}
	return nil
}

// hostID is what 0 of a container is on the host.
func hostID(list []specs.LinuxIDMapping) int {
	for _, m := range list {
		if m.ContainerID == 0 {
			return int(m.HostID)
		}
	}
	return 0
}

// MakeDirs makes directories and their missing parents, each 0755 whatever the caller's umask. One that is
// there is left as it is.
func MakeDirs(dirs []string) error {
	for _, dir := range dirs {
		var missing []string
		for p := filepath.Clean(dir); ; p = filepath.Dir(p) {
			_, err := os.Stat(p)
			if err == nil || p == filepath.Dir(p) {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			missing = append(missing, p)
		}
		for _, p := range slices.Backward(missing) {
			err := os.Mkdir(p, 0o755)
			if errors.Is(err, fs.ErrExist) {
				continue // somebody else was faster
			}
			if err == nil {
				err = os.Chmod(p, 0o755)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func hostname(s *specs.Spec) string {
	if s.Hostname != "" {
		return s.Hostname
	}
	name, _ := os.Hostname() // it shares the host's
	return name
}

func hosts(s *specs.Spec, e Etc) (string, error) {
	shares := s.Linux != nil && !slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	text := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if shares {
		var err error
		if text, err = hostFile(hostHosts); err != nil {
			return "", err
		}
	} else if name := hostname(s); name != "localhost" && !e.Networked {
		text += "127.0.0.1\t" + allNames(s, name) + "\n"
	}
	for _, line := range e.Hosts {
		text += line + "\n"
	}
	return text, nil
}

// allNames is the line of /etc/hosts for a name, without the address.
func allNames(s *specs.Spec, name string) string {
	if s.Domainname != "" {
		return name + "." + s.Domainname + " " + name
	}
	return name
}

// hostFile reads a file of the host that ends with a line break; one that is absent is empty.
func hostFile(name string) (string, error) {
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("copy the host's file: %w", err)
	}
	text := string(b)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text, nil
}

// resolv puts what e says in the place of what the host's file says of the same kind.
func resolv(host string, e Etc) string {
	var b strings.Builder
	for line := range strings.Lines(host) {
		key, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		key, _, _ = strings.Cut(key, "\t")
		switch {
		case key == "nameserver" && len(e.Servers) > 0:
		case (key == "search" || key == "domain") && len(e.Search) > 0:
		case key == "options" && len(e.Options) > 0:
		default:
			b.WriteString(line)
		}
	}
	if search := e.Search; len(search) > 0 && !slices.Equal(search, []string{"."}) {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	for _, s := range e.Servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(e.Options) > 0 {
		b.WriteString("options " + strings.Join(e.Options, " ") + "\n")
	}
	return b.String()
}
