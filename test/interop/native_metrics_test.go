// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"testing"
)

// TestNativeMetrics: Prometheus' text on the socket, of a task of either shim.
func TestNativeMetrics(t *testing.T) {
	withTasks(t, func(t *testing.T, n *tasker) {
		n.command(t, "ctr-task", "run", "-d", "--name", "m", busybox, "sleep", "1000")
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(n.State, "metrics.sock"))
		}}}
		defer client.CloseIdleConnections()
		r, err := client.Get("http://ctrd/v1/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v", r.Status, err)
		}
		for _, want := range []string{
			`(?m)^grpc_server_handled_total\{grpc_method="Check",grpc_service="grpc.health.v1.Health",grpc_type="unary",grpc_code="OK"\} [1-9]`,
			fmt.Sprintf(`(?m)^container_memory_[a-z_]+\{container_id="m",namespace="%s"\} [1-9]`, n.namespace),
			fmt.Sprintf(`(?m)^container_pids_current\{container_id="m",namespace="%s"\} [1-9]`, n.namespace),
			`(?m)^process_resident_memory_bytes [1-9]`,
		} {
			if !regexp.MustCompile(want).Match(text) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
		n.command(t, "ctr-task", "rm", "-f", "m")
	})
}
