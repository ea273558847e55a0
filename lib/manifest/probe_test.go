// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// served gives a probe's target on this host, with a named port.
func served(t *testing.T, l net.Addr) (target, int32) {
	t.Helper()
	_, text, err := net.SplitHostPort(l.String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	c := &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
	return target{container: c, ip: "127.0.0.1"}, int32(port)
}

func TestProbeHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/well", func(_ http.ResponseWriter, r *http.Request) {
		if r.Host != "front" || r.Header.Get("X-Who") != "probe" {
			t.Error(r.Host, r.Header)
		}
	})
	mux.HandleFunc("/ill", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ill", http.StatusFound) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for scheme, serve := range map[corev1.URIScheme]func(http.Handler) *httptest.Server{corev1.URISchemeHTTP: httptest.NewServer, corev1.URISchemeHTTPS: httptest.NewTLSServer} {
		s := serve(mux)
		defer s.Close()
		tg, port := served(t, s.Listener.Addr())
		headers := []corev1.HTTPHeader{{Name: "host", Value: "front"}, {Name: "X-Who", Value: "probe"}}
		for path, well := range map[string]bool{"/well": true, "well": true, "/ill": false, "/elsewhere": true, "/slow": false, "/nothing": false} {
			p := &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Scheme: scheme, Path: path, Port: intstr.FromString("web"), HTTPHeaders: headers}}}
			if err := tg.probe(t.Context(), p); (err == nil) != well {
				t.Errorf("%s %s: %v", scheme, path, err)
			}
		}
		p := &corev1.Probe{TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(port)}}}
		if err := tg.probe(t.Context(), p); err != nil {
			t.Error(err)
		}
		s.Close()
		if err := tg.probe(t.Context(), p); err == nil {
			t.Error("nobody listens, and the probe succeeds")
		}
	}
}

func TestProbeGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := health.NewServer()
	s := grpc.NewServer()
	healthapi.RegisterHealthServer(s, h)
	go s.Serve(l)
	defer s.Stop()
	tg, port := served(t, l.Addr())
	ask := func(service string) error {
		return tg.probe(t.Context(), &corev1.Probe{TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port, Service: &service}}})
	}
	if err := ask(""); err != nil {
		t.Error(err)
	}
	h.SetServingStatus("", healthapi.HealthCheckResponse_NOT_SERVING)
	if err := ask(""); err == nil || !strings.Contains(err.Error(), "NOT_SERVING") {
		t.Error(err)
	}
	if ask("unknown") == nil {
		t.Error("a service that is not known is well")
	}
}

// A probe tells when it has succeeded or failed as often as it must, and again after each change.
func TestWatch(t *testing.T) {
	answers := []bool{false, true, true, false, false, true, false, false, false}
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked >= len(answers) || !answers[asked] {
			w.WriteHeader(http.StatusInternalServerError)
		}
		asked++
	}))
	defer s.Close()
	tg, _ := served(t, s.Listener.Addr())
	p := &corev1.Probe{TimeoutSeconds: 5, SuccessThreshold: 2, FailureThreshold: 3, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("web")}}}
	var told []bool
	tg.watch(t.Context(), p, func(well bool, _ error) bool {
		told = append(told, well)
		return len(told) < 2
	})
	if len(told) != 2 || !told[0] || told[1] || asked != len(answers) {
		t.Error(told, asked)
	}
}

func TestHookSleeps(t *testing.T) {
	tg := target{}
	if err := tg.hook(t.Context(), nil); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := tg.hook(ctx, &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 60}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
