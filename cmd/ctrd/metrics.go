// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/native"
	"ctrd.dev/ctrd/lib/state"
)

// scrapeFor is how long a client may take to ask for metrics, and to read them.
const scrapeFor = 30 * time.Second

// serveMetrics has Prometheus find metrics on sockets that systemd gave, or on one that it makes, and on a port if one is
// configured. Who asks for metrics keeps no server from being idle. release is to be called at the end.
func serveMetrics(d *state.Dir, c config.Metrics, m *native.Metrics, given []listener, log *slog.Logger) (release func(), err error) {
	var listeners []net.Listener
	undo := func() {}
	for _, l := range given {
		listeners = append(listeners, l.UnixListener)
	}
	if len(given) == 0 && c.Socket != "none" {
		l, held, err := makeSocket(cmp.Or(c.Socket, d.Run("metrics.sock")), config.Socket{Mode: 0o600})
		if err != nil { // another ctrd has it
			log.Warn("there are no metrics on a socket", "error", err)
		} else {
			listeners, undo = append(listeners, l), func() { held.Remove() }
		}
	}
	if c.Address != "" {
		l, err := net.Listen("tcp", c.Address)
		if err != nil {
			undo()
			return nil, fmt.Errorf("metrics: %w", err)
		}
		listeners = append(listeners, l)
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if err := m.Write(r.Context(), w, d, cli.Version); err != nil {
			log.Warn("metrics", "error", err)
		}
	})
	mux := http.NewServeMux()
	mux.Handle("GET /v1/metrics", answer) // containerd's path
	mux.Handle("GET /metrics", answer)
	srv := &http.Server{Handler: mux, ReadTimeout: scrapeFor, WriteTimeout: scrapeFor, IdleTimeout: scrapeFor, MaxHeaderBytes: 16 << 10}
	for _, l := range listeners {
		log.Info("serving", "address", l.Addr().String(), "api", "metrics")
		go func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				log.Warn("metrics are not served any more", "address", l.Addr().String(), "error", err)
			}
		}()
	}
	return func() { srv.Close(); undo() }, nil
}
