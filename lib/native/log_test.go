// SPDX-License-Identifier: Apache-2.0

package native

import (
	"log/slog"
	"strings"
	"testing"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
)

// TestCallsAreLogged: when it is asked for, the log says who called what of what, and how that ended.
func TestCallsAreLogged(t *testing.T) {
	s := serve(t, Options{})
	s.Server.log = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	_, err := tasksapi.NewTasksClient(dial(t, s.path)).Start(in(t, "ns"), &tasksapi.StartRequest{ContainerID: "no-such"})
	if err == nil {
		t.Fatal("what is not there is started")
	}
	for _, want := range []string{"method=/containerd.services.tasks.v1.Tasks/Start", "namespace=ns", "id=no-such", "peer=", "error="} {
		if text := s.log.String(); !strings.Contains(text, want) {
			t.Errorf("the log has no %q: %s", want, text)
		}
	}
}
