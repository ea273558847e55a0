// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"path/filepath"
	"strconv"
	"strings"
)

// maskedPaths and readonlyPaths are docker's; what a kernel does not have is passed over by the engine.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// thermal lists what tells the load of each CPU to a container, one directory a CPU.
func thermal() []string {
	found, _ := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	return found
}

// security is what --security-opt says.
type security struct {
	noNewPrivileges bool
	unmask          bool
	seccomp         string // "" the default profile, "unconfined", or a file
}

func parseSecurity(options []string) (security, error) {
	var s security
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		if key == o {
			key, value, _ = strings.Cut(o, ":")
		}
		switch key {
		case "no-new-privileges":
			s.noNewPrivileges = true
			if value != "" {
				on, err := strconv.ParseBool(value)
				if err != nil {
					return s, invalid("security-opt", o, "want no-new-privileges or no-new-privileges=false")
				}
				s.noNewPrivileges = on
			}
		case "seccomp":
			switch value {
			case "":
				return s, invalid("security-opt", o, "want seccomp=unconfined or seccomp=profile.json")
			case "default", "builtin":
				value = ""
			}
			s.seccomp = value
		case "systempaths":
			if value != "unconfined" {
				return s, invalid("security-opt", o, "want systempaths=unconfined")
			}
			s.unmask = true
		case "apparmor":
			if value != "unconfined" {
				return s, invalid("security-opt", o, "AppArmor profiles are not supported; want apparmor=unconfined")
			}
		case "label":
			if value != "disable" {
				return s, invalid("security-opt", o, "SELinux labels are not supported; want label=disable")
			}
		default:
			return s, invalid("security-opt", o, "want seccomp=unconfined, seccomp=profile.json, no-new-privileges or systempaths=unconfined")
		}
	}
	return s, nil
}

// sysctls parses the values of --sysctl; only what a namespace of the container confines is allowed.
func sysctls(o Options) (map[string]string, error) {
	set := map[string]string{}
	if o.Net == "none" {
		// docker's: no privilege is needed to listen on a low port or to ping in one's own network.
		set["net.ipv4.ip_unprivileged_port_start"] = "0"
		if !o.UserNS.Private() { // which does not have these groups
			set["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	for _, text := range o.Sysctls {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, invalid("sysctl", text, "want NAME=VALUE")
		}
		// sysctl(8) takes both forms. A name with both separators (an interface such as eth0.7) stays.
		if !strings.Contains(key, ".") {
			key = strings.ReplaceAll(key, "/", ".")
		}
		switch {
		case strings.Contains(key, "..") || strings.ContainsAny(key, " \x00") || strings.ContainsRune(value, 0):
			return nil, invalid("sysctl", text, "no such name")
		case strings.HasPrefix(key, "net.") || strings.HasPrefix(key, "net/"):
			if o.Net == "host" || joined(o.Net) {
				return nil, invalid("sysctl", text, "it would change others: not with --net %s", o.Net)
			}
		case ipcSysctls[key] || strings.HasPrefix(key, "fs.mqueue."):
			if o.IPC == "host" || joined(o.IPC) {
				return nil, invalid("sysctl", text, "it would change others: not with --ipc %s", o.IPC)
			}
		case key == "kernel.domainname":
			if o.UTS == "host" || joined(o.UTS) {
				return nil, invalid("sysctl", text, "it would change others: not with --uts %s", o.UTS)
			}
		default:
			return nil, invalid("sysctl", text, "it belongs to the whole host; want one of net., fs.mqueue., kernel.msg*, kernel.sem, kernel.shm*")
		}
		set[key] = value
	}
	if len(set) == 0 {
		return nil, nil
	}
	return set, nil
}

var ipcSysctls = map[string]bool{
	"kernel.msgmax": true, "kernel.msgmnb": true, "kernel.msgmni": true, "kernel.sem": true, "kernel.shmall": true,
	"kernel.shmmax": true, "kernel.shmmni": true, "kernel.shm_rmid_forced": true,
}
