// SPDX-License-Identifier: Apache-2.0

// Command ctr-pull brings images from registries.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/pull/remote"
	"ctrd.dev/ctrd/lib/registry"
)

// options are what the command line says beside the names.
type options struct {
	pull       pull.Options
	registry   registry.Options
	verify     bool
	credsStdin bool
	quiet      bool
	progress   string
	hostsDir   string
	explain    bool
	json       bool
}

func main() {
	var o options
	var g *cli.Global
	cmd, g := cli.Root("ctr-pull [OPTION]... IMAGE...", "bring images from registries", cli.About{
		Long: "Brings each image, unpacks it and records it under its name. A name without a registry is one of docker.io, a " +
			"name without a tag has the tag latest. What is here already is not fetched again, what an interrupted pull had " +
			"brought neither; two pulls of the same image share the work: one waits for the other as long as that gets on, or " +
			"as long as --wait says.\n\n" +
			"Plain HTTP is spoken to registries on this machine, and with --plain-http to others. Proxies are taken from " +
			"HTTPS_PROXY, HTTP_PROXY and NO_PROXY. Credentials come from the user's docker config.json and the credential " +
			"helpers it names, or from --authfile or --creds-stdin. The entry whose path is the most specific counts; one of " +
			"another path is never used. What --creds-stdin reads is for the registry that the name says, and for no mirror.\n\n" +
			"Mirrors, certificates and headers come from directories of hosts.toml files as containerd reads them, or from " +
			"docker's certs.d. A host that fails is not asked again, and the next one goes on where it stopped.\n\n" +
			"Progress is drawn on stderr when that is a terminal.",
		Stdin: "with the operand -, names of images, one a line; with --creds-stdin, first a line USER:PASSWORD", Stdout: "NAME@DIGEST of each image, one a line",
		Examples: []cli.Example{
			{Note: "pull an image and run it", Text: "ctr-pull redis:7 | ctr-task run -d --name r -"},
			{Note: "pull all that a file lists", Text: "ctr-pull - < images.txt"},
			{Note: "another platform, without unpacking it", Text: "ctr-pull --platform linux/arm64 --no-unpack alpine"},
			{Note: "say who would be asked, with whose credentials", Text: "ctr-pull --explain redis:7"},
			{Note: "a registry with a certificate of its own", Text: "ctr-pull --ca-file ca.pem registry.example:5000/app"},
		},
		Env: []cli.Note{
			{Name: "DOCKER_CONFIG", Text: "directory of config.json, instead of ~/.docker"},
			{Name: "REGISTRY_AUTH_FILE", Text: "file with credentials, read when there is no docker config.json"},
			{Name: envHosts, Text: "directories of hosts.toml files, separated by colons"},
			{Name: "HTTPS_PROXY, HTTP_PROXY, NO_PROXY", Text: "proxies, and hosts that are reached without one"},
		},
		Files: []cli.Note{
			{Name: "~/.docker/config.json", Text: "credentials, or the helpers that know them"},
			{Name: "/etc/containerd/certs.d, /etc/docker/certs.d", Text: "the usual directories of hosts.toml files and certificates; the first that has one for the registry counts"},
		},
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitRegistry, cli.ExitSome, cli.ExitCorrupt, cli.ExitTimeout},
		SeeAlso: []string{"ctr-image", "ctr-task-run"},
		Args:    cli.Count(1, -1),
		Complete: func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return cli.Images(g)(cmd, args, typed)
		},
	}, func(cmd *cobra.Command, args []string) error { return run(cmd, g, o, args) })
	o.add(cmd)
	cli.Main(cmd)
}

func (o *options) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.pull.Platform, "platform", "", "pull for `OS/ARCH[/VARIANT]` (default: this machine's)")
	f.BoolVar(&o.pull.NoUnpack, "no-unpack", false, "bring the blobs and make no snapshots of them")
	o.pull.Layers = 4
	f.VarP((*count)(&o.pull.Layers), "jobs", "j", "work on `N` layers at once")
	f.BoolVar(&o.registry.PlainHTTP, "plain-http", false, "speak HTTP instead of HTTPS")
	f.BoolVar(&o.verify, "tls-verify", true, "refuse a registry whose certificate is not trusted")
	f.StringVar(&o.registry.CAFile, "ca-file", "", "trust the certificates in `FILE` (PEM) too")
	f.StringVar(&o.registry.AuthFile, "authfile", "", "take credentials from `FILE`, in the form of docker's config.json")
	f.BoolVar(&o.credsStdin, "creds-stdin", false, "read USER:PASSWORD, for one registry, from the first line of stdin")
	f.StringVar(&o.hostsDir, "hosts-dir", "", "take mirrors and certificates from `DIR`, or several separated by colons (default: $"+envHosts+", or those in /etc)")
	f.BoolVar(&o.explain, "explain", false, "print the hosts that would be asked, in order, and how; bring nothing")
	f.BoolVar(&o.json, "json", false, "with --explain, print one JSON value a line")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	f.StringVar(&o.progress, "progress", "auto", "show progress as `HOW`: auto (bars on a terminal), plain, json or none")
	cmd.MarkFlagsMutuallyExclusive("authfile", "creds-stdin")
	cmd.MarkFlagDirname("hosts-dir")
	cmd.MarkFlagFilename("ca-file")
	cmd.MarkFlagFilename("authfile")
	cli.CompleteOption(cmd, "platform", cobra.FixedCompletions([]string{"linux/amd64", "linux/arm64", "linux/arm/v7"}, cobra.ShellCompDirectiveNoFileComp))
	cli.CompleteOption(cmd, "progress", cobra.FixedCompletions([]string{"auto", "plain", "json", "none"}, cobra.ShellCompDirectiveNoFileComp))
	cli.CompleteOption(cmd, "jobs", cobra.NoFileCompletions)
}

func run(cmd *cobra.Command, g *cli.Global, o options, args []string) error {
	if o.quiet {
		o.progress = "none"
	}
	show, err := newDisplay(o.progress)
	if err != nil {
		return err
	}
	var one oneRegistry
	if o.credsStdin {
		for _, name := range args {
			if err := one.check(name); err != nil {
				return err
			}
		}
		if err := o.readCreds(os.Stdin); err != nil {
			return err
		}
	}
	o.registry.Insecure = !o.verify
	if o.json && !o.explain {
		return cli.Usagef("--json goes with --explain")
	}
	if err := o.findHosts(); err != nil {
		return err
	}
	var said warnings
	defer said.show()
	o.pull.Warn = said.add
	if o.explain {
		return explain(o, args)
	}
	o.registry.Outages = &registry.Outages{}
	o.pull.Open = remote.Open(o.registry, o.pull.Warn)
	o.pull.Namespace = g.Namespace
	o.pull.Patient = !cmd.Flags().Changed("wait")
	d, err := g.Open()
	if err != nil {
		return err
	}
	return cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
		if o.credsStdin {
			if err := one.check(name); err != nil {
				return err
			}
		}
		o.pull.Progress = show.event
		show.begin()
		img, err := pull.Image(cmd.Context(), d, name, o.pull)
		show.end()
		said.show()
		if err != nil {
			return withStatus(err)
		}
		_, err = fmt.Println(withDigest(img))
		return err
	})
}

// withStatus makes wrong content the registry's failure.
func withStatus(err error) error {
	var bad *pull.ContentError
	if errors.As(err, &bad) {
		return cli.WithStatus(err, cli.ExitRegistry)
	}
	return err
}

// withDigest is what is printed of an image: its name and exactly what the name stands for now.
func withDigest(img image.Image) string {
	if strings.HasSuffix(img.Name, "@"+img.Target.Digest.String()) {
		return img.Name
	}
	return img.Name + "@" + img.Target.Digest.String()
}

// count is an option's number of things, one at least.
type count int

// String is the number.
func (c *count) String() string { return strconv.Itoa(int(*c)) }

// Type is what pflag calls the kind of value.
func (c *count) Type() string { return "int" }

// Set takes the number from the command line.
func (c *count) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return errors.New("want a number, 1 or more")
	}
	*c = count(n)
	return nil
}

// oneRegistry is the registry of the images seen so far: a password is for one, and is shown to no other.
type oneRegistry struct{ host string }

// check refuses the name of an image of another registry. What is no name is left to whoever pulls it.
func (o *oneRegistry) check(name string) error {
	ref, err := image.Parse(name)
	if err != nil || name == "-" {
		return nil
	}
	if o.host == "" {
		o.host = ref.Domain
	}
	if ref.Domain != o.host {
		return cli.Usagef("--creds-stdin: %s is an image of another registry than %s, and the password is for one", ref, o.host)
	}
	return nil
}

func (o *options) readCreds(stdin *os.File) error {
	line, err := readLine(stdin)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("credentials from stdin: %w", err)
	}
	user, password, ok := strings.Cut(line, ":")
	if !ok || user == "" {
		return cli.Usagef("--creds-stdin: the first line of stdin is not USER:PASSWORD")
	}
	o.registry.Username, o.registry.Password = user, password
	return nil
}

// readLine reads one line and no byte more, as names of images may follow.
func readLine(f *os.File) (string, error) {
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
