// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// UserNS maps the users and groups of a container to others of the host. The zero value is no user
// namespace: the container's users are the host's.
type UserNS struct {
	UIDs []specs.LinuxIDMapping `json:"uids,omitempty"`
	GIDs []specs.LinuxIDMapping `json:"gids,omitempty"`
}

// Private says whether the container has a user namespace of its own.
func (u UserNS) Private() bool { return len(u.UIDs) > 0 || len(u.GIDs) > 0 }

// DefaultIDs is how many users a container has where --userns auto names no other number.
const DefaultIDs = 65536

// maxMappings is the kernel's bound on the lines of /proc/PID/uid_map.
const maxMappings = 340

// ParseUserNS parses --userns. "host" and "" are the zero UserNS. FIRST-LAST[:FIRST-LAST] maps the users from
// 0 up to a range of the host's, and the groups to the second range, or to the same one. "auto" and
// "auto:size=N" want a range of N users that no other container has, which the caller is to find: size is N
// then, and 0 otherwise.
func ParseUserNS(text string) (u UserNS, size uint32, err error) {
	const want = "want host, auto, auto:size=N, or ranges of the host's users and groups such as 100000-165535[:100000-165535]"
	switch {
	case text == "" || text == "host":
		return u, 0, nil
	case text == "auto":
		return u, DefaultIDs, nil
	case strings.HasPrefix(text, "auto:"):
		value, ok := strings.CutPrefix(text, "auto:size=")
		n, err := strconv.ParseUint(value, 10, 31)
		if !ok || err != nil || n == 0 {
			return u, 0, invalid("userns", text, want)
		}
		return u, uint32(n), nil
	}
	uids, gids, both := strings.Cut(text, ":")
	if !both {
		gids = uids
	}
	uid, err := parseRange(uids)
	if err != nil {
		return u, 0, invalid("userns", text, "%v; %s", err, want)
	}
	gid, err := parseRange(gids)
	if err != nil {
		return u, 0, invalid("userns", text, "%v; %s", err, want)
	}
	return UserNS{UIDs: []specs.LinuxIDMapping{uid}, GIDs: []specs.LinuxIDMapping{gid}}, 0, nil
}

// parseRange maps FIRST-LAST to the ids from 0 up.
func parseRange(text string) (m specs.LinuxIDMapping, err error) {
	first, last, _ := strings.Cut(text, "-")
	from, err := strconv.ParseUint(first, 10, 32)
	to, err2 := strconv.ParseUint(last, 10, 32)
	switch {
	case err != nil || err2 != nil || to == math.MaxUint32:
		return m, fmt.Errorf("%q is no range of ids", text)
	case to < from:
		return m, fmt.Errorf("the range %s ends before it begins", text)
	}
	return specs.LinuxIDMapping{HostID: uint32(from), Size: uint32(to - from + 1)}, nil
}

// ParseIDMap parses podman's --uidmap and --gidmap: CONTAINER:HOST:SIZE.
func ParseIDMap(flag, text string) (m specs.LinuxIDMapping, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return m, invalid(flag, text, "want CONTAINER:HOST:SIZE, three numbers such as 0:100000:65536")
	}
	for i, to := range []*uint32{&m.ContainerID, &m.HostID, &m.Size} {
		n, err := strconv.ParseUint(parts[i], 10, 32)
		if err != nil {
			return m, invalid(flag, text, "%q is no number", parts[i])
		}
		*to = uint32(n)
	}
	switch {
	case m.Size == 0:
		return m, invalid(flag, text, "a SIZE of 0 maps nobody")
	case uint64(m.ContainerID)+uint64(m.Size) > math.MaxUint32 || uint64(m.HostID)+uint64(m.Size) > math.MaxUint32:
		return m, invalid(flag, text, "it goes beyond the last id, %d", math.MaxUint32-1)
	}
	return m, nil
}

// overlap says whether two ranges of ids have one in common.
func overlap(a, aSize, b, bSize uint32) bool {
	return uint64(a) < uint64(b)+uint64(bSize) && uint64(b) < uint64(a)+uint64(aSize)
}

// FreeIDs finds a range of size ids of the host within pool that none of used has a part of. It begins to look at a
// random place, so that two that look at the same moment mostly find two.
func FreeIDs(pool specs.LinuxIDMapping, used []specs.LinuxIDMapping, size uint32) (first uint32, ok bool) {
	slots := pool.Size / max(size, 1)
	if slots == 0 {
		return 0, false
	}
	start := rand.Uint32N(slots)
	for i := range slots {
		first = pool.HostID + (start+i)%slots*size
		if !Overlap(used, first, size) {
			return first, true
		}
	}
	return 0, false
}

// Overlap says whether one of the mappings has a part of a range of the host's ids.
func Overlap(list []specs.LinuxIDMapping, first, size uint32) bool {
	return slices.ContainsFunc(list, func(m specs.LinuxIDMapping) bool { return overlap(m.HostID, m.Size, first, size) })
}

// mapsTo says whether the mappings have the id of a container.
func mapsTo(list []specs.LinuxIDMapping, id uint32) bool {
	return slices.ContainsFunc(list, func(m specs.LinuxIDMapping) bool { return overlap(m.ContainerID, m.Size, id, 1) })
}

// check refuses mappings that the kernel or the engine would refuse with less of an explanation.
func (u UserNS) check(o Options) error {
	if !u.Private() {
		return nil
	}
	// Of --userns none of these goes wrong.
	for _, kind := range []struct {
		flag, name string
		list       []specs.LinuxIDMapping
	}{{"uidmap", "users", u.UIDs}, {"gidmap", "groups", u.GIDs}} {
		text := MapText(kind.list)
		if len(kind.list) > maxMappings {
			return invalid(kind.flag, text, "%d mappings of %s, the kernel takes %d", len(kind.list), kind.name, maxMappings)
		}
		if !mapsTo(kind.list, 0) {
			return invalid(kind.flag, text, "0 of the container's %s is not mapped: nobody could set the container up; 0:100000:65536 maps it", kind.name)
		}
		for i, a := range kind.list {
			for _, b := range kind.list[:i] {
				if overlap(a.ContainerID, a.Size, b.ContainerID, b.Size) || overlap(a.HostID, a.Size, b.HostID, b.Size) {
					return invalid(kind.flag, text, "two mappings of %s have an id in common", kind.name)
				}
			}
		}
	}
	for _, f := range []struct{ flag, value string }{{"net", o.Net}, {"pid", o.PID}, {"ipc", o.IPC}} {
		if f.value == "host" || joined(f.value) {
			return invalid(f.flag, f.value, "not with --userns: the namespace belongs to other users")
		}
	}
	return nil
}

// MapText writes mappings as containerd's labels and mount options have them: CONTAINER:HOST:SIZE, separated by
// commas.
func MapText(list []specs.LinuxIDMapping) string {
	var parts []string
	for _, m := range list {
		parts = append(parts, fmt.Sprintf("%d:%d:%d", m.ContainerID, m.HostID, m.Size))
	}
	return strings.Join(parts, ",")
}

// checkUser refuses a process whose user or groups the namespace does not have.
func (u UserNS) checkUser(p specs.User) error {
	if !u.Private() {
		return nil
	}
	if !mapsTo(u.UIDs, p.UID) {
		return fmt.Errorf("the users of the container's user namespace (%s) do not include %d, which the program is to run as: %w", MapText(u.UIDs), p.UID, errdefs.ErrInvalidArgument)
	}
	for _, gid := range append([]uint32{p.GID}, p.AdditionalGids...) {
		if !mapsTo(u.GIDs, gid) {
			return fmt.Errorf("the groups of the container's user namespace (%s) do not include %d, which the program is to run with: %w", MapText(u.GIDs), gid, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
