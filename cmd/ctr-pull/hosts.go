// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"os"
	"sync"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/registry"
)

// envHosts has the directories of hosts.toml files when --hosts-dir does not.
const envHosts = "CTRD_HOSTS"

// findHosts decides where hosts.toml files are looked for. A directory that was named must be there.
func (o *options) findHosts() error {
	list := cmp.Or(o.hostsDir, os.Getenv(envHosts))
	o.registry.HostDirs = registry.HostDirs(list)
	if list == "" {
		return nil
	}
	for _, dir := range o.registry.HostDirs {
		if _, err := os.ReadDir(dir); err != nil {
			return cli.Usagef("directory of registry hosts: %w", err)
		}
	}
	return nil
}

// warnings are kept while progress is drawn, and each is shown once.
type warnings struct {
	mu    sync.Mutex
	next  []string
	shown map[string]bool
}

func (w *warnings) add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = append(w.next, text)
}

func (w *warnings) show() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range w.next {
		if !w.shown[text] {
			cli.Say("warning: %s", text)
		}
		if w.shown == nil {
			w.shown = map[string]bool{}
		}
		w.shown[text] = true
	}
	w.next = nil
}
