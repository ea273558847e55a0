// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// named is an image or an index, and its name in the registry.
type named struct {
	name  string
	image v1.Image
	index v1.ImageIndex
}

type registry struct {
	addr string
	cmd  *exec.Cmd
	died chan error
}

// serve starts Debian's registry. It ends with this process, however that ends.
func serve(storage, listen string) (*registry, error) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		return nil, fmt.Errorf("%w; scripts/deps demo installs it", err)
	}
	if err := os.MkdirAll(storage, 0o755); err != nil {
		return nil, err
	}
	addr, err := freeAddress(listen)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(storage, "config-"+filepath.Base(addr)+".yml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: %q\n  delete:\n    enabled: true\nhttp:\n  addr: %s\n  relativeurls: true\n", storage, addr)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	defer os.Remove(config)
	r := &registry{addr: addr, cmd: exec.Command(program, "serve", config), died: make(chan error, 1)}
	r.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	log, err := os.Create(filepath.Join(filepath.Dir(storage), "registry.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r.cmd.Stdout, r.cmd.Stderr = log, log
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread that started the child
		err := r.cmd.Start()
		started <- err
		if err == nil {
			r.died <- r.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	for range 200 {
		if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
			resp.Body.Close()
			return r, nil
		}
		select {
		case err := <-r.died:
			return nil, fmt.Errorf("%s ended: %w; see %s", program, errors.Join(err), log.Name())
		case <-time.After(50 * time.Millisecond):
		}
	}
	r.stop()
	return nil, fmt.Errorf("%s does not answer; see %s", program, log.Name())
}

func (r *registry) stop() {
	r.cmd.Process.Kill()
	select {
	case <-r.died:
	case <-time.After(5 * time.Second):
	}
}

// freeAddress gives port 0 a number.
func freeAddress(listen string) (string, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func push(ctx context.Context, addr string, n named) error {
	ref, err := name.ParseReference(addr+"/"+n.name, name.Insecure)
	if err != nil {
		return err
	}
	if n.index != nil {
		return remote.WriteIndex(ref, n.index, remote.WithContext(ctx))
	}
	return remote.Write(ref, n.image, remote.WithContext(ctx))
}
