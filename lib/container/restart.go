// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/taskdir"
)

// Labels of containerd's restart monitor. They are the record of a restart policy, so that containerd's clients
// see and change it.
const (
	LabelRestartStatus  = "containerd.io/restart.status"             // "running" or "stopped": what it is meant to be
	LabelRestartPolicy  = "containerd.io/restart.policy"             // as [ParseRestart] reads it
	LabelRestartCount   = "containerd.io/restart.count"              // restarts so far
	LabelRestartLog     = "containerd.io/restart.loguri"             // where the output of a task goes that no client starts
	LabelRestartStopped = "containerd.io/restart.explicitly-stopped" // "true" after a stop that a person asked for
)

// The restart policies.
const (
	RestartNo            = "no"
	RestartAlways        = "always"
	RestartOnFailure     = "on-failure"     // at most Max times in a row; 0: no bound
	RestartUnlessStopped = "unless-stopped" // as always, but not after a stop and a reboot
)

// ParseRestart parses docker's --restart: no, always, unless-stopped or on-failure[:MAX]. "" is no. Count of
// what it gives is 0.
func ParseRestart(text string) (taskdir.Restart, error) {
	name, most, bounded := strings.Cut(text, ":")
	r := taskdir.Restart{Policy: name}
	ok := true
	switch name {
	case "", RestartNo:
		r.Policy = ""
		ok = !bounded
	case RestartAlways, RestartUnlessStopped:
		ok = !bounded
	case RestartOnFailure:
		if bounded {
			n, err := strconv.ParseUint(most, 10, 31)
			r.Max, ok = int(n), err == nil && n > 0
		}
	default:
		ok = false
	}
	if !ok {
		return taskdir.Restart{}, fmt.Errorf("--restart %q: want no, always, unless-stopped or on-failure[:MAX]: %w", text, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

// RestartLabels gives the labels of a container that is meant to run with a policy; none for "no".
func RestartLabels(r taskdir.Restart) map[string]string {
	if r.Policy == "" || r.Policy == RestartNo {
		return nil
	}
	policy := r.Policy
	if r.Max > 0 {
		policy += ":" + strconv.Itoa(r.Max)
	}
	return map[string]string{LabelRestartPolicy: policy, LabelRestartStatus: "running", LabelRestartCount: strconv.Itoa(r.Count)}
}

// RestartOf reads the policy of a container from its labels, with the count. One that is meant to run and names no
// policy is always restarted, as containerd's monitor has it. Labels that say nothing sensible are no policy: any client
// may write them.
func RestartOf(labels map[string]string) taskdir.Restart {
	policy, named := labels[LabelRestartPolicy]
	if !named && labels[LabelRestartStatus] == "running" {
		policy = RestartAlways
	}
	r, err := ParseRestart(policy)
	if err != nil || r.Policy == "" {
		return taskdir.Restart{}
	}
	if n, err := strconv.ParseUint(labels[LabelRestartCount], 10, 31); err == nil {
		r.Count = int(n)
	}
	return r
}

// IsRestartLabel tells whether a label belongs to the restart policy.
func IsRestartLabel(key string) bool { return strings.HasPrefix(key, "containerd.io/restart.") }
