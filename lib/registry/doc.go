// SPDX-License-Identifier: Apache-2.0

// Package registry reads manifests and blobs from a container registry, as the OCI distribution
// specification (v1.1) defines it. It is the only package that opens a network connection.
//
// What it promises beyond one request: whatever answers 408, 429 or 5xx, or breaks the connection, is
// tried again with growing pauses and with the server's Retry-After; a blob whose transfer breaks goes
// on where it stopped; every manifest is checked against its digest; credentials go to the registry and
// to the token server that it names, and to nobody else. Blob bytes are not checked here: whoever
// keeps them hashes them.
//
// Plain HTTP is spoken to loopback addresses and to whoever [Options.PlainHTTP] allows. Proxies come
// from the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).
package registry
