// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/peer"
)

// Guard wraps a listener of a unix socket: a peer gets in that is root, is the server's own user, or is in the group that
// owns the socket's file, if group members may write to it. Others are disconnected without an answer, and told to refused.
func Guard(l *net.UnixListener, refused func(peer string)) net.Listener {
	g := &guarded{UnixListener: l, group: -1, refused: refused}
	var st unix.Stat_t
	if err := unix.Stat(l.Addr().String(), &st); err == nil && st.Mode&0o020 != 0 {
		g.group = int(st.Gid)
	}
	return g
}

type guarded struct {
	*net.UnixListener
	group   int // whose members get in; -1: nobody's
	refused func(peer string)
}

// Accept waits for the next peer that gets in.
func (g *guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		who, err := identify(c)
		if err == nil && g.allows(who) {
			return &conn{c, who}, nil
		}
		c.Close()
		g.refused(who.String())
	}
}

func (g *guarded) allows(c creds) bool {
	return c.uid == 0 || int(c.uid) == os.Geteuid() || g.group >= 0 && slices.Contains(c.groups, uint32(g.group))
}

// creds say who a peer was when it connected.
type creds struct {
	pid    int32
	uid    uint32
	groups []uint32
}

// String gives pid and user.
func (c creds) String() string { return fmt.Sprintf("pid %d, uid %d", c.pid, c.uid) }

func identify(c *net.UnixConn) (who creds, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return who, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		var u *unix.Ucred
		if u, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); inner != nil {
			return
		}
		who = creds{pid: u.Pid, uid: u.Uid, groups: []uint32{u.Gid}}
		more, err := peerGroups(int(fd))
		if err == nil {
			who.groups = append(who.groups, more...)
		}
	})
	return who, errors.Join(err, inner)
}

// conn is a connection that knows its peer; gRPC asks for its address.
type conn struct {
	*net.UnixConn
	who creds
}

// RemoteAddr gives the peer's credentials.
func (c *conn) RemoteAddr() net.Addr { return peerAddr{c.who} }

type peerAddr struct{ who creds }

// Network implements net.Addr.
func (peerAddr) Network() string { return "unix" }

// String implements net.Addr.
func (a peerAddr) String() string { return a.who.String() }

// peerOf says who makes a call.
func peerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}
