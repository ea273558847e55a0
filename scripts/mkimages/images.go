// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// skeleton is what every root filesystem has.
func skeleton(users ...string) []entry {
	var all []entry
	for _, d := range []string{"dev", "etc", "proc", "root", "run", "sys", "tmp", "var"} {
		e := entry{path: d, mode: 0o755, dir: true}
		switch d {
		case "tmp":
			e.mode = 0o1777
		case "root":
			e.mode = 0o700
		}
		all = append(all, e)
	}
	passwd, group := "root:x:0:0:root:/root:/bin/sh\n", "root:x:0:\n"
	for _, u := range append(users, "nobody:65534") {
		name, id, _ := strings.Cut(u, ":")
		passwd += fmt.Sprintf("%s:x:%s:%s::/nonexistent:/bin/false\n", name, id, id)
		group += fmt.Sprintf("%s:x:%s:\n", name, id)
	}
	return append(all, entry{path: "etc/passwd", mode: 0o644, data: passwd}, entry{path: "etc/group", mode: 0o644, data: group})
}

// busybox puts the static busybox and hard links for its applets into bin.
func busybox() ([]entry, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	all := []entry{{path: "bin", mode: 0o755, dir: true}, {path: "bin/busybox", mode: 0o755, data: string(data)}}
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" {
			all = append(all, entry{path: "bin/" + applet, mode: 0o755, hard: "bin/busybox"})
		}
	}
	return all, nil
}

func image(config v1.Config, arch string, layers ...v1.Layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for i, l := range layers {
		var err error
		img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{
			Created: v1.Time{Time: stamp}, CreatedBy: fmt.Sprintf("scripts/mkimages, layer %d", i+1),
		}})
		if err != nil {
			return nil, err
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Created = v1.Time{Time: stamp}
	file.Architecture, file.OS, file.Config = arch, "linux", config
	return mutate.ConfigFile(img, file)
}

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// busyboxImages: one layer; and an index of two platforms that says in /platform which was taken.
func busyboxImages(_ context.Context, work string) ([]named, error) {
	box, err := busybox()
	if err != nil {
		return nil, err
	}
	base, err := layer(work, "busybox", "", append(skeleton(), box...))
	if err != nil {
		return nil, err
	}
	config := v1.Config{Cmd: []string{"sh"}, Env: []string{path}}
	img, err := image(config, runtime.GOARCH, base)
	if err != nil {
		return nil, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		mark, err := layer(work, arch, "", []entry{{path: "platform", mode: 0o644, data: "linux/" + arch + "\n"}})
		if err != nil {
			return nil, err
		}
		one, err := image(config, arch, base, mark)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return []named{{name: "busybox:1", image: img}, {name: "busybox:latest", image: img}, {name: "multi:1", index: index}}, nil
}

// pauseImages: what a runtime may run to keep a pod's namespaces.
func pauseImages(_ context.Context, work string) ([]named, error) {
	box, err := busybox()
	if err != nil {
		return nil, err
	}
	base, err := layer(work, "base", "", append(skeleton(), box...))
	if err != nil {
		return nil, err
	}
	img, err := image(v1.Config{Entrypoint: []string{"sleep", "infinity"}, Env: []string{path}}, runtime.GOARCH, base)
	if err != nil {
		return nil, err
	}
	return []named{{name: "pause:1", image: img}}, nil
}

// volumeImages: an image with volumes, of which /data comes from two layers and /none from no layer.
func volumeImages(_ context.Context, work string) ([]named, error) {
	box, err := busybox()
	if err != nil {
		return nil, err
	}
	base, err := layer(work, "base", "", append(append(skeleton(), box...),
		entry{path: "data", mode: 0o1770, uid: 10, gid: 20, dir: true},
		entry{path: "data/a", mode: 0o4755, uid: 11, gid: 21, data: "a\n"},
		entry{path: "data/gone", mode: 0o644, data: "gone\n"},
		entry{path: "data/sub", mode: 0o700, uid: 12, gid: 22, dir: true},
		entry{path: "var/link", link: "/data"}))
	if err != nil {
		return nil, err
	}
	top, err := layer(work, "top", "", []entry{
		{path: "data", mode: 0o1770, uid: 10, gid: 20, dir: true},
		{path: "data/.wh.gone", mode: 0o644},
		{path: "data/b", mode: 0o640, uid: 13, gid: 23, data: "b\n"},
		{path: "data/c", mode: 0o640, uid: 13, gid: 23, hard: "data/b"},
		{path: "data/l", link: "a"},
	})
	if err != nil {
		return nil, err
	}
	img, err := image(v1.Config{
		Cmd: []string{"sh"}, Env: []string{path},
		Volumes: map[string]struct{}{"/data": {}, "/none/deep": {}, "/var/link/sub": {}},
	}, runtime.GOARCH, base, top)
	return []named{{name: "volumes:1", image: img}}, err
}

// packed is what the images made of Debian's packages have in common: a layer of libraries with a shell,
// and a layer of the programs.
func packed(ctx context.Context, work string, packages, users []string) ([]v1.Layer, error) {
	libs, err := libraries(ctx, packages)
	if err != nil {
		return nil, err
	}
	debs := filepath.Join(work, "debs")
	if err := download(ctx, debs, append(slices.Clone(packages), libs...)); err != nil {
		return nil, err
	}
	used, err := needed(debs, packages, libs)
	if err != nil {
		return nil, err
	}
	box, err := busybox()
	if err != nil {
		return nil, err
	}
	// A file that the last layer whites out, and a directory that it makes opaque.
	box = append(box, entry{path: "etc/removed-later", mode: 0o644, data: "x\n"}, entry{path: "var/opaque", mode: 0o755, dir: true}, entry{path: "var/opaque/below", mode: 0o644, data: "x\n"})
	var layers []v1.Layer
	for name, pkgs := range map[string][]string{"0-libraries": used, "1-programs": packages} {
		if err := merge(debs, pkgs, filepath.Join(work, name)); err != nil {
			return nil, err
		}
	}
	base, err := layer(work, "libraries", filepath.Join(work, "0-libraries"), append(skeleton(users...), box...))
	if err != nil {
		return nil, err
	}
	programs, err := layer(work, "programs", filepath.Join(work, "1-programs"), nil)
	if err != nil {
		return nil, err
	}
	return append(layers, base, programs), nil
}

var removals = []entry{
	{path: "etc/.wh.removed-later", mode: 0o644}, {path: "var/opaque", mode: 0o755, dir: true},
	{path: "var/opaque/.wh..wh..opq", mode: 0o644}, {path: "var/opaque/above", mode: 0o644, data: "y\n"},
}

func redisImages(ctx context.Context, work string) ([]named, error) {
	layers, err := packed(ctx, work, []string{"redis-server", "redis-tools"}, []string{"redis:999"})
	if err != nil {
		return nil, err
	}
	entrypoint := "#!/bin/sh\nset -e\n# Options alone are redis-server's.\ncase ${1-} in\n-*) set -- redis-server \"$@\" ;;\nesac\nexec \"$@\"\n"
	setup, err := layer(work, "setup", "", append([]entry{
		{path: "data", mode: 0o755, uid: 999, gid: 999, dir: true},
		{path: "usr/local/bin", mode: 0o755, dir: true},
		{path: "usr/local/bin/docker-entrypoint.sh", mode: 0o755, data: entrypoint},
	}, removals...))
	if err != nil {
		return nil, err
	}
	img, err := image(v1.Config{
		User: "redis", WorkingDir: "/data", Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"redis-server"},
		Env: []string{path, "REDIS_VERSION=7"}, ExposedPorts: map[string]struct{}{"6379/tcp": {}}, Labels: map[string]string{"org.opencontainers.image.title": "redis"},
	}, runtime.GOARCH, append(layers, setup)...)
	return []named{{name: "redis:7", image: img}}, err
}

func nginxImages(ctx context.Context, work string) ([]named, error) {
	layers, err := packed(ctx, work, []string{"nginx", "nginx-common"}, []string{"www-data:33"})
	if err != nil {
		return nil, err
	}
	conf := "worker_processes 1;\npid /run/nginx.pid;\nerror_log /dev/stderr;\nevents { worker_connections 64; }\nhttp {\n\taccess_log /dev/stdout;\n\tserver {\n\t\tlisten 127.0.0.1:8080;\n\t\troot /var/www/html;\n\t}\n}\n"
	setup, err := layer(work, "setup", "", append([]entry{
		{path: "etc/nginx/nginx.conf", mode: 0o644, data: conf},
		{path: "var/www/html/index.html", mode: 0o644, data: "hello from a container\n"},
		{path: "var/log/nginx/access.log", link: "/dev/stdout", mode: 0o777},
		{path: "var/log/nginx/error.log", link: "/dev/stderr", mode: 0o777},
	}, removals...))
	if err != nil {
		return nil, err
	}
	img, err := image(v1.Config{
		Cmd: []string{"nginx", "-g", "daemon off;"}, Env: []string{path}, StopSignal: "SIGQUIT", ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}, runtime.GOARCH, append(layers, setup)...)
	return []named{{name: "nginx:1", image: img}}, err
}
