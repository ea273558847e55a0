// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// capability says what a host may be asked for (containerd, docs/hosts.md).
type capability uint8

const (
	canPull    capability = 1 << iota // content by digest
	canResolve                        // what a tag stands for
	canPush
	canRefer // what refers to a digest
	canAll   = canPull | canResolve | canPush | canRefer
)

type capabilityName struct {
	one  capability
	name string
}

var capabilityNames = []capabilityName{{canPull, "pull"}, {canResolve, "resolve"}, {canPush, "push"}, {canRefer, "referrers"}}

// String lists the capabilities, separated by commas.
func (c capability) String() string {
	var all []string
	for _, n := range capabilityNames {
		if c&n.one != 0 {
			all = append(all, n.name)
		}
	}
	return strings.Join(all, ",")
}

// hostConfig is how one host is reached.
type hostConfig struct {
	scheme      string // http, https, or empty: HTTPS, and HTTP where the host speaks no TLS
	host        string
	path        string // below which the repositories are: /v2
	override    bool   // path need not be one that the distribution specification has
	caps        capability
	caFiles     []string
	clientPairs []keyPair
	skipVerify  bool
	header      http.Header
	dialTimeout time.Duration // 0: the usual one
	from        string        // what configured it: a file, an option, or "default"
}

// keyPair names the files of a client certificate and its key, which may be one file.
type keyPair struct{ cert, key string }

// The usual places of host directories, containerd's first.
const (
	containerdDir = "/etc/containerd/certs.d"
	dockerDir     = "/etc/docker/certs.d"
)

// HostDirs gives the directories of hosts.toml files to use: those of a list that is separated by colons, or,
// when it is empty, those of containerd and docker in /etc.
func HostDirs(list string) []string {
	if list == "" {
		return []string{containerdDir, dockerDir}
	}
	return filepath.SplitList(list)
}

// findHosts gives the hosts to ask for the images of a registry, in order. With Options.PlainHTTP the registry
// itself is reached by HTTP, whatever is configured.
func findHosts(registry string, opt Options) ([]hostConfig, error) {
	hosts := []hostConfig{{from: "default"}}
	for _, root := range opt.HostDirs {
		dir, err := hostDir(root, registry)
		if err != nil {
			return nil, err
		}
		if dir == "" {
			continue
		}
		if hosts, err = loadHostDir(dir, opt.Warn); err != nil {
			return nil, err
		}
		break
	}
	if own := &hosts[len(hosts)-1]; own.host == "" {
		own.complete(registry)
	}
	for i, h := range hosts {
		if opt.PlainHTTP && canonicalHost(h.host) == canonicalHost(registry) {
			hosts[i].scheme = "http"
		}
	}
	return hosts, nil
}

// complete fills in the address of the registry itself.
func (h *hostConfig) complete(registry string) {
	h.host, h.scheme, h.path, h.caps = registry, "https", "/v2", canAll
	switch {
	case canonicalHost(registry) == hub:
		h.host = hubRegistry
	case isLoopback(registry):
		_, port, _ := net.SplitHostPort(registry)
		switch port {
		case "", "443":
		case "80":
			h.scheme = "http"
		default:
			h.scheme = ""
		}
	}
}

// hostDir finds the directory of a registry below root: HOST_PORT_, HOST:PORT, HOST, or _default, as
// containerd does. It is empty when there is none.
func hostDir(root, registry string) (string, error) {
	names := []string{registry, "_default"}
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		names = []string{registry[:i] + "_" + registry[i+1:] + "_", registry, "_default"}
	}
	for _, name := range names {
		dir := filepath.Join(root, name)
		_, err := os.Stat(dir)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return "", fmt.Errorf("configuration of registry %q: %w", registry, err)
		}
		if errors.Is(err, os.ErrPermission) {
			return "", fmt.Errorf("configuration of registry %q: %w: %w", registry, err, errdefs.ErrPermissionDenied)
		}
	}
	return "", nil
}

// loadHostDir reads hosts.toml, or, where there is none or it is empty, certificates as docker names them.
func loadHostDir(dir string, warn func(string)) ([]hostConfig, error) {
	file := filepath.Join(dir, "hosts.toml")
	data, err := readSmall(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read registry configuration: %w", err)
	}
	if len(data) == 0 {
		host, err := loadCertificates(dir)
		return []hostConfig{host}, err
	}
	hosts, odd, err := parseHosts(data, file)
	if err != nil {
		return nil, err
	}
	for _, text := range odd {
		if warn != nil {
			warn(text)
		}
	}
	return hosts, nil
}

// maxHostsFile bounds a hosts.toml, in bytes.
const maxHostsFile = 1 << 20

func readSmall(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxHostsFile {
		return nil, fmt.Errorf("%s: no regular file of at most %d bytes: %w", path, maxHostsFile, errdefs.ErrInvalidArgument)
	}
	return os.ReadFile(path)
}

// loadCertificates reads a directory of docker's certs.d: *.crt are authorities, *.cert and *.key are client
// certificates and their keys.
func loadCertificates(dir string) (hostConfig, error) {
	h := hostConfig{from: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return h, fmt.Errorf("read registry configuration: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			h.caFiles = append(h.caFiles, path)
		case ".cert":
			pair := keyPair{path, strings.TrimSuffix(path, ".cert") + ".key"}
			if _, err := os.Stat(pair.key); errors.Is(err, os.ErrNotExist) {
				pair.key = path
			}
			h.clientPairs = append(h.clientPairs, pair)
		}
	}
	return h, nil
}
