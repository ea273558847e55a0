// SPDX-License-Identifier: Apache-2.0

// Command mkimages makes real images without the internet and serves them: busybox, redis and nginx from
// Debian's packages, and with -big some of hundreds of megabytes. They are kept in a directory, so
// that the next run only starts the registry.
//
//	mkimages [-dir DIR] [-big | -empty] [-listen ADDRESS] [-limit MBIT]
//
// It prints the registry's address when the registry answers, with -limit also the address at which each connection
// gets no more than so many megabits a second, and serves until its stdin ends. With -empty it makes no images.
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
	big := flag.Bool("big", false, "make the big images too")
	empty := flag.Bool("empty", false, "make no images")
	limit := flag.Int("limit", 0, "serve on a second address, on which a connection gets at most `MBIT` a second")
	listen := flag.String("listen", "127.0.0.1:0", "serve on `ADDRESS`")
	flag.Parse()
	var sets []set
	if !*empty {
		sets = usual
	}
	if *big {
		sets = append(sets, set{"big", bigImages}, set{"more-big", moreBigImages})
	}
	if err := run(*dir, *listen, *limit, sets); err != nil {
		fmt.Fprintln(os.Stderr, "mkimages:", err)
		os.Exit(1)
	}
}

func run(dir, listen string, limit int, sets []set) error {
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
	if err := fill(ctx, dir, reg.addr, sets); err != nil {
		return err
	}
	if err := making.Release(); err != nil {
		return err
	}
	fmt.Println(reg.addr)
	if limit > 0 {
		addr, err := limited(reg.addr, limit*1e6/8)
		if err != nil {
			return err
		}
		fmt.Println(addr)
	}
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

// set are images that are made together.
type set struct {
	name string
	make func(context.Context, string) ([]named, error)
}

var usual = []set{{"busybox", busyboxImages}, {"pause", pauseImages}, {"volumes", volumeImages}, {"redis", redisImages}, {"nginx", nginxImages}}

// fill makes and pushes what the registry does not have yet.
func fill(ctx context.Context, dir, addr string, sets []set) error {
	made := func(name string) string { return filepath.Join(dir, "made-"+version+"-"+name) }
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
