// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/config"
)

// settings are the configuration that a server goes by: that of the file, and over it what options say.
type settings struct {
	file  string // empty: the usual one
	over  []func(*config.Config) error
	now   atomic.Pointer[config.Config]
	level slog.LevelVar
}

// option has a flag of a command, if it is given, go before the file.
func (s *settings) option(cmd *cobra.Command, name string, set func(*config.Config) error) {
	s.over = append(s.over, func(c *config.Config) error {
		if !cmd.Flags().Changed(name) {
			return nil
		}
		return set(c)
	})
}

// load reads the configuration, which is in force when there is no error.
func (s *settings) load() error {
	c, err := config.Load(s.file)
	if err != nil {
		return cli.Hint(err, "ctrd config check says all that is wrong, ctrd config default what there is to be set")
	}
	for _, set := range s.over {
		if err := set(c); err != nil {
			return err
		}
	}
	if err := s.level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return cli.Usagef("--log-level %q: want debug, info, warn or error", c.LogLevel)
	}
	s.now.Store(c)
	return nil
}

// get gives the configuration that is in force.
func (s *settings) get() *config.Config { return s.now.Load() }

// warn tells of settings that have no effect.
func (s *settings) warn(log *slog.Logger) {
	for _, line := range s.get().Idle() {
		log.Warn("configuration: " + line)
	}
}

// reload reads the configuration again. One that is wrong leaves the old one in force.
func (s *settings) reload(log *slog.Logger) {
	was := s.get()
	if err := s.load(); err != nil {
		for line := range strings.Lines(err.Error()) { // a mistake each
			log.Error("the configuration is not reloaded", "error", strings.TrimSuffix(line, "\n"))
		}
		return
	}
	log.Info("the configuration is reloaded")
	s.warn(log)
	if keys := config.Restart(was, s.get()); len(keys) > 0 {
		log.Warn("some settings change when ctrd starts again", "settings", strings.Join(keys, ", "))
	}
}

// idle gives how long a server that systemd activated stays without a call; 0: for ever.
func (s *settings) idle() time.Duration { return time.Duration(s.get().IdleTimeout) }
