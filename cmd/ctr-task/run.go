// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/task"
)

// programStatuses is what a command ends with that runs a program.
var programStatuses = []cli.ExitStatus{
	{Code: "n", Meaning: "the program's own status; 128+n when signal n ended it"},
	{Code: "125", Meaning: "the failure is ours: no such image, a bad option, a container that cannot be made"},
	{Code: "126", Meaning: "the program is there and cannot be executed"},
	{Code: "127", Meaning: "the program is not there"},
}

func runVerb(g *cli.Global) *cobra.Command {
	var c containerFlags
	var a attachFlags
	var cgroups cgroupsFlag
	var pull pullFlags
	var detach bool
	var pidfile string
	cmd := cli.New("run [OPTION]... IMAGE [PROGRAM [ARGUMENT]...]", "make a container and run it", cli.About{
		Long: "Makes a container from an image and runs it. An image that is not here is brought by ctr-pull, unless --pull says otherwise. Without -d, its output is passed on " +
			"until it ends, with -i its input too, and run ends with its status. INT and TERM are passed on to the program; the third of them ends this " +
			"command and leaves the program running.\n\n" +
			"When IMAGE is -, it is the first field of the first line of stdin, as ctr-pull prints it; what follows that line " +
			"is the container's stdin.\n\n" +
			"With --rm the container is transient: it costs no write to the disk but its own, and it is removed when it ends, " +
			"also when this command has been killed.\n\n" + aboutNetworks,
		Stdin: "with -i, the container's input; with IMAGE -, first a line that names the image", Stdout: "the container's output; with -d, its id",
		Examples: []cli.Example{
			{Note: "pull an image and run it in the background", Text: "ctr-pull docker.io/library/redis:7 | ctr-task run -d --name r -"},
			{Note: "a throw-away shell", Text: "ctr-task run --rm -it alpine"},
			{Note: "a filter in a pipe", Text: "{ ctr-pull -q alpine; cat data; } | ctr-task run --rm -i - wc -c"},
			{Note: "a server on port 8080 of the host", Text: "ctr-task run -d -p 8080:80 nginx"},
			{Note: "limits and a volume", Text: "ctr-task run -d -m 256m --cpus 0.5 -v /srv/www:/usr/share/nginx/html:ro nginx"},
		},
		Args: cli.Count(1, -1), Complete: cli.InTurn(cli.Images(g)), Program: true, Failure: 125, Status: programStatuses,
		SeeAlso: []string{"ctr-pull", "ctr-task-create", "ctr-task-start", "ctr-task-attach", "ctr-task-logs"}, Env: slices.Concat(cli.UnpackNotes, networkEnv), Files: networkFiles,
	}, func(cmd *cobra.Command, args []string) error {
		o, err := c.options(cmd, args)
		if err != nil {
			return err
		}
		where, err := cgroups.value()
		if err == nil {
			err = checkCgroup(o.CgroupDriver, o.CgroupParent, where)
		}
		if err != nil {
			return err
		}
		if !detach && o.Stdin && o.Spec.TTY {
			if err := needTerminal(); err != nil {
				return err
			}
		}
		if detach && (a.detachKeys != "" && cmd.Flags().Changed("detach-keys")) {
			return cli.Usagef("--detach-keys makes no sense with -d")
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		files, err := newFiles([2]string{"--cidfile", c.cidfile}, [2]string{"--pidfile", pidfile})
		if err != nil {
			return err
		}
		defer files.discard()
		t, err := withImage(cmd, g, pull, o, func() (*task.Task, error) {
			return task.Run(cmd.Context(), d, g.Namespace, o, task.StartOptions{
				Client: !detach, ConsoleSize: consoleSize(o.Spec.TTY && !detach), Cgroups: where,
			})
		})
		if ended, ok := errors.AsType[*task.EndedError](err); ok && !detach {
			return cli.Exit(ended.Exit.Status)
		}
		if err != nil {
			return programStatus(createHint(err, g, o))
		}
		defer t.Close()
		tellOutside(t)
		if err := files.write(t.ID(), strconv.Itoa(t.PID())); err != nil {
			return errors.Join(err, t.Remove(context.WithoutCancel(cmd.Context()), true))
		}
		if detach {
			return printMade(t.ID(), "runs on")
		}
		return a.attach(cmd, t, session{owner: true, stdin: o.Stdin, tty: o.Spec.TTY})
	})
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "run in the background and print the container's id")
	cmd.Flags().BoolVar(&c.Transient, "rm", false, "remove the container when it ends")
	cmd.Flags().StringVar(&pidfile, "pidfile", "", "write the pid of the program to `FILE`, which must not exist")
	pull.add(cmd)
	cgroups.add(cmd)
	c.add(cmd)
	a.add(cmd)
	return cmd
}

func createVerb(g *cli.Global) *cobra.Command {
	var c containerFlags
	var pull pullFlags
	cmd := cli.New("create [OPTION]... IMAGE [PROGRAM [ARGUMENT]...]", "make a container and do not run it", cli.About{
		Long:   "Makes a container from an image and prints its id. An image that is not here is brought by ctr-pull, unless --pull says otherwise. IMAGE - is the first field of the first line of stdin, as ctr-pull prints it.",
		Stdin:  "with IMAGE -, a line that names the image",
		Stdout: "the container's id",
		Examples: []cli.Example{
			{Note: "make now, run later", Text: "id=$(ctr-task create --name db redis:7) && ctr-task start $id"},
		},
		Args: cli.Count(1, -1), Complete: cli.InTurn(cli.Images(g)), Program: true,
		Exit: []int{cli.ExitNotFound, cli.ExitExists, cli.ExitBusy, cli.ExitRegistry}, SeeAlso: []string{"ctr-pull", "ctr-task-run", "ctr-task-start"}, Env: slices.Concat(cli.UnpackNotes, networkEnv), Files: networkFiles,
	}, func(cmd *cobra.Command, args []string) error {
		o, err := c.options(cmd, args)
		if err == nil {
			err = checkCgroup(o.CgroupDriver, o.CgroupParent, "")
		}
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		files, err := newFiles([2]string{"--cidfile", c.cidfile})
		if err != nil {
			return err
		}
		defer files.discard()
		made, err := withImage(cmd, g, pull, o, func() (*task.Task, error) {
			return task.Create(cmd.Context(), d, g.Namespace, o)
		})
		if err != nil {
			return createHint(pullStatus(err), g, o)
		}
		if err := files.write(made.ID()); err != nil {
			return errors.Join(err, made.Remove(context.WithoutCancel(cmd.Context()), false))
		}
		return printMade(made.ID(), "is made")
	})
	pull.add(cmd)
	c.add(cmd)
	cli.ExplainAbsent(cmd, cli.Absent{"rm": "run --rm makes a container that is removed when it ends", "detach": "create runs nothing", "d": "create runs nothing"})
	return cmd
}

// createHint names the next step when the image is not here or the name is taken.
func createHint(err error, g *cli.Global, o task.CreateOptions) error {
	var missing *task.ImageError
	switch {
	case errors.As(err, &missing) && missing.Image != "":
		words := []string{"ctr-pull"}
		if g.Namespace != cli.DefaultNamespace {
			words = append(words, "-n", g.Namespace)
		}
		if o.Platform != "" {
			words = append(words, "--platform", o.Platform)
		}
		return cli.Hint(err, "%s", cli.Quote(append(words, missing.Image)...))
	case errdefs.IsAlreadyExists(err) && o.ID != "":
		return cli.Hint(err, "%s removes the container that has the name", cli.Quote("ctr-task", "rm", o.ID))
	}
	return err
}

// printMade prints the id of a container that was made. Who does not get it is told what is left.
func printMade(id, what string) error {
	_, err := fmt.Println(id)
	return cli.Hint(err, "container %s %s: ctr-task rm -f %s removes it", id, what, id)
}

// needTerminal refuses what cannot work: a terminal for a program whose input is none.
func needTerminal() error {
	if stdio.IsTerminal(os.Stdin) {
		return nil
	}
	return cli.Hint(cli.Usagef("-i and -t together want a terminal on stdin"), "leave -t out to pass a file or a pipe on")
}

// ourFailure gives an error the status 125, unless it has one of its own.
func ourFailure(err error) error {
	if err == nil || cli.HasStatus(err) {
		return err
	}
	return cli.WithStatus(err, 125)
}

// programStatus gives an error the status 126 or 127 when the program could not be run.
func programStatus(err error) error {
	var p *task.ProgramError
	if errors.As(err, &p) {
		return cli.WithStatus(err, p.Status)
	}
	return err
}

func startVerb(g *cli.Global) *cobra.Command {
	var a attachFlags
	var cgroups cgroupsFlag
	var attach bool
	var incarnation string
	cmd := cli.New("start [OPTION]... CONTAINER...", "run containers that are made or have stopped", cli.About{
		Long:  "Runs each container in the background and prints its id. With -a there is one container, whose output is passed on until it ends, as with run.",
		Stdin: "with the operand -, names of containers, one a line; with -a, the container's input if it was made with -i", Stdout: "the id of each container; with -a, its output",
		Examples: []cli.Example{
			{Note: "run it again", Text: "ctr-task stop r; ctr-task start r"},
			{Note: "run it here", Text: "ctr-task start -a job"},
		},
		Args: cli.Count(1, -1), Complete: cli.Containers(g), Failure: 0,
		Exit:   []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome},
		Status: []cli.ExitStatus{{Code: "n", Meaning: "with -a, the program's own status, or 125, 126, 127 as with run"}},
	}, func(cmd *cobra.Command, args []string) (err error) {
		if incarnation != "" {
			d, err := g.Open()
			if err != nil {
				return err
			}
			return ofTask(cmd.Context(), d, g.Namespace, args[0], incarnation, func(t *task.Task) error {
				return t.StartAgain(cmd.Context(), task.StartOptions{})
			})
		}
		where, err := cgroups.value()
		if err != nil {
			return err
		}
		if !attach {
			return each(cmd.Context(), g, args, func(t *task.Task) error {
				if err := t.Start(cmd.Context(), task.StartOptions{Cgroups: where}); err != nil {
					return err
				}
				fmt.Println(t.ID())
				return nil
			})
		}
		if len(args) != 1 || args[0] == "-" {
			return cli.Usagef("-a takes one container")
		}
		defer func() { err = ourFailure(err) }()
		t, err := one(cmd.Context(), g, args[0])
		if err != nil {
			return err
		}
		defer t.Close()
		began := time.Now()
		if err := t.Start(cmd.Context(), task.StartOptions{Client: true, ConsoleSize: consoleSize(true), Cgroups: where}); err != nil {
			if ended, ok := errors.AsType[*task.EndedError](err); ok {
				return cli.Exit(ended.Exit.Status)
			}
			return programStatus(err)
		}
		tellOutside(t)
		s, err := t.Spec(cmd.Context())
		if err != nil {
			return err
		}
		return a.attach(cmd, t, session{owner: true, stdin: t.Container.Stdin, tty: s.Process.Terminal, since: began})
	})
	cmd.Flags().StringVar(&incarnation, "incarnation", "", "start the container with this exact id again if `TASK` was its last task; for ctr-shim")
	cli.HideOption(cmd, "incarnation")
	cmd.Flags().BoolVarP(&attach, "attach", "a", false, "pass the output on, and the input of a container made with -i")
	cgroups.add(cmd)
	a.add(cmd)
	return cmd
}
