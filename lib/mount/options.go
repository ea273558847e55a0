// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// parsed is what mount(2) wants of a list of options.
type parsed struct {
	flags       uintptr
	propagation uintptr
	recursiveRO bool // rro
	loop        bool // the source is a file, and is mounted by way of a loop device
	data        []string
	ids         idMaps
}

// flagOptions maps option words to flags to set or, for words that undo another, to clear.
var flagOptions = map[string]struct {
	flag  uintptr
	clear bool
}{
	"async":         {unix.MS_SYNCHRONOUS, true},
	"atime":         {unix.MS_NOATIME, true},
	"bind":          {unix.MS_BIND, false},
	"defaults":      {0, false},
	"dev":           {unix.MS_NODEV, true},
	"diratime":      {unix.MS_NODIRATIME, true},
	"dirsync":       {unix.MS_DIRSYNC, false},
	"exec":          {unix.MS_NOEXEC, true},
	"lazytime":      {unix.MS_LAZYTIME, false},
	"mand":          {unix.MS_MANDLOCK, false},
	"noatime":       {unix.MS_NOATIME, false},
	"nodev":         {unix.MS_NODEV, false},
	"nodiratime":    {unix.MS_NODIRATIME, false},
	"noexec":        {unix.MS_NOEXEC, false},
	"nolazytime":    {unix.MS_LAZYTIME, true},
	"nomand":        {unix.MS_MANDLOCK, true},
	"norelatime":    {unix.MS_RELATIME, true},
	"nostrictatime": {unix.MS_STRICTATIME, true},
	"nosuid":        {unix.MS_NOSUID, false},
	"rbind":         {unix.MS_BIND | unix.MS_REC, false},
	"relatime":      {unix.MS_RELATIME, false},
	"remount":       {unix.MS_REMOUNT, false},
	"ro":            {unix.MS_RDONLY, false},
	"rw":            {unix.MS_RDONLY, true},
	"strictatime":   {unix.MS_STRICTATIME, false},
	"suid":          {unix.MS_NOSUID, true},
	"sync":          {unix.MS_SYNCHRONOUS, false},
}

var propagationOptions = map[string]uintptr{
	"private":     unix.MS_PRIVATE,
	"rprivate":    unix.MS_PRIVATE | unix.MS_REC,
	"rshared":     unix.MS_SHARED | unix.MS_REC,
	"rslave":      unix.MS_SLAVE | unix.MS_REC,
	"runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
	"shared":      unix.MS_SHARED,
	"slave":       unix.MS_SLAVE,
	"unbindable":  unix.MS_UNBINDABLE,
}

// parse splits options. Of options that contradict each other the last one counts.
func parse(options []string) (p parsed, err error) {
	for _, o := range options {
		if f, ok := flagOptions[o]; ok {
			if f.clear {
				p.flags &^= f.flag
			} else {
				p.flags |= f.flag
			}
			continue
		}
		if f, ok := propagationOptions[o]; ok {
			p.propagation = f
			continue
		}
		switch {
		case o == "rro":
			p.recursiveRO = true
		case o == "":
		case strings.HasPrefix(o, "uidmap="):
			if p.ids.uids, err = parseIDMaps(o[len("uidmap="):]); err != nil {
				return p, err
			}
		case strings.HasPrefix(o, "gidmap="):
			if p.ids.gids, err = parseIDMaps(o[len("gidmap="):]); err != nil {
				return p, err
			}
		case o == "loop":
			p.loop = true
		case strings.HasPrefix(o, "loop="):
			return p, fmt.Errorf("mount option %q: %w", o, errdefs.ErrNotImplemented)
		default:
			p.data = append(p.data, o)
		}
	}
	return p, nil
}
