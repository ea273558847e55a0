// SPDX-License-Identifier: Apache-2.0

// Command mkimages makes real images without the internet and serves them: busybox, redis and nginx from
// Debian's packages, and with -big one of six layers and some 700 MB. They are kept in a directory, so
// that the next run only starts the registry.
//
//	mkimages [-dir DIR] [-big] [-listen ADDRESS]
//
// It prints the registry's address when the registry answers, and serves until its stdin ends.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"ctrd.dev/ctrd/lib/lock"
)

func main() {
	dir := flag.String("dir", "build/images", "keep packages, layers and the registry's storage in `DIR`")
	big := flag.Bool("big", false, "make the big image too")
	listen := flag.String("listen", "127.0.0.1:0", "serve on `ADDRESS`")
	flag.Parse()
	if err := run(*dir, *listen, *big); err != nil {
		fmt.Fprintln(os.Stderr, "mkimages:", err)
		os.Exit(1)
	}
}

func run(dir, listen string, big bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Two runs at once: the second waits and finds everything made.
	making, err := lock.Dir{Path: filepath.Join(dir, "locks"), Wait: -1}.Acquire(ctx, nil, lock.Image, "making", lock.Exclusive)
	if err != nil {
		return err
	}
	reg, err := serve(filepath.Join(dir, "registry"), listen)
	if err != nil {
		return err
	}
	defer reg.stop()
	if err := fill(ctx, dir, reg.addr, big); err != nil {
		return err
	}
	if err := making.Release(); err != nil {
		return err
	}
	fmt.Println(reg.addr)
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	select {
	case <-ctx.Done():
	case <-ended:
	case err := <-reg.died:
		return fmt.Errorf("the registry ended: %w", err)
	}
	return nil
}

// version is raised when the images change; what an older version made is thrown away.
const version = "1"

// fill makes and pushes what the registry does not have yet.
func fill(ctx context.Context, dir, addr string, big bool) error {
	made := func(name string) string { return filepath.Join(dir, "made-"+version+"-"+name) }
	sets := []struct {
		name string
		make func(context.Context, string) ([]named, error)
	}{
		{"busybox", busyboxImages}, {"volumes", volumeImages}, {"redis", redisImages}, {"nginx", nginxImages},
	}
	if big {
		sets = append(sets, struct {
			name string
			make func(context.Context, string) ([]named, error)
		}{"big", bigImages})
	}
	for _, s := range sets {
		if _, err := os.Stat(made(s.name)); err == nil {
			continue
		}
		work := filepath.Join(dir, "work", s.name)
		if err := os.RemoveAll(work); err != nil {
			return err
		}
		if err := os.MkdirAll(work, 0o755); err != nil {
			return err
		}
		images, err := s.make(ctx, work)
		if err != nil {
			return fmt.Errorf("make %s: %w", s.name, err)
		}
		for _, i := range images {
			if err := push(ctx, addr, i); err != nil {
				return fmt.Errorf("push %s: %w", i.name, err)
			}
		}
		if err := os.RemoveAll(work); err != nil {
			return err
		}
		if err := os.WriteFile(made(s.name), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}
