// SPDX-License-Identifier: Apache-2.0

// Package network has what the commands that talk to a registry share: their options, the password that one of
// them reads from stdin, and their warnings. It is apart from package cli, as it links net/http.
package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/tail"
)

// EnvHosts has the directories of hosts.toml files when --hosts-dir does not.
const EnvHosts = "CTRD_HOSTS"

// Env and Files are what the man page of such a command says of its surroundings.
var (
	Env = []cli.Note{
		{Name: "DOCKER_CONFIG", Text: "directory of config.json, instead of ~/.docker"},
		{Name: "REGISTRY_AUTH_FILE", Text: "file with credentials, read when there is no docker config.json"},
		{Name: EnvHosts, Text: "directories of hosts.toml files, separated by colons"},
		{Name: "HTTPS_PROXY, HTTP_PROXY, NO_PROXY", Text: "proxies, and hosts that are reached without one"},
	}
	Files = []cli.Note{
		{Name: "~/.docker/config.json", Text: "credentials, or the helpers that know them"},
		{Name: "/etc/containerd/certs.d, /etc/docker/certs.d", Text: "the usual directories of hosts.toml files and certificates; the first that has one for the registry counts"},
	}
)

// Flags are the options about registries.
type Flags struct {
	Registry   registry.Options // complete after Read
	CredsStdin bool
	verify     bool
	hostsDir   string
	one        oneRegistry
}

// Add adds the options to a command.
func (o *Flags) Add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.Registry.PlainHTTP, "plain-http", false, "speak HTTP instead of HTTPS")
	f.BoolVar(&o.verify, "tls-verify", true, "refuse a registry whose certificate is not trusted")
	f.StringVar(&o.Registry.CAFile, "ca-file", "", "trust the certificates in `FILE` (PEM) too")
	f.StringVar(&o.Registry.AuthFile, "authfile", "", "take credentials from `FILE`, in the form of docker's config.json")
	f.BoolVar(&o.CredsStdin, "creds-stdin", false, "read USER:PASSWORD, for one registry, from the first line of stdin")
	f.StringVar(&o.hostsDir, "hosts-dir", "", "take mirrors and certificates from `DIR`, or several separated by colons (default: $"+EnvHosts+", or those in /etc)")
	cmd.MarkFlagsMutuallyExclusive("authfile", "creds-stdin")
	cmd.MarkFlagDirname("hosts-dir")
	cmd.MarkFlagFilename("ca-file")
	cmd.MarkFlagFilename("authfile")
}

// Read completes the options for images of these names, with the password that stdin has if one is to be read. It reads
// the files that they name.
func (o *Flags) Read(ctx context.Context, stdin *os.File, names ...string) error {
	if o.CredsStdin {
		for _, name := range names {
			ref, err := image.Parse(name)
			if err != nil {
				continue // - or what is no name, of which whoever uses it will tell
			}
			if err := o.Check(ref); err != nil {
				return err
			}
		}
		if err := o.readCreds(tail.Reader(ctx, stdin)); err != nil {
			return err
		}
	}
	if err := o.Registry.Read(ctx); err != nil {
		return err
	}
	o.Registry.Insecure = !o.verify
	return o.findHosts()
}

// Check refuses an image of another registry than those before when there is one password: it is shown to no other.
func (o *Flags) Check(name image.Reference) error {
	if !o.CredsStdin {
		return nil
	}
	return o.one.check(name)
}

// findHosts decides where hosts.toml files are looked for. A directory that was named must be there.
func (o *Flags) findHosts() error {
	list := cmp.Or(o.hostsDir, os.Getenv(EnvHosts))
	o.Registry.HostDirs = registry.HostDirs(list)
	if list == "" {
		return nil
	}
	for _, dir := range o.Registry.HostDirs {
		if _, err := os.ReadDir(dir); err != nil {
			return cli.Usagef("directory of registry hosts: %w", err)
		}
	}
	return nil
}

// oneRegistry is the registry of the images seen so far.
type oneRegistry struct{ host string }

func (o *oneRegistry) check(ref image.Reference) error {
	if o.host == "" {
		o.host = ref.Domain
	}
	if ref.Domain != o.host {
		return cli.Usagef("--creds-stdin: %s is an image of another registry than %s, and the password is for one", ref, o.host)
	}
	return nil
}

func (o *Flags) readCreds(stdin io.Reader) error {
	line, err := readLine(stdin)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("credentials from stdin: %w", err)
	}
	user, password, ok := strings.Cut(line, ":")
	if !ok || user == "" {
		return cli.Usagef("--creds-stdin: the first line of stdin is not USER:PASSWORD")
	}
	o.Registry.Username, o.Registry.Password = user, password
	return nil
}

// readLine reads one line and no byte more, as names of images may follow.
func readLine(f io.Reader) (string, error) {
	var line []byte
	buf := make([]byte, 1)
	for len(line) < 64<<10 {
		n, err := f.Read(buf)
		if n == 0 || buf[0] == '\n' {
			if len(line) > 0 || n > 0 {
				err = nil
			}
			return strings.TrimSuffix(string(line), "\r"), err
		}
		line = append(line, buf[0])
	}
	return "", cli.Usagef("--creds-stdin: the first line of stdin is too long")
}

// Warnings shows each warning once. Its method may be called by several goroutines.
type Warnings struct {
	mu    sync.Mutex
	shown map[string]bool
}

// Add shows a warning, above whatever progress is drawn.
func (w *Warnings) Add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shown[text] {
		return
	}
	if w.shown == nil {
		w.shown = map[string]bool{}
	}
	w.shown[text] = true
	cli.Say("warning: %s", text)
}

// Count is an option's number of things, one at least.
type Count int

// String is the number.
func (c *Count) String() string { return strconv.Itoa(int(*c)) }

// Type is what pflag calls the kind of value.
func (c *Count) Type() string { return "int" }

// Set takes the number from the command line.
func (c *Count) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return errors.New("want a number, 1 or more")
	}
	*c = Count(n)
	return nil
}
