// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/spec"
)

// testELF is a 64-bit ELF program with one segment of two pages and, perhaps, a loader.
func testELF(machine uint16, loader string) []byte {
	b := make([]byte, 8192)
	e := binary.NativeEndian
	copy(b, "\x7fELF\x02\x01\x01")
	e.PutUint16(b[16:], 2)
	e.PutUint16(b[18:], machine)
	e.PutUint64(b[32:], 64)
	e.PutUint16(b[54:], 56)
	e.PutUint16(b[56:], 2)
	load, interp := b[64:120], b[120:176]
	e.PutUint32(load, segmentLoad)
	e.PutUint64(load[32:], uint64(len(b)))
	if loader != "" {
		e.PutUint32(interp, segmentInterp)
		e.PutUint64(interp[8:], 512)
		e.PutUint64(interp[32:], uint64(len(loader)+1))
		copy(b[512:], loader)
	}
	return b
}

func TestCheckRunnable(t *testing.T) {
	if os.Geteuid() != 0 || runtime.GOARCH != "amd64" {
		t.Skip("needs root, for /proc/PID/root, and amd64")
	}
	dir := t.TempDir()
	writePrograms(t, dir)
	runnable := map[string]string{
		"ok":       "#!" + dir + "/elf\n",
		"noend":    "#! \t" + dir + "/elf",
		"twice":    "#!" + dir + "/ok arg\n",
		"relative": "#!elf\n",
		"elf":      string(testELF(62, "")),
	}
	for name, text := range runnable {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	for name := range runnable {
		for _, arg := range []string{name, "./" + name, filepath.Join(dir, name)} {
			p := &specs.Process{Args: []string{arg}, Cwd: dir, Env: []string{"PATH=/nosuch:" + dir}}
			if err := checkRunnable(os.Getpid(), p); err != nil {
				t.Errorf("%s: %v", arg, err)
			}
		}
	}
	for _, c := range programs {
		if c.name == "itself" {
			continue // it names a path that is the container's
		}
		err := checkRunnable(os.Getpid(), &specs.Process{Args: []string{c.name}, Cwd: "/", Env: []string{"PATH=" + dir}})
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		if kind, text := explain(err); kind != c.kind || !strings.Contains(text, c.why) {
			t.Errorf("%s: %q: %s", c.name, kind, text)
		}
	}
	// What is not certain is left to the engine: no file, no regular file, another process's link.
	for _, name := range []string{"/nosuch", "/dev/null", "/proc/self/exe"} {
		if err := checkRunnable(os.Getpid(), &specs.Process{Args: []string{name}, Cwd: "/"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// That a program is not there is certain only where nothing has its name.
func TestCheckThere(t *testing.T) {
	if initPath != spec.InitPath {
		t.Errorf("init is at %s, not %s", spec.InitPath, initPath)
	}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "there"), nil, 0o644))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	for name, why := range map[string]string{
		"there": "", "./there": "", filepath.Join(dir, "there"): "", dir: "", "/dev/null": "",
		"nosuch": "executable file not found in $PATH", "/nosuch/program": "no such file or directory",
		"there/below": "no such file or directory", "./link": "no such file or directory",
	} {
		err := checkThere(os.Getpid(), &specs.Process{Args: []string{name}, Cwd: dir, Env: []string{"PATH=/nosuch:" + dir}})
		if why == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if kind, text := ask.Kind(""), ""; err == nil {
			t.Errorf("%s: no error", name)
		} else if kind, text = explain(err); kind != ask.NotFound || text != fmt.Sprintf("exec: %q: %s", name, why) {
			t.Errorf("%s: %q: %s", name, kind, text)
		}
	}
}

func TestInterpreter(t *testing.T) {
	pad := func(s string) []byte { return append([]byte(s), make([]byte, headSize-len(s))...) }
	for _, c := range []struct {
		head []byte
		want string
		ok   bool
	}{
		{pad("#!/bin/sh\nx"), "/bin/sh", true},
		{pad("#! \t/bin/sh -e\n"), "/bin/sh", true},
		{pad("#!/bin/sh"), "/bin/sh", true},
		{pad("#!/bin/sh\r\n"), "/bin/sh\r", true},
		{pad("#!\n/bin/sh"), "", false},
		{pad("#!"), "", false},
		{[]byte("#!" + strings.Repeat("x", headSize-2)), "", false},
		{[]byte("#!/bin/env " + strings.Repeat("x", headSize-11)), "/bin/env", true},
	} {
		if got, ok := interpreter(c.head); ok != c.ok || ok && got != c.want {
			t.Errorf("%q: %q %v", c.head[:20], got, ok)
		}
	}
}

func FuzzProgram(f *testing.F) {
	for _, p := range programs {
		f.Add([]byte(p.text))
	}
	f.Add(testELF(62, "/lib/ld.so"))
	f.Add(testELF(3, "")[:100])
	root, err := os.Open("/")
	if err != nil {
		f.Fatal(err)
	}
	defer root.Close()
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		name := filepath.Join(dir, "program")
		must(t, os.WriteFile(name, b, 0o755))
		file, err := os.Open(name)
		must(t, err)
		defer file.Close()
		u := files{root, dir}.check(file, 0)
		if u != nil && (u.kind == ask.Other || u.text == "") {
			t.Errorf("%+v", u)
		}
		if bytes.HasPrefix(b, []byte("\x7fELF")) && u != nil && u.kind == ask.NotFound && !strings.Contains(u.text, "interpreter") {
			t.Errorf("%+v", u)
		}
	})
}
