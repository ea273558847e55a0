// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxUserFile bounds /etc/passwd and /etc/group of an image.
const maxUserFile = 16 << 20

// User looks up "name", "uid", "name:group", "uid:gid" or a mixture of these, and "" for root, in the
// image's /etc/passwd and /etc/group, which open reads; more are further groups, names or numbers. The
// supplementary groups are those that list the user (when no group is given) and more, and the primary group
// is among them, so that a file of that group cannot be reached by dropping it. home is "/" for a user
// that has none. A number needs no entry, and no file that can be read; a name without an entry is
// errdefs.ErrInvalidArgument. A nil open stands for an image without these files.
func User(who string, more []string, open Opener) (u specs.User, home string, err error) {
	return lookUp(who, more, open, invalid)
}

// lookUp is User; bad words what is wrong with who.
func lookUp(who string, more []string, open Opener, bad func(flag, value, format string, args ...any) error) (u specs.User, home string, err error) {
	name, group, hasGroup := strings.Cut(who, ":")
	passwd, err := userFile(open, "/etc/passwd")
	if err != nil && !(name == "" || numeric(name)) {
		return u, "", err
	}
	groups, err := userFile(open, "/etc/group")
	if err != nil && (hasGroup && !numeric(group) || slices.ContainsFunc(more, func(g string) bool { return !numeric(g) })) {
		return u, "", err
	}
	found, err := user.GetExecUser(who, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(groups))
	if err != nil {
		return u, "", bad("user", who, "%v; want a name of the image's /etc/passwd or a number, and so for :group", err)
	}
	extra, err := user.GetAdditionalGroups(more, bytes.NewReader(groups))
	if err != nil {
		return u, "", invalid("group-add", strings.Join(more, ","), "%v; want names of the image's /etc/group or numbers", err)
	}
	// The file's own numbers are not checked by the parser; 4294967296 would become root.
	if u.UID, err = id(found.Uid); err != nil {
		return u, "", bad("user", who, "uid %v", err)
	}
	if u.GID, err = id(found.Gid); err != nil {
		return u, "", bad("user", who, "gid %v", err)
	}
	all := []uint32{u.GID}
	for _, g := range slices.Concat(found.Sgids, extra) {
		gid, err := id(g)
		if err != nil {
			return u, "", bad("user", who, "group %v", err)
		}
		all = append(all, gid)
	}
	slices.Sort(all[1:])
	for _, g := range all {
		if !slices.Contains(u.AdditionalGids, g) {
			u.AdditionalGids = append(u.AdditionalGids, g)
		}
	}
	if home = found.Home; home == "" {
		home = "/"
	}
	return u, home, nil
}

func numeric(text string) bool {
	_, err := strconv.ParseUint(text, 10, 31)
	return err == nil
}

func id(n int) (uint32, error) {
	if n < 0 || n > math.MaxInt32 {
		return 0, fmt.Errorf("%d is not in the range 0 to %d", n, math.MaxInt32)
	}
	return uint32(n), nil
}

// userFile reads one file of the image; absent is empty.
func userFile(open Opener, name string) ([]byte, error) {
	if open == nil {
		return nil, nil
	}
	f, err := open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up user: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxUserFile+1))
	if err != nil {
		return nil, fmt.Errorf("look up user: read %s in image: %w", name, err)
	}
	if len(b) > maxUserFile {
		return nil, fmt.Errorf("look up user: %s in image is larger than %d bytes: %w", name, maxUserFile, errdefs.ErrInvalidArgument)
	}
	return b, nil
}
