// SPDX-License-Identifier: Apache-2.0

package config

import "reflect"

// Restart names the settings that differ in two configurations and that a server reads only when it starts.
func Restart(was, is *Config) (keys []string) {
	for _, s := range []struct {
		key     string
		was, is any
	}{
		{"cgroup", was.Cgroup, is.Cgroup},
		{"sockets", was.Sockets, is.Sockets},
		{"proxy_plugins", was.ProxyPlugins, is.ProxyPlugins},
		{"metrics", was.Metrics, is.Metrics},
		{"cri.stream_server_address", was.CRI.StreamServerAddress, is.CRI.StreamServerAddress},
		{"cri.stream_server_port", was.CRI.StreamServerPort, is.CRI.StreamServerPort},
		{"cri.enable_tls_streaming", was.CRI.EnableTLSStreaming, is.CRI.EnableTLSStreaming},
		{"cri.x509_key_pair_streaming", was.CRI.X509KeyPairStreaming, is.CRI.X509KeyPairStreaming},
		{"cri.nri", was.CRI.NRI, is.CRI.NRI},
	} {
		if !reflect.DeepEqual(s.was, s.is) {
			keys = append(keys, s.key)
		}
	}
	return keys
}
