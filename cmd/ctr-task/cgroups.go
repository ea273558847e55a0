// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/task"
)

// cgroupsFlag is --cgroups of the verbs that start a container.
type cgroupsFlag struct{ text string }

func (c *cgroupsFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.text, "cgroups", "", "split keeps the container in the systemd unit of this command, enabled does not: `enabled|split` (default: split in the foreground, in a unit with Delegate=yes)")
	cli.CompleteOption(cmd, "cgroups", cobra.FixedCompletions([]string{"enabled", "split"}, cobra.ShellCompDirectiveNoFileComp))
}

// value is where to start containers.
func (c *cgroupsFlag) value() (task.Cgroups, error) {
	switch v := task.Cgroups(c.text); v {
	case task.CgroupsAuto, task.CgroupsEnabled, task.CgroupsSplit:
		return v, nil
	}
	return "", cli.Usagef("--cgroups: want enabled or split, not %q", c.text)
}

// tellOutside says that a container is not part of the unit that runs this command, where that was to be expected.
func tellOutside(t *task.Task) {
	if u := t.Outside(); u != "" {
		cli.Say("%s has no Delegate=yes, so the container is not in its cgroup; --cgroups enabled says that this is meant", u)
	}
}

// checkCgroup refuses options of the container's cgroup that contradict each other.
func checkCgroup(driver, parent string, c task.Cgroups) error {
	switch cgroup.Driver(driver) {
	case "", cgroup.Cgroupfs, cgroup.Systemd:
	default:
		return cli.Usagef("--cgroup-driver: want cgroupfs or systemd, not %q", driver)
	}
	if c == task.CgroupsSplit && (parent != "" || cgroup.Driver(driver) == cgroup.Systemd) {
		return cli.Usagef("--cgroups split: the container is in the unit of this command, not in a slice or below another cgroup")
	}
	return nil
}
