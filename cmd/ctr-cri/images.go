// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
)

func imagesVerb(o *options) *cobra.Command {
	var l listing
	var digests, pinned bool
	cmd := cli.New("images [OPTION]... [REPOSITORY[:TAG]]", "list images", cli.About{
		Long:     "Lists the images that pods can be made from, in order of their names.",
		Stdout:   "a name of an image a line, below the names of the columns",
		Examples: []cli.Example{{Note: "list the tags of one repository", Text: "ctr-cri images docker.io/library/redis"}},
		Args:     cli.Count(0, 1), Complete: o.completeImages, SeeAlso: []string{"ctr-cri-inspecti", "ctr-image-ls"},
	}, func(cmd *cobra.Command, args []string) error {
		return o.do(cmd, &l.output, func(ctx context.Context, r *runtimeClient) error {
			all, err := r.images(ctx, args)
			if err != nil {
				return err
			}
			return printList(&l, all, &runtime.ListImagesResponse{Images: all}, imageDetails, func() error { return printImages(all, l.whole, digests, pinned) })
		})
	})
	l.add(cmd)
	cmd.Flags().BoolVar(&digests, "digests", false, "print digests too")
	cmd.Flags().BoolVar(&pinned, "pinned", false, "print whether an image is pinned: the kubelet does not collect it")
	return cmd
}

// images lists all images, or those that the one operand names.
func (r *runtimeClient) images(ctx context.Context, args []string) ([]*runtime.Image, error) {
	filter := &runtime.ImageFilter{}
	if len(args) > 0 {
		filter.Image = &runtime.ImageSpec{Image: args[0]}
	}
	answer, err := r.ListImages(ctx, &runtime.ListImagesRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	slices.SortStableFunc(answer.Images, func(a, b *runtime.Image) int {
		return cmp.Or(slices.Compare(a.RepoTags, b.RepoTags), slices.Compare(a.RepoDigests, b.RepoDigests), cmp.Compare(a.Id, b.Id))
	})
	return answer.Images, nil
}

func printImages(all []*runtime.Image, whole, digests, pinned bool) error {
	pick := func(digest, pin string, fields ...string) []string {
		row := fields[:2:2]
		if digests {
			row = append(row, digest)
		}
		row = append(row, fields[2:]...)
		if pinned {
			row = append(row, pin)
		}
		return row
	}
	t := newTable(pick("DIGEST", "PINNED", "IMAGE", "TAG", "IMAGE ID", "SIZE")...)
	for _, i := range all {
		repository, digest := "<none>", "<none>"
		if len(i.RepoDigests) > 0 {
			repository, digest, _ = strings.Cut(i.RepoDigests[0], "@")
		}
		names := i.RepoTags
		if len(names) == 0 {
			names = []string{repository + ":<none>"}
		}
		for _, name := range names {
			colon := strings.LastIndexByte(name, ':')
			t.row(pick(shortID(digest, whole), strconv.FormatBool(i.Pinned), name[:max(colon, 0)], name[colon+1:], shortID(i.Id, whole), units.HumanSizeWithPrecision(float64(i.Size), 3))...)
		}
	}
	return t.flush()
}

func imageDetails(i *runtime.Image) {
	d := details{os.Stdout}
	d.fact("ID", i.Id)
	for _, tag := range i.RepoTags {
		d.fact("RepoTags", tag)
	}
	for _, digest := range i.RepoDigests {
		d.fact("RepoDigests", digest)
	}
	d.fact("Size", i.Size)
	if i.Uid != nil {
		d.fact("Uid", i.Uid.Value)
	}
	d.fact("Username", i.Username)
	d.fact("Pinned", i.Pinned)
	fmt.Println()
}

// pullOptions are the options about pulls.
type pullOptions struct {
	creds, auth, username string
	annotations           []string
	limit                 time.Duration
	login                 *runtime.AuthConfig // once it was read
}

func (p *pullOptions) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.creds, "creds", "", "log in to the registry as `USER[:PASSWORD]`; others can see it while the command runs")
	f.StringVar(&p.auth, "auth", "", "log in to the registry with `TEXT`, USER[:PASSWORD] in base64")
	f.StringVarP(&p.username, "username", "u", "", "log in to the registry as `USER`, whose password is read from the terminal, or from stdin's first line")
	f.DurationVar(&p.limit, "pull-timeout", 0, "give a pull up after `DURATION`; 0 waits as long as it takes")
	cmd.MarkFlagsMutuallyExclusive("creds", "auth", "username")
	for _, name := range []string{"creds", "auth", "username", "pull-timeout"} {
		cli.CompleteOption(cmd, name, cobra.NoFileCompletions)
	}
}

// read finds out what to log in with, once.
func (p *pullOptions) read() (*runtime.AuthConfig, error) {
	switch {
	case p.login != nil:
	case p.auth != "":
		if _, err := base64.StdEncoding.DecodeString(p.auth); err != nil {
			return nil, cli.Usagef("--auth: %w", err)
		}
		p.login = &runtime.AuthConfig{Auth: p.auth}
	case p.creds != "":
		user, password, _ := strings.Cut(p.creds, ":")
		if user == "" {
			return nil, cli.Usagef("--creds: no user before the colon")
		}
		p.login = &runtime.AuthConfig{Username: user, Password: password}
	case p.username != "":
		password, err := readPassword()
		if err != nil {
			return nil, err
		}
		p.login = &runtime.AuthConfig{Username: p.username, Password: password}
	}
	return p.login, nil
}

func readPassword() (string, error) {
	if cli.IsTerminal(os.Stdin) {
		fmt.Fprint(os.Stderr, "Password: ")
		text, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return string(text), nil
	}
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && line == "" {
		return "", fmt.Errorf("read the password from stdin: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// pull pulls an image and gives its id.
func (r *runtimeClient) pull(ctx context.Context, image *runtime.ImageSpec, pod *runtime.PodSandboxConfig, p *pullOptions) (string, error) {
	login, err := p.read()
	if err != nil {
		return "", err
	}
	if p.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.limit)
		defer cancel()
	}
	answer, err := r.PullImage(ctx, &runtime.PullImageRequest{Image: image, Auth: login, SandboxConfig: pod})
	if err != nil {
		return "", about("pull image", image.Image, err)
	}
	return answer.ImageRef, nil
}

func pullVerb(o *options) *cobra.Command {
	var p pullOptions
	var podConfig string
	cmd := cli.New("pull [OPTION]... IMAGE", "pull an image for pods", cli.About{
		Long:     "Pulls an image into the namespace of the kubelet, k8s.io. ctr-pull pulls one for other purposes, and shows how far it is.",
		Stdout:   "a line that names what was pulled",
		Examples: []cli.Example{{Note: "pull an image", Text: "ctr-cri pull registry.example/app:1"}},
		Args:     cli.Count(1, 1), Exit: []int{cli.ExitRegistry, cli.ExitNotFound}, SeeAlso: []string{"ctr-pull", "ctr-cri-images"},
	}, func(cmd *cobra.Command, args []string) error {
		annotations, err := labels(p.annotations)
		if err != nil {
			return err
		}
		var pod *runtime.PodSandboxConfig
		if podConfig != "" {
			if pod, err = readPod(podConfig); err != nil {
				return err
			}
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			id, err := r.pull(ctx, &runtime.ImageSpec{Image: args[0], UserSpecifiedImage: args[0], Annotations: annotations}, pod, &p)
			if err != nil {
				return err
			}
			_, err = fmt.Println("Image is up to date for", id)
			return err
		})
	})
	p.add(cmd)
	cmd.Flags().StringArrayVarP(&p.annotations, "annotation", "a", nil, "give the pull the annotation `KEY=VALUE`")
	cmd.Flags().StringVar(&podConfig, "pod-config", "", "pull as for the pod that `FILE` describes")
	cli.CompleteOption(cmd, "annotation", cobra.NoFileCompletions)
	o.timeout(cmd)
	return cmd
}

func rmiVerb(o *options) *cobra.Command {
	var all, unused bool
	cmd := cli.New("rmi [OPTION]... [IMAGE]...", "remove images", cli.About{
		Long:  "Removes each image with all its names. Containers that were made from it go on.",
		Stdin: "with the operand -, images, one a line", Stdout: "a line for each name that was removed",
		Examples: []cli.Example{{Note: "remove what no container was made from", Text: "ctr-cri rmi --prune"}},
		Args:     cli.Count(0, -1), Complete: o.completeImages, Exit: []int{cli.ExitNotFound, cli.ExitSome},
		SeeAlso: []string{"ctr-image-rm", "ctr-image-prune"},
	}, func(cmd *cobra.Command, args []string) error {
		if err := someOrAll(all || unused, args, "IMAGE"); err != nil {
			return err
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			if all || unused {
				images, err := r.removable(ctx, unused)
				if err != nil {
					return err
				}
				args = idsOf(images)
			}
			return cli.Each(cli.Operands(args, os.Stdin), func(name string) error { return r.removeImage(ctx, name) })
		})
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "remove all images")
	cmd.Flags().BoolVarP(&unused, "prune", "q", false, "remove the images that no container was made from and that are not pinned")
	cmd.MarkFlagsMutuallyExclusive("all", "prune")
	return cmd
}

// removable lists all images, or those that nothing needs.
func (r *runtimeClient) removable(ctx context.Context, unused bool) ([]*runtime.Image, error) {
	images, err := r.images(ctx, nil)
	if err != nil || !unused {
		return images, err
	}
	containers, err := (&containerFilter{all: true}).list(ctx, r)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, c := range containers {
		used[c.ImageRef], used[c.GetImage().GetImage()] = true, true
		if id, err := r.imageID(ctx, c.ImageRef); err == nil {
			used[id] = true
		}
	}
	fs := slices.DeleteFunc(images, func(i *runtime.Image) bool {
		return i.Pinned || used[i.Id] || slices.ContainsFunc(slices.Concat(i.RepoTags, i.RepoDigests), func(name string) bool { return used[name] })
	})
	return fs, nil
}

// imageStatus asks for an image by whichever name; one that is not there is errdefs.ErrNotFound.
func (r *runtimeClient) imageStatus(ctx context.Context, name string, verbose bool) (*runtime.ImageStatusResponse, error) {
	answer, err := r.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: name}, Verbose: verbose})
	if err == nil && answer.Image == nil {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return nil, about("image", name, err)
	}
	return answer, nil
}

func (r *runtimeClient) removeImage(ctx context.Context, name string) error {
	answer, err := r.imageStatus(ctx, name, false)
	if err != nil {
		return fmt.Errorf("remove %w", err)
	}
	if _, err := r.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: name}}); err != nil {
		return about("remove image", name, err)
	}
	names := answer.Image.RepoTags
	if len(names) == 0 {
		names = answer.Image.RepoDigests
	}
	if len(names) == 0 {
		names = []string{name}
	}
	for _, n := range names {
		if _, err := fmt.Println("Deleted:", n); err != nil {
			return err
		}
	}
	return nil
}

func imagefsinfoVerb(o *options) *cobra.Command {
	var out output
	cmd := cli.New("imagefsinfo [OPTION]...", "show what images and containers take up", cli.About{
		Long:     "Prints the file systems that hold images and the files of containers, and what these take up there.",
		Stdout:   "the answer of the CRI",
		Examples: []cli.Example{{Note: "print the bytes that images take up", Text: "ctr-cri imagefsinfo -o go-template --template '{{(index .status.imageFilesystems 0).usedBytes.value}}'"}},
		SeeAlso:  []string{"ctrd-du", "ctr-cri-stats"},
	}, func(cmd *cobra.Command, _ []string) error {
		return o.do(cmd, &out, func(ctx context.Context, r *runtimeClient) error {
			answer, err := r.ImageFsInfo(ctx, &runtime.ImageFsInfoRequest{})
			if err != nil {
				return fmt.Errorf("file systems of images: %w", err)
			}
			if out.form != asTable {
				status, err := messageJSON(answer)
				if err != nil {
					return err
				}
				value, err := inspection{status: status}.value()
				if err != nil {
					return err
				}
				return out.value(os.Stdout, value)
			}
			printUsage("Image", answer.ImageFilesystems)
			printUsage("Container", answer.ContainerFilesystems)
			return nil
		})
	})
	out.add(cmd, asJSON, asYAML, asTemplate, asTable)
	return cmd
}

func printUsage(of string, all []*runtime.FilesystemUsage) {
	fmt.Printf("%s Filesystem\n", of)
	d := details{os.Stdout}
	for i, u := range all {
		at := "[" + strconv.Itoa(i) + "]"
		d.fact("TimeStamp"+at, u.Timestamp)
		d.fact("Disk"+at, units.HumanSize(float64(u.GetUsedBytes().GetValue())))
		d.fact("Inodes"+at, u.GetInodesUsed().GetValue())
		d.fact("Mountpoint"+at, u.GetFsId().GetMountpoint())
	}
}

func (o *options) completeImages(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return o.completion(func(ctx context.Context, r *runtimeClient) (out []cobra.Completion, err error) {
		all, err := r.images(ctx, nil)
		for _, i := range all {
			out = append(out, i.RepoTags...)
		}
		return out, err
	})
}
