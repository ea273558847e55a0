// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/cri"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/nri"
	"ctrd.dev/ctrd/lib/state"
)

// pluginSocket is where plugins of NRI look for a server.
const pluginSocket = "/var/run/nri/nri.sock"

// startPlugins starts the plugins of NRI; nil without an error: the configuration wants none. end is to be called at the end. Where
// another server has the socket, no plugin can connect, and all else goes on.
func startPlugins(d *state.Dir, conf func() *config.Config, log *slog.Logger) (p *nri.Plugins, end func(), err error) {
	c := conf().CRI.NRI
	if c.Disable {
		return nil, func() {}, nil
	}
	path := ""
	var held *lock.Held
	if !c.DisableConnections {
		usual := pluginSocket
		if d.Run() != state.DefaultState {
			usual = d.Run("nri.sock")
		}
		path = cmp.Or(c.SocketPath, usual)
		if held, err = holdSocket(path); err != nil {
			log.Warn("plugins of NRI cannot connect", "error", err)
			path = ""
		}
	}
	p, err = nri.Start(nri.Options{
		Dir: d, Namespace: cri.Namespace, Configuration: conf, Version: cli.Version, Log: log, Config: c, Socket: path,
	})
	if err != nil {
		if held != nil {
			err = errors.Join(err, held.Remove())
		}
		return nil, nil, err
	}
	return p, func() {
		p.Close()
		if held != nil {
			held.Remove()
		}
	}, nil
}

// holdSocket makes sure that no other server has a socket, as long as what it gives is held.
func holdSocket(path string) (*lock.Held, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	held, err := lock.Hold(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", path, err)
	}
	if who := listens(path); who != "" {
		return nil, errors.Join(fmt.Errorf("serve %s: %s listens there: %w", path, who, errdefs.ErrAlreadyExists), held.Remove())
	}
	return held, nil
}
