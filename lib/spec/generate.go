// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ociVersion is the oldest that has all that is used here: engines refuse what is newer than they are.
const ociVersion = "1.1.0"

// Generate makes the specification of a container; its root is "rootfs", relative to the bundle. It looks
// at the host (sources of mounts, devices, what the kernel can) and changes nothing. For its errors see the
// package.
func Generate(ctx context.Context, img ocispec.ImageConfig, o Options) (Result, error) {
	if err := o.normalize(); err != nil {
		return Result{}, err
	}
	if err := o.UserNS.check(o); err != nil {
		return Result{}, err
	}
	sec, err := parseSecurity(o.SecurityOpt)
	if err != nil {
		return Result{}, err
	}
	volumes, err := parseMounts(o)
	if err != nil {
		return Result{}, err
	}
	r := Result{Join: joins(o)}
	if r.Etc, err = parseEtc(o); err != nil {
		return Result{}, err
	}
	o.Open = seen(volumes, o.Open)
	if o.NoImageVolumes {
		img.Volumes = nil
	}
	if volumes, r.Volumes, err = addVolumes(img, volumes); err != nil {
		return Result{}, err
	}
	p, err := process(ctx, img, o)
	if err != nil {
		return Result{}, err
	}
	p.NoNewPrivileges = sec.noNewPrivileges
	s := &specs.Spec{
		Version:    ociVersion,
		Process:    p,
		Root:       &specs.Root{Path: "rootfs", Readonly: o.ReadOnly},
		Hostname:   o.Hostname,
		Domainname: o.Domainname,
		Linux: &specs.Linux{
			CgroupsPath: o.CgroupsPath, Namespaces: namespaces(o),
			UIDMappings: o.UserNS.UIDs, GIDMappings: o.UserNS.GIDs,
		},
	}
	r.Spec = s
	if s.Annotations, err = annotations(o.Annotations); err != nil {
		return Result{}, err
	}
	if r.Mkdir, err = addMounts(s, o, r.Etc, volumes); err != nil {
		return Result{}, err
	}
	if err := confine(s, o, sec); err != nil {
		return Result{}, err
	}
	if err := giveCDI(s, o); err != nil {
		return Result{}, err
	}
	r.DefaultSeccomp = sec.seccomp == "" && !o.Privileged
	return r, nil
}

// confine fills in what the container may use, see and do.
func confine(s *specs.Spec, o Options, sec security) (err error) {
	if s.Linux.Resources, err = o.Resources(); err != nil {
		return err
	}
	if err := devices(o, s.Linux); err != nil {
		return err
	}
	if s.Linux.Sysctl, err = sysctls(o); err != nil {
		return err
	}
	if !o.Privileged && !sec.unmask {
		s.Linux.MaskedPaths = slices.Concat(maskedPaths, thermal())
		s.Linux.ReadonlyPaths = slices.Clone(readonlyPaths)
	}
	if sec.seccomp != "" && sec.seccomp != "unconfined" {
		s.Linux.Seccomp, err = loadProfile(sec.seccomp, s)
	}
	return err
}

// annotations parses the values of --annotation.
func annotations(values []string) (map[string]string, error) {
	var set map[string]string
	for _, text := range values {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" || !utf8.ValidString(text) {
			return nil, invalid("annotation", text, "want KEY=VALUE, in UTF-8")
		}
		if set == nil {
			set = map[string]string{}
		}
		set[key] = value
	}
	return set, nil
}
