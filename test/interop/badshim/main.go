// SPDX-License-Identifier: Apache-2.0

// Command badshim is a containerd shim that fails in the way that BADSHIM names. Its server listens at
// BADSHIM_SOCKET.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func main() {
	if err := run(os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, "badshim:", err)
		os.Exit(1)
	}
}

func run(action string) error {
	switch action {
	case "start":
		return start()
	case "serve":
		l, err := net.FileListener(os.NewFile(3, "socket"))
		if err != nil {
			return err
		}
		return serve(l)
	}
	return nil // delete: there is nothing to clean up
}

// start leaves the server behind and tells where it listens.
func start() error {
	path := os.Getenv("BADSHIM_SOCKET")
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	server := exec.Command(self, append(os.Args[1:len(os.Args)-1:len(os.Args)-1], "serve")...)
	server.ExtraFiles = []*os.File{f}
	server.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := server.Start(); err != nil {
		return err
	}
	_, err = fmt.Printf(`{"version":3,"address":"unix://%s","protocol":"ttrpc"}`, path)
	return err
}

func serve(l net.Listener) error {
	mode := os.Getenv("BADSHIM")
	switch mode {
	case "deaf", "rubbish":
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			if mode == "rubbish" {
				c.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
			}
		}
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	taskapi.RegisterTTRPCTaskService(s, &service{mode: mode})
	return s.Serve(context.Background(), l)
}

// service is the task service; its init process is no container.
type service struct {
	taskapi.TTRPCTaskService // what is not here is not asked for
	mode                     string
	init                     *exec.Cmd
}

func (s *service) Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: "3"}, nil
}

func (s *service) Create(context.Context, *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	switch s.mode {
	case "refuses":
		return nil, errors.New("no luck today")
	case "dies-at-create":
		os.Exit(1)
	case "hangs-at-create":
		select {}
	case "no-pid":
		return &taskapi.CreateTaskResponse{}, nil
	}
	s.init = exec.Command("sleep", "1000")
	s.init.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.init.Start(); err != nil {
		return nil, err
	}
	return &taskapi.CreateTaskResponse{Pid: uint32(s.init.Process.Pid)}, nil
}

func (s *service) Start(context.Context, *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	switch s.mode {
	case "dies-at-start":
		os.Exit(1)
	case "hangs-at-start":
		select {}
	case "refuses-start":
		return nil, errors.New("not like this")
	case "dies-running":
		time.AfterFunc(200*time.Millisecond, func() { os.Exit(1) })
	}
	return &taskapi.StartResponse{Pid: uint32(s.init.Process.Pid)}, nil
}

func (s *service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return &taskapi.StateResponse{ID: r.ID, Status: task.Status_RUNNING}, nil
}

func (s *service) Wait(context.Context, *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	select {}
}

func (s *service) Kill(context.Context, *taskapi.KillRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (s *service) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if s.init == nil {
		return nil, errdefs.ErrNotFound
	}
	return &taskapi.DeleteResponse{ExitStatus: 137, ExitedAt: timestamppb.Now()}, nil
}

func (s *service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil // it is deaf to that, too
}
