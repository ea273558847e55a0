// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/peer"
)

// door is one socket that a server listens on. A peer gets in that is root, is the server's own user, owns the socket's file, or is
// in the group that owns it, if group members may write to it. Others are disconnected without an answer.
type door struct {
	*net.UnixListener
	owner int // of the file
	group int // whose members get in; -1: nobody's
	hall  *hall
	log   *slog.Logger
	http2 bool // peers speak it

	once   sync.Once
	shut   chan struct{} // closed when no more peers are to get in
	last   chan struct{} // closed when Accept has given the last peer
	ending sync.Once
	closed chan struct{} // closed by Close
}

func openDoor(l *net.UnixListener, h *hall, log *slog.Logger) *door {
	d := &door{
		UnixListener: l, owner: -1, group: -1, hall: h, log: log,
		shut: make(chan struct{}), last: make(chan struct{}), closed: make(chan struct{}),
	}
	var st unix.Stat_t
	if err := unix.Stat(l.Addr().String(), &st); err == nil {
		d.owner = int(st.Uid)
		if st.Mode&0o020 != 0 {
			d.group = int(st.Gid)
		}
	}
	return d
}

// Accept waits for the next peer that gets in. Once the door is shut it waits for Close.
func (d *door) Accept() (net.Conn, error) {
	for {
		raw, err := d.AcceptUnix()
		if err != nil {
			return nil, d.failed(err)
		}
		c := &conn{UnixConn: raw, hall: d.hall, since: time.Now()}
		if d.http2 {
			c.in = new(frames)
		}
		c.who, err = identify(raw)
		switch {
		case err != nil || !d.allows(c.who):
			d.log.Warn("a peer was turned away", "peer", c.who.String(), "error", err)
		case !d.hall.enter(c):
			if d.hall.full(c.who) {
				d.log.Warn("connections of a peer are closed: too many are open", "peer", c.who.String())
			}
		default:
			return c, nil
		}
		raw.Close()
	}
}

// failed gives the error of an Accept that has none to give.
func (d *door) failed(err error) error {
	select {
	case <-d.shut:
		d.end()
		<-d.closed
		return net.ErrClosed
	case <-d.closed:
		return net.ErrClosed
	default:
		return err
	}
}

func (d *door) end() { d.ending.Do(func() { close(d.last) }) }

// close lets nobody in any more; d.last is closed when Accept has given its last peer. Who connects to a socket that another
// process has open too, as systemd has, waits there for the next server.
func (d *door) close() {
	d.once.Do(func() {
		close(d.shut)
		if d.SetDeadline(time.Unix(1, 0)) != nil {
			d.end() // it has been closed
		}
	})
}

// Close closes the socket.
func (d *door) Close() error {
	err := d.UnixListener.Close()
	d.end()
	select {
	case <-d.closed:
	default:
		close(d.closed)
	}
	return err
}

func (d *door) allows(c creds) bool {
	return c.uid == 0 || int(c.uid) == os.Geteuid() || int(c.uid) == d.owner || d.group >= 0 && slices.Contains(c.groups, uint32(d.group))
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

// peerAddr is the address of a peer: who it is.
type peerAddr struct{ c *conn }

// Network implements net.Addr.
func (peerAddr) Network() string { return "unix" }

// String implements net.Addr.
func (a peerAddr) String() string { return a.c.who.String() }

// connOf gives the connection of a call.
func connOf(ctx context.Context) (c *conn, ok bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	a, ok := p.Addr.(peerAddr)
	return a.c, ok
}

// peerOf says who makes a call.
func peerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}
