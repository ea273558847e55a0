// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/config"
)

// configFiles are for the manual pages of whatever reads the configuration.
var configFiles = []cli.Note{
	{Name: config.File, Text: "the configuration"},
	{Name: "/etc/ctrd/config.d/*.toml", Text: "what overrides it key by key, in the order of names"},
}

func configVerb(g *cli.Global) *cobra.Command {
	cmd := cli.Group("config", "show, check and import the configuration of ctrd serve", cli.About{
		Long: "ctrd serve and ctr-cri read a file of TOML, and drop-ins in the directory config.d beside it, each of which overrides those before " +
			"it key by key. Neither has to be there. Options of the command line go before them. The other commands read there which snapshotters other processes serve (proxy_plugins), and nothing else. CTRD_CONFIG names another file for all.\n\n" +
			"A setting has the name that it has in containerd's config.toml where it means the same. An unknown key is an error.",
		Files:   configFiles,
		SeeAlso: []string{"ctrd-serve"},
	})
	for _, verb := range []func(*cli.Global) *cobra.Command{configCheckVerb, configDefaultVerb, configDumpVerb, configImportVerb} {
		cmd.AddCommand(verb(g))
	}
	return cmd
}

func configDefaultVerb(*cli.Global) *cobra.Command {
	return cli.New("default", "print the default configuration", cli.About{
		Long:     "Prints a file that has every setting, with its default and what it is for.",
		Stdout:   "TOML",
		Examples: []cli.Example{{Note: "begin with the defaults", Text: "ctrd config default > " + config.File}},
	}, func(_ *cobra.Command, _ []string) error {
		_, err := os.Stdout.WriteString(config.DefaultText)
		return err
	})
}

// configOption adds --config to a command.
func configOption(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "config", "", "read the configuration in `FILE`, and in config.d beside it (default: "+config.File+", if it is there)")
}

func configDumpVerb(*cli.Global) *cobra.Command {
	var file string
	cmd := cli.New("dump [OPTION]...", "print the configuration that is in force", cli.About{
		Long:     "Prints the configuration as ctrd serve has it when it starts: the defaults, the file and its drop-ins, merged. Options of ctrd serve are not in it.",
		Stdout:   "TOML",
		Files:    configFiles,
		Examples: []cli.Example{{Note: "what is not as by default", Text: "diff <(ctrd config dump --config /dev/null) <(ctrd config dump)"}},
		Exit:     []int{cli.ExitNotFound},
	}, func(_ *cobra.Command, _ []string) error {
		c, err := config.Load(file)
		if err != nil {
			return err
		}
		text, err := c.Text()
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(text)
		return err
	})
	configOption(cmd, &file)
	return cmd
}

func configCheckVerb(*cli.Global) *cobra.Command {
	var file string
	cmd := cli.New("check [OPTION]...", "say what is wrong with the configuration", cli.About{
		Long: "Reads the configuration as ctrd serve does and says all that is wrong with it, one thing a line, with file, line and key. " +
			"A setting that has no effect in this version is told as well, and is no mistake. It does not look whether files and programs that it names are there.",
		Files:    configFiles,
		Examples: []cli.Example{{Note: "have ctrd read it again if it is right", Text: "ctrd config check && systemctl reload ctrd"}},
		Status:   []cli.ExitStatus{{Code: "1", Meaning: "something is wrong with it"}},
		Exit:     []int{cli.ExitNotFound},
	}, func(_ *cobra.Command, _ []string) error {
		c, err := config.Load(file)
		var wrong config.Mistakes
		if err == nil {
			for _, line := range c.Idle() {
				cli.Say("%s", line)
			}
		}
		if !errors.As(err, &wrong) {
			return err
		}
		for _, line := range wrong {
			cli.Say("%s", line)
		}
		return cli.Exit(cli.ExitOther)
	})
	configOption(cmd, &file)
	return cmd
}

func configImportVerb(*cli.Global) *cobra.Command {
	return cli.New("import FILE", "make a configuration of containerd's", cli.About{
		Long: "Reads containerd's config.toml, of version 2, 3 or 4, and prints what it says as ctrd has it. What has no equal is told on stderr, a " +
			"setting a line, with file, line and name. What says only what ctrd does anyway is left out.\n\n" +
			"A runtime of the type io.containerd.runc.v2 becomes ctrd's own supervisor, with the engine that BinaryName names; SystemdCgroup becomes " +
			"cgroup_driver. Files that it imports are not read.",
		Stdin:    "with the operand -, the file",
		Stdout:   "TOML",
		Examples: []cli.Example{{Note: "go on with what a node has", Text: "ctrd config import /etc/containerd/config.toml > " + config.File}},
		Args:     cli.Count(1, 1),
		Exit:     []int{cli.ExitNotFound},
	}, func(_ *cobra.Command, args []string) error {
		file := args[0]
		if file == "-" {
			file = "/dev/stdin"
		}
		data, err := config.Read(file)
		if err != nil {
			return err
		}
		text, left, err := config.Import(data, args[0])
		if err != nil {
			return err
		}
		if c, err := config.Parse(text, args[0]); err == nil {
			left = append(left, c.Idle()...)
		}
		for _, line := range left {
			cli.Say("%s", line)
		}
		_, err = os.Stdout.Write(text)
		return err
	})
}
