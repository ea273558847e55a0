// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
)

// rule says what becomes of a setting of containerd. The first one that fits counts.
type rule struct {
	from  string // pattern of its key; see match
	to    string // pattern of the key here; empty: it has no equal
	usual any    // the value that says nothing, as ctrd does that anyway or has a usual value of its own
	why   string // it has no equal
	take  func(m *importer, key []string, value any) (why string)
}

// The plugins of containerd's config.toml: of version 2 the CRI is one, of later ones three.
const (
	criPlugin     = "plugins io.containerd.grpc.v1.cri|io.containerd.cri.v1.runtime|io.containerd.cri.v1.images "
	runtimePlugin = "plugins io.containerd.grpc.v1.cri|io.containerd.cri.v1.runtime containerd runtimes * "
)

const noPause = "pods have no pause image; sandbox_image in [cri] is for those that need one"

// rules are containerd's settings, of versions 2 to 4 (containerd, docs/cri/config.md and containerd config default). They are
// made by a call, since the linker keeps what a variable has from the start: all of the import, in every command.
func rules() []rule {
	return []rule{
		{from: "root", usual: "/var/lib/containerd", why: "the option --root says it"},
		{from: "state", usual: "/run/containerd", why: "the option --state says it"},
		{from: "imports", why: "these files are not read; import each of them"},
		{from: "debug level", take: takeLevel},
		{from: "cgroup path", to: "cgroup path"},
		{from: "oom_score", why: "OOMScoreAdjust= of the unit says it"},

		{from: "grpc address", to: "sockets native address", usual: "/run/containerd/containerd.sock"},
		{from: "grpc uid", to: "sockets native uid"},
		{from: "grpc gid", take: takeGroup("native")},
		{from: "ttrpc address", to: "sockets ttrpc address", usual: "/run/containerd/containerd.sock.ttrpc"},
		{from: "ttrpc uid", to: "sockets ttrpc uid"},
		{from: "ttrpc gid", take: takeGroup("ttrpc")},
		{from: "plugins io.containerd.server.v1.grpc address", to: "sockets native address", usual: "/run/containerd/containerd.sock"},
		{from: "plugins io.containerd.server.v1.grpc uid", to: "sockets native uid"},
		{from: "plugins io.containerd.server.v1.grpc gid", take: takeGroup("native")},
		{from: "plugins io.containerd.server.v1.ttrpc address", to: "sockets ttrpc address", usual: "/run/containerd/containerd.sock.ttrpc"},
		{from: "plugins io.containerd.server.v1.ttrpc uid", to: "sockets ttrpc uid"},
		{from: "plugins io.containerd.server.v1.ttrpc gid", take: takeGroup("ttrpc")},
		{from: "grpc max_recv_message_size|max_send_message_size", usual: 16 << 20, why: "messages have at most 16 MiB"},
		{from: "plugins io.containerd.server.v1.grpc|io.containerd.server.v1.grpc-tcp max_recv_message_size|max_send_message_size", usual: 16 << 20, why: "messages have at most 16 MiB"},
		{from: "metrics address", to: "metrics address", usual: ""},
		{from: "metrics grpc_histogram", to: "metrics grpc_histogram"},
		{from: "plugins io.containerd.server.v1.metrics address", to: "metrics address", usual: ""},
		{from: "plugins io.containerd.metrics.v1.grpc-prometheus grpc_histogram", to: "metrics grpc_histogram"},
		{from: "plugins io.containerd.gc.v1.scheduler schedule_delay", to: "gc schedule_delay", usual: "0s"},
		{from: "plugins io.containerd.gc.v1.scheduler pause_threshold", usual: 0.02, why: "a collection stops nobody"},
		{from: "plugins io.containerd.gc.v1.scheduler mutation_threshold", usual: 100, why: "a removal is followed by a collection"},
		{from: "plugins io.containerd.gc.v1.scheduler startup_delay", usual: "100ms", why: "a start is followed by none"},

		{from: criPlugin + "sandbox_image", take: takePause},
		{from: criPlugin + "pinned_images sandbox", take: takePause},
		{from: criPlugin + "pinned_images *", to: "cri pinned_images *"},
		{from: "plugins io.containerd.cri.v1.runtime stats_collect_period", to: "cri stats_collect_period", usual: ""},
		{from: criPlugin + "stats_collect_period", take: takeSeconds("cri image_stats_collect_period")},
		{from: criPlugin + "stats_retention_period", to: "cri stats_retention_period", usual: ""},
		{from: criPlugin + "max_container_log_line_size", to: "cri max_container_log_line_size"},
		{from: criPlugin + "enable_unprivileged_ports", to: "cri enable_unprivileged_ports"},
		{from: criPlugin + "enable_unprivileged_icmp", to: "cri enable_unprivileged_icmp"},
		{from: criPlugin + "restrict_oom_score_adj", to: "cri restrict_oom_score_adj"},
		{from: criPlugin + "device_ownership_from_security_context", to: "cri device_ownership_from_security_context"},
		{from: criPlugin + "ignore_image_defined_volumes", to: "cri ignore_image_defined_volumes"},
		{from: criPlugin + "tolerate_missing_hugetlb_controller", to: "cri tolerate_missing_hugetlb_controller"},
		{from: criPlugin + "disable_hugetlb_controller", to: "cri disable_hugetlb_controller"},
		{from: criPlugin + "unset_seccomp_profile", to: "cri unset_seccomp_profile"},
		{from: criPlugin + "disable_apparmor", to: "cri disable_apparmor"},
		{from: criPlugin + "enable_selinux", to: "cri enable_selinux"},
		{from: criPlugin + "selinux_category_range", to: "cri selinux_category_range"},
		{from: criPlugin + "enable_cdi", to: "cri enable_cdi"},
		{from: criPlugin + "cdi_spec_dirs", to: "cri cdi_spec_dirs"},
		{from: criPlugin + "drain_exec_sync_io_timeout", to: "cri drain_exec_sync_io_timeout"},
		{from: criPlugin + "enable_criu", usual: true, why: "whether containers can be checkpointed depends on criu alone"},
		{from: criPlugin + "max_concurrent_downloads", to: "cri max_concurrent_downloads"},
		{from: criPlugin + "image_pull_progress_timeout", to: "cri image_pull_progress_timeout"},
		{from: criPlugin + "discard_unpacked_layers", to: "cri discard_unpacked_layers"},
		{from: criPlugin + "containerd discard_unpacked_layers", to: "cri discard_unpacked_layers"},
		{from: criPlugin + "disable_snapshot_annotations", to: "cri disable_snapshot_annotations"},
		{from: criPlugin + "containerd disable_snapshot_annotations", to: "cri disable_snapshot_annotations"},
		{from: criPlugin + "image_decryption key_model", usual: "node", why: "images that are encrypted are not decrypted"},
		{from: criPlugin + "disable_tcp_service", usual: true, why: "the CRI is on no port"},
		{from: criPlugin + "stream_server_address", to: "cri stream_server_address", usual: ""},
		{from: criPlugin + "stream_server_port", to: "cri stream_server_port"},
		{from: criPlugin + "stream_idle_timeout", to: "cri stream_idle_timeout"},
		{from: criPlugin + "enable_tls_streaming", to: "cri enable_tls_streaming"},
		{from: criPlugin + "x509_key_pair_streaming ...", to: "cri x509_key_pair_streaming"},
		{from: criPlugin + "registry config_path", to: "cri registry config_path"},
		{from: criPlugin + "registry headers ...", to: "cri registry headers"},
		{from: criPlugin + "registry ...", why: "registries are configured by hosts.toml files in config_path"},
		{from: criPlugin + "cni bin_dir", take: takeBinDir},
		{from: criPlugin + "cni use_internal_loopback", usual: false, why: "the loopback device is always set up without a plugin"},
		{from: criPlugin + "cni ip_pref", to: "cri cni ip_pref", usual: ""},
		{from: criPlugin + "cni ...", to: "cri cni"},
		{from: criPlugin + "containerd default_runtime_name", to: "default_runtime"},
		{from: criPlugin + "containerd snapshotter", to: "snapshotter"},
		{from: criPlugin + "snapshotter", to: "snapshotter"},
		{from: "plugins io.containerd.transfer.v1.local max_concurrent_downloads", to: "cri max_concurrent_downloads", usual: 3},
		{from: "plugins io.containerd.transfer.v1.local config_path", to: "cri registry config_path", usual: ""},
		{from: "plugins io.containerd.transfer.v1.local max_concurrent_uploaded_layers", usual: 3, why: "ctr-push has an option for it"},
		{from: "plugins io.containerd.transfer.v1.local max_concurrent_unpacks", usual: 1, why: "layers are unpacked as they come"},

		{from: runtimePlugin + "runtime_type", take: takeType},
		{from: runtimePlugin + "sandboxer", usual: "podsandbox", why: "a pod's supervisor is its sandbox"},
		{from: runtimePlugin + "io_type|disable_pause_image_pull", why: "it has no equal"},
		{from: runtimePlugin + "options *", take: takeOption},
		{from: runtimePlugin + "*", to: "runtimes * *"},

		{from: "plugins io.containerd.nri.v1.nri default_validator ...", why: "NRI's validator is not configured here"},
		{from: "plugins io.containerd.nri.v1.nri ...", to: "cri nri"},
		{from: "proxy_plugins ...", take: takeProxy},
		{from: "plugins io.containerd.snapshotter.v1.erofs enable_fsverity", usual: true, why: "layers have fs-verity wherever the root's file system has it"},

		{from: "stream_processors io.containerd.ocicrypt.decoder.v1.tar|io.containerd.ocicrypt.decoder.v1.tar.gzip ...", take: takeQuiet},
		{from: "timeouts ...", take: takeQuiet},
		{from: "plugins io.containerd.differ.v1.erofs|io.containerd.image-verifier.v1.bindir|io.containerd.internal.v1.opt ...", take: takeQuiet},
		{from: "plugins io.containerd.monitor.container.v1.restart interval", usual: "10s", why: "a container is started again by its supervisor, at once"},
		{from: "plugins io.containerd.metadata.v1.bolt content_sharing_policy", usual: "shared", why: "blobs are shared"},
		{from: "plugins io.containerd.service.v1.diff-service default", usual: "[walking]", why: "it has no equal"},
		{from: "plugins io.containerd.runtime.v2.task platforms", take: takeQuiet},
	}
}

// takeQuiet takes nothing and says nothing: it sets up what ctrd has not, and that does no harm.
func takeQuiet(*importer, []string, any) string { return "" }

func takePause(_ *importer, _ []string, value any) string {
	if s, _ := value.(string); strings.Contains(s, "pause") || s == "" {
		return "" // an image that does nothing is not needed
	}
	return noPause
}

func takeLevel(m *importer, _ []string, value any) string {
	level, ok := map[string]string{"": "", "trace": "debug", "debug": "debug", "info": "info", "warn": "warn", "warning": "warn", "error": "error", "fatal": "error", "panic": "error"}[fmt.Sprint(value)]
	if !ok {
		return "it is no level"
	}
	if level != "" {
		put(m.out, []string{"log_level"}, level)
	}
	return ""
}

func takeGroup(socket string) func(*importer, []string, any) string {
	return func(m *importer, _ []string, value any) string {
		if gid, ok := value.(int64); !ok || gid < 0 {
			return "it is no number of a group"
		} else if gid > 0 {
			put(m.out, []string{"sockets", socket, "group"}, fmt.Sprint(gid))
			put(m.out, []string{"sockets", socket, "mode"}, "0660")
		}
		return ""
	}
}

func takeSeconds(to string) func(*importer, []string, any) string {
	return func(m *importer, _ []string, value any) string {
		n, ok := value.(int64)
		if !ok || n < 0 || n > 1<<31 {
			return "it is no number of seconds"
		}
		put(m.out, strings.Fields(to), fmt.Sprintf("%ds", n))
		return ""
	}
}

func takeBinDir(m *importer, _ []string, value any) string {
	dir, ok := value.(string)
	if !ok {
		return "it is no directory"
	}
	if dir != "" {
		put(m.out, []string{"cri", "cni", "bin_dirs"}, []any{dir})
	}
	return ""
}

// runcType is the shim whose place ctrd's own supervisor takes: it has the same options.
const runcType = "io.containerd.runc.v2"

func takeType(m *importer, key []string, value any) string {
	if value == runcType {
		value = "" // ctrd's own
	}
	if _, ok := value.(string); !ok {
		return "it is no name of a shim"
	}
	put(m.out, []string{"runtimes", key[4], "runtime_type"}, value)
	return ""
}

// takeOption takes an option of a shim over. Of those of runc's shim, two are settings here.
func takeOption(m *importer, key []string, value any) string {
	runtime, option := key[4], key[6]
	kind := m.find("plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes", runtime, "runtime_type")
	if kind == nil {
		kind = m.find("plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes", runtime, "runtime_type")
	}
	switch {
	case kind != runcType:
		put(m.out, []string{"runtimes", runtime, "options", option}, value)
	case option == "SystemdCgroup" && value == true:
		put(m.out, []string{"cgroup_driver"}, "systemd")
	case option == "BinaryName" && value != "":
		if _, ok := value.(string); !ok {
			return "it is no program"
		}
		put(m.out, []string{"runtimes", runtime, "engine"}, value)
	case !isZero(value):
		return "ctrd's own supervisor, which takes the place of runc's shim, is not told it by a configuration"
	}
	return ""
}

func takeProxy(m *importer, key []string, value any) string {
	if m.find("proxy_plugins", key[1], "type") != "snapshot" {
		return "only snapshotters can be served by others"
	}
	m.set(key, key, value)
	return ""
}
