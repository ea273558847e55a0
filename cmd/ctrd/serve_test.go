// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/journal"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/state"
)

// TestTTRPCBeside: the socket for shims is where a client looks that knows the address of the other.
func TestTTRPCBeside(t *testing.T) {
	dir := t.TempDir()
	d, err := state.Open(state.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "run")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sockets config.Sockets
		want    string
	}{
		{config.Sockets{}, d.Run("ctrd.sock.ttrpc")},
		{config.Sockets{Native: config.Socket{Address: filepath.Join(dir, "a")}}, filepath.Join(dir, "a.ttrpc")},
		{config.Sockets{Native: config.Socket{Address: filepath.Join(dir, "a")}, TTRPC: config.Socket{Address: filepath.Join(dir, "b")}}, filepath.Join(dir, "b")},
	} {
		all, release, err := makeSockets(d, c.sockets)
		if err != nil {
			t.Fatal(err)
		}
		_, shims := split(all, "ttrpc")
		if got := shims[0].Addr().String(); got != c.want {
			t.Errorf("at %s, want %s", got, c.want)
		}
		for _, l := range all {
			l.Close()
		}
		release()
	}
}

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

// notSent is a journald that takes nothing.
func notSent(string, journal.Priority, map[string]string) error { return errors.New("no journald") }

// A record goes to the journal with a field for each attribute, and to stderr while journald takes none.
func TestJournal(t *testing.T) {
	var b bytes.Buffer
	var got []string
	send := func(message string, p journal.Priority, fields map[string]string) error {
		text := fmt.Sprintf("%d %s", p, message)
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			text += "|" + name + "=" + fields[name]
		}
		got = append(got, text)
		return nil
	}
	use := func(log *slog.Logger) {
		log.Debug("no")
		log.Info("one", "a", "b\nc", "error", error(nil), "empty", "")
		log.With("x.y-z", 1).Warn("two", "took", time.Second)
		log.WithGroup("g").With("a", 1).Error("three", "level", "kept", slog.Group("h", "i", true))
		log.Info("four", strings.Repeat("long", 30), "x")
	}
	use(slog.New(newJournal(send, &b, slog.LevelInfo)))
	want := []string{
		"6 msg=one a=\"b\\nc\" error=<nil> empty=\"\"|CTRD_A=b\nc|SYSLOG_IDENTIFIER=ctrd",
		"4 msg=two x.y-z=1 took=1s|CTRD_TOOK=1s|CTRD_X_Y_Z=1|SYSLOG_IDENTIFIER=ctrd",
		"3 msg=three g.a=1 g.level=kept g.h.i=true|CTRD_G_A=1|CTRD_G_H_I=true|CTRD_G_LEVEL=kept|SYSLOG_IDENTIFIER=ctrd",
		"6 msg=four " + strings.Repeat("long", 30) + "=x|CTRD_" + strings.Repeat("LONG", 15)[:59] + "=x|SYSLOG_IDENTIFIER=ctrd",
	}
	if !slices.Equal(got, want) || b.Len() > 0 {
		t.Errorf("got\n%s\nwant\n%s\nand on stderr %q", strings.Join(got, "\n"), strings.Join(want, "\n"), b.String())
	}

	use(slog.New(newJournal(notSent, &b, slog.LevelInfo)))
	text := "<6>msg=one a=\"b\\nc\" error=<nil> empty=\"\"\n<4>msg=two x.y-z=1 took=1s\n<3>msg=three g.a=1 g.level=kept g.h.i=true\n<6>msg=four " +
		strings.Repeat("long", 30) + "=x\n"
	if b.String() != text {
		t.Errorf("%q, want %q", b.String(), text)
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
	s.over = append(s.over, snapshotters)
	var b bytes.Buffer
	log := slog.New(newJournal(notSent, &b, slog.LevelInfo))
	for _, c := range []struct {
		text string
		idle time.Duration
		says string
	}{
		{"idle_timeout = \"2s\"\n", 2 * time.Second, "<6>msg=\"the configuration is reloaded\"\n"},
		{"idle_timeout = \"3s\"\n[metrics]\nsocket = \"none\"\n[cri]\nstream_server_port = \"1\"\n", 3 * time.Second, "settings=\"metrics, cri.stream_server_port\""},
		{"idle_timeout = \"4s\"\nsnapshotter = \"none\"\n", 3 * time.Second, "<3>msg=\"the configuration is not reloaded\" error=\"configuration: "},
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
