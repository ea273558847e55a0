// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/go-units"
	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ParseUlimit parses docker's --ulimit: NAME=SOFT[:HARD] with the names of limits.conf(5) in lower case, -1
// for no limit. A limit above the caller's own is no error here; the kernel refuses it at the start.
func ParseUlimit(text string) (specs.POSIXRlimit, error) {
	u, err := units.ParseUlimit(text)
	if err != nil {
		return specs.POSIXRlimit{}, invalid("ulimit", text, "%v; want NAME=SOFT[:HARD] such as nofile=1024:4096, -1 for no limit", err)
	}
	if u.Soft < -1 || u.Hard < -1 {
		return specs.POSIXRlimit{}, invalid("ulimit", text, "a limit is -1 (none) or not negative")
	}
	return specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)}, nil
}

// rlimits takes the last of equals: the engine refuses duplicates.
func rlimits(values []string) ([]specs.POSIXRlimit, error) {
	var list []specs.POSIXRlimit
	for _, v := range values {
		r, err := ParseUlimit(v)
		if err != nil {
			return nil, err
		}
		if most := openFiles(); r.Type == "RLIMIT_NOFILE" && (r.Soft > most || r.Hard > most) {
			return nil, invalid("ulimit", v, "this machine allows %d open files (sysctl fs.nr_open)", most)
		}
		if err := checkRaise(v, r); err != nil {
			return nil, err
		}
		list = slices.DeleteFunc(list, func(old specs.POSIXRlimit) bool { return old.Type == r.Type })
		list = append(list, r)
	}
	return list, nil
}

// openFiles is the kernel's bound on RLIMIT_NOFILE.
func openFiles() uint64 {
	b, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return math.MaxUint64
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return math.MaxUint64
	}
	return n
}

// rlimitNumbers are those of getrlimit(2), which a caller without CAP_SYS_RESOURCE cannot raise.
var rlimitNumbers = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// mayRaise says whether this process may raise limits: a root that lacks CAP_SYS_RESOURCE, such as that of a
// container, may not.
var mayRaise = sync.OnceValue(func() bool {
	own, err := capability.NewPid2(0)
	if err != nil || own.Load() != nil {
		return true // the kernel will say
	}
	return own.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE)
})

// checkRaise refuses a limit that the kernel would refuse at the start.
func checkRaise(text string, r specs.POSIXRlimit) error {
	number, known := rlimitNumbers[r.Type]
	if !known || mayRaise() {
		return nil
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(number, &own); err == nil && r.Hard > own.Max {
		return invalid("ulimit", text, "it is above the caller's own, %s, and CAP_SYS_RESOURCE is missing to raise it", limitText(own.Max))
	}
	return nil
}

func limitText(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "none"
	}
	return strconv.FormatUint(n, 10)
}
