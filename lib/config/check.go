// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// checker collects what is wrong with values.
type checker struct {
	w   where
	all Mistakes
}

// refuse notes that a setting, named with its tables, has a value that it cannot have.
func (c *checker) refuse(key []string, format string, args ...any) {
	at, name := "", keyText(key)
	for n := len(key); n > 0 && at == ""; n-- {
		at = c.w[keyText(key[:n])]
	}
	if at != "" {
		at += ": "
	}
	c.all = append(c.all, fmt.Sprintf("%s%s: %s", at, name, fmt.Sprintf(format, args...)))
}

func (c *checker) oneOf(value string, key []string, want ...string) {
	if !slices.Contains(want, value) {
		c.refuse(key, "%q is none of %s", value, strings.Trim(strings.Join(want, ", "), ", "))
	}
}

// absolute refuses a path that is not empty and not absolute.
func (c *checker) absolute(path string, key ...string) {
	if path != "" && (!filepath.IsAbs(path) || strings.ContainsRune(path, 0)) {
		c.refuse(key, "%q is no absolute path", path)
	}
}

func (c *checker) atLeast(value, least int, key ...string) {
	if value < least {
		c.refuse(key, "%d is less than %d", value, least)
	}
}

// check says what is wrong with the values of a configuration.
func (c *Config) check(w where) Mistakes {
	k := &checker{w: w}
	k.oneOf(c.LogLevel, []string{"log_level"}, "debug", "info", "warn", "error")
	k.oneOf(c.CgroupDriver, []string{"cgroup_driver"}, "", "cgroupfs", "systemd")
	if !isName(c.Snapshotter) {
		k.refuse([]string{"snapshotter"}, "%q is no name of a snapshotter", c.Snapshotter)
	}
	if _, ok := c.Runtimes[c.DefaultRuntime]; !ok {
		k.refuse([]string{"default_runtime"}, "there is no table runtimes.%s", keyText([]string{c.DefaultRuntime}))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		k.runtime(c.Runtimes[name], "runtimes", name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.ProxyPlugins)) {
		k.proxy(c.ProxyPlugins[name], "proxy_plugins", name)
	}
	if slices.Contains(strings.Split(c.Cgroup.Path, "/"), "..") || strings.ContainsRune(c.Cgroup.Path, 0) {
		k.refuse([]string{"cgroup", "path"}, "%q is no path of a cgroup", c.Cgroup.Path)
	}
	k.socket(c.Sockets.Native, "sockets", "native")
	k.socket(c.Sockets.CRI, "sockets", "cri")
	k.socket(c.Sockets.TTRPC, "sockets", "ttrpc")
	if c.Metrics.Socket != "none" {
		k.absolute(c.Metrics.Socket, "metrics", "socket")
	}
	if _, _, err := net.SplitHostPort(c.Metrics.Address); c.Metrics.Address != "" && err != nil {
		k.refuse([]string{"metrics", "address"}, "%q is not HOST:PORT", c.Metrics.Address)
	}
	k.cri(&c.CRI)
	return k.all
}

func (c *checker) socket(s Socket, key ...string) {
	at := func(name string) []string { return append(slices.Clip(key), name) }
	c.absolute(s.Address, at("address")...)
	if len(s.Address) > 107 { // sun_path of unix(7), with the NUL
		c.refuse(at("address"), "a path of %d bytes is too long for a socket; it may have 107", len(s.Address))
	}
	if s.Mode&^0o770 != 0 {
		c.refuse(at("mode"), "%04o lets everybody connect, who would be as good as root", s.Mode)
	}
	c.atLeast(s.UID, 0, at("uid")...)
}

func (c *checker) runtime(r Runtime, key ...string) {
	at := func(name string) []string { return append(slices.Clip(key), name) }
	if !isName(key[1]) {
		c.refuse(key, "%q is no name of a runtime", key[1])
	}
	c.absolute(r.Path, at("runtime_path")...)
	c.absolute(r.CNIConfDir, at("cni_conf_dir")...)
	c.absolute(r.BaseRuntimeSpec, at("base_runtime_spec")...)
	c.atLeast(r.CNIMaxConfNum, 0, at("cni_max_conf_num")...)
	if strings.Contains(r.Engine, "/") {
		c.absolute(r.Engine, at("engine")...)
	}
	if r.Engine != "" && (r.Type != "" || r.Path != "") {
		c.refuse(at("engine"), "it is for ctrd's own supervisor, and runtime_type or runtime_path names another")
	}
	if r.Type != "" && strings.Count(r.Type, ".") < 2 {
		c.refuse(at("runtime_type"), "%q is no name of a shim such as io.containerd.runc.v2", r.Type)
	}
	if r.Snapshotter != "" && !isName(r.Snapshotter) {
		c.refuse(at("snapshotter"), "%q is no name of a snapshotter", r.Snapshotter)
	}
	if r.PrivilegedWithoutHostDevicesAllDevicesAllowed && !r.PrivilegedWithoutHostDevices {
		c.refuse(at("privileged_without_host_devices_all_devices_allowed"), "it needs privileged_without_host_devices")
	}
}

// Snapshotters are the names of ctrd's own, which no key of ProxyPlugins can be.
var Snapshotters = []string{"overlayfs", "native", "btrfs", "erofs"}

func (c *checker) proxy(p ProxyPlugin, key ...string) {
	at := func(name string) []string { return append(slices.Clip(key), name) }
	if !isName(key[1]) {
		c.refuse(key, "%q is no name of a snapshotter", key[1])
	}
	if slices.Contains(Snapshotters, key[1]) {
		c.refuse(key, "ctrd has a snapshotter of that name; call it otherwise, and say by snapshotter what its server calls it")
	}
	c.oneOf(p.Type, at("type"), "snapshot")
	if p.Snapshotter != "" && !isName(p.Snapshotter) {
		c.refuse(at("snapshotter"), "%q is no name of a snapshotter", p.Snapshotter)
	}
	if p.Address == "" {
		c.refuse(at("address"), "want the path of its socket")
	}
	c.absolute(p.Address, at("address")...)
	if root, ok := p.Exports["root"]; ok {
		c.absolute(root, append(at("exports"), "root")...)
	}
}

func (c *checker) cri(r *CRI) {
	c.oneOf(r.CNI.IPPref, []string{"cri", "cni", "ip_pref"}, "ipv4", "ipv6", "cni", "")
	c.atLeast(r.CNI.MaxConfNum, 0, "cri", "cni", "max_conf_num")
	c.atLeast(r.MaxConcurrentDownloads, 1, "cri", "max_concurrent_downloads")
	c.atLeast(r.SELinuxCategoryRange, 2, "cri", "selinux_category_range")
	if r.StatsCollectPeriod == 0 {
		c.refuse([]string{"cri", "stats_collect_period"}, "it cannot be zero")
	}
	if r.StatsRetentionPeriod < r.StatsCollectPeriod {
		c.refuse([]string{"cri", "stats_retention_period"}, "it is shorter than stats_collect_period")
	}
	if net.ParseIP(r.StreamServerAddress) == nil {
		c.refuse([]string{"cri", "stream_server_address"}, "%q is no address of IP", r.StreamServerAddress)
	}
	if pair := r.X509KeyPairStreaming; (pair.Cert == "") != (pair.Key == "") {
		c.refuse([]string{"cri", "x509_key_pair_streaming"}, "want both tls_cert_file and tls_key_file, or neither")
	}
	for i, dir := range r.CNI.BinDirs {
		c.absolute(dir, "cri", "cni", "bin_dirs", strconv.Itoa(i))
	}
	for i, dir := range r.CDISpecDirs {
		c.absolute(dir, "cri", "cdi_spec_dirs", strconv.Itoa(i))
	}
	for _, dir := range filepath.SplitList(r.Registry.ConfigPath) {
		c.absolute(dir, "cri", "registry", "config_path")
	}
	for _, file := range []struct{ path, key string }{
		{r.CNI.ConfDir, "cni.conf_dir"}, {r.CNI.ConfTemplate, "cni.conf_template"}, {r.NRI.SocketPath, "nri.socket_path"},
		{r.NRI.PluginPath, "nri.plugin_path"}, {r.NRI.PluginConfigPath, "nri.plugin_config_path"},
		{r.X509KeyPairStreaming.Cert, "x509_key_pair_streaming.tls_cert_file"},
		{r.X509KeyPairStreaming.Key, "x509_key_pair_streaming.tls_key_file"},
	} {
		c.absolute(file.path, append([]string{"cri"}, strings.Split(file.key, ".")...)...)
	}
}

// isName tells whether a text is an identifier as containerd has them: letters and digits, joined by single '.', '_' or '-'.
func isName(s string) bool {
	joint := true
	for _, r := range []byte(s) {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			joint = false
		case !joint && (r == '.' || r == '_' || r == '-'):
			joint = true
		default:
			return false
		}
	}
	return !joint && len(s) <= 76
}
