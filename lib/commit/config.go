// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// clean makes a path one from the root, without a leading slash.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// configOf is the configuration of a base with one more layer. Fields that are not known here stay as they are.
func configOf(base []byte, diffID digest.Digest, opt Options) ([]byte, error) {
	var all map[string]json.RawMessage
	var known ocispec.Image
	var inner map[string]json.RawMessage
	for _, into := range []any{&all, &known} {
		if err := json.Unmarshal(base, into); err != nil {
			return nil, fmt.Errorf("configuration: %w: %w", err, errdefs.ErrDataLoss)
		}
	}
	if raw := all["config"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &inner); err != nil {
			return nil, fmt.Errorf("configuration: %w: %w", err, errdefs.ErrDataLoss)
		}
	}
	if inner == nil {
		inner = map[string]json.RawMessage{}
	}
	if err := change(&known.Config, opt.Changes); err != nil {
		return nil, err
	}
	created := opt.Time
	if created.IsZero() {
		created = time.Now()
	}
	created = created.UTC()
	known.RootFS.DiffIDs = append(known.RootFS.DiffIDs, diffID)
	known.History = append(known.History, ocispec.History{Created: &created, CreatedBy: "ctr-image commit", Author: opt.Author, Comment: opt.Message})
	set := func(in map[string]json.RawMessage, key string, value any, there bool) {
		if !there {
			delete(in, key)
			return
		}
		in[key], _ = json.Marshal(value) // of strings and numbers
	}
	c := known.Config
	set(inner, "Cmd", c.Cmd, len(c.Cmd) > 0)
	set(inner, "Entrypoint", c.Entrypoint, len(c.Entrypoint) > 0)
	set(inner, "Env", c.Env, len(c.Env) > 0)
	set(inner, "ExposedPorts", c.ExposedPorts, len(c.ExposedPorts) > 0)
	set(inner, "Labels", c.Labels, len(c.Labels) > 0)
	set(inner, "StopSignal", c.StopSignal, c.StopSignal != "")
	set(inner, "User", c.User, c.User != "")
	set(inner, "Volumes", c.Volumes, len(c.Volumes) > 0)
	set(inner, "WorkingDir", c.WorkingDir, c.WorkingDir != "")
	set(all, "config", inner, true)
	set(all, "created", created, true)
	if opt.Author != "" {
		set(all, "author", opt.Author, true)
	}
	set(all, "rootfs", known.RootFS, true)
	set(all, "history", known.History, true)
	// What docker kept of the container that the base was made of is not so of this image.
	delete(all, "container")
	delete(all, "container_config")
	return json.Marshal(all)
}

// change makes the changes in their order. As in a Dockerfile, a new entrypoint takes away a command that was
// for the old one, and variables have the values that the changes before have left.
func change(c *ocispec.ImageConfig, all []Change) error {
	command := false
	for _, ch := range all {
		v, err := ch.read(func(name string) string { return getEnv(c.Env, name) })
		if err != nil {
			return err
		}
		switch ch.instruction {
		case "CMD":
			c.Cmd, command = v.list, true
		case "ENTRYPOINT":
			c.Entrypoint = v.list
			if !command {
				c.Cmd = nil
			}
		case "ENV":
			for _, p := range v.pairs {
				c.Env = setEnv(c.Env, p[0], p[1])
			}
		case "LABEL":
			c.Labels = maps.Clone(c.Labels)
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			for _, p := range v.pairs {
				c.Labels[p[0]] = p[1]
			}
		case "EXPOSE":
			c.ExposedPorts = with(c.ExposedPorts, v.list)
		case "VOLUME":
			c.Volumes = with(c.Volumes, v.list)
		case "STOPSIGNAL":
			c.StopSignal = v.list[0]
		case "USER":
			c.User = v.list[0]
		case "WORKDIR":
			if c.WorkingDir = path.Join("/", c.WorkingDir, v.list[0]); path.IsAbs(v.list[0]) {
				c.WorkingDir = path.Clean(v.list[0])
			}
		}
	}
	return nil
}

// getEnv gives the value of a variable, empty of one that is not there.
func getEnv(env []string, name string) string {
	for _, v := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// setEnv gives a variable its value, where it stands if it is there.
func setEnv(env []string, key, value string) []string {
	env = slices.Clone(env)
	for i, v := range env {
		if strings.HasPrefix(v, key+"=") {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

func with(set map[string]struct{}, names []string) map[string]struct{} {
	set = maps.Clone(set)
	if set == nil {
		set = map[string]struct{}{}
	}
	for _, n := range names {
		set[n] = struct{}{}
	}
	return set
}
