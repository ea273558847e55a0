// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The files of options are read once, whatever is opened with them, and a FIFO that nobody writes to is waited for until
// the context ends.
func TestReadOptions(t *testing.T) {
	f := newFront()
	want, _ := push(t, f.next, "v1", noise(10))
	f.wrap = demandBasic("user", "secret")
	host := serve(t, f)
	lonely, fifo := filepath.Join(t.TempDir(), "lonely"), filepath.Join(t.TempDir(), "fifo")
	if err := errors.Join(unix.Mkfifo(lonely, 0o600), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	opt := Options{AuthFile: lonely}
	ctx, cancel := context.WithCancelCause(t.Context())
	told := errors.New("told to end")
	cancel(told)
	if err := opt.Read(ctx); !errors.Is(err, told) || !strings.Contains(err.Error(), "--authfile") {
		t.Errorf("%v", err)
	}
	opt.AuthFile = fifo
	wrote := make(chan error)
	go func() {
		wrote <- os.WriteFile(fifo, []byte(`{"auths":{"`+host+`":{"auth":"dXNlcjpzZWNyZXQ="}}}`), 0o600)
	}()
	err := opt.Read(t.Context())
	if err = errors.Join(err, <-wrote); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := open(t, host+"/test/repo:v1", opt).Resolve(t.Context()); err != nil || got.Digest != want.Digest {
			t.Errorf("%v", err)
		}
	}
}
