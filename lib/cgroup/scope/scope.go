// SPDX-License-Identifier: Apache-2.0

// Package scope asks systemd for a scope around processes that run: a unit with a cgroup of its own, which systemd
// forgets when the last process has ended. It speaks D-Bus, and is a package by itself so that only a program
// that needs that links it.
package scope

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Scope is what is asked for.
type Scope struct {
	Name        string // "ctrd-shim-default--web.scope"
	Slice       string // "" is system.slice
	Description string // for a person, in systemctl status
}

// Start makes the scope and moves the process into it, and returns when systemd has done so. A scope of that name
// that has failed is replaced; one that lives is errdefs.ErrAlreadyExists. Without a systemd to ask it is
// errdefs.ErrUnavailable.
func Start(ctx context.Context, s Scope, pid int) error {
	// On the bus, or for root on systemd's own socket where there is no bus.
	c, err := systemd.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("scope %q: systemd does not answer: %w: %w", s.Name, err, errdefs.ErrUnavailable)
	}
	defer c.Close()
	err = start(ctx, c, s, pid)
	if isError(err, "org.freedesktop.systemd1.UnitExists") {
		// A failed one stays until it is told to go.
		if c.ResetFailedUnitContext(ctx, s.Name) == nil {
			err = start(ctx, c, s, pid)
		}
	}
	if isError(err, "org.freedesktop.systemd1.UnitExists") {
		err = fmt.Errorf("%w: %w", errdefs.ErrAlreadyExists, err)
	}
	if err != nil {
		return fmt.Errorf("scope %q for process %d: %w", s.Name, pid, err)
	}
	return nil
}

func start(ctx context.Context, c *systemd.Conn, s Scope, pid int) error {
	properties := []systemd.Property{
		systemd.PropDescription(s.Description),
		systemd.PropPids(uint32(pid)),
		{Name: "CollectMode", Value: dbus.MakeVariant("inactive-or-failed")},
	}
	if s.Slice != "" {
		properties = append(properties, systemd.PropSlice(s.Slice))
	}
	done := make(chan string, 1)
	if _, err := c.StartTransientUnitContext(ctx, s.Name, "fail", properties, done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("systemd says %q", result)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Stop ends the scope and returns when systemd has forgotten it. One that is not there is stopped. Without a systemd to
// ask it is errdefs.ErrUnavailable.
func Stop(ctx context.Context, name string) error {
	c, err := systemd.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("scope %q: systemd does not answer: %w: %w", name, err, errdefs.ErrUnavailable)
	}
	defer c.Close()
	if err := stop(ctx, c, name); err != nil && !isError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		return fmt.Errorf("stop scope %q: %w", name, err)
	}
	_ = c.ResetFailedUnitContext(ctx, name) // most have not failed
	return nil
}

func stop(ctx context.Context, c *systemd.Conn, name string) error {
	done := make(chan string, 1)
	if _, err := c.StopUnitContext(ctx, name, "replace", done); err != nil {
		return err
	}
	select {
	case <-done: // a scope that does not end is still there when it is made again, which says so
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func isError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}
