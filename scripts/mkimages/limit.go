// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net"
	"time"
)

// limited listens on loopback and passes each connection on to addr. What comes back has a rate of its own, in bytes a second.
func limited(addr string, rate int) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go pass(c, addr, rate)
		}
	}()
	return l.Addr().String(), nil
}

func pass(c net.Conn, addr string, rate int) {
	defer c.Close()
	to, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	go func() {
		io.Copy(to, c)
		to.(*net.TCPConn).CloseWrite()
	}()
	defer to.Close()
	buf := make([]byte, 64<<10)
	free := time.Now() // when what was sent so far has gone through
	for {
		n, err := to.Read(buf)
		if n > 0 {
			time.Sleep(time.Until(free))
			if now := time.Now(); free.Before(now) {
				free = now
			}
			free = free.Add(time.Duration(n) * time.Second / time.Duration(rate))
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
