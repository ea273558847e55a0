// SPDX-License-Identifier: Apache-2.0

package scope

import (
	"errors"
	"os"
	"testing"

	"github.com/containerd/errdefs"
)

// test/systemd has the tests with a systemd that answers.
func TestNoSystemd(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
	if _, err := os.Lstat("/run/systemd/private"); err == nil {
		t.Skip("systemd runs here, which would make the scope")
	}
	if err := Start(t.Context(), Scope{Name: "ctrd-test.scope"}, os.Getpid()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if err := Stop(t.Context(), "ctrd-test.scope"); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
