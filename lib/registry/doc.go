// SPDX-License-Identifier: Apache-2.0

// Package registry reads and writes manifests and blobs of a container registry, as the OCI distribution
// specification (v1.1) defines it. It is the only package that opens a network connection.
//
// # Hosts
//
// Which hosts are asked for a registry's images, in which order and with which certificates, is read from
// directories of hosts.toml files, with containerd's meaning (its docs/hosts.md), or of certificates, with
// docker's. A host that fails is given up for the next one, also in the middle of a blob; one that lacks a
// thing is asked for the next thing all the same. Plain HTTP is spoken where it is configured, and to loopback
// addresses that speak no TLS. Proxies come from the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).
//
// # Credentials
//
// They come from a file as docker and containers-auth.json(5) have it. The entry with the most specific path
// counts, component by component; one of another path is never sent. They go to the host that they are for and
// to the token server that it names, and to nobody else: neither with a redirect nor to a mirror. The same holds of the
// headers that are configured for a host, as their values may be secrets. A token
// server on a loopback or private address is asked only for a registry on such an address, one on a link-local
// address never.
//
// # Pushes
//
// A push goes to the first host that is configured for it, and to that alone. Its tokens are for pull and push, and
// those with which a blob is mounted from another repository for that one too. Where an upload goes on is what the
// registry says, also on another host, which is sent no credentials.
//
// # Failures
//
// Whatever answers 408, 429 or 5xx, or breaks the connection, is tried again with growing pauses and with the
// server's Retry-After, within a budget; a blob whose transfer breaks goes on where it stopped. Every manifest
// is checked against its digest. Blob bytes are not checked here: whoever keeps them hashes them, and reports
// wrong ones with [Repository.Distrust].
package registry
