// SPDX-License-Identifier: Apache-2.0

package config

// CRI is what the Kubernetes CRI is served with.
type CRI struct {
	// SandboxImage is the image whose program runs in a pod's namespaces, beside the supervisor that holds them; empty: none does.
	SandboxImage string `toml:"sandbox_image"`
	// PinnedImages are names of images that the kubelet is told not to remove; what the keys are is not read.
	PinnedImages map[string]string `toml:"pinned_images,omitempty"`

	// MaxContainerLogLineSize is how many bytes a line of a log has before it is split; not positive: any number.
	MaxContainerLogLineSize int `toml:"max_container_log_line_size"`
	// EnableUnprivilegedPorts lets every user of a pod with a network of its own listen on all ports.
	EnableUnprivilegedPorts bool `toml:"enable_unprivileged_ports"`
	// EnableUnprivilegedICMP lets every user of a pod with a network of its own, and no user namespace, send pings.
	EnableUnprivilegedICMP bool `toml:"enable_unprivileged_icmp"`
	// RestrictOOMScoreAdj raises scores that are lower than ctrd's own to that.
	RestrictOOMScoreAdj bool `toml:"restrict_oom_score_adj"`
	// DeviceOwnershipFromSecurityContext gives devices to the user and the group that the container runs as.
	DeviceOwnershipFromSecurityContext bool `toml:"device_ownership_from_security_context"`
	// IgnoreImageDefinedVolumes makes no volumes of those that an image names.
	IgnoreImageDefinedVolumes bool `toml:"ignore_image_defined_volumes"`
	// TolerateMissingHugetlbController leaves out limits of huge pages where no controller has them.
	TolerateMissingHugetlbController bool `toml:"tolerate_missing_hugetlb_controller"`
	// DisableHugetlbController leaves out limits of huge pages everywhere.
	DisableHugetlbController bool `toml:"disable_hugetlb_controller"`
	// UnsetSeccompProfile is the profile of containers that ask for none, as the CRI names profiles; empty: unconfined.
	UnsetSeccompProfile string `toml:"unset_seccomp_profile"`
	// DisableAppArmor never applies AppArmor profiles.
	DisableAppArmor bool `toml:"disable_apparmor"`
	// EnableSELinux labels processes and files.
	EnableSELinux bool `toml:"enable_selinux"`
	// SELinuxCategoryRange is the number of categories that labels are made of.
	SELinuxCategoryRange int `toml:"selinux_category_range"`
	// EnableCDI has CDI devices given to containers.
	EnableCDI bool `toml:"enable_cdi"`
	// CDISpecDirs are the directories of CDI specs.
	CDISpecDirs []string `toml:"cdi_spec_dirs"`

	// DrainExecSyncIOTimeout is how long ExecSync waits for the end of output after the end of its process; 0: for ever.
	DrainExecSyncIOTimeout Duration `toml:"drain_exec_sync_io_timeout"`
	// StatsCollectPeriod is the time between two looks at the CPU time of a container, from which its rate follows.
	StatsCollectPeriod Duration `toml:"stats_collect_period"`
	// StatsRetentionPeriod is how long such a look is kept.
	StatsRetentionPeriod Duration `toml:"stats_retention_period"`

	// MaxConcurrentDownloads is how many layers of an image are fetched at once.
	MaxConcurrentDownloads int `toml:"max_concurrent_downloads"`
	// ImagePullProgressTimeout ends a pull of which no byte has come for so long; 0: never.
	ImagePullProgressTimeout Duration `toml:"image_pull_progress_timeout"`
	// ImageStatsCollectPeriod is for how long a measurement of the disk that images need is used.
	ImageStatsCollectPeriod Duration `toml:"image_stats_collect_period"`
	// DiscardUnpackedLayers keeps no blob of a layer that has been unpacked.
	DiscardUnpackedLayers bool `toml:"discard_unpacked_layers"`
	// DisableSnapshotAnnotations tells snapshotters nothing of the image that a layer is of.
	DisableSnapshotAnnotations bool `toml:"disable_snapshot_annotations"`

	// StreamServerAddress is the address on which exec, attach and port-forward are served.
	StreamServerAddress string `toml:"stream_server_address"`
	// StreamServerPort is the port for that; 0: any that is free.
	StreamServerPort Port `toml:"stream_server_port"`
	// StreamIdleTimeout ends a stream that has been silent for so long; 0: never.
	StreamIdleTimeout Duration `toml:"stream_idle_timeout"`
	// EnableTLSStreaming serves streams by TLS, with X509KeyPairStreaming or a certificate made at the start.
	EnableTLSStreaming bool `toml:"enable_tls_streaming"`
	// X509KeyPairStreaming is the certificate for EnableTLSStreaming.
	X509KeyPairStreaming KeyPair `toml:"x509_key_pair_streaming"`

	Registry Registry `toml:"registry"`
	CNI      CNI      `toml:"cni"`
	NRI      NRI      `toml:"nri"`
}

// KeyPair names the files of a certificate and its key, in PEM.
type KeyPair struct {
	Cert string `toml:"tls_cert_file"`
	Key  string `toml:"tls_key_file"`
}

// Registry is how registries are reached.
type Registry struct {
	// ConfigPath has the directories of hosts.toml files, separated by colons; empty: containerd's and docker's in /etc.
	ConfigPath string `toml:"config_path"`
	// Headers are sent with every request to a registry.
	Headers map[string][]string `toml:"headers,omitempty"`
}

// CNI is how pods get their networks.
type CNI struct {
	// BinDirs are where the plugins are looked for, in order.
	BinDirs []string `toml:"bin_dirs"`
	// ConfDir has the network configurations, of which the first MaxConfNum in the order of names are used.
	ConfDir string `toml:"conf_dir"`
	// MaxConfNum is how many configurations are used, each for an interface of its own: eth0, eth1 and so on. A pod is known by
	// the addresses of the first. 0: all.
	MaxConfNum int `toml:"max_conf_num"`
	// SetupSerially has the networks of a pod set up one after the other.
	SetupSerially bool `toml:"setup_serially"`
	// ConfTemplate is a file from which, with the addresses that the kubelet tells, a configuration in ConfDir is made; empty: none.
	ConfTemplate string `toml:"conf_template"`
	// IPPref is which address of a pod is its main one: ipv4, ipv6, or cni for the first that the plugins give.
	IPPref string `toml:"ip_pref"`
}

// NRI is how plugins of the Node Resource Interface are served.
type NRI struct {
	// Disable has no plugin asked.
	Disable bool `toml:"disable"`
	// SocketPath is where plugins connect; empty: /var/run/nri/nri.sock, and with another state directory than the usual one
	// nri.sock in that.
	SocketPath string `toml:"socket_path"`
	// PluginPath has the plugins that are started.
	PluginPath string `toml:"plugin_path"`
	// PluginConfigPath has their configurations.
	PluginConfigPath string `toml:"plugin_config_path"`
	// PluginRegistrationTimeout is how long a plugin may take to register.
	PluginRegistrationTimeout Duration `toml:"plugin_registration_timeout"`
	// PluginRequestTimeout is how long a plugin may take to answer.
	PluginRequestTimeout Duration `toml:"plugin_request_timeout"`
	// DisableConnections lets no plugin connect.
	DisableConnections bool `toml:"disable_connections"`
}
