// SPDX-License-Identifier: Apache-2.0

package main

import "ctrd.dev/ctrd/lib/cli"

// Why there are no options of a kind.
const (
	noAliases = "there is no name server in a network: --add-host names an address, ctr-task inspect shows a container's"
	noHealth  = "health checks are not run; a program outside can use ctr-task exec"
	noVolumes = "named volumes do not exist: -v and --mount take directories of the host"
	noDriver  = "the log is a file that its supervisor keeps, see ctr-task-logs(1); --log-max-size and --log-max-files rotate it"
	noPod     = "--net, --ipc, --uts and --pid container:NAME share the namespaces of another container"
)

// absentOptions are options of docker run, podman run and nerdctl run.
var absentOptions = cli.Absent{
	"network-alias": noAliases, "net-alias": noAliases, "link": noAliases,
	"link-local-ip": "--ip gives one address of each family",
	"health-cmd":    noHealth, "health-interval": noHealth, "health-retries": noHealth, "health-start-period": noHealth,
	"health-start-interval": noHealth, "health-timeout": noHealth, "healthcheck-command": noHealth,
	"no-healthcheck": "leave it out: " + noHealth,
	"volumes-from":   noVolumes, "volume-driver": noVolumes,
	"log-driver": noDriver, "log-opt": noDriver,
	"disable-content-trust": "leave it out: signatures are not looked at",
	"gpus":                  "--device shows devices, such as /dev/dri",
	"kernel-memory":         "the kernel has given it up; --memory counts kernel memory too",
	"pod":                   noPod, "pod-id-file": noPod,
	"attach":      "run passes all output on, unless -d is given, and input with -i",
	"a":           "run passes all output on, unless -d is given, and input with -i",
	"sig-proxy":   "signals are passed on, unless --no-sig-proxy is given",
	"env-host":    "-e NAME passes one variable on",
	"replace":     "ctr-task rm -f NAME removes the container that has the name",
	"isolation":   "there is one way to isolate on Linux: leave it out",
	"storage-opt": "the size of a container is not bounded",
	"umask":       "the umask is 0022; the program can change it",
}
