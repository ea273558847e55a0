// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What criu's own definition of the messages reads in ours is what was meant.
func TestOptions(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	must(t, err)
	defer dir.Close()
	o := &Options{
		Images: dir, Work: dir, Log: "dump.log", Parent: "../one", Config: "/etc/criu/x.conf", Root: "/root", Pid: 41,
		LeaveRunning: true, TCP: true, Unix: true, ShellJob: true, FileLocks: true, Freezer: "/sys/fs/cgroup/freezer/x", Cgroups: Modes["soft"],
		CgroupRoots: []CgroupRoot{{"memory", "/a"}, {"", "/b"}}, Mounts: []Mount{{"/etc/hosts", "/h"}, {"/data", "/d"}},
		External: []string{"net[1]:k"}, EmptyNamespaces: 0x40000000, Inherit: []Inherit{{"pipe:[0]", 0}, {"k", 4}},
		Join: []Namespace{{"ipc", "/proc/1/ns/ipc"}}, EvasiveDevices: true, AnyMode: true, Sibling: true,
	}
	var got rpc.CriuOpts
	must(t, got.UnmarshalVT(o.marshal()))
	fd := int32(dir.Fd())
	for name, same := range map[string]bool{
		"directories": got.GetImagesDirFd() == fd && got.GetWorkDirFd() == fd, "log": got.GetLogFile() == o.Log && got.GetLogLevel() == logLevel,
		"parent": got.GetParentImg() == o.Parent && got.GetTrackMem(), "config": got.GetConfigFile() == o.Config, "root": got.GetRoot() == o.Root,
		"pid": got.GetPid() == 41, "flags": got.GetLeaveRunning() && got.GetTcpEstablished() && got.GetExtUnixSk() && got.GetShellJob() && got.GetFileLocks(),
		"restore": got.GetEvasiveDevices() && got.GetRstSibling() && got.GetSkipFileRwxCheck(), "always": got.GetNotifyScripts() && got.GetManageCgroups() && got.GetOrphanPtsMaster(),
		"freezer": got.GetFreezeCgroup() == o.Freezer, "cgroups": got.GetManageCgroupsMode() == rpc.CriuCgMode_SOFT,
		"cgroup roots": len(got.CgRoot) == 2 && got.CgRoot[0].GetCtrl() == "memory" && got.CgRoot[1].GetPath() == "/b",
		"mounts":       len(got.ExtMnt) == 2 && got.ExtMnt[1].GetKey() == "/data" && got.ExtMnt[1].GetVal() == "/d",
		"external":     slices.Equal(got.External, o.External), "empty": got.GetEmptyNs() == 0x40000000,
		"inherit": len(got.InheritFd) == 2 && got.InheritFd[0].GetKey() == "pipe:[0]" && got.InheritFd[0].Fd != nil && got.InheritFd[1].GetFd() == 4,
		"join":    len(got.JoinNs) == 1 && got.JoinNs[0].GetNs() == "ipc" && got.JoinNs[0].GetNsFile() == "/proc/1/ns/ipc",
	} {
		if !same {
			t.Errorf("%s: %v", name, &got)
		}
	}
	for name, mode := range Modes {
		if want := rpc.CriuCgMode_value[strings.ToUpper(name)]; name != "" && want != int32(mode) || name == "" && int32(mode) != int32(rpc.CriuCgMode_DEFAULT) {
			t.Errorf("cgroups mode %q is %d", name, mode)
		}
	}
	var none rpc.CriuOpts
	must(t, none.UnmarshalVT((&Options{Images: dir}).marshal()))
	if none.Pid != nil || none.LeaveRunning != nil || none.ParentImg != nil || none.WorkDirFd != nil || none.FreezeCgroup != nil {
		t.Errorf("what was not said is there: %v", &none)
	}
}

func TestParse(t *testing.T) {
	p := func(v int32) *int32 { return &v }
	yes, script, text, failed := true, "post-restore", "it is full", rpc.CriuReqType_DUMP
	notice := rpc.CriuReqType_NOTIFY
	for name, c := range map[string]struct {
		resp rpc.CriuResp
		want answer
	}{
		"notice":  {rpc.CriuResp{Type: &notice, Success: &yes, Notify: &rpc.CriuNotify{Script: &script, Pid: p(77)}}, answer{verb: notify, ok: true, notice: Notice{Name: script, Pid: 77}}},
		"failure": {rpc.CriuResp{Type: &failed, Success: new(bool), CrErrno: p(28), CrErrmsg: &text}, answer{verb: Dump, errno: 28}},
		"feature": {rpc.CriuResp{Type: &failed, Success: &yes, Features: &rpc.CriuFeatures{MemTrack: &yes}}, answer{verb: Dump, ok: true, tracks: true}},
		"version": {rpc.CriuResp{Type: &failed, Success: &yes, Version: &rpc.CriuVersion{MajorNumber: p(4), MinorNumber: p(2), Sublevel: p(1)}}, answer{verb: Dump, ok: true, version: 40201}},
	} {
		data, err := c.resp.MarshalVT()
		must(t, err)
		got, err := parse(data)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// fake is a criu that reads a request and gives the answers that are in a file, one after each message that it reads.
func fake(t *testing.T, answers ...[]byte) {
	t.Helper()
	dir := t.TempDir()
	program := "#!/bin/sh\n"
	for i, a := range answers {
		file := filepath.Join(dir, "answer"+string(rune('0'+i)))
		must(t, os.WriteFile(file, a, 0o600))
		program += "dd bs=65536 count=1 <&3 2>/dev/null >" + dir + "/asked" + string(rune('0'+i)) + "\ndd bs=65536 count=1 <" + file + " 2>/dev/null >&3\n"
	}
	must(t, os.WriteFile(filepath.Join(dir, "criu"), []byte(program), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("FAKE", dir)
}

// A notice that fails is told to criu, and is the error; a criu that dies without an answer is one.
func TestTalk(t *testing.T) {
	data := func(r rpc.CriuResp) []byte {
		b, err := r.MarshalVT()
		must(t, err)
		return b
	}
	yes, script, dump, notice := true, "post-dump", rpc.CriuReqType_DUMP, rpc.CriuReqType_NOTIFY
	said := data(rpc.CriuResp{Type: &notice, Success: &yes, Notify: &rpc.CriuNotify{Script: &script}})
	fake(t, said, data(rpc.CriuResp{Type: &dump, Success: &yes}))
	p, err := Start([3]*os.File{})
	must(t, err)
	var names []string
	must(t, p.Do(Dump, &Options{}, func(n Notice) error {
		names = append(names, n.Name)
		return nil
	}))
	if !slices.Equal(names, []string{script}) {
		t.Error(names)
	}

	fake(t, said, data(rpc.CriuResp{Type: &dump, Success: new(bool)}))
	p, err = Start([3]*os.File{})
	must(t, err)
	if err = p.Do(Dump, &Options{}, func(Notice) error { return os.ErrDeadlineExceeded }); !strings.Contains(err.Error(), os.ErrDeadlineExceeded.Error()) {
		t.Error(err)
	}
	asked, err := os.ReadFile(filepath.Join(os.Getenv("FAKE"), "asked1"))
	must(t, err)
	var req rpc.CriuReq
	must(t, req.UnmarshalVT(asked))
	if req.GetType() != rpc.CriuReqType_NOTIFY || req.NotifySuccess == nil || *req.NotifySuccess {
		t.Errorf("criu is told %v", &req)
	}

	fake(t)
	p, err = Start([3]*os.File{})
	must(t, err)
	if err = p.Do(Dump, &Options{}, nil); err == nil {
		t.Error("a criu that says nothing has done it")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{8, 6, 16, 1, 42, 4, 10, 2, 'a', 'b'})
	f.Add([]byte{8, 10, 16, 1, 82, 6, 8, 4, 16, 2, 32, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parse(data)
		if err == nil && len(a.notice.Name) > len(data) {
			t.Errorf("%+v is longer than its message", a)
		}
		if again, err2 := parse(bytes.Clone(data)); again != a || (err == nil) != (err2 == nil) {
			t.Error("not the same twice")
		}
	})
}
