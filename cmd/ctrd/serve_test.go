// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/config"
)

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "a"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	given, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	for _, c := range []struct {
		name string
		is   func(error) bool
		says string
	}{
		{"native", nil, ""},
		{"LISTEN_FD_3", nil, ""},
		{"ctrd.socket", nil, ""},
		{"cri", nil, ""},
		{"ttrpc", nil, ""},
		{"other", errdefs.IsInvalidArgument, "want FileDescriptorName=native"},
	} {
		fd, err := syscall.Dup(int(given.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), c.name)
		got, err := socket(f)
		if err == nil {
			got.Close()
		}
		f.Close()
		if c.is == nil && err != nil || c.is != nil && (err == nil || !c.is(err) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	plain := filepath.Join(dir, "plain")
	fd, err := syscall.Open(plain, syscall.O_CREAT|syscall.O_RDONLY|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "native")
	defer f.Close()
	if _, err := socket(f); err == nil {
		t.Error("a plain file is taken for a socket")
	}
}

// Nobody takes a socket that is served, whoever made it. The error names the process.
func TestMakeSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	me := fmt.Sprintf("pid %d", os.Getpid())
	l, held, err := makeSocket(path, config.Socket{Mode: 0o660, Group: "no such group"})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v: without a group it is %v", err, st.Mode())
	}
	if _, _, err := makeSocket(path, config.Socket{}); !errdefs.IsAborted(err) || !strings.Contains(err.Error(), me) {
		t.Errorf("a second one: %v", err)
	}
	// As when it was not made by ctrd.
	if err := held.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := makeSocket(path, config.Socket{}); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), me) {
		t.Errorf("on a socket of another: %v", err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	l, held, err = makeSocket(path, config.Socket{Mode: 0o620, Group: strconv.Itoa(os.Getgid()), UID: os.Getuid()})
	if err != nil {
		t.Fatalf("where a server was killed: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o620 {
		t.Errorf("%v: with a group it is %v", err, st.Mode())
	}
	l.Close()
	held.Remove()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := makeSocket(path, config.Socket{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("on a file: %v", err)
	}
}

// What a server that was killed had open, a child of its may have for a moment more.
func TestMakeSocketOfAKilledServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	old, held, err := makeSocket(path, config.Socket{})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	time.AfterFunc(goneWithin/10, func() { held.Release() })
	time.AfterFunc(goneWithin/5, func() { old.Close() })
	l, held, err := makeSocket(path, config.Socket{})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	held.Remove()
}

func TestJournal(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(newJournal(&b, slog.LevelInfo))
	log.Debug("no")
	log.Info("one", "a", "b\nc")
	log.With("x", 1).Warn("two")
	log.WithGroup("g").Error("three", "level", "kept")
	want := "<6>msg=one a=\"b\\nc\"\n<4>msg=two x=1\n<3>msg=three g.level=kept\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}

	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if !isJournal(f, fmt.Sprintf("%d:%d", st.Dev, st.Ino)) || isJournal(f, "") || isJournal(f, fmt.Sprintf("%d:%d", st.Dev, st.Ino+1)) {
		t.Error("the journal is not known by its device and inode")
	}
}

// A reload changes what can change, options of the command line still go before the file, and a file with a mistake changes nothing.
func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var level string
	cmd := &cobra.Command{}
	cmd.Flags().StringVar(&level, "log-level", "info", "")
	s := &settings{file: file}
	s.option(cmd, "log-level", func(c *config.Config) error { c.LogLevel = level; return nil })
	write("idle_timeout = \"1s\"\nlog_level = \"warn\"\n")
	if err := s.load(); err != nil || s.idle() != time.Second || s.level.Level() != slog.LevelWarn {
		t.Fatalf("%v: %v, %v", err, s.idle(), s.level.Level())
	}
	cmd.Flags().Set("log-level", "debug")
	var b bytes.Buffer
	log := slog.New(newJournal(&b, slog.LevelInfo))
	for _, c := range []struct {
		text string
		idle time.Duration
		says string
	}{
		{"idle_timeout = \"2s\"\n", 2 * time.Second, "<6>msg=\"the configuration is reloaded\"\n"},
		{"idle_timeout = \"3s\"\n[metrics]\nsocket = \"none\"\n[cri]\nstream_server_port = \"1\"\n", 3 * time.Second, "settings=\"metrics, cri.stream_server_port\""},
		{"idle_timeout = \"4s\"\nx = 1\ny = 1\n", 3 * time.Second, "<3>msg=\"the configuration is not reloaded\" error=\"" + file + ":2: unknown key x\"\n<3>"},
	} {
		b.Reset()
		write(c.text)
		s.reload(log)
		if s.idle() != c.idle || s.level.Level() != slog.LevelDebug || !strings.Contains(b.String(), c.says) {
			t.Errorf("%q: %v, %v: %s", c.text, s.idle(), s.level.Level(), b.String())
		}
	}
}
