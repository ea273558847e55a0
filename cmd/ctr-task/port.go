// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/network"
	"ctrd.dev/ctrd/lib/network/port"
	"ctrd.dev/ctrd/lib/task"
)

func portVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[port.Port]{Columns: []cli.Column[port.Port]{
		{Name: "port", Value: func(p port.Port) string { return fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol) }, Help: "of the container"},
		{Name: "host", Value: hostPort, Help: "address and port of the host"},
	}}
	cmd := cli.New("port [OPTION]... CONTAINER [PORT[/PROTOCOL]]", "list the published ports of a container", cli.About{
		Long: "Lists the ports that a running container has published with -p or -P, those of the host that were chosen included. With PORT, " +
			"it prints the addresses of the host for that one alone; one that is not published is an error.",
		Stdin: oneName, Stdout: "a port a line: that of the container and that of the host; with PORT, that of the host alone",
		Examples: []cli.Example{
			{Note: "list all", Text: "ctr-task port web"},
			{Note: "ask a server on a port that was chosen", Text: "curl http://$(ctr-task port web 80)/"},
		},
		Args: cli.Count(1, 2), Complete: cli.InTurn(cli.Containers(g)), Exit: []int{cli.ExitNotFound},
	}, func(cmd *cobra.Command, args []string) error {
		t, err := one(cmd.Context(), g, args[0])
		if err != nil {
			return err
		}
		defer t.Close()
		info, err := t.Info(cmd.Context())
		if err != nil {
			return err
		}
		if info.Attached == nil {
			return fmt.Errorf("container %q is attached to no network: %w", t.ID(), errdefs.ErrNotFound)
		}
		if len(args) == 1 {
			return table.PrintAll(info.Attached.Ports)
		}
		return printPort(info, args[1])
	})
	table.Flags(cmd)
	return cmd
}

// printPort prints where one port is published.
func printPort(info task.Info, text string) error {
	want, err := port.Parse(text)
	if err != nil || len(want) != 1 {
		return cli.Usagef("port %q: want PORT or PORT/PROTOCOL", text)
	}
	found := false
	for _, p := range info.Attached.Ports {
		if p.ContainerPort == want[0].ContainerPort && p.Protocol == want[0].Protocol {
			found = true
			fmt.Println(hostPort(p))
		}
	}
	if !found {
		return fmt.Errorf("port %s of container %q is not published: %w", text, info.ID, errdefs.ErrNotFound)
	}
	return nil
}

// hostPort is where a port is published, as a client takes it.
func hostPort(p port.Port) string {
	ip := p.HostIP
	if ip == "" {
		ip = "0.0.0.0"
	}
	return net.JoinHostPort(ip, strconv.Itoa(int(p.HostPort)))
}

// aboutNetworks is what run says of networks.
const aboutNetworks = "A network is a configuration of CNI in /etc/cni/net.d, by its name, and is set up by the plugins of the distribution " +
	"(on Debian the package containernetworking-plugins). The network bridge is the configuration of that name, else that of the first file; where there is none, it is " +
	"the network ctrd, which needs none: a bridge with subnets that the host does not use. A container has its addresses from its start to its end; " +
	"a restart gives it others, unless --ip asks for the same. Nobody else can publish a port of the host meanwhile."

var (
	networkEnv = []cli.Note{
		{Name: "NETCONFPATH", Text: "the directory of network configurations, instead of /etc/cni/net.d"},
		{Name: "CNI_PATH", Text: "the directories of network plugins, separated by colons, instead of /opt/cni/bin, /usr/lib/cni and /usr/libexec/cni"},
	}
	networkFiles = []cli.Note{{Name: "/etc/cni/net.d/*.conflist", Text: "networks"}}
)

// completeNetworks completes the names of networks, and what else --net takes.
func completeNetworks(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	all := []cobra.Completion{"host", "none", "container:", network.BridgeName, network.OwnName}
	configured, _ := network.Host{Conf: os.Getenv("NETCONFPATH")}.Networks()
	for _, n := range configured {
		all = append(all, n.Name)
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}
