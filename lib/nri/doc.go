// SPDX-License-Identifier: Apache-2.0

// Package nri serves plugins of the Node Resource Interface: they are asked about pods and containers of the CRI before
// something is done to them, may change containers that are made, and are told what has been done.
//
// Plugins connect to a socket, or are started from a directory, and live as long as the server. Each answer is waited for as
// long as the configuration says; a plugin that is late, or has gone, is dropped, and what it was asked about goes on without it.
package nri
