// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// portOf is a port that is given by its number, or by the name that it has in the container.
func portOf(c *corev1.Container, p intstr.IntOrString) (int32, error) {
	port := p.IntVal
	if p.Type == intstr.String {
		for _, named := range c.Ports {
			if named.Name == p.StrVal {
				port = named.ContainerPort
			}
		}
		if n, err := strconv.ParseInt(p.StrVal, 10, 32); port == 0 && err == nil {
			port = int32(n)
		}
	}
	if port < 1 || port > 65535 {
		return 0, fmt.Errorf("port %q: the container has none of that name or number", p.String())
	}
	return port, nil
}

// target is what a probe or a hook is carried out on.
type target struct {
	r         Runtime
	container *corev1.Container
	id        string // of the running container
	ip        string // of its pod
}

// probe carries a probe out once. nil is success.
func (t target) probe(ctx context.Context, p *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.TimeoutSeconds)*time.Second)
	defer cancel()
	switch {
	case p.Exec != nil:
		return t.exec(ctx, p.Exec.Command, int64(p.TimeoutSeconds))
	case p.HTTPGet != nil:
		return t.get(ctx, p.HTTPGet)
	case p.TCPSocket != nil:
		return t.connect(ctx, p.TCPSocket)
	}
	return t.ask(ctx, p.GRPC)
}

// hook carries out what a container is to do after its start or before its end; nil is nothing.
func (t target) hook(ctx context.Context, h *corev1.LifecycleHandler) error {
	switch {
	case h == nil:
	case h.Exec != nil:
		return t.exec(ctx, h.Exec.Command, 0)
	case h.HTTPGet != nil:
		return t.get(ctx, h.HTTPGet)
	case h.Sleep != nil:
		return sleep(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t target) exec(ctx context.Context, command []string, seconds int64) error {
	answer, err := t.r.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: t.id, Cmd: command, Timeout: seconds})
	if err != nil {
		return err
	}
	if answer.ExitCode != 0 {
		return fmt.Errorf("%q ended with status %d: %w", command[0], answer.ExitCode, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// prober asks over HTTP. Certificates are not checked: a container's are its own.
var prober = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// maxBody bounds what is read of an answer, in bytes.
const maxBody = 10 << 10

func (t target) get(ctx context.Context, g *corev1.HTTPGetAction) error {
	port, err := portOf(t.container, g.Port)
	if err != nil {
		return err
	}
	scheme := "http"
	if g.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	path := g.Path
	if path == "" || path[0] != '/' {
		path = "/" + path
	}
	at := scheme + "://" + net.JoinHostPort(cmp.Or(g.Host, t.ip), strconv.Itoa(int(port))) + path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "ctrd-probe")
	for _, h := range g.HTTPHeaders {
		request.Header.Add(h.Name, h.Value)
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			request.Host = h.Value
		}
	}
	answer, err := prober.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	io.Copy(io.Discard, io.LimitReader(answer.Body, maxBody))
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		return fmt.Errorf("GET %s: %s: %w", at, answer.Status, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (t target) connect(ctx context.Context, s *corev1.TCPSocketAction) error {
	port, err := portOf(t.container, s.Port)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(cmp.Or(s.Host, t.ip), strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	return conn.Close()
}

// ask asks with the health protocol of gRPC.
func (t target) ask(ctx context.Context, g *corev1.GRPCAction) error {
	conn, err := grpc.NewClient("passthrough:"+net.JoinHostPort(t.ip, strconv.Itoa(int(g.Port))), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	request := &health.HealthCheckRequest{}
	if g.Service != nil {
		request.Service = *g.Service
	}
	answer, err := health.NewHealthClient(conn).Check(ctx, request)
	if err != nil {
		return err
	}
	if answer.Status != health.HealthCheckResponse_SERVING {
		return fmt.Errorf("the service is %s: %w", answer.Status, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// watch carries a probe out at its times until ctx ends. told hears of each change: true when it has succeeded as often as
// it must, false when it has failed as often. It ends when told returns false.
func (t target) watch(ctx context.Context, p *corev1.Probe, told func(well bool, err error) bool) {
	if sleep(ctx, time.Duration(p.InitialDelaySeconds)*time.Second) != nil {
		return
	}
	var wells, ills int32
	for {
		err := t.probe(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			wells, ills = wells+1, 0
		} else {
			wells, ills = 0, ills+1
		}
		if wells == p.SuccessThreshold || ills == p.FailureThreshold {
			if !told(err == nil, err) {
				return
			}
		}
		if sleep(ctx, time.Duration(p.PeriodSeconds)*time.Second) != nil {
			return
		}
	}
}
