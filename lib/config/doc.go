// SPDX-License-Identifier: Apache-2.0

// Package config reads the configuration of ctrd serve and ctr-cri: a TOML file, and drop-ins in the directory config.d
// beside it, of which each later one in the order of names overrides the earlier ones key by key. The other commands have
// no configuration but options and environment.
//
// A setting has containerd's name where it has containerd's meaning. A key that means nothing is an error that names it with
// file and line; so is a value that no setting can have. default.toml has every setting with its default and what it is for.
//
// [Import] makes such a file of containerd's config.toml.
package config
